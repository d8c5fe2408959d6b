"""Where the arrays of a state go on a mesh: against a hand-written table. Their numbers are compared in tests/multidevice."""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from lexinv.nn.language_model import initialize
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.mesh import AXES, state_shardings
from lexinv.training.optimizers import OptimizerConfig, make_optimizer
from lexinv.training.population import create_population
from lexinv.training.state import create_state

MODEL = TransformerConfig(
    depth=3, width=16, heads=4, mlp_width=32, positions="relative", mixing="convolution", bias=True, output="untied"
)
HEADS_APART = {  # of layers [3, ...]: width 16 over fsdp = 2, 4 heads of 4 channels and 32 hidden units over model = 4
    **dict.fromkeys(("query", "key", "value", "mlp_in"), P(None, "fsdp", "model")),
    **dict.fromkeys(("output", "mlp_out"), P(None, "model", "fsdp")),
    **dict.fromkeys(("query_bias", "key_bias", "value_bias", "mlp_in_bias"), P(None, "model")),
    **dict.fromkeys(("output_bias", "mlp_out_bias", "attention_norm", "mlp_norm"), P(None, "fsdp")),
    **dict.fromkeys(("query_convolution", "key_convolution"), P(None, None, "model")),  # 5 taps
    **dict.fromkeys(("table", "output_table"), P("model", "fsdp")),
    **dict.fromkeys(("final_norm", "bos"), P("fsdp")),
    "relative_bias": P("fsdp", "model"),
    "logit_scale": P(),
}


def specs(tree, mesh) -> dict[str, set]:
    """Every spelling by the last word of the path."""
    found = {}
    for path, sharding in jax.tree_util.tree_leaves_with_path(state_shardings(tree, mesh)):
        found.setdefault(getattr(path[-1], "key", getattr(path[-1], "name", "")), set()).add(sharding.spec)
    return found


def start(vocab=8, optimizer="adamw"):
    made = make_optimizer(OptimizerConfig(optimizer, warmup_steps=1), 10)
    return lambda key: create_state(initialize(MODEL, LexiconConfig(), vocab, key), made, key)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_parameters_and_moments_follow_one_table(optimizer):
    state = jax.eval_shape(start(optimizer=optimizer), jax.random.key(0))
    found = specs(state._replace(key=jnp.zeros(())), AbstractMesh((1, 2, 4), AXES))
    found["key"] -= {P()}  # the state's own, of randomness
    assert {name: found[name] for name in HEADS_APART} == {name: {spec} for name, spec in HEADS_APART.items()}
    assert found["step"] == {P()}


def test_members_of_a_population_are_divided_alike():
    seeds = jax.eval_shape(lambda: create_population(start(), (0, 1, 2)))
    found = specs(seeds, AbstractMesh((1, 1, 4), AXES))
    assert found["query"] == {P(None, None, None, "model")}
    assert found["mlp_out"] == {P(None, None, "model")}
    assert found["table"] == {P(None, "model")}


def test_vocabulary_that_is_not_divided_stays_whole():
    state = jax.eval_shape(start(vocab=27), jax.random.key(0))
    assert specs(state, AbstractMesh((1, 2, 4), AXES))["table"] == {P(None, "fsdp")}


def test_without_model_only_the_largest_axis_is_divided():
    state = jax.eval_shape(start(vocab=64), jax.random.key(0))
    found = specs(state, AbstractMesh((4, 2, 1), AXES))
    assert found["mlp_in"] == {P(None, None, "fsdp")}
    assert found["mlp_out"] == {P(None, "fsdp")}
    assert found["table"] == {P("fsdp")}
    assert set().union(*specs(state, AbstractMesh((8, 1, 1), AXES)).values()) == {P()}


def test_other_arrays_of_a_known_name_are_left_to_fsdp():
    state = create_state({"query": jnp.ones(8), "output": jnp.ones(())}, optax.sgd(0.1), jax.random.key(0))
    found = specs(state, AbstractMesh((1, 2, 4), AXES))
    assert found["query"] == {P("fsdp")} and found["output"] == {P()}
