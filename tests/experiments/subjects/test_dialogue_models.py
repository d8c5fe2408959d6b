"""The ages of a model are what it was in the course of one training, and are found again."""

import jax
import numpy as np

from experiments.harness.sweep_algebra import override
from experiments.harness.workspace import Workspace
from experiments.subjects.dialogue_models import TINY, DialogueModels, DialogueWorld

CONFIG = override(DialogueModels(), {name.removeprefix("dialogues."): value for name, value in TINY.items()})


def test_ages_are_kept_and_found(tmp_path, monkeypatch):
    monkeypatch.setenv("LEXINV_CACHE", str(tmp_path / "cache"))
    first, again = (DialogueWorld(CONFIG, Workspace(tmp_path / run, run, progress=False)) for run in "ab")
    assert list(first.ages) == [20, 40]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = [np.asarray(first.ages[age][seed]["table"]) for age in (20, 40) for seed in (0, 1)]
        same = [np.asarray(again.ages[age][seed]["table"]) for age in (20, 40) for seed in (0, 1)]
    np.testing.assert_array_equal(found, same)
    apart = [[np.abs(one - other).max() for other in found] for one in found]
    assert np.all(np.array(apart)[~np.eye(4, dtype=bool)] > 0)
    assert np.abs(found[2] - found[0]).max() < np.abs(found[1] - found[0]).max()  # of one seed, not of two
