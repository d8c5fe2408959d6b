"""The exact lexinvariant model of a Markov source converges to it, at a total cost of at most ln d! nats.

Huang et al. 2023 (arXiv 2305.16349), the construction of a lexinvariant model from any language model and its convergence; method card
lexinvariant-lm, experiment A. Texts of random Markov sources, enciphered by a random key, are predicted by the Bayesian decipherer that
knows the source and enumerates all d! keys. Nothing is trained.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key
from matplotlib.figure import Figure

from experiments.harness.curves import significant
from experiments.harness.presets import presets
from experiments.harness.style import PALETTE, band, panels, styled
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from lexinv.data.markov_first_order import dirichlet_source, encipher, predictions, sample_tokens
from lexinv.lexinvariance.bayes import (
    LARGEST_VOCABULARY,
    bayes_decipher,
    key_accuracy,
    l1_bound,
    regret_bound,
    sequences_at_once,
)
from lexinv.precision import double_precision
from lexinv.randomness import threefry
from lexinv.validation import Checked, Count, Counts, Distinct, Seeds

PAPERS = ("huang2023lexinvariant",)
THEOREM = "huang2023lexinvariant: abstract"

ROUNDING = 1e-9
"""Nats by which rounding in float64 may lift a regret that attains its bound: it was 3e-12 for the worst text of length 256."""
FAR = 0.1
"""L1 distance beyond which two predictions count as far apart."""
DECIPHERED = 128
"""Symbols after which the key is judged (all of a shorter text)."""


@dataclass(frozen=True)
class Config(Checked):
    """For every vocabulary and concentration: `sequences` texts a seed, each of its own source and key.

    `adversarial` more, which that source has not produced (the text of another one, or one symbol only), are for the regret alone.
    """

    vocabularies: Counts = (4, 6, 7, 8)
    concentrations: Distinct[float] = (0.3, 1.0, 3.0)
    length: Count = 256
    sequences: Count = 16
    adversarial: Count = 4
    seeds: Seeds = (0, 1, 2, 3, 4)

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        sizes = min(self.vocabularies) >= 2 and max(self.vocabularies) <= LARGEST_VOCABULARY
        yield sizes, "vocabularies", f"sizes from 2 to {LARGEST_VOCABULARY}"
        possible = min(self.concentrations) >= 0.05 and max(self.concentrations) <= 1e3
        yield possible, "concentrations", "numbers from 0.05 to 1000"
        yield self.length >= 16, "length", "at least 16 symbols, for the slope"


PRESETS = presets(
    Config(),
    smoke={
        "vocabularies": (3, 5),
        "concentrations": (0.3, 3.0),
        "length": 64,
        "sequences": 8,
        "seeds": (0, 1, 2),
    },
    paper={"vocabularies": (3, 4, 5, 6, 7, 8), "length": 1024, "sequences": 64, "adversarial": 16},
)


class Measurement(NamedTuple):
    """One text, at every position."""

    l1: Float[Array, " time"]
    """Between the predictions of the source (which is given the key) and of the decipherer."""
    regret: Float[Array, " time"]
    """Nats that the decipherer has lost to the source so far."""
    symbols: Int[Array, " time"]
    """Distinct symbols so far."""
    accuracy: Float[Array, " time"]
    """Share of them whose most probable meaning is the true one."""


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Decipher all texts of all settings; a setting is a stage of the workspace."""
    from rich.progress import track

    times = np.unique([*np.geomspace(1, config.length, 48).round().astype(int), min(DECIPHERED, config.length)])
    settings = [(vocab, concentration) for vocab in config.vocabularies for concentration in config.concentrations]
    done = [
        workspace.cached(f"vocabulary-{pair[0]}-concentration-{pair[1]}", partial(decipher, config, *pair, times))
        for pair in track(settings, "deciphering", disable=not workspace.progress)
    ]
    return {"seeds": config.seeds, "corpora": {}, "times": times, "settings": done}


def decipher(config: Config, vocab: int, concentration: float, times: np.ndarray) -> dict[str, Any]:
    """Means over the texts of each seed [seeds, ...]; largest excess of any regret over its bound."""
    with double_precision():
        rngs = threefry(jnp.stack([jax.random.key(seed) for seed in config.seeds]))
        count = (config.sequences, config.adversarial)
        measured = Measurement(*map(np.asarray, measure(rngs, vocab, concentration, config.length, *count)))
    excess = (measured.regret - regret_bound(vocab, measured.symbols)).max((0, 2))
    mean = Measurement(*(values[:, : config.sequences].mean(1) for values in measured))
    far = (measured.l1[:, : config.sequences] > FAR).sum(2).mean(1)
    return {
        "vocabulary": vocab,
        "concentration": concentration,
        "excess": float(excess[: config.sequences].max()),
        "adversarial_excess": float(excess[config.sequences :].max()),
        "far": significant(far),
        "l1": significant(mean.l1),
        "regret": significant(mean.regret[:, times - 1]),
        "accuracy": significant(mean.accuracy[:, times - 1]),
    }


