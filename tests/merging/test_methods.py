"""What names stand for, on cases made by hand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.merging.bipartite import bipartite_matching, cosine_similarity
from lexinv.merging.energy import energies, energy_matching
from lexinv.merging.methods import apply, behind, reductions, restarting
from lexinv.merging.plan import Plan, composed, merge, sources
from lexinv.merging.schedules import ratio_schedule, token_counts
from lexinv.merging.selections import SELECTIONS, keep
from lexinv.nn.reduced import Seen
from lexinv.nn.text_encoder import sentence_embeddings
from lexinv.nn.transformer import Block
from lexinv.nn.vision_transformer import LAYERS, VisionConfig, encode, initialize
from lexinv.validation import InvalidConfig

VISION = VisionConfig(size=16, patch=4, classes=3, layers=replace(LAYERS, depth=3, width=16, heads=2, mlp_width=32))


def seen_with(keys: jax.Array) -> Seen:
    batch, tokens = keys.shape[:2]
    return Seen(jnp.zeros((batch, tokens, 8)), keys, keys, jnp.ones((batch, tokens)), None)


def test_inverted_energy_merges_the_isolated_tokens():
    """Eight equal tokens and three others: by energy equal ones merge, inverted the others do."""
    angles = jnp.array([0.0] * 8 + [1.5, 3.0, 4.5])
    keys = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    keys = jnp.concatenate([keys[:1], keys])[None, :, None]
    for name, same in (("pitome_protect", True), ("pitome_inverted", False)):
        (found,) = reductions(name, (1,), 1)
        plan = jax.jit(found)(seen_with(keys)).kept
        groups = np.asarray(sources(jax.tree.map(lambda leaf: leaf[0], plan)))
        merged = np.flatnonzero(groups[groups.sum(1) > 1][0])
        assert (merged < 9).all() == same
        assert (merged >= 9).all() != same


@pytest.mark.parametrize("name", ["random_bipartite", "prune_random"])
def test_methods_that_draw_follow_the_key_the_layer_and_the_example(name):
    keys = jnp.repeat(jax.random.normal(jax.random.key(0), (1, 24, 1, 4)), 2, axis=0)

    def plans(seed):
        layers = reductions(name, (8, 8), 2, key=jax.random.key(seed))
        return [layer(seen_with(keys)).kept.assign for layer in layers]

    (one, second), (same, _), (other, _) = (jax.jit(plans, static_argnums=0)(seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other) and not np.array_equal(one, second) and not np.array_equal(*one)


def test_a_restarting_merge_forgets_sizes():
    size = jnp.array([1.0, 3.0, 1.0, 2.0, 0.0, 0.0])
    x = jax.random.normal(jax.random.key(1), (6, 4))

    @jax.jit
    def both(x, size):
        plan = bipartite_matching(cosine_similarity(x), 2, mask=size > 0)
        return *restarting(merge)(plan, x, size), merge(plan, x, (size > 0).astype(jnp.float32))[0]

    merged, sizes, alike = both(x, size)
    np.testing.assert_allclose(merged, alike)
    assert sorted(sizes.tolist()) == [0.0, *[1.0] * (len(sizes) - 1)]


def test_behind_leaves_the_first_tokens_alone():
    plan = Plan(jnp.array([1, 0, 2]), jnp.array([1.0, 0.5, 0.0]), jnp.array([1, 0]))  # the third goes nowhere
    whole = behind(plan, 2)
    np.testing.assert_array_equal(whole.assign, [0, 1, 3, 2, 4])
    np.testing.assert_array_equal(whole.weight, [1, 1, 1, 0.5, 0])
    np.testing.assert_array_equal(whole.anchor, [0, 1, 3, 2])


@pytest.mark.parametrize("name", SELECTIONS)
def test_selections_keep_as_many_tokens(name):
    """The highest scores of "top"; pivots are the highest; ToMe merges all, in several steps, and conserves their sum."""
    x, scores = jax.random.normal(jax.random.key(0), (16, 8)), jnp.arange(16.0)

    @jax.jit
    def select(x, scores):
        plan = keep(name, x, scores, 3, jax.random.key(1))
        return plan, *merge(plan, x)

    plan, y, size = select(x, scores)
    assert y.shape == (3, 8)
    if name == "tome":
        np.testing.assert_allclose((y * size[:, None]).sum(0), x.sum(0), atol=1e-4)
        assert float(size.sum()) == 16
        return
    np.testing.assert_allclose(y, x[plan.anchor])
    if name == "top":
        assert plan.anchor.tolist() == [13, 14, 15]
    if name in ("maxsum", "kcenter"):
        assert 15 in plan.anchor.tolist()


@pytest.fixture(scope="module")
def vision():
    """(parameters, images)."""
    params = initialize(VISION, jax.random.key(0))
    params["head"] = jax.random.normal(jax.random.key(1), params["head"].shape)
    return params, jax.random.normal(jax.random.key(2), (2, 16, 16, 3))


def test_an_applied_method_reduces_a_whole_vision_transformer(vision):
    params, images = vision
    found = apply(VISION, params, "tome", 0.75)(images)
    assert found.tokens.shape[1] == token_counts(17, ratio_schedule(17, 3, 0.75))[-1] == 8
    np.testing.assert_allclose(found.sizes.sum(axis=1), 17)
    plan = composed(found.handed_on)
    np.testing.assert_array_equal(jax.vmap(lambda p: sources(p).sum(axis=1))(plan), found.sizes)
    whole, all_kept = encode(VISION, params, images), apply(VISION, params, "tome", 1.0)(images)
    np.testing.assert_allclose(all_kept.logits, whole.logits, atol=1e-5)
    assert not np.allclose(found.logits, whole.logits, atol=1e-2)


def test_attention_treats_sizes_as_the_methods_authors_do(vision):
    """PiToMe's released code ignores them, ToMe's does not."""
    params, images = vision
    for name, ignored in (("pitome", True), ("tome", False)):
        own, other = (apply(VISION, params, name, 0.6, proportional=p)(images).logits for p in (None, ignored))
        assert np.array_equal(own, apply(VISION, params, name, 0.6, proportional=not ignored)(images).logits)
        assert not np.allclose(own, other, atol=1e-4)


@pytest.mark.parametrize("layer, mode", [(0, "ordered"), (2, "ordered"), (3, "protect"), (4, "protect")])
def test_released_pitome_orders_all_tokens_first_and_protects_later(layer, mode):
    keys = jax.random.normal(jax.random.key(5), (1, 12, 1, 4))
    similarity = cosine_similarity(keys[0, :, 0])
    energy = energies(similarity, 0.75 * (1 - layer / 5), protect=1)
    plan = jax.jit(reductions("pitome", (4,) * 5, 5)[layer])(seen_with(keys)).kept
    for tried in ("ordered", "protect"):
        expected = energy_matching(similarity, energy, 4, tried, 1)
        assert np.array_equal(plan.assign[0], expected.assign) == (tried == mode)


def test_an_applied_method_embeds_texts():
    config = replace(VISION.layers, residual="post", gelu="exact", max_length=12)
    keys = jax.random.split(jax.random.key(3), 3)
    x = jnp.zeros((1, 1, config.width))
    params = {
        "words": jax.random.normal(keys[0], (20, config.width)),
        "positions": jax.random.normal(keys[1], (12, config.width)),
        "types": jnp.zeros((1, config.width)),
        "norm": jnp.ones(config.width),
        "norm_bias": jnp.zeros(config.width),
        "layers": jax.vmap(lambda k: Block(config, False).init(k, x, None)["params"])(
            jax.random.split(keys[2], config.depth)
        ),
    }
    tokens = jnp.arange(24, dtype=jnp.int32).reshape(2, 12) % 20
    mask = jnp.arange(12)[None] < jnp.array([[12], [9]])
    whole = sentence_embeddings(config, params, tokens, mask)
    np.testing.assert_allclose(apply(config, params, "pitome_text", 1.0)(tokens, mask), whole, atol=1e-5)
    reduced, sized = (apply(config, params, "pitome_text", 0.7, proportional=p)(tokens, mask) for p in (None, True))
    assert reduced.shape == whole.shape and not np.allclose(reduced, whole, atol=1e-3)
    layers = reductions("pitome_text", ratio_schedule(12, 3, 0.7), 3, 1, None, True, restart=True)
    np.testing.assert_allclose(reduced, sentence_embeddings(config, params, tokens, mask, layers), atol=1e-5)
    assert not np.allclose(reduced, sized, atol=1e-3)


@pytest.mark.parametrize(
    "model, name, ratio, field",
    [
        (VISION, "tome", 0.0, "ratio"),
        (VISION, "nothing", 0.9, "method"),
        (VISION, "prune_random", 0.9, "key"),
        (VISION.layers, "dct", 0.9, "method"),
        (VISION.layers, "tome", 1.5, "ratio"),
    ],
)
def test_what_cannot_be_applied_is_refused_before_any_call(model, name, ratio, field):
    with pytest.raises(InvalidConfig, match=field):
        apply(model, {}, name, ratio)
