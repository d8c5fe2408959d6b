"""Models that follow threads of symbols: trained on items drawn inside the step, then asked by haystack, thread, form and depth."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from experiments.harness.training import Training, train
from experiments.harness.workspace import Workspace
from lexinv.lexinvariance import threads
from lexinv.lexinvariance.threads import Limits
from lexinv.nn.language_model import Params, initialize, make_logits, make_nll
from lexinv.nn.lexicon import LexiconConfig, row_keys
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.mesh import MeshConfig
from lexinv.training.streams import stream
from lexinv.validation import require

DEPTHS = 5
"""Bins of depth, in which single links are counted."""


@dataclass(frozen=True)
class TaskConfig:
    """What models are trained and evaluated on.

    trained: the largest item of training; fewest_pairs: the smallest haystack. pairs: the haystacks of evaluation. compared: the one on
    which directions, forms of answer and numbers of threads are compared; `threads` threads of `thread_length` links each.
    items: of each setting and seed.
    """

    trained: Limits = Limits(symbols=384, pairs=24, threads=4, length=4)
    fewest_pairs: int = 8
    pairs: tuple[int, ...] = (8, 16, 24, 48, 96, 192)
    compared: int = 24
    threads: tuple[int, ...] = (1, 2, 4, 8)
    thread_length: int = 2
    items: int = 100

    def __post_init__(self):
        trained, pairs = self.trained, self.pairs
        smallest = f"{trained.length} to {trained.pairs}"
        require(trained.length <= self.fewest_pairs <= trained.pairs, "task.fewest_pairs", self.fewest_pairs, smallest)
        ascending = list(pairs) == sorted(set(pairs)) and {self.compared, trained.pairs} <= set(pairs)
        require(ascending, "task.pairs", pairs, f"ascending, with {self.compared} and {trained.pairs} among them")
        require(pairs[-1] > trained.pairs, "task.pairs", pairs, f"some beyond the trained {trained.pairs}")
        symbols = 2 * pairs[-1]
        require(symbols <= trained.symbols, "task.pairs", pairs, f"at most half of the {trained.symbols} symbols")
        require(1 in self.threads and len(self.threads) > 1, "task.threads", self.threads, "1 and more")
        links = max(self.threads) * self.thread_length
        require(links <= self.compared, "task.threads", self.threads, f"at most {self.compared} links in all")
        require(self.items >= DEPTHS, "task.items", self.items, f"at least {DEPTHS}")


@dataclass(frozen=True)
class ModelsConfig:
    """The models, how they are trained, and on what."""

    model: TransformerConfig
    training: Training
    task: TaskConfig = TaskConfig()

    def __post_init__(self):
        longest = 3 * self.task.pairs[-1] + 2 * self.task.trained.length + 1
        room = self.model.max_length
        require(longest <= room, "model.max_length", room, f"at least the {longest} tokens of the longest haystack")
        alone = self.training.mesh == MeshConfig() and self.training.microbatches == 1
        require(alone, "training", self.training, "one device and one microbatch: items are drawn inside the step")


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
