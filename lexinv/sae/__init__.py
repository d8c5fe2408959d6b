"""What is inside a token: sparse autoencoders as the allocation of a budget of token-feature matches."""
