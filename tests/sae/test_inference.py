"""Codes of one token at a time, and the same autoencoder in the form of JumpReLU."""

import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.sae.autoencoders import decode, encode
from lexinv.sae.inference import encode_alone, make_reconstruct, to_jumprelu
from lexinv.validation import InvalidConfig

KINDS = ("relu", "free", "gated", "jumprelu", "topk", "mutual", "feature", "matryoshka")


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_is_encoded_by_itself(kind, autoencoder):
    config, params, threshold, k, x = autoencoder(kind)
    together = encode_alone(config, params, x, threshold, k)
    alone = [encode_alone(config, params, row[None], threshold, k)[0] for row in x[:3]]
    np.testing.assert_allclose(together[:3], np.stack(alone), atol=1e-6)
    assert 0 < (np.asarray(together) > 0).mean() < 1


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "topk"])
def test_every_variant_but_topk_is_a_jumprelu(kind, autoencoder):
    config, params, threshold, k, x = autoencoder(kind)
    codes = encode_alone(config, params, x, threshold, k)
    jump_config, jump = to_jumprelu(config, params, threshold)
    found = encode(jump_config, jump, x).activations
    np.testing.assert_array_equal(found > 0, codes > 0)
    np.testing.assert_allclose(decode(jump, found), decode(params, codes), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(jump["decoder"], axis=1), 1.0, rtol=1e-5)
    scale = np.linalg.norm(params["decoder"], axis=1)[None]
    np.testing.assert_allclose(found, codes * scale, atol=1e-5)


def test_reconstruction_keeps_leading_axes_and_types(autoencoder):
    config, params, threshold, _, x = autoencoder("mutual")
    found = make_reconstruct(config)((params, threshold), x.reshape(5, 10, 6))
    wanted = decode(params, encode_alone(config, params, x, threshold))
    np.testing.assert_allclose(found.reshape(50, 6), wanted, atol=1e-6)
    assert make_reconstruct(config)((params, threshold), x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "kind, threshold, k, field",
    [
        ("mutual", None, None, "threshold"),
        ("relu", 0.5, None, "threshold"),
        ("feature", jnp.zeros(3), None, "threshold"),
        ("topk", None, None, "k"),
        ("topk", None, 10, "k"),
        ("gated", None, 2, "k"),
    ],
)
def test_what_a_variant_does_not_have_is_refused(kind, threshold, k, field, autoencoder):
    config, params, _, _, x = autoencoder(kind)
    with pytest.raises(InvalidConfig) as error:
        encode_alone(config, params, x, threshold, k)
    assert error.value.field == field


def test_topk_has_no_threshold_to_export(autoencoder):
    config, params, _, _, _ = autoencoder("topk")
    with pytest.raises(InvalidConfig, match="does not count"):
        to_jumprelu(config, params)
