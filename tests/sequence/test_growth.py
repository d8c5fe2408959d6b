"""Parameter tokens, and models that grow by them or are widened: what must not change does not, to rounding."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from lexinv.nn.flops import forward_flops
from lexinv.nn.language_model import initialize, make_logits, make_loss
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.pattention import pattention
from lexinv.nn.transformer import TransformerConfig
from lexinv.sequence.growth import grow, grown_config, widen, widened_config
from lexinv.validation import InvalidConfig

STANDARD, VOCAB = LexiconConfig(kind="standard"), 11
CONFIG = TransformerConfig(
    depth=2, width=16, heads=2, parameter_pairs=8, rotary_share=0.5, output="tied", max_length=12, unroll=2
)
MATRICES = replace(CONFIG, parameter_pairs=0, mlp_width=32)
KEY = jax.random.key(0)
BATCH = {"tokens": jax.random.randint(KEY, (3, 12), 0, VOCAB), "row": jnp.arange(3, dtype=jnp.int32)}


def logits(config, params):
    return np.asarray(jax.jit(make_logits(config, STANDARD, VOCAB))(params, BATCH, KEY))


def reference(x, keys, values, scale):
    """The same with loops, and GeLU by the error function."""
    out = np.zeros((len(x), values.shape[1]))
    for row, each in zip(out, x, strict=True):
        scores = np.array([each @ key for key in keys])
        for score, value in zip(scores * scale / math.sqrt(scores @ scores + 1e-5), values, strict=True):
            row += 0.5 * score * (1 + math.erf(score / math.sqrt(2))) * value
    return out


@pytest.fixture(scope="module")
def small():
    """Parameters, and their logits."""
    params = initialize(CONFIG, STANDARD, VOCAB, KEY)
    return params, logits(CONFIG, params)


def test_pattention_is_that_of_loops_and_free_of_scale_and_order():
    rng = np.random.default_rng(0)
    x, keys, values = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((5, 4), (6, 4), (6, 3)))
    found = pattention(x, keys, values, 6**0.5)
    assert_allclose(found, reference(*map(np.asarray, (x, keys, values)), 6**0.5), atol=1e-5)
    assert_allclose(pattention(3 * x, 2 * keys, values, 6**0.5), found, atol=1e-4)
    order = rng.permutation(6)
    assert_allclose(pattention(x, keys[order], values[order], 6**0.5), found, atol=1e-5)
    assert_allclose(pattention(x, keys, -2 * values, 6**0.5), -2 * found, atol=1e-5)


def test_a_vector_of_zeros_has_numbers_and_gradients():
    keys = jnp.ones((6, 4))
    gradient = jax.grad(lambda x: pattention(x, keys, keys, 2.0).sum())(jnp.zeros((1, 4)))
    assert_allclose(pattention(jnp.zeros((1, 4)), keys, keys, 2.0), 0)
    assert bool(jnp.isfinite(gradient).all())


@pytest.mark.parametrize(
    ("keys", "scale", "same"), [("zero", "fixed", True), ("zero", "pairs", False), ("random", "fixed", False)]
)
def test_only_zero_keys_at_the_old_scale_keep_the_function(small, keys, scale, same):
    params, before = small
    after = logits(grown_config(CONFIG, 24, scale), grow(KEY, params, CONFIG, 24, keys))
    change = float(np.abs(after - before).max() / np.abs(before).max())
    assert change < 1e-6 if same else change > 0.02


def test_it_can_grow_again(small):
    params, before = small
    once, config = grow(KEY, params, CONFIG, 12), grown_config(CONFIG, 12)
    assert (grown_config(config, 16).parameter_pairs, grown_config(config, 16).scale_pairs) == (16, 8)
    assert_allclose(logits(grown_config(config, 16), grow(KEY, once, config, 16)), before, atol=1e-5)


def test_after_growth_new_keys_have_gradients_and_new_values_none(small):
    config = grown_config(CONFIG, 24)
    loss = make_loss(config, STANDARD, VOCAB)
    layers = jax.grad(lambda p: loss(p, BATCH, KEY)[0])(grow(KEY, small[0], CONFIG, 24))["model"]["transformer"][
        "layers"
    ]
    for keys, values, old in (
        (layers["attention"]["value_keys"], layers["attention"]["value_values"], 8),
        (layers["mlp_keys"], layers["mlp_values"], 32),
    ):
        assert_allclose(values[:, old:], 0, atol=1e-9)
        assert float(jnp.abs(keys[:, old:]).min()) > 0


def test_copies_of_heads_and_units_keep_the_function():
    params = initialize(MATRICES, STANDARD, VOCAB, KEY)
    before, wide = logits(MATRICES, params), widened_config(MATRICES, 3)
    assert (wide.heads, wide.head_dim, wide.mlp_width) == (6, 8, 96)
    assert_allclose(logits(wide, widen(KEY, params, MATRICES, 3, noise=0.0)), before, atol=1e-5)
    assert np.abs(logits(wide, widen(KEY, params, MATRICES, 3)) - before).max() > 1e-4


def test_parameters_and_operations_are_counted(small):
    layers = small[0]["model"]["transformer"]["layers"]
    pairs = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(layers) if "norm" not in str(path)]
    count = sum(leaf.size for leaf in pairs)
    assert count == 16 * CONFIG.depth * CONFIG.parameter_pairs * CONFIG.width  # the paper's 16 n d a layer
    matched = replace(MATRICES, heads=2, head_width=8, mlp_width=32)
    assert forward_flops(CONFIG, VOCAB, 12) == forward_flops(matched, VOCAB, 12)


@pytest.mark.parametrize(
    ("refused", "field"),
    [
        (lambda: grown_config(CONFIG, 8), "pairs"),
        (lambda: grown_config(MATRICES, 8), "model.parameter_pairs"),
        (lambda: widened_config(CONFIG, 2), "model"),
        (lambda: replace(CONFIG, bias=True), "model.parameter_pairs"),
        (lambda: replace(MATRICES, scale_pairs=4), "model.scale_pairs"),
    ],
)
def test_what_cannot_be_meant_is_refused(refused, field):
    with pytest.raises(InvalidConfig, match=field):
        refused()
