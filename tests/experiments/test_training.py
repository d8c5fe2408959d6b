"""One way to train: on windows, on any dataset and on draws, alike as a population, on a mesh and after an interruption."""

from dataclasses import replace

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness import training as harness
from experiments.harness.record import training_speed
from experiments.harness.training import Training, evaluations, initial, steps_in_dispatch, train, training_losses
from experiments.harness.work import Work, joined, some_members
from experiments.harness.workspace import Workspace
from lexinv.training.mesh import MeshConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import InvalidConfig

TRAINING = Training(60, 32, (0, 1), OptimizerConfig(learning_rate=0.1, warmup_steps=5), steps_per_dispatch=10)
WEIGHTS = jnp.array([1.0, -2.0, 0.5])


def start(key: jax.Array) -> dict[str, jax.Array]:
    return {"weights": jax.random.normal(key, (3,))}


def drawn(params, batch, key):
    """Linear regression on fresh draws: the answer is known."""
    x = jax.random.normal(key, (*batch["row"].shape, 3))
    progress = batch["step"][0] / TRAINING.steps
    return jnp.mean((x @ (params["weights"] - WEIGHTS)) ** 2), {"progress": progress}


def loss(params, batch, key):
    del key
    return jnp.mean((batch["x"] @ params["weights"] - batch["y"]) ** 2), {}


def batches(seed: int) -> grain.MapDataset:
    def make(index: int) -> dict[str, np.ndarray]:
        x = np.random.default_rng([seed, index]).normal(size=(10, 32, 3)).astype(np.float32)
        return {"x": x, "y": x @ np.asarray(WEIGHTS)}

    return grain.MapDataset.range(1000).map(make)


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path, "hash", progress=False)


def refuse(*_):
    raise AssertionError("trained again")


@pytest.mark.parametrize("batches, loss", [(None, drawn), (batches, loss)], ids=["drawn", "dataset"])
def test_every_seed_learns_for_itself_and_is_read_again(workspace, monkeypatch, batches, loss):
    first, second = train("models", start, loss, batches, TRAINING, workspace)
    for params in (first, second):
        np.testing.assert_allclose(params["weights"], WEIGHTS, atol=0.1)
    assert not np.array_equal(first["weights"], second["weights"])
    losses = training_losses("models", TRAINING, workspace)
    assert losses.shape == (2, 60) and np.all(losses[:, 0] > 10 * losses[:, -1])
    monkeypatch.setattr(harness, "make_train_step", lambda *_, **__: refuse)
    again = train("models", start, loss, batches, TRAINING, workspace)
    np.testing.assert_array_equal([first["weights"], second["weights"]], [tree["weights"] for tree in again])


@pytest.mark.parametrize("batches, loss", [(None, drawn), (batches, loss)], ids=["drawn", "dataset"])
def test_off_the_cpu_many_steps_are_one_dispatch_and_give_the_same(workspace, monkeypatch, batches, loss):
    """Members are made and trained together there, and the record says how many steps a dispatch had."""
    training = replace(TRAINING, steps=40)
    alone = train("alone", start, loss, batches, training, workspace)
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    together = train("together", start, loss, batches, training, workspace)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one["weights"], other["weights"], rtol=1e-4, atol=1e-5)
    losses = [training_losses(name, training, workspace) for name in ("alone", "together")]
    np.testing.assert_allclose(*losses, rtol=1e-3, atol=1e-5)
    speeds = training_speed(workspace.path)
    assert {name: speed["steps_per_dispatch"] for name, speed in speeds.items()} == {"alone": 10, "together": 20}


@pytest.mark.parametrize(
    "steps, stated, evaluated, backend, expected",
    [
        (600, 1, False, "gpu", 20),
        (600, 1, False, "tpu", 20),
        (600, 1, False, "cpu", 1),
        (600, 1, True, "gpu", 1),  # evaluated after every dispatch
        (600, 40, False, "gpu", 40),
        (90, 6, False, "gpu", 18),
        (30, 1, False, "gpu", 15),  # two at least, between which the speed is measured
        (7, 1, False, "gpu", 1),
    ],
)
def test_steps_of_a_dispatch_by_device(steps, stated, evaluated, backend, expected):
    training = replace(TRAINING, steps=steps, steps_per_dispatch=stated)
    assert steps_in_dispatch(training, evaluated, backend) == expected


def test_members_have_their_rates_and_models_go_on(workspace):
    """Whether the start is a function or what it gives; and a population of two rates is two trainings."""
    members = ((0, 0.1), (0, 0.01))
    together = train("together", start, drawn, None, TRAINING, workspace, members=members)
    begun = initial(start, (0, 0))
    given = train("given", begun, drawn, None, TRAINING, workspace, members=members)
    slow = replace(TRAINING, seeds=(0,), optimizer=replace(TRAINING.optimizer, learning_rate=0.01))
    (alone,) = train("alone", start, drawn, None, slow, workspace)
    both = training_losses("together", replace(TRAINING, seeds=(0, 1)), workspace)
    np.testing.assert_allclose(training_losses("alone", slow, workspace), both[1:], rtol=1e-3, atol=1e-6)
    for tree in (given[1], alone):
        np.testing.assert_allclose(together[1]["weights"], tree["weights"], rtol=1e-6)
    assert np.abs(together[0]["weights"] - together[1]["weights"]).max() > 0.1


