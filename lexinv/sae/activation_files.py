"""Activations kept in files: memory-mapped .npy and safetensors shards, read by row, and written."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from lexinv.validation import InvalidConfig, choose, require

DTYPES = ("float16", "bfloat16", "float32")


class Shard(NamedTuple):
    """One file. `read(start, stop)` gives its rows as stored, [stop - start, width]."""

    path: Path
    rows: int
    width: int
    read: Callable[[int, int], np.ndarray]


class ActivationFiles:
    """The rows of several shards one after another, as float32; only what is asked for is read.

    Shards are .npy or .safetensors files with [rows, width] or [batch, time, width] of float16, bfloat16 or float32; leading axes are
    flattened. In safetensors it is the array named `tensor`. Blocks are `rows_per_block` neighbouring rows of one shard (its last may have
    fewer), so that this is an `lexinv.sae.activation_streams.ActivationSource`.

    Raises `InvalidConfig`, before any row is read, for a file that is missing, damaged, of another type, rank or dtype, or empty, for a
    tensor that is not there (the names found are listed), and for shards of unequal width; when rows are read, for one that is not finite
    or all zero (as are parts of a file that nobody wrote), with its file and its row there.
    """

    def __init__(self, paths: Iterable[Path | str], tensor: str = "activations", rows_per_block: int = 1024):
        self.shards = [_open_shard(Path(path), tensor) for path in paths]
        require(len(self.shards) > 0, "paths", [], "at least one file")
        require(rows_per_block >= 1, "rows_per_block", rows_per_block, "at least 1")
        first = self.shards[0]
        for shard in self.shards:
            allowed = f"{first.width}, as in {first.path}: {shard.path} differs"
            require(shard.width == first.width, "width", shard.width, allowed)
        self.width = first.width
        self._starts = np.cumsum([0] + [shard.rows for shard in self.shards], dtype=np.int64)
        cuts = [
            np.arange(start, stop, rows_per_block)
            for start, stop in zip(self._starts[:-1], self._starts[1:], strict=True)
        ]
        self._cuts = np.append(np.concatenate(cuts), self._starts[-1])

    def __len__(self) -> int:
        """Rows in all files."""
        return int(self._starts[-1])

    def __getitem__(self, row: int) -> Float32[np.ndarray, " width"]:
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        return self.read(row % len(self), row % len(self) + 1)[0]

    def read(self, start: int, stop: int) -> Float32[np.ndarray, "rows width"]:
        """Rows `start` to `stop`, which may lie in several files."""
        require(0 <= start <= stop <= len(self), "rows", (start, stop), f"a range within the {len(self)} rows")
        rows = np.empty((stop - start, self.width), np.float32)
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        for shard, offset in zip(self.shards[first:], self._starts[first:], strict=False):
            if offset >= stop:
                break
            low, high = max(start - offset, 0), min(stop - offset, shard.rows)
            found = rows[low + offset - start : high + offset - start]
            found[:] = shard.read(int(low), int(high))
            _refuse_bad_rows(found, f"{shard.path}, row", int(low))
        return rows

    @property
    def block_rows(self) -> Int64[np.ndarray, " blocks"]:
        """Number of rows of every block."""
        return np.diff(self._cuts)

    def block(self, index: int) -> Float32[np.ndarray, "rows width"]:
        """The rows of a block."""
        return self.read(int(self._cuts[index]), int(self._cuts[index + 1]))


def write_shards(
    directory: Path, arrays: Iterable[np.ndarray], rows_per_shard: int, dtype: str = "float32"
) -> list[Path]:
    """Write arrays [..., width] as shards activations-00000.npy, ... of `rows_per_shard` rows (the last may have fewer); their paths.

    They are written beside `directory`, which appears whole or not at all; no more than a shard and an array are in memory. bfloat16 is
    written as NumPy does it, as two bytes without a name, and read as such by `ActivationFiles`.
    Raises `InvalidConfig` if `directory` holds something already, if there are no rows, for unequal widths, and for rows that are all
    zero or not finite (also when that is because they do not fit into the dtype).
    """
    require(rows_per_shard >= 1, "rows_per_shard", rows_per_shard, "at least 1")
    choose("dtype", dtype, DTYPES)
    taken = directory.exists() and (not directory.is_dir() or any(directory.iterdir()))
    require(not taken, "directory", str(directory), "a new or empty folder")
    building = directory.with_name(f".{directory.name}.{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)  # of a process that was killed
    building.mkdir(parents=True)
    names = []
    try:
        for number, rows in enumerate(_regrouped(arrays, rows_per_shard, _numpy_dtype(dtype))):
            names.append(f"activations-{number:05d}.npy")
            with (building / names[-1]).open("wb") as file:
                np.save(file, rows)
                file.flush()
                os.fsync(file.fileno())
        require(len(names) > 0, "arrays", 0, "at least one row")
        os.replace(building, directory)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return [directory / name for name in names]


def _regrouped(arrays: Iterable[np.ndarray], rows_per_shard: int, dtype: np.dtype) -> Iterator[np.ndarray]:
    """The same rows in shards."""
    shard, filled = None, 0
    for number, array in enumerate(arrays):
        require(array.ndim >= 2 and array.shape[-1] >= 1, f"array {number}", array.shape, "[..., width]")
        rows = array.reshape(-1, array.shape[-1])
        if shard is None:
            shard = np.empty((rows_per_shard, rows.shape[1]), dtype)
        width = shard.shape[1]
        require(rows.shape[1] == width, "width", rows.shape[1], f"{width}, as in array 0: array {number} differs")
        done = 0
        while done < len(rows):
            count = min(rows_per_shard - filled, len(rows) - done)
            with np.errstate(over="ignore"):  # what overflows is named below
                shard[filled : filled + count] = rows[done : done + count]
            stored = shard[filled : filled + count].astype(np.float32)
            _refuse_bad_rows(stored, f"array {number} as {dtype}, row", done)
            filled, done = filled + count, done + count
            if filled == rows_per_shard:
                yield shard
                filled = 0
    if shard is not None and filled:
        yield shard[:filled]


def _refuse_bad_rows(rows: Float32[np.ndarray, "rows width"], where: str, first: int) -> None:
    """Raise `InvalidConfig` that names the first row which is all zero or not finite; `first` is the number of the first of `rows`."""
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.abs(rows).sum(axis=1, dtype=np.float64)  # not finite or 0 exactly where the row is so
    bad = np.flatnonzero(~np.isfinite(size) | (size == 0))
    if len(bad):
        found = "all zero" if size[bad[0]] == 0 else "not finite"
        raise InvalidConfig("activations", found, f"finite and not all zero: {where} {first + bad[0]}")


def _numpy_dtype(name: str) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def _open_shard(path: Path, tensor: str) -> Shard:
    require(path.is_file(), "path", str(path), "a file that is there")
    opened = {".npy": _open_npy, ".safetensors": lambda path: _open_safetensors(path, tensor)}
    choose("path", path.suffix, opened)
    shape, dtype, read = opened[path.suffix](path)
    require(dtype in DTYPES, "dtype", dtype, f"{', '.join(DTYPES)} in {path}")
    require(len(shape) in (2, 3), "shape", shape, f"[rows, width] or [batch, time, width] in {path}")
    require(min(shape) > 0, "shape", shape, f"no axis of length 0 in {path}")
    inner = int(np.prod(shape[1:-1]))  # time, or 1

    def read_rows(start: int, stop: int) -> np.ndarray:
        low = start // inner
        found = read(low, -(-stop // inner)).reshape(-1, shape[-1])
        return found[start - low * inner : stop - low * inner]

    return Shard(path, shape[0] * inner, shape[-1], read_rows)


Opened = tuple[tuple[int, ...], str, Callable[[int, int], np.ndarray]]


def _open_npy(path: Path) -> Opened:
    try:
        array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InvalidConfig("path", str(path), f"a whole .npy file of numbers: {error}") from error
    require(isinstance(array, np.ndarray), "path", str(path), "an .npy file")
    require(array.flags.c_contiguous, "order", "Fortran", f"rows that lie together (C order) in {path}")
    if array.dtype.str == "|V2":  # how NumPy names what it does not know: bfloat16
        array = array.view(_numpy_dtype("bfloat16"))
    return array.shape, array.dtype.name, lambda start, stop: array[start:stop]


def _open_safetensors(path: Path, tensor: str) -> Opened:
    from safetensors import SafetensorError, safe_open

    try:
        opened: Any = safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise InvalidConfig("path", str(path), f"a whole safetensors file: {error}") from error
    names: Sequence[str] = sorted(opened.keys())
    require(tensor in names, "tensor", tensor, f"one of those in {path}: {', '.join(names) or 'none'}")
    rows = opened.get_slice(tensor)
    stored = str(rows.get_dtype())
    dtype = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}.get(stored, stored)
    return tuple(rows.get_shape()), dtype, lambda start, stop: rows[start:stop]
