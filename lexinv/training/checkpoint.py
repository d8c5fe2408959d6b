"""Checkpoints: state, data iterator and metadata, written whole while training goes on. The only file that knows Orbax and TensorStore."""

import copy
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from lexinv.training.processes import in_any_process, several_processes
from lexinv.training.retention import CheckpointConfig
from lexinv.training.state import TrainState
from lexinv.validation import InvalidConfig, require

PATTERN = "*?[\\"
"""Characters that no path to checkpoints may have: the parts of a checkpoint are looked for with the whole path as a pattern of names."""


class Restored(NamedTuple):
    """What a checkpoint holds; `iterator` is the state of the data iterator."""

    step: int
    state: TrainState
    iterator: Any
    metadata: Mapping[str, Any]


class Checkpoints(AbstractContextManager):
    """The checkpoints of one run, in `directory`: one folder per step, of which those are kept that `config` says.

    A digest of the state is stored and compared on reading. Several processes write one checkpoint together, each its part
    of the state; all call the methods in the same order. The end of a `with` block waits for what is being written;
    within it errors of writing are told by what is raised, and not by the libraries too.

    Raises `InvalidConfig` for a directory on whose way stands one of `PATTERN`: Orbax and TensorStore read it as something else.
    """

    def __init__(self, directory: Path, config: CheckpointConfig = CheckpointConfig()):
        self.directory = directory.absolute()
        found = sorted(set(PATTERN) & set(self.directory.as_posix()))
        allowed = (
            f"a path without {' '.join(found)}, since checkpoints in it could not be found again; choose another one"
        )
        require(not found, "directory", str(self.directory), allowed)
        policies = ocp.checkpoint_managers
        kept: list[Any] = [policies.LatestN(config.keep)]
        if config.keep_minutes is not None:
            kept.append(policies.EveryNSeconds(round(60 * config.keep_minutes)))
        options = ocp.CheckpointManagerOptions(preservation_policy=policies.AnyPreservationPolicy(kept))
        self._manager = ocp.CheckpointManager(self.directory, options=options)
        self._writing: int | None = None
        self._told = _told_once()

    def __enter__(self) -> "Checkpoints":
        self._told.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.wait()
        finally:
            self._told.__exit__(None, None, None)

    def latest(self) -> int | None:
        """Step of the newest complete checkpoint."""
        return max((step for step in self._manager.all_steps() if step != self._writing), default=None)

    def save(self, step: int, state: TrainState, iterator: Any, metadata: Mapping[str, Any]) -> None:
        """Begin to write a checkpoint, unless that step has one. It counts only when all of it is on the disk, and found there.

        Returns when the arrays are copied from the devices, so that the next step may be given `state`; the rest is written
        meanwhile. (On the CPU nothing is copied here: JAX does not let the next step write over buffers that are still read.)
        `iterator` and `metadata` are JSON; metadata["config_hash"] names the run's configuration.

        Waits for the checkpoint before, and raises what `wait` raises.
        """
        self.wait()
        if step in self._manager.all_steps():
            return
        run = {"metadata": metadata, "iterator": iterator, "structure": _structure(state), "digest": _digest(state)}
        run = copy.deepcopy(run)  # written later, when the caller's own may have changed
        with self._undone_if_it_fails(step):
            self._remove_what_killed_writers_left()
            items = ocp.args.Composite(state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(run))
            self._manager.save(step, args=items, force=True)
        self._writing = step

    def wait(self) -> None:
        """Return when the last checkpoint is complete, and all of its arrays are found where a resumed run looks for them.

        If it could not be written (a full disk) the error is raised, an `OSError` with the directory where the file system
        is to blame; the earlier checkpoints stay as they were, and no remains are left. If it was written and is not found, it is renamed
        to `damaged-STEP`, and the `OSError` says so.
        """
        step, self._writing = self._writing, None
        if step is None:
            return
        with self._undone_if_it_fails(step):
            self._manager.wait_until_finished()
        failure = _not_found(self.directory / str(step)) if jax.process_index() == 0 else None
        if in_any_process(failure is not None):
            self._set_aside(step, failure or OSError("another process could not read it"))
            reason = f"The checkpoint of step {step} could not be read back"
            raise OSError(errno.EIO, reason, str(self.directory))

    def restore_latest(
        self, template: TrainState, config_hash: str, metadata: Mapping[str, Any] | None = None
    ) -> Restored | None:
        """The newest checkpoint that is whole, or None. Arrays are placed like those of `template`.

        A damaged checkpoint is renamed to `damaged-STEP`, with a warning, and the one before it is taken. Raises
        `InvalidConfig` if the checkpoint belongs to another configuration, or holds other arrays than `template`. Where
        both runs described themselves in `metadata`, the message says in which of its entries they differ. It is raised
        too where several processes each train a state of their own: they would write over each other's checkpoints.
        """
        self.wait()
        alone = several_processes() and template.step.is_fully_addressable
        require(not alone, "processes", jax.process_count(), "1 for a training that is not divided over a mesh")
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                run = self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]
                stored_hash, structure = run["metadata"]["config_hash"], run["structure"]
            except Exception as error:
                self._set_aside(step, error)
                continue
            if stored_hash != config_hash:
                differing = _differences(run["metadata"], dict(metadata or {}), "")
                differing = "; ".join(entry for entry in differing if not entry.startswith("config_hash:"))
                allowed = f"{self.directory} holds a run of config {stored_hash}"
                raise InvalidConfig("config_hash", config_hash, allowed + (f": {differing}" if differing else ""))
            if structure != _structure(template):
                differing = dict(sorted(set(structure.items()) ^ set(_structure(template).items())))
                allowed = f"{self.directory / str(step)}, written by other code, differs in these arrays"
                raise InvalidConfig("state", differing, allowed)
            state: Any = None
            failure: Exception | None = None
            try:
                like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), template)
                restore = ocp.args.Composite(state=ocp.args.StandardRestore(like))
                state = self._manager.restore(step, args=restore)["state"]
            except (MemoryError, jax.errors.JaxRuntimeError):  # no room for it: the checkpoint is not to blame
                raise
            except Exception as error:
                failure = error
            if in_any_process(failure is not None):
                self._set_aside(step, failure or OSError("another process could not read its part"))
            elif _digest(state) != run["digest"]:
                self._set_aside(step, ValueError("the stored digest does not match"))
            else:
                return Restored(step, state, run["iterator"], run["metadata"])
        return None

    @contextmanager
    def _undone_if_it_fails(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._remove_remains(step)
            self._manager.reload()
            note = f"The checkpoint of step {step} could not be written. {self._last_good()}"
            # TensorStore tells the system's error in its message alone.
            told = re.search(r"os_error_code='(\d+)'", str(error))
            code = error.errno if isinstance(error, OSError) else int(told[1]) if told else None
            if code is None:
                error.add_note(note)
                raise
            failure = OSError(code, os.strerror(code), str(self.directory))
            failure.add_note(f"{note} Make room there, or let this process write there; the same command then goes on.")
            raise failure from None  # of the library's threads, hundreds of lines, which say no more

    def _remove_what_killed_writers_left(self) -> None:
        if jax.process_index() == 0:
            for path in self.directory.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"):
                shutil.rmtree(path, ignore_errors=True)

    def _remove_remains(self, step: int) -> None:
        """Remove what a failed write left. Orbax raises while other threads of it still write, and those make the
        folder anew: it is gone when it has stayed away for a quarter of a second (after 10 seconds we give up)."""
        if jax.process_index() != 0:
            return
        absent, deadline = 0, time.monotonic() + 10
        while absent < 5 and time.monotonic() < deadline:
            remains = [path for path in self.directory.iterdir() if path.name.split(".")[0] == str(step)]
            for path in remains:
                shutil.rmtree(path, ignore_errors=True)
            absent = 0 if remains else absent + 1
            time.sleep(0.05)

    def _last_good(self) -> str:
        if self.latest() is None:
            return "There is no other checkpoint: the run starts from the beginning."
        return f"The last good checkpoint is {self.directory / str(self.latest())}."

    def _set_aside(self, step: int, error: Exception) -> None:
        """Rename rather than delete: what looks like damage may be a passing fault or another version's format."""
        target = self.directory / f"damaged-{step}"
        if jax.process_index() == 0:
            shutil.rmtree(target, ignore_errors=True)
            (self.directory / str(step)).rename(target)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"set aside {target}")
        self._manager.reload()
        reason = (str(error).splitlines() or [""])[0][:200]
        warnings.warn(
            f"The checkpoint of step {step} is damaged ({type(error).__name__}: {reason}) and is now {target}. "
            f"{self._last_good()}",
            stacklevel=3,
        )


