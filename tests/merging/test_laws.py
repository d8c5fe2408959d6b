"""What holds for every named method, from the table: valid plans, conservation, equivariance, padding, dtypes, gradients, bad input."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lexinv.merging.bipartite import bipartite_matching, cosine_similarity
from lexinv.merging.energy import energies, energy_matching
from lexinv.merging.global_guidance import crop_counts, crop_plan
from lexinv.merging.methods import METHODS, Layer, reductions
from lexinv.merging.pagerank import favour_cls, weighted_pagerank
from lexinv.merging.plan import Plan, compose, identity, merge, start_sizes, unmerge
from lexinv.merging.ranking import prune_by_score, rank_matching
from lexinv.merging.reduction import Example
from lexinv.merging.schedules import ratio_schedule, token_counts
from lexinv.nn.reduced import Seen
from lexinv.precision import double_precision

TOKENS, WIDTH, HEADS, PROTECT, REMOVED = 13, 6, 2, 1, 4
LEFT = TOKENS - REMOVED
KEY = jax.random.key(7)
LAYER = Layer(REMOVED, 1, 3, PROTECT, 0.5)
NAMES = [name for name, method in METHODS.items() if method.plan is not None and name != "tofu"]  # its plan is ToMe's
PADDED = [name for name in NAMES if METHODS[name].padding]
CONSERVING = [name for name in NAMES if METHODS[name].merges and name != "diffrate"]
"""A token that DiffRate merges counts for less than 1."""
IN_ORDER = ("tome", "random_bipartite", "mctf", "prune_even", "prune_random")
"""Methods that see in which order the tokens stand."""
SEEDS = st.integers(0, 10**6)
MASKS = st.lists(st.booleans(), min_size=TOKENS, max_size=TOKENS)
ALL_REAL = jnp.ones(TOKENS, bool)


@cache
def compiled(name: str, padded: bool):
    """plan(stream, attention, size, mask) of one example."""

    def run(x, attention, size, mask):
        seen = Example(x, x, attention, size, mask if padded else None, KEY if METHODS[name].draws else None)
        return METHODS[name].plan(LAYER, seen)

    return jax.jit(run)


def draw(seed: int):
    """Tokens, attention whose rows sum to 1, and sizes, none alike.

    Tokens point one way, more or less: Gaussian energies of tokens that are like no other differ by less than float32 can tell.
    """
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(HEADS, TOKENS, TOKENS))
    attention = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    parts = 2 + rng.normal(size=(TOKENS, WIDTH)), attention, 1 + rng.random(TOKENS)
    return tuple(np.asarray(part, np.float32) for part in parts)


def plan_of(name: str, seed: int, mask=ALL_REAL, padded: bool = False) -> Plan:
    return compiled(name, padded)(*draw(seed), mask)


merge_jitted, unmerge_jitted = jax.jit(merge), jax.jit(unmerge)


def check_valid(plan: Plan) -> None:
    """Nine targets, each with an anchor of its own; indices in range; nothing that goes nowhere has a weight."""
    assign, weight, anchor = map(np.asarray, plan)
    assert anchor.shape == (LEFT,) and len(set(anchor.tolist())) == LEFT
    assert np.all((assign >= 0) & (assign <= LEFT))
    np.testing.assert_array_equal(assign[anchor], np.arange(LEFT))
    assert np.all((weight >= 0) & (weight <= 1)) and np.all(weight[assign == LEFT] == 0)


def together(plan: Plan) -> np.ndarray:
    """Which pairs of tokens share a target, and on the diagonal the weights."""
    assign, weight, _ = map(np.asarray, plan)
    pairs = ((assign[:, None] == assign[None, :]) & (assign < LEFT)[:, None]).astype(float)
    np.fill_diagonal(pairs, weight)
    return pairs


@pytest.mark.parametrize("name", PADDED)
@given(seed=SEEDS, mask=MASKS)
@example(seed=0, mask=[False] * TOKENS)
@settings(max_examples=10, deadline=None)
def test_plans_are_valid_under_any_mask(name, seed, mask):
    """And CLS, which is protected, stays alone and first; a padded example loses the same share of its real tokens."""
    real = np.array(mask)
    plan = plan_of(name, seed, jnp.asarray(real), True)
    check_valid(plan)
    assert np.all(np.asarray(plan.weight)[~real] == 0)
    assert np.all(np.asarray(plan.assign)[real & (np.asarray(plan.weight) > 0)] < LEFT)
    anchors = set(np.asarray(plan.anchor).tolist())
    if name in ("diversity", "pivot"):  # keep real tokens while there are any
        assert sum(real[i] for i in anchors if i) == min(real[1:].sum(), LEFT - 1)
        return
    assert plan.anchor[0] == 0 and np.sum(np.asarray(plan.assign) == 0) == 1
    lost = sum(i not in anchors for i in range(1, TOKENS) if real[i])
    assert lost == REMOVED * real[1:].sum() // 12


@jax.jit
def crops_plan(scores, ratios):
    counts = crop_counts(ratios, jnp.full(3, 5), LEFT)
    return crop_plan(scores, counts, LEFT), counts


@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_plans_of_crops_are_valid_and_prune(seed):
    """As many tokens of each crop as it was given, themselves and in their order."""
    rng = np.random.default_rng(seed)
    plan, counts = crops_plan(
        jnp.asarray(rng.normal(size=(3, 5)), jnp.float32), jnp.asarray(rng.random(3), jnp.float32)
    )
    check_valid(plan)
    np.testing.assert_array_equal(np.bincount(plan.anchor // 5, minlength=3), counts)
    x = jnp.asarray(rng.normal(size=(15, WIDTH)), jnp.float32)
    kept, size = merge_jitted(plan, x)
    np.testing.assert_array_equal(kept, x[np.sort(plan.anchor)])
    np.testing.assert_array_equal(size, np.ones(LEFT))


@pytest.mark.parametrize("name", CONSERVING)
@given(seed=SEEDS, mask=MASKS)
@settings(max_examples=10, deadline=None)
def test_merging_conserves_and_is_a_projection(name, seed, mask):
    x, _, sizes = draw(seed)
    padded = METHODS[name].padding
    real = jnp.asarray(mask) if padded else ALL_REAL
    size = start_sizes(real) * sizes
    plan = plan_of(name, seed, real, padded)
    y, merged = merge_jitted(plan, x, size)
    np.testing.assert_allclose(merged.sum(), size.sum(), rtol=1e-6)
    np.testing.assert_allclose((merged[:, None] * y).sum(0), (size[:, None] * x).sum(0), atol=1e-5)
    again, once = merge_jitted(plan, unmerge_jitted(plan, y), size)
    np.testing.assert_allclose(again[merged > 0], y[merged > 0], atol=1e-5)
    np.testing.assert_allclose(once, merged)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in IN_ORDER])
@given(seed=SEEDS, mask=MASKS, shuffle=SEEDS)
@settings(max_examples=10, deadline=None)
def test_order_of_tokens_does_not_matter(name, seed, mask, shuffle):
    order = np.concatenate([[0], 1 + np.random.default_rng(shuffle).permutation(TOKENS - 1)])
    padded = METHODS[name].padding
    real = np.array(mask) if padded else np.ones(TOKENS, bool)
    x, attention, size = draw(seed)
    plan = together(plan_of(name, seed, jnp.asarray(real), padded))
    shuffled = x[order], attention[:, order][:, :, order], size[order], jnp.asarray(real[order])
    permuted = together(compiled(name, padded)(*shuffled))
    both = np.outer(real, real)
    np.testing.assert_allclose(permuted * both[np.ix_(order, order)], (plan * both)[np.ix_(order, order)], atol=1e-6)


@pytest.mark.parametrize("name", PADDED)
def test_a_mask_of_all_real_tokens_changes_nothing(name):
    for seed in range(3):
        plans = zip(plan_of(name, seed, ALL_REAL, True), plan_of(name, seed), strict=True)
        for with_mask, without in plans:
            np.testing.assert_array_equal(with_mask, without)


@pytest.mark.parametrize("name", PADDED)
def test_what_padding_holds_does_not_matter(name):
    """Also where it is not finite, and wherever it stands. Attention has hidden padding, as a layer's has."""
    x, attention, sizes = draw(3)
    real = np.random.default_rng(3).random(TOKENS) < 0.7
    hidden = np.where(real[None, None, :], attention, 0)
    results = []
    for garbage in (0.0, 100.0, np.nan, np.inf):
        tokens = np.where(real[:, None], x, np.float32(garbage))
        plan = compiled(name, True)(tokens, hidden, sizes, jnp.asarray(real))
        results.append(merge_jitted(plan, tokens, start_sizes(jnp.asarray(real))))
    for other in results[1:]:
        for found, expected in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_identical_tokens_and_tokens_that_are_not_numbers(name):
    """Where all similarities tie, merging changes nothing. One NaN spoils its group alone: inside jit nothing is refused."""
    x, attention, size = draw(0)
    run = compiled(name, False)
    plan = run(np.ones_like(x), attention, size, ALL_REAL)
    check_valid(plan)
    np.testing.assert_allclose(merge_jitted(plan, np.ones_like(x))[0], 1.0, rtol=1e-6)
    for bad in (1, 2, 3):
        spoilt = x.copy()
        spoilt[bad] = np.nan
        plan = run(spoilt, attention, size, ALL_REAL)
        check_valid(plan)
        y, own = np.asarray(merge_jitted(plan, spoilt)[0]), np.asarray(plan.assign)[bad]
        assert np.all(np.isfinite(np.delete(y, own, axis=0) if own < LEFT else y))
    check_valid(run(np.full_like(x, np.nan), attention, size, ALL_REAL))


