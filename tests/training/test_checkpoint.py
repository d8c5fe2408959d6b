"""Checkpoints on a bad day: truncated, missing, foreign, and a full disk."""

import json
import os
import resource
import shutil
import time
import traceback

import jax
import jax.numpy as jnp
import optax
import pytest
from tiny_run import assert_equal

from lexinv.training.checkpoint import Checkpoints
from lexinv.training.optimizers import OptimizerConfig, make_optimizer
from lexinv.training.retention import CheckpointConfig
from lexinv.training.state import create_state
from lexinv.validation import InvalidConfig

METADATA = {"config_hash": "0123abcd"}


def make_state(seed: int):
    key = jax.random.key(seed)
    params = {"kernel": jax.random.normal(key, (200, 300)), "gain": jnp.ones(3, jnp.bfloat16)}
    return create_state(params, make_optimizer(OptimizerConfig("muon"), 1000), key)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Checkpoints of steps 10 and 20."""
    directory = tmp_path_factory.mktemp("run") / "checkpoints"
    with Checkpoints(directory) as checkpoints:
        for step in (10, 20):
            checkpoints.save(step, make_state(step), {"next_index": step}, METADATA)
    return directory


@pytest.fixture
def directory(written, tmp_path):
    return shutil.copytree(written, tmp_path / "checkpoints")


def test_round_trip_is_exact(directory):
    restored = Checkpoints(directory).restore_latest(make_state(0), "0123abcd")
    assert restored is not None and (restored.step, restored.iterator) == (20, {"next_index": 20})
    assert_equal(restored.state, make_state(20))
    assert jax.tree.structure(restored.state) == jax.tree.structure(make_state(20))


def test_none_without_checkpoints(tmp_path):
    assert Checkpoints(tmp_path / "new").restore_latest(make_state(0), "0123abcd") is None


def by_size(folder):
    return sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def truncate(*files):
    for file in files:
        os.truncate(file, file.stat().st_size // 2)


def flip_a_bit(file):
    contents = bytearray(file.read_bytes())
    contents[len(contents) // 2] ^= 1
    file.write_bytes(contents)


DAMAGES = {
    "all truncated": lambda folder: truncate(*by_size(folder)),
    "largest truncated": lambda folder: truncate(by_size(folder)[-1]),
    "a bit flipped": lambda folder: flip_a_bit(by_size(folder)[-1]),
    "metadata deleted": lambda folder: (folder / "run" / "metadata").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_newest_falls_back_and_says_so(directory, damage):
    DAMAGES[damage](directory / "20")
    checkpoints = Checkpoints(directory)
    with pytest.warns(UserWarning, match=r"step 20 is damaged .*damaged-20.* last good checkpoint is .*checkpoints/10"):
        restored = checkpoints.restore_latest(make_state(0), "0123abcd")
    assert restored is not None and restored.step == 10
    assert_equal(restored.state, make_state(10))
    # The run goes on over the same steps.
    checkpoints.save(20, make_state(21), {"next_index": 20}, METADATA)
    checkpoints.wait()
    again = Checkpoints(directory).restore_latest(make_state(0), "0123abcd")
    assert again is not None and again.step == 20
    assert_equal(again.state, make_state(21))


def test_all_damaged_starts_anew_and_says_so(directory):
    for step in (10, 20):
        truncate(*by_size(directory / str(step)))
    with pytest.warns(UserWarning, match="is damaged") as caught:
        assert Checkpoints(directory).restore_latest(make_state(0), "0123abcd") is None
    assert ["starts from the beginning" in str(warning.message) for warning in caught] == [False, True]


def test_what_a_killed_writer_left_is_ignored(directory):
    shutil.copytree(directory / "20", directory / "30.orbax-checkpoint-tmp")
    assert Checkpoints(directory).latest() == 20
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(40, make_state(40), {}, METADATA)
    assert checkpoints.latest() == 40
    assert sorted(path.name for path in directory.iterdir()) == ["20", "40"]  # and it goes


def test_state_may_be_given_to_the_next_step_and_the_rest_changed_while_it_is_written(tmp_path):
    """The step donates its state: its buffers are written over. Restoring compares the digest, so a copy too late is found."""
    step = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + jnp.ones_like(leaf), state), donate_argnums=0)
    state, rows = {"kernel": jax.random.normal(jax.random.key(0), (1000, 1000))}, [1]
    state = create_state(state, optax.sgd(0.1), jax.random.key(0))._replace(key=jax.random.key_data(jax.random.key(0)))
    before = jax.device_get(jax.tree.map(jnp.copy, state))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, rows, METADATA)
        assert checkpoints.latest() is None  # it counts only when it is complete
        rows.append(2)
        for _ in range(20):
            state = step(state)
        jax.block_until_ready(state)
    restored = Checkpoints(tmp_path).restore_latest(state, "0123abcd")
    assert restored is not None and restored.iterator == [1]
    assert_equal(restored.state, before)


def test_other_config_is_refused_with_both_hashes_and_what_differs(tmp_path):
    theirs = {"config_hash": "0123abcd", "model": {"width": 64, "depth": 4}, "sizes": (1, 2), "name": "a"}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(10, make_state(0), {}, theirs)
    ours = {"config_hash": "ffff0000", "model": {"width": 64, "depth": 5}, "sizes": (1, 2), "new": 1}
    with pytest.raises(InvalidConfig, match="'ffff0000'.*run of config 0123abcd: model.depth: 4 there, 5 here$"):
        Checkpoints(tmp_path).restore_latest(make_state(0), "ffff0000", ours)
    assert [path.name for path in tmp_path.iterdir()] == ["10"]


def test_other_arrays_are_refused_and_named(directory):
    other = create_state({"kernel": jnp.ones((200, 301))}, optax.sgd(0.1), jax.random.key(0))
    with pytest.raises(InvalidConfig, match=r"gain.*float32\[200, 301\]"):
        Checkpoints(directory).restore_latest(other, "0123abcd")
    assert sorted(path.name for path in directory.iterdir()) == ["10", "20"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's threads, disturbed
def test_failing_writes_leave_the_previous_checkpoints_valid(directory, caplog):
    """A true failure of the file system, as on a full disk: no file of this process may grow beyond 100 kB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(directory) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            checkpoints.save(30, make_state(30), {"next_index": 30}, METADATA)
            with pytest.raises(OSError, match=rf"too large: '{directory}'") as caught:
                checkpoints.save(40, make_state(40), {"next_index": 40}, METADATA)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (note,) = caught.value.__notes__
    assert not [record for record in caplog.records if record.levelname == "ERROR"]  # Orbax's own, with traces
    told = "".join(traceback.format_exception(caught.value))
    assert "orbax" not in told and told.endswith(f"{note}\n")
    assert "checkpoint of step 30 could not be written" in note and "checkpoints/20. Make room there" in note
    assert sorted(path.name for path in directory.iterdir()) == ["10", "20"]
    restored = checkpoints.restore_latest(make_state(0), "0123abcd")
    assert restored is not None
    assert_equal(restored.state, make_state(20))
    checkpoints.save(30, make_state(30), {"next_index": 30}, METADATA)  # space has been made
    checkpoints.wait()
    assert checkpoints.latest() == 30


