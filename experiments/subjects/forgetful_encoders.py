"""Masked encoders of the part-of-speech task that forget their embeddings in training, followed on sets that tell strategies apart.

Anand et al. 2024 (arXiv 2406.00053), the synthetic setting; method card dual-process-learning.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness.training import evaluations
from experiments.harness.work import Population, Work
from experiments.harness.workspace import Workspace
from lexinv.lexinvariance import part_of_speech
from lexinv.lexinvariance.forgetting import (
    HELD_OUT,
    Forgetting,
    answer_logits,
    initialize,
    make_optimizer,
    make_step,
    solved,
    with_held_out,
)
from lexinv.lexinvariance.part_of_speech import ANSWER, Batch, PosTask, sample
from lexinv.nn.masked_encoder import MaskedEncoder
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.population import create_population
from lexinv.training.state import TrainState, create_state
from lexinv.training.step import TrainStep
from lexinv.training.streams import stream
from lexinv.validation import MOST, Checked, Count, NonNegative, Positive, Seeds

FOLLOWED = ("val", "switch", "head", "head_switch", "tail", "tail_switch")
"""Sets that are followed through training, beside the held-out tokens."""
CONTROLS = [f"holdout {rows}{scoring}" for rows in HELD_OUT for scoring in ("", " in context")]
"""Held-out tokens by how their vectors are drawn, among the whole vocabulary and among the tokens that the sequence shows."""
MODEL = TransformerConfig(
    depth=2,
    width=64,
    heads=1,
    mlp_width=128,
    positions="learned",
    max_length=part_of_speech.LENGTH,
    causal=False,
    unroll=2,
)


@dataclass(frozen=True)
class PosEncoders(Checked):
    """std: of the table at first and whenever it is re-initialised. weight_decay: AdamW's. In a short run at a high rate nothing is
    forgotten by itself without a large one (ours, found on other seeds); the paper's is 0.01 over 62,500 steps.

    evaluate_every: steps from one evaluation to the next, each on `sequences` sequences of every set.
    """

    task: PosTask = PosTask(vocab=1000, holdout=100)
    model: TransformerConfig = MODEL
    steps: Count = 7000
    batch_size: Count = 64
    seeds: Seeds = (0, 1, 2, 3, 4, 5)
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 1.0
    std: Positive = 0.3
    evaluate_every: Count = 350
    sequences: Count = 1000

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield not self.model.causal, "model.causal", "False: the masks are filled in from both sides"
        yield self.steps % self.evaluate_every == 0, "evaluate_every", f"a divisor of {self.steps}"


@dataclass(frozen=True)
class Arm:
    """One model, trained with every seed: from the start, or fine-tuned for `steps` steps from where vanilla training ended."""

    forgetting: Forgetting
    bias: bool = False
    steps: int | None = None


def slug(arm: str) -> str:
    """The name of an arm as the name of a folder."""
    return arm.replace(", ", "-").replace(" ", "-")


def kinds(task: PosTask) -> list[str]:
    """The sets of trained tokens: those that are followed, then those by frequency bin."""
    places = [f"{ambiguous}_{index}" for index in range(task.bins) for ambiguous in ("nonamb", "amb")]
    return [*FOLLOWED, *(f"{place}{switch}" for place in places for switch in ("", "_switch"))]


def draw_sets(config: PosEncoders) -> tuple[Batch, Batch]:
    """Sequences of every set, [seeds, sets, sequences, ...], and of held-out tokens, [seeds, sequences, ...], for all arms."""

    def draw(kind: str) -> Batch:
        slots = part_of_speech.slots(config.task, kind)
        drawn = [sample(stream(jax.random.key(seed), kind), slots, config.sequences) for seed in config.seeds]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)

    trained = [draw(kind) for kind in kinds(config.task)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *trained), draw("holdout")


def follow(
    name: str,
    arm: Arm,
    sets: tuple[Batch, Batch],
    config: PosEncoders,
    workspace: Workspace,
) -> dict[str, Any]:
    """Train one arm with all seeds and follow it. The steps between two evaluations, with their batches, are one dispatch."""
    encoder = MaskedEncoder(config.model, ANSWER, marks=2, std=config.std, vocab=config.task.types, bias=arm.bias)
    judged = evaluation(encoder, arm.forgetting.fresh, config)
    trained_on, held_out = sets
    sets_followed = jax.tree.map(lambda leaf: leaf[:, : len(FOLLOWED)], trained_on), held_out

    def followed(states: TrainState) -> dict[str, Any]:
        return dict(zip(("trained", "unseen"), jax.device_get(judged(states, sets_followed)), strict=True))

    states = work(name, arm, encoder, followed, config, workspace).run()
    at_end = np.round(np.array(jax.device_get(judged(states, sets)[0]), np.float64), 4).T
    courses = evaluations(slug(name), workspace)
    trained, unseen = (np.round(np.array(courses[part], np.float64), 4) for part in ("trained", "unseen"))
    return {
        "accuracy": {
            **{kind: trained[:, :, index] for index, kind in enumerate(FOLLOWED)},
            **{kind: unseen[:, :, index] for index, kind in enumerate(CONTROLS)},
        },
        "by_bin": dict(zip(kinds(config.task)[len(FOLLOWED) :], at_end[len(FOLLOWED) :], strict=True)),
    }


def work(
    name: str,
    arm: Arm,
    encoder: MaskedEncoder,
    followed: Callable[[TrainState], dict[str, Any]],
    config: PosEncoders,
    workspace: Workspace,
) -> Work:
    """The training of one arm with all seeds."""
    import grain

    optimizer = make_optimizer(config.learning_rate, config.weight_decay)
    training = partial(sample, slots=part_of_speech.slots(config.task, "val"), count=config.batch_size)
    step = make_step(encoder, optimizer, arm.forgetting, training)

    def start(key: jax.Array) -> TrainState:
        return create_state(initialize(stream(key, "parameters"), encoder), optimizer, key)

    def anew(trained: TrainState) -> TrainState:
        return create_state(trained.params, optimizer, stream(trained.key, "fine-tuning"))

    begin = partial(create_population, start, config.seeds)
    if arm.steps is not None:
        vanilla = work("vanilla", Arm(Forgetting()), encoder, followed, config, workspace).run()
        begin = partial(jax.vmap(anew), vanilla)

    def dispatched(population: Population) -> TrainStep:
        def alone(state: TrainState, numbers: Any) -> tuple[TrainState, dict[str, jax.Array]]:
            state, losses = jax.lax.scan(lambda state, _: step(state), state, numbers)
            return state, {"loss": losses}

        def one_after_another(states: TrainState, numbers: Any) -> tuple[TrainState, dict[str, jax.Array]]:
            states, metrics = jax.lax.map(lambda state: alone(state, numbers), states)
            return states, jax.tree.map(jnp.transpose, metrics)

        ways = {"none": alone, "map": one_after_another, "vmap": jax.vmap(alone, (0, None), (0, 1))}
        return jax.jit(ways[population], donate_argnums=0)

    numbers = {"step": np.zeros((config.evaluate_every, 1), np.int32)}  # as many as there are steps in a dispatch
    return Work(
        slug(name),
        workspace,
        arm.steps or config.steps,
        config.batch_size,
        tuple((seed, config.learning_rate) for seed in config.seeds),
        begin,
        dispatched,
        lambda: grain.MapDataset.range(MOST).map(lambda _: numbers),
        shared_batches=True,
        drawn=True,
        tokens=part_of_speech.LENGTH,
        evaluate=followed,
    )


@cache
def evaluation(
    encoder: MaskedEncoder, fresh: bool, config: PosEncoders
) -> Callable[[TrainState, tuple[Batch, Batch]], tuple[jax.Array, jax.Array]]:
    """`judged(states, (sets, held_out))`, [seeds, sets]: accuracy among the whole vocabulary, and on held-out tokens as CONTROLS lists.

    Compiled once for all arms of one kind of model.
    """

    def evaluate(state: TrainState, sets: Batch, held_out: Batch) -> tuple[jax.Array, jax.Array]:
        key, table = stream(state.key, "evaluation"), state.params["table"]
        if fresh:
            table = config.std * jax.random.normal(stream(key, "lexicon"), table.shape)

        def accuracy(batch: Batch) -> jax.Array:
            return solved(answer_logits(encoder, state.params, table, batch.tokens), batch, among_context=False).mean()

        def both_scorings(table: jax.Array) -> jax.Array:
            logits = answer_logits(encoder, state.params, table, held_out.tokens)
            return jnp.stack([solved(logits, held_out, among_context=scoring).mean() for scoring in (False, True)])

        seen = config.task.vocab
        tables = [with_held_out(stream(key, rows), table, seen, rows, config.std) for rows in HELD_OUT]
        return jax.lax.map(accuracy, sets), jax.lax.map(both_scorings, jnp.stack(tables)).reshape(-1)

    return jax.jit(lambda states, sets: jax.lax.map(lambda each: evaluate(*each), (states, *sets)))
