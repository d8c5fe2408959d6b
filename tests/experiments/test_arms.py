"""Arms as one population: every arm gets its own start, its own gift and its own name in the log."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness.arms import courses, train_arms
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
