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
from experiments.benchmarks.autoencoder_problem import (
    AutoencoderProblem,
    jax_autoencoder_step,
    planned_bytes,
    torch_autoencoder_step,
)
from experiments.benchmarks.forgetting_problem import ForgettingProblem, jax_steps, torch_steps
from experiments.benchmarks.merging_problem import (
    MatchingProblem,
    MergingProblem,
    jax_forward,
    jax_matching,
    timed_start,
    torch_forward,
    torch_matching,
)
from experiments.benchmarks.problems import Problem, jax_problem, jax_step, torch_step
from experiments.benchmarks.scaling_problem import compiled_program
from experiments.harness.config import from_json, to_json
from lexinv.training.mesh import MeshConfig

# What lexinv.training.allocator does, for processes of any library: buffers are kept, not returned and faulted in again.
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "3",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "67108864",
}


class WorkerError(RuntimeError):
    """A request failed in the worker. The message is the type of what went wrong; the worker's log has the rest."""


def environment(
    compilation_cache: Path | None = None, keep_memory: bool = True, fake_devices: int = 0
) -> dict[str, str]:
    """The variables of every measured process; without a folder it caches no compiled programs.

    Without `keep_memory` freed memory goes back to the kernel, so that what a process holds is what it needs.
    fake_devices: so many CPUs that JAX sees, to compile for. LLVM, which comes after what is read of a program, is told not to try hard.
    """
    ours = {"JAX_COMPILATION_CACHE_DIR", *ALLOCATOR}
    variables = {name: value for name, value in os.environ.items() if name not in ours}
    if compilation_cache is not None:
        variables["JAX_COMPILATION_CACHE_DIR"] = str(compilation_cache)
    root = str(Path(experiments.__file__).parents[1])
    path = os.pathsep.join([root, *filter(None, [variables.get("PYTHONPATH")])])
    # Several processes share one accelerator; torch.compile shall not leave a pool of compilers behind.
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    if fake_devices:
        flags = f"--xla_force_host_platform_device_count={fake_devices} --xla_backend_optimization_level=0"
        shared |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{variables.get('XLA_FLAGS', '')} {flags}"}
    return {**variables, **(ALLOCATOR if keep_memory else {}), **shared, "PYTHONPATH": path}


class Worker:
    """A started worker; leaving its `with` block ends it. It ends by itself when this process is gone."""

    def __init__(
        self,
        log: Path,
        cores: int,
        compilation_cache: Path | None = None,
        keep_memory: bool = True,
        fake_devices: int = 0,
    ):
        with open(log, "ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "experiments.benchmarks.worker", str(cores)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=environment(compilation_cache, keep_memory, fake_devices),
                text=True,
            )
        self.log = log

    def ask(self, request: str, **arguments: Any) -> Any:
        """The answer to one of `Bench`'s requests. Raises `WorkerError`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            values = {name: to_json(value) for name, value in arguments.items()}
            print(json.dumps({"request": request, "arguments": values}), file=self.process.stdin)
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise self.failure("the process ended")
        answer = json.loads(line)
        if "error" in answer:
            raise self.failure(answer["error"])
        return answer["value"]

    def failure(self, message: str) -> WorkerError:
        error = WorkerError(message)
        error.add_note(f"see {self.log}")  # apart from the message, which may enter a record
        return error

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # nothing in it is worth waiting for
        self.process.communicate()


@dataclass
class Bench:
    """The worker's side: prepared steps by label; each call does one step and waits until it is done."""

    prepared: dict[str, Callable[[], Any]] = field(default_factory=dict)
    idle_since: tuple[float, float] | None = None

    def prepare(
        self,
        label: str,
        problem: Any,
        library: Literal["jax", "torch"] = "jax",
        compiled: bool = False,
        kind: Literal["language_model", "forgetting", "autoencoder", "merging", "matching"] = "language_model",
    ) -> float:
        """Make a step ready under `label`; seconds that its first call took, which compiles."""
        parse, makers = {
            "language_model": (Problem, {"jax": jax_step, "torch": torch_step}),
            "forgetting": (ForgettingProblem, {"jax": jax_steps, "torch": torch_steps}),
            "autoencoder": (AutoencoderProblem, {"jax": jax_autoencoder_step, "torch": torch_autoencoder_step}),
            "merging": (MergingProblem, {"jax": jax_forward, "torch": torch_forward}),
            "matching": (MatchingProblem, {"jax": jax_matching, "torch": torch_matching}),
        }[kind]
        start = time.perf_counter()
        step = makers[library](from_json(parse, problem), compiled)
        step()
        seconds = time.perf_counter() - start
        step()
        self.prepared[label] = step
        return seconds

    def block(self, label: str, steps: int) -> dict[str, Any]:
        """Do `steps` steps: wall clock of each, processor seconds per step, and both clocks since the last block."""
        step, seconds, began = self.prepared[label], [], self.clock()
        waited = [now - before for now, before in zip(began, self.idle_since or began, strict=True)]
        for _ in range(steps):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        self.idle_since = self.clock()
        return {
            "seconds": seconds,
            "processor_seconds": (self.idle_since[1] - began[1]) / steps,
            "waited": waited,
        }

    def clock(self) -> tuple[float, float]:
        """Wall clock and processor seconds of all threads of this process."""
        return time.perf_counter(), time.process_time()

    def start(self, problem: Any) -> dict[str, Any]:
        """Seconds that a forward pass with merging takes until it has run once, by part, and how many programs further calls make."""
        return timed_start(from_json(MergingProblem, problem))

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

    def planned(self, problem: Any) -> int:
        """Peak bytes of an autoencoder's compiled step; nothing is run."""
        return planned_bytes(from_json(AutoencoderProblem, problem))

    def program(self, problem: Any, mesh: Any) -> dict[str, Any]:
        """What one device of a mesh does and holds in a step, as compiled; nothing is run."""
        return compiled_program(from_json(Problem, problem), from_json(MeshConfig, mesh))

    def resident(self) -> dict[str, int]:
        """Bytes of memory that this process holds, and the most that it has held since this was last asked."""
        status = Path("/proc/self/status").read_text()
        Path("/proc/self/clear_refs").write_text("5")  # the most is from now on counted anew
        return {name: 1024 * int(status.split(f"{name}:")[1].split()[0]) for name in ("VmRSS", "VmHWM")}

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


def main() -> None:
    """Answer requests until the input ends. What libraries print goes to the log, not among the answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
    bench = Bench()
    names = ("prepare", "block", "memory", "planned", "program", "resident", "population", "start")
    requests = {name: getattr(bench, name) for name in names}
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
