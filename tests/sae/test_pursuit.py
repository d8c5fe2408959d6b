"""Matching pursuit at a wanted sparsity."""

import jax
import numpy as np
import pytest

from lexinv.sae.pursuit import pursue
from lexinv.sae.synthetic import SyntheticConfig, make_dictionary, sample_tokens


def test_pursuit_meets_the_wanted_sparsity_and_finds_orthogonal_features():
    data = SyntheticConfig(width=8, features=8, l0=2.0, orthogonal=True)
    dictionary = make_dictionary(data, jax.random.key(0))
    tokens = sample_tokens(data, dictionary, 512, jax.random.key(1))
    x, truth = tokens.activations, np.asarray(tokens.codes)
    codes = np.asarray(pursue(x, x, dictionary, float((truth != 0).sum(axis=1).mean()), 8))
    np.testing.assert_allclose(codes, truth, atol=1e-5)
    half = np.asarray(pursue(x, x, dictionary, 0.5, 8))
    assert (half != 0).sum(axis=1).mean() == pytest.approx(0.5, abs=0.01)
