"""What is measured of a model that answers questions, on cases that can be counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness.sweep_algebra import override
from experiments.subjects.scene_answerers import SMOKE, HeldOut, SceneSubject, held_out
from experiments.subjects.scene_pruning import View, drop_image, group, keep_tokens, pose


def views(visual: jax.Array) -> View:
    score = jnp.tile(jnp.arange(16.0)[None] ** 2 / 100, (len(visual), 1))
    return View(visual, score, score[:, ::-1], score, jax.random.split(jax.random.key(1), len(visual)))


@pytest.mark.parametrize("method, kept", [("cls", [13, 14, 15]), ("text", [13, 14, 15]), ("column", [0, 1, 2])])
def test_scores_keep_their_highest_in_order(method, kept):
    visual = jax.random.normal(jax.random.key(0), (3, 16, 8))
    found = jax.tree.map(np.asarray, keep_tokens(method, 3, views(visual)))
    assert found.places.tolist() == [kept] * 3 and (found.size == 1).all()
    np.testing.assert_allclose(found.visual, np.asarray(visual)[:, kept])


SUBJECT = override(SceneSubject(), {name.removeprefix("subject."): value for name, value in SMOKE.items()})


def scenes_of(count: int) -> HeldOut:
    return jax.jit(lambda: held_out(SUBJECT, 0, count))()


def test_types_of_questions():
    """Of one scene: rare are objects of one patch, right or wrong as given."""
    _, questions = scenes_of(5)
    right = np.zeros(questions.answer.shape, bool)
    right[:, 1:3] = True  # two of three objects of one patch
    right[:, 4] = True  # one of two counts
    found = group(SUBJECT.data, questions, right)
    assert found == {"rare": 0.6667, "dominant": 0.0, "count": 0.5, "presence": 0.0, "all": 0.3}


def test_dropping_the_image_leaves_the_words_of_every_question():
    scenes, questions = scenes_of(2)
    params = {"words": jnp.arange(SUBJECT.model.words + 1.0)[:, None] * jnp.ones((1, SUBJECT.width))}
    visual = jnp.zeros((2, SUBJECT.data.patches, SUBJECT.width))
    asked = pose(SUBJECT, params, visual, questions)
    text = drop_image(asked)
    assert len(scenes.owner) == 2 and text.prompt.stream.shape[1] == 1 + questions.answer.shape[1] * 2
    for before, after in zip(asked.words.ravel(), text.words.ravel(), strict=True):
        np.testing.assert_array_equal(asked.prompt.stream[:, before], text.prompt.stream[:, after])
        np.testing.assert_array_equal(asked.prompt.positions[:, before], text.prompt.positions[:, after])
    np.testing.assert_array_equal(
        np.asarray(text.prompt.positions)[0, 1:], np.tile([17, 18], questions.answer.shape[1])
    )
    hidden = np.asarray(text.apart[0])[1:] < 0  # from the words, of the system token and two words a question
    assert not hidden[:, 0].any() and hidden[0, 3] and not hidden[1, 1] and hidden.sum() == 20 * 18
