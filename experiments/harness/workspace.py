"""A run folder: stages computed once, names that cannot leave it, one process at a time, the time it took.

Where one run has several processes (`experiments.harness.distributed`), the first of them locks and writes; what it finds in the folder,
and what a stage gave there, is handed to the others, so that all go the same way.
"""

import json
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lexinv.training.processes import agree, first_process, in_any_process
from lexinv.training.retention import CheckpointConfig
from lexinv.validation import InvalidConfig, require

NAME = re.compile(r"[A-Za-z0-9_+=-][A-Za-z0-9_.+=-]*(/[A-Za-z0-9_+=-][A-Za-z0-9_.+=-]*)*")
CLOCK_SECONDS = 5.0


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole file or none of it; a file that already holds these bytes is left untouched.

    Of several processes only the first writes.
    """
    if not first_process():
        return
    if path.is_file() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, one line for each member of the outermost object or list so that differences can be read."""
    if isinstance(value, dict):
        lines = [f"{json.dumps(key)}: {_dumps(member)}" for key, member in value.items()]
        text = "{\n" + ",\n".join(lines) + "\n}\n"
    elif isinstance(value, list):
        text = "[\n" + ",\n".join(map(_dumps, value)) + "\n]\n"
    else:
        text = _dumps(value) + "\n"
    write_atomically(path, text.encode())


def plain(value: Any) -> Any:
    """The value as reading its JSON gives it back: tuples as lists, arrays as nested lists. Raises ValueError for NaN and infinity."""
    return json.loads(_dumps(value))


def _dumps(value: Any) -> str:
    def array(item: Any) -> Any:
        if hasattr(item, "tolist"):  # NumPy and JAX arrays and scalars
            return item.tolist()
        raise TypeError(f"{type(item).__name__} is not JSON: {item!r}")

    return json.dumps(value, default=array, allow_nan=False)


@dataclass(frozen=True)
class Workspace:
    """The folder of one run of one configuration."""

    path: Path
    config_hash: str
    progress: bool = True
    checkpoints: CheckpointConfig = CheckpointConfig()
    postpone: Callable[[Any], None] | None = None
    """Called with each `experiments.harness.work.Work` before it is trained; may end the run, to be planned or to be started again."""

    def folder(self, name: str) -> Path:
        """The folder `name` of the run (made if missing); `name` is plain words joined by slashes."""
        folder = self._inside(name)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def cached(self, name: str, compute: Callable[[], Any]) -> Any:
        """The JSON value of the stage `name`: read if an earlier start finished it, otherwise computed and written atomically.

        Several processes compute it together, and the first's value is that of all.
        """
        path = self._inside(f"stages/{name}.json")

        def held() -> list[Any]:
            if path.is_file():
                try:
                    return [json.loads(path.read_bytes())]
                except ValueError:  # written whole or not at all: other hands damaged it
                    warnings.warn(f"{path} is damaged; the stage is computed again", stacklevel=4)
            return []

        if found := agree(held):
            return found[0]
        value = plain(compute())

        def written() -> Any:
            write_json(path, value)
            return value

        return agree(written)

    def pinned(self, name: str, value: Any) -> Any:
        """`value`, which must be what it was when the run began; `InvalidConfig` otherwise.

        For what a run stands on and its configuration does not hold, such as the fingerprints of its corpora: stages and checkpoints
        of other texts are no part of this run.
        """
        began = self.cached(f"pinned/{name}", lambda: value)
        require(
            began == plain(value),
            name,
            value,
            f"{began}, with which the run in {self.path} began; choose another folder",
        )
        return value

    def _inside(self, name: str) -> Path:
        require(
            NAME.fullmatch(name) is not None, "name", name, "letters, digits and _ . + = - joined by single slashes"
        )
        path = self.path / name
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise InvalidConfig("name", name, f"a path inside the run folder {self.path}, not a link out of it")
        return path

    @contextmanager
    def locked(self, seconds: float = 0.0) -> Iterator[None]:
        """Hold the run folder for this process; `InvalidConfig` if another one still holds it after so long. A killed process lets go."""
        from filelock import FileLock, Timeout

        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")

        def acquire() -> None:
            try:
                lock.acquire(timeout=seconds)
            except Timeout:
                raise InvalidConfig(
                    "workspace", str(self.path), "a run folder that no other process is using"
                ) from None

        agree(acquire)
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def session(self, description: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Add one start of the run to sessions.json and keep its wall clock there while it lasts, so that even a killed one counts."""
        sessions, start, stop = self.sessions(), time.monotonic(), threading.Event()
        current = {**description, "wall_clock_seconds": 0.0}
        path = self._inside("sessions.json")

        def tick() -> None:
            current["wall_clock_seconds"] = round(time.monotonic() - start, 1)
            write_json(path, [*sessions, current])

        def keep_time() -> None:
            while not stop.wait(CLOCK_SECONDS):
                with suppress(OSError):  # a full disk must not end a run that can go on
                    tick()

        tick()
        clock = threading.Thread(target=keep_time, daemon=True)
        clock.start()
        try:
            yield current
        finally:
            stop.set()
            clock.join()
            tick()

    def sessions(self) -> list[dict[str, Any]]:
        """The starts of this run so far: commit, machine, packages and wall clock of each."""
        path = self._inside("sessions.json")
        return json.loads(path.read_bytes()) if path.is_file() else []


def open_workspace(path: Path, experiment: str, preset: str, config: Any) -> Workspace:
    """The run folder at `path` for this configuration, made if missing.

    Raises `InvalidConfig` with both hashes if it holds another configuration, if it is a file or a folder of something else, and if not
    all of several processes see it.
    """
    from experiments.harness.config import config_hash, to_json

    content = {
        "experiment": experiment,
        "preset": preset,
        "config_hash": config_hash(config),
        "config": to_json(config),
    }
    file = path / "config.json"

    def begin() -> None:
        require(not path.exists() or path.is_dir(), "workspace", str(path), "a folder")
        if file.is_file():
            try:
                held = json.loads(file.read_bytes())
                found = f"{held['experiment']} with config hash {held['config_hash']}"
            except (ValueError, KeyError, TypeError):
                raise InvalidConfig("workspace", str(path), "a run folder; its config.json cannot be read") from None
            wanted = f"{experiment} with config hash {content['config_hash']}"
            if found != wanted:
                raise InvalidConfig(
                    "workspace", str(path), f"it holds {found}; this run is {wanted}; choose another folder"
                )
        else:
            foreign = path.is_dir() and any(child.name != ".lock" for child in path.iterdir())
            require(not foreign, "workspace", str(path), "a new or empty folder, or the folder of the same run")
            write_json(file, content)

    agree(begin)
    require(
        not in_any_process(not file.is_file()), "workspace", str(path), "a folder that all processes of the run share"
    )
    return Workspace(path, content["config_hash"])
