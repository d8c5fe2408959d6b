"""What is measured of a model that answers questions, on cases that can be counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness.sweep_algebra import override
from experiments.subjects.scene_answerers import SMOKE, HeldOut, SceneSubject, held_out
from experiments.subjects.scene_measurements import OUTLIERS, correlation, keep_short
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


def test_merged_tokens_stand_in_order_of_their_places():
    visual = jax.random.normal(jax.random.key(0), (3, 16, 8))
    found = jax.tree.map(np.asarray, keep_tokens("tome", 3, views(visual)))
    assert (np.diff(found.places, axis=1) > 0).all() and (found.size.sum(axis=1) == 16).all()


def with_long_tokens() -> View:
    """Two directions with noise, and two tokens far longer."""
    rng = np.random.default_rng(0)
    visual = 0.1 * rng.normal(size=(2, 16, 8)) + np.eye(8)[:2][np.arange(16) % 2]
    visual[:, [3, 9]] = 9 * rng.normal(size=(2, 2, 8))
    return views(jnp.asarray(visual, jnp.float32))


def test_diversity_takes_long_tokens():
    assert {3, 9} <= set(np.asarray(keep_tokens("divprune", 5, with_long_tokens()).places[0]).tolist())


def test_the_filter_leaves_long_tokens_out():
    filtered = np.asarray(keep_short(5, with_long_tokens()).places)
    assert not np.isin(filtered, [3, 9]).any() and filtered.shape == (2, 5)
    assert OUTLIERS < 16


def test_redundancy_and_relevance_that_are_the_same_correlate():
    """Four directions of which one is shared by more and more tokens."""
    visual = jnp.eye(4)[jnp.array([0, 0, 0, 1, 1, 2])][None]
    redundancy = jnp.array([2.0, 2, 2, 1, 1, 0])[None, None] / 5
    assert correlation(visual, redundancy) == pytest.approx(1, abs=1e-3)
    assert correlation(visual, -redundancy) == pytest.approx(-1, abs=1e-3)


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