@pytest.mark.parametrize("lost", ["state/manifest.ocdbt", "state/d", "run/metadata"])
def test_a_checkpoint_that_cannot_be_read_back_does_not_count(directory, lost):
    """It is written without an error, and then not all there: as on file systems that lose what they confirmed."""
    checkpoints = Checkpoints(directory)
    checkpoints.save(30, make_state(30), {}, METADATA)
    checkpoints._manager.wait_until_finished()
    lost = directory / "30" / lost
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    damaged = pytest.warns(UserWarning, match=r"step 30 is damaged .*last good checkpoint is .*/20\.$")
    with damaged, pytest.raises(OSError, match=rf"step 30 could not be read back: '{directory}'"):
        checkpoints.wait()
    assert checkpoints.latest() == 20


@pytest.mark.parametrize("name", ["lr=[0.1]", "a*", "what?", "a\\b"])
def test_paths_in_which_checkpoints_are_not_found_again_are_refused_first(tmp_path, name):
    with pytest.raises(InvalidConfig, match=r"directory = .* a path without [*?[\\]"):
        Checkpoints(tmp_path / name / "checkpoints")
    assert not (tmp_path / name).exists()


def test_keeps_the_newest_and_one_of_every_hour(tmp_path):
    """Written 100, 70, 30 and 10 minutes ago: the first stays, of the others the one that is more than an hour younger."""
    state, now = create_state({"x": jnp.ones(2)}, optax.sgd(0.1), jax.random.key(0)), time.time_ns()
    with Checkpoints(tmp_path, CheckpointConfig(keep=4)) as checkpoints:
        for step in (1, 2, 3, 4):
            checkpoints.save(step, state, {}, METADATA)
    for step, minutes in ((1, 100), (2, 70), (3, 30), (4, 10)):
        file = tmp_path / str(step) / "_CHECKPOINT_METADATA"
        described = json.loads(file.read_text())
        assert abs(described["commit_timestamp_nsecs"] - now) < 60e9
        file.write_text(json.dumps({**described, "commit_timestamp_nsecs": now - minutes * 60 * 10**9}))
    with Checkpoints(tmp_path, CheckpointConfig(keep=1, keep_minutes=60.0)) as checkpoints:
        checkpoints.save(5, state, {}, METADATA)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3", "5"]