BATCH = 2


@cache
def layer_in_bfloat16(name: str):
    """(gradient with respect to the stream, what is left) of one layer."""

    def run(stream, queries, keys):
        seen = Seen(stream, queries, keys, jnp.ones((BATCH, TOKENS)), None)
        found = reductions(name, (REMOVED,), 2, PROTECT, KEY)
        assert found[1] is None and found[0] is not None
        left = found[0](seen)
        return jnp.sum(left.stream.astype(jnp.float32) ** 2), left

    return jax.jit(jax.grad(run, has_aux=True))


@pytest.mark.parametrize("name", METHODS)
def test_a_layer_in_bfloat16(name):
    """Four of thirteen tokens go and CLS stays; the stream keeps its dtype, sizes are float32; gradients are finite, with ties too."""
    rng = np.random.default_rng(5)
    heads = [jnp.asarray(rng.normal(size=(BATCH, TOKENS, HEADS, 4)), jnp.bfloat16) for _ in range(2)]
    stream = jnp.asarray(rng.normal(size=(BATCH, TOKENS, WIDTH)), jnp.bfloat16)
    for tokens, keys in ((stream, heads[1]), (jnp.ones_like(stream), jnp.ones_like(heads[1]))):
        gradient, left = layer_in_bfloat16(name)(tokens, heads[0], keys)
        assert left.stream.shape == (BATCH, LEFT, WIDTH) and left.stream.dtype == jnp.bfloat16
        assert left.size.shape == (BATCH, LEFT) and left.size.dtype == jnp.float32
        np.testing.assert_array_equal(left.stream[:, 0], tokens[:, 0])
        assert gradient.dtype == jnp.bfloat16
        assert np.all(np.isfinite(gradient.astype(jnp.float32))) and np.any(gradient)
    mass = TOKENS if name in CONSERVING else LEFT
    if name != "diffrate":  # whose merged tokens count for less than 1
        np.testing.assert_allclose(left.size.sum(1), mass, rtol=1e-6)


