"""Masked encoders of the part-of-speech task that forget their embeddings in training, over a grid of tasks as one population.

Anand et al. 2024 (arXiv 2406.00053), the synthetic setting; method card dual-process-learning. Tasks of all skews, vocabularies and
shares of ambiguous tokens, and all schedules of forgetting, run one program: they are data, and small vocabularies use some of the rows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.harness.training import evaluations
from experiments.harness.work import Population, Work
from experiments.harness.workspace import Workspace
from lexinv.lexinvariance import part_of_speech
from lexinv.lexinvariance.forgetting import (
    HELD_OUT,
    Forgetting,
    answer_logits,
    due,
    initialize,
    make_optimizer,
    make_step,
    solved,
    with_held_out,
)
from lexinv.lexinvariance.part_of_speech import ANSWER, Batch, PosTask, Slots, among, cumulative, sample_by
from lexinv.nn.masked_encoder import MaskedEncoder
from lexinv.nn.transformer import TransformerConfig
from lexinv.randomness import threefry
from lexinv.training.population import create_population, over_members
from lexinv.training.state import TrainState, create_state
from lexinv.training.step import TrainStep
from lexinv.training.streams import stream
from lexinv.validation import MOST, Checked, Count, Counts, Distinct, NonNegative, Positive, Seeds

TRAINED = ("val", "switch", "head_switch", "tail_switch")
"""Sets of tokens that training shows."""
FOLLOWED = (*TRAINED, *(f"holdout {rows}" for rows in HELD_OUT))
"""What is followed: they, and held-out tokens by how their vectors are drawn."""
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


class Cell(NamedTuple):
    """A task of the grid."""

    skew: float
    vocab: int
    ambiguity: float


@dataclass(frozen=True)
class PosEncoders(Checked):
    """skews: exponents of Zipf's law, 0 for uniform. vocabularies: nouns and adjectives. ambiguities: shares of ambiguous tokens, ε.

    task: what all tasks share. std: of the table at first and whenever it is re-initialised. weight_decay: AdamW's. In a short run at a
    high rate nothing is forgotten by itself without a large one (ours, found on other seeds); the paper's is 0.01 over 62,500 steps.
    evaluate_every: steps from one evaluation to the next, each on `sequences` sequences of every set.
    """

    skews: Distinct[float] = (0.0, 1.2, 1.5)
    vocabularies: Counts = (100, 400)
    ambiguities: Distinct[float] = (0.1, 0.5)
    task: PosTask = PosTask(vocab=100, holdout=40)
    model: TransformerConfig = replace(MODEL, width=32, mlp_width=64)
    steps: Count = 1500
    batch_size: Count = 32
    seeds: Seeds = (0, 1, 2, 3, 4, 5)
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 1.0
    std: Positive = 0.3
    evaluate_every: Count = 250
    sequences: Count = 200

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield not self.model.causal, "model.causal", "False: the masks are filled in from both sides"
        yield self.steps % self.evaluate_every == 0, "evaluate_every", f"a divisor of {self.steps}"
        _ = self.tasks  # refuses what the task does not allow

    @cached_property
    def tasks(self) -> dict[Cell, PosTask]:
        """The grid."""
        cells = (Cell(*cell) for cell in product(self.skews, self.vocabularies, self.ambiguities))
        return {c: replace(self.task, alpha=c.skew, vocab=c.vocab, ambiguity=c.ambiguity) for c in cells}

    @property
    def largest(self) -> PosTask:
        """The task whose token ids all have."""
        return replace(self.task, vocab=max(self.vocabularies))

    def laws(self, cells: Sequence[Cell], kind: str) -> Slots:
        """Cumulative distributions [cells, types] of a set of every task."""
        tasks = [self.tasks[cell] for cell in cells]
        found = [cumulative(among(part_of_speech.slots(task, kind), task, self.largest)) for task in tasks]
        return jax.tree.map(lambda *rows: np.stack(rows), *found)

    @property
    def encoder(self) -> MaskedEncoder:
        return MaskedEncoder(self.model, ANSWER, marks=2, std=self.std, vocab=self.largest.types)


class Members(NamedTuple):
    """The models of a population: each of `arms` on each of `cells` with every seed, in this order."""

    arms: tuple[str, ...]
    cells: tuple[Cell, ...]

    def spread(self, values: Array) -> np.ndarray:
        """[members, ...] as [arms, cells, seeds, ...]."""
        found = np.asarray(values, np.float64)
        return np.round(found.reshape(len(self.arms), len(self.cells), -1, *found.shape[1:]), 4)


def follow(
    name: str,
    arms: Mapping[str, Forgetting],
    cells: Sequence[Cell],
    config: PosEncoders,
    workspace: Workspace,
    trained: TrainState | None = None,
    steps: int | None = None,
) -> tuple[TrainState, dict[str, dict[str, np.ndarray]]]:
    """Train every arm on every task with all seeds as one population and follow it: the states, and by arm and set the accuracies among
    the tokens that a sequence shows, [cells, seeds, evaluations].

    All arms differ in their schedules only. trained: models to go on with for `steps` steps, with a new optimiser.
    """
    members = Members(tuple(arms), tuple(cells))
    work = population(name, arms, members, config, workspace, trained, steps or config.steps)
    states = work.run()
    courses = members.spread(evaluations(name, workspace)["accuracy"])
    return states, {
        arm: {kind: courses[i, ..., place] for place, kind in enumerate(FOLLOWED)} for i, arm in enumerate(arms)
    }


def population(
    name: str,
    arms: Mapping[str, Forgetting],
    members: Members,
    config: PosEncoders,
    workspace: Workspace,
    trained: TrainState | None,
    steps: int,
) -> Work:
    """The training of `follow`. The steps between two evaluations, with their batches, are one dispatch."""
    import grain

    optimizer, encoder = make_optimizer(config.learning_rate, config.weight_decay), config.encoder
    places = list(product(range(len(arms)), range(len(members.cells)), config.seeds))
    laws = config.laws(members.cells, "val")
    schedules = np.array([(f.period, steps if f.until is None else f.until) for f in arms.values()], np.float32)
    kind = replace(next(iter(arms.values())), period=0, until=None)

    def start(key: jax.Array, arm: Array, cell: Array) -> TrainState:
        arm, cell = arm.astype(int), cell.astype(int)
        given = {
            "laws": jax.tree.map(lambda rows: jnp.asarray(rows)[cell], laws),
            "schedule": jnp.asarray(schedules)[arm],
        }
        params = {**initialize(stream(key, "parameters"), encoder), "given": given}
        return create_state(params, optimizer, key)

    def anew(state: TrainState) -> TrainState:
        return create_state(state.params, optimizer, stream(state.key, "fine-tuning"))

    seeds = [seed for _, _, seed in places]
    # Members have numbers of their own as float32, by which they find their schedule and task.
    numbers = ([float(place[i]) for place in places] for i in (0, 1))
    begin = partial(create_population, start, seeds, *numbers)
    if trained is not None:
        begin = partial(jax.vmap(anew), trained)

    def step(state: TrainState) -> tuple[TrainState, Array]:
        given = jax.lax.stop_gradient(state.params["given"])
        draw = partial(sample_by, cumulative=given["laws"], count=config.batch_size)
        when = partial(due, *given["schedule"].astype(int))
        return make_step(encoder, optimizer, kind, draw, used_tokens(given["laws"], config), when)(state)

    def dispatched(population: Population) -> TrainStep:
        def alone(state: TrainState, numbers: Any) -> tuple[TrainState, dict[str, jax.Array]]:
            state, losses = jax.lax.scan(lambda state, _: step(state), state, numbers)
            return state, {"loss": losses}

        def one_after_another(states: TrainState, numbers: Any) -> tuple[TrainState, dict[str, jax.Array]]:
            states, metrics = jax.lax.map(lambda state: alone(state, numbers), states)
            return states, jax.tree.map(jnp.transpose, metrics)

        ways = {"none": alone, "map": one_after_another, "vmap": jax.vmap(alone, (0, None), (0, 1))}
        return jax.jit(ways[population], donate_argnums=0)

    judged = evaluation(members, config)
    rows = {"step": np.zeros((config.evaluate_every, 1), np.int32)}  # as many as there are steps in a dispatch
    return Work(
        name,
        workspace,
        steps,
        config.batch_size,
        tuple((seed, config.learning_rate) for seed in seeds),
        begin,
        dispatched,
        lambda: grain.MapDataset.range(MOST).map(lambda _: rows),
        shared_batches=True,
        drawn=True,
        tokens=part_of_speech.LENGTH,
        evaluate=lambda states: {"accuracy": jax.device_get(judged(states))},
    )


def used_tokens(laws: Slots, config: PosEncoders) -> Array:
    """Which rows of the table are tokens of a task, given the laws of its training: those that it can draw, and the held-out ones."""
    possible = [jnp.diff(law, prepend=0.0) > 0 for law in laws]
    return possible[0] | possible[1] | (jnp.arange(config.largest.types) >= config.largest.vocab)


def evaluation(members: Members, config: PosEncoders) -> Callable[[TrainState], Float[Array, "members sets"]]:
    """`judged(states)`: accuracies on the sets of FOLLOWED, each on sequences of its own for every seed and the same in all evaluations."""
    encoder, seen = config.encoder, config.largest.vocab
    tables = {kind: config.laws(members.cells, kind) for kind in (*TRAINED, "holdout")}
    count = len(members.cells)

    def evaluate(state: TrainState, cell: Array, seed_key: Array) -> Float[Array, " sets"]:
        def accuracy(kind: str, table: Array) -> Array:
            laws = jax.tree.map(lambda rows: jnp.asarray(rows)[cell], tables[kind])
            batch: Batch = sample_by(stream(seed_key, kind), laws, config.sequences)
            return solved(answer_logits(encoder, state.params, table, batch.tokens), batch, among_context=True).mean()

        table = state.params["table"]
        unseen = [with_held_out(stream(seed_key, rows), table, seen, rows, config.std) for rows in HELD_OUT]
        return jnp.stack(
            [*(accuracy(kind, table) for kind in TRAINED), *(accuracy("holdout", table) for table in unseen)]
        )

    places = jnp.array([cell for _ in members.arms for cell in range(count) for _ in config.seeds])
    keys = [threefry(jax.random.key(seed)) for seed in config.seeds]
    seed_keys = jnp.stack(keys * len(members.arms) * count)
    return jax.jit(lambda states: over_members(lambda each: evaluate(*each), (states, places, seed_keys)))


def chosen(states: TrainState, members: Members, arm: str, cell: Cell, seeds: int) -> TrainState:
    """The states of one arm on one task, [seeds]."""
    first = (members.arms.index(arm) * len(members.cells) + members.cells.index(cell)) * seeds
    return jax.tree.map(lambda leaf: leaf[first : first + seeds], states)
