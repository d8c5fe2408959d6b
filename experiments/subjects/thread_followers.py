"""Models that follow threads of symbols: trained on items drawn inside the step, then asked by haystack, thread, form and depth."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from experiments.harness.training import Training, train
from experiments.harness.workspace import Workspace
from experiments.subjects.text import MUON, SUFFIX_MATCH
from lexinv.lexinvariance import threads
from lexinv.lexinvariance.threads import Limits
from lexinv.nn.language_model import Params, initialize, make_logits, make_nll
from lexinv.nn.lexicon import LexiconConfig, row_keys
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.mesh import MeshConfig
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Counts

DEPTHS = 5
"""Bins of depth, in which single links are counted."""


@dataclass(frozen=True)
class TaskConfig(Checked):
    """What models are trained and evaluated on.

    trained: the largest item of training; fewest_pairs: the smallest haystack. pairs: the haystacks of evaluation. compared: the one on
    which directions, forms of answer and numbers of threads are compared; `threads` threads of `thread_length` links each.
    items: of each setting and seed.
    """

    trained: Limits = Limits(symbols=384, pairs=24, threads=4, length=4)
    fewest_pairs: Count = 8
    pairs: Counts = (8, 16, 24, 48, 96, 192)
    compared: Count = 24
    threads: Counts = (1, 2, 4, 8)
    thread_length: Count = 2
    items: Count = 100

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        trained, pairs = self.trained, self.pairs
        yield (
            trained.length <= self.fewest_pairs <= trained.pairs,
            "fewest_pairs",
            f"{trained.length} to {trained.pairs}",
        )
        among = {self.compared, trained.pairs} <= set(pairs)
        yield among and list(pairs) == sorted(pairs), "pairs", f"ascending, with {self.compared} and {trained.pairs}"
        yield pairs[-1] > trained.pairs, "pairs", f"some beyond the trained {trained.pairs}"
        yield 2 * pairs[-1] <= trained.symbols, "pairs", f"at most half of the {trained.symbols} symbols"
        yield 1 in self.threads and len(self.threads) > 1, "threads", "1 and more"
        links = max(self.threads) * self.thread_length
        yield links <= self.compared, "threads", f"at most {self.compared} links in all"
        yield self.items >= DEPTHS, "items", f"at least {DEPTHS}"


@dataclass(frozen=True)
class ModelsConfig(Checked):
    """The models, how they are trained, and on what."""

    model: TransformerConfig = replace(SUFFIX_MATCH, width=128, mlp_width=128, max_length=1024)
    training: Training = Training(steps=300, batch_size=32, seeds=(0, 1, 2), optimizer=MUON)
    task: TaskConfig = TaskConfig()

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        longest = 3 * self.task.pairs[-1] + 2 * self.task.trained.length + 1
        yield longest <= self.model.max_length, "model.max_length", f"at least the {longest} of the longest haystack"
        alone = self.training.mesh == MeshConfig() and self.training.microbatches == 1
        yield alone, "training", "one device and one microbatch: items are drawn inside the step"


def make_answer_loss(model: TransformerConfig, lexicon: LexiconConfig, task: TaskConfig):
    """Mean nats per token of an answer, on items drawn from the step's key: `loss(params, {"row": [B]}, key)`."""
    limits = task.trained
    nll = make_nll(model, lexicon, limits.vocab)

    def loss(params: Params, batch: dict[str, Array], key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        row = batch["row"]
        settings = jax.vmap(lambda rng: threads.draw_setting(rng, limits, task.fewest_pairs))(
            row_keys(stream(key, "settings"), row)
        )
        items = threads.sample_items(row_keys(stream(key, "items"), row), limits, settings)
        nats = nll(params, {"tokens": items.tokens, "row": row}, stream(key, "lexica"))
        counted = (items.thread >= 0).astype(nats.dtype)
        return jnp.sum(nats * counted) / jnp.sum(counted), {}

    return loss


def trained(kind: str, config: ModelsConfig, workspace: Workspace) -> dict[str, Any]:
    """One model per seed, trained and evaluated on everything."""
    task, lexicon, training = config.task, LexiconConfig(kind), config.training
    start = partial(initialize, config.model, lexicon, task.trained.vocab)
    loss = make_answer_loss(config.model, lexicon, task)
    params = train(kind, start, loss, None, training, workspace, tokens=task.trained.time)
    judge = make_judge(config, kind)
    found = [measure(partial(judge, tree), config, seed) for tree, seed in zip(params, training.seeds, strict=True)]
    return {name: [one[name] for one in found] for name in found[0]}


def untrained(name: str, config: ModelsConfig) -> dict[str, Any]:
    """Single links by lexinvariant models before training: as the circuit initialises them, or without it."""
    model = config.model if name == "circuit" else replace(config.model, initialization="normal")
    plain = replace(config, model=model)
    judge, vocab = make_judge(plain, "lexinvariant"), config.task.trained.vocab
    rows = []
    for seed in config.training.seeds:
        key = stream(jax.random.key(seed), "parameters")
        params = jax.jit(lambda key: initialize(model, LexiconConfig("lexinvariant"), vocab, key))(key)
        rows.append([share(judge(params, seed, pairs=pairs)[0]) for pairs in config.task.pairs])
    return {"single": rows}


Judge = Callable[..., tuple[np.ndarray, np.ndarray]]


def make_judge(config: ModelsConfig, kind: str) -> Judge:
    """`judge(params, seed, **setting)`: which threads are answered [items, threads], and the depth in [0, 1] of each item's first link.

    Models of the same seed are asked the same.
    """
    task, limit = config.task, config.model.max_length
    logits = make_logits(config.model, LexiconConfig(kind), task.trained.vocab)

    @partial(jax.jit, static_argnums=2)
    def answers(params: Params, rng: Key[Array, ""], limits: Limits, asked: threads.Setting):
        def one(rng: Key[Array, ""]):
            items = threads.sample_items(rng[None], limits, asked)
            batch = {"row": jnp.zeros(1, jnp.int32)}
            right = threads.evaluate(lambda t: logits(params, batch | {"tokens": t}, rng), items, limit)
            return right[0], items.positions[0, 0, 0]

        # A few items at a time: attention holds the square of an item's tokens.
        return jax.lax.map(one, jax.random.split(rng, task.items), batch_size=max(1, 4096 // limits.time))

    def judge(params: Params, seed: int, **setting) -> tuple[np.ndarray, np.ndarray]:
        pairs, count = setting["pairs"], setting.get("threads", 1)
        length = max(task.trained.length, task.thread_length) if count == 1 else task.thread_length
        limits = replace(task.trained, pairs=pairs, threads=count, length=min(length, pairs))
        rng = stream(jax.random.key(seed), f"evaluation {sorted(setting.items())}")
        right, position = jax.device_get(answers(params, rng, limits, threads.setting(limits, **setting)))
        return right[:, :count], position / max(pairs - 1, 1)

    return judge


def measure(judge: Judge, config: ModelsConfig, seed: int) -> dict[str, Any]:
    """Accuracies of one model: by haystack and length of the thread, by depth, by direction and form of the answer, by threads."""
    task = config.task
    lengths = range(1, task.trained.length + 1)
    chains = [[judge(seed, pairs=n, length=length, direction="forward") for n in task.pairs] for length in lengths]
    directions = {
        f"{form} {direction}": [
            share(judge(seed, pairs=task.compared, length=length, direction=direction, direct=form == "direct")[0])
            for length in lengths
        ]
        for form in ("chain", "direct")
        for direction in ("forward", "backward")
    }
    return {
        "chains": [[share(right) for right, _ in row] for row in chains],
        "depths": [by_depth(*cell) for cell in chains[0]],
        "threads": [
            share(judge(seed, pairs=task.compared, length=task.thread_length, threads=count)[0])
            for count in task.threads
        ],
        **directions,
    }


def share(right: np.ndarray) -> float:
    return float(right.mean())


def by_depth(right: np.ndarray, depth: np.ndarray) -> list[list[int]]:
    """Right answers and items in each bin of depths."""
    bins = np.minimum((depth * DEPTHS).astype(int), DEPTHS - 1)
    return [np.bincount(bins, weights, DEPTHS).astype(int).tolist() for weights in (right[:, 0], None)]
