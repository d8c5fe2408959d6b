"""How a thumbnail commands crops: exact counts, regions and windows against loops, plans that are valid, bad input by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexinv.merging.global_guidance import crop_counts, crop_plan, crop_ratios, guided_scores, region_scores
from lexinv.merging.plan import merge
from lexinv.validation import InvalidConfig

CROPS, TOKENS = 4, 16
SEEDS = st.integers(0, 10**6)
counts_of = jax.jit(crop_counts, static_argnums=2)
plan_of = jax.jit(crop_plan, static_argnums=2)


@pytest.mark.parametrize("side, rows, columns", [(8, 2, 2), (7, 2, 3), (5, 3, 1)])
def test_regions_are_a_partition_of_the_thumbnail(side, rows, columns):
    """Each cell is in one region; what does not divide goes to the last row and column."""
    scores = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
    expected = np.zeros((rows, columns))
    for i in range(side):
        for j in range(side):
            expected[min(i // (side // rows), rows - 1), min(j // (side // columns), columns - 1)] += scores[i, j]
    np.testing.assert_allclose(region_scores(jnp.asarray(scores), rows, columns), expected.ravel(), atol=1e-5)


def test_ratios_average_to_the_base_follow_the_crops_and_even_out_with_the_temperature():
    scores = jnp.array([3.0, -1.0, 0.5, 2.0])
    ratios = crop_ratios(scores, 0.25, 2.0)
    sigma = np.exp(np.asarray(scores) / 2) / np.exp(np.asarray(scores) / 2).sum()
    np.testing.assert_allclose(ratios, 0.25 * (1 + sigma - 0.25), rtol=1e-5)
    assert float(ratios.mean()) == pytest.approx(0.25)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(crop_ratios(scores[order], 0.25, 2.0), ratios[order], rtol=1e-6)
    np.testing.assert_allclose(crop_ratios(scores, 0.25, 1e6), 0.25, rtol=1e-5)
    np.testing.assert_allclose(crop_ratios(jnp.zeros(4), 1.0, 2.0), 1.0)
    assert float(crop_ratios(jnp.array([50.0, 0.0]), 0.9, 1.0)[0]) == 1.0  # clipped


@given(seed=SEEDS, total=st.sampled_from([0, 7, 26]))
@settings(max_examples=60, deadline=None)
def test_counts_are_exact_monotone_and_never_above_what_is_there(seed, total):
    rng = np.random.default_rng(seed)
    sizes = np.append(TOKENS, rng.integers(0, TOKENS + 1, CROPS - 1)).astype(np.int32)
    sizes[1:] = np.maximum(sizes[1:], (total > TOKENS) * 4)  # as many as are to be kept
    ratios = (rng.random(CROPS) * (rng.random(CROPS) < 0.8)).astype(np.float32)
    counts = np.asarray(counts_of(jnp.asarray(ratios), jnp.asarray(sizes), total))
    assert counts.sum() == total and np.all((counts >= 0) & (counts <= sizes))
    alike = sizes[:, None] == sizes[None, :]
    more = ratios[:, None] > ratios[None, :] + 1e-5
    assert np.all((counts[:, None] >= counts[None, :]) | ~(alike & more))
    ideal = ratios * sizes * total / max((ratios * sizes).sum(), 1e-9)
    if np.all(ideal <= sizes) and ratios.min() > 1e-3:  # none is full: within one of its quota
        assert np.all(np.abs(counts - ideal) < 1 + 1e-3)


def test_what_a_full_crop_cannot_take_goes_to_the_others():
    ratios, sizes = jnp.array([1.0, 0.2, 0.1, 0.0]), jnp.full(4, 16, jnp.int32)
    assert counts_of(ratios, sizes, 28).tolist() == [16, 8, 4, 0]
    assert counts_of(ratios, sizes, 58).tolist() == [16, 16, 16, 10]


def test_guidance_stretches_the_thumbnail_over_the_crops_and_weighs_both():
    """Half-pixel bilinear stretching by hand: cell c of a row of 2 s lies at (c + 0.5) / 2 - 0.5 of the thumbnail's s."""
    rng = np.random.default_rng(1)
    thumbnail, local = rng.random((4, 4)), rng.random((4, TOKENS))
    places = np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3)
    rows = np.stack([np.interp(places, np.arange(4), column) for column in thumbnail.T], axis=1)
    whole = np.stack([np.interp(places, np.arange(4), row) for row in rows])
    windows = np.stack([whole[4 * r : 4 * r + 4, 4 * c : 4 * c + 4].ravel() for r in range(2) for c in range(2)])
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (windows, local)]
    both = [jnp.asarray(part, jnp.float32) for part in (thumbnail, local)]
    for share in (0.0, 0.3, 1.0):
        found = guided_scores(*both, (2, 2), share)
        np.testing.assert_allclose(found, share * unit[0] + (1 - share) * unit[1], atol=1e-6)
    constant = guided_scores(jnp.ones((4, 4)), both[1], (2, 2), 1.0)
    np.testing.assert_allclose(constant, TOKENS**-0.5, rtol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("side, grid, tokens", [(4, (2, 2), 16), (6, (2, 3), 25)])
def test_stretching_is_that_of_torch(side, grid, tokens):
    torch = pytest.importorskip("torch")
    thumbnail, (rows, columns), crop = np.random.default_rng(2).random((side, side)), grid, round(tokens**0.5)
    size = (rows * crop, columns * crop)
    whole = torch.nn.functional.interpolate(torch.tensor(thumbnail)[None, None], size, mode="bilinear")[0, 0].numpy()
    expected = whole.reshape(rows, crop, columns, crop).swapaxes(1, 2).reshape(rows * columns, tokens)
    found = guided_scores(jnp.asarray(thumbnail, jnp.float32), jnp.ones((rows * columns, tokens)), grid, 1.0)
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)


