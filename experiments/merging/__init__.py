"""Reproductions on merging and pruning of tokens."""
