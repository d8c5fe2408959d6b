"""What the unigram model of every tokenizer costs on a Markov source, and what is known exactly about it, in nats per character."""

from collections.abc import Callable, Sequence
from math import log
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from experiments.subjects.markov_sources import ALPHABET, SourceConfig, describe, texts
from lexinv.data.markov import (
    Kernel,
    check_kernel,
    mixing_time,
    negative_log_likelihood,
    order,
    random_kernel,
    smallest_probability,
)
from lexinv.tokenization.bounds import block_cross_entropy, lzw_bound
from lexinv.tokenization.library import train_unigram
from lexinv.tokenization.tokenizers import (
    Tokenizer,
    blocks,
    shortened,
    to_symbols,
    train_bpe,
    train_lzw,
    train_sequential_bpe,
)
from lexinv.tokenization.unigram import asymptotic_cross_entropy, cross_entropy
from lexinv.training.streams import stream

TEXTS = ("dictionary", "train", "test")


def facts(source: SourceConfig, sizes: Sequence[int]) -> dict[str, Any]:
    """What is exact: entropies in nats per character, the block formula, and the bound for LZW, None where there is none."""
    kernel = source.kernel
    delta = smallest_probability(kernel)
    return {
        "title": source.title,
        **source.entropies,
        "delta": delta,
        "mixing_time": mixing_time(kernel),
        "order": order(kernel),
        "block_formula": [block_cross_entropy(kernel, block_length(size, source.symbols)) for size in sizes],
        "lzw_bound": [lzw_bound(source.entropies["entropy_rate"], delta, size) for size in sizes],
    }


def block_length(size: int, symbols: int) -> int:
    """Characters in the longest blocks of which there are at most `size`."""
    return int(log(size) / log(symbols) + 1e-9)


def tokenizer_losses(
    kernel: Kernel, seed: int, sizes: Sequence[int], characters: int, unigram: tuple[Sequence[int], int]
) -> dict[str, list[float] | float]:
    """By tokenizer and size: loss on held-out text, exact loss of greedy ones, characters per token.

    unigram: the sizes of Unigram, which may reach fewer, and the characters that train it. own_loss: of the source itself on the held-out
    text; what lies below it is an error or luck.
    """
    symbols = kernel.shape[1]
    alphabet = ALPHABET[:symbols]
    found = texts(kernel, jax.random.key(seed), dict.fromkeys(TEXTS, characters))
    text = found["dictionary"]
    lzw, bpe = (train(text, sizes[-1], alphabet) for train in (train_lzw, train_bpe))
    few, beginning = unigram[0], text[: unigram[1]]
    makers: dict[str, Callable[[int], Tokenizer]] = {
        "blocks": lambda size: blocks(alphabet, block_length(size, symbols)),
        "lzw": lambda size: shortened(lzw, size),
        "bpe": lambda size: shortened(bpe, size),
        "sequential_bpe": lambda size: train_sequential_bpe(text, size, alphabet),
        "unigram": lambda size: train_unigram(beginning, size, alphabet, False, at_most=True),
    }
    result: dict[str, list[float] | float] = {}
    for kind, make in makers.items():
        tokenizers = [make(size) for size in (few if kind == "unigram" else sizes)]
        tests = [tokenizer.encode(found["test"]) for tokenizer in tokenizers]
        result[f"{kind}_loss"] = [
            cross_entropy(tokenizer.encode(found["train"]), test, tokenizer)
            for tokenizer, test in zip(tokenizers, tests, strict=True)
        ]
        result[f"{kind}_characters_per_token"] = [len(found["test"]) / len(test) for test in tests]
        if kind == "unigram":
            result["unigram_reached"] = [float(tokenizer.size) for tokenizer in tokenizers]
        if tokenizers[0].encoder == "greedy":
            result[f"{kind}_exact"] = [asymptotic_cross_entropy(tokenizer, kernel) for tokenizer in tokenizers]
    own = negative_log_likelihood(kernel, to_symbols(found["test"], alphabet))[order(kernel) :]
    return result | {"own_loss": float(own.mean())}


def first_order_losses(seed: int, count: int, size: int, characters: int) -> dict[str, list[float | None]]:
    """`count` random first-order binary sources, for which the theorems are stated, with dictionaries of `size`
    tokens: exact loss of LZW, loss of sequential BPE on held-out text, and the bounds."""

    def one(key: Key[Array, ""]) -> dict[str, Any]:
        kernel = check_kernel(np.asarray(random_kernel(stream(key, "kernel"), 1, 2), np.float64))
        found = texts(kernel, key, dict.fromkeys(TEXTS, characters))
        known, delta = describe(kernel), smallest_probability(kernel)
        lzw, bpe = (train(found["dictionary"], size, "01") for train in (train_lzw, train_sequential_bpe))
        return {
            **known,
            "delta": delta,
            "lzw": asymptotic_cross_entropy(lzw, kernel),
            "lzw_bound": lzw_bound(known["entropy_rate"], delta, size),
            "sequential_bpe": cross_entropy(bpe.encode(found["train"]), bpe.encode(found["test"]), bpe),
        }

    key = stream(jax.random.key(seed), "first-order sources")
    found = [one(jax.random.fold_in(key, number)) for number in range(count)]
    return {field: [each[field] for each in found] for field in found[0]}
