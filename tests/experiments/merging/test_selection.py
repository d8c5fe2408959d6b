"""Qualities of selections, and scenes with their readout, where the answer is known."""

import jax
import numpy as np

from experiments.merging import needles
from experiments.merging.needles import draw_scene
from experiments.merging.selection import Config, draw_tokens, qualities


def test_qualities_of_tokens_without_noise():
    """Copies of orthonormal centres: DivPrune keeps one of each, 1 apart, and covers all; importance only the largest cluster."""
    config = Config(sizes=(6, 3, 1, 1), noise=0.0, width=8, kept=4, seeds=(0,))
    x, centres = draw_tokens(config, True, 0)
    for method, expected in (("divprune", [1, 0, 0, 4]), ("top", [0, 1, 5 / 11, 1])):
        np.testing.assert_allclose(qualities(method, 4, x, centres, jax.random.key(0)), expected, atol=1e-5)


CONFIG = needles.Config(tokens=80, kept=(0.95, 0.2, 0.1), scenes=1, seeds=(0,))


def test_scenes_and_outliers():
    scene, spoilt = (draw_scene(CONFIG, outliers, 0, 0) for outliers in (0, 16))
    same = (scene.tokens[:, None] == spoilt.tokens[None]).all(2).any(1)
    assert same.sum() == 80 - 16
    cosine = scene.tokens @ scene.identities.T
    assert ((cosine > 0.5).sum(0) == CONFIG.objects).all()
    answer = scene.values[scene.attributes]
    for number in range(len(CONFIG.objects)):
        mine = scene.tokens[cosine[:, number] > 0.5]
        assert (mine @ answer[number] > 0.5).all()
