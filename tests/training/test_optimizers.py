"""Which arrays Muon takes, the learning rate over time, clipping, and what is refused."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.nn.language_model import initialize
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.optimizers import OptimizerConfig, is_matrix, make_optimizer, rated_in_state, scaled_in_state
from lexinv.validation import InvalidConfig


def params(value: float = 1.0):
    shapes = {
        "query": (2, 4, 6),
        "query_convolution": (2, 5, 4),
        "attention_norm": (2, 4),
        "table": (9, 4),
        "bos": (4,),
    }
    return {name: jnp.full(shape, value) for name, shape in shapes.items()}


def update(config: OptimizerConfig, gradients, steps: int = 100, count: int = 1, optimizer=None):
    """The `count`-th update under constant gradients."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        optimizer = make_optimizer(config, steps) if optimizer is None else optimizer
        state = optimizer.init(params())
        step = jax.jit(lambda state: optimizer.update(gradients, state, params()))
        for _ in range(count):
            updates, state = step(state)
    return updates


def test_every_linear_map_of_the_language_model_is_one():
    config = TransformerConfig(mixing="convolution", positions="learned")
    shapes = jax.eval_shape(lambda key: initialize(config, LexiconConfig(), 11, key), jax.random.key(0))
    chosen = {path[-1].key for path, matrix in jax.tree_util.tree_leaves_with_path(is_matrix(shapes)) if matrix}
    assert chosen == {"query", "key", "value", "output", "mlp_in", "mlp_out", "readout"}


def test_muon_makes_the_update_of_each_layer_nearly_orthogonal():
    gradients = params()
    gradients["query"] = jax.random.normal(jax.random.key(0), (2, 4, 6))
    updates = update(OptimizerConfig("muon", 1.0, warmup_steps=0, clip=1e9), gradients)
    for layer in np.asarray(updates["query"]):
        singular = np.linalg.svd(layer, compute_uv=False) / np.sqrt(6 / 4)
        assert np.all((singular > 0.5) & (singular < 1.3))  # the quintic iteration's band, Jordan 2024
    # The first update of Adam with Nesterov's momentum, the same for every entry (Dozat 2016): 1 + b1 (1 - b1) / (1 - b1^2).
    for name in ("query_convolution", "table"):
        np.testing.assert_allclose(updates[name], -(1 + 0.9 * 0.1 / 0.19), rtol=1e-3)


@pytest.mark.parametrize(("count", "rate"), [(1, 0.0), (6, 0.5), (11, 1.0), (56, 0.55), (101, 0.1)])
def test_learning_rate_warms_up_and_falls_to_a_tenth(count, rate):
    """Adam's update under a constant gradient is the learning rate itself."""
    updates = update(OptimizerConfig("adamw", 1.0, warmup_steps=10, clip=1e9), params(), count=count)
    np.testing.assert_allclose(updates["bos"], -rate, rtol=2e-3, atol=1e-6)


def test_weight_decay_is_for_matrices_only():
    updates = update(OptimizerConfig("adamw", 0.5, warmup_steps=0, weight_decay=0.1), params(0.0))
    np.testing.assert_allclose(updates["query"], -0.5 * 0.1, rtol=1e-6)
    np.testing.assert_array_equal(updates["table"], np.zeros((9, 4)))


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("count", [3, 60])
def test_the_learning_rate_may_be_in_the_state(name, count):
    """In the warm-up and in the cosine, weight decay included: to the last bit, or as a factor of updates at the rate 1."""
    gradients = params() | {"query": jax.random.normal(jax.random.key(0), (2, 4, 6))}
    unit = OptimizerConfig(name, 1.0, warmup_steps=10, weight_decay=0.1)
    expected = update(replace(unit, learning_rate=3e-3), gradients, count=count)
    rated = update(unit, gradients, count=count, optimizer=rated_in_state(unit, 100, 3e-3))
    jax.tree.map(np.testing.assert_array_equal, rated, expected)
    scaled = update(unit, gradients, count=count, optimizer=scaled_in_state(make_optimizer(unit, 100), 3e-3))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), scaled, expected)


@pytest.mark.parametrize(
    ("field", "value"), [("name", "muom"), ("learning_rate", -1.0), ("warmup_steps", 100), ("clip", 0.0), ("b2", 1.0)]
)
def test_impossible_values_are_named(field, value):
    config = OptimizerConfig()
    object.__setattr__(config, field, value)  # past the type check, which only the tests have
    with pytest.raises(InvalidConfig, match=rf"optimizer\.{field} = {value!r} "):
        make_optimizer(config, 100)
