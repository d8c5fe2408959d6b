"""Noisy targets: a loss that matches n-grams wherever they stand learns the clean translation, where cross-entropy learns the noise.

Liu et al. 2022 (arXiv 2106.15078); method card edit-invariant-sequence-loss. A model that writes all positions at once learns a permutation
of symbols from targets of which a share is corrupted, and is judged on clean ones. Every loss goes on from the same cross-entropy warm
start, and gets six settings of its own on a seed outside of the record: learning rates and strengths. Beside the paper's loss stands the
expected number of matches itself, which here is exact.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms
from experiments.harness.figures import lines
from experiments.harness.presets import presets
from experiments.harness.style import panels
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.noisy_training import NoisyTraining, tuned_arms
from experiments.subjects.noisy_translation import GRAMS, NOISES
from lexinv.decoding.edit_invariant import edit_invariant_loss
from lexinv.decoding.policy_gradient import overlap_reward, policy_gradient_loss
from lexinv.training.streams import stream
from lexinv.validation import Count

PAPERS = ("liu2022dont",)
LOSSES = {
    "ce": "cross-entropy",
    "smoothing": "labels smoothed",
    "truncated": "worst tokens dropped",
    "pg": "policy gradient",
    "eisl": "EISL",
    "exact": "exact expected matches",
}
RATES = (1e-3, 3e-3, 8e-3)
SETTINGS = {
    "ce": tuple((rate, 0.0) for rate in (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)),
    "smoothing": tuple((rate, share) for share in (0.1, 0.3) for rate in RATES),
    "truncated": tuple((rate, share) for share in (0.1, 0.3) for rate in RATES),
    "pg": tuple((rate, weight) for weight in (0.1, 1.0) for rate in RATES),
    "eisl": tuple((rate, weight) for weight in (0.03, 0.1) for rate in RATES),
    "exact": tuple((rate, weight) for weight in (0.03, 0.1) for rate in RATES),
}
"""Six of each loss: (learning rate, strength). The strength is the share that smoothing gives to all tokens alike, the share of tokens that
are dropped, or the weight of cross-entropy beside what the loss is named after."""
TABLE = "liu2022dont: released results on Multi30k"
BIGRAMS = {
    "shift": (
        "shift",
        "Of targets with junk in front, EISL learns more of the clean bigrams than cross-entropy.",
        above(0.15),
        "not among the paper's noises",
    ),
    "repetition": (
        "repetition",
        "Of targets with words twice, EISL learns more of the clean bigrams than cross-entropy.",
        above(0.15),
        "chrF 57.9 against 44.3, autoregressive, half of the words twice",
    ),
    "shuffle_loses": (
        "shuffle",
        "Of targets with neighbours swapped it learns fewer: bigrams without places do not say what stands where.",
        below(0),
        "the opposite: chrF 52.7 against 40.2, autoregressive, words shuffled within ten places",
    ),
}
"""Claims on bigrams with all targets corrupted: noise, statement, rule, published."""


@dataclass(frozen=True)
class Config(NoisyTraining):
    """n: of the n-grams that are matched."""

    n: Count = 2

    def checks(self):
        yield from super().checks()
        yield self.n <= self.task.length, "n", f"at most the length of a target, {self.task.length}"


PRESETS = presets(
    Config(),
    smoke={
        "task.symbols": 6,
        "task.length": 4,
        "task.width": 16,
        "warm_steps": 10,
        "steps": 10,
        "batch_size": 8,
        "levels": (1.0,),
        "tests": 16,
        "seeds": (0, 1),
    },
    quick={"seeds": (0, 1, 2)},
    paper={
        "task.symbols": 1000,
        "task.length": 24,
        "task.depth": 6,
        "task.width": 512,
        "warm_steps": 10_000,
        "steps": 20_000,
        "learning_rate": 3e-4,
        "levels": (0.1, 0.25, 0.5, 0.75, 1.0),
        "tests": 1000,
        "seeds": tuple(range(5)),
    },
)
"""The paper has a pretrained model and Multi30k: `paper` is this experiment at a size for an accelerator."""


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By arm `loss/noise/level` and seed what `Translation.translated` measures; by loss the settings that were tried, with BLEU."""
    return tuned_arms("noisy_references", config, SETTINGS, partial(losses, config), workspace)


