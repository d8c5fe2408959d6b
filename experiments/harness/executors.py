"""Where the trials of a sweep run: processes on this machine, or a Ray cluster. Each trial is a process of its own either way."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import experiments
from experiments.harness.halving import STOPPED_FILE
from experiments.harness.trial import finished
from experiments.harness.workspace import write_atomically, write_json
from lexinv.validation import InvalidConfig, require

POLL_SECONDS = 0.1
SIGTERM_EXIT = 128 + signal.SIGTERM
CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 30.0
"""An address to which nothing connects, and one that does not answer as Ray does, are given up after so long."""

KILLED_RETRIES = 3
"""How often a cluster starts a trial again whose process or machine was lost."""

Status = Literal["waiting", "running", "done", "stopped", "failed"]
Report = Callable[[Path, Status], None]
Executor = Callable[[Sequence[Path], Report], None]
Stops = Callable[[Path], Mapping[str, Any] | None]
"""Asked for running trials again and again: why one is to be stopped, as JSON; None for it to go on. See `experiments.harness.halving`."""


class Killed(RuntimeError):
    """A trial's process ended by a signal: it can go on from its checkpoint."""


def start(folder: Path) -> subprocess.Popen:
    """A trial in a process of its own, its output added to log.txt. It ends with a checkpoint on SIGTERM, and if this process dies.

    Its process group is its own: ctrl-C reaches this process alone, which then says SIGTERM to the trial.
    """
    path = os.pathsep.join(filter(None, [str(Path(experiments.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    for file in ("error.txt", STOPPED_FILE):
        (folder / file).unlink(missing_ok=True)
    with open(folder / "log.txt", "ab") as log:
        log.write(f"started on {os.uname().nodename} by process {os.getpid()}\n".encode())
        log.flush()
        return subprocess.Popen(
            [sys.executable, "-m", "experiments.harness.trial", str(folder), "--supervised"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path},
            process_group=0,
        )


def stop(processes: Sequence[subprocess.Popen]) -> None:
    """SIGTERM to all, and wait for their last checkpoints."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        process.wait()


def outcome(folder: Path, reason: str) -> Status:
    """done, stopped, or failed with at least the reason and the end of the log in error.txt."""
    error = folder / "error.txt"
    if finished(folder) and not error.is_file():  # nor one that could not be judged again
        return "done"
    if (folder / STOPPED_FILE).is_file():
        return "stopped"
    if not error.is_file():
        log = folder / "log.txt"
        tail = log.read_text(errors="replace")[-4000:] if log.is_file() else ""
        write_atomically(error, f"{reason}\n{tail}".encode())
    return "failed"


def run_processes(folders: Sequence[Path], report: Report, workers: int, stops: Stops | None = None) -> None:
    """Run trials on this machine, at most `workers` at a time. Stopped from outside, it ends them with a checkpoint first."""
    waiting, running = deque(folders), dict[Path, subprocess.Popen]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                folder = waiting.popleft()
                running[folder] = start(folder)
                report(folder, "running")
            time.sleep(POLL_SECONDS)
            for folder, process in list(running.items()):
                if process.poll() is not None:
                    del running[folder]
                    report(folder, outcome(folder, f"the process ended with code {process.returncode}"))
                elif stops is not None and (why := stops(folder)):
                    write_json(folder / STOPPED_FILE, why)
                    process.terminate()
    finally:
        stop(list(running.values()))


def supervise(folder: str) -> int:
    """Run one trial in a process of its own and wait for it: the task that a cluster runs. Raises `Killed`, to be tried again."""
    # The cluster interrupts a cancelled task; processes started in the background of a shell ignore that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = start(Path(folder))
    try:
        while process.poll() is None:  # not wait(): the cluster's way of interrupting a task does not wake it
            time.sleep(POLL_SECONDS)
    finally:
        stop([process])
    if process.returncode < 0:
        raise Killed(f"the process of {folder} ended by signal {-process.returncode}")
    return process.returncode


def connect(address: str | None) -> Any:
    """The module ray, connected to the cluster at an address, or to one started by `ray start` here, or to a new one in this process.

    Raises `InvalidConfig` that names the address if nothing answers there in time.
    """
    try:
        import ray
    except ImportError:
        raise InvalidConfig(
            "executor", "ray", 'with the extra "cluster" installed: pip install "lexinv[cluster]"'
        ) from None
    if address is not None:
        _require_answer(address)
    previous = signal.getsignal(signal.SIGTERM)
    ray.init(address=address, log_to_driver=False, configure_logging=False)
    signal.signal(signal.SIGTERM, previous)  # ray has put its own in its place
    return ray


def _require_answer(address: str) -> None:
    """Ask for the state of the cluster first, in a process that can be given up: connecting waits for a minute and then aborts."""
    parts = urlsplit(f"//{address}")
    try:
        place = parts.hostname, parts.port
    except ValueError:
        place = None, None
    known = None not in place and parts.netloc == address
    require(known, "executor", f"ray:{address}", "ray:HOST:PORT, as `ray start --head` prints it")
    allowed = "the address of a Ray cluster that answers; with RAY_AUTH_MODE=token in the environment if it wants one, as `ray start` says"
    try:
        socket.create_connection(place, CONNECT_SECONDS).close()
        command = [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", address]
        subprocess.run(command, capture_output=True, timeout=ANSWER_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise InvalidConfig("executor", f"ray:{address}", f"{allowed} ({error})") from None


def run_ray(
    folders: Sequence[Path],
    report: Report,
    workers: int | None,
    ray: Any,
    resources: Mapping[str, float],
    stops: Stops | None = None,
) -> None:
    """Run every trial as one task of a cluster whose nodes see the same folders, at most `workers` at a time (None: as many as fit).

    A trial whose process or node is lost goes on elsewhere from its checkpoint. Stopped from outside, the trials end with one first.
    """
    amounts = {"num_cpus": resources.get("CPU", 0), "num_gpus": resources.get("GPU", 0)}
    others = {name: amount for name, amount in resources.items() if name not in ("CPU", "GPU")}
    task = ray.remote(supervise).options(
        **amounts, resources=others, max_retries=KILLED_RETRIES, retry_exceptions=[Killed]
    )
    waiting, running, quiet = deque(folders), dict[Any, Path](), dict[Any, int]()
    terminated = threading.Event()  # Ray makes any exit inside its calls one with code 1
    previous = signal.signal(signal.SIGTERM, lambda *_: terminated.set())
    try:
        while waiting or running:
            if terminated.is_set():
                raise SystemExit(SIGTERM_EXIT)
            while waiting and (workers is None or len(running) < workers):
                folder = waiting.popleft()
                before = _log_size(folder)
                reference = task.remote(str(folder.resolve()))
                running[reference], quiet[reference] = folder, before
            done, _ = ray.wait(list(running), num_returns=1, timeout=POLL_SECONDS)
            for reference in [item for item in quiet if _log_size(running[item]) != quiet[item]]:
                del quiet[reference]
                report(running[reference], "running")
            for reference in [item for item in running if item not in done]:
                if stops is not None and (why := stops(running[reference])):
                    write_json(running[reference] / STOPPED_FILE, why)
                    ray.cancel(reference)
            for reference in done:
                folder = running.pop(reference)
                quiet.pop(reference, None)
                report(folder, outcome(folder, _reason(ray, reference)))
    finally:
        for reference in running:
            ray.cancel(reference)
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=None)
        signal.signal(signal.SIGTERM, previous)


def _reason(ray: Any, reference: Any) -> str:
    try:
        return f"the process ended with code {ray.get(reference)}"
    except ray.exceptions.RayError as error:
        return str(error)


def _log_size(folder: Path) -> int:
    log = folder / "log.txt"
    return log.stat().st_size if log.is_file() else 0
