"""What has to destroy in-context inference does so, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.lexinvariance.controls import make_redrawn_nll
from lexinv.nn.language_model import initialize, make_nll
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig

LEXICON, VOCAB = LexiconConfig("lexinvariant"), 7
MODEL = TransformerConfig(
    depth=2, width=32, heads=2, mlp_width=32, positions="none", mixing="convolution", initialization="suffix_match"
)


@pytest.fixture(scope="module")
def nats():
    """By position with and without a redrawn lexicon, of a text that repeats; means over the lexica of 60 rows."""
    params = initialize(MODEL, LEXICON, VOCAB, jax.random.key(0))
    batch = {"tokens": jnp.tile(jnp.arange(4), (60, 8)), "row": jnp.arange(60)}
    functions = make_redrawn_nll(MODEL, VOCAB), make_nll(MODEL, LEXICON, VOCAB)
    return [np.mean(jax.jit(function)(params, batch, jax.random.key(0)), axis=0) for function in functions]


def test_a_redrawn_lexicon_changes_only_what_comes_after(nats):
    redrawn, kept = nats
    assert abs(redrawn[8:16].mean() - kept[8:16].mean()) < 0.15
    assert kept[20:24].mean() < 1.0  # the repetition is found,
    assert redrawn[16:20].mean() > kept[16:20].mean() + 1.0  # but not across the change of lexicon
