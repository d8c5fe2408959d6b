"""The reliability contract: exact resumption, kill -9, SIGTERM, a full disk, a loss that is not finite."""

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_run
from tiny_run import assert_equal, dataset, run

from lexinv.nn.flops import PEAK_FLOPS
from lexinv.training.checkpoint import Checkpoints
from lexinv.training.fit import SIGTERM_EXIT, NonFiniteLoss
from lexinv.training.metrics import read_metrics
from lexinv.training.retention import CheckpointConfig
from lexinv.validation import InvalidConfig

STEPS = 24


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, train_step):
    """Folder and final state of a run that was never stopped."""
    directory = tmp_path_factory.mktemp("undisturbed")
    return directory, run(directory, STEPS, train_step)


class Stopped(Exception):
    pass


def assert_as(undisturbed, directory, state):
    """State and metrics are bitwise those of the other run."""
    assert_equal(state, undisturbed[1])
    assert (directory / "metrics.jsonl").read_bytes() == (undisturbed[0] / "metrics.jsonl").read_bytes()


def stopping(dispatches: int, train_step, how=None):
    """The train step until it has been called that often; then it raises, or does `how`."""
    calls = 0

    def step(state, batch):
        nonlocal calls
        calls += 1
        if calls == dispatches:
            if how is None:
                raise Stopped
            how()
        return train_step(state, batch)

    return step


def poisoned(name: str, train_step):
    """The train step with a metric that is not finite at step 11."""

    def step(state, batch):
        state, metrics = train_step(state, batch)
        return state, {**metrics, name: jax.numpy.where(state.step == 12, np.float32("nan"), metrics[name])}

    return step


def never(state, batch):
    raise AssertionError("nothing is to be computed")


def test_same_seed_twice_is_bitwise_equal(tmp_path, undisturbed, train_step):
    assert_as(undisturbed, tmp_path, run(tmp_path, STEPS, train_step))


@pytest.mark.parametrize("dispatches", [1, 4, 9])
def test_resumed_run_is_bitwise_equal(tmp_path, undisturbed, train_step, dispatches):
    with pytest.raises(Stopped):
        run(tmp_path, STEPS, stopping(dispatches, train_step), checkpoints=CheckpointConfig(steps=6))
    assert_as(undisturbed, tmp_path, run(tmp_path, STEPS, train_step, checkpoints=CheckpointConfig(steps=6)))


