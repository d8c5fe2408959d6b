"""Every experiment's smoke preset, through the command line, in this process: the programs that experiments share are compiled once."""

import json
import time

import jax
import pytest

from experiments.harness.registry import discover
from lexinv.data.assets import UNAVAILABLE

NAMES = sorted(discover())
SECONDS = 120
"""Processor seconds of a smoke run at most, with nothing compiled before."""


@pytest.fixture
def as_users_run():
    """Without the strictness of the tests, which holds for the library."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.experiment
@pytest.mark.parametrize("name", NAMES)
def test_smoke(name, tmp_path, monkeypatch, user_environment, as_users_run, main_in_process):
    monkeypatch.setenv("LEXINV_CACHE", user_environment["LEXINV_CACHE"])
    before = time.process_time()
    code, out, err = main_in_process("run", name, "smoke", "--workspace", str(tmp_path / "run"))
    spent = time.process_time() - before
    if UNAVAILABLE in err:
        pytest.skip(err)
    assert code == 0, err
    assert "smoke is done" in out
    claims = json.loads((tmp_path / "run/claims.json").read_text())
    assert claims
    assert (tmp_path / "run/figure.png").stat().st_size > 1000
    assert spent < SECONDS