def losses(
    config: Config, params: Any, source: jax.Array, targets: jax.Array, strength: jax.Array, key: jax.Array
) -> dict[str, jax.Array]:
    """Every loss of a batch of sources and targets [rows, slots]."""
    log_probs, there = config.task.log_probs(params, source), config.task.there
    mask = there(targets)
    nats = -jnp.take_along_axis(log_probs, targets[..., None], axis=2)[..., 0]
    plain = jnp.mean(nats)
    kept = jax.lax.stop_gradient(nats <= jnp.quantile(nats, 1 - strength))
    greedy = jnp.argmax(log_probs, axis=2)
    drawn = jnp.argmax(log_probs + jax.random.gumbel(stream(key, "text"), log_probs.shape), axis=2)

    def reward(texts: jax.Array) -> jax.Array:
        return jnp.mean(jnp.stack([overlap_reward(texts, there(texts), targets, mask, n) for n in (1, 2)]), axis=0)

    def matched(reduce: Any) -> jax.Array:
        return edit_invariant_loss(log_probs, targets, mask, config.n, reduce, stream(key, "matches"))

    return {
        "ce": plain,
        "smoothing": (1 - strength) * plain - strength * jnp.mean(log_probs),
        "truncated": jnp.sum(jnp.where(kept, nats, 0.0)) / jnp.sum(kept),
        "pg": policy_gradient_loss(log_probs, drawn, there(drawn), reward(drawn) - reward(greedy)) + strength * plain,
        "eisl": matched("softmax") + strength * plain,
        "exact": matched("exact") + strength * plain,
    }


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """Bigrams and BLEU with all targets corrupted, on clean targets, and the baselines that the paper tuned less."""
    arms = Arms(results)

    def gain(kind: str, noise: str, over: str = "ce", metric: str = "bleu") -> np.ndarray:
        level = 0 if noise == "none" else 1
        found = arms[f"{kind}/{noise}/{level}", metric] - arms[f"{over}/{noise}/{level}", metric]
        return found[:, GRAMS.index(2)] if metric == "f1" else found

    found = []
    for name, (noise, statement, rule, published) in BIGRAMS.items():
        measured = {noise: gain("eisl", noise, metric="f1")}
        found.append(Claim(name, statement, TABLE, measured, rule, "F1 of bigrams less cross-entropy's", published))
    edits, unit = ("shift", "repetition", "blank"), "BLEU on clean targets less cross-entropy's"
    return [
        *found,
        Claim(
            "clean_costs_nothing",
            "On clean targets EISL loses less than one BLEU.",
            TABLE,
            {"clean targets": -gain("eisl", "none")},
            below(1),
            "BLEU lost to cross-entropy",
            "chrF 59.0 and 59.0",
        ),
        Claim(
            "noise_gain",
            "With all targets corrupted EISL gains more than five BLEU over cross-entropy.",
            TABLE,
            {noise: gain("eisl", noise) for noise in edits},
            above(5),
            unit,
            "chrF: repetition 57.9 against 44.3, blanks 46.8 against 29.5",
        ),
        Claim(
            "tuned_pg_stands",
            "A policy gradient that is tuned as well does not fall behind cross-entropy by two BLEU.",
            OURS,
            {noise: gain("pg", noise) for noise in ("none", *NOISES)},
            above(-2),
            unit,
            "chrF 5.1 against 27.8 on shuffled targets: it diverged",
        ),
        Claim(
            "exact_matches_as_good",
            "The loss by weights is as good as the exact expected matches, which it bounds.",
            OURS,
            {noise: gain("eisl", noise, over="exact") for noise in edits},
            above(-2),
            "BLEU on clean targets less the exact loss's",
        ),
    ]


def figure(results: Mapping[str, Any]) -> Figure:
    """BLEU on clean targets over the share of targets that are corrupted, a panel for each noise."""
    arms, levels = Arms(results), (0.0, *results["levels"])
    drawn, axes = panels(columns=len(NOISES), width=3.4, height=3.4, titles=NOISES)
    for panel, noise in zip(axes, NOISES, strict=True):
        names = ["none/0", *(f"{noise}/{level:g}" for level in results["levels"])]
        within = {
            label: np.stack([arms[f"{kind}/{name}", "bleu"] for name in names], axis=1)
            for kind, label in LOSSES.items()
        }
        lines(panel, levels, within)
        panel.set(xlabel="share of targets corrupted", ylim=(0, 103))
    axes[0].set_ylabel("BLEU on clean targets")
    axes[-1].legend(loc="lower left", fontsize=7.5)
    return drawn
