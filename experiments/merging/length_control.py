"""Claim C14: a length penalty shortens thinking better than cutting thoughts does (method card token-reduction-beyond-efficiency).

The task is that of C4 (`overthinking`). A model that learned from thoughts with most of their fillers goes on in one of two ways, at equal
training tokens. REINFORCE samples thoughts and rewards right answers, less a penalty on their length. Supervised truncation, the random
reduction of the same size, learns from thoughts of which random steps were cut. Both give a frontier of exact match over tokens thought:
by penalty, and by steps kept.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key
from matplotlib.axes import Axes

from experiments.harness.arms import train_arms
from experiments.harness.claims import Claim, interval
from experiments.harness.style import BLACK, BLUE, GREY
from experiments.harness.training import Training, initial, stacked
from experiments.harness.workspace import Workspace
from experiments.merging.overthinking import (
    OverthinkingConfig,
    Thought,
    answered,
    draw_thought,
    judge_text,
    think_through,
    written,
)
from experiments.merging.verdicts import judged
from lexinv.merging.selective_loss import selective_cross_entropy
from lexinv.nn.language_model import initialize, make_nll
from lexinv.nn.lexicon import LexiconConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.streams import stream
from lexinv.validation import require

SMALLEST = 0.02


@dataclass(frozen=True)
class LengthControlConfig:
    """task: the problems, the model and its training on whole thoughts. steps: of going on, `samples` thoughts for each problem.

    left_out: share of the fillers that the first training is without: a model that always thinks as long has nothing to choose from.
    penalties: on a whole thought, where a right answer is worth 1. judged: that of the claim. kept: steps of a cut thought.
    """

    task: OverthinkingConfig = field(
        default_factory=lambda: OverthinkingConfig(modulus=5, numbers=4, fillers=3, batch_size=32, steps=800)
    )
    left_out: float = 0.2
    penalties: tuple[float, ...] = (0.0, 0.2, 0.5)
    judged: float = 0.5
    kept: tuple[int, ...] = (2, 4, 5, 6, 7)
    samples: int = 4
    steps: int = 120
    learning_rate: float = 5e-4

    def __post_init__(self):
        prefix, most = "length_control", self.task.numbers + self.task.fillers
        positive = 0 < len(set(self.penalties)) == len(self.penalties) and min(self.penalties) >= 0
        require(positive, f"{prefix}.penalties", self.penalties, "zero or more, none twice")
        require(
            self.judged in self.penalties and self.judged > 0, f"{prefix}.judged", self.judged, "a positive penalty"
        )
        inside = 1 < len(set(self.kept)) == len(self.kept) and min(self.kept) >= 0 and max(self.kept) <= most
        require(inside, f"{prefix}.kept", self.kept, f"at least two numbers from 0 to {most}, none twice")
        require(0 < self.left_out < 1, f"{prefix}.left_out", self.left_out, "above 0, below 1")
        shared = self.samples > 1 and self.task.batch_size % self.samples == 0
        require(shared, f"{prefix}.samples", self.samples, f"above 1, a divisor of {prefix}.task.batch_size")
        require(self.steps % 20 == 0, f"{prefix}.steps", self.steps, "a multiple of 20")


def cut(
    thought: Thought, keep: Bool[Array, " steps"], config: OverthinkingConfig
) -> tuple[Int[Array, " time"], Float[Array, " time"]]:
    """The text of a thought with these steps of it, padded to the length of a whole one, and 1 for the tokens to learn from."""
    text = written(thought, jnp.argsort(~keep, stable=True), config)  # those kept first, in their order
    place, end = jnp.arange(len(text)) - config.numbers - 1, 2 * jnp.sum(keep)
    text = jnp.where(place == end, config.answer, jnp.where(place == end + 1, thought.answer, text))
    return text, ((place >= 0) & (place <= end + 1)).astype(jnp.float32)


def random_steps(thought: Thought, kept: Float[Array, ""], key: Key[Array, ""]) -> Bool[Array, " steps"]:
    """`kept` of the steps, at random."""
    rank = jnp.argsort(jnp.argsort(jax.random.uniform(key, thought.filler.shape)))
    return rank.astype(jnp.float32) < kept


def fewer_fillers(thought: Thought, left_out: Float[Array, ""], key: Key[Array, ""]) -> Bool[Array, " steps"]:
    """All steps but the fillers that are left out, each with this probability."""
    return ~thought.filler | (jax.random.uniform(key, thought.filler.shape) >= left_out)


def sampled(
    config: OverthinkingConfig, params: Any, numbers: Int[Array, "problems numbers"], key: Key[Array, ""]
) -> Int[Array, "problems time"]:
    """Texts in which every token is drawn from the model."""
    return think_through(
        config, params, numbers, lambda logits, place: jax.random.categorical(jax.random.fold_in(key, place), logits)
    )


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


def measure(config: LengthControlConfig, seeds: tuple[int, ...], workspace: Workspace) -> dict[str, Any]:
    """By way of going on and seed: the share of problems answered rightly, and how many tokens the greedy thoughts take."""
    task, lexicon, rows = config.task, LexiconConfig(), config.task.batch_size
    model, whole = task.model(), 2 * (task.numbers + task.fillers)
    nll = make_nll(model, lexicon, task.vocab)
    thoughts = jax.vmap(partial(draw_thought, config=task))

    penalised = {f"penalty {penalty:g}": penalty for penalty in config.penalties}
    truncated = {f"kept {kept}": kept for kept in config.kept}
    names = ("start", *penalised, *truncated)

    def losses(params: Any, texts: Array) -> Array:
        return nll(params, {"tokens": texts, "row": jnp.arange(len(texts))}, jax.random.key(0))  # a learned lexicon

    def supervised(learned: Any, given: Any, key: Array, rows: int, chosen: Any) -> tuple[Array, dict[str, Array]]:
        drawn = thoughts(jax.random.split(stream(key, "problems"), rows))
        keys = jax.random.split(stream(key, "steps"), rows)
        keep = jax.vmap(chosen, in_axes=(0, None, 0))(drawn, given["value"], keys)
        texts, weights = jax.vmap(partial(cut, config=task))(drawn, keep)
        # As many training tokens as there are in whole texts, up to rounding: where texts are shorter they are more.
        fits = jnp.cumsum(jnp.sum(weights, axis=1) + task.numbers + 1) <= task.batch_size * task.whole
        return selective_cross_entropy(losses(learned, texts), jnp.where(fits[:, None], weights, 0.0)), {}

    def rewarded(learned: Any, given: Any, key: Array) -> tuple[Array, dict[str, Array]]:
        drawn = thoughts(jax.random.split(stream(key, "problems"), rows // config.samples))
        drawn = jax.tree.map(lambda leaf: jnp.repeat(leaf, config.samples, axis=0), drawn)
        texts = sampled(task, jax.lax.stop_gradient(learned), drawn.numbers, stream(key, "thoughts"))
        right, length = judge_text(texts, drawn.answer, task)
        place = jnp.arange(task.whole, dtype=jnp.float32)[None] - (task.numbers + 1)
        weights = ((place >= 0) & (place <= length[:, None] + 1)).astype(jnp.float32)
        reward = right - given["value"] * length / whole
        grouped = (rows // config.samples, config.samples)
        parts = (losses(learned, texts).reshape(*grouped, -1), weights.reshape(*grouped, -1), reward.reshape(grouped))
        return reinforce(*parts), {"right": jnp.mean(right), "length": jnp.mean(length)}

    def training(steps: int, learning_rate: float) -> Training:
        return Training(
            steps,
            rows,
            seeds,
            OptimizerConfig(learning_rate=learning_rate, warmup_steps=steps // 10),
            steps_per_dispatch=20,
        )

    def train(name: str, starts: dict[str, Any], loss: Any, training: Training) -> dict[str, list[Any]]:
        return train_arms(f"length_control/{name}", names, starts, loss, training, workspace, task.whole)

    def starts(learned: Any, values: dict[str, float]) -> dict[str, Any]:
        return {arm: (learned, {"value": jnp.full(len(seeds), float(value))}) for arm, value in values.items()}

    learned = initial(lambda key: initialize(model, lexicon, task.vocab, key), seeds)
    thinking, first = starts(learned, {"start": config.left_out}), training(task.steps, task.learning_rate)
    models = train("start", thinking, partial(supervised, rows=rows, chosen=fewer_fillers), first)
    start, further = stacked(models["start"]), training(config.steps, config.learning_rate)
    models |= train("reinforce", starts(start, penalised), rewarded, further)
    most = rows * task.whole // task.length(min(config.kept))
    cutting = partial(supervised, rows=most, chosen=random_steps)
    models |= train("truncation", starts(start, truncated), cutting, further)
    solve = jax.jit(partial(answered, task))
    keys = [stream(jax.random.key(seed), "test") for seed in seeds]
    found: dict[str, Any] = {}
    for arm, trained in models.items():
        scores = [solve(params, key) for params, key in zip(trained, keys, strict=True)]
        right, length = (np.array([float(score[part]) for score in scores]).round(4).tolist() for part in (0, 1))
        found[arm] = {"right": right, "tokens": length}
    groups = {"reinforce": list(penalised), "truncation": ["start", *truncated]}
    return {"chance": 1 / task.modulus, "judged": f"penalty {config.judged:g}", "groups": groups, "arms_by_name": found}


def at_length(tokens: float, points: list[tuple[float, float]]) -> float:
    """Exact match between the points (tokens, right) of a frontier, on straight lines; beyond its ends that of the nearest point.

    Of points of equal length the best counts.
    """
    best: dict[float, float] = {}
    for length, right in points:
        best[length] = max(right, best.get(length, 0.0))
    lengths = sorted(best)
    return float(np.interp(tokens, lengths, [best[length] for length in lengths]))


def judge(measured: dict[str, Any]) -> list[Claim]:
    """C14 at the judged penalty, against truncation to the same length of greedy thoughts."""
    arms, groups = measured["arms_by_name"], measured["groups"]

    def gains(arm: str) -> list[float]:
        return [
            right
            - at_length(tokens, [(arms[name]["tokens"][i], arms[name]["right"][i]) for name in groups["truncation"]])
            for i, (right, tokens) in enumerate(zip(arms[arm]["right"], arms[arm]["tokens"], strict=True))
        ]

    # A model that did not think before can save nothing.
    before = np.maximum(np.array(arms["start"]["tokens"]), 1.0)
    return [
        judged(
            14,
            "a_length_penalty_beats_truncation",
            "REINFORCE with a length penalty gives more right answers than truncated thoughts of the same length, with fewer tokens than "
            f"before (measured at {measured['judged']}: exact match after greedy thinking; all accuracies and tokens beside).",
            "gain in exact match over truncation at the same length, and the share of the tokens thought before that is saved",
            {
                "gain over truncation": interval(gains(measured["judged"])),
                "tokens saved": interval(1 - np.array(arms[measured["judged"]]["tokens"]) / before),
            },
            SMALLEST,
            {
                "gains": {arm: interval(gains(arm)) for arm in groups["reinforce"]},
                "right": {arm: interval(found["right"]) for arm, found in arms.items()},
                "tokens": {arm: interval(found["tokens"]) for arm, found in arms.items()},
            },
        )
    ]


def draw(measured: dict[str, Any], axes: Axes) -> None:
    """Exact match against tokens thought: both frontiers, and where they started."""
    arms, groups = measured["arms_by_name"], measured["groups"]
    for names, label, color in (
        (groups["truncation"], "truncated thoughts", GREY),
        (groups["reinforce"], "length penalty", BLUE),
        (["start"], "whole thoughts", BLACK),
    ):
        means = sorted((interval(arms[name]["tokens"]).mean, interval(arms[name]["right"]).mean) for name in names)
        axes.plot(*zip(*means, strict=True), "D-", color=color, markersize=4, linewidth=1, label=label)
        for name in names:
            axes.plot(arms[name]["tokens"], arms[name]["right"], "o", color=color, markersize=2, alpha=0.5)
    axes.axhline(measured["chance"], color=GREY, linestyle="--", linewidth=1, label="chance")
    axes.set(title="C14: length control", xlabel="tokens thought", ylabel="exact match", ylim=(0, 1.05))
    axes.legend(fontsize=7)
