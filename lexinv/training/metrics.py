"""Metrics of a run as JSON lines: {"step": t, "loss": ..., ...}, where t counts updates, and {"step": t, "evaluation": {...}}."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

SPEED_FILE = "speed.json"
"""Beside the metrics, how fast the run was: {"tokens_per_second": ..., "utilisation": ... or null}. It differs from start to start."""


class MetricsLog:
    """Appends to the file at `path`, after cutting off everything later than `step`.

    A resumed run repeats the steps after its checkpoint, so without the cut they would stand there twice; a line that
    a killed process left unfinished goes too.
    """

    def __init__(self, path: Path, step: int):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, _end_of_step(path, step))
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Add one line. Arrays become lists, and numbers that are not finite, which JSON lacks, null."""
        self._file.write(json.dumps({"step": step, **_plain(values)}, allow_nan=False) + "\n")

    def flush(self) -> None:
        """Put all lines on the disk: a checkpoint must not be newer than the metrics before it."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a metrics file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


def _end_of_step(path: Path, step: int) -> int:
    """Number of bytes up to the last whole line of `step` or before."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            try:
                if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                    break
            except ValueError:  # a power cut can leave a block of zeros
                break
            end += len(line)
    return end


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else _plain(np.asarray(value).tolist())
