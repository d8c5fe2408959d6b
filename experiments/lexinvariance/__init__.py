"""Lexinvariance: what is left of a token without its identity."""
