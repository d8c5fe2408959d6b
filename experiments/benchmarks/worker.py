"""A process of its own in which train steps are prepared and timed: one request as a line of JSON in, one answer out.

Every library that is compared gets such a process, with the same cores and the same settings of the memory allocator, and waits for its
next request without computing anything.
"""

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import experiments
from experiments.harness.config import from_json, to_json
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import require

# What lexinv.training.allocator does, for processes of any library: buffers are kept, not returned and faulted in again.
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "67108864",
}
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


class WorkerError(RuntimeError):
    """A request failed in the worker. The message is the type of what went wrong; the worker's log has the rest."""


def environment(compilation_cache: Path | None = None) -> dict[str, str]:
    """The variables of every measured process; without a folder it caches no compiled programs."""
    variables = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    if compilation_cache is not None:
        variables["JAX_COMPILATION_CACHE_DIR"] = str(compilation_cache)
    root = str(Path(experiments.__file__).parents[1])
    path = os.pathsep.join([root, *filter(None, [variables.get("PYTHONPATH")])])
    # Several processes share one accelerator; torch.compile shall not leave a pool of compilers behind.
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    return {**variables, **ALLOCATOR, **shared, "PYTHONPATH": path}


class Worker:
    """A started worker; leaving its `with` block ends it. It ends by itself when this process is gone."""

    def __init__(self, log: Path, cores: int, compilation_cache: Path | None = None):
        with open(log, "ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "experiments.benchmarks.worker", str(cores)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=environment(compilation_cache),
                text=True,
            )
        self.log = log

    def ask(self, request: str, **arguments: Any) -> Any:
        """The answer to one of `Bench`'s requests. Raises `WorkerError`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            print(json.dumps({"request": request, "arguments": to_json_arguments(arguments)}), file=self.process.stdin)
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise WorkerError(f"the worker ended during {request!r}; see {self.log}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer["value"]

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # nothing in it is worth waiting for
        self.process.communicate()


def to_json_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: to_json(value) for name, value in arguments.items()}


@dataclass
class Bench:
    """The worker's side: prepared steps by label; each call does one step and waits until it is done."""

    prepared: dict[str, Callable[[], Any]] = field(default_factory=dict)
    idle_since: tuple[float, float] | None = None

    def prepare(
        self, label: str, problem: Any, library: Literal["jax", "torch"] = "jax", compiled: bool = False
    ) -> float:
        """Make a step ready under `label`; seconds that its first call took, which compiles."""
        make = jax_step if library == "jax" else torch_step
        start = time.perf_counter()
        step = make(from_json(Problem, problem), compiled)
        step()
        seconds = time.perf_counter() - start
        step()
        self.prepared[label] = step
        return seconds

    def block(self, label: str, steps: int) -> dict[str, Any]:
        """Do `steps` steps: wall clock of each, processor seconds per step, share of the time since the last block spent computing."""
        step, seconds = self.prepared[label], []
        began, idle = self.clock(), 0.0
        if self.idle_since is not None:
            wall, processor = (now - before for now, before in zip(began, self.idle_since, strict=True))
            idle = processor / wall
        for _ in range(steps):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        self.idle_since = self.clock()
        return {
            "seconds": seconds,
            "processor_seconds": (self.idle_since[1] - began[1]) / steps,
            "idle_share": idle,
        }

    def clock(self) -> tuple[float, float]:
        """Wall clock and processor seconds of all threads of this process."""
        return time.perf_counter(), time.process_time()

    def memory(self, problem: Any) -> int:
        """Peak bytes of the compiled step: temporaries, arguments and outputs, less the outputs written over donated arguments."""
        import jax

        start, step, batches = jax_problem(from_json(Problem, problem))
        state = jax.eval_shape(start, jax.random.key(0))
        analysis = step.lower(state, batches).compile().memory_analysis()
        return (
            analysis.temp_size_in_bytes
            + analysis.argument_size_in_bytes
            + analysis.output_size_in_bytes
            - analysis.alias_size_in_bytes
        )

    def population(
        self, problem: Any, members: int, steps: int, population: Literal["none", "map", "vmap"]
    ) -> list[float]:
        """[seconds that compile, seconds of the steps] of training all members, all at once or, with "none", each in a run of its own."""
        import jax

        from lexinv.training.population import create_population

        parsed, totals = from_json(Problem, problem), [0.0, 0.0]
        for seeds in [range(members)] if population != "none" else [[seed] for seed in range(members)]:
            jax.clear_caches()
            began = time.perf_counter()
            start, step, batches = jax_problem(parsed, population)
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


def jax_problem(problem: Problem, population: Literal["none", "map", "vmap"] = "none"):
    """(start(key) -> state, the train step, its batches [1, B, ...]) of a problem, nothing compiled."""
    import numpy as np

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


def random_tokens(problem: Problem):
    import numpy as np

    shape = (problem.batch_size, problem.context)
    return np.random.default_rng(0).integers(problem.vocab, size=shape, dtype=np.int32)


def jax_step(problem: Problem, compiled: bool) -> Callable[[], Any]:
    """Our train step; `compiled` says nothing, since it always is."""
    import jax

    del compiled
    start, step, batches = jax_problem(problem)
    state, batches = jax.jit(start)(jax.random.key(0)), jax.device_put(batches)

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


def main() -> None:
    """Answer requests until the input ends. What libraries print goes to the log, not among the answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
    bench = Bench()
    requests = {"prepare": bench.prepare, "block": bench.block, "memory": bench.memory, "population": bench.population}
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = {"value": requests[asked["request"]](**asked["arguments"])}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": type(error).__name__}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
