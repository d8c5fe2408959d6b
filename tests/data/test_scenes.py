"""Scenes and their questions, against what can be read off the pictures."""

from functools import partial
from math import comb

import jax
import numpy as np
import pytest

from lexinv.data.scenes import (
    COLOURS,
    FUNCTION_WORDS,
    KINDS,
    LENGTH,
    QUESTIONS,
    SHAPES,
    SceneConfig,
    ask,
    bitmaps,
    chance,
    sample_scenes,
)
from lexinv.validation import InvalidConfig

CLEAN = SceneConfig(noise=0.0)
COUNT = 40


@pytest.fixture(scope="module")
def scenes():
    return jax.tree.map(np.asarray, jax.jit(partial(sample_scenes, CLEAN, COUNT))(jax.random.key(0)))


def read(picture: np.ndarray) -> dict[tuple[int, int], tuple[int, int]]:
    """(row, column) of each patch that is not flat, and the shape and colour that it shows, from the pixels alone."""
    grey = picture.reshape(-1, 3)[np.ptp(picture.reshape(-1, 3), axis=1) < 1e-6]
    background = np.median(grey)
    found = {}
    for row in range(CLEAN.grid):
        for column in range(CLEAN.grid):
            patch = picture[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            painted = np.abs(patch - background).max(axis=-1) > 1e-6
            if painted.any():
                (shape,) = [i for i, drawn in enumerate(bitmaps(CLEAN)) if np.array_equal(drawn, painted)]
                (colour,) = [
                    i for i, paint in enumerate(COLOURS.values()) if np.allclose(patch[painted], np.array(paint))
                ]
                found[row, column] = shape, colour
    return found


def test_pictures_show_what_the_labels_say(scenes):
    for picture, owner, shape, colour in zip(*scenes, strict=True):
        patches = read(picture)
        labelled = {divmod(int(p), CLEAN.grid): (shape[owner[p]], colour[owner[p]]) for p in np.flatnonzero(owner >= 0)}
        assert patches == labelled
        for which, size in enumerate(CLEAN.sizes):
            places = np.array([divmod(int(p), CLEAN.grid) for p in np.flatnonzero(owner == which)])
            assert len(places) == size**2 and (np.ptp(places, axis=0) == size - 1).all()
            assert len(np.unique(places // CLEAN.cell, axis=0)) == 1  # one cell
        assert len(set(shape.tolist())) == len(CLEAN.sizes)


def test_answers_are_those_of_the_pictures(scenes):
    """Questions are read as sentences, by the dictionary of all words."""
    questions = jax.tree.map(np.asarray, ask(CLEAN, scenes, jax.random.key(1), counts=4, presences=12))
    shapes, colours = list(SHAPES), list(COLOURS)
    dictionary = [*FUNCTION_WORDS, *shapes, *colours]
    assert len(set(dictionary)) == len(dictionary) == CLEAN.words and questions.answer.max() < CLEAN.answers
    assert questions.answer.shape == (COUNT, 8 + 4 + 12) and questions.words.shape[2] == LENGTH
    for row in range(COUNT):
        shown = dict(set(read(scenes.pixels[row]).values()))  # shape: colour
        asked = {kind: set() for kind in KINDS}
        for words, answer, kind, about in zip(*(leaf[row] for leaf in questions), strict=True):
            before, after = QUESTIONS[KINDS[kind]].split("_")
            sentence = " ".join(dictionary[word] for word in words)
            assert sentence.startswith(before) and sentence.endswith(after)
            subject = sentence.removeprefix(before).removesuffix(after)
            asked[KINDS[kind]].add(subject)
            if KINDS[kind] == "count":
                same = sum(colour == colours.index(subject) for colour in shown.values())
                assert answer - CLEAN.colours == same and about == -1
                continue
            shape = shapes.index(subject)
            assert about < 0 or scenes.shape[row, about] == shape
            assert (about >= 0) == (shape in shown)
            assert answer == (shown[shape] if KINDS[kind] == "colour" else CLEAN.no + (shape in shown))
        assert {kind: len(found) for kind, found in asked.items()} == {"colour": 8, "count": 4, "presence": 12}


def test_draws_are_uniform_and_functions_of_their_key():
    sample = jax.jit(partial(sample_scenes, CLEAN, 2000))
    one, again, other = (jax.tree.map(np.asarray, sample(jax.random.key(seed))) for seed in (0, 0, 1))
    assert np.array_equal(one.pixels, again.pixels) and not np.array_equal(one.pixels, other.pixels)
    for values, number in ((one.shape[:, 2], 16), (one.colour[:, 0], 4)):
        share = np.bincount(values, minlength=number) / len(values)
        assert np.abs(share - 1 / number).max() < 5 * np.sqrt(1 / number / len(values))
    where = np.mean(one.owner == 2, axis=0)  # a single patch is anywhere alike
    assert np.abs(where - 1 / 81).max() < 6 * np.sqrt(1 / 81 / 2000)


def test_chance_is_that_of_the_best_blind_guess(scenes):
    """Exact by enumerating the colours of a scene, and above what the commonest answer of many questions gets."""
    expected = chance(CLEAN)
    assert expected["colour"] == 1 / 4 and expected["presence"] == 1 / 2
    assert expected["count"] == pytest.approx(max(comb(8, k) * 3 ** (8 - k) for k in range(9)) / 4**8)
    many = jax.jit(partial(sample_scenes, CLEAN, 2000))(jax.random.key(3))
    asked = jax.tree.map(np.asarray, ask(CLEAN, many, jax.random.key(4)))
    for place, kind in enumerate(KINDS):
        answers = asked.answer[asked.kind == place]
        assert np.bincount(answers).max() / len(answers) == pytest.approx(expected[kind], abs=0.03)


def test_shapes_differ_in_four_points_or_more():
    drawn = bitmaps(CLEAN).reshape(len(SHAPES), -1)
    distance = (drawn[:, None] != drawn[None]).sum(axis=-1)
    assert distance[~np.eye(len(SHAPES), dtype=bool)].min() >= 4


@pytest.mark.parametrize("changed, field", [({"counts": 5}, "counts"), ({"presences": 17}, "presences")])
def test_more_questions_than_there_are_subjects_are_refused(scenes, changed, field):
    with pytest.raises(InvalidConfig) as error:
        ask(CLEAN, scenes, jax.random.key(0), **changed)
    assert error.value.field == field
