"""Reproductions on sparse autoencoders."""
