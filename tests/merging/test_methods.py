"""What holds for every method: valid plans, conservation, equivariance, padding, bad input."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexinv.merging.bipartite import bipartite_matching, complete_graph_matching, cosine_similarity, grid_matching
from lexinv.merging.density_peaks import density_peaks
from lexinv.merging.diversity import greedy_dispersion, isolated_token, keep_tokens
from lexinv.merging.energy import energies, energy_matching
from lexinv.merging.fourier import dct_reduce
from lexinv.merging.pagerank import favour_cls, similarity_prune, weighted_pagerank
from lexinv.merging.plan import Plan, compose, identity, merge, start_sizes, unmerge
from lexinv.merging.quantisation import largest_norms, quantise
from lexinv.merging.ranking import cls_attention, prune_at_random, prune_by_score, rank_matching, received_attention
from lexinv.merging.rates import candidates
from lexinv.merging.schedules import clip_schedule, linear_schedule, ratio_schedule, token_counts
from lexinv.merging.strategies import package, pool, unshuffle
from lexinv.nn.attention import size_bias
from lexinv.precision import double_precision
from lexinv.validation import InvalidConfig

TOKENS, WIDTH, PROTECT = 13, 5, 1
KEY = jax.random.key(7)


def _energy(mode, similarity, scores, mask):
    found = energies(similarity, 0.3, kind="gauss" if mode == "halves" else "elu", mask=mask)
    return energy_matching(similarity, found, 4, mode, PROTECT, mask)


def _diversity(similarity, scores, mask):
    distance = 1 - similarity
    return keep_tokens(greedy_dispersion(distance, 9, isolated_token(distance, mask), "maxmin", mask), distance, mask)


MERGING = {
    "alternate": lambda c, s, m: bipartite_matching(c, 4, 2, PROTECT, m),
    "random thirds": lambda c, s, m: bipartite_matching(c, 4, 3, PROTECT, m, KEY),
    "protect": partial(_energy, "protect"),
    "ordered": partial(_energy, "ordered"),
    "halves": partial(_energy, "halves"),
}
MERGING_UNPADDED = {
    "grid": lambda c, s, m: grid_matching(c, 4, 3, 4, (2, 2), PROTECT, KEY),
    "complete": lambda c, s, m: complete_graph_matching(c, s, 4, PROTECT),
}
PRUNING = {
    "score": lambda c, s, m: prune_by_score(s, 4, PROTECT, m),
    "similarity": lambda c, s, m: similarity_prune(c, s, 4, PROTECT, m),
    "diversity": _diversity,
}
MIXED = {"rank": lambda c, s, m: rank_matching(c, s, 2, 2, PROTECT, m)}

PADDED = {name: jax.jit(method) for name, method in (MERGING | PRUNING | MIXED).items()}
UNPADDED = {
    name: jax.jit(lambda c, s, method=method: method(c, s, None))
    for name, method in (MERGING | MERGING_UNPADDED | PRUNING | MIXED).items()
}


def draw(seed: int):
    """Tokens [TOKENS, WIDTH] and scores without ties."""
    key, other = jax.random.split(jax.random.key(seed))
    return jax.random.normal(key, (TOKENS, WIDTH)), jax.random.uniform(other, (TOKENS,))


ALL_REAL = jnp.ones(TOKENS, bool)

cosines = jax.jit(cosine_similarity)
merge_jitted, unmerge_jitted = jax.jit(merge), jax.jit(unmerge)
SEEDS = st.integers(0, 10**6)
MASKS = st.lists(st.booleans(), min_size=TOKENS, max_size=TOKENS)
EQUIVARIANT = ("protect", "ordered", "halves", "rank", "score", "similarity", "diversity")


def check_valid(plan: Plan) -> None:
    """Nine targets, each with an anchor of its own; indices in range; nothing that goes nowhere has a weight."""
    assign, weight, anchor = map(np.asarray, plan)
    assert anchor.shape == (9,) and len(set(anchor.tolist())) == 9
    assert np.all((assign >= 0) & (assign <= 9))
    np.testing.assert_array_equal(assign[anchor], np.arange(9))
    assert np.all((weight >= 0) & (weight <= 1)) and np.all(weight[assign == 9] == 0)


def together(plan: Plan) -> np.ndarray:
    """Which pairs of tokens share a target, and on the diagonal the weights."""
    assign, weight, _ = map(np.asarray, plan)
    pairs = ((assign[:, None] == assign[None, :]) & (assign < 9)[:, None]).astype(float)
    np.fill_diagonal(pairs, weight)
    return pairs


@pytest.mark.parametrize("name", PADDED)
@given(seed=SEEDS, mask=MASKS)
@settings(max_examples=15, deadline=None)
def test_plans_are_valid_under_any_mask(name, seed, mask):
    x, scores = draw(seed)
    real = np.array(mask)
    plan = PADDED[name](cosines(x), scores, jnp.asarray(real))
    check_valid(plan)
    assert np.all(np.asarray(plan.weight)[~real] == 0)
    assert np.all(np.asarray(plan.assign)[real & (np.asarray(plan.weight) > 0)] < 9)
    if name != "diversity":
        assert np.asarray(plan.anchor)[0] == 0
        assert np.sum(np.asarray(plan.assign) == 0) == 1
        # A padded example loses the same share of its real tokens.
        anchors = set(np.asarray(plan.anchor).tolist())
        lost = sum(i not in anchors for i in range(1, TOKENS) if real[i])
        assert lost == 4 * real[1:].sum() // 12
    else:
        assert sum(real[i] for i in np.asarray(plan.anchor)) == min(real.sum(), 9)


@pytest.mark.parametrize("name", [*MERGING, *MERGING_UNPADDED])
@given(seed=SEEDS, mask=MASKS)
@settings(max_examples=15, deadline=None)
def test_merging_conserves_and_is_a_projection(name, seed, mask):
    x, scores = draw(seed)
    if name in MERGING:
        real = jnp.asarray(mask)
        plan = PADDED[name](cosines(x), scores, real)
        size = start_sizes(real) * (1 + scores)
    else:
        plan, size = UNPADDED[name](cosines(x), scores), 1 + scores
    y, merged = merge_jitted(plan, x, size)
    np.testing.assert_allclose(merged.sum(), size.sum(), rtol=1e-6)
    np.testing.assert_allclose((merged[:, None] * y).sum(0), (size[:, None] * x).sum(0), atol=1e-5)
    filled = merged > 0
    again, sizes = merge_jitted(plan, unmerge_jitted(plan, y), size)
    np.testing.assert_allclose(again[filled], y[filled], atol=1e-5)
    np.testing.assert_allclose(sizes, merged)


@pytest.mark.parametrize("name", EQUIVARIANT)
@given(seed=SEEDS, mask=MASKS, shuffle=SEEDS)
@settings(max_examples=15, deadline=None)
def test_order_of_tokens_does_not_matter(name, seed, mask, shuffle):
    x, scores = draw(seed)
    order = np.concatenate([[0], 1 + np.random.default_rng(shuffle).permutation(TOKENS - 1)])
    real = np.array(mask)
    plan = together(PADDED[name](cosines(x), scores, jnp.asarray(real)))
    permuted = together(PADDED[name](cosines(x[order]), scores[order], jnp.asarray(real[order])))
    both = np.outer(real, real)
    np.testing.assert_allclose(permuted * both[np.ix_(order, order)], (plan * both)[np.ix_(order, order)], atol=1e-6)


@given(seed=SEEDS, shuffle=SEEDS)
@settings(max_examples=15, deadline=None)
def test_bipartite_matching_does_not_see_the_order_within_its_sets(seed, shuffle):
    x, scores = draw(seed)
    rng, order = np.random.default_rng(shuffle), np.arange(TOKENS)
    for start in (1, 2):
        order[start::2] = rng.permutation(order[start::2])
    plan, permuted = (together(UNPADDED["alternate"](cosines(t), scores)) for t in (x, x[order]))
    np.testing.assert_array_equal(permuted, plan[np.ix_(order, order)])


@pytest.mark.parametrize("name", PADDED)
def test_a_mask_of_all_real_tokens_changes_nothing(name):
    for seed in range(5):
        x, scores = draw(seed)
        for with_mask, without in zip(
            PADDED[name](cosines(x), scores, ALL_REAL), UNPADDED[name](cosines(x), scores), strict=True
        ):
            np.testing.assert_array_equal(with_mask, without)


@pytest.mark.parametrize("garbage", [100.0, jnp.nan, jnp.inf])
@pytest.mark.parametrize("name", PADDED)
def test_what_padding_holds_does_not_matter(name, garbage):
    """Also where it is not finite, and wherever it stands."""
    for seed in range(3):
        x, scores = draw(seed)
        real = jnp.asarray(np.random.default_rng(seed).random(TOKENS) < 0.7)
        results = []
        for tokens in (x, jnp.where(real[:, None], x, garbage)):
            plan = PADDED[name](cosines(tokens), scores, real)
            results.append(merge_jitted(plan, tokens, start_sizes(real)))
        for found, expected in zip(results[1], results[0], strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", PADDED)
def test_masks_that_hide_everything(name):
    x, scores = draw(0)
    nothing = jnp.zeros(TOKENS, bool)
    plan = PADDED[name](cosines(x), scores, nothing)
    check_valid(plan)
    y, size = merge_jitted(plan, x, start_sizes(nothing))
    assert not np.any(y) and not np.any(size)
    np.testing.assert_allclose(jax.nn.softmax(size_bias(size)), 1 / 9, rtol=1e-6)


@pytest.mark.parametrize("name", UNPADDED)
def test_identical_tokens(name):
    """All similarities tie: the plan is valid, and merging changes nothing."""
    x, scores = jnp.ones((TOKENS, WIDTH)), draw(0)[1]
    plan = UNPADDED[name](cosines(x), scores)
    check_valid(plan)
    np.testing.assert_allclose(merge_jitted(plan, x)[0], 1.0, rtol=1e-6)


@pytest.mark.parametrize("name", UNPADDED)
def test_a_token_that_is_nan_spoils_only_its_group(name):
    """Documented: inside jit nothing is refused."""
    for bad in (1, 2, 3):
        x, scores = draw(bad)
        x = x.at[bad].set(jnp.nan)
        plan = UNPADDED[name](cosines(x), scores)
        check_valid(plan)
        y = np.asarray(merge_jitted(plan, x)[0])
        own = np.asarray(plan.assign)[bad]
        assert np.all(np.isfinite(np.delete(y, own, axis=0) if own < 9 else y))


@pytest.mark.parametrize("name", ["alternate", "rank", "diversity"])
def test_batches_are_examples_one_by_one(name):
    x, scores = (jnp.stack(parts) for parts in zip(*map(draw, range(3)), strict=True))
    similarity = jax.vmap(cosine_similarity)(x)
    batched = jax.jit(jax.vmap(UNPADDED[name]))(similarity, scores)
    for row in range(3):
        for found, expected in zip(batched, UNPADDED[name](similarity[row], scores[row]), strict=True):
            np.testing.assert_array_equal(found[row], expected)


@pytest.mark.parametrize("name", UNPADDED)
def test_jit_is_eager(name):
    x, scores = draw(4)
    similarity = cosines(x)
    eager = (MERGING | MERGING_UNPADDED | PRUNING | MIXED)[name](similarity, scores, None)
    for found, expected in zip(UNPADDED[name](similarity, scores), eager, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


SHAPES = [(2, 0, 0.5), (5, 2, 0.9), (8, 1, 0.55)]
"""Tokens, protected ones, and the ratio that each layer keeps."""
ITERATED = {
    "alternate": lambda c, count, protect, m: bipartite_matching(c, count, 2, protect, m),
    "protect": lambda c, count, protect, m: energy_matching(c, energies(c, 0.3, mask=m), count, "protect", protect, m),
    "rank": lambda c, count, protect, m: rank_matching(c, jnp.sum(c, axis=1), 0, count, protect, m),
}


@cache
def iterated(name: str, tokens: int, protect: int, ratio: float):
    """(targets, sizes, the composed plan) of a method in three layers, and how many targets there must be."""
    schedule = ratio_schedule(tokens, 3, ratio, protect)

    def run(x, mask):
        plan, size, y = identity(tokens), start_sizes(mask), x
        for count in schedule:
            step = ITERATED[name](cosine_similarity(y), count, protect, size > 0)
            plan, (y, size) = compose(step, plan), merge(step, y, size)
        return y, size, plan

    return jax.jit(run), token_counts(tokens, schedule)[-1]


@pytest.mark.parametrize("name", ITERATED)
@given(seed=SEEDS, shape=st.sampled_from(SHAPES), data=st.data())
@settings(max_examples=12, deadline=None)
def test_schedules_conserve_and_compose(name, seed, shape, data):
    """Over shapes, masks and schedules: as many targets as planned; protected tokens alone in front; one merge by the composed plan is
    all merges one after another, and conserves sizes and sums where nothing is weighed by similarity."""
    tokens, protect, _ = shape
    mask = jnp.asarray(data.draw(st.lists(st.booleans(), min_size=tokens, max_size=tokens)))
    x = jax.random.normal(jax.random.key(seed), (tokens, WIDTH))
    run, left = iterated(name, *shape)
    y, size, plan = run(x, mask)
    assert y.shape == (left, WIDTH)
    np.testing.assert_array_equal(plan.anchor[:protect], np.arange(protect))
    for front in range(protect):
        assert np.sum(np.asarray(plan.assign) == front) == 1
    at_once, sizes = merge_jitted(plan, x, start_sizes(mask))
    np.testing.assert_allclose(sizes, size, atol=1e-5)
    np.testing.assert_allclose(at_once, y, atol=1e-5)
    if name != "rank":
        np.testing.assert_allclose(size.sum(), mask.sum(), rtol=1e-6)
        np.testing.assert_allclose((size[:, None] * y).sum(0), jnp.where(mask[:, None], x, 0).sum(0), atol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
def test_no_type_depends_on_the_default_precision(padded):
    """Traced only: sizes that grew to float64 would fail in a loop over layers."""
    x, scores = draw(0)
    mask = ALL_REAL if padded else None
    methods = MERGING | PRUNING | MIXED | ({} if padded else MERGING_UNPADDED)
    expected = ("int32", "float32", "int32", "float32", "float32")
    with double_precision():
        for name, method in methods.items():

            def run(x, scores, method=method):
                plan = compose(identity(TOKENS - 4), method(cosine_similarity(x), scores, mask))
                return plan, merge(plan, x)

            found = jax.eval_shape(run, x, scores)
            assert tuple(str(leaf.dtype) for leaf in jax.tree.leaves(found)) == expected, name
        votes = jax.eval_shape(lambda a: weighted_pagerank(a, 3, favour_cls(TOKENS)), jnp.ones((2, TOKENS, TOKENS)))
    assert votes.dtype == jnp.float32


def test_nothing_is_compiled_twice():
    for seed in range(3):
        x, scores = draw(seed)
        for name, method in UNPADDED.items():
            before = method._cache_size()
            method(cosines(x), scores)
            assert seed == 0 or method._cache_size() == before, name


@pytest.mark.parametrize("name", UNPADDED)
def test_tokens_that_are_all_nan_leave_a_valid_plan(name):
    _, scores = draw(0)
    check_valid(UNPADDED[name](cosines(jnp.full((TOKENS, WIDTH), jnp.nan)), scores))
    check_valid(UNPADDED[name](cosines(draw(0)[0]), jnp.full(TOKENS, jnp.nan)))


CLIPPED = {
    "alternate": lambda c, r, p: bipartite_matching(c, r, 2, p),
    "random": lambda c, r, p: bipartite_matching(c, r, 2, p, key=KEY),
    "protect": lambda c, r, p: energy_matching(c, c[0], r, "protect", p),
    "ordered": lambda c, r, p: energy_matching(c, c[0], r, "ordered", p),
    "halves": lambda c, r, p: energy_matching(c, c[0], r, "halves", p),
    "similarity": lambda c, r, p: similarity_prune(c, c[0], r, p),
}


@pytest.mark.parametrize("tokens, protect, left", [(1, 0, 1), (1, 1, 1), (2, 0, 1), (2, 1, 2), (5, 1, 3), (4, 4, 4)])
@pytest.mark.parametrize("name", CLIPPED)
def test_more_than_can_be_merged_is_clipped_at_half(name, tokens, protect, left):
    """T = 1 and all protected included: those come out as they went in."""
    similarity = jnp.ones((tokens, tokens))
    plan = jax.eval_shape(lambda c: CLIPPED[name](c, 100, protect), similarity)
    assert plan.anchor.shape == (left,)
    if left == tokens:
        for found, expected in zip(CLIPPED[name](similarity, 100, protect), identity(tokens), strict=True):
            np.testing.assert_array_equal(found, expected)
    with pytest.raises(InvalidConfig, match="num_"):
        CLIPPED[name](similarity, -1, protect)
    with pytest.raises(InvalidConfig, match="protect"):
        CLIPPED[name](similarity, 0, tokens + 1)


REFUSING = {
    "score": lambda c, r, p: prune_by_score(c[0], r, p),
    "random": lambda c, r, p: prune_at_random(KEY, c.shape[0], r, p),
    "rank": lambda c, r, p: rank_matching(c, c[0], 0, r, p),
}


@pytest.mark.parametrize("tokens, protect", [(1, 1), (4, 4), (1, 0)])
@pytest.mark.parametrize("name", REFUSING)
def test_where_nothing_can_go_methods_that_cannot_clip_refuse(name, tokens, protect):
    """T = 1 and all protected: none to remove is possible, one more than there are is not."""
    similarity, run = jnp.ones((tokens, tokens)), REFUSING[name]
    for found, expected in zip(run(similarity, 0, protect), identity(tokens), strict=True):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(InvalidConfig, match="num_"):
        run(similarity, tokens - protect + 1, protect)


@pytest.mark.parametrize("tokens, protect, left", [(1, 0, 1), (1, 1, 1), (4, 4, 4), (5, 1, 2)])
def test_a_complete_graph_keeps_one_unprotected_token(tokens, protect, left):
    plan = complete_graph_matching(jnp.ones((tokens, tokens)), jnp.arange(tokens, dtype=jnp.float32), 100, protect)
    assert plan.anchor.shape == (left,) and sorted(set(plan.assign.tolist())) == list(range(left))


def test_the_smallest_grids_and_subsets():
    one = jnp.ones((1, 1))
    np.testing.assert_array_equal(grid_matching(one, 3, 1, 1, (1, 1)).assign, [0])
    with pytest.raises(InvalidConfig, match="cell"):
        grid_matching(one, 1, 1, 1, (2, 2))
    with pytest.raises(InvalidConfig, match="grid"):
        grid_matching(jnp.ones((3, 3)), 1, 1, 1, (1, 1), protect=3)
    for objective in ("maxmin", "maxsum"):
        assert greedy_dispersion(1 - one, 1, isolated_token(1 - one), objective).tolist() == [0]


def test_more_than_can_be_pruned_is_refused():
    similarity, scores = cosine_similarity(draw(0)[0]), draw(0)[1]
    assert prune_by_score(scores, 12).anchor.tolist() == [0]
    with pytest.raises(InvalidConfig, match="num_prune = 13"):
        prune_by_score(scores, 13)
    with pytest.raises(InvalidConfig, match="num_prune = -1"):
        prune_at_random(KEY, TOKENS, -1)
    with pytest.raises(InvalidConfig, match="num_merge = 6.*from 0 to 5"):
        rank_matching(similarity, scores, 6, 6)
    for num_keep in (0, 14):
        with pytest.raises(InvalidConfig, match="num_keep"):
            greedy_dispersion(1 - similarity, num_keep, jnp.int32(0))


COUNTED = {
    "every": lambda c, r: bipartite_matching(c, 2, every=r),
    "protect": lambda c, r: bipartite_matching(c, 2, protect=r),
    "num_merge": lambda c, r: bipartite_matching(c, r, key=KEY),
    "num_merge by energy": lambda c, r: energy_matching(c, c[0], r),
    "num_merge of a grid": lambda c, r: grid_matching(c, r, 3, 4, protect=1),
    "num_merge of a graph": lambda c, r: complete_graph_matching(c, c[0], r),
    "num_merge by rank": lambda c, r: rank_matching(c, c[0], 2, r),
    "num_prune": lambda c, r: prune_by_score(c[0], r),
    "num_prune by rank": lambda c, r: rank_matching(c, c[0], r, 2),
    "num_prune by similarity": lambda c, r: similarity_prune(c, c[0], r),
    "num_keep": lambda c, r: greedy_dispersion(1 - c, r, jnp.int32(0)),
    "num_keep of a transform": lambda c, r: dct_reduce(c, r),
    "num_clusters": lambda c, r: density_peaks(1 - c, r),
    "neighbours": lambda c, r: density_peaks(1 - c, 2, r),
    "budget": lambda c, r: package(c[0], r),
    "iterations": lambda c, r: weighted_pagerank(c[None], r),
    "factor": lambda c, r: unshuffle(c, r),
    "width": lambda c, r: pool(TOKENS, r),
    "counts": lambda c, r: clip_schedule([3, r], TOKENS),
    "r": lambda c, r: linear_schedule(TOKENS, 4, r),
    "depth": lambda c, r: ratio_schedule(TOKENS, r, 0.9),
    "schedule": lambda c, r: token_counts(TOKENS, (3, r)),
    "granularity": lambda c, r: candidates(TOKENS, r),
    "bits": lambda c, r: quantise(c, r),
    "count": lambda c, r: largest_norms(c[0], r),
}
"""Each takes a count, by the field that the message names."""


@pytest.mark.parametrize("name", COUNTED)
def test_fractional_and_negative_counts_are_refused_by_name(name, monkeypatch):
    """As in a user's own code, where nobody checks annotations."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for bad, allowed in ((2.5, "a whole number"), (-1, "")):
        with pytest.raises(InvalidConfig, match=rf"^{name.split()[0]} = {bad} is not possible: {allowed}"):
            COUNTED[name](jnp.ones((TOKENS, TOKENS)), bad)


