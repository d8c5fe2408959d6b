"""What is a token that is not text?"""
