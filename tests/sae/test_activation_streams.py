"""Streams: every row once per epoch, bounded memory, and the same batches wherever one begins."""

import tracemalloc
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexinv.data.windows import TokenStream, array_windows, window_source
from lexinv.sae.activation_streams import ComputedActivations, model_activations, scale_to_unit, shuffled
from lexinv.validation import InvalidConfig

WIDTH = 2


class Numbered:
    """Row r is (r + 1, -r). Counts how often each block is read."""

    def __init__(self, block_rows):
        self.width, self.block_rows = WIDTH, np.asarray(block_rows, np.int64)
        self.reads = Counter()

    def block(self, index):
        self.reads[index] += 1
        first = self.block_rows[:index].sum()
        numbers = first + np.arange(self.block_rows[index])
        return np.stack([numbers + 1, -numbers], axis=1).astype(np.float32)


def numbers(dataset, dispatches):
    """The row numbers of so many dispatches."""
    found = np.concatenate([dataset[index]["activations"].reshape(-1, WIDTH) for index in range(dispatches)])
    np.testing.assert_array_equal(found[:, 0] - 1, -found[:, 1])
    return found[:, 0].astype(int) - 1


sizes = st.lists(st.integers(1, 6), min_size=1, max_size=9)


@settings(deadline=None, max_examples=60)
@given(block_rows=sizes, extra=st.integers(0, 20), batch=st.integers(3, 5), k=st.integers(1, 3), seed=st.integers(0, 9))
def test_every_row_once_per_epoch(block_rows, extra, batch, k, seed):
    source = Numbered([*block_rows, 2])
    rows = int(source.block_rows.sum())
    dataset = shuffled(source, seed, int(source.block_rows.max()) + extra, batch, k)
    found = numbers(dataset, -(-3 * rows // (batch * k)))
    for epoch in range(3):
        assert sorted(found[epoch * rows : (epoch + 1) * rows]) == list(range(rows))
    assert set(source.reads.values()) <= {len(found) // rows, -(-len(found) // rows)}  # once per epoch begun


def test_epochs_and_seeds_have_orders_of_their_own():
    source = Numbered([4] * 25)
    orders = [numbers(shuffled(source, seed, 40, 10), 20).reshape(2, 100) for seed in (0, 1)]
    flat = [order for pair in orders for order in pair]
    for i in range(4):
        for j in range(i):
            assert (flat[i] != flat[j]).mean() > 0.9
    np.testing.assert_array_equal(numbers(shuffled(source, 0, 40, 10), 20), orders[0].reshape(-1))


def test_rows_of_a_group_are_mixed():
    """Neighbours in a block are neighbours in the stream about as often as chance has it: 2 (n - g) / n^2 of pairs, hardly ever."""
    source = Numbered([10] * 100)
    order, later = numbers(shuffled(source, 0, 500, 50), 40).reshape(2, 1000)
    assert (np.abs(np.diff(order)) == 1).mean() < 0.02
    blocks = order // 10
    assert len(set(blocks[:500])) == 50 and not set(blocks[:500]) & set(blocks[500:])
    assert len(set(blocks[:50])) > 20  # of the 50 blocks of the group
    assert 10 < len(set(blocks[:500]) & set(later[:500] // 10)) < 40  # dealt anew in the next epoch: 25 expected


def test_memory_is_the_buffer_whatever_the_source():
    """Of 1000 rows of 4 kB: a buffer of 250, a dispatch of 50 and the one before it, a block of 10; 100 kB of small things."""
    source = ComputedActivations(1024, np.full(100, 10), lambda index: np.full((10, 1024), index, np.float32))
    shuffled(source, 0, 250, 10, 5)[0]  # what is imported or cached at the first time
    tracemalloc.start()
    try:
        dataset = shuffled(source, 0, 250, 10, 5)
        for index in range(60):
            element = dataset[index]["activations"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert element.nbytes == 50 * 4096
    assert 250 < peak / 4096 < 250 + 2 * 50 + 2 * 10 + 25


def test_elements_do_not_depend_on_what_was_read_before():
    source, options = Numbered([3, 5, 4, 5, 5, 1, 2]), (7, 11, 4, 2)
    whole = [shuffled(source, *options)[index]["activations"] for index in range(20)]
    shared = shuffled(source, *options)
    for index in np.random.default_rng(0).permutation(20):
        np.testing.assert_array_equal(shared[int(index)]["activations"], whole[index])
    fresh = iter(shuffled(source, *options)[9:].to_iter_dataset())
    for index in range(9, 20):
        np.testing.assert_array_equal(next(fresh)["activations"], whole[index])


GOOD = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
SAME, ZERO = np.tile(GOOD[:1], (6, 1)), np.zeros_like(GOOD)
BROKEN = np.where(np.arange(6)[:, None] == 4, np.float32(np.nan), GOOD)


def held(*blocks, rows=6):
    return ComputedActivations(3, np.array([6, rows]), lambda index: blocks[index])


@pytest.mark.parametrize(
    "source, message",
    [
        (held(SAME, SAME), "all the same"),
        (held(ZERO, ZERO), "all zero|all the same"),
        (held(GOOD, BROKEN), "not finite.*block 1, row 4"),
    ],
)
def test_constant_and_non_finite_activations_are_refused(source, message):
    shuffled(held(GOOD, GOOD), 0, 12, 4, 3)[0]
    with pytest.raises(InvalidConfig, match=message):
        shuffled(source, 0, 12, 4, 3)[0]


def test_blocks_of_another_size_are_refused_and_equal_rows_are_not():
    with pytest.raises(InvalidConfig, match="block 1 = "):
        shuffled(held(GOOD, GOOD, rows=5), 0, 12, 6)[0]
    first_two_alike = np.concatenate([SAME[:5], GOOD[:1] + 1])
    assert shuffled(held(first_two_alike, first_two_alike), 0, 6, 6)[0]["activations"].shape == (1, 6, 3)


def test_scaled_activations_have_variance_k():
    rows = np.random.default_rng(0).normal(3.0, 7.0, size=(1000, 5)).astype(np.float32)
    scaled = rows * scale_to_unit(rows, 16.0)
    assert np.square(scaled - scaled.mean(axis=0)).sum(axis=1).mean() == pytest.approx(16.0, rel=1e-4)


# From a model.


def stand_in(params, batch, key):
    """Entry t is (sum of x_0..x_t, noise of the row), as `lexinv.nn.sites.make_activations` without BOS's own position."""
    read = jnp.cumsum(batch["tokens"], axis=1)[:, :-1].astype(jnp.float32)
    noise = jax.vmap(lambda row: jax.random.normal(jax.random.fold_in(key, row)))(batch["row"])
    return jnp.stack([params * read, jnp.broadcast_to(noise[:, None], read.shape)], axis=-1)


PARAMS, KEY = jnp.float32(2.0), jax.random.key(5)


def test_model_activations_are_those_of_all_windows_together():
    windows = array_windows(np.arange(1, 71, dtype=np.uint8), 10)
    batch = {"tokens": windows.gather(np.arange(7)), "row": np.arange(7, dtype=np.int32)}
    whole = np.asarray(stand_in(PARAMS, batch, KEY)).reshape(-1, 2)
    for size in (1, 3, 7, 50):
        source = model_activations(stand_in, PARAMS, windows, size, KEY)
        assert source.width == 2
        blocks = [source.block(index) for index in range(len(source.block_rows))]
        assert [len(block) for block in blocks] == source.block_rows.tolist()
        np.testing.assert_allclose(np.concatenate(blocks), whole, rtol=1e-6)
        np.testing.assert_array_equal(source.block(0), blocks[0])


def test_entries_that_have_read_padding_are_left_out():
    """Documents of 1, 4, 3 and 6 tokens in windows of 4: a full window gives 3 entries, one of n < 4 tokens gives n."""
    ends = np.cumsum([0, 1, 4, 3, 6])
    windows = window_source(TokenStream(np.ones(14, np.uint8), ends), 4, "documents")
    source = model_activations(stand_in, PARAMS, windows, 2, KEY)
    assert source.block_rows.tolist() == [1 + 3, 3 + 3, 2]
    sums = np.concatenate([source.block(index)[:, 0] for index in range(3)])
    assert sums.tolist() == [2, 2, 4, 6, 2, 4, 6, 2, 4, 6, 2, 4]


def test_model_activations_that_are_not_finite_are_named():
    def broken(params, batch, key):
        found = stand_in(params, batch, key)
        return jnp.where(found[..., :1] == 2 * (51 + 52 + 53), jnp.nan, found)

    source = model_activations(broken, PARAMS, array_windows(np.arange(1, 71, dtype=np.uint8), 10), 3, KEY)
    source.block(0)
    with pytest.raises(InvalidConfig, match="window 5, position 2"):
        source.block(1)
