"""Corpora, tokenizers of language models, windows and batches."""
