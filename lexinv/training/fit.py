"""The training loop: data in, metrics and checkpoints out, and a run that can be stopped at any moment and resumed exactly."""

import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from lexinv.nn.flops import utilisation
from lexinv.training.metrics import MetricsLog, write_speed
from lexinv.training.processes import AnyProcess
from lexinv.training.progress import Speed, progress_bar
from lexinv.training.retention import CheckpointConfig
from lexinv.training.state import TrainState
from lexinv.training.step import TrainStep
from lexinv.validation import InvalidConfig, require

if TYPE_CHECKING:
    from grain import MapDataset
else:
    MapDataset = Any  # grain is imported when it is needed

PER_DISPATCH = "steps_per_dispatch"
SIGTERM_EXIT = 128 + signal.SIGTERM


class NonFiniteLoss(FloatingPointError):
    """The loss or its gradient is not finite. Names the step, the config hash and the last good checkpoint.

    `members`: the places of those of a population that it happened to, and (0,) in a run of one.
    """

    def __init__(self, message: str, members: tuple[int, ...] = (0,)):
        super().__init__(message)
        self.members = members


def fit(
    state: TrainState,
    train_step: TrainStep,
    dataset: MapDataset,
    *,
    steps: int,
    directory: Path | None,
    metadata: Mapping[str, Any],
    tokens_per_step: int,
    flops_per_token: float = 0.0,
    checkpoints: CheckpointConfig = CheckpointConfig(),
    evaluate: Callable[[TrainState], Mapping[str, Any]] | None = None,
    evaluate_every: int | None = None,
    progress: bool = True,
    description: str = "training",
) -> TrainState:
    """Train to `steps` updates in all and return the final state. `state` is donated.

    `dataset[i]` is the batch of dispatch i, with leaves [K, ...]: `train_step` does K updates on it, and K must divide
    `steps`. On a mesh, map `shard_batch` over the dataset.

    In `directory` are kept `metrics.jsonl`, one line per update, `speed.json` at the end, and `checkpoints/`: as often and as
    many as `checkpoints` says, and one at the end. They are written while training goes on, the last of them before `fit` returns or
    raises. If there are some already, the run continues after the newest: state, metrics file and data are then bitwise those
    of a run that was never stopped (on CPU; for the same versions, device and device count). Of several processes (see
    `lexinv.training.mesh`) only the first writes metrics and shows progress; the checkpoints they write together. `metadata`
    is JSON and holds "config_hash".

    `tokens_per_step` and, where it is known, `flops_per_token` (`lexinv.nn.flops.train_flops`) are for the speed that is shown and
    kept: tokens per second of the last start, without its compilation, and the share of the devices' peak where both are known.

    `evaluate(state)` is called every `evaluate_every` updates and at the end, and what it returns added to the metrics; without a
    directory, where there are none, it is called all the same.
    SIGTERM ends the run after the dispatch under way, with a complete checkpoint and exit code 143; one of several
    processes ends them all, one dispatch later.

    Raises `InvalidConfig` if K does not divide `steps` or is another one than in the run that is resumed, for an `evaluate_every` below 1
    or without `evaluate`, or if the directory holds another configuration's run, cannot be written in, or is none in which checkpoints are
    found again; `NonFiniteLoss`; and `OSError` if a checkpoint cannot be written (at the next one, or at the end).
    """
    import grain

    config_hash = metadata["config_hash"]
    require(evaluate_every is None or evaluate_every >= 1, "evaluate_every", evaluate_every, "at least 1, or None")
    require(evaluate_every is None or evaluate is not None, "evaluate_every", evaluate_every, "None without evaluate")
    # Reading ahead in one thread hides the data behind the step; the order does not depend on it.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    iterator = iter(dataset.to_iter_dataset(read_options=options))
    store, log, done, first, begun, count = None, None, 0, jax.process_index() == 0, None, 0
    if directory is not None:
        from lexinv.training.checkpoint import Checkpoints

        _require_writable(directory / "checkpoints")
        store = Checkpoints(directory / "checkpoints", checkpoints)
        restored = store.restore_latest(state, config_hash, metadata)
        if restored is not None:
            done, state = restored.step, restored.state
            iterator.set_state(restored.iterator)
            begun = restored.metadata.get(PER_DISPATCH)  # which the iterator's place is counted by
        log = MetricsLog(directory / "metrics.jsonl", done) if first else None

    def record(metrics: Mapping[str, jax.Array], end: int) -> None:
        """Fetch, check and write the metrics of the dispatch that ended with update `end`."""
        fetched = jax.device_get(metrics)
        for index, step in enumerate(range(end - len(fetched["loss"]) + 1, end + 1)):
            update = {name: values[index] for name, values in fetched.items()}
            norm = update.get("gradient_norm", update["loss"])  # steps of other makers may give none
            finite = np.atleast_1d(np.isfinite(update["loss"]) & np.isfinite(norm))
            if not finite.all():
                try:
                    if store:
                        store.wait()
                finally:  # whether or not it could be written
                    latest = store.latest() if store else None
                    good = f"is {store.directory / str(latest)}" if store and latest else "does not exist"
                    raise NonFiniteLoss(
                        f"loss {update['loss']}, gradient norm {norm} at step {step} of config "
                        f"{config_hash}; the last good checkpoint {good}",
                        tuple(np.flatnonzero(~finite).tolist()),
                    )
            if log:
                log.write(step, update)
        show(end, float(np.mean(fetched["loss"][-1])))

    used = state.step.devices()
    speed = Speed(tokens_per_step, utilisation(flops_per_token, next(iter(used)).device_kind, len(used)))
    bar = progress_bar(description, steps, done, speed, progress and first)
    pending, last_save, any_process = None, time.monotonic(), AnyProcess()
    try:
        with bar as show, _sigterm_noticed() as terminated, store or nullcontext():
            while done < steps:
                batch = next(iterator)
                count = len(jax.tree.leaves(batch)[0])
                require(steps % count == 0, "steps", steps, f"a multiple of the {count} steps per dispatch")
                same = f"the {begun} with which {directory} was begun: on that kind of device, or in another folder"
                require(begun in (None, count), PER_DISPATCH, count, same)
                state, metrics = train_step(state, batch)
                # Waiting for the dispatch before, and not for this one, keeps the device busy while the host writes.
                if pending:
                    record(pending, done)
                before, done, pending = done, done + count, metrics
                wished = time.monotonic() - last_save >= checkpoints.seconds, terminated.is_set()
                late, ending = any_process(*wished, last=done == steps)
                evaluating = evaluate is not None and _due(before, done, steps, evaluate_every)
                saving = late or ending or _due(before, done, steps, checkpoints.steps)
                if evaluating or saving:
                    record(pending, done)
                    pending = None
                if evaluate is not None and evaluating:
                    evaluation = evaluate(state)
                    if log:
                        log.write(done, {"evaluation": evaluation})
                if store and saving:
                    if log:
                        log.flush()
                    store.save(done, state, iterator.get_state(), {**metadata, PER_DISPATCH: count})
                    last_save = time.monotonic()
                if ending:
                    raise SystemExit(SIGTERM_EXIT)
        if directory is not None and first and speed.tokens_per_second:
            measured = {"tokens_per_second": round(speed.tokens_per_second, 1), "utilisation": speed.utilisation}
            write_speed(directory, {**measured, PER_DISPATCH: count})
    finally:
        if log:
            log.close()
    return state


def _require_writable(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        allowed = (
            f"a folder that this process can write in ({error.strerror}); choose another one, or change its permissions"
        )
        raise InvalidConfig("directory", str(directory), allowed) from None


def _due(before: int, done: int, steps: int, every: int | None) -> bool:
    """Whether the run is at its end or passed a multiple of `every` between `before` and `done` updates."""
    return done == steps or (every is not None and done // every > before // every)


@contextmanager
def _sigterm_noticed() -> Iterator[threading.Event]:
    """An event that SIGTERM sets instead of ending the process. Only the main thread may change signal handlers."""
    received = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: received.set())
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)
