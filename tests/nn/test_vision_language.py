"""The vision-language model: removed tokens, positions with gaps, sizes, and several questions about one image."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.nn import vision_language
from lexinv.nn.attention import UNSEEN
from lexinv.nn.transformer import TransformerConfig
from lexinv.nn.vision_language import VisionLanguageConfig, answer_logits, decode, encode, prompt, without_image
from lexinv.nn.vision_transformer import LAYERS, VisionConfig, classify
from lexinv.validation import InvalidConfig

VISION = VisionConfig(8, 2, 3, 5, layers=replace(LAYERS, depth=2, width=16, heads=2, mlp_width=32))
CONFIG = VisionLanguageConfig(VISION, TransformerConfig(3, 32, 2, 48), words=9, answers=6, patch_classes=4)
DEPTH, PATCHES = CONFIG.decoder.depth, VISION.patches


@pytest.fixture(scope="module")
def params():
    def spread(key):
        leaves = vision_language.initialize(CONFIG, key)
        keys = iter(jax.random.split(key, len(jax.tree.leaves(leaves))))
        return jax.tree.map(lambda leaf: leaf + 0.2 * jax.random.normal(next(keys), leaf.shape), leaves)

    return jax.jit(spread)(jax.random.key(0))


IMAGES = jax.random.normal(jax.random.key(1), (3, 8, 8, 3))
WORDS = jax.random.randint(jax.random.key(2), (3, 2), 0, 9)


@pytest.fixture(scope="module")
def encoded(params):
    return jax.jit(partial(encode, CONFIG))(params, IMAGES)


@pytest.fixture(scope="module")
def whole(params, encoded):
    return jax.jit(partial(prompt, CONFIG))(params, encoded.visual, WORDS)


@partial(jax.jit, static_argnames=("first", "last", "sized"))
def run(params, seen, first=0, last=None, remove_at=None, sized=False, apart=None):
    return decode(CONFIG, params, seen, first, last, remove_at, sized, apart)


def logits(params, seen):
    """Of the words of the question."""
    return answer_logits(params, seen.stream[:, -2:])


def test_the_encoder_is_the_vision_transformer(params, encoded):
    expected = jax.jit(lambda p, x: classify(VISION, p, x)[0])(params["vision"], IMAGES)
    np.testing.assert_allclose(vision_language.image_logits(params, encoded.cls), expected, atol=1e-5)
    assert vision_language.patch_logits(params, encoded.patches).shape == (3, PATCHES, 4)
    assert encoded.cls_attention.shape == (3, 2, PATCHES)
    assert (encoded.cls_attention > 0).all() and (encoded.cls_attention.sum(axis=-1) < 1).all()


@pytest.mark.parametrize("layer", range(DEPTH + 1))
def test_hiding_visual_tokens_is_removing_them(params, whole, layer):
    """Before the first layer the text alone is left, at its places after the image; after the last one nothing changes."""
    hidden = logits(params, run(params, whole, remove_at=jnp.full(3, layer)))
    text = without_image(run(params, whole, last=layer))
    assert text.stream.shape[1] == 3 and not text.visual.any()
    np.testing.assert_array_equal(text.positions[0], [0, 1 + PATCHES, 2 + PATCHES])
    np.testing.assert_allclose(hidden, logits(params, run(params, text, first=layer)), atol=1e-5)
    assert (np.abs(hidden - logits(params, run(params, whole))).max() > 1e-2) == (layer < DEPTH)


def test_layers_may_be_run_in_parts(params, whole):
    parts = run(params, run(params, whole, last=1), first=1)
    np.testing.assert_allclose(parts.stream, run(params, whole).stream, atol=1e-5)
    with pytest.raises(InvalidConfig, match="first, last"):
        decode(CONFIG, params, whole, first=2, last=1)


def test_kept_places_keep_their_positions(params, encoded, whole):
    """Pruned to some places is the whole image with all others hidden from the first layer on; closing the gaps is not."""
    places = jnp.array([[0, 3, 9], [1, 2, 15], [5, 6, 7]])
    kept = jnp.take_along_axis(encoded.visual, places[..., None], axis=1)
    pruned = prompt(CONFIG, params, kept, WORDS, places)
    rows = jnp.arange(3)[:, None]
    size = jnp.ones(whole.size.shape).at[:, 1 : 1 + PATCHES].set(0.0).at[rows, 1 + places].set(1.0)
    np.testing.assert_allclose(
        logits(params, run(params, pruned)),
        logits(params, run(params, whole._replace(size=size), sized=True)),
        atol=1e-5,
    )
    assert pruned.positions[1].tolist() == [0, 2, 3, 16, 17, 18]
    closed = prompt(CONFIG, params, kept, WORDS, places, gaps="close")
    assert closed.positions[1].tolist() == [0, 1, 2, 3, 4, 5]
    assert np.abs(logits(params, run(params, closed)) - logits(params, run(params, pruned))).max() > 1e-3
    with pytest.raises(InvalidConfig, match="places"):
        prompt(CONFIG, params, kept, WORDS)


def test_a_token_of_size_two_is_two_tokens(params, encoded):
    """At the same position, seen by the text that comes after; what it sees itself is the same either way."""
    places = jnp.zeros((3, 1), jnp.int32)
    one = prompt(CONFIG, params, encoded.visual[:, :1], WORDS, places, size=jnp.full((3, 1), 2.0))
    two = prompt(CONFIG, params, jnp.repeat(encoded.visual[:, :1], 2, axis=1), WORDS, jnp.zeros((3, 2), jnp.int32))
    # In the first layer only: from the second on the second copy has seen the first.
    first = run(params, one, last=1, sized=True).stream[:, -2:]
    np.testing.assert_allclose(first, run(params, two, last=1).stream[:, -2:], atol=1e-5)


def test_questions_that_do_not_see_each_other_get_the_answers_they_get_alone(params, encoded, whole):
    other = (WORDS + 4) % 9
    joint = prompt(CONFIG, params, encoded.visual, jnp.concatenate([WORDS, other], axis=1))
    asked = np.array([-1] * (1 + PATCHES) + [0, 0, 1, 1])
    apart = np.where((asked[None] < 0) | (asked[:, None] == asked[None]), 0, UNSEEN).astype(np.float32)
    alone = jnp.asarray(np.r_[: 1 + PATCHES, 1 + PATCHES : 3 + PATCHES, 1 + PATCHES : 3 + PATCHES], jnp.int32)
    joint = joint._replace(positions=jnp.tile(alone[None], (3, 1)))
    found = run(params, joint, apart=jnp.tile(jnp.asarray(apart)[None], (2, 1, 1)))
    np.testing.assert_allclose(found.stream[:, -4:-2], run(params, whole).stream[:, -2:], atol=1e-5)
    second = run(params, prompt(CONFIG, params, encoded.visual, other))
    np.testing.assert_allclose(logits(params, found), logits(params, second), atol=1e-5)
    hidden = {"remove_at": jnp.full(3, 1), "sized": True}
    found = run(params, joint, apart=jnp.tile(jnp.asarray(apart)[None], (2, 1, 1)), **hidden)
    np.testing.assert_allclose(found.stream[:, -4:-2], run(params, whole, **hidden).stream[:, -2:], atol=1e-5)


def test_attention_in_a_layer_is_what_moves_its_stream(params, whole):
    """Recomputed by hand: weights times values through the output matrix is what attention adds."""
    before = run(params, whole, last=1)
    weights = jax.jit(lambda p, s: vision_language.attention_in_layer(CONFIG, p, s, 1))(params, before)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
    assert np.abs(np.triu(np.asarray(weights), 1)).max() == 0  # causal: the image sees no question
    layer = jax.tree.map(lambda leaf: np.asarray(leaf[1], np.float64), params["layers"])
    x = np.asarray(before.stream, np.float64)

    def norm(x, gain):
        return gain * x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + 1e-6)

    values = (norm(x, layer["attention_norm"]) @ layer["attention"]["value"]).reshape(3, -1, 2, 16)
    mixed = np.einsum("bhqk,bkhd->bqhd", weights, values).reshape(x.shape)
    middle = x + mixed @ layer["attention"]["output"]
    hidden = norm(middle, layer["mlp_norm"]) @ layer["mlp_in"]
    hidden = np.asarray(jax.nn.gelu(jnp.asarray(hidden, jnp.float32)), np.float64)
    after = middle + hidden @ layer["mlp_out"]
    np.testing.assert_allclose(run(params, whole, last=2).stream, after, atol=1e-4)
