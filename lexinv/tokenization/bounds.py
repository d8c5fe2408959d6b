"""What the theorems of Rajaraman et al. 2024 promise of unigram models over tokens, in nats per character.

The text of the theorems could not be read where this was written. `block_cross_entropy` is derived here; the constant of the LZW bound
is [recalled] on the method card theory-of-tokenization and unverified. Of sequential BPE (theorem 4) experiments compare with what its
bound tends to, 2 H_inf: its exponents are [recalled] with low confidence and its constant is unknown.
"""

import math

from lexinv.data.markov import Kernel, block_entropy
from lexinv.validation import require


def block_cross_entropy(kernel: Kernel, length: int) -> float:
    """Theorem 2, exact: the best unigram loss over blocks of `length` characters is H(X_1 ... X_length) / length.

    Blocks of a stationary source are equally distributed, so the best unigram model has their law, and its loss their entropy. For order
    1 it is H_inf + (H(pi) - H_inf) / length; for the order-k switching process H_inf + k (H(pi) - H_inf) / length from length k on, and
    H(pi) up to there: blocks that are no longer than the memory gain nothing.
    """
    return block_entropy(kernel, length) / length


def lzw_bound(entropy_rate: float, delta: float, size: int) -> float | None:
    """Theorem 3: H_inf / (1 - eps) with eps = ln(1/delta) / (0.99 ln d), for LZW with d tokens and greedy encoding.

    It holds with high probability for a first-order source whose transition probabilities are all at least `delta`. None where eps >= 1:
    there is no bound until d > (1/delta)^(1/0.99), and it says something only where it is below H(pi). The constant 0.99 is [recalled],
    unverified.
    """
    require(0 < delta < 1, "delta", delta, "a probability between 0 and 1: the least transition probability")
    require(size >= 2, "size", size, "at least 2 tokens")
    epsilon = math.log(1 / delta) / math.log(size) / 0.99
    return entropy_rate / (1 - epsilon) if epsilon < 1 else None
