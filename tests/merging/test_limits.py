"""Arguments at and beyond their limits: what is clipped, what is left alone, and what is refused by the field that the message names."""

from functools import partial

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from lexinv.merging.agreement import confusion
from lexinv.merging.bipartite import bipartite_matching, complete_graph_matching, cosine_similarity, grid_matching
from lexinv.merging.costs import model_flops
from lexinv.merging.density_peaks import density_peaks
from lexinv.merging.diversity import greedy_dispersion
from lexinv.merging.energy import energies, energy_matching, margin_of_layer
from lexinv.merging.fourier import dct_reduce
from lexinv.merging.k_center import check_layer, withdraws
from lexinv.merging.methods import reductions
from lexinv.merging.mlerp import fuse
from lexinv.merging.pagerank import keep_heads, similarity_prune, weighted_pagerank, zero_shot_prune
from lexinv.merging.plan import identity, merge
from lexinv.merging.quantisation import largest_norms, quantise
from lexinv.merging.ranking import cls_attention, prune_at_random, prune_by_score, rank_matching, received_attention
from lexinv.merging.rates import candidates
from lexinv.merging.schedules import clip_schedule, linear_schedule, ratio_schedule, token_counts
from lexinv.merging.selections import keep
from lexinv.merging.selective_loss import top_share
from lexinv.merging.spectral import spectral_distance, token_graph
from lexinv.merging.strategies import package
from lexinv.validation import InvalidConfig

KEY = jax.random.key(7)
TOKENS = 13

