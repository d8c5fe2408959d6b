"""Arms as one population: every arm gets its own start, its own gift and its own name in the log."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness.arms import courses, train_arms, trained
from experiments.harness.training import Training, stacked
from experiments.harness.workspace import Workspace
from lexinv.training.optimizers import OptimizerConfig

TRAINING = Training(200, 1, (3, 4), OptimizerConfig(learning_rate=0.5, warmup_steps=0, b2=0.9), steps_per_dispatch=100)


def test_arms_are_trained_apart_and_what_is_given_stays(tmp_path):
    """Each member goes from 0 towards its own goal plus ten times its arm's place, which it reads from what it is given."""
    workspace = Workspace(tmp_path, "hash", False)

    def loss(learned, given, key):
        del key
        goal = given["goal"] + 10 * given["arm"]
        return jnp.square(learned["x"] - goal), {"goal": goal}

    starts = {
        "second": ({"x": jnp.zeros(2)}, {"goal": jnp.array([1.0, 2.0])}),
        "first": ({"x": jnp.zeros(2)}, {"goal": jnp.array([3.0, 4.0])}),
    }
    models = train_arms("arms", ("first", "second"), starts, loss, TRAINING, workspace)
    found = {arm: [float(params["x"]) for params in trees] for arm, trees in models.items()}
    np.testing.assert_allclose(found["second"], [11, 12], atol=0.2)
    np.testing.assert_allclose(found["first"], [3, 4], atol=0.2)
    logged = courses("arms", ("second", "first"), ("goal", "loss"), workspace)
    np.testing.assert_allclose(logged["second"]["goal"], np.tile([[11.0], [12.0]], (1, 200)))
    np.testing.assert_allclose(logged["first"]["loss"][:, 0], [9, 16])
    np.testing.assert_allclose(jax.tree.leaves(stacked(models["first"]))[0], found["first"])


@pytest.mark.long
def test_arms_of_one_loss_are_one_population_and_paired_by_seed(tmp_path):
    """Goals are given; what a seed draws is the same in every arm; in the second half of training goals are negated."""

    def loss(params, key, progress, goal):
        return jnp.square(params["x"] - jnp.where(progress < 0.5, goal, -goal)), {"drawn": jax.random.normal(key)}

    def other(params, key, progress, goal):
        return jnp.square(params["x"] - 7.0), {"drawn": jax.random.normal(key)}

    arms, given = {"near": loss, "seven": other, "far": loss}, {"near": 1.0, "far": 5.0, "seven": 0.0}
    found = trained(Workspace(tmp_path, "hash", False), arms, lambda key: {"x": jnp.zeros(())}, TRAINING, given)
    assert list(found) == list(arms)
    assert all([seed for _, seed in members] == [3, 4] for members in found.values())
    goals = {arm: [float(params["x"]) for params, _ in members] for arm, members in found.items()}
    for arm, goal in {"near": -1, "seven": 7, "far": -5}.items():
        np.testing.assert_allclose(goals[arm], [goal, goal], atol=0.2)
    assert sorted(path.name for path in (tmp_path / "arms").iterdir()) == ["near", "seven"]
    drawn = courses("arms/near", ("near", "far"), ("drawn",), Workspace(tmp_path, "hash", False))
    np.testing.assert_array_equal(drawn["near"]["drawn"], drawn["far"]["drawn"])
    assert len(np.unique(drawn["near"]["drawn"])) == 2 * TRAINING.steps