def test_truncated_newest_checkpoint_falls_back_and_ends_equal(tmp_path, undisturbed, train_step):
    run(tmp_path, 16, train_step, checkpoints=CheckpointConfig(steps=8))
    for path in (tmp_path / "checkpoints" / "16").rglob("*"):
        if path.is_file():
            os.truncate(path, path.stat().st_size // 2)
    with pytest.warns(UserWarning, match="step 16 is damaged"):
        resumed = run(tmp_path, STEPS, train_step)
    assert_as(undisturbed, tmp_path, resumed)


def test_complete_run_is_not_computed_again(tmp_path, undisturbed):
    shutil.copytree(undisturbed[0], tmp_path / "run")
    assert_equal(run(tmp_path / "run", STEPS, never), undisturbed[1])


@pytest.mark.long
@pytest.mark.parametrize("ending, code", [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, SIGTERM_EXIT)])
def test_a_process_that_ends_at_a_random_moment_is_resumed_bitwise(tmp_path, train_step, ending, code):
    killed, whole, delay = tmp_path / "killed", tmp_path / "whole", random.uniform(0.0, 0.5)
    path = os.pathsep.join([str(Path(tiny_run.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, tiny_run.__file__, str(killed), str(10**6), "10"]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(path.name.isdigit() for path in (killed / "checkpoints").glob("*")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.02)
    time.sleep(delay)
    process.send_signal(ending)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    latest = Checkpoints(killed / "checkpoints").latest()
    if ending == signal.SIGTERM:
        assert latest == len(read_metrics(killed / "metrics.jsonl"))  # nothing that was computed is lost
    else:
        assert latest is not None and latest % 10 == 0, f"killed {delay:.3f} s after the first checkpoint"
    resumed = run(killed, latest + 20, train_step)
    assert_as((whole, run(whole, latest + 20, train_step)), killed, resumed)


def test_sigterm_handler_is_put_back(tmp_path, train_step):
    before = signal.getsignal(signal.SIGTERM)
    terminated = stopping(3, train_step, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as caught:
        run(tmp_path, STEPS, terminated)
    assert caught.value.code == SIGTERM_EXIT == 143
    assert Checkpoints(tmp_path / "checkpoints").latest() == 6
    assert signal.getsignal(signal.SIGTERM) is before


def test_full_disk_while_checkpointing(tmp_path, undisturbed, train_step, monkeypatch):
    import orbax.checkpoint as ocp

    def no_space(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    run(tmp_path, 8, train_step)
    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "save", no_space)
        with pytest.raises(OSError, match="No space left") as caught:
            run(tmp_path, STEPS, train_step, checkpoints=CheckpointConfig(steps=6))
    assert "checkpoints/8" in caught.value.__notes__[0]
    assert_as(undisturbed, tmp_path, run(tmp_path, STEPS, train_step))


def test_full_disk_is_no_excuse_for_a_loss_that_is_not_finite(tmp_path, train_step, monkeypatch):
    """Both are told: the loss, with the checkpoint that could be written, and what became of the one after it."""
    import orbax.checkpoint as ocp

    waits = ocp.CheckpointManager.wait_until_finished

    def fails_from_8_on(manager):
        waits(manager)
        if (manager.latest_step() or 0) >= 8:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ocp.CheckpointManager, "wait_until_finished", fails_from_8_on)
    with pytest.raises(NonFiniteLoss, match=r"at step 11 .*checkpoints/4$") as caught:
        run(tmp_path, STEPS, poisoned("loss", train_step), checkpoints=CheckpointConfig(steps=4))
    assert "No space left" in str(caught.value.__context__)


def test_read_only_directory_is_refused_before_anything_is_computed(undisturbed):
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        directory = shutil.copytree(undisturbed[0], Path(folder) / "run")
        held = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
        os.chmod(folder, 0o755)
        for read_only in (directory / "checkpoints", directory):
            os.chmod(read_only, 0o555)
        if user == 0:  # who may write everywhere
            os.seteuid(65534)
        try:
            for path in (directory, directory / "new"):
                with pytest.raises(InvalidConfig, match=rf"'{path}/checkpoints' .*can write in \(Permission denied\)"):
                    run(path, STEPS + 2, never)
        finally:
            os.seteuid(user)
            os.chmod(directory, 0o755)
            os.chmod(directory / "checkpoints", 0o755)
        assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == held


@pytest.mark.parametrize("name", ["loss", "gradient_norm"])
def test_non_finite_loss_names_step_config_and_last_good_checkpoint(tmp_path, train_step, name):
    with pytest.raises(NonFiniteLoss, match=r"nan.* at step 11 of config 0123abcd.*checkpoints/8$"):
        run(tmp_path, STEPS, poisoned(name, train_step), checkpoints=CheckpointConfig(steps=4))
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, 11))
    assert Checkpoints(tmp_path / "checkpoints").latest() == 8
    with pytest.raises(NonFiniteLoss, match="last good checkpoint does not exist"):
        run(None, STEPS, poisoned(name, train_step))


def test_evaluation_is_written_and_survives_resumption(tmp_path, train_step):
    def evaluate(state):
        return {"norm": np.linalg.norm(state.params["table"]), "step": int(state.step)}

    options = {"evaluate": evaluate, "evaluate_every": 8, "checkpoints": CheckpointConfig(steps=8)}
    with pytest.raises(Stopped):
        run(tmp_path / "stopped", 20, stopping(7, train_step), **options)
    run(tmp_path / "stopped", 20, train_step, **options)
    run(tmp_path / "whole", 20, train_step, **options)
    assert (tmp_path / "stopped" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    found = [line for line in read_metrics(tmp_path / "whole" / "metrics.jsonl") if "evaluation" in line]
    assert [(line["step"], line["evaluation"]["step"]) for line in found] == [(8, 8), (16, 16), (20, 20)]


def test_evaluation_needs_no_directory(train_step):
    seen = []
    run(None, 20, train_step, evaluate=lambda state: {"step": seen.append(int(state.step))}, evaluate_every=8)
    assert seen == [8, 16, 20]


@pytest.mark.parametrize(
    "steps, options, message",
    [
        (5, {}, "steps = 5 .* multiple of the 2 steps per dispatch"),
        (20, {"evaluate_every": 8}, "evaluate_every = 8 .* None without evaluate"),
        (20, {"evaluate_every": 0, "evaluate": lambda state: {}}, "evaluate_every = 0"),
    ],
)
def test_what_no_run_can_do_is_refused(steps, options, message):
    with pytest.raises(InvalidConfig, match=message):
        run(None, steps, never, **options)


def test_checkpoints_by_time(tmp_path, train_step):
    run(tmp_path, 8, train_step, checkpoints=CheckpointConfig(seconds=0.0))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["6", "8"]


def test_other_config_is_refused(undisturbed, train_step):
    before = (undisturbed[0] / "metrics.jsonl").read_bytes()
    with pytest.raises(InvalidConfig, match=r"config_hash = 'beef'.*0123abcd"):
        run(undisturbed[0], STEPS, train_step, metadata={"config_hash": "beef"})
    assert (undisturbed[0] / "metrics.jsonl").read_bytes() == before


def test_a_run_that_was_begun_with_other_dispatches_is_refused(undisturbed, train_step, monkeypatch):
    """The place of its data is counted in them."""
    shutil.copytree(undisturbed[0], folder := undisturbed[0].with_name("begun"))
    other = dataset().map(lambda batch: jax.tree.map(lambda leaf: leaf[:1], batch))
    monkeypatch.setattr(tiny_run, "dataset", lambda: other)
    with pytest.raises(InvalidConfig, match="steps_per_dispatch = 1 .* the 2 with which .*begun was begun"):
        run(folder, STEPS + 2, never)


def test_plain_progress_line_without_a_terminal(train_step, capfd):
    run(None, 8, train_step, progress=True, description="bigram")
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("bigram step 2/8  loss 1.") and lines[-1].startswith("bigram step 8/8  loss 1.")
    assert "tokens/s" in lines[-1] and len(lines) == 2


@pytest.mark.parametrize("peak", [None, 1e12])
def test_speed_is_shown_and_kept_with_its_share_of_a_known_peak(tmp_path, train_step, capfd, monkeypatch, peak):
    monkeypatch.setitem(PEAK_FLOPS, "cpu", peak) if peak else None
    begun = time.monotonic()
    run(tmp_path, 8, train_step, progress=True, flops_per_token=1e6)
    line = capfd.readouterr().err.splitlines()[-1]
    speed = json.loads((tmp_path / "speed.json").read_bytes())
    tokens = 6 * tiny_run.BATCH * tiny_run.TIME  # the first of the four dispatches is not measured
    assert speed["tokens_per_second"] > tokens / (time.monotonic() - begun)
    if peak is None:
        assert "of peak" not in line and speed["utilisation"] is None
        return
    assert speed["utilisation"] == pytest.approx(speed["tokens_per_second"] * 1e6 / peak, rel=1e-3)
    shown, share = (
        float(re.search(found, line)[1].replace(",", "")) for found in (r"([\d,]+) tokens/s", r"([\d.]+)% of")
    )
    assert share == pytest.approx(100 * shown * 1e6 / peak, rel=0.1, abs=0.06)


def test_population_metrics_are_lists_and_the_bar_shows_their_mean(tmp_path, capfd):
    step = tiny_run.make_train_step(tiny_run.loss_fn, tiny_run.OPTIMIZER, population="map")
    state = jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), tiny_run.initial_state(0), tiny_run.initial_state(1))
    data = dataset().map(lambda batch: jax.tree.map(lambda leaf: np.stack([leaf, leaf], axis=1), batch))
    options = {"metadata": tiny_run.METADATA, "tokens_per_step": 1}
    final = tiny_run.fit(state, step, data, steps=4, directory=tmp_path, **options)
    assert final.step.tolist() == [4, 4]
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [len(line["loss"]) for line in lines] == [2] * 4
    assert f"step 4/4  loss {np.mean(lines[-1]['loss']):.4f}" in capfd.readouterr().err
