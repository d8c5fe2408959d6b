"""Every experiment's smoke preset, through the command line, in this process: the programs that experiments share are compiled once."""

import json
import time
from importlib.util import find_spec

import jax
import pytest

from experiments.harness.registry import discover
from lexinv.data.assets import UNAVAILABLE
from lexinv.data.corpora import load_corpus

NAMES = sorted(discover())
SECONDS, BESIDE_COMPILING = 100, 25
"""Processor seconds of a smoke run at most: with nothing compiled before, and without those that the clock shows for compiling."""
IN_DOUBLE_PRECISION = ("lexinvariance/in_context", "tokenization/not_unigram", "sae/pareto", "merging/visual_alignment")
"""The cheapest of each family that trains."""


@pytest.fixture
def as_users_run():
    """Without the strictness of the tests, which holds for the library."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def smoke(tmp_path, monkeypatch, user_environment, as_users_run, main_in_process):
    """Run the smoke preset of an experiment: its processor seconds, and those beside compiling."""
    monkeypatch.setenv("LEXINV_CACHE", user_environment["LEXINV_CACHE"])
    load_corpus("python-docs")  # once for all: otherwise whichever experiment comes first pays for it

    def run(name: str) -> tuple[float, float]:
        compiling = []

        def listen(event: str, seconds: float, **_) -> None:
            if event.endswith("backend_compile_duration"):
                compiling.append(seconds)

        jax.monitoring.register_event_duration_secs_listener(listen)
        before = time.process_time()
        code, out, err = main_in_process("run", name, "smoke", "--workspace", str(tmp_path / "run"))
        spent = time.process_time() - before
        jax.monitoring.unregister_event_duration_listener(listen)
        if UNAVAILABLE in err:
            pytest.skip(err)
        assert code == 0, err
        assert "smoke is done" in out
        claims = json.loads((tmp_path / "run/claims.json").read_text())
        assert claims or (
            name.startswith("benchmarks/") and find_spec("torch") is None
        )  # ratios to a peer that is not there
        assert (tmp_path / "run/figure.png").stat().st_size > 1000
        return spent, spent - sum(compiling)

    return run


@pytest.mark.experiment
@pytest.mark.parametrize("name", NAMES)
def test_smoke(name, smoke):
    spent, beside_compiling = smoke(name)
    assert spent < SECONDS and beside_compiling < BESIDE_COMPILING


@pytest.mark.experiment
@pytest.mark.parametrize("name", IN_DOUBLE_PRECISION)
def test_smoke_where_float64_is_the_default(name, smoke):
    """As with JAX_ENABLE_X64: what is carried through scans and kept in files has types of its own."""
    with jax.enable_x64(True):
        smoke(name)
