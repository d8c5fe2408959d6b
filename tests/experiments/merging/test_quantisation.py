"""Quantised keys and values: the layers with their caches exchanged are the layers where nothing is quantised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.merging.quantisation import logit_error, logits
from lexinv.nn.text_encoder import sentence_embeddings
from lexinv.nn.transformer import Block, TransformerConfig

SIZES = {"depth": 2, "width": 8, "heads": 2, "mlp_width": 16, "positions": "none", "max_length": 12, "causal": False}
BERT = {"attention": "dot_product", "norm": "layer", "norm_epsilon": 1e-12, "bias": True, "residual": "post"}
TINY = TransformerConfig(**SIZES, **BERT)


@pytest.fixture(scope="module")
def inputs():
    key = jax.random.key(0)
    start = jax.jit(jax.vmap(lambda k: Block(TINY, False).init(k, jnp.zeros((1, 1, 8)), None)["params"]))
    layers = start(jax.random.split(key, 2))
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
    embeddings = jax.jit(sentence_embeddings, static_argnums=0)(TINY, params, tokens, mask)
    return params, tokens, mask, key, embeddings @ embeddings.T


def test_nothing_quantised_is_the_encoder(inputs):
    """The exchanged attention is the layer's own; and at 16 bits almost."""
    params, tokens, mask, key, cosines = inputs
    found, ratio = logits(TINY, None, 0.2, params, tokens, mask, key, "all")
    np.testing.assert_allclose(found, cosines, atol=1e-5)
    assert float(ratio) > 1.0
    close, _ = logits(TINY, (16, "channel"), 0.2, params, tokens, mask, key, "all")
    assert 0 < logit_error(close, found) < 1e-3


def test_arms_do_what_they_say(inputs):
    """All tokens but one exact: less error than none; dropped: other logits even at full precision. Padding plays no part."""
    params, tokens, mask, key, full = inputs

    def error(precision, share, arm, tokens=tokens):
        return logit_error(logits(TINY, precision, share, params, tokens, mask, key, arm)[0], full)

    assert error((3, "channel"), 0.99, "random_exact") < 1e-5 < error((3, "channel"), 0.2, "all")
    assert error(None, 0.2, "outliers_dropped") > 1e-4
    assert error(None, 0.2, "outliers_exact") < 1e-5
    assert error((3, "channel"), 0.2, "outliers_exact") != error((3, "channel"), 0.2, "random_exact")
    other = jnp.where(mask, tokens, 7)
    assert error((3, "channel"), 0.2, "outliers_dropped", other) == error((3, "channel"), 0.2, "outliers_dropped")
