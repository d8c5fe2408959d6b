"""What forgetting touches and what it leaves, and its limits: never, always, nothing replaced, everything replaced."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lexinv.lexinvariance.forgetting import (
    Forgetting,
    due,
    forget,
    initialize,
    make_optimizer,
    make_step,
    masked_nll,
    rotate_types,
    solved,
    table_of_step,
    with_held_out,
)
from lexinv.lexinvariance.part_of_speech import ANSWER, LENGTH, Batch, PosTask, sample, slots
from lexinv.nn.masked_encoder import MaskedEncoder
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.state import create_state

TASK = PosTask(vocab=20, holdout=4, bins=2, head=2)
MODEL = TransformerConfig(depth=1, width=8, heads=1, mlp_width=8, positions="learned", max_length=LENGTH, causal=False)
ENCODER = MaskedEncoder(MODEL, ANSWER, marks=2, std=0.5, vocab=TASK.types)
OPTIMIZER = make_optimizer(1e-2, 0.01)
DRAW = partial(sample, slots=slots(TASK, "val"), count=16)


def start(seed: int = 0):
    key = jax.random.key(seed)
    return create_state(initialize(key, ENCODER), OPTIMIZER, key)


def train(forgetting: Forgetting, steps: int = 6, state=None):
    step = make_step(ENCODER, OPTIMIZER, forgetting, DRAW)
    return jax.jit(lambda state: jax.lax.scan(lambda s, _: step(s), state, length=steps))(state or start())


def assert_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def trained():
    return train(Forgetting())[0]


def test_due_at_multiples_of_the_period_below_the_end():
    steps = [step for step in range(20) if due(5, 15, jnp.int32(step))]
    assert steps == [5, 10]
    assert not any(due(0, None, jnp.int32(step)) for step in range(20))


def test_forgetting_touches_the_table_and_its_moments_only(trained):
    after = forget(jax.random.key(1), trained, OPTIMIZER, 0.5, "table")
    assert_equal(after.params["model"], trained.params["model"])
    inner, before = after.optimizer_state.inner_states, trained.optimizer_state.inner_states
    assert_equal(inner["model"], before["model"])
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(inner["table"]))
    assert any((leaf != 0).any() for leaf in jax.tree.leaves(before["table"]))
    assert after.step == trained.step
    table = after.params["table"]
    assert float(table.std()) == pytest.approx(0.5, rel=0.2)
    np.testing.assert_array_equal(table, forget(jax.random.key(1), trained, OPTIMIZER, 0.5, "table").params["table"])
    assert (table != forget(jax.random.key(2), trained, OPTIMIZER, 0.5, "table").params["table"]).all()


def test_the_released_code_zeroes_all_moments(trained):
    after = forget(jax.random.key(1), trained, OPTIMIZER, 0.5, "all")
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(after.optimizer_state))
    assert_equal(after.params["model"], trained.params["model"])


def test_after_forgetting_the_table_moves_as_with_a_new_adam(trained):
    state = forget(jax.random.key(1), trained, OPTIMIZER, 0.5, "table")
    gradient = jax.tree.map(jnp.ones_like, state.params)
    new = optax.adam(1e-2)  # the table does not decay
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        ours, _ = OPTIMIZER.update(gradient, state.optimizer_state, state.params)
        fresh, _ = new.update(gradient["table"], new.init(state.params["table"]), state.params["table"])
        worn, _ = OPTIMIZER.update(gradient, trained.optimizer_state, state.params)
    np.testing.assert_allclose(ours["table"], fresh, rtol=1e-6)
    assert np.abs(worn["table"] - fresh).max() > 1e-4


@pytest.mark.long
def test_temporary_forgetting_lies_between_vanilla_and_active(trained):
    assert_equal(train(Forgetting(2, until=0))[0], trained)
    assert_equal(train(Forgetting(2, until=1000))[0], train(Forgetting(2))[0])
    assert (train(Forgetting(2))[0].params["table"] != trained.params["table"]).all()


def test_probability_zero_is_vanilla(trained):
    assert_equal(train(Forgetting(p_random=0.0))[0], trained)


@pytest.mark.long
def test_probability_one_gives_the_table_no_gradient():
    state = start()
    batch = DRAW(jax.random.key(5))

    def loss(params, p):
        table = table_of_step(jax.random.key(3), params["table"], Forgetting(p_random=p), ENCODER.std)
        return masked_nll(ENCODER, params, table, batch).mean()

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    assert (gradient(state.params, 1.0)["table"] == 0).all()
    assert (gradient(state.params, 0.5)["table"] != 0).any()


@pytest.mark.long
def test_a_frozen_table_stays_and_the_rest_learns(trained):
    frozen = train(Forgetting(p_random=0.5, frozen=True))[0]
    assert_equal(frozen.params["table"], start().params["table"])
    assert (trained.params["table"] != start().params["table"]).any()
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), frozen.params["model"], start().params["model"])
    assert max(jax.tree.leaves(moved)) > 0


def test_a_replaced_type_is_replaced_in_the_whole_batch():
    table = start().params["table"]
    replaced = table_of_step(jax.random.key(3), table, Forgetting(p_random=0.5), ENCODER.std)
    changed = (replaced != table).any(axis=1)
    assert 0 < changed.sum() < len(table)
    np.testing.assert_array_equal(replaced[~changed], table[~changed])


def test_without_a_table_of_its_own_no_token_is_special():
    """Renaming the tokens of a batch changes nothing but the names."""
    state, nll = start(), jax.jit(masked_nll, static_argnums=0)
    batch = DRAW(jax.random.key(5))
    names = jnp.asarray(np.random.default_rng(0).permutation(TASK.types), jnp.int32)
    table = jax.random.normal(jax.random.key(6), state.params["table"].shape)
    moved = jnp.zeros_like(table).at[names].set(table)
    rename = lambda tokens: jnp.where(tokens >= 0, names[jnp.maximum(tokens, 0)], tokens)  # noqa: E731
    other = Batch(rename(batch.tokens), rename(batch.labels))
    np.testing.assert_allclose(
        nll(ENCODER, state.params, table, batch), nll(ENCODER, state.params, moved, other), rtol=1e-5
    )
    biased = ENCODER.clone(bias=True)
    params = initialize(jax.random.key(0), biased)
    params["model"]["bias"] = jnp.arange(TASK.types, dtype=jnp.float32)
    gap = nll(biased, params, table, batch) - nll(biased, params, moved, other)
    assert np.abs(gap).max() > 0.1


def test_rotation_gives_every_sequence_its_own_names():
    batch = DRAW(jax.random.key(5))
    rotated = rotate_types(jax.random.key(1), batch, TASK.types)
    named = np.asarray(batch.tokens >= 0)
    np.testing.assert_array_equal(rotated.tokens[~named], batch.tokens[~named])
    shifts = (np.asarray(rotated.tokens) - np.asarray(batch.tokens)) % TASK.types
    for row, mask, label_shift in zip(
        shifts, named, np.asarray(rotated.labels - batch.labels) % TASK.types, strict=True
    ):
        assert len({*row[mask], *label_shift}) == 1
    assert len(np.unique(shifts[:, 3])) > 1


@pytest.mark.long
def test_all_ways_to_forget_see_the_same_batches():
    """With a learning rate of zero, only the batches make the losses."""
    optimizer = make_optimizer(0.0, 0.0)
    state = create_state(initialize(jax.random.key(0), ENCODER), optimizer, jax.random.key(0))
    losses = []
    for forgetting in (Forgetting(), Forgetting(100)):
        step = make_step(ENCODER, optimizer, forgetting, DRAW)
        losses.append(jax.lax.scan(lambda s, _, step=step: step(s), state, length=4)[1])
    np.testing.assert_array_equal(*losses)
    assert len(set(losses[0].tolist())) == 4


def test_losses_are_those_of_uniform_guessing_at_first():
    params = {**start().params, "table": jnp.zeros((TASK.types, 8))}
    nll = masked_nll(ENCODER, params, params["table"], DRAW(jax.random.key(0)))
    np.testing.assert_allclose(nll, np.log(TASK.types), rtol=1e-6)


def test_solved_wants_all_three_and_can_be_held_to_the_context():
    batch = Batch(jnp.array([[-1, 3, 4, 3, -2, -2, -2]]), jnp.array([[3, 3, 3]]))
    logits = jnp.zeros((1, 3, 6)).at[0, :, 3].set(1.0).at[0, 2, 5].set(2.0)
    assert not solved(logits, batch, among_context=False)[0]
    assert solved(logits, batch, among_context=True)[0]  # 5 is not shown
    assert not solved(logits.at[0, 2, 4].set(3.0), batch, among_context=True)[0]


def test_held_out_rows_are_drawn_as_they_say():
    rng = np.random.default_rng(0)
    trained = rng.normal(size=(400, 3)) @ np.array([[2.0, 0, 0], [1.0, 0.5, 0], [0, 0, 0.1]]) + 1.0
    table = jnp.asarray(np.concatenate([trained, np.zeros((4000, 3))]), jnp.float32)
    rows = {
        kind: np.asarray(with_held_out(jax.random.key(1), table, 400, kind, 0.5))
        for kind in ("initial", "fitted", "means")
    }
    for found in rows.values():
        np.testing.assert_array_equal(found[:400], table[:400])
    initial, fitted, means = (found[400:] for found in rows.values())
    np.testing.assert_allclose(np.cov(initial.T), 0.25 * np.eye(3), atol=0.03)
    np.testing.assert_allclose(np.cov(fitted.T), np.cov(trained.T), atol=0.3)
    np.testing.assert_allclose(fitted.mean(axis=0), trained.mean(axis=0), atol=0.15)
    np.testing.assert_allclose(np.cov(means.T), np.cov(trained.T) / 10, atol=0.05)
