"""Metrics of a run as JSON lines: {"step": t, "loss": ..., ...}, where t counts updates, and {"step": t, "evaluation": {...}}."""

import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lexinv.validation import InvalidConfig

SPEED_FILE = "speed.json"
"""Beside the metrics, how fast the run was: {"tokens_per_second": ..., "utilisation": ... or null, "steps_per_dispatch": ...}.

It differs from start to start, and steps per dispatch by device."""


class MetricsLog:
    """Appends to the file at `path`, after cutting off everything later than `step`.

    A resumed run repeats the steps after its checkpoint, so without the cut they would stand there twice; a line that
    a killed process left unfinished goes too. Warns where lines of `step` and before are missing or damaged, and so lost.
    An error of writing names the file.
    """

    def __init__(self, path: Path, step: int):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        end, last = _end_of_step(path, step)
        if last < step:
            lost = f"the metrics from there to the checkpoint of step {step} are lost"
            warnings.warn(f"{path} ends, or is damaged, after step {last}: {lost}", stacklevel=2)
        os.truncate(path, end)
        self._path, self._file = path, path.open("a", encoding="utf-8", buffering=1)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Add one line. Arrays become lists, and numbers that are not finite, which JSON lacks, null."""
        with _naming(self._path):
            self._file.write(json.dumps({"step": step, **_plain(values)}, allow_nan=False) + "\n")

    def flush(self) -> None:
        """Put all lines on the disk: a checkpoint must not be newer than the metrics before it."""
        with _naming(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with _naming(self._path):
            self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a metrics file. Raises `InvalidConfig` that names the file and its first damaged line."""
    lines = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                try:
                    lines.append(json.loads(line))
                except ValueError as error:
                    allowed = f"lines of JSON; line {number} is damaged ({error})"
                    raise InvalidConfig("metrics", str(path), allowed) from None
    return lines


def write_speed(directory: Path, speed: Mapping[str, float | None]) -> None:
    """Write the speed file of a directory, whole or not at all."""
    temporary = directory / f".{SPEED_FILE}.{os.getpid()}"
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(speed, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, directory / SPEED_FILE)
    finally:
        temporary.unlink(missing_ok=True)


def read_speed(path: Path) -> dict[str, float | None] | None:
    """What `write_speed` wrote. None, with a warning that names the file, where it is damaged: no result depends on it."""
    try:
        speed = json.loads(path.read_bytes())
        known = {name: speed[name] for name in ("tokens_per_second", "utilisation")}
        return {**known, "steps_per_dispatch": speed.get("steps_per_dispatch")}
    except (ValueError, TypeError, KeyError):
        warnings.warn(f"{path} is damaged: how fast that training was is not known any more", stacklevel=2)
        return None


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of writing come without the file's name."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _end_of_step(path: Path, step: int) -> tuple[int, int]:
    """(number of bytes up to the last whole line of `step` or before, the step of that line, or 0)."""
    end, last = 0, 0
    with path.open("rb") as file:
        for line in file:
            try:
                here = json.loads(line)["step"]
                if not line.endswith(b"\n") or here > step:
                    break
            except (ValueError, TypeError, KeyError):  # a power cut can leave a block of zeros
                break
            end, last = end + len(line), here
    return end, last


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else _plain(np.asarray(value).tolist())
