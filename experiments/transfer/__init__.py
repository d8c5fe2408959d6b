"""What is left of a model under another vocabulary?"""
