"""Reproductions of the theory of tokenization."""
