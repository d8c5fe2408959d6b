"""Sequences of tokens read in other ways than from left to right by one Transformer."""
