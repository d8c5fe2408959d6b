"""A penalty on length shortens thinking better than cutting thoughts does.

Kong et al. 2026 (arXiv 2505.18227); claim C14 of method card token-reduction-beyond-efficiency. A model that learned from thoughts with
most of their fillers goes on in one of two ways, at equal training tokens. REINFORCE samples thoughts and rewards right answers, less a
penalty on their length. Supervised truncation, the random reduction of the same size, learns from thoughts of which random steps were cut.
Both give a frontier of exact match over tokens thought: by penalty, and by steps kept.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, train_arms
from experiments.harness.intervals import interval
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, BLUE, GREY, VERMILION, panels, reference
from experiments.harness.training import Training, initial, stacked
from experiments.harness.verdicts import Claim, above
from experiments.harness.workspace import Workspace
from experiments.subjects.thoughts import (
    LEXICON,
    PUBLISHED,
    TINY,
    Sums,
    Thought,
    draw_thoughts,
    judge_text,
    solve,
    think_through,
    written,
)
from lexinv.merging.selective_loss import selective_cross_entropy
from lexinv.nn.language_model import initialize
from lexinv.randomness import threefry
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Fraction, NonNegatives, Positive, Seeds

PAPERS = ("kong2025token",)
SMALLEST = 0.02
"""The least gain in exact match, or share of the tokens saved, that matters."""


@dataclass(frozen=True)
class Config(Checked):
    """task: the problems, the model and its training on whole thoughts. steps: of going on, `samples` thoughts for each problem.

    left_out: share of the fillers that the first training is without: a model that always thinks as long has nothing to choose from.
    penalties: on a whole thought, where a right answer is worth 1. judged: that of the claim. kept: steps of a cut thought.
    """

    task: Sums = field(default_factory=lambda: Sums(fillers=3, steps=800))
    left_out: Fraction = 0.2
    penalties: NonNegatives = (0.0, 0.2, 0.5)
    judged: Positive = 0.5
    kept: tuple[int, ...] = (2, 4, 5, 6, 7)
    samples: Count = 4
    steps: Count = 120
    learning_rate: Positive = 5e-4
    seeds: Seeds = (0, 1, 2, 3, 4)

    def checks(self):
        most = self.task.numbers + self.task.fillers
        yield len(set(self.penalties)) == len(self.penalties), "penalties", "none twice"
        yield self.judged in self.penalties, "judged", "one of the penalties"
        inside = 1 < len(set(self.kept)) == len(self.kept) and min(self.kept) >= 0 and max(self.kept) <= most
        yield inside, "kept", f"at least two numbers from 0 to {most}, none twice"
        shared = self.samples > 1 and self.task.batch_size % self.samples == 0
        yield shared, "samples", "above 1, a divisor of task.batch_size"
        yield self.steps % 20 == 0, "steps", "a multiple of 20"


PRESETS = presets(
    Config(),
    smoke={
        **TINY,
        "task.fillers": 1,
        "task.width": 8,
        "penalties": (0.5,),
        "kept": (1, 3),
        "samples": 2,
        "steps": 20,
    },
    quick={"seeds": (0, 1, 2)},
    paper={
        **PUBLISHED,
        "task.steps": 20_000,
        "penalties": (0.0, 0.1, 0.2, 0.5, 1.0),
        "kept": (4, 8, 16, 20, 24, 28, 32),
        "steps": 5000,
        "learning_rate": 1e-4,
        "seeds": tuple(range(10)),
    },
)


def cut(thought: Thought, keep: Bool[Array, " steps"], task: Sums) -> tuple[Int[Array, " time"], Float[Array, " time"]]:
    """The text of a thought with these steps of it, padded to the length of a whole one, and 1 for the tokens to learn from."""
    text = written(thought, jnp.argsort(~keep, stable=True), task)  # those kept first, in their order
    place, end = jnp.arange(len(text)) - task.numbers - 1, 2 * jnp.sum(keep)
    text = jnp.where(place == end, task.answer, jnp.where(place == end + 1, thought.answer, text))
    return text, ((place >= 0) & (place <= end + 1)).astype(jnp.float32)


def random_steps(thought: Thought, kept: Float[Array, ""], key: Key[Array, ""]) -> Bool[Array, " steps"]:
    """`kept` of the steps, at random."""
    rank = jnp.argsort(jnp.argsort(jax.random.uniform(key, thought.filler.shape)))
    return rank.astype(jnp.float32) < kept


def fewer_fillers(thought: Thought, left_out: Float[Array, ""], key: Key[Array, ""]) -> Bool[Array, " steps"]:
    """All steps but the fillers that are left out, each with this probability."""
    return ~thought.filler | (jax.random.uniform(key, thought.filler.shape) >= left_out)


def reinforce(
    losses: Float[Array, "problems samples time"],
    weights: Float[Array, "problems samples time"],
    reward: Float[Array, "problems samples"],
) -> Float[Array, ""]:
    """The mean of A sum_t w_t l_t, whose gradient estimates that of -E[reward] without bias (Williams 1992).

    losses: -log p of the tokens drawn, in nats. weights: 1 for those that the reward depends on. A: the reward less the mean of the other
    samples for the same problem.
    """
    others = (jnp.sum(reward, axis=1, keepdims=True) - reward) / (reward.shape[1] - 1)
    advantage = jax.lax.stop_gradient(reward - others)
    return jnp.mean(advantage * jnp.sum(weights * losses, axis=2))


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By way of going on and seed: the share of problems answered rightly, and how many tokens the greedy thoughts take."""
    task, seeds, rows = config.task, config.seeds, config.task.batch_size
    losses, whole = task.losses(), 2 * (task.numbers + task.fillers)
    penalised = {f"penalty {penalty:g}": penalty for penalty in config.penalties}
    truncated = {f"kept {kept}": kept for kept in config.kept}
    names = ("start", *penalised, *truncated)

    def supervised(learned: Any, given: Any, key: Array, rows: int, chosen: Any) -> tuple[Array, dict[str, Array]]:
        drawn = draw_thoughts(stream(key, "problems"), task, rows)
        keys = jax.random.split(threefry(stream(key, "steps")), rows)
        keep = jax.vmap(chosen, in_axes=(0, None, 0))(drawn, given["value"], keys)
        texts, weights = jax.vmap(partial(cut, task=task))(drawn, keep)
        # As many training tokens as there are in whole texts, up to rounding: where texts are shorter they are more.
        fits = jnp.cumsum(jnp.sum(weights, axis=1) + task.numbers + 1) <= task.batch_size * task.whole
        return selective_cross_entropy(losses(learned, texts), jnp.where(fits[:, None], weights, 0.0)), {}

    def rewarded(learned: Any, given: Any, key: Array) -> tuple[Array, dict[str, Array]]:
        drawn = draw_thoughts(stream(key, "problems"), task, rows // config.samples)
        drawn = jax.tree.map(lambda leaf: jnp.repeat(leaf, config.samples, axis=0), drawn)
        keys = jax.random.split(threefry(stream(key, "thoughts")), len(drawn.numbers))
        texts = think_through(task, jax.lax.stop_gradient(learned), drawn.numbers, keys, temperature=1.0)
        right, length = judge_text(texts, drawn.answer, task)
        place = jnp.arange(task.whole, dtype=jnp.float32)[None] - (task.numbers + 1)
        weights = ((place >= 0) & (place <= length[:, None] + 1)).astype(jnp.float32)
        reward = right - given["value"] * length / whole
        grouped = (rows // config.samples, config.samples)
        parts = (losses(learned, texts).reshape(*grouped, -1), weights.reshape(*grouped, -1), reward.reshape(grouped))
        return reinforce(*parts), {"right": jnp.mean(right), "length": jnp.mean(length)}

    def training(steps: int, rate: float) -> Training:
        optimizer = OptimizerConfig(learning_rate=rate, warmup_steps=steps // 10)
        return Training(steps, rows, seeds, optimizer, steps_per_dispatch=20)

    def train(name: str, starts: dict[str, Any], loss: Any, training: Training) -> dict[str, list[Any]]:
        return train_arms(f"length_control/{name}", names, starts, loss, training, workspace, task.whole)

    def starts(learned: Any, values: dict[str, float]) -> dict[str, Any]:
        return {arm: (learned, {"value": jnp.full(len(seeds), float(value))}) for arm, value in values.items()}

    learned = initial(lambda key: initialize(task.model(), LEXICON, task.vocab, key), seeds)
    thinking, first = starts(learned, {"start": config.left_out}), training(task.steps, task.learning_rate)
    models = train("start", thinking, partial(supervised, rows=rows, chosen=fewer_fillers), first)
    start, further = stacked(models["start"]), training(config.steps, config.learning_rate)
    models |= train("reinforce", starts(start, penalised), rewarded, further)
    most = rows * task.whole // task.length(min(config.kept))
    cutting = partial(supervised, rows=most, chosen=random_steps)
    models |= train("truncation", starts(start, truncated), cutting, further)
    groups = {"reinforce": list(penalised), "truncation": ["start", *truncated]}
    return {
        "corpora": {},
        "seeds": seeds,
        "chance": 1 / task.modulus,
        "judged": f"penalty {config.judged:g}",
        "groups": groups,
        "arms": solve(task, models, seeds),
    }


def at_length(tokens: float, points: list[tuple[float, float]]) -> float:
    """Exact match between the points (tokens, right) of a frontier, on straight lines; beyond its ends that of the nearest point.

    Of points of equal length the best counts.
    """
    best: dict[float, float] = {}
    for length, right in points:
        best[length] = max(right, best.get(length, 0.0))
    lengths = sorted(best)
    return float(np.interp(tokens, lengths, [best[length] for length in lengths]))


def claims(results: dict[str, Any]) -> list[Claim]:
    """C14 at the judged penalty, against truncation to the same length of greedy thoughts."""
    arms, judged = Arms(results), results["judged"]
    right, tokens = ({arm: arms[arm, what] for arm in arms} for what in ("right", "tokens"))
    truncated = [
        at_length(length, [(tokens[arm][i], right[arm][i]) for arm in results["groups"]["truncation"]])
        for i, length in enumerate(tokens[judged])
    ]
    return [
        Claim(
            "a_length_penalty_beats_truncation",
            f"C14: REINFORCE with a length penalty ({judged}) gives more right answers than truncated thoughts of the same length, with "
            "fewer tokens than before.",
            "kong2025token: section 5",
            {
                "exact match over truncation's at the same length": right[judged] - truncated,
                # A model that did not think before can save nothing.
                "share of the tokens thought before that is saved": 1 - tokens[judged] / np.maximum(tokens["start"], 1),
            },
            above(0, matters=SMALLEST),
        )
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Exact match against tokens thought: both frontiers with every seed, and where they started."""
    arms, groups = Arms(results), results["groups"]
    drawn, (axes,) = panels(width=5.2, height=3.6, titles=("Shorter thoughts",))
    for names, label, color in (
        (groups["truncation"], "truncated thoughts", GREY),
        (groups["reinforce"], "length penalty", BLUE),
        (["start"], "before either", BLACK),
    ):
        means = sorted((interval(arms[name, "tokens"]).mean, interval(arms[name, "right"]).mean) for name in names)
        axes.plot(*zip(*means, strict=True), "D-", color=color, markersize=4, linewidth=1, label=label)
        for name in names:
            axes.plot(arms[name, "tokens"], arms[name, "right"], "o", color=color, markersize=2.5, alpha=0.5)
    reference(axes, results["chance"], "chance", VERMILION)
    axes.set(xlabel="tokens thought", ylabel="exact match", ylim=(0, 1.05))
    axes.legend()
    return drawn
