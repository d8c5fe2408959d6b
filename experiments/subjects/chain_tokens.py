"""A Markov chain's strings of one length as texts, and the exact language model of their tokens: every sum is over all strings."""

from collections import Counter
from collections.abc import Sequence
from itertools import product

import numpy as np
from jaxtyping import Float

from lexinv.data.bpe import Merges, apply_merges
from lexinv.data.byte_level import ByteLevelBPE
from lexinv.tokenization.byte_pairs import BytePairs
from lexinv.tokenization.byte_probabilities import Context, LogProbs
from lexinv.tokenization.superbpe import NOWHERE


def chain_tokens(
    letters: bytes,
    initial: Float[np.ndarray, " letters"],
    kernel: Float[np.ndarray, "letters letters"],
    merges: Merges,
    length: int,
) -> tuple[BytePairs, LogProbs, dict[bytes, float]]:
    """(tokenizer, model, probability of every beginning of a text). A text has `length` letters, and then it ends."""
    strings = np.array(list(product(range(len(letters)), repeat=length)), np.int32)
    chances = initial[strings[:, 0]] * kernel[strings[:, :-1], strings[:, 1:]].prod(axis=1)
    texts = np.frombuffer(letters, np.uint8)[strings]
    beginnings: Counter[bytes] = Counter()
    for text, chance in zip(map(bytes, texts), chances.tolist(), strict=True):
        for end in range(length + 1):
            beginnings[text[:end]] += chance
    apart = np.concatenate([texts, np.zeros((len(texts), 1), np.uint8)], axis=1).ravel()
    tokens = 1 + apply_merges(apart.astype(np.int32), merges, 256)  # 0 is the separator
    mass: Counter[Context] = Counter()
    for row, chance in zip(np.split(tokens, np.flatnonzero(tokens == 1) + 1), chances.tolist(), strict=False):
        ids = (*row[:-1].tolist(), 0)
        for end in range(len(ids) + 1):
            mass[ids[:end]] += chance
    tokenizer = ByteLevelBPE("chain", merges, NOWHERE).tokenizer()
    following: dict[Context, list[int]] = {}
    for context in mass:
        following.setdefault(context[:-1], []).append(context[-1]) if context else None

    def log_probs(contexts: Sequence[Context]) -> Float[np.ndarray, "contexts vocab"]:
        found = np.full((len(contexts), tokenizer.vocab_size), -np.inf)
        for row, context in zip(found, contexts, strict=True):
            for token in following.get(context, ()):
                row[token] = np.log(mass[(*context, token)] / mass[context])
        return found

    return BytePairs(tokenizer, NOWHERE, merges), log_probs, dict(beginnings)
