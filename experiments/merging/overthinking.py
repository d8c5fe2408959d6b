"""Fewer thinking tokens give righter answers: models that learn from thoughts without their most perplexing steps.

Kong et al. 2026 (arXiv 2505.18227); claim C4 of method card token-reduction-beyond-efficiency. Sums with the steps written out, among
fillers. Models learn from whole thoughts, or from thoughts without as many steps as there are fillers: the fillers themselves, the steps of
highest perplexity under the model that learned from whole thoughts, or random steps, the control. All read the same number of training
tokens, so that shorter thoughts are more of them. Then each thinks for itself, greedily, and its answer is compared: after a short
training, in which whole thoughts are not learned yet, and after one in which they are. A baseline that answers all problems leaves nothing
to gain.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, train_arms
from experiments.harness.intervals import interval
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, BLUE, GREEN, GREY, panels, reference
from experiments.harness.training import Training, initial, stacked
from experiments.harness.verdicts import OURS, Claim, above
from experiments.harness.workspace import Workspace
from experiments.subjects.thoughts import LEXICON, PUBLISHED, TINY, Sums, draw_thoughts, solve, written
from lexinv.merging.selective_loss import selective_cross_entropy
from lexinv.nn.language_model import initialize
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Seeds

PAPERS = ("kong2025token",)
ARMS = {
    "full": ("whole thoughts", BLACK),
    "perplexity": ("without the most perplexing steps", BLUE),
    "oracle": ("without fillers", GREEN),
    "random": ("without random steps", GREY),
}
PRUNED = ("perplexity", "oracle", "random")
SMALLEST = 0.02
"""The least gain in exact match that matters."""


@dataclass(frozen=True)
class Config(Checked):
    """The same task for all arms. longer: how many times as many steps as the task's the second training has."""

    task: Sums = Sums()
    longer: Count = 4
    seeds: Seeds = (0, 1, 2, 3, 4)


PRESETS = presets(
    Config(),
    smoke={**TINY, "task.fillers": 2, "task.width": 16, "longer": 2},
    quick={"seeds": (0, 1, 2)},
    paper={**PUBLISHED, "task.steps": 10_000, "seeds": tuple(range(10))},
)


