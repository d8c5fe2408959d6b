"""Energies against their closed forms, and who is merged because of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.merging import energy
from lexinv.merging.energy import margin_of_layer

energies = jax.jit(energy.energies, static_argnames=("margin", "alpha", "kind"))
energy_matching = jax.jit(energy.energy_matching, static_argnames=("num_merge", "mode", "protect"))

N, M = 7, 0.6
IDENTICAL, ORTHOGONAL = jnp.ones((N, N)), jnp.eye(N)
SIGMA = 1 - M
PEAK = 1 / (SIGMA * np.sqrt(2 * np.pi))


@pytest.mark.parametrize(
    "kind, identical, orthogonal",
    [
        ("elu", 1 - M, (1 - M + (N - 1) * (np.exp(-M) - 1)) / N),
        ("paper", 1.0, (1 + (N - 1) * (np.exp(-M) - 1)) / N),
        ("gauss", PEAK, PEAK * (1 + (N - 1) * np.exp(-0.5 / SIGMA**2)) / N),
    ],
)
def test_energies_of_identical_and_of_orthogonal_tokens(kind, identical, orthogonal):
    np.testing.assert_allclose(energies(IDENTICAL, M, kind=kind), identical, rtol=1e-5)
    np.testing.assert_allclose(energies(ORTHOGONAL, M, kind=kind), orthogonal, rtol=1e-5)


def test_alpha_weighs_what_is_below_the_margin():
    found = energies(ORTHOGONAL, M, alpha=0.5)
    np.testing.assert_allclose(found, (1 - M + 0.5 * (N - 1) * (np.exp(-M) - 1)) / N, rtol=1e-5)


def test_only_the_energy_of_the_paper_jumps_at_the_margin():
    similarity = jnp.full((2, 2), 0.25)
    for kind, jump in (("elu", 0.0), ("paper", 0.25)):
        below, above = (energies(similarity + step, 0.25, kind=kind)[0] for step in (-1e-4, 1e-4))
        assert abs(float(above - below) - jump) < 1e-3


def test_padding_is_in_no_sum():
    mask = jnp.array([True, True, False, True, False, False, True])
    similarity = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (N, N)), jnp.float32)
    rows = np.flatnonzero(np.asarray(mask))
    alone = energy.energies(similarity[rows][:, rows], M)
    np.testing.assert_allclose(energies(similarity, M, mask=mask)[rows], alone, rtol=1e-5)


SCORES = jnp.array([9.0, 3, 8, 1, 7, 2, 6, 5])  # token 0 is CLS; from high to low: 2 4 6 7 1 5 3


def targets(plan) -> list[int]:
    return np.asarray(plan.anchor)[np.asarray(plan.assign)].tolist()


def test_the_most_energetic_merge_and_the_others_are_protected():
    """2 and 6 are sources, 4 and 7 destinations, however dissimilar; all else stays first, though 1 and 3 are the same."""
    similarity = jnp.full((8, 8), 0.5).at[1, 3].set(1.0).at[3, 1].set(1.0).at[2, 7].set(0.6).at[6, 4].set(0.6)
    plan = energy_matching(similarity, SCORES, 2)
    assert targets(plan) == [0, 1, 7, 3, 4, 5, 4, 7]
    assert plan.anchor.tolist() == [0, 1, 3, 5, 4, 7]


def test_ordered_merges_the_most_similar_of_all_and_halves_the_first_into_the_next():
    """Sources 2, 6, 1, 3 and destinations 4, 7, 5: the best pair is not among the energetic ones."""
    similarity = jnp.full((8, 8), 0.5).at[3, 5].set(0.9).at[3, 2].set(1.0)
    assert targets(energy_matching(similarity, SCORES, 1, "ordered")) == [0, 1, 2, 5, 4, 5, 6, 7]
    similarity = jnp.full((8, 8), 0.5).at[2, 7].set(0.9)
    assert targets(energy_matching(similarity, SCORES, 2, "halves")) == [0, 1, 7, 3, 6, 5, 6, 7]


def test_margins_of_layers():
    assert [margin_of_layer(layer, 3) for layer in range(3)] == pytest.approx([0.9, 0.6, 0.3])
    assert margin_of_layer(6, 12, 0.9, 0.25) == pytest.approx(0.775)
