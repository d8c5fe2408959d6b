"""What the theorems of Rajaraman et al. 2024 promise of unigram models over tokens, in nats per character.

The text of the theorems could not be read where this was written. `block_cross_entropy` is derived here; the constants of the LZW and BPE
bounds are [recalled] on the method card theory-of-tokenization and unverified.
"""

import math

from lexinv.data.markov import Kernel, block_entropy, entropy_rate, order
from lexinv.validation import require


def block_cross_entropy(kernel: Kernel, length: int) -> float:
    """Theorem 2, exact: the best unigram loss over blocks of `length` characters is H(X_1 ... X_length) / length.

    Blocks of a stationary source are equally distributed, so the best unigram model has their law, and its loss their entropy. For order
    1 it is H_inf + (H(pi) - H_inf) / length; for the order-k switching process H_inf + k (H(pi) - H_inf) / length from length k on, and
    H(pi) up to there: blocks that are no longer than the memory gain nothing.
    """
    return block_entropy(kernel, length) / length


def block_length_for(kernel: Kernel, excess: float) -> int:
    """The least block length whose best unigram loss is within `excess` (relative) of the entropy rate; its dictionary has |A|^length.

    Up to the order k by trying; beyond, the loss is H_inf + (H(X_1 ... X_k) - k H_inf) / length.
    """
    require(excess > 0, "excess", excess, "a positive share of the entropy rate")
    rate, k = entropy_rate(kernel), order(kernel)
    for length in range(1, k):
        if block_cross_entropy(kernel, length) <= (1 + excess) * rate:
            return length
    return max(k, math.ceil((block_entropy(kernel, k) - k * rate) / (excess * rate) - 1e-9))


def lzw_bound(entropy_rate: float, delta: float, size: int) -> float | None:
    """Theorem 3: H_inf / (1 - eps) with eps = ln(1/delta) / (0.99 ln d), for LZW with d tokens and greedy encoding.

    It holds with high probability for a first-order source whose transition probabilities are all at least `delta`. None where eps >= 1:
    there is no bound until d > (1/delta)^(1/0.99), and it says something only where it is below H(pi). The constant 0.99 is [recalled],
    unverified.
    """
    epsilon = _ratio(delta, size) / 0.99
    return entropy_rate / (1 - epsilon) if epsilon < 1 else None


def bpe_bound(entropy_rate: float, delta: float, size: int, constant: float = 1.0) -> float:
    """Theorem 4: (2 + eps) H_inf for sequential BPE with d tokens, where eps = constant * ln(1/eps) ln^3(1/delta) / (eps^9 ln d).

    It holds with high probability for a first-order source whose transition probabilities are all at least `delta`, and says something
    only where it is below H(pi).
    The right side falls as eps rises, and meets it once, between 0 and 1: the bound lies between 2 and 3 times H_inf. The exponents are
    [recalled] with low confidence and the constant, which the paper hides in O(.), is unknown: a measurement is compared with what the
    bound tends to, 2 H_inf, and with this for scale.
    """
    scale = constant * _ratio(delta, size) ** 3 * math.log(size) ** 2  # ln^3(1/delta) / ln d
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        enough = scale * math.log(1 / middle) <= middle**10
        low, high = (low, middle) if enough else (middle, high)
    return (2 + high) * entropy_rate


def estimation_cost(size: int, tokens: int, length: float) -> float:
    """Cost of estimating d probabilities from n tokens of mean `length`, to first order: d / (2 n) nats per token, here per character."""
    require(tokens > 0, "tokens", tokens, "at least 1")
    return size / (2 * tokens * length)


def _ratio(delta: float, size: int) -> float:
    require(0 < delta < 1, "delta", delta, "a probability between 0 and 1: the least transition probability")
    require(size >= 2, "size", size, "at least 2 tokens")
    return math.log(1 / delta) / math.log(size)
