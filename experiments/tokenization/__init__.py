"""How is a token made, and what does it change?"""
