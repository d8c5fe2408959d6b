"""A run folder: stages computed once, names that cannot leave it, one process at a time, the time it took.

Where one run has several processes (`experiments.harness.distributed`), the first of them locks and writes; what it finds in the folder,
and what a stage gave there, is handed to the others, so that all go the same way.
"""

import json
import math
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lexinv.folders import expanded, locked, open_folder
from lexinv.training.processes import agree, first_process, in_any_process
from lexinv.training.retention import CheckpointConfig
from lexinv.validation import InvalidConfig, require

NAME = re.compile(r"[A-Za-z0-9_+=-][A-Za-z0-9_.+=-]*(/[A-Za-z0-9_+=-][A-Za-z0-9_.+=-]*)*")
CLOCK_SECONDS = 5.0
LOCK, OPENING = ".lock", ".opening"
OPENING_SECONDS = 60.0
"""How long a process waits for another one that is looking at the same folder, which takes milliseconds."""

PASSING = (LOCK, OPENING, ".ipynb_checkpoints", ".DS_Store", "lost+found")
"""What a new folder may hold: our locks, and what notebooks and systems put anywhere."""


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
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk is told without a name
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any, strict: bool = True) -> None:
    """Write JSON atomically, one line for each member of the outermost object or list so that differences can be read.

    strict: raise ValueError with the fields that are NaN or infinite, which others cannot read.
    """
    value = plain(value)
    if strict and (lost := not_finite(value, path.stem)):
        raise ValueError(f"{path} cannot hold {_listed(lost)}")
    if isinstance(value, dict):
        lines = [f"{json.dumps(key)}: {json.dumps(member)}" for key, member in value.items()]
        text = "{\n" + ",\n".join(lines) + "\n}\n"
    elif isinstance(value, list):
        text = "[\n" + ",\n".join(map(json.dumps, value)) + "\n]\n"
    else:
        text = json.dumps(value) + "\n"
    write_atomically(path, text.encode())


def read_json(path: Path, kind: type) -> Any:
    """The JSON value of this type in a file; `InvalidConfig` names the file where there is none."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidConfig("file", str(path), f"a JSON file ({error})") from None
    require(isinstance(value, kind), "file", str(path), f"JSON of type {kind.__name__}")
    return value


def plain(value: Any) -> Any:
    """The value as reading its JSON gives it back: tuples as lists, arrays as nested lists. NaN and infinities stay."""

    def array(item: Any) -> Any:
        if hasattr(item, "tolist"):  # NumPy and JAX arrays and scalars
            return item.tolist()
        raise TypeError(f"{type(item).__name__} is not JSON: {item!r}")

    return json.loads(json.dumps(value, default=array))


def finite(value: Any, name: str) -> Any:
    """`plain`, with None for each number that is not finite and a warning that says which of `name` these are."""
    value = plain(value)
    if lost := not_finite(value, name):
        warnings.warn(f"{_listed(lost)}: kept as null", stacklevel=2)
    return json.loads(json.dumps(value), parse_constant=lambda _: None)


def not_finite(value: Any, name: str) -> list[str]:
    """The places in plain JSON of numbers that are NaN or infinite, as `name.key[2] is nan`."""
    if isinstance(value, dict):
        return [place for key, member in value.items() for place in not_finite(member, f"{name}.{key}")]
    if isinstance(value, list):
        return [place for i, member in enumerate(value) for place in not_finite(member, f"{name}[{i}]")]
    return [f"{name} is {value}"] if isinstance(value, float) and not math.isfinite(value) else []


def _listed(places: list[str], most: int = 5) -> str:
    return ", ".join(places[:most]) + (f" and {len(places) - most} more" if places[most:] else "")


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

        Numbers that are not finite stay, with a warning that names them: hours of others may stand beside them.
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
        if lost := not_finite(value, f"stage {name}"):
            warnings.warn(_listed(lost), stacklevel=2)

        def written() -> Any:
            write_json(path, value, strict=False)
            return value

        return agree(written)

    def stages(self, prefix: str, names: Iterable[str], compute: Callable[[str], Any]) -> dict[str, Any]:
        """`compute(name)` by name, each the stage prefix/name."""
        return {name: self.cached(f"{prefix}/{name}", lambda name=name: compute(name)) for name in names}

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
        with ExitStack() as stack:

            def acquire() -> None:
                folder = open_folder(self.path, "workspace")
                stack.enter_context(locked(folder / LOCK, "workspace", seconds))

            agree(acquire)
            yield

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
        except BaseException:
            stop.set()
            clock.join()
            with suppress(OSError):  # where the disk is full, it says less than what has ended the run
                tick()
            raise
        stop.set()
        clock.join()
        tick()

    def sessions(self) -> list[dict[str, Any]]:
        """The starts of this run so far: commit, machine, packages and wall clock of each."""
        path = self._inside("sessions.json")
        return read_json(path, list) if path.is_file() else []


def open_workspace(path: Path, experiment: str, preset: str, config: Any) -> Workspace:
    """The run folder at `path`, whose leading ~ is expanded, for this configuration; made if missing.

    Of several processes that ask at a time for different configurations one gets it. Raises `InvalidConfig` with both hashes if it holds
    another configuration, if it cannot be a folder or is one of something else, and if not all processes of this run see it.
    """
    from experiments.harness.config import config_hash, to_json

    content = {
        "experiment": experiment,
        "preset": preset,
        "config_hash": config_hash(config),
        "config": to_json(config),
    }
    path = expanded(path, "workspace")
    file = path / "config.json"

    def require_empty() -> None:
        names = {child.name for child in path.iterdir()}.difference(PASSING)
        found = [name for name in names if not name.startswith(".config.json.")]  # of a process that was killed
        allowed = f"a new or empty folder, or the folder of the same run; there is {', '.join(sorted(found)[:3])}"
        require(not found, "workspace", str(path), allowed)

    def begin() -> None:
        open_folder(path, "workspace")
        if not file.is_file():
            require_empty()  # before a lock is put there
            with locked(path / OPENING, "workspace", OPENING_SECONDS):
                if not file.is_file():
                    require_empty()
                    write_json(file, content)
        try:
            held = json.loads(file.read_bytes())
            found = f"{held['experiment']} with config hash {held['config_hash']}"
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidConfig("workspace", str(path), f"a run folder; {file} cannot be read ({error!r})") from None
        wanted = f"{experiment} with config hash {content['config_hash']}"
        allowed = f"it holds {found}; this run is {wanted}; choose another folder"
        require(found == wanted, "workspace", str(path), allowed)

    agree(begin)
    require(
        not in_any_process(not file.is_file()), "workspace", str(path), "a folder that all processes of the run share"
    )
    return Workspace(path, content["config_hash"])
