"""Next-token distributions that are known."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.subjects.markov_models import BINARY, LEXICON, MODEL, as_tokens, sized
from experiments.tokenization.not_unigram import FAST, next_token_rows
from lexinv.nn.language_model import initialize
from lexinv.tokenization.tokenizers import to_text, train_bpe


def test_rows_of_a_uniform_model_are_uniform():
    symbols = np.random.default_rng(0).integers(0, 2, 2000).astype(np.uint8)
    tokens = as_tokens(FAST, train_bpe(to_text(symbols, BINARY), 4, BINARY), symbols, symbols, 16)
    model = sized(MODEL, 4, 16)
    shapes = jax.eval_shape(lambda key: initialize(model, LEXICON, 4, key), jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    found = next_token_rows(model, tokens, params, 3)
    assert found.shape == (3, 15, 4)
    np.testing.assert_allclose(found, 0.25, rtol=1e-5)