@partial(jax.jit, static_argnames=("vocab", "length", "sequences", "adversarial"))
def measure(
    rngs: Key[Array, " seeds"],
    vocab: int,
    concentration: float | Float[Array, ""],
    length: int,
    sequences: int,
    adversarial: int,
) -> Measurement:
    """Measurements [seeds, texts, time] of `sequences` texts of sources and `adversarial` others a seed."""
    texts = sequences + adversarial

    def draw(rng):
        source_rng, key_rng, text_rng = jax.random.split(rng, 3)
        source = dirichlet_source(source_rng, vocab, concentration)
        key = jnp.argsort(jax.random.uniform(key_rng, (vocab,))).astype(jnp.int32)
        return source, key, sample_tokens(text_rng, encipher(source, key), length)

    def judge(inputs):
        source, key, tokens = inputs
        belief, truth = bayes_decipher(source, tokens), predictions(encipher(source, key), tokens)
        lost = jnp.take_along_axis(truth - belief.log_probs, tokens[:, None], -1)[:, 0]
        counts = jax.nn.one_hot(tokens, vocab, dtype=lost.dtype).cumsum(0)
        decoded = belief.key_posterior.argmax(-1)
        return Measurement(
            l1=jnp.abs(jnp.exp(truth) - jnp.exp(belief.log_probs)).sum(-1),
            regret=lost.cumsum(),
            symbols=(counts > 0).sum(-1),
            accuracy=jax.vmap(key_accuracy, (0, None, 0))(decoded, key.astype(decoded.dtype), counts).symbols,
        )

    source, key, tokens = jax.vmap(draw)(jax.vmap(lambda rng: jax.random.split(rng, texts))(rngs).reshape(-1))
    index = jnp.tile(jnp.arange(texts), len(rngs))[:, None]
    foreign = jnp.where(index % 2 == 0, jnp.roll(tokens, 1, axis=0), tokens[:, :1])
    tokens = jnp.where(index < sequences, tokens, foreign)
    measured = jax.lax.map(judge, (source, key, tokens), batch_size=sequences_at_once(vocab))
    return jax.tree.map(lambda leaf: leaf.reshape(len(rngs), texts, length), measured)


def running_mean(values: Any) -> np.ndarray:
    """Mean over the first t positions, t = 1, 2, ... along the last axis."""
    return np.cumsum(values, -1) / np.arange(1, np.shape(values)[-1] + 1)


def share_of_bound(setting: dict[str, Any]) -> np.ndarray:
    """For each seed the largest ratio of the L1 distance to `l1_bound`, at single positions and averaged up to them."""
    l1 = np.asarray(setting["l1"])
    times = np.arange(1, l1.shape[1] + 1)
    bound = l1_bound(setting["vocabulary"], times)
    return np.maximum((l1[:, 1:] / bound[:-1]).max(1), (running_mean(l1) / bound).max(1))


def share_of_log_factorial(setting: dict[str, Any]) -> np.ndarray:
    """For each seed the mean regret at the end of the texts as a share of ln d!."""
    return np.asarray(setting["regret"])[:, -1] / regret_bound(setting["vocabulary"], setting["vocabulary"])


