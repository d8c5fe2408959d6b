"""Rows for another vocabulary: what is shared, what spells the rest, and every way to fill it against its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import orthogonal_mp

from lexinv.data.corpora import Corpus
from lexinv.data.tokenizers import load_tokenizer
from lexinv.transfer import combinations
from lexinv.transfer.combinations import (
    Combination,
    apply,
    blend,
    focus,
    local,
    means_of_pieces,
    nearest,
    ridge,
    sparsemax,
    transplant,
)
from lexinv.transfer.matching_pursuit import pursue
from lexinv.transfer.vocabularies import match, segmenter, surface_forms
from lexinv.validation import InvalidConfig

CORPUS = Corpus(
    "test",
    "0123456789abcdef",
    {"train": [str.__doc__ + dict.__doc__ + slice.__doc__, "é日本"], "validation": [""]},
)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return {name: load_tokenizer(name, CORPUS, cache) for name in ("byte", "bpe:270", "bpe:290")}


@pytest.fixture(scope="module")
def space():
    keys = jax.random.split(jax.random.key(0), 3)
    return (
        jax.random.normal(keys[0], (60, 16)),
        jax.random.normal(keys[1], (12, 16)),
        jax.random.normal(keys[2], (16, 8)),
    )


def test_shared_tokens_stand_for_the_same_bytes_and_the_rest_is_new(tokenizers):
    source, target = tokenizers["bpe:270"], tokenizers["bpe:290"]
    found = match(source, target)
    for ours, theirs in found.shared:
        assert source.pieces[ours] == target.pieces[theirs]
    assert [source.separator, target.separator] in found.shared.tolist()
    assert sorted([*found.shared[:, 1], *found.new]) == list(range(290))
    assert not {target.pieces[number] for number in found.new} & set(source.pieces)
    assert len(match(tokenizers["byte"], target).new) == 290 - 257


def test_an_identical_vocabulary_gives_the_same_table(tokenizers, space):
    table = jax.random.normal(jax.random.key(1), (290, 8))
    found = match(tokenizers["bpe:290"], tokenizers["bpe:290"])
    assert len(found.new) == 0 and np.array_equal(transplant(table, found, jnp.zeros((0, 8))), table)
    with pytest.raises(InvalidConfig, match="rows"):
        transplant(table, found, jnp.zeros((1, 8)))


def test_surface_forms_spell_their_pieces_and_say_what_is_cut(tokenizers):
    source, target = tokenizers["bpe:270"], tokenizers["bpe:290"]
    segment = segmenter(source)
    pieces = [target.pieces[number] for number in match(source, target).new] + [b"\xe6\x97", b"", b"\xff the"]
    forms = surface_forms(pieces, segment, 32)
    for piece, ids, mask in zip(pieces, forms.ids, forms.mask, strict=True):
        assert b"".join(source.pieces[number] for number in ids[mask]) == piece
    assert not forms.truncated.any()
    short = surface_forms(pieces, segment, 1)
    assert np.array_equal(short.truncated, forms.mask.sum(1) > 1)


def test_weights_of_local_estimates(space):
    """By hand for two pieces: cosines .8 and .2, shares .25 and .75. A single piece is copied; at a high temperature it is the mean."""
    ids, mask = jnp.array([[3, 5, 0], [7, 0, 0], [0, 0, 0]]), jnp.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
    cosine, share = (
        jnp.array([[0.8, 0.2, 9.0], [0.1, 9.0, 9.0], [9.0] * 3]),
        jnp.array([[0.25, 0.75, 9.0], [1.0, 0, 0], [0] * 3]),
    )
    found = local(ids, mask, cosine, share, 0.3)
    meaning = np.exp([0.8, 0.2]) / np.exp([0.8, 0.2]).sum()
    expected = np.exp((meaning + np.array([0.25, 0.75])) / 2 / 0.3)
    np.testing.assert_allclose(found.weights[0], [*expected / expected.sum(), 0], rtol=1e-5)
    np.testing.assert_allclose(found.weights[1:], [[1, 0, 0], [0, 0, 0]], atol=1e-6)
    means = means_of_pieces(ids, mask)
    np.testing.assert_allclose(local(ids, mask, cosine, share, 1e6).weights, means.weights, atol=1e-6)
    np.testing.assert_allclose(apply(means, space[0])[0], (space[0][3] + space[0][5]) / 2, rtol=1e-6)
    assert local(ids, mask, None, share, 0.3).weights[0, 1] > local(ids, mask, None, share, 0.3).weights[0, 0]


def test_neighbours_are_those_of_brute_force_and_blends_keep_their_shares(space):
    known, new = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in space[:2])
    found = nearest(new, known, 3, 0.3)
    cosines = np.asarray(new @ known.T)
    assert np.array_equal(found.rows, np.argsort(-cosines, axis=1)[:, :3])
    np.testing.assert_allclose(found.weights.sum(1), 1, rtol=1e-6)
    pieces = Combination(jnp.zeros((12, 2), jnp.int32), jnp.full((12, 2), 0.5).at[0].set(0.0))
    both = blend(pieces, found, 0.3)
    np.testing.assert_allclose(both.weights[:, 2:].sum(1), [1.0] + [0.3] * 11, rtol=1e-5)
    mixed = 0.7 * apply(pieces, space[0]) + 0.3 * apply(found, space[0])
    np.testing.assert_allclose(apply(both, space[0])[1:], mixed[1:], atol=1e-5)


def test_sparsemax_is_the_nearest_point_of_the_simplex(space):
    """By its conditions: what has a weight lies above one threshold by just that, and all else below it."""
    scores = -jnp.sort(-space[1], axis=1)
    weights = np.asarray(sparsemax(scores))
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    for row, found in zip(np.asarray(scores), weights, strict=True):
        threshold = (row - found)[found > 0]
        np.testing.assert_allclose(threshold, threshold[0], atol=1e-5)
        assert (row[found == 0] <= threshold[0] + 1e-5).all()
    np.testing.assert_allclose(sparsemax(jnp.array([[0.5, 0.3, -9.0]])), [[0.6, 0.4, 0.0]], rtol=1e-6)


def test_focus_weighs_shared_tokens_and_looks_no_further_than_it_is_told(space):
    known, new = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in space[:2])
    whole = focus(new, known, 1000)
    most = int((whole.weights > 0).sum(1).max())
    assert 1 < most < 60 and np.array_equal(whole.rows[:, 0], (new @ known.T).argmax(1))
    np.testing.assert_allclose(focus(new, known, most).weights, whole.weights[:, :most], atol=1e-6)


@pytest.mark.parametrize("normalised", [False, True])
def test_pursuit_is_scikit_learns(space, normalised):
    """Which, too, selects by raw inner products, so that normalised selection is its answer for atoms of length 1, rescaled."""
    atoms, targets = space[0] * jnp.linspace(0.5, 1.5, 60)[:, None], space[1]
    lengths = jnp.linalg.norm(atoms, axis=1, keepdims=True) if normalised else jnp.ones((60, 1))
    found, left = pursue(targets, atoms, 5, normalised)
    expected = orthogonal_mp(
        np.asarray(atoms / lengths, np.float64).T, np.asarray(targets, np.float64).T, n_nonzero_coefs=5
    ).T
    dense = np.zeros((12, 60))
    np.put_along_axis(dense, np.asarray(found.rows), np.asarray(found.weights), axis=1)
    np.testing.assert_allclose(dense, expected / np.asarray(lengths)[:, 0], atol=2e-5)
    rest = np.linalg.norm(np.asarray(targets) - dense @ np.asarray(atoms), axis=1)
    np.testing.assert_allclose(left[:, -1], rest, atol=1e-5)
    assert (np.diff(left, axis=1) <= 1e-6).all()


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_sparse_signals_are_recovered_and_linear_images_carried_over(seed):
    """If the base's table is a linear image of the donor's, so is what is left; where nothing is left the transfer is exact."""
    keys = jax.random.split(jax.random.key(seed), 4)
    atoms, map_ = jax.random.normal(keys[0], (80, 48)), jax.random.normal(keys[1], (48, 10))
    weights = jnp.zeros((3, 80)).at[:, :3].set(1 + jax.random.uniform(keys[2], (3, 3)))
    targets = weights @ atoms
    found, left = pursue(targets, atoms, 8, True)
    off = jnp.linalg.norm(apply(found, atoms @ map_) - targets @ map_, axis=1)
    assert (off <= jnp.linalg.norm(map_, 2) * left[:, -1] + 1e-3).all()
    assert (left[:, -1] < 1e-3).all() and jnp.isfinite(found.weights).all()
    np.testing.assert_allclose(targets @ ridge(atoms, atoms @ map_, 0.0), targets @ map_, atol=1e-2)


def test_duplicates_and_a_full_basis_stay_finite(space):
    atoms, targets = jnp.concatenate([space[0][:10], space[0][:10]]), space[1]
    found, left = pursue(targets, atoms, 14)
    assert jnp.isfinite(left).all() and jnp.isfinite(apply(found, atoms)).all()
    full, rest = pursue(targets, space[0], 16)
    np.testing.assert_allclose(rest[:, -1], 0, atol=1e-4)
    np.testing.assert_allclose(apply(full, space[0]), targets, atol=1e-3)


def test_ridge_is_the_normal_equations(space):
    atoms, _, map_ = space
    base = atoms @ map_ + 0.1
    found = ridge(atoms, base, 0.5)
    strength = 0.5 * (np.asarray(atoms) ** 2).sum() / 16
    gradient = np.asarray(atoms.T @ (atoms @ found - base) + strength * found)
    np.testing.assert_allclose(gradient, 0, atol=1e-3)


def test_drawn_rows_have_the_tables_moments(space):
    rows = combinations.drawn(jax.random.key(2), space[0] * jnp.arange(16.0)[None], 4000)
    np.testing.assert_allclose(rows.std(0)[1:], (space[0] * jnp.arange(16.0)[None]).std(0)[1:], rtol=0.06)
    assert not apply(combinations.zero(3), space[0]).any()


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda s: pursue(s[1], s[0], 17), "k"),
        (lambda s: pursue(s[1], s[0][:4], 5), "k"),
        (lambda s: pursue(s[1].at[0, 0].set(jnp.nan), s[0], 2), "targets"),
        (lambda s: nearest(s[1], s[0], 61, 1.0), "count"),
        (lambda s: ridge(s[0], s[0], -1.0), "strength"),
        (lambda s: surface_forms([b"a"], lambda piece: [0], 0), "length"),
    ],
)
def test_refusals(space, call, field):
    with pytest.raises(InvalidConfig, match=field):
        call(space)
