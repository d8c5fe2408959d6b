"""Neural languages under the particle filter, against the enumeration of all keys by the model's own likelihoods."""

from functools import partial
from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.lexinvariance import particles
from lexinv.lexinvariance.languages import CachedLanguage, RereadLanguage
from lexinv.lexinvariance.particles import FilterConfig, filter_keys
from lexinv.nn.language_model import initialize, make_logits
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import InvalidConfig

VOCAB, TIME = 4, 8
SMALL = TransformerConfig(depth=1, width=16, heads=2, mlp_width=16, max_length=16)
CONVOLVED = TransformerConfig(**{**vars(SMALL), "positions": "none", "mixing": "convolution"})
LEXICON = LexiconConfig("standard")
KEYS = np.array(list(permutations(range(VOCAB))))
TEXT = np.array([2, 0, 2, 2, 1, 3, 0, 2])


def sharpened(config):
    """Parameters with which some symbols are far more probable than others."""
    params = initialize(config, LEXICON, VOCAB, jax.random.key(0))
    return {**params, "model": {**params["model"], "logit_scale": jnp.float32(3)}}


def log_probs(config, params, texts):
    """ln p(. | symbols before position t) of whole texts, as in training."""
    batch = {"tokens": jnp.asarray(texts, jnp.int32), "row": jnp.arange(len(texts))}
    return jax.nn.log_softmax(make_logits(config, LEXICON, VOCAB)(params, batch, jax.random.key(0)))


def after(config, params, symbols, length):
    """What a language that is read again says: the same, of one place."""
    return jnp.take_along_axis(log_probs(config, params, symbols), length[:, None, None], axis=1)[:, 0]


@pytest.mark.filterwarnings("ignore:the particles are lost")
@pytest.mark.parametrize(
    "config, make, restarts",
    [
        (SMALL, CachedLanguage, 1),
        (CONVOLVED, lambda params, how: RereadLanguage(jax.tree_util.Partial(partial(after, how), params), VOCAB), 0),
    ],
    ids=["cached", "read again"],
)
def test_the_filter_over_a_neural_language_enumerates_its_keys(config, make, restarts, monkeypatch):
    """Where there are particles for all keys, and for all of two populations of them; both read the text under every key."""
    monkeypatch.setattr(particles, "SURPRISE", -1.0)  # begun anew wherever it may be
    params = sharpened(config)
    every = np.asarray(log_probs(config, params, KEYS[:, TEXT]), np.float64)
    came = np.take_along_axis(every, KEYS[:, TEXT][..., None], 2)[..., 0]
    weight = np.exp(np.cumsum(came, axis=1) - came)
    of_cipher = np.take_along_axis(np.exp(every), np.broadcast_to(KEYS[:, None], every.shape), 2)
    exact = np.einsum("kt,ktv->tv", weight / weight.sum(axis=0), of_cipher)
    assert abs(exact[1:] - 1 / VOCAB).max() > 0.2  # there is something to get wrong
    how = FilterConfig(particles=len(KEYS) * (1 + restarts), every=4, restarts=restarts)
    found = filter_keys(jax.random.key(1), make(params, config), TEXT[None], how)
    np.testing.assert_allclose(np.exp(found.log_probs[0]), exact, atol=1e-5)


def test_a_text_that_a_model_has_no_room_for_is_refused():
    language = CachedLanguage(sharpened(SMALL), SMALL)
    with pytest.raises(InvalidConfig, match="slots = 17 .*max_length = 16"):
        filter_keys(jax.random.key(0), language, np.tile(TEXT, (1, 2)))
