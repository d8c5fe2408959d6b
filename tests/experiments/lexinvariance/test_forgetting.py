"""Sets are drawn for every seed, and an interrupted arm ends as if it had not been."""

from contextlib import contextmanager
from dataclasses import replace

import pytest

from experiments.harness.workspace import Workspace, plain
from experiments.lexinvariance.forgetting import PRESETS
from experiments.subjects import forgetful_encoders
from experiments.subjects.forgetful_encoders import draw_sets, kinds
from lexinv.training.retention import CheckpointConfig

SMOKE = PRESETS["smoke"]


def test_seeds_and_sets_have_sequences_of_their_own():
    sets, held_out = draw_sets(SMOKE)
    assert sets.tokens.shape == (len(SMOKE.seeds), len(kinds(SMOKE.task)), SMOKE.sequences, 7)
    assert held_out.labels.shape == (len(SMOKE.seeds), SMOKE.sequences, 3)
    assert (sets.tokens[0] != sets.tokens[1]).any()
    assert int(sets.tokens.max()) < SMOKE.task.vocab <= int(held_out.tokens.max())


@pytest.mark.long
def test_an_interrupted_arm_continues_and_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    config, shown = replace(SMOKE, seeds=(0,), evaluate_every=10), []
    sets = draw_sets(config)

    def interrupted_at(stop: int | None):
        @contextmanager
        def bar(*_):
            def show(done: int, loss: float) -> None:
                shown.append(done)
                if done == stop:
                    raise KeyboardInterrupt

            yield show

        return bar

    def measured(folder: str, stop: int | None) -> dict:
        monkeypatch.setattr("lexinv.training.fit.progress_bar", interrupted_at(stop))
        workspace = Workspace(tmp_path / folder, "hash", False, CheckpointConfig(seconds=0.0))
        return forgetful_encoders.follow("active", config.arms["active"], sets, config, workspace)

    undisturbed = measured("undisturbed", None)
    with pytest.raises(KeyboardInterrupt):
        measured("stopped", 30)
    shown.clear()
    assert plain(measured("stopped", None)) == plain(undisturbed)
    assert shown == [30, 40]
