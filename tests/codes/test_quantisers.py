"""Quantisers under their one signature: analytic distortion, straight-through gradients, moving averages, what is refused."""

from itertools import pairwise, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from lexinv.codes.codebooks import VectorConfig, index_backprop, nearest, residual, vq
from lexinv.codes.quantisers import (
    bernoulli,
    fsq,
    gaussian,
    gaussian_distortion,
    gaussian_levels,
    joined,
    k_means_levels,
    scalar,
    separated,
)
from lexinv.validation import InvalidConfig

WIDTH = 4
KEPT = VectorConfig(8, decay=0.8, restart=0.1)
QUANTISERS = {
    "scalar": scalar(WIDTH, gaussian_levels(8)),
    "fsq": fsq((4, 3, 5, 2)),
    "vq": vq(WIDTH, VectorConfig(8)),
    "cosine": vq(WIDTH, VectorConfig(8, cosine=True)),
    "averaged": vq(WIDTH, KEPT),
    "residual": residual(WIDTH, KEPT, 2),
    "ibq": index_backprop(WIDTH, 8),
    "bernoulli": bernoulli(WIDTH, 3),
}


@pytest.fixture(scope="module")
def latents():
    return jax.random.normal(jax.random.key(0), (2, 6, WIDTH))


@pytest.mark.parametrize("name", QUANTISERS)
def test_codes_decode_to_the_values_and_a_broken_latent_breaks_its_own_position_only(name, latents):
    quantiser = QUANTISERS[name]
    params, state = quantiser.start(jax.random.key(1))
    found = quantiser.quantize(params, state, latents, None)
    np.testing.assert_allclose(quantiser.decode(params, state, found.ids), found.values, atol=1e-6)
    quantiser.check(latents, found.ids)
    np.testing.assert_array_equal(separated(joined(found.ids, quantiser.sizes), quantiser.sizes), found.ids)
    broken = quantiser.quantize(params, state, latents.at[0, 2, 1].set(jnp.nan), jax.random.key(2))
    finite = np.isfinite(broken.values).all(axis=-1)
    assert not finite[0, 2] and finite.sum() == 11
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(broken.state))


@pytest.mark.parametrize("name", QUANTISERS)
def test_gradients_pass_to_every_latent(name, latents):
    quantiser = QUANTISERS[name]
    params, state = quantiser.start(jax.random.key(1))
    gradient = jax.grad(lambda z: jnp.sum(jnp.sin(1 + quantiser.quantize(params, state, z, None).values)))(latents)
    assert np.isfinite(gradient).all() and np.any(np.abs(gradient) > 1e-6, axis=-1).all()


@pytest.mark.parametrize(
    ("reach", "bins", "error", "bits"), [(5.0, 64, 6.56e-4, 5.724), (3.0, 64, 3.93e-3, 5.999), (4.0, 8, 0.0369, None)]
)
def test_the_distortion_of_a_normal_is_what_integration_gives(reach, bins, error, bits):
    levels = gaussian_levels(bins, reach)
    np.testing.assert_allclose(levels, -levels[::-1], atol=1e-12)
    assert (np.diff(levels) > 0).all()
    edges = [-9, *(levels[1:] + levels[:-1]) / 2, 9]
    parts = [
        quad(lambda z, c=c: (z - c) ** 2 * norm.pdf(z), *ends)[0]
        for c, ends in zip(levels, pairwise(edges), strict=True)
    ]
    found = gaussian_distortion(levels)
    assert found[0] == pytest.approx(sum(parts), rel=1e-6)
    assert found[0] == pytest.approx(error, rel=0.01)
    assert bits is None or found[1] == pytest.approx(bits, abs=1e-3)


@pytest.mark.parametrize(("bins", "error"), [(4, 0.1394), (16, 0.0222), (64, 0.0039)])
def test_means_between_quantiles_have_the_distortion_of_equally_frequent_codes(bins, error):
    levels = gaussian_levels(bins, reach=9.0, spread=9.0)
    assert 1 - np.mean(levels**2) == pytest.approx(error, rel=0.01)  # the variance that the means lack


