"""Logit effects against the model itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.nn.language_model import LanguageModel, initialize, shift_right
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.sae.logit_effects import logit_effects
from lexinv.validation import InvalidConfig

TOKENS = np.array([1, 4, 2, 6, 0], np.int32)
DIRECTIONS = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)


@pytest.fixture(scope="module", params=["matrix", "untied"])
def measured(request):
    """Config and parameters of a model of one layer, and the effects of the directions."""
    config = TransformerConfig(depth=1, width=8, heads=2, mlp_width=16, output=request.param)
    params = initialize(config, LexiconConfig("standard"), 7, jax.random.key(0))
    return config, params, logit_effects(config, LexiconConfig("standard"), 7, params, TOKENS, DIRECTIONS)


def test_logit_effects_are_the_slopes_of_the_logits(measured):
    """Against central differences of the model's own logits with a direction added after its only layer."""
    config, params, found = measured

    @jax.jit
    def logits(direction):
        def change(name, x):
            return x + direction[None, None] if name == "residual_out" else x

        inputs = shift_right(jnp.asarray(TOKENS[None]))
        arguments = {"output_table": params.get("output_table"), "edit": (0, change)}
        return LanguageModel(config).apply({"params": params["model"]}, inputs, params["table"], **arguments)[0, 1:]

    for row, direction in zip(found, DIRECTIONS, strict=True):
        slope = np.asarray((logits(1e-2 * direction) - logits(-1e-2 * direction)) / 2e-2).mean(axis=0)
        np.testing.assert_allclose(row, slope - slope.mean(), atol=2e-3)


def test_directions_of_another_model_are_refused(measured):
    config, params, _ = measured
    with pytest.raises(InvalidConfig, match=r"directions = \(3, 7\).*\[features, 8\]"):
        logit_effects(config, LexiconConfig("standard"), 7, params, TOKENS, DIRECTIONS[:, :7])
