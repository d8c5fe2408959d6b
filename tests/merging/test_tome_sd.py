"""Merging inside a block that keeps its tokens: against loops, against what merging must not change, and against the released package."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.merging.tome_sd import Part, around, grid_plans, merged_block
from lexinv.validation import InvalidConfig

HEIGHT, WIDTH, DIM = 4, 6, 5
RNG = np.random.default_rng(0)
WEIGHTS = {name: RNG.normal(size=(DIM, DIM)).astype(np.float32) / 2 for name in ("attention", "cross", "mlp")}
CONTEXT = RNG.normal(size=(2, 3, DIM)).astype(np.float32)
X = RNG.normal(size=(2, HEIGHT * WIDTH, DIM)).astype(np.float32)


def norm(x):
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True))


def attend(x, to):
    scores = jax.nn.softmax(jnp.einsum("bqd,de,bke->bqk", x, WEIGHTS["attention"], to), axis=-1)
    return jnp.einsum("bqk,bkd,de->bqe", scores, to, WEIGHTS["cross"])


PARTS = {
    "attention": Part(norm, lambda x: attend(x, x)),
    "cross": Part(norm, lambda x: attend(x, jnp.asarray(CONTEXT))),
    "mlp": Part(norm, lambda x: jnp.tanh(jnp.einsum("btd,de->bte", x, WEIGHTS["mlp"]))),
}


def by_loop(x: np.ndarray, count: int, compute) -> np.ndarray:
    """One example [tokens, width]: every token its group's output; the first token of each cell of 2 x 2 is a destination."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    kept = [row * WIDTH + column for row in range(0, HEIGHT, 2) for column in range(0, WIDTH, 2)]
    sources = [i for i in range(len(x)) if i not in kept]
    best = {i: max(kept, key=lambda j, i=i: unit[i] @ unit[j]) for i in sources}
    gone = sorted(sources, key=lambda i: -(unit[i] @ unit[best[i]]))[:count]
    group = [best[i] if i in gone else i for i in range(len(x))]
    names = sorted(set(group))
    means = np.stack([x[[g == name for g in group]].mean(axis=0) for name in names])
    found = np.asarray(compute(jnp.asarray(means)[None])[0])
    return np.stack([found[names.index(name)] for name in group])


@pytest.mark.parametrize("ratio, count", [(0.3, 7), (0.5, 12), (0.99, 18)])
def test_a_part_sees_the_groups_of_a_loop(ratio, count):
    plan = grid_plans(jnp.asarray(X), HEIGHT, WIDTH, ratio)
    assert plan.anchor.shape == (2, 24 - count)
    found = jax.jit(around(plan, PARTS["attention"].compute))(X)
    for row, x in zip(found, X, strict=True):
        np.testing.assert_allclose(row, by_loop(x, count, PARTS["attention"].compute), atol=1e-5)


@pytest.mark.parametrize("merging", [("attention",), ("cross", "mlp"), ("attention", "cross", "mlp")])
def test_equal_cells_merge_without_loss_and_others_do_not(merging):
    """Where all four tokens of a cell are alike, three quarters can go: all groups have one size, and attention loses nothing."""
    cells = X.reshape(2, HEIGHT, WIDTH, DIM)[:, ::2, ::2]
    alike = jnp.asarray(cells.repeat(2, axis=1).repeat(2, axis=2).reshape(X.shape))
    merged, whole = (
        jax.jit(lambda x, ratio=ratio: merged_block(x, PARTS, grid_plans(x, HEIGHT, WIDTH, ratio), merging))
        for ratio in (0.75, 0.0)
    )
    np.testing.assert_allclose(merged(alike), whole(alike), atol=1e-5)
    x = expected = jnp.asarray(X)
    for part in PARTS.values():
        expected = expected + part.compute(part.norm(expected))
    np.testing.assert_allclose(whole(x), expected, atol=1e-5)
    assert np.abs(merged(x) - whole(x)).max() > 0.05


def test_drawn_destinations_are_one_of_each_cell_and_the_same_for_all_examples():
    plans = [grid_plans(jnp.asarray(X), HEIGHT, WIDTH, 0.75, key=jax.random.key(seed)) for seed in range(4)]
    kept = np.array([plan.anchor for plan in plans])
    np.testing.assert_array_equal(kept[:, 0], kept[:, 1])
    cells = kept[:, 0] // WIDTH // 2 * 3 + kept[:, 0] % WIDTH // 2
    assert (np.sort(cells, axis=1) == np.arange(6)).all()
    assert len({tuple(row) for row in kept[:, 0].tolist()}) > 1


@pytest.mark.parametrize(
    "field, call",
    [
        ("ratio", lambda x: grid_plans(x, HEIGHT, WIDTH, 1.0)),
        ("height, width", lambda x: grid_plans(x, HEIGHT, HEIGHT)),
        ("cell", lambda x: grid_plans(x, HEIGHT, WIDTH, cell=(5, 5))),
        ("merging", lambda x: merged_block(x, PARTS, grid_plans(x, HEIGHT, WIDTH), ("atention",))),
    ],
)
def test_what_cannot_be_is_refused(field, call):
    with pytest.raises(InvalidConfig) as error:
        call(jnp.asarray(X))
    assert error.value.field == field


@pytest.mark.parity
@pytest.mark.parametrize("merging", [("attention",), ("attention", "cross", "mlp")])
def test_the_released_block_gives_the_same(merging):
    """`tomesd` with its destinations not drawn, in a block of our making."""
    torch, tomesd = pytest.importorskip("torch"), pytest.importorskip("tomesd")

    def torched(compute):
        return lambda x, context=None: torch.from_numpy(np.array(compute(x.numpy())))

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1 = self.norm2 = self.norm3 = torched(norm)
            self.attn1, self.attn2, self.ff = (torched(part.compute) for part in PARTS.values())
            self.disable_self_attn = False

    block = tomesd.patch.make_tome_block(Block)()
    flags = {
        f"merge_{name}": part in merging
        for name, part in (("attn", "attention"), ("crossattn", "cross"), ("mlp", "mlp"))
    }
    fixed = {"ratio": 0.4, "max_downsample": 1, "sx": 2, "sy": 2, "use_rand": False, "generator": None}
    block._tome_info = {"size": (HEIGHT, WIDTH), "args": fixed | flags}
    expected = block._forward(torch.from_numpy(X), torch.from_numpy(CONTEXT)).numpy()
    x = jnp.asarray(X)
    found = merged_block(x, PARTS, grid_plans(x, HEIGHT, WIDTH, 0.4), merging)
    np.testing.assert_allclose(found, expected, atol=1e-5)
