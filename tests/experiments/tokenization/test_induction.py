"""Sequences with a kernel each, and shares of the way from frequencies to Bayes."""

from dataclasses import replace

import numpy as np

from experiments.tokenization.induction import PRESETS, predictor_nll, sequences

SMOKE = PRESETS["smoke"]


def test_sequences_have_a_kernel_each_which_bayes_learns_and_frequencies_do_not():
    config = replace(SMOKE, context=64, windows=400)
    windows = sequences(2, config, "test", 400).gather(np.arange(400))
    assert 0.15 < windows.mean(axis=1).std() < 0.35  # the sequences differ; coin flips would give 0.06
    bayes, unigram = (predictor_nll(windows, order, 2)[:, 48:].mean() for order in (2, 0))
    assert bayes < unigram - 0.05
    np.testing.assert_allclose(predictor_nll(windows, 2, 2)[:, :2], np.log(2), rtol=1e-6)
