"""A process of its own in which problems are prepared and timed: one call in, one answer out.

Every library that is compared gets such a process, with the same cores and the same settings of the memory allocator, and waits for its
next call without computing anything. A problem is a configuration with `ours()` and `theirs(compiled)`, which make a step ready.
"""

import os
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import experiments

SPAWN = get_context("spawn")
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
    """A started worker; leaving its `with` block ends it. It ends by itself when this process is gone. Takes what `environment` takes."""

    def __init__(self, log: Path, cores: int, *arguments: Any, **variables: Any):
        self.log = log
        self.connection, other_end = SPAWN.Pipe()
        self.process = started(environment(*arguments, **variables), serve, other_end, log, cores)
        other_end.close()

    def ask(self, call: Callable[..., Any], **arguments: Any) -> Any:
        """What a function of ours gives there. Raises `WorkerError`."""
        value, failed = None, "the process ended"
        with suppress(EOFError, OSError):
            self.connection.send((call, arguments))
            value, failed = self.connection.recv()
        if failed:
            error = WorkerError(failed)
            error.add_note(f"see {self.log}")  # apart from the message, which may enter a record
            raise error
        return value

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # nothing in it is worth waiting for
        self.process.join()


def started(variables: dict[str, str], target: Callable[..., None], *given: Any) -> Any:
    """A process of its own that calls `target(*given)` and ends; it has these variables from the first, for the allocator."""
    process, ours = SPAWN.Process(target=target, args=given, daemon=True), dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(variables)
        process.start()
    finally:
        os.environ.clear()
        os.environ.update(ours)
    return process


def write_to(log: Path) -> None:
    """What this process and its libraries print goes to the log."""
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def serve(connection: Any, log: Path, cores: int) -> None:
    """The worker's side: answer calls until the other end is gone."""
    write_to(log)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    with suppress(EOFError):
        while True:
            call, arguments = connection.recv()
            try:
                connection.send((call(**arguments), None))
            except Exception as error:
                traceback.print_exc()
                connection.send((None, type(error).__name__))


_prepared: dict[str, tuple[Callable[[], Any], int]] = {}
"""In a worker: steps by label, each with the number of steps that a call does and waits for."""
_idle_since: list[tuple[float, float]] = []
"""In a worker: both clocks at the end of the last block."""


def prepare(label: str, problem: Any, library: Literal["jax", "torch"] = "jax", compiled: bool = False) -> float:
    """Make a problem ready under `label`; seconds that its first call took, which compiles."""
    start = time.perf_counter()
    call = problem.ours() if library == "jax" else problem.theirs(compiled)
    call()
    seconds = time.perf_counter() - start
    call()
    _prepared[label] = call, getattr(problem, "steps", 1)
    return seconds


def block(label: str, steps: int) -> dict[str, Any]:
    """Call it `steps` times: seconds of a step in each call, processor seconds per step, and both clocks since the last block."""
    (call, each), seconds, began = _prepared[label], [], clocks()
    waited = [now - before for now, before in zip(began, *_idle_since or [began], strict=True)]
    for _ in range(steps):
        start = time.perf_counter()
        call()
        seconds.append((time.perf_counter() - start) / each)
    _idle_since[:] = [clocks()]
    return {"seconds": seconds, "processor_seconds": (_idle_since[0][1] - began[1]) / steps / each, "waited": waited}


def clocks() -> tuple[float, float]:
    """Wall clock and processor seconds of all threads of this process."""
    return time.perf_counter(), time.process_time()


def planned(problem: Any) -> int:
    """Peak bytes of a step as the compiler plans them: temporaries, arguments, and outputs that do not take an argument's place."""
    plan = problem.lowered().compile().memory_analysis()
    held = plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes
    return held - plan.alias_size_in_bytes


def resident() -> dict[str, int]:
    """Bytes of memory that this process holds, and the most that it has held since this was last asked."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")  # the most is from now on counted anew
    return {name: 1024 * int(status.split(f"{name}:")[1].split()[0]) for name in ("VmRSS", "VmHWM")}