def test_scalars_take_the_nearest_level_and_saturate():
    levels = gaussian_levels(64)
    quantiser, z = scalar(1, levels), np.linspace(-8, 8, 4001, dtype=np.float32)[:, None]
    state = quantiser.start(jax.random.key(0))[1]
    found = quantiser.quantize({}, state, jnp.asarray(z), None)
    near = np.abs(z - levels.astype(np.float32)).min(axis=1)
    np.testing.assert_allclose(np.abs(found.values - z)[:, 0], near, atol=1e-6)
    assert float(found.values.max()) == pytest.approx(4.06, abs=0.005)
    np.testing.assert_array_equal(quantiser.quantize({}, state, found.values, None).ids, found.ids)


def test_each_dimension_can_have_levels_of_its_own():
    rng = np.random.default_rng(0)
    centres = np.array([[-2.0, 0.0, 5.0], [1.0, 2.0, 9.0]])
    z = centres[np.arange(2), rng.integers(0, 3, (300, 2))] + rng.normal(0, 0.01, (300, 2))
    levels = k_means_levels(z, 3)
    np.testing.assert_allclose(levels, centres, atol=0.01)
    quantiser = scalar(2, levels)
    values = quantiser.quantize(*quantiser.start(jax.random.key(0)), jnp.asarray(z, jnp.float32), None).values
    assert np.abs(values - z).max() < 0.05


def test_finite_scalars_reach_all_levels():
    quantiser = fsq((4, 5))
    found = quantiser.quantize({}, {}, jnp.stack([jnp.linspace(-9, 9, 200)] * 2, axis=-1), None)
    for i, values in enumerate(([-1, -0.5, 0, 0.5], [-1, -0.5, 0, 0.5, 1])):
        assert sorted(set(found.ids[:, i].tolist())) == list(range(len(values)))
        np.testing.assert_allclose(np.unique(found.values[:, i]), values, atol=1e-6)


def test_bits_are_sums_of_vectors_and_their_mean_is_their_chance():
    quantiser = bernoulli(3, 5)
    params, state = quantiser.start(jax.random.key(0))
    every = jnp.array(list(product((0, 1), repeat=3)))
    wanted = np.asarray(every) @ np.asarray(params["vectors"])
    np.testing.assert_allclose(quantiser.decode(params, state, every), wanted, atol=1e-6)
    z = jnp.array([-1.0, 0.3, 2.0])
    drawn = quantiser.quantize(params, state, jnp.broadcast_to(z, (20_000, 3)), jax.random.key(1)).ids
    chance = jax.nn.sigmoid(z)
    np.testing.assert_allclose(drawn.mean(axis=0), chance, atol=0.015)
    gradient = jax.grad(lambda z: jnp.sum(quantiser.quantize(params, state, z, None).values))(z)
    np.testing.assert_allclose(gradient, params["vectors"].sum(axis=1) * chance * (1 - chance), rtol=1e-5)