@contextmanager
def _told_once() -> Iterator[None]:
    """What `wait` raises is not printed beside that by each thread of Orbax and TensorStore that it went through, with a trace each."""

    def other(record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR or f"{os.sep}orbax{os.sep}" not in record.pathname

    def hook(unraisable: Any) -> None:
        if (
            str(unraisable.exc_value) != "Event loop is closed"
        ):  # of arrays that were still being written when the first one failed
            before(unraisable)

    before, logger = sys.unraisablehook, logging.getLogger("absl")
    sys.unraisablehook = hook
    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)
        sys.unraisablehook = before


def _not_found(folder: Path) -> Exception | None:
    """Why a checkpoint does not hold all the arrays that it says; None if it does. Names are listed, and no array is read."""
    try:
        run = json.loads((folder / "run" / "metadata").read_bytes())
        described = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder / 'state'}/"}}
        names = tensorstore.KvStore.open(described).result().list().result()
        found, saved = sum(name.endswith(b"/.zarray") for name in names), len(run["structure"])
        return None if found == saved else OSError(f"{found} of its {saved} arrays are found")
    except Exception as error:
        return error


def _structure(state: PyTree) -> dict[str, str]:
    """Path and type of every array."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _differences(theirs: Any, ours: Any, name: str) -> Iterator[str]:
    """The entries of nested JSON objects that both have and in which they differ."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        for key in sorted(theirs.keys() & ours.keys()):
            yield from _differences(theirs[key], ours[key], f"{name}.{key}" if name else key)
    elif json.dumps(theirs) != json.dumps(ours):  # a tuple has become a list
        yield f"{name}: {theirs!r} there, {ours!r} here"


def _digest(state: PyTree) -> str:
    """Digest of the contents of every array."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        values = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        if not values.is_fully_addressable and not values.is_fully_replicated:
            values = multihost_utils.process_allgather(values, tiled=True)
        digest.update(np.ascontiguousarray(jax.device_get(values)).tobytes())
    return digest.hexdigest()
