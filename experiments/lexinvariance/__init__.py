"""What is left of a token when its identity is taken away?"""