@pytest.mark.parametrize("padded", [False, True])
def test_no_type_depends_on_the_default_precision(padded):
    """Traced only: sizes that grew to float64 would fail in a loop over layers."""
    expected = ("int32", "float32", "int32", "float32", "float32")
    with double_precision():
        for name in PADDED if padded else NAMES:

            def run(x, attention, size, name=name):
                plan = METHODS[name].plan(LAYER, Example(x, x, attention, size, ALL_REAL if padded else None, KEY))
                return compose(identity(LEFT), plan), merge(plan, x)

            found = jax.eval_shape(run, *draw(0))
            assert tuple(str(leaf.dtype) for leaf in jax.tree.leaves(found)) == expected, name
        votes = jax.eval_shape(lambda a: weighted_pagerank(a, 3, favour_cls(TOKENS)), jnp.ones((2, TOKENS, TOKENS)))
    assert votes.dtype == jnp.float32


SHAPES = [(2, 0, 0.5), (5, 2, 0.9), (8, 1, 0.55)]
"""Tokens, protected ones, and the ratio that each layer keeps."""
ITERATED = {
    "alternate": lambda c, count, protect, m: bipartite_matching(c, count, 2, protect, m),
    "protect": lambda c, count, protect, m: energy_matching(c, energies(c, 0.3, mask=m), count, "protect", protect, m),
    "rank": lambda c, count, protect, m: rank_matching(c, jnp.sum(c, axis=1), 0, count, protect, m),
    "prune": lambda c, count, protect, m: prune_by_score(jnp.sum(c, axis=1), count, protect, m),
}


