"""Selection by bisection against sorting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lexinv.sae.selection import select as select_eagerly
from lexinv.sae.selection import smallest_kept, sum_reaches

select = jax.jit(select_eagerly, static_argnums=2)

PERS = ("token", "batch", "feature")


def by_sorting(values: np.ndarray, budget: np.ndarray, per: str) -> np.ndarray:
    """Largest first, of equal ones the smallest index; only positive values."""
    lines = {"token": values, "batch": values.reshape(1, -1), "feature": values.T}[per]
    kept = np.zeros(lines.shape, bool)
    for number, (line, count) in enumerate(zip(lines, np.broadcast_to(budget, len(lines)), strict=True)):
        kept[number, np.argsort(-line, kind="stable")[:count]] = True
    kept &= lines > 0
    return {"token": kept, "batch": kept.reshape(values.shape), "feature": kept.T}[per]


VALUES = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "tied": lambda rng, shape: rng.integers(0, 3, shape).astype(float),
    "zero": lambda rng, shape: np.zeros(shape),
    "denormal": lambda rng, shape: rng.integers(0, 9, shape) * 1e-44,
    "huge": lambda rng, shape: rng.normal(size=shape) * 1e37,
    "negative zero": lambda rng, shape: np.where(rng.random(shape) < 0.5, -0.0, 1.0),
}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("per", PERS)
@given(seed=st.integers(0, 10**6), budget=st.integers(0, 40))
@settings(max_examples=12, deadline=None)
def test_selects_what_sorting_selects(per, kind, seed, budget):
    rng = np.random.default_rng(seed)
    values = VALUES[kind](rng, (5, 7)).astype(np.float32)
    budgets = rng.integers(0, 6, 7) if per == "feature" else np.array(budget)
    found = np.asarray(select(jnp.asarray(values), jnp.asarray(budgets), per))
    np.testing.assert_array_equal(found, by_sorting(values, budgets, per))


@pytest.mark.parametrize("per", PERS)
def test_smallest_kept_is_the_threshold(per):
    values = np.abs(np.random.default_rng(2).normal(size=(6, 8))).astype(np.float32)
    mask = select(jnp.asarray(values), 3, per)
    found = smallest_kept(jnp.asarray(values), mask, per)
    lines = {"token": values, "batch": values.reshape(1, -1), "feature": values.T}[per]
    np.testing.assert_array_equal(np.atleast_1d(found), np.sort(lines, axis=1)[:, -3])
    assert np.isinf(smallest_kept(jnp.asarray(values), jnp.zeros((6, 8), bool), "batch"))


def test_budgets_may_be_traced_and_batched():
    values = jnp.asarray(np.random.default_rng(3).normal(size=(4, 10, 6)), jnp.float32)
    counts = jnp.array([1, 5, 20, 60])
    found = jax.jit(jax.vmap(lambda v, m: select(v, m, "batch")))(values, counts)
    for index in range(4):
        np.testing.assert_array_equal(
            found[index], by_sorting(np.asarray(values[index]), np.asarray(counts[index]), "batch")
        )


def test_the_mask_has_no_gradient():
    values = jnp.asarray(np.random.default_rng(4).normal(size=(3, 5)), jnp.float32)
    gradient = jax.grad(lambda v: jnp.sum(jnp.where(select(v, 4, "batch"), v, 0.0)))(values)
    np.testing.assert_array_equal(gradient, np.asarray(select(values, 4, "batch")).astype(np.float32))


@pytest.mark.parametrize("per", PERS)
def test_counts_add_up_over_devices(per):
    """Features divided over two devices: the same selection, and the mask stays divided."""
    values = jnp.asarray(np.random.default_rng(5).normal(size=(10, 8)), jnp.float32)
    mesh = Mesh(np.array(jax.devices()[:2]), ("features",))
    divided = jax.device_put(values, NamedSharding(mesh, PartitionSpec(None, "features")))
    found = select(divided, 3, per)
    np.testing.assert_array_equal(found, select(values, 3, per))
    assert found.sharding.num_devices == 2


def test_counts_of_a_batch_may_be_more_than_an_int32_holds():
    reaches = jax.jit(sum_reaches)
    rows = jnp.full((131_072, 1), 32_768, jnp.int32)  # 2^32 together
    assert bool(reaches(rows, jnp.array([[2**31 - 1]], jnp.int32)).item())
    rng = np.random.default_rng(0)
    for _ in range(20):
        some = rng.integers(0, 40_000, (300, 1)).astype(np.int32)
        total = int(some.sum())
        verdicts = [bool(reaches(some, jnp.array([[total + d]], jnp.int32)).item()) for d in (-4096, -1, 0, 1, 4096)]
        assert verdicts == [True, True, True, False, False]
