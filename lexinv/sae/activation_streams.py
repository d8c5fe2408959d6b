"""Streams of activations to train on: shuffled in bounded memory, the same wherever one begins to read."""

import sys
import threading
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Float32, Int64, Key, PyTree

from lexinv.data.windows import Windows
from lexinv.validation import InvalidConfig, require

if TYPE_CHECKING:
    import grain

ActivationsFn = Callable[[PyTree, dict[str, Array], Key[Array, ""]], Float[Array, "batch time_read width"]]


@runtime_checkable
class ActivationSource(Protocol):
    """Rows in blocks, of which any can be read: `block(i)` is float32[block_rows[i], width], the same every time.

    A model's activations at some site (`model_activations`) or those in files (`lexinv.sae.activation_files.ActivationFiles`).
    """

    @property
    def width(self) -> int: ...

    @property
    def block_rows(self) -> Int64[np.ndarray, " blocks"]: ...

    def block(self, index: int) -> Float32[np.ndarray, "rows width"]: ...


class ComputedActivations(NamedTuple):
    """An `ActivationSource` whose blocks are computed when they are asked for."""

    width: int
    block_rows: Int64[np.ndarray, " blocks"]
    block: Callable[[int], Float32[np.ndarray, "rows width"]]


def model_activations(
    activations_fn: ActivationsFn, params: PyTree, windows: Windows, windows_per_block: int, key: Key[Array, ""]
) -> ComputedActivations:
    """What a model computes on windows of text, `windows_per_block` windows at a time; nothing is kept.

    `activations_fn(params, batch, key)` is what `lexinv.nn.sites.make_activations` gives: entry t has read the tokens x_0 to x_t of batch
    {"tokens" int32[B, T], "row" int32[B]}. Entries that have read padding are left out. `row` is the number of the window, so that
    what is drawn for a sequence depends on `key` and on it alone. Compiled once: the last block is filled up with copies of the first
    window, whose activations are dropped.

    Raises `InvalidConfig` if there are no windows, or if `activations_fn` gives something else than [B, time, D] of at most T entries;
    when a block is computed, for entries that are not finite, with the window and the position.
    """
    count, length = len(windows), windows.length
    require(windows_per_block >= 1, "windows_per_block", windows_per_block, "at least 1")
    require(count >= 1, "windows", count, "at least one window")
    size = min(windows_per_block, count)
    tokens, row = jax.ShapeDtypeStruct((size, length), np.int32), jax.ShapeDtypeStruct((size,), np.int32)
    shape = jax.eval_shape(activations_fn, params, {"tokens": tokens, "row": row}, key).shape
    fits = len(shape) == 3 and shape[0] == size and 1 <= shape[1] <= length and shape[2] >= 1
    require(fits, "activations_fn", shape, f"[{size} windows, 1 to {length} positions, width]")
    read = np.minimum(windows.stops - windows.starts, shape[1])  # entries of every window that have read no padding
    compute = jax.jit(activations_fn)

    def block(index: int) -> Float32[np.ndarray, "rows width"]:
        chosen = np.arange(index * size, min((index + 1) * size, count))
        filled = np.append(chosen, np.zeros(size - len(chosen), chosen.dtype))
        batch = {"tokens": windows.gather(filled), "row": filled.astype(np.int32)}
        found = np.asarray(compute(params, batch, key))[: len(chosen)]
        inside = np.arange(shape[1])[None] < read[chosen][:, None]
        rows = found[inside].astype(np.float32)
        if not np.isfinite(rows).all():
            bad = ~np.isfinite(found.astype(np.float32)).all(axis=2) & inside
            window, position = np.argwhere(bad)[0]
            raise InvalidConfig("activations", "not finite", f"finite: window {chosen[window]}, position {position}")
        return rows

    return ComputedActivations(shape[2], np.add.reduceat(read, np.arange(0, count, size)), block)


def side_by_side(sources: Mapping[str, ActivationSource]) -> ComputedActivations:
    """Rows of several sites of one model, by name, in one row each: for transcoders and crosscoders.

    Raises `InvalidConfig`, naming the site, for one whose blocks have other rows than those of the first: of other text or another model.
    """
    require(len(sources) >= 1, "sources", len(sources), "at least one site")
    first, *others = sources
    rows = sources[first].block_rows
    for name in others:
        found = sources[name].block_rows
        require(np.array_equal(found, rows), f"sources.{name}", found, f"blocks of {rows} rows, as those of {first}")
    width = sum(source.width for source in sources.values())
    return ComputedActivations(
        width, rows, lambda index: np.concatenate([source.block(index) for source in sources.values()], axis=1)
    )


