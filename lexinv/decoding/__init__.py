"""How the next token is drawn: under constraints, faster, and measured."""
