"""Every named method follows the schedule, leaves the CLS token alone, and is refused where it cannot be meant."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.merging.methods import (
    DRAWING,
    METHODS,
    NAMES,
    PARTITIONS,
    UNPADDED,
    WITHOUT_CLS,
    behind,
    reductions,
)
from lexinv.merging.bipartite import bipartite_matching, cosine_similarity
from lexinv.merging.plan import Plan, sources
from lexinv.nn.reduced import Seen
from lexinv.validation import InvalidConfig

BATCH, TOKENS, WIDTH, HEADS = 3, 12, 8, 2
SCHEDULE = (0, 4)


@pytest.fixture(scope="module")
def seen() -> Seen:
    keys = jax.random.split(jax.random.key(0), 3)
    stream = jax.random.normal(keys[0], (BATCH, TOKENS, WIDTH))
    queries, found = (jax.random.normal(key, (BATCH, TOKENS, HEADS, WIDTH // HEADS)) for key in keys[1:])
    return Seen(stream, queries, found, jnp.ones((BATCH, TOKENS)), None)


@cache
def compiled(name: str, protect: int, padded: bool):
    def reduce(seen: Seen, key: jax.Array):
        found = reductions(name, SCHEDULE, 3, protect, key, padded)
        assert [reduction is None for reduction in found] == [True, False, True]
        return found[1](seen)

    return jax.jit(reduce)


def last_layer(name, seen, protect=1, padded=False, seed=1):
    return compiled(name, protect, padded)(seen, jax.random.key(seed))


def test_every_name_has_a_method():
    assert set(METHODS) | {"dct"} == set(NAMES)
    assert set(PARTITIONS) | set(DRAWING) | set(WITHOUT_CLS) | set(UNPADDED) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_four_of_twelve_tokens_go_and_cls_stays(name, seen):
    found = last_layer(name, seen)
    assert found.stream.shape == (BATCH, TOKENS - 4, WIDTH)
    assert found.size.shape == (BATCH, TOKENS - 4)
    np.testing.assert_allclose(found.stream[:, 0], seen.stream[:, 0], rtol=1e-5)
    if name == "dct":
        assert found.kept is None
        return
    plan = found.kept
    assert (plan.assign[:, 0] == 0).all() and (plan.assign[:, 1:] != 0).all()
    if name in PARTITIONS:
        assert (plan.assign < TOKENS - 4).all()  # all have a target
    kept_mass = np.asarray(found.size).sum(1)
    if name in PARTITIONS and name not in ("tofu", "diffrate"):
        np.testing.assert_allclose(kept_mass, TOKENS, rtol=1e-6)
    elif name != "diffrate":  # whose merged tokens count for less than 1
        np.testing.assert_allclose(kept_mass, TOKENS - 4, rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if name in WITHOUT_CLS])
def test_methods_that_do_not_read_cls_need_none(name, seen):
    assert last_layer(name, seen, protect=0).stream.shape == (BATCH, TOKENS - 4, WIDTH)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in UNPADDED])
def test_padding_never_reaches_a_real_token(name, seen):
    size = seen.size.at[:, -3:].set(0.0)
    bias = jnp.where(size > 0, 0.0, -1e30)[:, None, None]
    padded = seen._replace(size=size, bias=bias)
    spoilt = padded._replace(stream=padded.stream.at[:, -3:].set(1e6), keys=padded.keys.at[:, -3:].set(7.0))
    one, other = (last_layer(name, given, padded=True) for given in (padded, spoilt))
    real = one.size > 0
    np.testing.assert_array_equal(real, other.size > 0)
    np.testing.assert_allclose(
        np.where(real[..., None], one.stream, 0), np.where(real[..., None], other.stream, 0), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", DRAWING)
def test_another_key_gives_another_plan(name, seen):
    one, other = (last_layer(name, seen, seed=seed).kept for seed in (1, 2))
    assert not np.array_equal(one.assign, other.assign)


def test_tome_is_bipartite_matching_of_keys(seen):
    plan = last_layer("tome", seen).kept
    for index in range(BATCH):
        similarity = cosine_similarity(jnp.mean(seen.keys[index], axis=1))
        np.testing.assert_array_equal(plan.assign[index], bipartite_matching(similarity, 4).assign)


def test_inverted_energy_merges_the_isolated_tokens():
    """Eight equal tokens and three others: by energy equal ones merge, inverted the others do."""
    angles = jnp.array([0.0] * 8 + [1.5, 3.0, 4.5])
    keys = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    keys = jnp.concatenate([keys[:1], keys])[None, :, None]
    seen = Seen(jnp.zeros((1, 12, 8)), keys, keys, jnp.ones((1, 12)), None)
    for name, same in (("pitome", True), ("pitome_inverted", False)):
        (found,) = reductions(name, (1,), 1)
        plan = jax.jit(found)(seen).kept
        groups = np.asarray(sources(jax.tree.map(lambda leaf: leaf[0], plan)))
        merged = np.flatnonzero(groups[groups.sum(1) > 1][0])
        assert (merged < 9).all() == same
        assert (merged >= 9).all() != same


def test_behind_leaves_the_first_tokens_alone():
    plan = Plan(jnp.array([1, 0, 2]), jnp.array([1.0, 0.5, 0.0]), jnp.array([1, 0]))  # the third goes nowhere
    whole = behind(plan, 2)
    np.testing.assert_array_equal(whole.assign, [0, 1, 3, 2, 4])
    np.testing.assert_array_equal(whole.weight, [1, 1, 1, 0.5, 0])
    np.testing.assert_array_equal(whole.anchor, [0, 1, 3, 2])


@pytest.mark.parametrize(
    "field, arguments",
    [
        ("method", {"name": "best"}),
        ("schedule", {"schedule": (1, 1, 1)}),
        ("key", {"name": "prune_random"}),
        ("method", {"name": "dct", "padded": True}),
        ("protect", {"name": "prune_cls", "protect": 0}),
    ],
)
def test_what_cannot_be_meant_is_refused(field, arguments):
    with pytest.raises(InvalidConfig, match=field):
        reductions(**({"name": "tome", "schedule": (1,), "depth": 2} | arguments))
