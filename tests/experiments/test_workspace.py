import json
import multiprocessing
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import pytest

from experiments.harness import workspace as module
from experiments.harness.workspace import Workspace, finite, open_workspace, write_atomically, write_json
from lexinv.validation import InvalidConfig

ESCAPES = ["../out", "/etc", "a/../../out", "", ".", "..", "a//b", "a/", "~", ".hidden", "a\nb", "a\\b", "C:x"]


@dataclass(frozen=True)
class Config:
    width: int = 4


def test_stage_is_computed_once(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"tuple": (1, 2), "array": np.arange(3, dtype=np.int32), "scalar": np.float64(0.1)}

    first = Workspace(tmp_path, "hash").cached("part/one", compute)
    second = Workspace(tmp_path, "hash").cached("part/one", compute)
    assert first == second == {"tuple": [1, 2], "array": [0, 1, 2], "scalar": 0.1}
    assert len(calls) == 1
    assert json.loads((tmp_path / "stages/part/one.json").read_text()) == first


def test_failed_stage_leaves_nothing(tmp_path):
    workspace = Workspace(tmp_path, "hash")
    with pytest.raises(ZeroDivisionError):
        workspace.cached("one", lambda: 1 / 0)
    with pytest.raises(TypeError, match="set is not JSON"):
        workspace.cached("one", lambda: {"x": {1}})
    assert workspace.cached("one", lambda: 2) == 2


def test_a_stage_with_a_number_that_is_not_finite_is_kept_and_says_where(tmp_path):
    def compute():
        return {"loss": np.array([[1.5, np.inf], [np.nan, 2.0]]), "rest": [3]}

    workspace = Workspace(tmp_path, "hash")
    with pytest.warns(
        UserWarning, match=r"^stage part/one.loss\[0\]\[1\] is inf, stage part/one.loss\[1\]\[0\] is nan$"
    ):
        first = workspace.cached("part/one", compute)
    second = workspace.cached("part/one", lambda: pytest.fail("computed again"))
    for value in (first, second):
        np.testing.assert_array_equal(value["loss"], [[1.5, np.inf], [np.nan, 2.0]])
        assert value["rest"] == [3]


def test_what_others_read_has_null_for_numbers_that_are_not_finite(tmp_path):
    results = {"arms": [{"loss": float("nan")}, {"loss": 2.0}], "seeds": (0, 1)}
    with pytest.warns(UserWarning, match=r"^results.arms\[0\].loss is nan: kept as null$"):
        assert finite(results, "results") == {"arms": [{"loss": None}, {"loss": 2.0}], "seeds": [0, 1]}
    with pytest.raises(ValueError, match=r"claims.json cannot hold claims\[0\].mean is -inf, .* and 2 more$"):
        write_json(tmp_path / "claims.json", [{"mean": -np.inf}] * 7)
    assert not (tmp_path / "claims.json").exists()


def test_damaged_stage_is_computed_again(tmp_path):
    workspace = Workspace(tmp_path, "hash")
    workspace.cached("one", lambda: [1, 2, 3])
    (tmp_path / "stages/one.json").write_text("[1, 2")
    with pytest.warns(UserWarning, match="damaged"):
        assert workspace.cached("one", lambda: [4]) == [4]


def test_what_a_run_stands_on_must_stay_as_it_began(tmp_path):
    for _ in range(2):
        assert Workspace(tmp_path, "hash").pinned("corpora", {"docs": "a1"}) == {"docs": "a1"}
    with pytest.raises(InvalidConfig, match="'docs': 'b2'.*'docs': 'a1'.*began"):
        Workspace(tmp_path, "hash").pinned("corpora", {"docs": "b2"})


@pytest.mark.parametrize("name", ESCAPES)
def test_names_stay_inside(tmp_path, name):
    workspace = Workspace(tmp_path / "run", "hash")
    with pytest.raises(InvalidConfig, match="name"):
        workspace.folder(name)
    with pytest.raises(InvalidConfig, match="name"):
        workspace.cached(name, lambda: 1)
    assert not (tmp_path / "out").exists()


def test_links_out_are_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "run/stages").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidConfig, match="not a link out of it"):
        Workspace(tmp_path / "run", "hash").cached("one", lambda: 1)
    assert list((tmp_path / "secret").iterdir()) == []


def test_another_configuration_is_refused_with_both_hashes(tmp_path):
    first = open_workspace(tmp_path / "run", "toy/line", "cpu", Config())
    assert open_workspace(tmp_path / "run", "toy/line", "cpu", Config()) == first
    other = open_workspace(tmp_path / "other", "toy/line", "cpu", Config(width=8))
    with pytest.raises(
        InvalidConfig, match=f"({first.config_hash}.*{other.config_hash}|{other.config_hash}.*{first.config_hash})"
    ):
        open_workspace(tmp_path / "run", "toy/line", "cpu", Config(width=8))
    with pytest.raises(InvalidConfig, match="toy/circle"):
        open_workspace(tmp_path / "run", "toy/circle", "cpu", Config())


