"""Pictures and patches, conditions of one prompt, and a drawing that follows a known field."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.subjects.captions import LENGTH, PAINTED, read, sample_captions
from experiments.subjects.prompted_pictures import (
    COLOURS,
    MODEL,
    NOUNS,
    Change,
    Drawing,
    _conditions,
    draw,
    nearest_codes,
    pixels,
    presence,
    prompted,
)
from lexinv.nn.text_to_image import encode_text, initialize, predict

ASKED = sample_captions(jax.random.key(0), 6, unnamed=0.0)
SHORT = Drawing(steps=2, refined=1, descents=1)


@pytest.fixture(scope="module")
def params():
    return initialize(MODEL, jax.random.key(1))


def test_patches_hold_the_picture():
    np.testing.assert_array_equal(nearest_codes(pixels(ASKED.codes)), ASKED.codes)
    noisy = pixels(ASKED.codes) + 0.2 * jax.random.normal(jax.random.key(2), pixels(ASKED.codes).shape)
    assert presence(read(np.asarray(nearest_codes(noisy)))[0], np.asarray(ASKED.shape)).all()
    assert not presence(np.asarray(ASKED.shape)[:, [0, 0]], np.asarray(ASKED.shape)).any()


def test_encoder_is_causal_and_ends_have_read_the_prompt(params):
    one = prompted(ASKED.caption[:1])
    other = one.at[0, 1].set(PAINTED)
    first, second = encode_text(MODEL, params, jnp.concatenate([one, other]))
    np.testing.assert_array_equal(first[0], second[0])
    assert (jnp.abs(first - second).max(axis=1)[1:] > 1e-4).all()


def test_attention_sums_to_one_and_leaves_out_what_is_masked(params):
    text = encode_text(MODEL, params, prompted(ASKED.caption))
    x, time = pixels(ASKED.codes), jnp.full(6, 0.5)
    mask = jnp.ones(text.shape[:2], bool).at[:, 1].set(False)
    found = predict(MODEL, params, x, time, text, mask)
    np.testing.assert_allclose(found.maps.sum(axis=-1), 1.0, rtol=1e-5)
    assert not np.asarray(found.maps[..., 1]).any()
    elsewhere = predict(MODEL, params, x, time, text.at[:, 1].set(7.0), mask)
    np.testing.assert_array_equal(found.velocity, elsewhere.velocity)


def test_conditions_are_what_their_names_say(params):
    caption = ASKED.caption[0]
    plain, null, phrases, mask, zeros = _conditions(MODEL, params, caption, Change())
    assert mask.all() and not zeros.any() and phrases.shape == (2, LENGTH + 3, 64)
    merged, *_, zeros = _conditions(MODEL, params, caption, Change("merged"))
    np.testing.assert_allclose(merged[NOUNS], plain[NOUNS] + plain[COLOURS], atol=1e-5)
    assert np.flatnonzero(np.asarray(zeros)).tolist() == COLOURS.tolist()
    wrong = _conditions(MODEL, params, caption, Change("wrong"))[0]
    np.testing.assert_allclose(wrong[NOUNS], plain[NOUNS] + plain[COLOURS[::-1]], atol=1e-5)
    stripped = encode_text(MODEL, params, prompted(caption.at[COLOURS].set(PAINTED)[None]))[0]
    added = _conditions(MODEL, params, caption, Change("added"))[0]
    np.testing.assert_allclose(added[NOUNS], stripped[NOUNS] + plain[COLOURS], atol=1e-5)
    ends = _conditions(MODEL, params, caption, Change("merged", ends=True, masked=True))
    np.testing.assert_allclose(ends[0][LENGTH:], stripped[LENGTH:], atol=1e-5)
    assert np.flatnonzero(~np.asarray(ends[3])).tolist() == COLOURS.tolist()
    assert not np.allclose(null, plain)


@pytest.mark.long
def test_losses_move_what_is_drawn_and_padding_of_the_batch_does_not(params):
    key = jax.random.key(3)
    plain = draw(MODEL, params, ASKED.caption, key, SHORT, Change())
    assert plain.codes.shape == ASKED.codes.shape and not np.asarray(plain.zeros).any()
    merged = draw(MODEL, params, ASKED.caption, key, SHORT, Change("merged"))
    assert (np.asarray(merged.zeros) > 0).all()
    strong = Drawing(steps=2, refined=1, descents=1, entropy=100.0, binding=100.0, excitation=100.0)
    for change in (Change(excitation=True), Change(entropy=True), Change(binding=True)):
        assert (draw(MODEL, params, ASKED.caption, key, strong, change).codes != plain.codes).any()