def test_joined_codes_are_read_from_the_first_bit():
    assert int(joined(jnp.array([1, 0, 1]), (2, 2, 2))) == 5
    codes = jnp.arange(2**12)
    for count in (1, 2, 3, 4, 6, 12):
        sizes = (2 ** (12 // count),) * count
        np.testing.assert_array_equal(joined(separated(codes, sizes), sizes), codes)


def test_the_nearest_code_is_that_of_brute_force():
    z, codebook = jax.random.normal(jax.random.key(0), (50, 3)), jax.random.normal(jax.random.key(1), (7, 3))
    wanted = np.square(np.asarray(z)[:, None] - np.asarray(codebook)[None]).sum(axis=-1).argmin(axis=1)
    np.testing.assert_array_equal(nearest(z, codebook), wanted)


def line(*places):
    """A state of codes on a line."""
    codebook = jnp.array(places)[:, None]
    return {"codebook": codebook, "count": jnp.ones(len(places)), "total": codebook}


def test_moving_averages_are_those_of_the_latents_that_chose():
    quantiser, state, z = vq(1, VectorConfig(2, decay=0.5)), line(0.0, 10.0), jnp.array([[1.0], [2.0], [9.0]])
    moved = quantiser.quantize({}, state, z, jax.random.key(0)).state
    np.testing.assert_allclose(moved["count"], [1.5, 1.0])
    np.testing.assert_allclose(moved["codebook"], [[1.5 / 1.5], [9.5]], rtol=1e-6)
    assert quantiser.quantize({}, state, z, None).state is state


def test_a_code_that_nothing_chooses_becomes_a_latent():
    quantiser = vq(1, VectorConfig(2, decay=0.5, restart=0.6))
    moved = quantiser.quantize({}, line(0.0, 99.0), jnp.array([[1.0], [2.0]]), jax.random.key(0)).state
    assert float(moved["codebook"][1, 0]) in (1.0, 2.0)
    assert float(moved["codebook"][0, 0]) == pytest.approx(1.0)  # (0 + 3) / (1 + 2)


def test_a_second_stage_quantises_what_the_first_leaves():
    quantiser = QUANTISERS["residual"]
    params, state = quantiser.start(jax.random.key(0))
    z, learn = jax.random.normal(jax.random.key(1), (256, WIDTH)), jax.jit(quantiser.quantize)
    for step in range(30):
        state = learn(params, state, z, jax.random.key(step)).state
    found = quantiser.quantize(params, state, z, None)
    one = QUANTISERS["averaged"].decode(params["stages"][0], state["stages"][0], found.ids[:, :1])
    assert float(jnp.mean((found.values - z) ** 2)) < 0.8 * float(jnp.mean((one - z) ** 2))
    dropped = residual(WIDTH, KEPT, 2, dropout=True)
    values = [dropped.quantize(params, state, z, jax.random.key(seed)).values for seed in range(6)]
    used = {1 if np.allclose(found, one, atol=1e-6) else 2 for found in values}
    assert used == {1, 2}


def test_index_backpropagation_teaches_every_code():
    learned = {}
    for name in ("vq", "ibq"):
        quantiser = QUANTISERS[name]
        params, state = quantiser.start(jax.random.key(3))
        z = jnp.ones((1, WIDTH))
        gradient = jax.grad(lambda p, q=quantiser, s=state, z=z: q.quantize(p, s, z, None).losses.sum())(params)
        learned[name] = int((jnp.abs(gradient["codebook"]).max(axis=1) > 0).sum())
    assert learned == {"vq": 1, "ibq": 8}


def test_the_divergence_of_a_normal_from_itself_is_nothing():
    quantiser = gaussian(2, weight=0.5)
    z = jnp.array([[0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    found = quantiser.quantize({}, {}, z, None)
    np.testing.assert_allclose(found.losses, [0, 0.25])
    np.testing.assert_allclose(found.values, z[:, :2])
    with pytest.raises(InvalidConfig, match="continuous"):
        quantiser.decode({}, {}, found.ids)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: gaussian_levels(1), "bins = 1"),
        (lambda: scalar(2, np.array([1.0, 1.0])), "levels"),
        (lambda: scalar(2, np.array([1.0, np.nan])), "levels"),
        (lambda: fsq((4, 1)), "levels"),
        (lambda: VectorConfig(1), "codes = 1"),
        (lambda: VectorConfig(8, restart=0.5), "restart = 0.5"),
        (lambda: VectorConfig(8, decay=1.0), "decay = 1.0"),
        (lambda: residual(2, KEPT, 0), "stages = 0"),
        (lambda: bernoulli(0, 3), "bits = 0"),
        (lambda: joined(jnp.zeros((1, 31), jnp.int32), (2,) * 31), "sizes"),
        (lambda: QUANTISERS["vq"].check(ids=[[8]]), "from 0 and below"),
        (lambda: QUANTISERS["vq"].check(ids=[[-1]]), "from 0 and below"),
        (lambda: QUANTISERS["vq"].check(z=[[1.0, np.inf, 0.0, 0.0]]), "1 not finite"),
        (lambda: QUANTISERS["vq"].check(z=[[1.0]]), "latents"),
    ],
)
def test_what_cannot_be_quantised_is_refused(make, named):
    with pytest.raises(InvalidConfig, match=named):
        make()
