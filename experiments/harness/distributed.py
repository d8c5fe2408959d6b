"""A run in several processes with one mesh over the devices of all: how they find each other, and how they end.

All are started with the same command and run the same program. Each computes everything, and together what is divided over the mesh; the
first of them locks and writes the run folder and prints (`lexinv.training.processes`, `experiments.harness.workspace`).
"""

import dataclasses
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lexinv.validation import InvalidConfig, require

ALLOWED = (
    "auto on a TPU pod slice, Slurm, Open MPI or Kubernetes, and otherwise HOST:PORT,PROCESSES,PROCESS, "
    "where process 0 runs on HOST with the free port PORT, and PROCESS is 0 to PROCESSES - 1"
)
ADDRESS = re.compile(r"(?P<address>\S+:\d+),(?P<processes>\d+),(?P<process>\d+)")

MEETING_SECONDS = 120
"""How long a process waits for all others to start."""

HEARTBEAT_SECONDS = 30
"""After so long without a sign of life a process is taken for lost, and the others end. Most losses are noticed at once."""

GRACE_SECONDS = 2.0
"""How long the first process, whose end aborts the others, stays after a failure that may be theirs too."""


def wanted(arguments: list[str]) -> str | None:
    """The value of `--distributed` among arguments of which nothing else can be read yet."""
    for place, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag == "--distributed":
            return value if equals else next(iter(arguments[place + 1 :]), None)
    return None


def divides(config: Any) -> bool:
    """Whether a configuration has a mesh somewhere, the only thing over which processes divide what they compute."""
    from lexinv.training.mesh import MeshConfig

    if isinstance(config, MeshConfig):
        return True
    return dataclasses.is_dataclass(config) and any(divides(part) for part in vars(config).values())


def join(how: str) -> None:
    """Make this process one of several, which find each other as `how` says. Before any JAX backend starts.

    Raises `InvalidConfig` for what cannot be; ends the process with code 2 if the others are not there in time.
    """
    import jax

    place = ADDRESS.fullmatch(how)
    require(how == "auto" or place is not None, "--distributed", how, ALLOWED)
    given = {}
    if place is not None:
        processes, process = int(place["processes"]), int(place["process"])
        require(process < processes, "--distributed", how, ALLOWED)
        given = {"coordinator_address": place["address"], "num_processes": processes, "process_id": process}

    def give_up() -> None:  # JAX would abort, with nothing but a stack trace
        missing = InvalidConfig("--distributed", how, f"not all processes have met within {MEETING_SECONDS} seconds")
        print(f"error: {missing}", file=sys.stderr, flush=True)
        os._exit(2)

    patience = threading.Timer(MEETING_SECONDS, give_up)
    patience.daemon = True
    patience.start()
    try:
        jax.distributed.initialize(
            **given,
            initialization_timeout=2 * MEETING_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
        jax.devices()  # starts the backend, which has to know all processes too
    except (ImportError, RuntimeError, ValueError) as error:
        raise InvalidConfig("--distributed", how, f"{ALLOWED} ({error})") from None
    finally:
        patience.cancel()


@contextmanager
def ending_together() -> Iterator[None]:
    """Around all that a process does: if it is one of several and fails, it ends at once with the exit code.

    JAX's own way to end waits for the others, and they may be waiting for this one. Those in a collective operation notice at once that it
    is gone, the others when its signs of life stop.
    """
    try:
        yield
    except BaseException as error:
        jax = sys.modules.get("jax")  # a command that has not imported it is alone
        code = error.code if isinstance(error, SystemExit) else 1
        if jax is None or not jax.distributed.is_initialized() or code in (None, 0):
            raise
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        if jax.process_index() == 0:
            time.sleep(GRACE_SECONDS)
        os._exit(code if isinstance(code, int) else 1)
