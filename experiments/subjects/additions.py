"""Small language models of additions, each with the tokens of a published tokenizer, and how many sums they get right."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import jax
import numpy as np
from jaxtyping import Array, Float, Int32

from experiments.harness.assets import asset
from experiments.harness.training import Training
from experiments.harness.workspace import Workspace
from experiments.subjects.language_models import train_seeds
from experiments.subjects.text import STANDARD
from experiments.subjects.vocabulary_transfers import restrict, windows_of
from lexinv.data.published_tokenizers import PUBLISHED_TOKENIZERS, load_published_tokenizer
from lexinv.data.tokenizers import Tokenizer
from lexinv.data.windows import Windows
from lexinv.nn.language_model import Params, make_logits
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import Checked, Count

THINGS = (
    "apples pears lemons cherries walnuts turnips rutabagas artichokes marmalades tangerines spoons kettles teapots saucers napkins "
    "lanterns candles buckets ladders hammers chisels anvils bellows wheelbarrows pitchforks haystacks tortoises hedgehogs weasels "
    "badgers otters herons sparrows magpies nightingales grasshoppers ladybirds earwigs snails trout pebbles boulders seashells "
    "driftwood umbrellas galoshes waistcoats cufflinks thimbles bobbins harmonicas bassoons trombones tambourines postcards envelopes "
    "inkwells parchments sextants barometers"
).split()
"""Common and rare: tokenizers cut them differently."""


@dataclass(frozen=True)
class AdditionsConfig(Checked):
    """Of two numbers below `below`; no pair of numbers that is tested, or chooses settings, is among the `texts` that models learn from.

    tested, tuning: pairs, each in one text.
    """

    below: Count = 100
    texts: Count = 40_000
    tested: Count = 1000
    tuning: Count = 250
    model: TransformerConfig = TransformerConfig(depth=2, width=64, heads=4, mlp_width=256, unroll=2, output="tied")
    training: Training = Training(
        steps=1500,
        batch_size=128,
        seeds=(0, 1, 2),
        optimizer=OptimizerConfig("muon", learning_rate=2e-2, warmup_steps=50),
        steps_per_dispatch=10,
    )

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        pairs = self.below**2
        yield self.tested + self.tuning < pairs, "tested", f"with tuning fewer than the {pairs} pairs"


def additions(config: AdditionsConfig) -> dict[str, list[str]]:
    """Texts such as "q. turnips: 12+34=46." by their use: "train", "tuning", "test"."""
    random = np.random.default_rng(0)
    pairs = random.permutation(config.below**2)
    tested, tuning, seen = np.split(pairs, np.cumsum([config.tested, config.tuning]))

    def texts(chosen: np.ndarray) -> list[str]:
        letters, things = (random.integers(count, size=len(chosen)) for count in (26, len(THINGS)))
        first, second = np.divmod(chosen, config.below)
        return [
            f"{chr(ord('a') + letter)}. {THINGS[thing]}: {a}+{b}={a + b}."
            for letter, thing, a, b in zip(letters, things, first, second, strict=True)
        ]

    return {
        "train": texts(random.choice(seen, config.texts)),
        "tuning": texts(tuning),
        "test": texts(tested),
    }


@dataclass(frozen=True, eq=False)
class Adders:
    """Models of one tokenizer, which has only the ids that some text uses. params: a tree for each seed."""

    tokenizer: Tokenizer
    params: list[Params]


def adders(
    names: Sequence[str], texts: dict[str, list[str]], config: AdditionsConfig, workspace: Workspace
) -> dict[str, Adders]:
    """Trained on every token of the texts, by name of `PUBLISHED_TOKENIZERS`."""
    found = {}
    for name in names:
        asset(PUBLISHED_TOKENIZERS[name][0], workspace)
        whole = load_published_tokenizer(name)
        used = [whole.encode(text) for part in texts.values() for text in part]
        tokenizer = restrict(whole, np.unique(np.concatenate(used)))
        windows = _windows(windows_of(tokenizer, texts["train"]))
        size = tokenizer.vocab_size
        params = train_seeds(name, config.model, STANDARD, size, windows, config.training, workspace)
        found[name] = Adders(tokenizer, params)
    return found


def _windows(rows: Int32[np.ndarray, "texts time"]) -> Windows:
    stops = np.cumsum((rows >= 0).sum(1))
    starts = np.insert(stops[:-1], 0, 0)
    return Windows(rows[rows >= 0].astype(np.uint16), starts, stops, rows.shape[1])


@cache
def _reader(model: TransformerConfig, vocab: int) -> Callable[..., Float[Array, "batch time vocab"]]:
    return jax.jit(make_logits(model, STANDARD, vocab))


def accuracy(model: TransformerConfig, params: Params, tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """Share of texts whose tokens after "=", the full stop included, are all the likeliest given those before them."""
    windows = windows_of(tokenizer, texts)
    batch = {"tokens": windows, "row": np.arange(len(windows), dtype=np.int32)}
    likeliest = np.asarray(_reader(model, tokenizer.vocab_size)(params, batch, jax.random.key(0))).argmax(-1)
    equals = windows == tokenizer.pieces.index(b"=")
    asked = (np.cumsum(equals, axis=1) > 0) & ~equals & (windows >= 0)
    return float(((likeliest == windows) | ~asked).all(axis=1).mean())
