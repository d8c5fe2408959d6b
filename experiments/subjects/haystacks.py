"""Haystacks without a model: solvers with planted faults, and what tokenizers charge for different texts.

Roberts, Han and Albanie 2024 (arXiv 2411.05000); method card needle-threading, small reproduction 1 and 2.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lexinv.data.corpora import Corpus
from lexinv.data.fertility import fertility
from lexinv.data.tokenizers import folded_share, load_tokenizer
from lexinv.lexinvariance import haystack_scores, haystacks
from lexinv.lexinvariance.haystack_solvers import Solver, hop_error, middle_blind, perfect, window_limited
from lexinv.validation import Checked, Count, Counts, Share


@dataclass(frozen=True)
class SolverConfig(Checked):
    """Faults to plant, and haystacks of `step`, 2 `step`, ... `lengths` `step` pairs to find them on, with a needle at `depths` depths.

    window: in characters. error: per hop, on threads of `hops` links in the shortest haystack, `repeats` items for each.
    blind: share around the middle.
    """

    window: Count = 16_000
    error: Share = 0.1
    blind: Share = 0.4
    step: Count = 25
    lengths: Count = 20
    depths: Count = 41
    hops: Counts = (1, 2, 4, 8, 16, 25)
    repeats: Count = 200

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield self.depths >= 2, "depths", "at least 2"
        yield max(self.hops) <= self.step, "hops", f"1 to step = {self.step}"


@dataclass(frozen=True)
class TokenizerConfig(Checked):
    """tokenizers: each with the corpus on which it is trained. characters: of each kind of text, per seed."""

    prose: str = "python-docs"
    code: str = "python-stdlib"
    tokenizers: tuple[tuple[str, str], ...] = (
        ("byte", "python-docs"),
        ("bpe:512", "python-docs"),
        ("bpe:2048", "python-docs"),
        ("bpe:8192", "python-docs"),
        ("unigram:8192", "python-docs"),
        ("bpe:512", "python-stdlib"),
        ("bpe:2048", "python-stdlib"),
        ("bpe:8192", "python-stdlib"),
    )
    characters: Count = 100_000

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        pair = haystacks.PAIR_CHARACTERS
        yield self.characters >= pair, "characters", f"at least the {pair} of a pair"
        yield any(name != "byte" for name, _ in self.tokenizers), "tokenizers", "some besides `byte`, to compare"


def planted(config: SolverConfig, seed: int) -> dict[str, Any]:
    """Accuracies of the synthetic solvers: by depth and characters of the haystack, and by length of the thread."""
    sizes = [config.step * (index + 1) for index in range(config.lengths)]
    depths = np.linspace(0.0, 100.0, config.depths).tolist()
    rng = np.random.default_rng((seed, 0))
    grid = [[haystacks.single_needle(rng, size, depth) for size in sizes] for depth in depths]
    solvers: dict[str, Solver] = {
        "perfect": perfect,
        "window": window_limited(config.window),
        "middle": middle_blind(config.blind),
    }
    chains = [
        haystacks.repeats(
            lambda r, hops=hops: haystacks.threads(r, config.step, hops, 1, "random"), seed, config.repeats
        )
        for hops in config.hops
    ]
    forgetful = hop_error(config.error, seed)
    return {
        "characters": [item.context_length for item in grid[0]],
        "depths": depths,
        **{name: [haystack_scores.evaluate(solver, row) for row in grid] for name, solver in solvers.items()},
        "chains": [float(haystack_scores.evaluate(forgetful, items).mean()) for items in chains],
    }


def fertilities(config: TokenizerConfig, corpora: dict[str, Corpus], seed: int) -> dict[str, dict[str, float]]:
    """Tokens per 80 characters, the size of a pair, of every tokenizer on every kind of text. Raises `InvalidConfig` for lossy ones."""
    rng = np.random.default_rng((seed, 1))

    def excerpt(name: str) -> list[str]:
        documents = corpora[name].splits["test"]
        text = "\n".join(documents[int(index)] for index in rng.permutation(len(documents)))
        return [text[: config.characters]]

    texts = {
        "prose": excerpt(config.prose),
        "code": excerpt(config.code),
        "digits": ["".join(map(str, rng.integers(0, 10, config.characters)))],
        "UUIDs": [haystacks.single_needle(rng, config.characters // haystacks.PAIR_CHARACTERS, 0.0).haystack],
    }
    loaded = {label(name, corpus): load_tokenizer(name, corpora[corpus]) for name, corpus in config.tokenizers}
    for tokenizer in loaded.values():
        for kind, text in texts.items():
            folded_share(tokenizer, text, kind)  # refuses one that does not keep such a text
    return {
        tokenizer: {
            kind: haystacks.PAIR_CHARACTERS / fertility(chosen.encode, text).characters_per_token
            for kind, text in texts.items()
        }
        for tokenizer, chosen in loaded.items()
    }


def label(tokenizer: str, corpus: str) -> str:
    """How a tokenizer is called in the results."""
    return tokenizer if tokenizer == "byte" else f"{tokenizer} {corpus}"