@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_plans_keep_the_best_of_every_crop_in_their_order(seed):
    """A valid plan as those of all methods, against a loop; eager and compiled alike."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, (CROPS, TOKENS)).astype(np.float32)  # with many that are equal
    counts = np.array([5, 0, 16, 3], np.int32)[rng.permutation(CROPS)]
    expected = []
    for crop, count in enumerate(counts):
        best = sorted(range(TOKENS), key=lambda token, crop=crop: (-scores[crop, token], token))[:count]
        expected += [crop * TOKENS + token for token in sorted(best)]
    plan = plan_of(jnp.asarray(scores), jnp.asarray(counts), 24)
    assert plan.anchor.tolist() == expected
    assign, weight = np.asarray(plan.assign), np.asarray(plan.weight)
    np.testing.assert_array_equal(assign[expected], np.arange(24))
    gone = np.setdiff1d(np.arange(CROPS * TOKENS), expected)
    assert np.all(assign[gone] == 24) and np.all(weight[gone] == 0) and np.all(weight[expected] == 1)
    x = jnp.asarray(rng.normal(size=(CROPS * TOKENS, 2)), jnp.float32)
    np.testing.assert_array_equal(merge(plan, x)[0], x[plan.anchor])


def test_a_ratio_of_one_keeps_everything():
    counts = counts_of(crop_ratios(jnp.array([1.0, 2.0, 3.0, 4.0]), 1.0, 1.0), jnp.full(4, TOKENS, jnp.int32), 64)
    plan = plan_of(jnp.ones((CROPS, TOKENS)), counts, 64)
    np.testing.assert_array_equal(plan.anchor, np.arange(64))


ZEROS, SQUARE, SIZES = jnp.zeros((CROPS, TOKENS)), jnp.zeros((4, 4)), jnp.full(4, TOKENS, jnp.int32)


@pytest.mark.parametrize(
    "field, call",
    [
        ("rows", lambda: region_scores(SQUARE, 5, 2)),
        ("columns", lambda: region_scores(SQUARE, 2, 0)),
        ("scores", lambda: region_scores(SQUARE.at[0, 0].set(jnp.nan), 2, 2)),
        ("ratio", lambda: crop_ratios(jnp.ones(4), 0.0, 1.0)),
        ("ratio", lambda: crop_ratios(jnp.ones(4), 1.5, 1.0)),
        ("temperature", lambda: crop_ratios(jnp.ones(4), 0.5, 0.0)),
        ("total", lambda: crop_counts(jnp.ones(4), SIZES, 65)),
        ("grid", lambda: guided_scores(SQUARE, ZEROS, (2, 3), 0.5)),
        ("local", lambda: guided_scores(SQUARE, jnp.zeros((4, 15)), (2, 2), 0.5)),
        ("share", lambda: guided_scores(SQUARE, ZEROS, (2, 2), 1.5)),
        ("counts", lambda: crop_plan(ZEROS, jnp.array([17, 0, 0, 0]), 17)),
        ("counts", lambda: crop_plan(ZEROS, jnp.array([3, 0, 0, 0]), 4)),
        ("scores", lambda: crop_plan(ZEROS.at[1, 1].set(jnp.nan), jnp.array([1, 1, 1, 1]), 4)),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(field, call):
    with pytest.raises(InvalidConfig, match=field):
        call()
