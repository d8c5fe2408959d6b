"""The train step: golden values, one compile, and the equivalences that it promises."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_run import OPTIMIZER, assert_equal, dataset, initial_state, loss_fn

from lexinv.precision import double_precision
from lexinv.training.optimizers import OptimizerConfig, make_optimizer, scaled_in_state
from lexinv.training.population import create_population, member
from lexinv.training.state import create_state
from lexinv.training.step import make_train_step
from lexinv.training.streams import stream
from lexinv.validation import InvalidConfig

GOLDEN = """The first two training steps changed. If you meant to change the arithmetic, the randomness or the optimiser, put the new
values here and say so in the commit message: committed records were made with the old ones. Otherwise this is a bug."""


def test_golden_step(train_step):
    state, metrics = train_step(initial_state(), dataset()[0])
    values = [*metrics["loss"], *metrics["gradient_norm"], np.linalg.norm(state.params["table"])]
    expected = [1.6537719, 1.6197658, 0.18484767, 0.19091490, 0.55178052]
    np.testing.assert_allclose(values, expected, rtol=1e-5, err_msg=GOLDEN)
    assert int(state.step) == 2


def test_compiles_once_and_donates(train_step):
    first = state = initial_state()
    sizes = []
    for index in range(3):
        state, _ = train_step(state, dataset()[index])
        sizes.append(train_step._cache_size())
    assert sizes == [sizes[0]] * 3
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((first.params, first.optimizer_state)))


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("options", [{}, {"microbatches": 2}, {"population": "map"}, {"population": "vmap"}])
def test_no_type_depends_on_the_default_precision(name, options):
    """Traced only: a scan whose carry changes its type fails there."""
    members, batches = "population" in options, jax.tree.map(jnp.asarray, dataset()[0])
    if members:
        batches = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf], axis=1), batches)

    def loss(params, batch, key):
        return jnp.mean(jnp.square(params["table"][batch["tokens"]] @ params["kernel"])), {}

    with double_precision():
        optimizer = scaled_in_state(make_optimizer(OptimizerConfig(name, warmup_steps=1), 10), 0.5)
        params = {"table": jnp.ones((5, 5), jnp.float32), "kernel": jnp.ones((5, 5), jnp.float32)}
        state = create_state(params, optimizer, jax.random.key(0))
        if members:
            state = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state)
        after, _ = jax.eval_shape(make_train_step(loss, optimizer, **options), state, batches)
    types = [jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree) for tree in (state, after)]
    assert types[0] == types[1]
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(after.params)} == {"float32"}


def test_two_steps_in_one_dispatch_are_two_dispatches_of_one(train_step):
    batches = dataset()[0]
    together, metrics = train_step(initial_state(), batches)
    apart, losses = initial_state(), []
    for index in range(2):
        apart, single = train_step(apart, jax.tree.map(lambda leaf, i=index: leaf[i : i + 1], batches))
        losses.append(single["loss"][0])
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-6)
    np.testing.assert_allclose(together.params["table"], apart.params["table"], rtol=1e-5, atol=1e-7)


def test_update_is_that_of_the_gradient_with_the_named_key(train_step):
    """One step of Adam by hand, with the key that the contract names."""
    state, batches = initial_state(), jax.tree.map(lambda leaf: leaf[:1], dataset()[0])
    batch, key = jax.tree.map(lambda leaf: leaf[0], batches), jax.random.fold_in(stream(state.key, "loss"), 0)
    gradient = jax.grad(lambda params: loss_fn(params, batch, key)[0])(state.params)
    g = np.asarray(gradient["table"], np.float64)
    expected = np.asarray(state.params["table"]) - 1e-2 * g / (np.abs(g) + 1e-8)
    after, metrics = train_step(state, batches)
    np.testing.assert_allclose(after.params["table"], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics["gradient_norm"][0], np.linalg.norm(g), rtol=1e-5)


def test_microbatches_equal_the_full_batch(train_step):
    full, full_metrics = train_step(initial_state(), dataset()[3])
    sliced, sliced_metrics = make_train_step(loss_fn, OPTIMIZER, microbatches=2)(initial_state(), dataset()[3])
    assert set(sliced_metrics) == {"loss", "gradient_norm", "accuracy"}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), full_metrics, sliced_metrics)
    np.testing.assert_allclose(sliced.params["table"], full.params["table"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("population", ["map", "vmap"])
def test_population_members_are_single_runs_whatever_rate_the_others_have(train_step, population):
    """Adam at 1 with the rate in the state is Adam at that rate; the single runs have 1e-2."""
    optimizer = optax.adam(1.0)

    def init(key, rate):
        return create_state({"table": 0.1 * jax.random.normal(key, (5, 5))}, scaled_in_state(optimizer, rate), key)

    elements = [dataset()[index] for index in (0, 5, 5)]
    batches = jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *elements)
    step = make_train_step(loss_fn, scaled_in_state(optimizer), population=population)
    state, metrics = step(create_population(init, [0, 1, 1], [1e-2, 1e-2, 1e-3]), batches)
    assert metrics["loss"].shape == (2, 3)
    for index, element in enumerate(elements[:2]):
        single, single_metrics = train_step(initial_state(index), element)
        np.testing.assert_allclose(metrics["loss"][:, index], single_metrics["loss"], rtol=1e-6)
        np.testing.assert_allclose(member(state.params, index)["table"], single.params["table"], rtol=1e-5, atol=1e-7)
        assert_equal(member(state.key, index), single.key)
    assert np.abs(member(state.params, 2)["table"] - single.params["table"]).max() > 1e-3


def test_population_starts_without_batched_lapack_calls():
    # Two of them in one program wait for each other's threads on two cores: see create_population.
    def init(key):
        first, second = jax.random.split(key)
        params = {"one": jax.random.orthogonal(first, 8), "other": jax.random.orthogonal(second, 8)}
        return create_state(params, OPTIMIZER, key)

    program = jax.jit(lambda: create_population(init, [0, 1, 2])).lower().as_text()
    assert set(re.findall(r'num_batch_dims = "(\d+)"', program)) == {"0"}


def counting_loss(params, statistics, batch, key):
    """A loss that keeps the sum of what it has read."""
    del key
    total = statistics["read"] + jnp.sum(batch["x"])
    return jnp.sum((params - total) ** 2), ({"before": statistics["read"]}, {"read": total})


def test_a_loss_may_keep_statistics_from_batch_to_batch():
    step = make_train_step(counting_loss, optax.sgd(0.0), statistics=True)
    state = create_state(jnp.zeros(()), optax.sgd(0.0), jax.random.key(0), {"read": jnp.float32(10.0)})
    state, metrics = step(state, {"x": jnp.array([[1.0, 1.0], [3.0, 0.0], [0.0, 5.0]])})
    assert float(state.statistics["read"]) == 20.0
    np.testing.assert_array_equal(metrics["before"], [10.0, 12.0, 15.0])
    np.testing.assert_array_equal(metrics["loss"], [144.0, 225.0, 400.0])


@pytest.mark.parametrize("population", ["map", "vmap"])
def test_members_may_share_their_batches(population):
    step = make_train_step(counting_loss, optax.sgd(0.0), population=population, shared_batches=True, statistics=True)

    def start(key, read):
        return create_state(jnp.zeros(()), optax.sgd(0.0), key, {"read": read})

    state, metrics = step(create_population(start, (0, 1), (0.0, 10.0)), {"x": jnp.array([[1.0, 1.0], [3.0, 0.0]])})
    np.testing.assert_array_equal(state.statistics["read"], [5.0, 15.0])
    np.testing.assert_array_equal(metrics["before"], [[0.0, 10.0], [2.0, 12.0]])


@pytest.mark.parametrize(
    "attempt, message",
    [
        (
            lambda: make_train_step(loss_fn, OPTIMIZER, microbatches=3)(initial_state(), dataset()[0]),
            "the batch size 4",
        ),
        (lambda: make_train_step(counting_loss, OPTIMIZER, microbatches=2, statistics=True), "loss keeps statistics"),
        (lambda: create_population(lambda key, rate: None, [0, 1], [1e-3]), "a number for each of 2 members"),
    ],
)
def test_what_does_not_fit_is_refused(attempt, message):
    with pytest.raises(InvalidConfig, match=message):
        attempt()