CLIPPED = {
    "alternate": lambda c, r, p: bipartite_matching(c, r, 2, p),
    "random": lambda c, r, p: bipartite_matching(c, r, 2, p, key=KEY),
    "protect": lambda c, r, p: energy_matching(c, c[0], r, "protect", p),
    "halves": lambda c, r, p: energy_matching(c, c[0], r, "halves", p),
    "ordered": lambda c, r, p: energy_matching(c, c[0], r, "ordered", p),
    "similarity": lambda c, r, p: similarity_prune(c, c[0], r, p),
}
REFUSING = {
    "score": lambda c, r, p: prune_by_score(c[0], r, p),
    "at random": lambda c, r, p: prune_at_random(KEY, c.shape[0], r, p),
    "rank": lambda c, r, p: rank_matching(c, c[0], 0, r, p),
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


@pytest.mark.parametrize("tokens, protect", [(1, 1), (4, 4), (1, 0)])
@pytest.mark.parametrize("name", REFUSING)
def test_where_nothing_can_go_methods_that_cannot_clip_refuse(name, tokens, protect):
    """T = 1 and all protected: none to remove is possible, one more than there are is not."""
    similarity, run = jnp.ones((tokens, tokens)), REFUSING[name]
    for found, expected in zip(run(similarity, 0, protect), identity(tokens), strict=True):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(InvalidConfig, match="num_"):
        run(similarity, tokens - protect + 1, protect)


@pytest.mark.parametrize("name", CLIPPED)
def test_more_protected_tokens_than_there_are_is_refused(name):
    with pytest.raises(InvalidConfig, match="^protect = 5 "):
        CLIPPED[name](jnp.ones((4, 4)), 0, 5)


@pytest.mark.parametrize("tokens, protect, left", [(1, 0, 1), (1, 1, 1), (4, 4, 4), (5, 1, 2)])
def test_a_complete_graph_keeps_one_unprotected_token(tokens, protect, left):
    plan = complete_graph_matching(jnp.ones((tokens, tokens)), jnp.arange(tokens, dtype=jnp.float32), 100, protect)
    assert plan.anchor.shape == (left,) and sorted(set(plan.assign.tolist())) == list(range(left))


COUNTED = {
    "every": (lambda c, r: bipartite_matching(c, 2, every=r), 1),
    "protect": (lambda c, r: bipartite_matching(c, 2, protect=r), 14),
    "num_merge": (lambda c, r: bipartite_matching(c, r, key=KEY),),
    "num_merge by energy": (lambda c, r: energy_matching(c, c[0], r),),
    "num_merge of a grid": (lambda c, r: grid_matching(c, r, 3, 4, protect=1),),
    "num_merge of a graph": (lambda c, r: complete_graph_matching(c, c[0], r),),
    "num_merge by rank": (lambda c, r: rank_matching(c, c[0], 6, r), 6),
    "num_prune": (lambda c, r: prune_by_score(c[0], r), 13),
    "num_prune at random": (lambda c, r: prune_at_random(KEY, TOKENS, r), 13),
    "num_prune by rank": (lambda c, r: rank_matching(c, c[0], r, 2),),
    "num_prune by similarity": (lambda c, r: similarity_prune(c, c[0], r),),
    "num_keep": (lambda c, r: greedy_dispersion(1 - c, r, jnp.int32(0)), 0, 14),
    "num_keep of a transform": (lambda c, r: dct_reduce(c, r), 0, 13),
    "protect in a transform": (lambda c, r: dct_reduce(c, 1, r), 13),
    "num_clusters": (lambda c, r: density_peaks(1 - c, r), 0, 14),
    "neighbours": (lambda c, r: density_peaks(1 - c, 2, r), 0, 13),
    "budget": (lambda c, r: package(c[0], r), 1, 14),
    "iterations": (lambda c, r: weighted_pagerank(c[None], r),),
    "counts": (lambda c, r: clip_schedule([3, r], TOKENS),),
    "r": (lambda c, r: linear_schedule(TOKENS, 4, r),),
    "depth": (lambda c, r: ratio_schedule(TOKENS, r, 0.9), 0),
    "depth of a line": (lambda c, r: linear_schedule(TOKENS, r, 8), 0),
    "schedule": (lambda c, r: token_counts(TOKENS, (3, r)),),
    "granularity": (lambda c, r: candidates(TOKENS, r), 0),
    "bits": (lambda c, r: quantise(c, r), 1, 17),
    "count": (lambda c, r: largest_norms(c[0], r), 14),
}
"""Each takes a count, by the field that the message names, and refuses others than negative ones."""


@pytest.mark.parametrize("name", COUNTED)
def test_impossible_and_fractional_counts_are_refused_by_name(name, monkeypatch):
    """As in a user's own code, where nobody checks annotations."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    call, *others = COUNTED[name]
    for bad in (2.5, -1, *others):
        allowed = "a whole number" if bad == 2.5 else ""
        with pytest.raises(InvalidConfig, match=rf"^{name.split()[0]} = {bad} is not possible: {allowed}"):
            call(jnp.ones((TOKENS, TOKENS)), bad)


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


C, ROW = jnp.ones((TOKENS, TOKENS)), jnp.arange(float(TOKENS))
EVEN = jnp.ones((1, TOKENS, TOKENS))
reduced = partial(reductions, schedule=(1,), depth=2)
BEYOND = [
    ("truth", lambda: confusion(np.array([0, 3]), np.array([0, 0]), 3)),
    ("found", lambda: confusion(np.array([0, 0]), np.array([0, -1]), 3)),
    (".*a grid of", lambda: grid_matching(C, 3, 5, 5, protect=1)),
    (".*grid", lambda: grid_matching(C, 1, 1, 1, (1, 1), protect=TOKENS)),
    ("cell", lambda: grid_matching(C, 3, 3, 4, (4, 4), protect=1)),
    ("num_prune", lambda: zero_shot_prune(EVEN, C, 4, 9, 20)),
    ("rate", lambda: top_share(C, 0.0)),
    ("rate", lambda: top_share(C, 1.5)),
    ("threshold", lambda: withdraws(EVEN, ROW > 3, ROW < 3, -0.1)),
    ("layers", lambda: check_layer(0)),
    ("layer", lambda: margin_of_layer(3, 3)),
    ("layer", lambda: fuse(identity(TOKENS), C, None, 4, 4)),
    ("margin", lambda: energies(C, 1.0, kind="gauss")),
    ("lowest", lambda: keep_heads(C, 0.5, 0.1)),
    ("axes", lambda: quantise(C, 4, axes=(2,))),
    ("ratio", lambda: ratio_schedule(197, 12, 0.0)),
    ("ratio", lambda: ratio_schedule(197, 12, 1.01)),
    ("ratio", lambda: ratio_schedule(197, 12, float("nan"))),
    ("tokens", lambda: ratio_schedule(0, 12, 0.5)),
    ("protect", lambda: ratio_schedule(4, 12, 0.5, protect=5)),
    ("inflect", lambda: linear_schedule(197, 12, 8, 1.5)),
    ("counts", lambda: model_flops((197,), 8, 8)),
    (".*row 2", lambda: token_graph(np.array([[1.0], [2.0], [np.nan]]))),
    ("assign", lambda: spectral_distance(np.ones((4, 4)), np.array([0, 1, 2, 1]), 2)),
    ("assign", lambda: spectral_distance(np.ones((4, 4)), np.array([0, 2, 2, 0]), 3)),
    ("method", lambda: keep("best", C, ROW, 1, KEY)),
    ("method", lambda: reduced("best")),
    ("method", lambda: reduced("dct", padded=True)),
    ("schedule", lambda: reduced("tome", schedule=(1, 1, 1))),
    ("key", lambda: reduced("prune_random")),
    ("protect", lambda: reduced("prune_cls", protect=0)),
    ("similar", lambda: reduced("zero_tprune", similar=1.5)),
]


@pytest.mark.parametrize("message, call", BEYOND)
def test_what_cannot_be_is_refused(message, call):
    with pytest.raises(InvalidConfig, match=rf"^{message}\b"):
        call()
