"""What needs no model: the harness on solvers with planted faults, and what tokenizers charge for different texts."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lexinv.data.corpora import Corpus
from lexinv.data.fertility import fertility
from lexinv.data.tokenizers import load_tokenizer
from lexinv.lexinvariance import haystack_scores, haystacks
from lexinv.lexinvariance.haystack_solvers import Solver, hop_error, middle_blind, perfect, window_limited
from lexinv.validation import require


@dataclass(frozen=True)
class SolverConfig:
    """Faults to plant, and haystacks of `step`, 2 `step`, ... `lengths` `step` pairs to find them on, with a needle at `depths` depths.

    window: in characters. error: per hop, on threads of `hops` links in the shortest haystack, `repeats` items for each.
    blind: share around the middle.
    """

    window: int = 16_000
    error: float = 0.1
    blind: float = 0.4
    step: int = 25
    lengths: int = 20
    depths: int = 41
    hops: tuple[int, ...] = (1, 2, 4, 8, 16, 25)
    repeats: int = 200

    def __post_init__(self):
        for field, least in (("step", 1), ("lengths", 1), ("depths", 2), ("repeats", 1)):
            value = getattr(self, field)
            require(value >= least, f"solvers.{field}", value, f"at least {least}")
        hops, field = self.hops, "solvers.hops"
        require(len(hops) > 0 and 1 <= min(hops) <= max(hops) <= self.step, field, hops, f"1 to step = {self.step}")


@dataclass(frozen=True)
class TokenizerConfig:
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
    characters: int = 100_000

    def __post_init__(self):
        pair = haystacks.PAIR_CHARACTERS
        require(self.characters >= pair, "tokenizers.characters", self.characters, f"at least the {pair} of a pair")
        subwords = [name for name, _ in self.tokenizers if name != "byte"]
        require(len(subwords) > 0, "tokenizers.tokenizers", self.tokenizers, "some besides `byte`, to compare")


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
    """Tokens per 80 characters, the size of a pair, of every tokenizer on every kind of text."""
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
    encoders = {label(name, corpus): load_tokenizer(name, corpora[corpus]).encode for name, corpus in config.tokenizers}
    return {
        tokenizer: {
            kind: haystacks.PAIR_CHARACTERS / fertility(encode, text).characters_per_token
            for kind, text in texts.items()
        }
        for tokenizer, encode in encoders.items()
    }


def label(tokenizer: str, corpus: str) -> str:
    """How a tokenizer is called in the results."""
    return tokenizer if tokenizer == "byte" else f"{tokenizer} {corpus}"
