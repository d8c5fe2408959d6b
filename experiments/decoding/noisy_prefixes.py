"""Noisy targets of a model that writes word by word: does matching n-grams wherever they stand help, after its own words or the target's?

Liu et al. 2022 (arXiv 2106.15078), whose translations are written in turn. The world, the tuning and the warm start are those of
`noisy_references`, with up to six edits of eight words and a longer warm start, without which matches alone teach nothing here. After its
own words a model is asked for n-grams where it has come to; after those of the target it is told the noise.
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
from experiments.harness.figures import bars
from experiments.harness.presets import presets
from experiments.harness.style import panels
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.noisy_training import Levels, NoisyTraining, tuned_arms
from experiments.subjects.noisy_translation import NOISES, Translation, likeliest
from lexinv.decoding.edit_invariant import edit_invariant_loss
from lexinv.training.streams import stream
from lexinv.validation import Count, Seeds

PAPERS = ("liu2022dont",)
LOSSES = {"ce": "cross-entropy", "eisl": "EISL, its own words before", "forced": "EISL, the target's words before"}
WEIGHTS = {1: 0.8, 2: 0.2}
"""Of n-grams, as released."""
RATES = (3e-4, 1e-3, 3e-3)
SETTINGS = {"ce": tuple((rate, 0.0) for rate in (3e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2))}
SETTINGS |= {kind: tuple((rate, weight) for weight in (0.1, 1.0) for rate in RATES) for kind in ("eisl", "forced")}
"""Six of each loss: (learning rate, weight of cross-entropy beside what the loss is named after)."""
TABLE = "liu2022dont: released results on Multi30k"


@dataclass(frozen=True)
class Config(NoisyTraining):
    task: Translation = Translation(most=6, autoregressive=True)
    warm_steps: Count = 600
    steps: Count = 200
    levels: Levels = (1.0,)
    seeds: Seeds = tuple(range(5))

    def checks(self):
        yield from super().checks()
        yield self.task.autoregressive, "task.autoregressive", "True: `noisy_references` is of the others"


PRESETS = presets(
    Config(),
    smoke={
        "task.symbols": 6,
        "task.length": 4,
        "task.width": 16,
        "task.most": 2,
        "warm_steps": 10,
        "steps": 10,
        "batch_size": 8,
        "tests": 16,
        "seeds": (0, 1),
    },
    paper={
        "task.symbols": 1000,
        "task.length": 24,
        "task.most": 12,
        "task.depth": 6,
        "task.width": 512,
        "warm_steps": 10_000,
        "steps": 20_000,
        "learning_rate": 3e-4,
        "tests": 1000,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By arm `loss/noise/level` and seed what `Translation.translated` measures; by loss the settings that were tried, with BLEU."""
    return tuned_arms("noisy_prefixes", config, SETTINGS, partial(losses, config), workspace)


def losses(
    config: Config, params: Any, source: jax.Array, targets: jax.Array, strength: jax.Array, key: jax.Array
) -> dict[str, jax.Array]:
    """Every loss of a batch of sources and targets [rows, slots]."""
    task, mask = config.task, config.task.there(targets)
    own = likeliest(task, jax.lax.stop_gradient(params), source)
    told, untold = (task.log_probs(params, source, before) for before in (targets, own))
    plain = -jnp.mean(jnp.take_along_axis(told, targets[..., None], axis=2))

    def matched(log_probs: jax.Array) -> jax.Array:
        parts = [
            weight * edit_invariant_loss(log_probs, targets, mask, n, "softmax", stream(key, f"matches {n}"))
            for n, weight in WEIGHTS.items()
        ]
        return sum(parts, strength * plain)

    return {"ce": plain, "eisl": matched(untold), "forced": matched(told)}


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """What noise costs cross-entropy and matching costs clean targets, in BLEU."""
    arms, edits, unit = Arms(results), ("repetition", "blank", "shuffle"), "BLEU on clean targets less"

    def gain(noise: str, over: str = "ce") -> np.ndarray:
        level = 0 if noise == "none" else 1
        return arms[f"eisl/{noise}/{level}", "bleu"] - arms[f"{over}/{noise}/{level}", "bleu"]

    return [
        Claim(
            "clean_costs_nothing_in_turn",
            "On clean targets EISL loses less than one BLEU.",
            TABLE,
            {"clean targets": -gain("none")},
            below(1),
            "BLEU lost to cross-entropy",
            "chrF 59.0 and 59.0",
        ),
        Claim(
            "noise_gain_in_turn",
            "With all targets corrupted EISL gains more than five BLEU over cross-entropy.",
            TABLE,
            {noise: gain(noise) for noise in edits},
            above(5),
            f"{unit} cross-entropy's",
            "chrF: repetition 57.9 against 44.3, blanks 46.8 against 29.5, shuffled 52.7 against 40.2",
        ),
        Claim(
            "own_words_help",
            "After its own words a model learns more than after those of noisy targets.",
            "liu2022dont: prefixes of the experiments",
            {noise: gain(noise, "forced") for noise in edits},
            above(0),
            f"{unit} that after the target's words",
        ),
        Claim(
            "shift_gain_in_turn",
            "So EISL does where there is junk in front of every target.",
            OURS,
            {"shift": gain("shift")},
            above(5),
            f"{unit} cross-entropy's",
        ),
    ]


def figure(results: Mapping[str, Any]) -> Figure:
    """BLEU on clean targets by noise, all targets corrupted."""
    arms, names = Arms(results), ["none/0", *(f"{noise}/1" for noise in NOISES)]
    drawn, (axes,) = panels(1, 1, width=6.4, height=3.2, titles=("Clean translations after noisy targets",))
    within = {
        kind: (label, np.stack([arms[f"{kind}/{name}", "bleu"] for name in names], axis=1))
        for kind, label in LOSSES.items()
    }
    bars(axes, ("none", *NOISES), within)
    axes.set_ylabel("BLEU on clean targets")
    axes.legend(fontsize=8)
    return drawn
