"""The executor `population`: a made-up experiment trains three weights, several trials as one population, and nothing shows it."""

import importlib
import json
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import experiments
from experiments.__main__ import main
from experiments.harness import record, trial, work
from experiments.harness.config import config_hash
from experiments.harness.sweep_algebra import override
from experiments.harness.work import Work
from experiments.harness.workspace import open_workspace
from lexinv.training.metrics import MetricsLog, read_metrics

TINY = '''"""Weights that are drawn to numbers."""

import hashlib
from dataclasses import dataclass

import grain
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.training import Training, train, training_losses
from experiments.harness.verdicts import OURS, Claim, above
from lexinv.training.optimizers import OptimizerConfig

PAPERS = ()


@dataclass(frozen=True)
class Config:
    training: Training = Training(6, 2, (0,), OptimizerConfig(warmup_steps=1))
    trainings: int = 1
    fail: bool = False


PRESETS = {"smoke": Config()}


def batches(seed):
    return grain.MapDataset.range(100).map(lambda index: np.random.default_rng([seed, index]).random((1, 2, 3), np.float32))


def run(config, workspace):
    def part(name):
        start, loss = (lambda key: jax.random.normal(key, (3,))), (lambda params, x, key: (jnp.mean((x - params[None]) ** 2), {}))
        params = train(name, start, loss, batches, config.training, workspace)
        digests = [hashlib.sha256(np.asarray(tree)).hexdigest() for tree in params]
        return {"params": digests, "losses": training_losses(name, config.training, workspace)}

    if config.fail:
        raise ValueError("as it was told to")
    names = [f"part/{number}" for number in range(config.trainings)]
    return {"models": {name: part(name) for name in names}, "seeds": config.training.seeds, "corpora": {}}


def claims(results):
    return [Claim("trained", "Models are trained.", OURS, {"models": len(results["models"])}, above(0))]


def figure(results):
    return Figure()
'''
PRESET = ("sweep", "tiny/models", "smoke", "--executor", "population")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The made-up experiment is found in this process."""
    root = tmp_path_factory.mktemp("tiny")
    (root / "experiments/tiny").mkdir(parents=True)
    (root / "experiments/tiny/models.py").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments, "__path__", [str(root / "experiments"), *experiments.__path__])
        patch.setattr(record, "packages_distributions", dict)
        patch.setenv("LEXINV_CACHE", str(root / "cache"))
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(root / "cache/compiled"))
        patch.chdir(root)
        yield root
    for name in ("experiments.tiny", "experiments.tiny.models"):
        sys.modules.pop(name, None)


def sweep(*arguments: str) -> int:
    previous = signal.getsignal(signal.SIGTERM)
    try:
        return main([*PRESET, *arguments])
    except SystemExit as stop:
        return stop.code
    finally:
        signal.signal(signal.SIGTERM, previous)


def trained(changes: dict):
    return override(importlib.import_module("experiments.tiny.models").PRESETS["smoke"], changes)


def folder(root: str, changes: dict) -> Path:
    return Path(root, "trials", config_hash(trained(changes)))


RATE, SEEDS = "training.optimizer.learning_rate", "training.seeds"
ONCE = {RATE: 1e-2, SEEDS: (1, 2)}
SLOW, FAST = {RATE: 1e-3, SEEDS: (0,)}, {**ONCE, "trainings": 2}
DIVERGING, FAILING = {RATE: 1e35, SEEDS: (3,)}, {"fail": True}


@pytest.fixture(scope="module")
def finished(tiny: Path) -> SimpleNamespace:
    """A sweep of trials of which two can be one population, another would be but diverges, and one fails."""
    populations_trained = []
    zips = f"{RATE}=1e-3,1e-2,1e35 {SEEDS}=[0],[1,2],[3] trainings=1,2,1".split()
    run = Work.run

    def noticed(work):
        populations_trained.append((work.name, work.members, work.folder))
        return run(work)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Work, "run", noticed)
        code = sweep("--workspace", "s", "--zip", *zips, "--chain", "--grid", "fail=True")
    return SimpleNamespace(code=code, trained=populations_trained)


def test_trainings_of_one_program_are_one_population(finished):
    """First with the member that diverges, then without; what nobody shares is trained alone."""
    assert finished.code == 1
    together = [members for _, members, place in finished.trained if "populations" in place.parts]
    slow, fast, diverging = (0, 1e-3), [(1, 1e-2), (2, 1e-2)], (3, 1e35)
    assert together == [(slow, *fast, diverging), (slow, *fast)]
    # Called with every start of a trial that finds its members, too.
    by_themselves = {(place.parts[-3], name) for name, _, place in finished.trained if "trials" in place.parts}
    names = {
        (folder("s", changes).name, name)
        for changes, parts in ((SLOW, 1), (FAST, 2), (DIVERGING, 1))
        for name in ("part/0", "part/1")[:parts]
    }
    assert by_themselves == names


def test_failures_are_told_and_leave_the_others_alone(finished):
    assert "ValueError: as it was told to" in (folder("s", FAILING) / "error.txt").read_text()
    error = (folder("s", DIVERGING) / "error.txt").read_text()
    assert "NonFiniteLoss" in error and f"config {folder('s', DIVERGING).name}" in error
    summary = json.loads(Path("s/summary.json").read_bytes())
    assert sorted(row["status"] for row in summary["trials"]) == ["done", "done", "failed", "failed"]
    assert not Path("s/populations").exists()
    for changes in (SLOW, FAST, DIVERGING, FAILING):
        with open_workspace(folder("s", changes), "tiny/models", "smoke", trained(changes)).locked():
            pass
        assert len(json.loads((folder("s", changes) / "sessions.json").read_bytes())) == 1


@pytest.fixture(scope="module")
def by_itself(finished) -> Path:
    """A trial of the sweep, run as the executor `processes` runs it."""
    path = Path("alone") / config_hash(trained(FAST))
    open_workspace(path, "tiny/models", "smoke", trained(FAST))
    trial.run_trial(path)
    return path


def test_a_trial_of_a_population_equals_one_by_itself(finished, by_itself):
    """Bit for bit, as the tests compile: results, which hold digests of the parameters, and metrics."""
    for name in ("results.json", "part/0/metrics.jsonl", "part/1/metrics.jsonl"):
        assert (folder("s", FAST) / name).read_bytes() == (by_itself / name).read_bytes()
    assert [len(line["loss"]) for line in read_metrics(by_itself / "part/0/metrics.jsonl")] == [2] * 6


def test_a_trials_folder_is_complete_by_itself(finished, monkeypatch):
    """Without its results it finds its models trained."""
    path = shutil.copytree(folder("s", SLOW), Path("copy") / folder("s", SLOW).name)
    before = (path / "results.json").read_bytes()
    (path / "results.json").unlink()
    monkeypatch.setattr(work, "fit", refuse)
    trial.run_trial(path)
    assert (path / "results.json").read_bytes() == before


def refuse(*_, **__):
    raise AssertionError("a finished model was trained again")


@pytest.mark.long
def test_what_is_stopped_resumes_and_equals_an_undisturbed_sweep(finished, by_itself, monkeypatch):
    """Stopped twice in the middle of a population, and then, as by a kill, when the first of its trials has its members."""
    grid = ("--workspace", "stopped", "--zip", f"{RATE}=1e-3,1e-2", f"{SEEDS}=[0],[1,2]")
    write, rename = MetricsLog.write, Path.rename

    for step, number, code in ((2, signal.SIGTERM, 143), (4, signal.SIGINT, 130)):

        def stop(log, at, values, step=step, number=number):
            write(log, at, values)
            if at == step:
                signal.raise_signal(number)

        with monkeypatch.context() as patch:
            patch.setattr(MetricsLog, "write", stop)
            assert sweep(*grid) == code
        (place,) = Path("stopped/populations").iterdir()
        assert max(path.name for path in (place / "population/checkpoints").iterdir()) == f"{step + 1}"
        for changes in (SLOW, ONCE):
            path = folder("stopped", changes)
            assert not (path / "error.txt").exists()
            with open_workspace(path, "tiny/models", "smoke", trained(changes)).locked():
                pass

    def killed(path, target):
        if path.parent.name == "prepared" and folder("stopped", ONCE) in target.parents:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        assert sweep(*grid) == 130
    assert (folder("stopped", SLOW) / "part/0/checkpoints/6").is_dir()
    assert not (folder("stopped", ONCE) / "part/0/checkpoints").exists()

    monkeypatch.setattr(work, "fit", refuse)
    assert sweep(*grid) == 0
    assert not Path("stopped/populations").exists()
    for changes, expected in ((SLOW, folder("s", SLOW)), (ONCE, by_itself)):
        path = folder("stopped", changes)
        found, whole = (json.loads((place / "results.json").read_bytes()) for place in (path, expected))
        assert found["models"]["part/0"] == whole["models"]["part/0"]
        assert len(json.loads((path / "sessions.json").read_bytes())) == 4