@cache
def iterated(name: str, tokens: int, protect: int, ratio: float):
    """(targets, sizes, their places, the composed plan) of a method in three layers, and how many targets there must be."""
    schedule = ratio_schedule(tokens, 3, ratio, protect)

    def run(x, mask):
        plan, size, y, places = identity(tokens), start_sizes(mask), x, jnp.arange(tokens)
        for count in schedule:
            step = ITERATED[name](cosine_similarity(y), count, protect, size > 0)
            plan, (y, size), places = compose(step, plan), merge(step, y, size), places[step.anchor]
        return y, size, places, plan

    return jax.jit(run), token_counts(tokens, schedule)[-1]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ITERATED)
@given(seed=SEEDS, data=st.data())
@settings(max_examples=12, deadline=None)
def test_schedules_conserve_and_compose(name, shape, seed, data):
    """Over shapes, masks and schedules: as many targets as planned; protected tokens alone in front; one merge by the composed plan is
    all merges one after another, and conserves sizes and sums where nothing is weighed by similarity or lost."""
    tokens, protect, _ = shape
    mask = jnp.asarray(data.draw(st.lists(st.booleans(), min_size=tokens, max_size=tokens)))
    x = jax.random.normal(jax.random.key(seed), (tokens, WIDTH))
    run, left = iterated(name, *shape)
    y, size, places, plan = run(x, mask)
    assert y.shape == (left, WIDTH)
    np.testing.assert_array_equal(plan.anchor, places)
    np.testing.assert_array_equal(plan.anchor[:protect], np.arange(protect))
    for front in range(protect):
        assert np.sum(np.asarray(plan.assign) == front) == 1
    at_once, sizes = merge_jitted(plan, x, start_sizes(mask))
    np.testing.assert_allclose(sizes, size, atol=1e-5)
    np.testing.assert_allclose(at_once, y, atol=1e-5)
    if name not in ("rank", "prune"):
        np.testing.assert_allclose(size.sum(), mask.sum(), rtol=1e-6)
        np.testing.assert_allclose((size[:, None] * y).sum(0), jnp.where(mask[:, None], x, 0).sum(0), atol=1e-5)
