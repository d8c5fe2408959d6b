"""Synthetic activations have the frequencies, difficulties and structure that their configuration says."""

import jax
import numpy as np
import pytest

from lexinv.sae.synthetic import SyntheticConfig, make_dictionary, probabilities, sample_tokens
from lexinv.validation import InvalidConfig


def drawn(config: SyntheticConfig, tokens: int = 20_000):
    dictionary = make_dictionary(config, jax.random.key(0))
    return dictionary, sample_tokens(config, dictionary, tokens, jax.random.key(1))


def test_frequencies_follow_zipf_and_difficulty():
    config = SyntheticConfig(width=16, features=40, l0=2.0)
    _, tokens = drawn(config)
    present = np.asarray(tokens.codes) > 0
    p = np.asarray(probabilities(config))
    assert p[0] / p[9] == pytest.approx(10**0.9, rel=1e-4)
    # p is a mean over hard and easy tokens, so that its own deviation is a little larger than the binomial one
    assert (np.abs(present.mean(axis=0) - p) < 5 * np.sqrt(p / 20_000)).all()
    hard = np.asarray(tokens.difficulty) > 1
    assert present[hard].sum() / present[~hard].sum() * (~hard).sum() / hard.sum() == pytest.approx(
        1.65 / 0.35, rel=0.05
    )


def test_activations_are_codes_times_dictionary():
    config = SyntheticConfig(width=8, features=20, offset=1.5)
    dictionary, tokens = drawn(config, 100)
    np.testing.assert_allclose(tokens.activations, np.asarray(tokens.codes) @ np.asarray(dictionary) + 1.5, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(dictionary, axis=1), 1.0, rtol=1e-5)
    codes = np.asarray(tokens.codes)
    assert codes[codes > 0].min() >= 1.0


def test_noise_has_its_size():
    config = SyntheticConfig(width=8, features=20, noise=0.3)
    dictionary, tokens = drawn(config)
    left = np.asarray(tokens.activations) - np.asarray(tokens.codes) @ np.asarray(dictionary)
    assert left.std() == pytest.approx(0.3, rel=0.02)


def test_orthogonal_dictionary():
    dictionary = np.asarray(make_dictionary(SyntheticConfig(width=9, features=5, orthogonal=True), jax.random.key(0)))
    np.testing.assert_allclose(dictionary @ dictionary.T, np.eye(5), atol=1e-5)


def test_children_come_with_their_parents():
    config = SyntheticConfig(width=8, features=20, l0=4.0, parents=3)
    _, tokens = drawn(config)
    present = np.asarray(tokens.codes) > 0
    for child, parent in ((17, 0), (18, 1), (19, 2)):
        assert present[:, child].any() and not (present[:, child] & ~present[:, parent]).any()


@pytest.mark.parametrize(
    "change, field",
    [
        ({"l0": 0.0}, "data.l0"),
        ({"difficulty": 1.0}, "data.difficulty"),
        ({"orthogonal": True}, "data.orthogonal"),
        ({"parents": 65}, "data.parents"),
        ({"width": 0}, "data.width"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        SyntheticConfig(**change)
    assert error.value.field == field
