"""The grid is one population of models that each have their own task and schedule; an interrupted one ends as if it had not been."""

from contextlib import contextmanager
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness.workspace import Workspace, plain
from experiments.lexinvariance.forgetting import PRESETS, at_end
from experiments.subjects.forgetful_encoders import Cell, Members, follow, used_tokens
from lexinv.lexinvariance.forgetting import Forgetting
from lexinv.training.retention import CheckpointConfig

SMOKE = PRESETS["smoke"]


def test_a_small_task_uses_its_share_of_the_rows():
    config = SMOKE
    small, large = Cell(0.0, 20, 0.1), Cell(0.0, 40, 0.1)
    laws = config.laws([small, large], "val")
    words, held_out = np.arange(40), [True] * 8
    for place, per_class in enumerate((10, 20)):
        expected = [*(words % 20 < per_class), *held_out]
        np.testing.assert_array_equal(
            used_tokens(jax.tree.map(lambda row, p=place: jnp.asarray(row[p]), laws), config), expected
        )


@pytest.fixture(scope="module")
def tasks():
    return [Cell(0.0, 20, 0.1), Cell(1.5, 40, 0.4)]


@pytest.mark.long
def test_a_member_is_what_it_is_alone(tmp_path, tasks):
    """Its task, its schedule and its seed make a model, whatever others are trained beside it."""
    arms = {"vanilla": Forgetting(), "active": Forgetting(10)}
    states, found = follow("grid", arms, tasks, SMOKE, Workspace(tmp_path / "all", "hash", False))
    _, alone = follow("grid", {"active": arms["active"]}, tasks[1:], SMOKE, Workspace(tmp_path / "one", "hash", False))
    for kind, rows in alone["active"].items():
        np.testing.assert_array_equal(found["active"][kind][1:], rows)
    members = Members(tuple(arms), tuple(tasks))
    assert members.spread(states.step).shape == (2, 2, len(SMOKE.seeds))
    table = np.asarray(states.params["table"]).reshape(2, 2, len(SMOKE.seeds), 48, 16)
    assert (table[0] != table[1]).any()  # what was forgotten
    assert len({rows.tobytes() for rows in table.reshape(8, -1)}) == 8


@pytest.mark.long
def test_an_interrupted_population_continues_and_ends_as_if_it_had_not_been(tmp_path, monkeypatch, tasks):
    config, shown = replace(SMOKE, seeds=(0,), evaluate_every=10), []

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
        return follow("grid", config.arms, tasks[:1], config, workspace)[1]

    undisturbed = measured("undisturbed", None)
    with pytest.raises(KeyboardInterrupt):
        measured("stopped", 30)
    shown.clear()
    assert plain(measured("stopped", None)) == plain(undisturbed)
    assert shown == [30, 40]


def test_the_end_is_read_by_values_of_the_task():
    rows = np.arange(24).reshape(4, 3, 2)  # [tasks, seeds, evaluations]
    cells = [[0.0, 20, 0.1], [0.0, 40, 0.1], [1.5, 20, 0.1], [1.5, 40, 0.1]]
    results = {"tasks": cells, "arms": {"vanilla": {"val": rows.tolist()}}}
    np.testing.assert_array_equal(at_end(results, "vanilla", "val", vocab=40), rows[[1, 3], :, 1].T)
    np.testing.assert_array_equal(at_end(results, "vanilla", "val", vocab=20, skew=1.5), rows[[2], :, 1].T)
