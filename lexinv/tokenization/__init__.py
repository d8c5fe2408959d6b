"""How tokens are made: Markov sources, the tokenizers of the theory, unigram losses and their bounds."""
