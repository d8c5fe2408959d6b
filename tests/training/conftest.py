"""Lets the tests here import `tiny_run`, which is also a program that they start, and compiles its step once for all."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def train_step():
    import tiny_run

    return tiny_run.make_train_step(tiny_run.loss_fn, tiny_run.OPTIMIZER)
