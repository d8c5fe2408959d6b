"""How many tokens are needed: merging and pruning in Transformers, every method behind one plan of static size."""