def test_evaluations_begin_before_the_first_step(workspace):
    def error(state):
        return {"error": np.abs(np.asarray(state.params["weights"]) - np.asarray(WEIGHTS)).max(axis=1)}

    trees = train("models", start, drawn, None, TRAINING, workspace, evaluate=error)
    found = evaluations("models", workspace)
    assert found["steps"] == list(range(0, 61, 10))
    assert training_losses("models", TRAINING, workspace).shape == (2, 60)  # what was evaluated is none of them
    begun = [{"weights": row} for row in initial(start, TRAINING.seeds)["weights"]]
    for column, models in ((0, begun), (-1, trees)):
        expected = [np.abs(tree["weights"] - WEIGHTS).max() for tree in models]
        np.testing.assert_allclose(found["error"][:, column], expected)


def test_a_mesh_trains_seed_by_seed_with_one_step(workspace, monkeypatch):
    made = []

    def make(*arguments, **options):
        made.append(make_train_step(*arguments, **options))
        return made[-1]

    make_train_step = harness.make_train_step
    alone = train("alone", start, loss, batches, TRAINING, workspace)
    monkeypatch.setattr(harness, "make_train_step", make)
    on_mesh = replace(TRAINING, mesh=MeshConfig(data=2))
    for one, other in zip(train("mesh", start, loss, batches, on_mesh, workspace), alone, strict=True):
        np.testing.assert_allclose(one["weights"], other["weights"], rtol=1e-4, atol=1e-5)
    assert len(made) == 1
    np.testing.assert_allclose(
        training_losses("mesh", on_mesh, workspace), training_losses("alone", TRAINING, workspace), rtol=1e-3, atol=1e-6
    )


def asked(workspace: Workspace, loss=loss, batches=batches, training=TRAINING, **options) -> Work:
    """What is told to `postpone`, before anything is trained."""

    class Asked(BaseException):
        pass

    def postpone(work: Work) -> None:
        raise Asked(work)

    with pytest.raises(Asked) as stopped:
        train("models", start, loss, batches, training, replace(workspace, postpone=postpone), **options)
    return stopped.value.args[0]


FAST = replace(TRAINING.optimizer, learning_rate=0.2)


@pytest.mark.parametrize(
    "change, same",
    [
        ({"training": replace(TRAINING, seeds=(4, 5, 6), optimizer=FAST)}, True),
        ({"loss": lambda *arguments: loss(*arguments)}, True),
        ({"batches": lambda seed: batches(seed + 1)}, True),
        ({"training": replace(TRAINING, optimizer=replace(FAST, warmup_steps=4))}, False),
        ({"training": replace(TRAINING, steps=70)}, False),
        ({"loss": lambda params, batch, key: loss(params, batch | {"y": batch["y"] + WEIGHTS[0]}, key)}, False),
        ({"evaluate": lambda state: {}}, False),
        ({"batches": None, "loss": drawn}, False),
    ],
)
def test_a_program_is_all_that_is_compiled(workspace, change, same):
    """Rates, seeds, starts and batches are data."""
    assert (asked(workspace, **change).program == asked(workspace).program) is same


def test_works_are_joined_and_taken_apart(workspace):
    """Each member begins as alone, reads its own batches and is evaluated by its own work."""
    one = asked(workspace, evaluate=lambda state: {"first": np.asarray(state.params["weights"])[:, 0]})
    other = replace(TRAINING, seeds=(7,), optimizer=FAST)
    two = asked(workspace, training=other, evaluate=lambda state: {"first": -np.asarray(state.params["weights"])[:, 0]})
    both = joined([one, some_members(two, [0, 0])], "both", workspace)
    assert both.members == ((0, 0.1), (1, 0.1), (7, 0.2), (7, 0.2))
    weights = np.asarray(both.states().params["weights"])
    np.testing.assert_array_equal(both.evaluate(both.states())["first"], weights[:, 0] * [1, 1, -1, -1])
    for index, (work, place) in enumerate([(one, 0), (one, 1), (two, 0), (two, 0)]):
        np.testing.assert_array_equal(weights[index], work.states().params["weights"][place])
        np.testing.assert_array_equal(both.dataset()[3]["x"][:, index], work.dataset()[3]["x"][:, place])


@pytest.mark.parametrize("change", [{"microbatches": 2}, {"mesh": MeshConfig(data=2)}])
def test_draws_are_made_on_one_device_and_at_once(workspace, change):
    with pytest.raises(InvalidConfig, match="batches are drawn inside the step"):
        train("models", start, drawn, None, replace(TRAINING, **change), workspace)
