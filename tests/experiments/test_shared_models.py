"""Models of the user's cache: trained once, found by what decides them, and their speed told to every run that takes them."""

import importlib.util
import json
from contextlib import contextmanager

import pytest

from experiments.harness import shared_models
from experiments.harness.record import training_speed
from experiments.harness.workspace import Workspace, write_json
from lexinv.training.metrics import SPEED_FILE
from lexinv.validation import InvalidConfig


def workspace(path) -> Workspace:
    return Workspace(path, "hash", progress=False)


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """Shared models whose training takes no time but is said to have taken ten seconds, and the list of the folders it happened in."""
    monkeypatch.setattr(shared_models, "cache_directory", lambda: tmp_path / "cache")
    monkeypatch.setattr(Workspace, "session", ten_seconds)
    monkeypatch.setattr(shared_models, "describe_session", lambda: {"device_kind": "a chip", "git_commit": "c0ffee"})
    folders = []

    def train(shared: Workspace):
        if not (shared.path / "trained").exists():
            folders.append(shared.path)
            (shared.path / "trained").touch()
            write_json(shared.folder("regression") / SPEED_FILE, {"tokens_per_second": 1.0, "utilisation": None})
        return [1.0]

    return train, folders


@contextmanager
def ten_seconds(self, description):
    write_json(self.path / "sessions.json", [*self.sessions(), {**description, "wall_clock_seconds": 10.0}])
    yield


def test_the_run_says_where_its_models_were_trained(tmp_path, quick):
    train, folders = quick
    trained = [{"device_kind": "a chip", "git_commit": "c0ffee", "wall_clock_seconds": 10.0}]
    # The run that trains them, the same resumed, and another one that finds them.
    for name, before in (("a", 0.0), ("a", 0.0), ("b", 10.0)):
        models = shared_models.shared_models({}, train, workspace(tmp_path / name))
        note = json.loads((tmp_path / name / f"models/{models.identity}.json").read_text())
        assert note == {"seconds": 10.0, "seconds_elsewhere": before, "trained": trained}
        assert models.seconds_elsewhere == before
        assert list(training_speed(tmp_path / name)) == [f"models/{models.identity}/regression"]
    assert folders == [tmp_path / "cache/models" / models.identity]
    other = shared_models.shared_models({"model": "other"}, train, workspace(tmp_path / "c"))
    assert other.identity != models.identity and len(folders) == 2
    (tmp_path / f"b/models/{models.identity}.json").write_text("{")
    with pytest.raises(InvalidConfig, match=f"b/models/{models.identity}.json"):
        shared_models.shared_models({}, train, workspace(tmp_path / "b"))


def test_a_run_with_models_of_its_own_trains_them_anew(tmp_path, quick):
    train, folders = quick
    shared_models.shared_models({}, train, workspace(tmp_path / "a"))
    run = workspace(tmp_path / "b")
    own = run.folder(shared_models.OWN_MODELS)
    models = shared_models.shared_models({}, train, run)
    assert folders[1:] == [own / models.identity]
    assert models.seconds_elsewhere == 0.0


@pytest.mark.usefixtures("quick")
def test_models_of_another_loss_are_not_found(tmp_path):
    """The loss in the file of the function that trains, and in a module that is named."""
    identities = []
    for number, (body, helper) in enumerate([("1.0", "a"), ("2.0", "a"), ("1.0", "b"), ("1.0", "a")]):
        folder = tmp_path / f"code-{number}"
        folder.mkdir()
        modules = []
        for name, text in (("own", f"def train(shared): return [{body}]\n"), ("helper", f"NAME = {helper!r}\n")):
            (folder / f"{name}.py").write_text(text)
            spec = importlib.util.spec_from_file_location(f"{name}_{number}", folder / f"{name}.py")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            modules.append(module)
        own, helper_module = modules
        found = shared_models.shared_models({}, own.train, workspace(tmp_path / "run"), [helper_module])
        identities.append(found.identity)
        assert found.params == [float(body)]
    assert len(set(identities[:3])) == 3 and identities[3] == identities[0]
