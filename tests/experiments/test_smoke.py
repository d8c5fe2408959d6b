"""Every experiment has its presets, and its smoke preset goes through the command line."""

import json
import resource
import subprocess
import sys

import pytest

from experiments.harness import record
from experiments.harness.config import config_hash, from_json, to_json
from experiments.harness.registry import discover, load, title

NAMES = sorted(discover())
SECONDS, CORES = 60, 2


@pytest.mark.parametrize("name", NAMES)
def test_face(name):
    module = load(name)
    assert module.PRESETS.keys() >= {"smoke", "cpu", "paper"}
    assert module.PAPER.strip().startswith("@")
    assert title(discover()[name])
    for preset in module.PRESETS.values():
        assert from_json(module.Config, to_json(preset)) == preset
    assert len({config_hash(preset) for preset in module.PRESETS.values()}) == len(module.PRESETS)


@pytest.mark.experiment
@pytest.mark.parametrize("name", NAMES)
def test_smoke(name, tmp_path, user_environment):
    command = [sys.executable, "-m", "experiments", "run", name, "smoke", "--workspace", str(tmp_path / "run")]

    def start() -> str:
        done = subprocess.run(
            command, cwd=record.REPOSITORY, env=user_environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Processor time, since other tests run beside this one.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < SECONDS * CORES
    claims = json.loads((tmp_path / "run/claims.json").read_text())
    assert claims
    assert all(claim["statement"] and claim["source"] for claim in claims)
    assert (tmp_path / "run/figure.png").stat().st_size > 1000
    if name == "tokenization/generalization":  # what a second start does is the harness's, and takes as long for all
        assert "is complete" in start()