def slope(setting: dict[str, Any]) -> np.ndarray:
    """For each seed the exponent of t in the L1 distance averaged over the first t positions, fitted to the last seven eighths of them."""
    mean = running_mean(setting["l1"])
    times = np.arange(mean.shape[1] // 8, mean.shape[1] + 1)
    return np.polyfit(np.log(times), np.log(mean[:, times - 1]).T, 1)[0]


def claims(results: dict[str, Any]) -> list[Claim]:
    """The bounds, which no text may break, and what the method card expects of random sources; each in every setting."""
    settings, times = results["settings"], np.asarray(results["times"])
    at = int(np.searchsorted(times, min(DECIPHERED, times[-1])))

    def each(of: Callable[[dict[str, Any]], Any], among: list[dict[str, Any]] = settings) -> dict[str, Any]:
        return {f"d = {s['vocabulary']}, Dirichlet {s['concentration']:g}": of(s) for s in among}

    def deciphered(name: str, share: float, among: list[dict[str, Any]]) -> list[Claim]:
        statement = (
            f"After {times[at]} symbols the most probable meaning is right for at least {share} of those that occurred"
        )
        kinds = " and ".join(f"{concentration:g}" for concentration in sorted({s["concentration"] for s in among}))
        found = each(lambda s: np.asarray(s["accuracy"])[:, at], among)
        named = f"{statement}, for sources of Dirichlet concentration {kinds}."
        return [Claim(name, named, OURS, found, above(share), "share of the symbols")] if among else []

    return [
        Claim(
            "regret_below_log_factorial",
            "On no text, drawn from the source or not, has the lexinvariant model at any position lost more than ln(d!/(d-m)!) nats to the "
            "source, m being the distinct symbols so far.",
            THEOREM,
            each(lambda s: max(s["excess"], s["adversarial_excess"])),
            below(ROUNDING),
            "largest excess over the bound in nats",
        ),
        Claim(
            "l1_below_bound",
            "The mean L1 distance to the source's predictions is below sqrt(2 ln d! / t), averaged over the first t positions and at the "
            "position after t symbols, for every t.",
            THEOREM,
            each(share_of_bound),
            below(1),
            "largest ratio to the bound, which is derived in the method card",
            "O((d/T)^(1/4))",
        ),
        Claim(
            "l1_falls_faster_than_published_rate",
            "The L1 distance averaged over the first t positions falls as a steeper power of t than the published rate.",
            THEOREM,
            each(slope),
            below(-0.25),
            "fitted exponent",
            -0.25,
        ),
        Claim(
            "l1_falls_faster_than_bound",
            "It falls as a steeper power of t than sqrt(2 ln d! / t) too.",
            OURS,
            each(slope),
            below(-0.5),
            "fitted exponent",
        ),
        Claim(
            "regret_approaches_log_factorial",
            "The bound is tight: by the end of the text the mean regret has reached nine tenths of ln d!.",
            OURS,
            each(share_of_log_factorial),
            above(0.9),
            "share of ln d!",
        ),
        Claim(
            "few_positions_far_from_source",
            f"At no more than a few dozen positions of a text is the L1 distance above {FAR}, where the bound allows 200 ln d!.",
            OURS,
            each(lambda s: np.asarray(s["far"])),
            below(48),
            "positions",
        ),
        *deciphered("key_deciphered", 0.99, [s for s in settings if s["concentration"] <= 1]),
        *deciphered("key_of_nearly_uniform_source_deciphered", 0.9, [s for s in settings if s["concentration"] > 1]),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """L1 distance, regret and key accuracy against position: a column for each concentration, a colour for each vocabulary."""
    times, settings = np.asarray(results["times"]), results["settings"]
    concentrations = sorted({s["concentration"] for s in settings})
    vocabularies = sorted({s["vocabulary"] for s in settings})
    titles = [f"Dirichlet {concentration:g}" for concentration in concentrations]
    drawn, axes = panels(3, len(concentrations), width=3.3, height=2.5, titles=titles)
    grid = np.reshape(np.asarray(axes, dtype=object), (3, -1))
    with styled():
        for s in settings:
            column, color = concentrations.index(s["concentration"]), PALETTE[vocabularies.index(s["vocabulary"])]
            distance, regret, accuracy = grid[:, column]
            vocab, mean = s["vocabulary"], running_mean(s["l1"])[:, times - 1]
            band(distance, times, mean, f"$d = {vocab}$, slope ${slope(s).mean():.2f}$", color)
            distance.plot(times, l1_bound(vocab, times), color=color, linestyle="--", linewidth=1.0)
            band(regret, times, s["regret"], f"$d = {vocab}$", color)
            regret.axhline(float(regret_bound(vocab, vocab)), color=color, linestyle="--", linewidth=1.0)
            band(accuracy, times, s["accuracy"], f"$d = {vocab}$", color)
        for distance, regret, accuracy in grid.T:
            distance.set(yscale="log", ylim=(3e-3, 4))
            regret.set(ylim=(0, 1.08 * float(regret_bound(vocabularies[-1], vocabularies[-1]))))
            accuracy.set(ylim=(0, 1.03), xlabel="position $t$ in the text")
            distance.legend(loc="lower left")
        for panel in axes:
            panel.set(xscale="log", xlim=(1, times[-1]))
        grid[0, 0].set_ylabel("$L_1$ distance, mean over\nthe first $t$ positions")
        grid[1, 0].set_ylabel("regret (nats)")
        grid[2, 0].set_ylabel("symbols deciphered")
        note = {"xycoords": "axes fraction", "va": "top", "fontsize": 8}
        grid[0, -1].annotate(r"dashed: $\sqrt{2\,\ln d!\,/\,t}$", (0.97, 0.95), ha="right", **note)
        grid[1, -1].annotate(r"dashed: $\ln d!$", (0.03, 0.86), **note)
    return drawn
