"""What a model that answers questions is left with where its image is dropped."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness.sweep_algebra import override
from experiments.subjects.scene_answerers import SMOKE, HeldOut, SceneSubject, held_out
from experiments.subjects.scene_pruning import drop_image, pose

SUBJECT = override(SceneSubject(), {name.removeprefix("subject."): value for name, value in SMOKE.items()})


def scenes_of(count: int) -> HeldOut:
    return jax.jit(lambda: held_out(SUBJECT, 0, count))()


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