def shuffled(
    source: ActivationSource,
    seed: int,
    buffer_rows: int,
    batch: int,
    steps_per_dispatch: int = 1,
    scale: float = 1.0,
) -> "grain.MapDataset[dict[str, np.ndarray]]":
    """Endless shuffled batches; element i is {"activations": float32[K, N, D]}, the input of dispatch i, whichever came before it.

    In every epoch the blocks are put into another order and dealt to groups of at most `buffer_rows` rows; the rows of a group are
    shuffled among themselves, and the groups follow one another. So every row occurs once per epoch, memory holds one group (with a
    block on top while it is filled), and whoever reads on computes every block once per epoch; reading elsewhere computes that group
    again. A batch may hold the end of one group or epoch and the start of the next. Rows are multiplied by `scale` (see
    `scale_to_unit`), which belongs into the metadata of the run.

    Neighbours of one block stay in one group: the buffer should hold many blocks, and blocks be small.

    Raises `InvalidConfig` for a buffer that does not hold the largest block, for batches below 2 tokens, which have no variance; and, when
    a dispatch is read (the first before anything is compiled), for activations that are not finite and for batches in which all tokens
    are the same, such as zeros.
    """
    import grain

    block_rows = source.block_rows
    require(len(block_rows) >= 1 and int(block_rows.min()) >= 1, "source", block_rows, "blocks of at least one row")
    require(batch >= 2, "batch", batch, "at least 2 tokens, since errors are divided by the variance of the batch")
    require(steps_per_dispatch >= 1, "steps_per_dispatch", steps_per_dispatch, "at least 1")
    require(np.isfinite(scale) and scale > 0, "scale", scale, "a positive number")
    per_group = buffer_rows // int(block_rows.max())
    require(per_group >= 1, "buffer_rows", buffer_rows, f"at least the {block_rows.max()} rows of the largest block")
    groups = -(-len(block_rows) // per_group)
    epoch_rows, dispatch_rows = int(block_rows.sum()), steps_per_dispatch * batch

    def generator(*purpose: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=purpose))

    @lru_cache(maxsize=1)
    def order(epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """The blocks of every group, all of nearly the same number, and where each group begins among the rows of the epoch."""
        dealt = np.array_split(generator(epoch).permutation(len(block_rows)), groups)
        return dealt, np.cumsum([0] + [block_rows[blocks].sum() for blocks in dealt])

    lock = threading.Lock()
    held: dict[tuple[int, int], np.ndarray] = {}
    memory: list[np.ndarray] = []

    def group_rows(epoch: int, group: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of a group as read, and the order in which they are given out."""
        if (epoch, group) not in held:
            held.clear()
            if not memory:
                largest = min(per_group * int(block_rows.max()), epoch_rows)
                memory.append(np.empty((largest, source.width), np.float32))
            filled = 0
            for number in order(epoch)[0][group]:
                rows = source.block(int(number))
                expected = (int(block_rows[number]), source.width)
                require(rows.shape == expected, f"block {number}", rows.shape, f"{expected}, as the source says")
                _refuse_non_finite(rows, f"block {number}")
                memory[0][filled : filled + len(rows)] = rows
                filled += len(rows)
            held[epoch, group] = generator(epoch, group).permutation(filled)
        return memory[0], held[epoch, group]

    def dispatch(index: int) -> dict[str, np.ndarray]:
        taken = np.empty((dispatch_rows, source.width), np.float32)
        done = 0
        with lock:  # one buffer, whoever reads
            while done < dispatch_rows:
                epoch, offset = divmod(index * dispatch_rows + done, epoch_rows)
                starts = order(epoch)[1]
                group = int(np.searchsorted(starts, offset, side="right")) - 1
                count = min(dispatch_rows - done, int(starts[group + 1]) - offset)
                rows, given = group_rows(epoch, group)
                first = offset - int(starts[group])
                # mode="clip", though no index is outside: with "raise" NumPy makes a copy of the output.
                np.take(rows, given[first : first + count], axis=0, out=taken[done : done + count], mode="clip")
                done += count
        if scale != 1:
            taken *= np.float32(scale)
        batches = taken.reshape(steps_per_dispatch, batch, source.width)
        _refuse_constant(batches, index)
        return {"activations": batches}

    return grain.MapDataset.range(sys.maxsize // dispatch_rows).map(dispatch)


def scale_to_unit(sample: Float[np.ndarray, "tokens width"], k: float) -> float:
    """The factor that gives activations the variance k about their mean, so that the k entries of a code are of size 1.

    Learning rates here are for such activations. For `shuffled`; to be stored with the run, since autoencoders
    then read and reconstruct scaled activations. `inference.fold_scale` makes them read activations as they are, and
    `interchange.save_saelens` asks for the factor. Raises `InvalidConfig` for a sample that is not finite or without variance.
    """
    _refuse_non_finite(sample, "the sample")
    variance = float(np.square(sample - sample.mean(axis=0), dtype=np.float64).sum(axis=1).mean())
    require(variance > 0, "activations", "all equal", "activations that differ")
    return (k / variance) ** 0.5


def _refuse_non_finite(rows: np.ndarray, where: str) -> None:
    if not np.isfinite(rows).all():
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))[0]
        raise InvalidConfig("activations", "not finite", f"finite: {where}, row {bad}")


def _refuse_constant(batches: Float32[np.ndarray, "steps tokens width"], index: int) -> None:
    """The first two tokens of a batch mostly differ, so that this is quick."""
    for step in np.flatnonzero((batches[:, 0] == batches[:, 1]).all(axis=1)):
        same = bool((batches[step] == batches[step, :1]).all())
        found = "all zero" if not batches[step, 0].any() else "all the same"
        require(not same, "activations", found, f"tokens that differ: batch {step} of dispatch {index} has no variance")
