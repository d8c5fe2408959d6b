"""Cross-entropy recovered, on a model small enough to do by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.sae.inference import make_reconstruct
from lexinv.sae.splicing import cross_entropy_recovered, splice

TARGETS = np.array([[0, 1, 1], [1, 0, -1]])


def nll(params, batch, key, edit):
    """Logits of token t + 1 are the activation at t, which is twice the one-hot of that token; the first token is uniform. As the site's
    function: padding 0, BOS's position never edited."""
    tokens = batch["tokens"]
    activations = params["scale"] * jax.nn.one_hot(jnp.maximum(tokens[:, 1:], 0), 2)
    logits = jnp.concatenate([jnp.zeros((len(tokens), 1, 2)), edit(activations)], axis=1)
    found = -jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(tokens, 0)[..., None], axis=2)[..., 0]
    return jnp.where(tokens >= 0, found, 0.0)


def spliced(factor: float, scale: float = 2.0, mean=(2.0, 0.0), batches=(TARGETS[:1], TARGETS[1:])):
    return splice(
        nll,
        {"scale": jnp.float32(scale)},
        [{"tokens": jnp.asarray(batch)} for batch in batches],
        jax.random.key(0),
        lambda autoencoder, activations: autoencoder * activations,
        jnp.float32(factor),
        jnp.asarray(mean),
    )


def test_all_four_by_hand():
    """Five tokens: two uniform, three with logits 2 for the right one, 1 reconstructed, 0, and (2, 0) of which one is right."""
    right, half, wrong = np.log1p(np.exp(-2.0)), np.log1p(np.exp(-1.0)), np.log1p(np.exp(2.0))
    found = spliced(0.5)
    assert found.tokens == 5
    assert found.clean == pytest.approx((2 * np.log(2) + 3 * right) / 5, rel=1e-5)
    assert found.reconstructed == pytest.approx((2 * np.log(2) + 3 * half) / 5, rel=1e-5)
    assert found.zero == pytest.approx(np.log(2), rel=1e-5)
    assert found.mean == pytest.approx((2 * np.log(2) + right + 2 * wrong) / 5, rel=1e-5)
    assert found.recovered_from_zero == pytest.approx((np.log(2) - half) / (np.log(2) - right), rel=1e-4)
    assert found.recovered_from_mean == pytest.approx(
        (right + 2 * wrong - 3 * half) / (2 * wrong - 2 * right), rel=1e-4
    )


def test_the_bounds():
    assert spliced(1.0).recovered_from_zero == 1.0 and spliced(0.0).recovered_from_zero == 0.0
    assert spliced(-1.0).recovered_from_zero < 0


def test_nothing_to_recover_has_no_ratio():
    assert spliced(0.5, scale=-2.0).recovered_from_zero is None  # zeros are better than the model
    assert cross_entropy_recovered(1.0, 1.0, 1.0) is None
    assert cross_entropy_recovered(2.0, 2.5, 4.0) == 0.75


def test_an_autoencoder_is_spliced_by_threshold(autoencoder):
    """A batch's other tokens do not matter: one sequence alone has the same loss as among others."""
    config, params, threshold, _, _ = autoencoder("mutual", 2, 9)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 2, (4, 6)))

    def spliced_in(batches):
        args = ({"scale": jnp.float32(2)}, batches, jax.random.key(0), make_reconstruct(config))
        return splice(nll, *args, (params, threshold), jnp.zeros(2))

    together = spliced_in([{"tokens": tokens}])
    alone = spliced_in([{"tokens": row[None]} for row in tokens])
    np.testing.assert_allclose(together[:4], alone[:4], rtol=1e-5)
    assert len({round(value, 4) for value in together[:3]}) == 3  # the autoencoder does change the loss
