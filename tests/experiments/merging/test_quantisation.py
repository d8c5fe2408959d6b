"""Claim C11 on made-up errors; the layers with their caches exchanged are the layers where nothing is quantised."""

import copy
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.merging.quantisation import (
    ARMS,
    PRECISIONS,
    QuantisationConfig,
    draw,
    judge,
    logit_error,
    logits,
    name_of,
)
from lexinv.nn.text_encoder import sentence_embeddings
from lexinv.nn.transformer import Block, TransformerConfig
from lexinv.validation import InvalidConfig

SPREAD = np.array([1.0, 1.02, 0.98])
ERRORS = {"all": 3.0, "random exact": 2.5, "outliers exact": 1.0, "random dropped": 2.5, "outliers dropped": 2.0}
TINY = TransformerConfig(
    depth=2,
    width=8,
    heads=2,
    mlp_width=16,
    positions="none",
    max_length=12,
    causal=False,
    attention="dot_product",
    norm="layer",
    norm_epsilon=1e-12,
    bias=True,
    residual="post",
)


def made_up() -> dict:
    """Outliers kept exact or dropped leave a smaller error than anything else, by the same factor at every precision."""
    errors = {
        name_of(*precision): {arm: (ERRORS[arm] / precision[0] * SPREAD).tolist() for arm in ARMS}
        for precision in PRECISIONS
    }
    return {"corpora": {}, "errors": errors, "outlier_norm": [1.4, 1.5, 1.45]}


def verdicts(measured: dict) -> dict:
    return {claim.name: claim.holds for claim in judge(measured)}


def test_both_claims_hold_on_results_that_satisfy_them():
    assert verdicts(made_up()) == {
        "exact_outliers_help_quantisation": True,
        "dropping_outliers_helps_quantisation": True,
    }


EXACT, DROPPED = "exact_outliers_help_quantisation", "dropping_outliers_helps_quantisation"


@pytest.mark.parametrize("precision", ["int8, a scale by channel", "int4, a scale by channel"])
@pytest.mark.parametrize(
    "arm, error, broken",
    [
        ("outliers exact", 2.5, {EXACT}),
        ("random exact", 0.9, {EXACT}),
        ("outliers dropped", 4.0, {DROPPED}),
        ("random dropped", 2.0, {DROPPED}),
        ("all", 0.5, {EXACT, DROPPED}),
    ],
)
def test_one_error_is_enough_to_break_a_claim(precision, arm, error, broken):
    measured = made_up()
    bits = int(precision[3])
    measured["errors"][precision][arm] = (error / bits * SPREAD).tolist()
    assert {name for name, holds in verdicts(measured).items() if holds is False} == broken


def test_scales_by_head_are_not_judged_and_noise_cannot_tell():
    measured = made_up()
    measured["errors"]["int4, a scale by head"]["outliers exact"] = [9.0, 9.0, 9.0]
    assert verdicts(measured)[EXACT] is True
    measured["errors"]["int4, a scale by channel"]["all"] = [0.1, 3.0, 0.4]
    assert verdicts(measured) == {EXACT: None, DROPPED: None}


def test_panel_has_a_bar_for_each_arm_and_precision():
    measured = made_up()
    before = copy.deepcopy(measured)
    axes = Figure().subplots()
    draw(measured, axes)
    assert len(axes.patches) == len(ARMS) * len(PRECISIONS)
    assert measured == before


@pytest.fixture(scope="module")
def inputs():
    key = jax.random.key(0)
    layers = jax.vmap(lambda k: Block(TINY, False).init(k, jnp.zeros((1, 1, 8)), None)["params"])(
        jax.random.split(key, 2)
    )
    noise = lambda *shape: jax.random.normal(jax.random.fold_in(key, len(shape)), shape)  # noqa: E731
    params = {
        "words": noise(20, 8),
        "positions": 0.1 * noise(12, 8),
        "types": jnp.zeros((2, 8)),
        "norm": jnp.ones(8),
        "norm_bias": jnp.zeros(8),
        "layers": layers,
    }
    tokens = jax.random.randint(key, (4, 12), 0, 20)
    mask = jnp.arange(12)[None] < jnp.array([12, 9, 12, 6])[:, None]
    return params, tokens, mask, key


def test_nothing_quantised_is_the_encoder(inputs):
    """The exchanged attention is the layer's own; and at 16 bits almost."""
    params, tokens, mask, key = inputs
    embeddings = sentence_embeddings(TINY, params, tokens, mask)
    found, ratio = logits(TINY, None, 0.2, params, tokens, mask, key, "all")
    np.testing.assert_allclose(found, embeddings @ embeddings.T, atol=1e-5)
    assert float(ratio) > 1.0
    close, _ = logits(TINY, (16, "channel"), 0.2, params, tokens, mask, key, "all")
    assert 0 < logit_error(close, found) < 1e-3


def test_arms_do_what_they_say(inputs):
    """All tokens but one exact: less error than none; dropped: other logits even at full precision. Padding plays no part."""
    params, tokens, mask, key = inputs
    full, _ = logits(TINY, None, 0.2, params, tokens, mask, key, "all")

    def error(precision, share, arm, tokens=tokens):
        return logit_error(logits(TINY, precision, share, params, tokens, mask, key, arm)[0], full)

    assert error((3, "channel"), 0.99, "random exact") < 1e-5 < error((3, "channel"), 0.2, "all")
    assert error(None, 0.2, "outliers dropped") > 1e-4
    assert error(None, 0.2, "outliers exact") < 1e-5
    assert error((3, "head"), 0.2, "outliers exact") != error((3, "head"), 0.2, "random exact")
    other = jnp.where(mask, tokens, 7)
    assert error((3, "channel"), 0.2, "outliers dropped", other) == error((3, "channel"), 0.2, "outliers dropped")


def test_logit_error_is_over_pairs_of_different_passages():
    exact = jnp.zeros((2, 2))
    assert logit_error(jnp.array([[9.0, 3.0], [4.0, 9.0]]), exact) == pytest.approx(np.sqrt((9 + 16) / 2))


@pytest.mark.parametrize(
    "change, field", [({"passages": 1}, "passages"), ({"context": 7}, "context"), ({"share": 1.0}, "share")]
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        replace(QuantisationConfig(), **change)
    assert error.value.field == f"quantisation.{field}"
