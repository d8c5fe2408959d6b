"""Trains a small language model on meshes of 8 fake devices and kills it again and again: `python preempted.py FOLDER`.

Every start is a fork of this process, which has imported everything and started no JAX backend: a start then takes a second and not
five.
"""

import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Most of the time goes into compiling: LLVM is told not to try hard.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_COMPILATION_CACHE_DIR"] = sys.argv[1] + "/compiled"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # it would start others before the forks

import jax
import numpy as np
from small_model import language_model, part, train

from lexinv.training.mesh import MeshConfig
from lexinv.training.retention import CheckpointConfig

FOLDER = Path(sys.argv[1])
MESHES = {"data": MeshConfig(8, 1), "fsdp": MeshConfig(1, 8), "model": MeshConfig(1, 1, 8)}
KILLS = ["training"] * 6 + ["writing"] * 5 + ["starting"] * 3 + ["terminate"] * 6
SECONDS_FOR_A_START, BETWEEN_CHECKPOINTS, ENDLESS, FURTHER = 120.0, 0.15, 20_000, 10
STEP, START = language_model("standard")


def fitted(folder: Path, config: MeshConfig, steps: int, seconds: float = ENDLESS, begun: Callable | None = None):
    """`begun(step)` is called after the first dispatch, with the step before it."""
    calls = 0

    def step(state, batch):
        nonlocal calls
        calls, first = calls + 1, int(state.step) if calls == 0 else 0
        result = STEP(state, batch)
        if begun and calls == 1:
            begun(first)
        return result

    return train(folder, step, START(), config, steps, checkpoints=CheckpointConfig(seconds=seconds))


def finish(mesh: str, other: str | None, connection) -> None:
    """The killed run and an undisturbed one to the same step; then the undisturbed one, and a run killed on another mesh, some further."""
    folder, config = FOLDER / mesh, MESHES[mesh]
    steps = newest(folder / "killed") + FURTHER
    result: dict[str, Any] = {"steps": steps}
    killed = fitted(folder / "killed", config, steps, begun=lambda step: result.update(begun=step))
    whole = fitted(folder / "whole", config, steps)
    equal = jax.tree.map(lambda *leaves: bool(np.array_equal(*map(raw, leaves))), killed, whole)
    lines = [(folder / name / "metrics.jsonl").read_bytes() for name in ("killed", "whole")]
    largest = max(jax.tree.leaves(whole.params), key=lambda leaf: leaf.size)
    result |= {
        "state_equal": all(jax.tree.leaves(equal)),
        "metrics_equal": lines[0] == lines[1],
        "lines": lines[0].count(b"\n"),
        "part": float(np.prod(part(largest))) / largest.size,
    }
    longer = fitted(folder / "whole", config, steps + FURTHER)
    np.savez(folder / "longer.npz", *map(raw, jax.tree.leaves(longer.params)))
    if other:
        shutil.copytree(FOLDER / other / "killed", folder / "moved")
        begun = newest(folder / "moved")
        moved = fitted(folder / "moved", config, begun + FURTHER)
        stayed = np.load(FOLDER / other / "longer.npz").values()
        pairs = zip(map(raw, jax.tree.leaves(moved.params)), stayed, strict=True)
        result["moved"] = [float(np.max(np.abs(a - b) / (1e-5 + 1e-4 * np.abs(b)))) for a, b in pairs]
    connection.send(result)


def raw(leaf: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


def newest(folder: Path) -> int:
    """Step of the newest checkpoint that counts; 0 without one."""
    return max((int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdigit()), default=0)


def unfinished(folder: Path) -> bool:
    """Whether a checkpoint is being written, or was when the process was killed."""
    return any((folder / "checkpoints").glob("*tmp*"))


class Start:
    """A forked process that runs `function(*arguments, connection)`."""

    def __init__(self, function: Callable, *arguments):
        assert threading.active_count() == 1
        self.connection, its = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("fork").Process(target=function, args=(*arguments, its))
        self.process.start()
        its.close()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS_FOR_A_START
        while not condition():
            alive = self.process.is_alive()
            if not alive or time.monotonic() > deadline:
                self.process.kill()
                raise RuntimeError(f"ended with {self.process.exitcode}" if not alive else "waited in vain")
            time.sleep(0.005)

    def told(self) -> Any:
        """What the function sent; None if it ended before."""
        try:
            return self.connection.recv()
        except EOFError:
            return None

    def ended(self) -> int:
        """Exit code, negative for a signal; never waits for ever."""
        self.process.join(SECONDS_FOR_A_START)
        self.process.kill()
        self.process.join()
        return self.process.exitcode


def kill_while(kind: str, folder: Path, mesh: MeshConfig, rng: random.Random) -> dict:
    """One start that is killed at a random moment: of its start, or, once it has got further than the one before, of its training."""
    before = newest(folder)
    start = Start(lambda connection: fitted(folder, mesh, ENDLESS, BETWEEN_CHECKPOINTS, connection.send))
    if kind == "starting":
        time.sleep(rng.uniform(0.0, 2.0))
    else:
        start.wait_for(lambda: newest(folder) > before)
        if kind == "writing":
            start.wait_for(lambda: unfinished(folder))
        time.sleep(rng.uniform(0.0, 0.03 if kind == "writing" else 0.4))
    os.kill(start.process.pid, signal.SIGTERM if kind == "terminate" else signal.SIGKILL)
    result = {"kind": kind, "code": start.ended(), "before": before, "after": newest(folder)}
    result["begun"] = start.told()
    return result | {"unfinished": unfinished(folder), "lines": lines(folder)}


def lines(folder: Path) -> int:
    file = folder / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def main() -> dict:
    for name in ("grain", "lexinv.training.checkpoint"):  # which `fit` imports when they are needed
        importlib.import_module(name)
    rng, results, other = random.Random(0), {}, None
    for index, (mesh, config) in enumerate(MESHES.items()):
        kinds = KILLS[index :: len(MESHES)]
        rng.shuffle(kinds)
        kills = [kill_while(kind, FOLDER / mesh / "killed", config, rng) for kind in kinds]
        last = Start(finish, mesh, other)
        last.wait_for(last.connection.poll)
        results[mesh] = {"kills": kills, **last.told()}
        last.ended()
        other = mesh
    return results


if __name__ == "__main__":
    (FOLDER / "0.json").write_text(json.dumps(main()))
