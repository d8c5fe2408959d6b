"""Tokens that are not text: continuous latents of images and sounds as codes, and how codes and latents are predicted."""
