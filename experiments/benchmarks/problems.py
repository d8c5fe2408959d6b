"""The train steps of language models that are measured: a problem of given sizes, in our library and in PyTorch."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import Checked, Count

OPTIMIZER = OptimizerConfig(warmup_steps=0, weight_decay=0.01)
WIDE = 1024
"""The width from which on a step has to use the device."""
STEPS = 1_000_000  # of the learning rate's schedule: so many that it is constant, as in PyTorch


@dataclass(frozen=True)
class Problem(Checked):
    """One train step to measure."""

    model: TransformerConfig
    lexicon: LexiconConfig = LexiconConfig()
    vocab: Count = 128
    batch_size: Count = 16
    context: Count = 256
    microbatches: Count = 1

    def checks(self):
        divides = self.batch_size % self.microbatches == 0
        yield divides, "microbatches", f"a divisor of batch_size {self.batch_size}"

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.batch_size * self.context

    @property
    def lexinvariant(self) -> "Problem":
        """The same step with a lexicon drawn for every sequence."""
        return replace(self, lexicon=replace(self.lexicon, kind="lexinvariant"))

    def with_vocabularies(self, *sizes: tuple[int, int, int]) -> tuple["Problem", ...]:
        """The problem at each (vocabulary, vocab_block, batch size), without microbatches."""
        return tuple(
            replace(self, vocab=vocab, batch_size=rows, microbatches=1, lexicon=LexiconConfig(vocab_block=block))
            for vocab, block, rows in sizes
        )

    def peak_shares(self, seconds: Sequence[float]) -> list[float]:
        """Model FLOP utilisation of steps of these durations on the device here; none below `WIDE`, or where its peak is not known."""
        import jax

        from lexinv.nn.flops import train_flops, utilisation

        flops = self.tokens * train_flops(self.model, self.vocab, self.context)
        shares = [utilisation(flops / each, jax.devices()[0].device_kind, 1) for each in seconds]
        return [share for share in shares if share is not None and self.model.width >= WIDE]

    @property
    def batch(self) -> np.ndarray:
        """The one batch that every step is given, int32[batch, time]."""
        shape = (self.batch_size, self.context)
        return np.random.default_rng(0).integers(self.vocab, size=shape, dtype=np.int32)

    @property
    def params(self) -> Any:
        """Any small numbers, so that no initialisation is compiled."""
        import jax

        shapes = jax.eval_shape(jax_problem(self)[0], jax.random.key(0)).params
        generator = np.random.default_rng(0)
        return jax.tree.map(lambda leaf: 0.1 * generator.standard_normal(leaf.shape, np.float32), shapes)

    def ours(self) -> Callable[[], Any]:
        """Our train step."""
        import jax

        from lexinv.training.optimizers import make_optimizer
        from lexinv.training.state import create_state

        _, step, batches = jax_problem(self)
        return repeated(step, create_state(self.params, make_optimizer(OPTIMIZER, STEPS), jax.random.key(0)), batches)

    def lowered(self) -> Any:
        """Our train step before it is compiled."""
        import jax

        start, step, batches = jax_problem(self)
        return step.lower(jax.eval_shape(start, jax.random.key(0)), batches)

    def theirs(self, compiled: bool) -> Callable[[], float]:
        """The same step in PyTorch; a call gives its loss."""
        import torch

        from experiments.benchmarks.torch_language_model import LanguageModel, make_train_step

        device = torch_device()
        step = make_train_step(
            LanguageModel(self.model, self.params).to(device), OPTIMIZER, self.microbatches, compiled
        )
        tokens = torch.from_numpy(self.batch).long().to(device)
        return lambda: step(tokens).item()


def transformer(depth: int, width: int, heads: int, context: int, **rest: Any) -> TransformerConfig:
    """With learned positions and an MLP four times as wide, layers unrolled; `rest` changes any field."""
    sizes = {"depth": depth, "width": width, "heads": heads, "mlp_width": 4 * width, "max_length": context}
    return TransformerConfig(**{**sizes, "positions": "learned", "unroll": depth, **rest})


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
    return start, step, {"tokens": problem.batch[None], "row": rows[None]}


def repeated(step: Callable[..., tuple[Any, Any]], state: Any, *given: Any) -> Callable[[], tuple[Any, Any]]:
    """A call does the step once more, from where the last one ended, and waits: the state and what the step measured."""
    import jax

    given = jax.device_put(given)

    def call() -> tuple[Any, Any]:
        nonlocal state
        state, found = step(state, *given)
        return jax.block_until_ready((state, found))

    return call


def timed_population(
    problem: Problem, members: int, steps: int, population: Literal["none", "map", "vmap"]
) -> list[float]:
    """[seconds that compile, seconds of the steps] of training all members, all at once or, with "none", each in a run of its own."""
    import jax

    from lexinv.training.population import create_population

    totals = [0.0, 0.0]
    for seeds in [range(members)] if population != "none" else [[seed] for seed in range(members)]:
        jax.clear_caches()
        began = time.perf_counter()
        start, step, batches = jax_problem(problem, population)
        if population == "none":
            state = jax.jit(start)(jax.random.key(seeds[0]))
        else:
            state = create_population(start, seeds)
            batches = jax.tree.map(lambda leaf: leaf[:, None].repeat(members, axis=1), batches)
        state, metrics = jax.block_until_ready(step(state, batches))
        compiled = time.perf_counter()
        for _ in range(steps - 1):
            state, metrics = step(state, batches)
        jax.block_until_ready((state, metrics))
        totals = [totals[0] + compiled - began, totals[1] + time.perf_counter() - compiled]
    return totals


def torch_device() -> Any:
    """PyTorch's accelerator or the processor, with as many threads as this process has cores."""
    import torch

    if hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
