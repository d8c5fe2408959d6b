"""Top passages, the choice of features and logit effects, against small cases worked by hand and against the model itself."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.sae.feature_data import (
    Survey,
    choose_features,
    foretold,
    logit_effects,
    specificity,
    survey,
    top_windows,
)
from lexinv.nn.language_model import LanguageModel, initialize, shift_right
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig

WINDOWS = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4], [9, 2, 9, 9]], np.int32)
FOUND = Survey(
    peaks=np.array([[3.0, 0.0], [1.0, 2.0], [2.0, 0.0], [0.0, 0.0]]),
    positions=np.array([[1, 0], [2, 1], [1, 0], [0, 0]]),
    density=np.array([0.25, 0.1]),
    mean=np.array([1.0, 5.0]),
)


def test_top_windows_fall_and_leave_out_repeats_and_silence():
    assert top_windows(FOUND, 0, WINDOWS, 4) == [(0, 1), (1, 2)]
    assert top_windows(FOUND, 0, WINDOWS, 1) == [(0, 1)]
    assert top_windows(FOUND, 1, WINDOWS, 4) == [(1, 1)]


def test_survey_takes_each_windows_peak():
    activations = np.zeros((4, 3, 2), np.float32)
    activations[0, 1], activations[2, 2, 1] = (2.0, 1.0), 4.0
    rows = {len(WINDOWS): activations.reshape(-1, 2)}
    subject = SimpleNamespace(read=lambda windows: rows[len(windows)])
    found = survey(lambda x: np.maximum(x, 0), subject, WINDOWS)
    np.testing.assert_array_equal(found.peaks, [[2, 1], [0, 0], [0, 4], [0, 0]])
    assert found.positions[0].tolist() == [1, 1] and found.positions[2, 1] == 2
    np.testing.assert_allclose(found.density, [1 / 12, 2 / 12])
    np.testing.assert_allclose(found.mean, [2 / 12, 5 / 12])


def test_features_are_chosen_for_what_their_group_says():
    found = Survey(
        np.ones((4, 4)), np.ones((4, 4), int), np.array([0.3, 0.2, 0.1, 0.0]), np.array([1.0, 3.0, 2.0, 0.0])
    )
    texts = [str(i) for i in range(10)]
    top = [[(0, 1), (1, 1)], [(0, 1), (3, 1)], [(1, 1)], []]
    chosen = choose_features(found, top, texts, WINDOWS, 1, ("2", "99"), 0)
    groups = {name: feature for feature, names in chosen.items() for name in names}
    assert groups["most active"] == 1 and groups["densest"] == 0
    assert groups["sparsest"] == 1  # of those with two passages
    assert groups["“2”"] == 1  # both of its top tokens
    assert groups["random"] in (0, 1, 2)
    assert "“99”" not in groups


def test_specificity_is_the_share_of_the_most_frequent_top_token():
    top = [[(0, 1), (3, 1), (1, 1)], [(0, 0)]]  # tokens 2, 2, 6; the second has too few passages
    np.testing.assert_allclose(specificity(top, WINDOWS, 3), [2 / 3])


def test_what_is_foretold_is_counted_for_the_own_and_for_another_feature():
    promoted = np.zeros((3, 10), bool)
    promoted[0, 3] = True  # follows both of its peaks
    promoted[2, 7] = True
    own, others = foretold([[(0, 1), (2, 1)], [], [(1, 1), (3, 0)]], WINDOWS, promoted)
    assert own == pytest.approx((1 + 0.5) / 2)
    assert others == 0


@pytest.mark.parametrize("output", ["matrix", "untied"])
def test_logit_effects_are_the_slopes_of_the_logits(output):
    """Against central differences of the model's own logits with a direction added after its only layer."""
    config = TransformerConfig(depth=1, width=8, heads=2, mlp_width=16, output=output)
    lexicon, vocab = LexiconConfig("standard"), 7
    params = initialize(config, lexicon, vocab, jax.random.key(0))
    tokens = np.array([[1, 4, 2, 6, 0]], np.int32)
    subject = SimpleNamespace(config=config, params=params, lexicon=lexicon, vocab=vocab, windows=[tokens])
    directions = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    found = logit_effects(subject, directions)

    def logits(direction):
        def change(name, x):
            return x + jnp.asarray(direction)[None, None] if name == "residual_out" else x

        inputs = shift_right(jnp.asarray(tokens))
        arguments = {"output_table": params.get("output_table"), "edit": (0, change)}
        return LanguageModel(config).apply({"params": params["model"]}, inputs, params["table"], **arguments)[0, 1:]

    for row, direction in zip(found, directions, strict=True):
        slope = np.asarray((logits(1e-2 * direction) - logits(-1e-2 * direction)) / 2e-2).mean(axis=0)
        np.testing.assert_allclose(row, slope - slope.mean(), atol=2e-3)
