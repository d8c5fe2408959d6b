"""What is inside a token?"""