def test_folders_of_others_are_refused_and_left_as_they_were(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidConfig, match="a folder"):
        open_workspace(tmp_path / "file", "toy/line", "cpu", Config())
    with pytest.raises(InvalidConfig, match="new or empty folder.*file"):
        open_workspace(tmp_path, "toy/line", "cpu", Config())
    assert [child.name for child in tmp_path.iterdir()] == ["file"]
    (tmp_path / "damaged").mkdir()
    for content in ("{", "[]", "{}"):
        (tmp_path / "damaged/config.json").write_text(content)
        with pytest.raises(InvalidConfig, match="cannot be read"):
            open_workspace(tmp_path / "damaged", "toy/line", "cpu", Config())


@pytest.mark.parametrize("name", [".ipynb_checkpoints/run.ipynb", ".config.json.123", "lost+found/x"])
def test_what_others_put_anywhere_makes_no_folder_foreign(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("x")
    assert open_workspace(tmp_path, "toy/line", "cpu", Config()).path == tmp_path


# Several times: wait for the others, then ask for the same new folder with a configuration of one's own. Without JAX, and with a pause
# where another process may come between.
ASKING = """
import sys, time, types
from dataclasses import dataclass
from pathlib import Path

alone = {"agree": lambda compute: compute(), "first_process": lambda: True, "in_any_process": lambda here: here}
sys.modules["lexinv.training.processes"] = types.SimpleNamespace(**alone)
from experiments.harness import workspace
from lexinv.validation import InvalidConfig

@dataclass(frozen=True)
class Config:
    width: int

root, mine, processes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
write_json = workspace.write_json
workspace.write_json = lambda *of: time.sleep(0.02) or write_json(*of)
for turn in range(5):
    (root / f"ready-{turn}-{mine}").touch()
    while len(list(root.glob(f"ready-{turn}-*"))) < processes:
        time.sleep(0.001)
    try:
        workspace.open_workspace(root / f"run-{turn}", "toy/line", "cpu", Config(mine))
        print(turn)
    except InvalidConfig as error:
        assert "config hash" in str(error), error
assert "jax" not in sys.modules
"""


def test_of_several_configurations_at_a_time_one_gets_the_folder(tmp_path):
    processes = [
        subprocess.Popen([sys.executable, "-c", ASKING, tmp_path, str(i), "4"], stdout=subprocess.PIPE, text=True)
        for i in range(4)
    ]
    accepted = [turn for process in processes for turn in process.communicate(timeout=60)[0].split()]
    assert sorted(accepted) == ["0", "1", "2", "3", "4"]
    assert [process.returncode for process in processes] == [0] * 4


def hold(path, held, release):
    with Workspace(path, "hash").locked():
        held.set()
        release.wait(30)


def test_one_process_at_a_time(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, held, release))
    process.start()
    assert held.wait(30)
    with pytest.raises(InvalidConfig, match="no other process"), Workspace(tmp_path, "hash").locked():
        pass
    process.kill()
    process.join()
    with Workspace(tmp_path, "hash").locked():  # a killed process lets go
        assert (tmp_path / ".lock").exists()


def test_clock_runs_while_the_session_lasts(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CLOCK_SECONDS", 0.01)
    workspace = Workspace(tmp_path, "hash")
    with workspace.session({"git_commit": "a"}):
        time.sleep(0.15)
        assert workspace.sessions()[0]["wall_clock_seconds"] >= 0.1  # what a killed process leaves
    with pytest.raises(RuntimeError), workspace.session({"git_commit": "b"}):
        raise RuntimeError
    assert [session["git_commit"] for session in workspace.sessions()] == ["a", "b"]


def test_what_ends_a_run_is_told_although_the_clock_cannot_be_written(tmp_path, monkeypatch):
    workspace = Workspace(tmp_path, "hash")

    def full(*_):
        raise OSError(28, "No space left on device", "sessions.json")

    def run(error):
        with monkeypatch.context() as patch, workspace.session({}):
            patch.setattr(module, "write_atomically", full)
            if error is not None:
                raise error

    with pytest.raises(OSError, match="sessions"):
        run(None)
    with pytest.raises(OSError, match="checkpoints"):
        run(OSError(28, "No space left on device", "checkpoints"))


def test_writing_is_atomic_and_leaves_equal_files_alone(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"one")
    before = path.stat()
    write_atomically(path, b"one")
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'$"):
        write_atomically(path, b"two")
    assert path.read_bytes() == b"one"
    assert [child.name for child in tmp_path.iterdir()] == ["file"]
