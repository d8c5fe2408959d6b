"""The Markov sources of the experiments on tokenization, and texts of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array, Key

from lexinv.data import markov
from lexinv.data.markov_sampling import stationary_text
from lexinv.tokenization.tokenizers import to_text
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Fraction

ALPHABET = "0123456789"


@dataclass(frozen=True)
class SourceConfig(Checked):
    """The switching process of this order, p and q; or, with more than two `symbols`, a random kernel of this order over so many."""

    order: Count = 2
    p: Fraction = 0.8
    q: Fraction = 0.8
    symbols: Count = 2

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield 2 <= self.symbols <= len(ALPHABET), "symbols", f"2 to {len(ALPHABET)}"
        most = markov.MOST_CONTEXTS // 4
        # The logarithm first: the power of a large order would fill the memory.
        few = self.order * np.log2(self.symbols) <= np.log2(most) + 1e-9
        yield bool(few), "order", f"from 1, with at most {most} contexts"

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
    def kernel(self) -> markov.Kernel:
        """The same in every run: a random kernel is drawn from key 0."""
        if self.symbols == 2:
            return markov.switching_kernel(self.order, self.p, self.q)
        drawn = markov.random_kernel(jax.random.key(0), self.order, self.symbols)
        return markov.check_kernel(np.asarray(drawn, np.float64))

    @property
    def entropies(self) -> dict[str, float]:
        """The entropy rate H_inf and H(pi) in nats per character."""
        return describe(self.kernel)


def describe(kernel: markov.Kernel) -> dict[str, float]:
    """The entropy rate and H(pi), between which a good tokenizer moves the loss, in nats per character."""
    return {"entropy_rate": markov.entropy_rate(kernel), "stationary_entropy": markov.block_entropy(kernel, 1)}


def texts(kernel: markov.Kernel, key: Key[Array, ""], lengths: Mapping[str, int]) -> dict[str, str]:
    """Independent stationary texts of a source over the first characters of `ALPHABET`, one for each name."""
    return {
        name: to_text(stationary_text(stream(key, name), kernel, length), ALPHABET) for name, length in lengths.items()
    }
