"""How many tokens are needed?"""
