"""The same merges as `tomesd`, on a grid."""

import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.merging.bipartite import cosine_similarity, grid_matching
from lexinv.merging.plan import merge, unmerge


@pytest.mark.parity
@pytest.mark.parametrize(
    "height, width, cell, r", [(4, 6, (2, 2), 7), (4, 6, (2, 2), 100), (5, 7, (2, 3), 9), (8, 8, (4, 2), 20)]
)
def test_tomesd_merges_the_same_on_a_grid(height, width, cell, r):
    torch = pytest.importorskip("torch")
    tomesd = pytest.importorskip("tomesd")
    x = np.random.default_rng(r).normal(size=(height * width, 5)).astype(np.float32)
    plan = grid_matching(cosine_similarity(jnp.asarray(x)), r, height, width, cell)
    ours = unmerge(plan, merge(plan, jnp.asarray(x))[0])
    there = torch.from_numpy(x)[None]
    do, undo = tomesd.merge.bipartite_soft_matching_random2d(there, width, height, cell[1], cell[0], r, no_rand=True)
    assert do(there).shape[1] == plan.anchor.shape[0]
    np.testing.assert_allclose(ours, undo(do(there))[0].numpy(), atol=1e-6)
