"""What encoding a token by itself refuses, and thresholds that spend the budget of a batch. All else is in `test_laws`."""

import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.sae.autoencoders import encode_by_threshold, pre_activations
from lexinv.sae.inference import calibrate, encode_alone
from lexinv.validation import InvalidConfig


@pytest.mark.parametrize(
    "kind, threshold, k, field", [("feature", jnp.zeros(3), None, "threshold"), ("topk", None, 10, "k")]
)
def test_thresholds_and_k_that_do_not_fit_are_refused(kind, threshold, k, field, autoencoder):
    config, params, _, _, x = autoencoder(kind)
    with pytest.raises(InvalidConfig) as error:
        encode_alone(config, params, x, threshold, k)
    assert error.value.field == field


@pytest.mark.parametrize("kind", ["mutual", "matryoshka", "feature", "topk", "gated"])
def test_calibrated_thresholds_spend_the_budget_of_a_batch(kind, autoencoder):
    config, params, _, _, x = autoencoder(kind)
    affinities, shares = np.maximum(np.asarray(pre_activations(params, x)), 0), np.linspace(0.02, 0.3, config.features)
    threshold = calibrate(config, affinities, 1.5, shares)
    if config.method.needs != "threshold":
        assert threshold is None
        return
    fires = np.asarray(encode_by_threshold(params, x, jnp.asarray(threshold))) > 0
    if kind == "feature":
        positive = (affinities > 0).sum(axis=0)
        np.testing.assert_array_equal(fires.sum(axis=0), np.minimum(np.round(shares * len(x)), positive))
    else:
        assert fires.sum() == round(1.5 * len(x))
