"""The Markov sources of the experiments on tokenization, and the paper that most of them reproduce."""

from dataclasses import dataclass

import jax
import numpy as np

from lexinv.tokenization import sources
from lexinv.validation import require

PAPER = """@inproceedings{rajaraman2024analysis,
  title = {An Analysis of Tokenization: {T}ransformers under {M}arkov Data},
  author = {Rajaraman, Nived and Jiao, Jiantao and Ramchandran, Kannan},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2024},
  eprint = {2404.08335},
  archiveprefix = {arXiv}
}"""
ALPHABET = "0123456789"


@dataclass(frozen=True)
class SourceConfig:
    """The switching process of this order, p and q; or, with more than two `symbols`, a random kernel of this order over so many."""

    order: int = 2
    p: float = 0.8
    q: float = 0.8
    symbols: int = 2

    def __post_init__(self):
        require(2 <= self.symbols <= len(ALPHABET), "source.symbols", self.symbols, f"2 to {len(ALPHABET)}")
        if self.symbols == 2:
            sources.switching_kernel(self.order, self.p, self.q)
        contexts, most = self.symbols**self.order, sources.MOST_CONTEXTS // 4
        require(
            self.order >= 1 and contexts <= most, "source.order", self.order, f"from 1, with at most {most} contexts"
        )

    @property
    def name(self) -> str:
        """A name for a folder."""
        return f"k{self.order}-S{self.symbols}" if self.symbols > 2 else f"k{self.order}-p{self.p}-q{self.q}"

    @property
    def title(self) -> str:
        """A name for a reader."""
        if self.symbols > 2:
            return f"random, k = {self.order}, {self.symbols} symbols"
        return f"switching, k = {self.order}, p = {self.p:g}, q = {self.q:g}"

    @property
    def kernel(self) -> sources.Kernel:
        """The same in every run: a random kernel is drawn from key 0."""
        if self.symbols == 2:
            return sources.switching_kernel(self.order, self.p, self.q)
        drawn = sources.random_kernel(jax.random.key(0), self.order, self.symbols)
        return sources.check_kernel(np.asarray(drawn, np.float64))

    @property
    def entropies(self) -> dict[str, float]:
        """The entropy rate H_inf and H(pi) in nats per character."""
        return describe(self.kernel)


def describe(kernel: sources.Kernel) -> dict[str, float]:
    """The entropy rate and H(pi), between which a good tokenizer moves the loss, in nats per character."""
    return {"entropy_rate": sources.entropy_rate(kernel), "stationary_entropy": sources.block_entropy(kernel, 1)}
