"""Absorption by hand: the class along the first axis, a token of its own along the second."""

import jax
import numpy as np
import pytest

from lexinv.sae.absorption import absorption, main_latents
from lexinv.sae.synthetic import SyntheticConfig, make_dictionary, sample_tokens

LABELS = np.array([[1], [1], [1], [1], [0], [0], [0], [0]], bool)
TRUTH = np.array([[1, 0], [1, 0], [1, 1], [1, 1], [0, 0], [0, 0], [0, 0], [0, 0]], float)
"""The class alone twice, both twice; the mean along the class is 1/2, from which every token of the class is 1/2 away."""
AXES = np.eye(2)
JOINED = np.array([[1, 0], [1, 1]]) / np.array([[1], [np.sqrt(2)]])
ABSORBING = np.array([[1, 0], [1, 0], [0, np.sqrt(2)], [0, np.sqrt(2)], [0, 0], [0, 0], [0, 0], [0, 0]])
"""Codes of `TRUTH` by `JOINED`, whose second latent has 3/4 along the class above its mean where it fires."""


def judge(decoder, codes, share=0.4, main=(0,), least=0.025):
    found = absorption(codes, TRUTH, decoder, AXES[:, :1], LABELS, [np.array(main)], share, least)
    return [int(counts[0]) for counts in found]


@pytest.mark.parametrize(
    "decoder, codes, options, expected",
    [
        (JOINED, ABSORBING, {}, [4, 2, 2]),
        (JOINED, ABSORBING, {"share": 1.51}, [4, 2, 0]),  # 3/4 of 1/2
        (JOINED, ABSORBING, {"least": 0.71}, [4, 2, 0]),  # its cosine is 1 / sqrt 2
        (JOINED, ABSORBING, {"main": (0, 1)}, [4, 0, 0]),  # split over both: one of them always fires
        (AXES, TRUTH, {}, [4, 0, 0]),
        (AXES, TRUTH * [[1, 1], [1, 1], [0, 1], [0, 1], [1, 1], [1, 1], [1, 1], [1, 1]], {}, [4, 2, 0]),  # missed
        (JOINED * [[1], [-1]], ABSORBING, {}, [4, 2, 0]),  # points away from the class
    ],
)
def test_counts_by_hand(decoder, codes, options, expected):
    assert judge(decoder, codes, **options) == expected


def test_rate_is_the_mean_over_classes_that_have_tokens():
    judged = np.concatenate([LABELS, LABELS & (TRUTH[:, 1:] > 0), np.zeros_like(LABELS)], axis=1)
    found = absorption(ABSORBING, TRUTH, JOINED, AXES[:, [0, 0, 0]], judged, [np.array([0])] * 3)
    assert found.judged.tolist() == [4, 2, 0] and found.rate == (0.5 + 1.0) / 2


def test_main_latents_are_added_while_they_help():
    """Two exclusive latents are one class together; the other class has one of its own."""
    rng = np.random.default_rng(0)
    which = rng.integers(0, 4, 400)
    codes = np.eye(4)[which][:, :3] * (1 + rng.random((400, 1)))
    found = main_latents(codes, np.stack([which < 2, which == 2], axis=1), most=3)
    assert [set(each.tolist()) for each in found] == [{0, 1}, {2}]


def test_the_truth_absorbs_nothing():
    """Of parents and children, features that are only there with their parents, which take the last places."""
    config = SyntheticConfig(width=12, features=20, l0=4.0, parents=3)
    dictionary = make_dictionary(config, jax.random.key(0))
    tokens = sample_tokens(config, dictionary, 2000, jax.random.key(1))
    codes, x, decoder = (np.asarray(part, np.float64) for part in (tokens.codes, tokens.activations, dictionary))
    parents = codes[:, :3] > 0
    assert (parents & (codes[:, 17:] > 0)).any(axis=0).all()
    found = absorption(codes, x, decoder, decoder[:3].T, parents, [np.array([i]) for i in range(3)])
    assert found.judged.min() > 100 and found.silent.tolist() == [0, 0, 0] and found.rate == 0.0
