"""How else can a sequence of tokens be read?"""
