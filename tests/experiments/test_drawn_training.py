"""Training on draws: the same whether interrupted or not, shared between experiments, refused where it cannot be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness import drawn_training, shared_models
from experiments.harness.drawn_training import initial, train_on_draws
from experiments.harness.record import training_speed
from experiments.harness.training import Training
from experiments.harness.workspace import Workspace
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import InvalidConfig

TRAINING = Training(
    steps=60,
    batch_size=32,
    seeds=(0, 1),
    optimizer=OptimizerConfig(learning_rate=0.1, warmup_steps=5),
    steps_per_dispatch=10,
)
WEIGHTS = jnp.array([1.0, -2.0, 0.5])


def start(key: jax.Array) -> dict[str, jax.Array]:
    return {"weights": jax.random.normal(key, (3,))}


def loss(params, key):
    """Linear regression on fresh draws: the answer is known."""
    x = jax.random.normal(key, (TRAINING.batch_size, 3))
    return jnp.mean((x @ (params["weights"] - WEIGHTS)) ** 2), {}


def workspace(path) -> Workspace:
    return Workspace(path, "hash", progress=False)


def test_every_seed_learns_for_itself(tmp_path):
    first, second = train_on_draws(
        "regression", initial(start, TRAINING.seeds), loss, TRAINING, workspace(tmp_path / "a")
    )
    for params in (first, second):
        np.testing.assert_allclose(params["weights"], WEIGHTS, atol=0.1)
    assert not np.array_equal(first["weights"], second["weights"])


def test_a_finished_run_is_read_again(tmp_path, monkeypatch):
    params = train_on_draws("regression", initial(start, TRAINING.seeds), loss, TRAINING, workspace(tmp_path / "a"))

    def never(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(drawn_training, "make_train_step", lambda *_, **__: never)
    again = train_on_draws("regression", initial(start, TRAINING.seeds), loss, TRAINING, workspace(tmp_path / "a"))
    np.testing.assert_array_equal(params[0]["weights"], again[0]["weights"])


def test_models_are_shared_by_what_decides_them(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_models, "cache_directory", lambda: tmp_path / "cache")
    calls: list[str] = []

    def train(shared: Workspace):
        calls.append(shared.config_hash)
        return train_on_draws("regression", initial(start, TRAINING.seeds), loss, TRAINING, shared)

    one, same, other = (
        shared_models.shared_models({"model": model}, train, workspace(tmp_path / model)) for model in ("a", "a", "b")
    )
    np.testing.assert_array_equal(one.params[0]["weights"], same.params[0]["weights"])
    assert one.identity == same.identity != other.identity
    assert one.seconds_elsewhere == 0.0 == other.seconds_elsewhere
    assert same.origin == {"models": one.identity, "seconds_elsewhere": same.seconds_elsewhere}
    speeds = [training_speed(tmp_path / model) for model in ("a", "b")]
    assert [list(speed) for speed in speeds] == [[f"models/{models.identity}/regression"] for models in (one, other)]


@pytest.mark.parametrize(
    "changed", [{"steps": 0}, {"steps": 7, "steps_per_dispatch": 2}, {"seeds": ()}, {"seeds": (1, 1)}]
)
def test_impossible_training_is_refused(changed):
    with pytest.raises(InvalidConfig, match=next(iter(changed)) if len(changed) == 1 else "steps_per_dispatch"):
        Training(**{"steps": 200, "steps_per_dispatch": 1, **changed})
