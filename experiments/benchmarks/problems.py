"""The train steps that are measured: a problem of given sizes, in our library and in PyTorch."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import require

OPTIMIZER = OptimizerConfig(warmup_steps=0, weight_decay=0.01)
STEPS = 1_000_000  # of the learning rate's schedule: so many that it is constant, as in PyTorch


@dataclass(frozen=True)
class Problem:
    """One train step to measure."""

    model: TransformerConfig
    lexicon: LexiconConfig = LexiconConfig()
    vocab: int = 128
    batch_size: int = 16
    context: int = 256
    microbatches: int = 1

    def __post_init__(self):
        for name in ("vocab", "batch_size", "context", "microbatches"):
            require(getattr(self, name) >= 1, f"problem.{name}", getattr(self, name), "at least 1")
        divides = self.batch_size % self.microbatches == 0
        require(divides, "problem.microbatches", self.microbatches, f"a divisor of batch_size {self.batch_size}")

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.batch_size * self.context


def jax_problem(problem: Problem, population: Literal["none", "map", "vmap"] = "none"):
    """(start(key) -> state, the train step, its batches [1, B, ...]) of a problem, nothing compiled."""
    from lexinv.nn.language_model import initialize, make_loss
    from lexinv.training.optimizers import make_optimizer
    from lexinv.training.state import create_state
    from lexinv.training.step import make_train_step

    optimizer = make_optimizer(OPTIMIZER, STEPS)

    def start(key):
        return create_state(initialize(problem.model, problem.lexicon, problem.vocab, key), optimizer, key)

    loss = make_loss(problem.model, problem.lexicon, problem.vocab)
    step = make_train_step(loss, optimizer, microbatches=problem.microbatches, population=population)
    rows = np.arange(problem.batch_size, dtype=np.int32)
    return start, step, {"tokens": random_tokens(problem)[None], "row": rows[None]}


def random_tokens(problem: Problem) -> np.ndarray:
    """The one batch that every step of a problem is given, int32[batch, time]."""
    shape = (problem.batch_size, problem.context)
    return np.random.default_rng(0).integers(problem.vocab, size=shape, dtype=np.int32)


def jax_step(problem: Problem, compiled: bool) -> Callable[[], Any]:
    """Our train step; `compiled` says nothing, since it always is."""
    import jax

    from lexinv.training.optimizers import make_optimizer
    from lexinv.training.state import create_state

    del compiled
    start, step, batches = jax_problem(problem)
    key, generator = jax.random.key(0), np.random.default_rng(0)
    # No initialisation is compiled here: any small numbers do.
    params = jax.tree.map(
        lambda leaf: 0.1 * generator.standard_normal(leaf.shape, np.float32), jax.eval_shape(start, key).params
    )
    state, batches = create_state(params, make_optimizer(OPTIMIZER, STEPS), key), jax.device_put(batches)

    def call():
        nonlocal state
        state, metrics = step(state, batches)
        return jax.block_until_ready((state, metrics))

    return call


def torch_step(problem: Problem, compiled: bool) -> Callable[[], Any]:
    """The same step in PyTorch, on its accelerator if there is one."""
    import torch

    from experiments.benchmarks.torch_language_model import LanguageModel, make_train_step

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = LanguageModel(problem.model, problem.vocab).to(device)
    step = make_train_step(model, OPTIMIZER, problem.microbatches, compiled)
    tokens = torch.from_numpy(random_tokens(problem)).long().to(device)

    def call():
        loss = step(tokens)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return loss

    return call
