"""How is the next token drawn?"""
