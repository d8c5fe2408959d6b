"""Models of several sizes on one Markov source: how long they stay at the entropy of single characters, and the size that it takes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.harness.workspace import Workspace
from experiments.subjects.markov_models import (
    PopulationConfig,
    Text,
    by_rate,
    characters_of,
    size_of,
    sized,
    tokens_of,
    train_population,
)
from experiments.subjects.markov_sources import SourceConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import Checked, Count

GAP = 0.05
"""How much of H(pi) - floor may be left at the threshold."""
NEAR = 0.01
"""Nats: what counts as being on the plateau."""


@dataclass(frozen=True)
class TaskConfig(Checked):
    """One source and the models that are trained on it, besides the one-layer model on characters and on tokens.

    dictionary: tokens of the BPE. window: also with attention to the last k characters only. deep: also the deeper model on characters.
    times: further lengths of the windows of characters. widths: further widths of the one-layer model, on both inputs.
    """

    source: SourceConfig
    dictionary: Count = 16
    window: bool = True
    deep: bool = True
    times: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield self.source.symbols == 2, "source.symbols", "2"
        yield 2 < self.dictionary <= 2**12, "dictionary", "3 to 4096 tokens, the 2 characters among them"


class Arm(NamedTuple):
    """One population of models. time: length of its windows in symbols of its input."""

    name: str
    input: Literal["characters", "tokens"]
    model: TransformerConfig
    time: int


def arms(
    task: TaskConfig, model: TransformerConfig, time: int, token_time: int, deep: tuple[int, int, int]
) -> Iterator[Arm]:
    """All that is trained on one source. deep: layers, heads and width of the deeper model."""
    width = model.width
    for length in (time, *task.times):
        name = "characters" if length == time else f"characters-T{length}"
        yield Arm(name, "characters", sized(model, width, length), length)
    yield Arm("tokens", "tokens", sized(model, width, token_time), token_time)
    for other in task.widths:
        yield Arm(f"characters-width{other}", "characters", sized(model, other, time), time)
        yield Arm(f"tokens-width{other}", "tokens", sized(model, other, token_time), token_time)
    if task.window:
        windowed = replace(sized(model, width, time), window=task.source.order)
        yield Arm("windowed", "characters", windowed, time)
    if task.deep:
        depth, heads, deep_width = deep
        deeper = replace(model, depth=depth, heads=heads, unroll=depth, width=deep_width)
        yield Arm("deep", "characters", sized(deeper, deep_width, time), time)


def measure(task: TaskConfig, arm: Arm, training: PopulationConfig, workspace: Workspace) -> dict[str, Any]:
    """Trains an arm; its sizes, and what is kept of its curves."""
    source = task.source
    if arm.input == "tokens":
        text = tokens_of(source, task.dictionary, arm.time, training).text
    else:
        text = characters_of(source, arm.time, training)
    _, curves = train_population(f"{source.name}/{arm.name}", arm.model, text, training, workspace)
    single = source.entropies["stationary_entropy"]
    return {**describe(arm, text, training), **summarise(curves, text.floor, single, training)}


def describe(arm: Arm, text: Text, training: PopulationConfig) -> dict[str, Any]:
    """Sizes of an arm, and the loss of a uniform guess, in nats per character."""
    return {
        "input": arm.input,
        "depth": arm.model.depth,
        "width": arm.model.width,
        "time": arm.time,
        "parameters": size_of(arm.model, text.vocab),
        "characters_per_step": training.batch_size * arm.time * text.mean_length,
        "uniform_guess": float(np.log(text.vocab) / text.mean_length),
        "floor": text.floor,
    }


def summarise(curves: dict[str, Any], floor: float, single: float, training: PopulationConfig) -> dict[str, Any]:
    """What is kept of the curves of all members.

    reached [learning rates, seeds]: the first evaluated step at which the loss is above that of the source itself on the same characters
    by at most 5 % of H(pi) - floor, or None. best: the learning rate with the fewest median steps, where a run that did not get there
    counts as infinitely long; among equals the one with the lowest final loss. loss: its curves [seeds, evaluations].
    below_floor: the smallest difference from the source's own loss, of all members and evaluations, in standard errors.
    """
    steps, loss = np.array(curves["steps"]), by_rate(curves["loss"], training)
    under = by_rate(curves["excess"], training) <= GAP * (single - floor)
    reached = np.where(under.any(axis=2), steps[under.argmax(axis=2)], np.inf)
    medians, finals = np.median(reached, axis=1), loss[:, :, -1].mean(axis=1)
    best = int(np.lexsort((finals, medians))[0])
    error = np.maximum(curves["error"], 1e-12)
    return {
        "steps": steps.tolist(),
        "reached": [[int(step) if np.isfinite(step) else None for step in row] for row in reached],
        "best": best,
        "loss": np.round(loss[best], 4).tolist(),
        "final_loss": np.round(loss[:, :, -1], 4).tolist(),
        "below_floor": round(float((curves["excess"] / error).min()), 2),
    }


def steps_of(arm: dict[str, Any], missing: float) -> np.ndarray:
    """Steps to the threshold of every seed at the arm's best learning rate; `missing` for a run that did not get there."""
    return np.array([missing if step is None else step for step in arm["reached"][arm["best"]]], np.float64)


def ln_ratio(slow: dict[str, Any], fast: dict[str, Any], budget: int) -> np.ndarray:
    """ln of the steps to the threshold of one arm over those of another, by seed.

    A slow run that does not get there counts as `budget`, so that the ratio is a lower bound; a fast one as infinitely long.
    """
    with np.errstate(divide="ignore"):
        return np.log(steps_of(slow, budget) / steps_of(fast, np.inf))


def plateau(losses: list[float], single: float) -> float:
    """Median of the evaluations from the first within 0.01 nats of H(pi) up to the first after it below H(pi) - 0.01.

    Where none is as near, the nearest evaluation.
    """
    values = np.array(losses)
    distance = np.abs(values - single)
    near = np.flatnonzero(distance <= NEAR)
    if not len(near):
        return float(values[distance.argmin()])
    left = np.flatnonzero(values[near[0] :] < single - NEAR)
    return float(np.median(values[near[0] : near[0] + left[0] if len(left) else None]))


def size_ratio(found: dict[str, Any]) -> float:
    """Parameters of the smallest model with full attention whose median seed gets to the threshold, on characters over on tokens.

    Without the tables of tokens and positions, which are as large as dictionary and windows were chosen, and at the experiment's own
    length of windows: shorter ones make the characters' task another one. Where no model on characters gets there the largest counts, as
    a lower bound; 0 where none on tokens does.
    """
    arms = found["arms"]

    def sizes(kind: str, vocab: int) -> dict[int, float]:
        chosen = [arm for name, arm in arms.items() if name != "windowed" and arm["input"] == kind]
        return {
            arm["parameters"] - arm["width"] * (arm["time"] + vocab): float(np.median(steps_of(arm, np.inf)))
            for arm in chosen
            if arm["time"] == arms[kind]["time"]
        }

    characters, tokens = sizes("characters", 2), sizes("tokens", found["dictionary"])
    smallest = min((size for size, steps in characters.items() if np.isfinite(steps)), default=max(characters))
    return smallest / min((size for size, steps in tokens.items() if np.isfinite(steps)), default=np.inf)
