"""Operations counted by hand, and against the products in the traced program."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.nn.flops import forward_flops, train_flops, utilisation
from lexinv.nn.language_model import initialize, make_logits, make_loss
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import InvalidConfig

CONFIG = TransformerConfig(depth=2, width=8, heads=2, mlp_width=24, attention="dot_product", unroll=2)
VOCAB, TIME, BATCH = 11, 6, 3


def test_by_hand():
    """Two layers of 4 8^2 + 2 8 24 and 2 8 for each of 3.5 tokens seen; 8^2 and 8 11 for the logits."""
    assert forward_flops(CONFIG, VOCAB, TIME) == 2 * (2 * (256 + 384 + 56) + 64 + 88)
    assert train_flops(CONFIG, VOCAB, TIME) == 6 * (2 * (256 + 384 + 56) + 64 + 88)


@pytest.mark.parametrize("window", [1, 2, 6, 9])
def test_window_by_enumeration(window):
    pairs = sum(min(position + 1, window) for position in range(TIME))
    without = forward_flops(replace(CONFIG, width=8, window=window), VOCAB, TIME) - 2 * (2 * 640 + 152)
    assert without == pytest.approx(2 * 2 * 2 * 8 * pairs / TIME)
    one_of_two = forward_flops(replace(CONFIG, window=window, global_layers=(1,)), VOCAB, TIME) - 2 * (2 * 640 + 152)
    assert one_of_two == pytest.approx(2 * 2 * 8 * (pairs + 21) / TIME)


def products(jaxpr) -> int:
    """2 for every multiply-add of every dot_general, those of inner programs among them."""
    total = 0
    for equation in jaxpr.eqns:
        inner = [getattr(value, "jaxpr", value) for value in equation.params.values()]
        total += sum(products(one) for one in inner if hasattr(one, "eqns")) * equation.params.get("length", 1)
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            depth = np.prod([equation.invars[0].aval.shape[axis] for axis in contracted])
            total += 2 * int(depth) * equation.outvars[0].aval.size
    return total


@pytest.mark.parametrize("output", ["matrix", "tied", "untied"])
def test_against_the_program(output):
    """The whole square of scores is in the program, so that attention is counted as if it were not causal."""
    config, lexicon = replace(CONFIG, output=output), LexiconConfig("standard")
    params = initialize(config, lexicon, VOCAB, jax.random.key(0))
    batch = {"tokens": jnp.zeros((BATCH, TIME), jnp.int32), "row": jnp.arange(BATCH, dtype=jnp.int32)}
    counted = replace(config, causal=False, positions="none")
    traced = jax.make_jaxpr(make_logits(config, lexicon, VOCAB))(params, batch, jax.random.key(1))
    assert products(traced.jaxpr) == BATCH * TIME * forward_flops(counted, VOCAB, TIME)
    loss = make_loss(config, lexicon, VOCAB)
    gradient = jax.make_jaxpr(jax.grad(lambda p: loss(p, batch, jax.random.key(1))[0]))(params)
    assert products(gradient.jaxpr) == pytest.approx(BATCH * TIME * train_flops(counted, VOCAB, TIME), rel=0.02)


def test_utilisation():
    assert utilisation(98.5e12, "TPU v5e", 1) == pytest.approx(0.5)
    assert utilisation(98.5e12, "TPU v5e", 8) == pytest.approx(0.5 / 8)
    assert utilisation(1e9, "cpu", 1) is None


def test_bad_sizes_are_named():
    with pytest.raises(InvalidConfig, match="time"):
        forward_flops(CONFIG, VOCAB, 0)
    with pytest.raises(InvalidConfig, match="vocab"):
        forward_flops(CONFIG, 0, TIME)