def step_perplexity(losses: Float[Array, " time"], task: Sums) -> Float[Array, " steps"]:
    """Mean loss of the two tokens of every step of a whole thought, in nats."""
    return jnp.mean(losses[task.numbers + 1 : -2].reshape(-1, 2), axis=1)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By arm, steps of training and seed: the share of problems answered rightly, and how many tokens the thoughts take."""
    trained = {"short": config.task, "long": replace(config.task, steps=config.longer * config.task.steps)}
    arms = {}
    for length, task in trained.items():
        models = learn(task, config.seeds, f"overthinking/{length}", workspace)
        arms |= {f"{arm}, {length}": found for arm, found in solve(task, models, config.seeds).items()}
    task, steps = config.task, {length: task.steps for length, task in trained.items()}
    facts = {"chance": 1 / task.modulus, "needed": 2 * task.numbers, "steps": steps}
    return {"corpora": {}, "seeds": config.seeds, **facts, "arms": arms}


def learn(task: Sums, seeds: tuple[int, ...], folder: str, workspace: Workspace) -> dict[str, list[Any]]:
    """Models of every arm, one for each seed."""
    names, losses = ("full", *PRUNED), task.losses()
    optimizer = OptimizerConfig(learning_rate=task.learning_rate, warmup_steps=task.steps // 10)

    def loss(learned: Any, given: Any, key: jax.Array, rows: int) -> tuple[jax.Array, dict[str, jax.Array]]:
        thoughts = draw_thoughts(stream(key, "problems"), task, rows)
        every = jnp.arange(task.numbers + task.fillers)
        kept, pure = jnp.broadcast_to(every[None], thoughts.filler.shape), jnp.ones(())
        if "reference" in given:
            whole = jax.vmap(partial(written, kept=every, task=task))(thoughts)
            perplexing = jax.vmap(partial(step_perplexity, task=task))(losses(given["reference"], whole))
            score = jnp.where(given["arm"] == names.index("oracle"), thoughts.filler.astype(jnp.float32), perplexing)
            chance = jax.random.uniform(stream(key, "random"), score.shape)
            score = jnp.where(given["arm"] == names.index("random"), chance, score)
            kept = jnp.sort(jnp.argsort(score, axis=1)[:, : task.numbers], axis=1)
            pure = 1 - jnp.mean(jnp.take_along_axis(thoughts.filler, kept, axis=1).astype(jnp.float32))
        texts = jax.vmap(partial(written, task=task))(thoughts, kept)
        read = (jnp.arange(texts.shape[1]) > task.numbers).astype(jnp.float32)
        found = losses(learned, texts)
        return selective_cross_entropy(found, jnp.broadcast_to(read[None], found.shape)), {"pure": pure}

    def train(name: str, starts: dict[str, Any], rows: int) -> dict[str, list[Any]]:
        training = Training(task.steps, rows, seeds, optimizer, steps_per_dispatch=20)
        return train_arms(f"{folder}/{name}", names, starts, partial(loss, rows=rows), training, workspace, task.whole)

    learned = initial(lambda key: initialize(task.model(), LEXICON, task.vocab, key), seeds)
    models = train("full", {"full": (learned, {})}, task.batch_size)
    given = {"reference": stacked(models["full"])}
    # As many training tokens in all, up to rounding to whole thoughts.
    rows = round(task.batch_size * task.whole / task.length(task.numbers))
    return models | train("pruned", dict.fromkeys(PRUNED, (learned, given)), rows)


def claims(results: dict[str, Any]) -> list[Claim]:
    """C4 after the long training; then after the short one, with steps chosen by perplexity and with fillers known."""
    arms, steps = Arms(results), results["steps"]

    def gains(arm: str, length: str) -> dict[str, Any]:
        others = {"over whole thoughts": "full", "over pruning at random": "random"}
        right = {name: arms[f"{name}, {length}", "right"] for name in (arm, *others.values())}
        return {label: right[arm] - right[other] for label, other in others.items()}

    rule, unit = above(0, matters=SMALLEST), "gain in exact match after greedy thinking, at equal training tokens"
    return [
        Claim(
            "whole_thoughts_work",
            f"After {steps['long']} steps models that learn from whole thoughts answer the problems rightly.",
            OURS,
            {"whole thoughts": arms["full, long", "right"]},
            above(0.95),
            "exact match after greedy thinking",
        ),
        Claim(
            "pruned_thoughts_gain",
            f"C4: After {steps['long']} steps models that learn from thoughts without their most perplexing steps answer more problems "
            "rightly. Where the baseline answers all of them no gain is possible.",
            "kong2025token: section 4",
            gains("perplexity", "long"),
            rule,
            unit,
        ),
        Claim(
            "pruned_thoughts_learn_sooner",
            f"C4: After {steps['short']} steps they do.",
            "kong2025token: section 4",
            gains("perplexity", "short"),
            rule,
            unit,
        ),
        Claim(
            "thoughts_without_fillers_learn_sooner",
            f"C4: So do, after {steps['short']} steps, models that learn from thoughts without their fillers, which are known.",
            OURS,
            gains("oracle", "short"),
            rule,
            unit,
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Exact match against tokens thought: every seed, and the mean with the interval of either."""
    arms, steps = Arms(results), results["steps"]
    drawn, panels_ = panels(
        1, 2, width=4.2, height=3.6, titles=[f"{number} steps of training" for number in steps.values()]
    )
    for axes, length in zip(panels_, steps, strict=True):
        for place, (arm, (label, color)) in enumerate(ARMS.items()):
            # Side by side: thoughts of two arms may be equally long and right.
            tokens, right = arms[f"{arm}, {length}", "tokens"] + 0.3 * place, arms[f"{arm}, {length}", "right"]
            x, y = interval(tokens), interval(right)
            axes.plot(tokens, right, "o", color=color, markersize=3, alpha=0.5)
            axes.plot(x.mean, y.mean, "D", color=color, markersize=6, label=label)
            axes.vlines(x.mean, y.low, y.high, color=color, linewidth=1.2)
        reference(axes, results["chance"], "chance")
        axes.set(xlabel="tokens thought", ylabel="exact match", ylim=(0, 1.05))
    panels_[0].legend(loc="center")
    return drawn