ONE_EXAMPLE = {
    "similarity": lambda x: bipartite_matching(x, 2),
    "similarity by key": lambda x: bipartite_matching(x, 2, key=KEY),
    "similarity on a grid": lambda x: grid_matching(x, 1, 1, 2),
    "similarity in a graph": lambda x: complete_graph_matching(x, x[0, 0], 1),
    "similarity for energies": lambda x: energies(x, 0.5),
    "similarity by energy": lambda x: energy_matching(x, x[0, 0], 1),
    "similarity by rank": lambda x: rank_matching(x, x[0, 0], 1, 1),
    "similarity to prune": lambda x: similarity_prune(x, x[0, 0], 1),
    "scores": lambda x: prune_by_score(x[0], 1),
    "scores for a package": lambda x: package(x[0], 2),
    "distance": lambda x: greedy_dispersion(x, 1, jnp.int32(0)),
    "distance to peaks": lambda x: density_peaks(x, 1),
    "metric": lambda x: cosine_similarity(x),
    "attention": lambda x: cls_attention(x[None]),
    "attention received": lambda x: received_attention(x[None]),
    "attention that votes": lambda x: weighted_pagerank(x[None], 1),
    "x": lambda x: merge(identity(3), x),
    "x in a transform": lambda x: dct_reduce(x, 1),
    "assign": lambda x: merge(jax.tree.map(lambda leaf: leaf[None], identity(3)), x[0]),
}
"""Each takes what belongs to one example, by the field that the message names."""


@pytest.mark.parametrize("name", ONE_EXAMPLE)
def test_batches_are_refused_where_one_example_is_meant(name, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InvalidConfig, match=rf"^{name.split()[0]} = \(.*of one example: jax\.vmap"):
        ONE_EXAMPLE[name](jnp.ones((3, 3, 3)))


@pytest.mark.parametrize("name", ["protect", "rank"])
def test_half_precision_and_gradients_with_ties(name):
    """The gradient goes through the mean alone, and is finite where tokens tie; bfloat16 stays bfloat16."""
    scores = draw(0)[1]

    def loss(x):
        y, _ = merge(UNPADDED[name](cosine_similarity(x), scores), x)
        return jnp.sum(y.astype(jnp.float32) ** 2)

    tied = jnp.ones((TOKENS, WIDTH), jnp.bfloat16)
    gradient = jax.jit(jax.grad(loss))(tied)
    assert gradient.dtype == jnp.bfloat16
    assert np.all(np.isfinite(gradient.astype(jnp.float32))) and np.any(gradient)
