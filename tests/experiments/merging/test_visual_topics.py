"""Topics of the position paper on images: random orders of tokens, errors by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.merging.attention_bias import attention_of_slots, in_random_order
from experiments.merging.package_token import reconstruction_error
from experiments.subjects.scene_answerers import SceneSubject, held_out
from experiments.subjects.scene_pruning import encode_images
from lexinv.merging.plan import identity
from lexinv.merging.ranking import prune_by_score
from lexinv.merging.strategies import package
from lexinv.nn import vision_language

SUBJECT = SceneSubject(vision_depth=1, vision_width=8, depth=2, width=8, heads=2)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def small():
    """(parameters, scenes and questions, visual tokens)."""
    params = jax.jit(partial(vision_language.initialize, SUBJECT.model))(KEY)
    drawn = jax.jit(held_out, static_argnums=(0, 1, 2))(SUBJECT, 0, 5)
    return params, drawn, encode_images(SUBJECT.model, params, drawn.scenes.pixels).visual


def test_random_orders(small):
    """The same tokens with their similarities; attention to slots is a share of 1, and questions do not see each other."""
    params, drawn, visual = small
    shuffled, similarity = in_random_order(visual, KEY)
    mean = np.asarray(visual).mean(axis=1)
    cosine = np.einsum("sd,snd->sn", mean, shuffled) / np.linalg.norm(mean, axis=1)[:, None]
    np.testing.assert_allclose(similarity, cosine / np.linalg.norm(shuffled, axis=2), atol=1e-4)
    np.testing.assert_allclose(np.sort(shuffled, axis=1), np.sort(visual, axis=1), atol=1e-6)
    assert np.abs(np.asarray(shuffled - visual)).max() > 0.01
    np.testing.assert_array_equal(in_random_order(visual, jax.random.key(0, impl="rbg"))[0], shuffled)
    attention = np.stack(attention_of_slots(SUBJECT, params, shuffled, drawn.questions))
    total = attention.sum(axis=-1)
    assert total.shape == (2, 5, 14) and ((total > 0) & (total < 1)).all()
    alone = attention_of_slots(SUBJECT, params, shuffled, jax.tree.map(lambda part: part[:, 3:4], drawn.questions))
    np.testing.assert_allclose(np.stack(alone)[1, :, 0], attention[1, :, 3], atol=1e-5)


def test_reconstruction_by_hand():
    """Two images of 3 patches with opposite deviations 6, 2, 4 from the mean image. Kept: the first patch.

    Pruned, the others are taken to deviate by 6: squared errors 16 + 4 of 36 + 4 + 16. In a package, by their mean 3: 1 + 1.
    """
    mean, deviation = jnp.array([[5.0], [1.0], [-2.0]]), jnp.array([[6.0], [2.0], [4.0]])
    x, scores = jnp.stack([mean + deviation, mean - deviation]), jnp.array([0.0, 3.0, 1.0, 2.0])  # token 0 is CLS
    for plan, error in ((prune_by_score(scores, 2), 20 / 56), (package(scores, 3), 2 / 56), (identity(4), 0.0)):
        both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), plan)
        assert float(jax.jit(reconstruction_error, static_argnums=2)(both, x, 1)) == pytest.approx(error)
