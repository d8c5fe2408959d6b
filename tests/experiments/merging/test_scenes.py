"""What a model that answers questions is left with where its image is dropped."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness.sweep_algebra import override
from experiments.subjects.scene_answerers import SMOKE, HeldOut, SceneSubject, held_out
from experiments.subjects.scene_pruning import drop_image, pose, presence
from lexinv.data.scenes import LENGTH, Questions

SUBJECT = override(SceneSubject(), {name.removeprefix("subject."): value for name, value in SMOKE.items()})


def scenes_of(count: int) -> HeldOut:
    return jax.jit(lambda: held_out(SUBJECT, 0, count))()


def test_dropping_the_image_leaves_the_words_of_every_question():
    scenes, questions = scenes_of(2)
    first, number = SUBJECT.system, questions.answer.shape[1]
    params = {"words": jnp.arange(first + SUBJECT.model.words + 0.0)[:, None] * jnp.ones((1, SUBJECT.width))}
    visual = jnp.zeros((2, SUBJECT.data.patches, SUBJECT.width))
    asked = pose(SUBJECT, params, visual, questions)
    text = drop_image(asked)
    assert len(scenes.owner) == 2 and text.prompt.stream.shape[1] == first + number * LENGTH
    for before, after in zip(asked.words.ravel(), text.words.ravel(), strict=True):
        np.testing.assert_array_equal(asked.prompt.stream[:, before], text.prompt.stream[:, after])
        np.testing.assert_array_equal(asked.prompt.positions[:, before], text.prompt.positions[:, after])
    np.testing.assert_array_equal(np.asarray(text.prompt.stream)[0, :first, 0], np.arange(first))
    np.testing.assert_array_equal(
        np.asarray(text.prompt.positions)[0, first:], np.tile(first + 16 + np.arange(LENGTH), number)
    )
    hidden = (
        np.asarray(text.apart[0])[first:] < 0
    )  # from the words, of the system prompt and the words of all questions
    own = np.kron(np.eye(number, dtype=bool), np.ones((LENGTH, LENGTH), bool))
    np.testing.assert_array_equal(hidden, np.concatenate([np.zeros((len(own), first), bool), ~own], axis=1))


def test_presence_by_hand():
    """Two scenes, the first for choosing. There: hit, miss; judged: hit, false yes, right no; colours do not count."""
    no, kind = SUBJECT.data.no, np.array([[2, 2, 2, 0], [2, 2, 2, 0]])
    answer = np.array([[no + 1, no + 1, no, 0], [no + 1, no, no, 0]])
    right = np.array([[True, False, True, False], [True, False, True, True]])
    found = presence(SUBJECT.data, Questions(np.zeros((2, 4, LENGTH)), answer, kind, np.zeros((2, 4))), right)
    assert found == {"choose f1": round(2 / 3, 4), "judge f1": round(2 / 3, 4), "bias": round(1 / 3, 4)}
