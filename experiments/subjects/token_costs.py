"""What tokenizers charge for different texts, haystacks among them.

Roberts, Han and Albanie 2024 (arXiv 2411.05000); method card needle-threading, small reproduction 2.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lexinv.data.corpora import Corpus
from lexinv.data.fertility import fertility
from lexinv.data.tokenizers import Tokenizer, folded_share, load_tokenizer
from lexinv.lexinvariance import haystacks
from lexinv.validation import Checked, Count


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


def fertilities(
    config: TokenizerConfig, corpora: dict[str, Corpus], seed: int, published: dict[str, Tokenizer]
) -> dict[str, dict[str, float]]:
    """Tokens per 80 characters, the size of a pair, of every tokenizer on every kind of text. Raises `InvalidConfig` for lossy ones.

    published: by name tokenizers beside those of the configuration.
    """
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
    loaded = {
        label(name, corpus): load_tokenizer(name, corpora[corpus]) for name, corpus in config.tokenizers
    } | published
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
