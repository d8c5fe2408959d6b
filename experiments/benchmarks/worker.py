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
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Literal

import experiments
from experiments.benchmarks import autoencoder_problem as autoencoder
from experiments.benchmarks import forgetting_problem as forgetting
from experiments.benchmarks import merging_problem as merging
from experiments.benchmarks import problems as language_model
from experiments.benchmarks.problems import Problem, planned_bytes
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
# By problem: a step of ours, and PyTorch's, which may be compiled.
MAKERS: dict[type, tuple[Callable[[Any], Callable[[], Any]], Callable[[Any, bool], Callable[[], Any]]]] = {
    Problem: (language_model.jax_step, language_model.torch_step),
    forgetting.ForgettingProblem: (forgetting.jax_steps, forgetting.torch_steps),
    autoencoder.AutoencoderProblem: (autoencoder.jax_autoencoder_step, autoencoder.torch_autoencoder_step),
    merging.MergingProblem: (merging.jax_forward, merging.torch_forward),
    merging.MatchingProblem: (merging.jax_matching, merging.torch_matching),
}
PARSED = {kind.__name__: kind for kind in (*MAKERS, MeshConfig)}


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


def packed(value: Any) -> Any:
    """As JSON: a problem with the name of its class."""
    return {"kind": type(value).__name__, "value": to_json(value)} if is_dataclass(value) else value


def unpacked(value: Any) -> Any:
    return from_json(PARSED[value["kind"]], value["value"]) if isinstance(value, dict) else value


class Worker:
    """A started worker; leaving its `with` block ends it. It ends by itself when this process is gone. Takes what `environment` takes."""

    def __init__(self, log: Path, cores: int, *arguments: Any, **variables: Any):
        with open(log, "ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "experiments.benchmarks.worker", str(cores)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=environment(*arguments, **variables),
                text=True,
            )
        self.log = log

    def ask(self, request: str, **arguments: Any) -> Any:
        """The answer to one of the requests that `main` knows. Raises `WorkerError`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            values = {name: packed(value) for name, value in arguments.items()}
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
    """The worker's side: prepared calls by label, each with the number of steps that it does and waits for."""

    prepared: dict[str, tuple[Callable[[], Any], int]] = field(default_factory=dict)
    idle_since: tuple[float, float] | None = None

    def prepare(
        self, label: str, problem: Any, library: Literal["jax", "torch"] = "jax", compiled: bool = False
    ) -> float:
        """Make a step ready under `label`; seconds that its first call took, which compiles."""
        ours, theirs = MAKERS[type(problem)]
        start = time.perf_counter()
        call = ours(problem) if library == "jax" else theirs(problem, compiled)
        call()
        seconds = time.perf_counter() - start
        call()
        self.prepared[label] = call, getattr(problem, "steps", 1)
        return seconds

    def block(self, label: str, steps: int) -> dict[str, Any]:
        """Call it `steps` times: seconds of a step in each call, processor seconds per step, and both clocks since the last block."""
        (call, each), seconds, began = self.prepared[label], [], self.clock()
        waited = [now - before for now, before in zip(began, self.idle_since or began, strict=True)]
        for _ in range(steps):
            start = time.perf_counter()
            call()
            seconds.append((time.perf_counter() - start) / each)
        self.idle_since = self.clock()
        return {
            "seconds": seconds,
            "processor_seconds": (self.idle_since[1] - began[1]) / steps / each,
            "waited": waited,
        }

    def clock(self) -> tuple[float, float]:
        """Wall clock and processor seconds of all threads of this process."""
        return time.perf_counter(), time.process_time()


def planned(problem: Any) -> int:
    """Peak bytes of a compiled train step; nothing is run."""
    lowered = autoencoder.lowered if isinstance(problem, autoencoder.AutoencoderProblem) else language_model.lowered
    return planned_bytes(lowered(problem))


def resident() -> dict[str, int]:
    """Bytes of memory that this process holds, and the most that it has held since this was last asked."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")  # the most is from now on counted anew
    return {name: 1024 * int(status.split(f"{name}:")[1].split()[0]) for name in ("VmRSS", "VmHWM")}


def main() -> None:
    """Answer requests until the input ends. What libraries print goes to the log, not among the answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
    bench = Bench()
    requests: dict[str, Callable[..., Any]] = {
        "prepare": bench.prepare,
        "block": bench.block,
        "planned": planned,
        "resident": resident,
        "program": compiled_program,
        "population": language_model.timed_population,
        "start": merging.timed_start,
    }
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            arguments = {name: unpacked(value) for name, value in asked["arguments"].items()}
            answer = {"value": requests[asked["request"]](**arguments)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": type(error).__name__}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
