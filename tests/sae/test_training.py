"""The step: constraint, recovery, populations, runs on streams that resume, resampling."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.precision import double_precision
from lexinv.sae.activation_streams import ComputedActivations, scale_to_unit, shuffled
from lexinv.sae.budgets import zipf_budgets
from lexinv.sae.losses import LossConfig
from lexinv.sae.methods import AutoencoderConfig
from lexinv.sae.metrics import recovery
from lexinv.sae.synthetic import SyntheticConfig, make_dictionary, sample_tokens
from lexinv.sae.training import (
    OptimizerConfig,
    _tangent,
    create_autoencoder_state,
    make_autoencoder_step,
    make_optimizer,
    resample,
)
from lexinv.training.fit import fit
from lexinv.training.metrics import read_metrics
from lexinv.training.population import member
from lexinv.training.retention import CheckpointConfig

WIDTH, FEATURES, TOKENS = 8, 16, 64
X = jnp.asarray(np.random.default_rng(0).normal(size=(6, TOKENS, WIDTH)), jnp.float32)
ROWS = np.random.default_rng(2).normal(size=(50, 3)).astype(np.float32)
TERMS = LossConfig(auxiliary="dead", auxiliary_k=4, dead_after=100)
CONFIG = AutoencoderConfig(WIDTH, FEATURES, "mutual")
OPTIMIZER = make_optimizer(OptimizerConfig(warmup_steps=1), CONFIG, 6)
STEP = make_autoencoder_step(CONFIG, TERMS, OPTIMIZER)  # one for all tests: compiled once for each number of steps


def started(seed: int = 0, k: float = 2.0):
    return create_autoencoder_state(CONFIG, OPTIMIZER, X[0], k, 0.1, jax.random.key(seed))


@pytest.fixture(scope="module")
def half():
    """The state after half of the batches."""
    return STEP(started(), {"activations": X[:3]})[0]


def leaves(tree) -> list[np.ndarray]:
    return [
        np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in jax.tree.leaves(tree)
    ]


def assert_equal(a, b):
    for left, right in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_array_equal(left, right)


def test_decoder_stays_on_the_sphere_and_moves_along_it(half):
    before, after = (np.asarray(state.params["decoder"]) for state in (started(), half))
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1.0, atol=1e-6)
    assert np.abs(after - before).max() > 1e-4


def test_gradients_of_unit_rows_are_orthogonal_to_them():
    state = started()
    gradients = jax.tree.map(
        lambda leaf: jnp.asarray(np.random.default_rng(1).normal(size=leaf.shape), jnp.float32), state.params
    )
    projected = _tangent(gradients, state.params)["decoder"]
    np.testing.assert_allclose(
        np.sum(np.asarray(projected) * np.asarray(state.params["decoder"]), axis=1), 0.0, atol=1e-6
    )


@pytest.fixture(scope="module")
def orthogonal():
    """Two of 16 orthogonal features at a time: their directions, and 300 batches of tokens."""
    data = SyntheticConfig(width=16, features=16, l0=2.0, alpha=0.0, difficulty=0.0, orthogonal=True, spread=1.0)
    dictionary = make_dictionary(data, jax.random.key(0))
    tokens = sample_tokens(data, dictionary, 300 * TOKENS, jax.random.key(1))
    return np.asarray(dictionary), {"activations": tokens.activations.reshape(300, TOKENS, 16)}


@pytest.mark.parametrize(
    "kind, coefficient",
    [
        ("relu", 0.2),
        ("gated", 0.3),
        ("jumprelu", 0.1),
        ("topk", 0.0),
        ("mutual", 0.0),
        ("feature", 0.0),
        ("pursuit", 0.0),
    ],
)
def test_orthogonal_features_are_recovered(kind, coefficient, orthogonal):
    """Twice as many latents as features, so that none is stuck between two; Feature Choice, which uses all it has, as many as there are."""
    dictionary, batches = orthogonal
    features = 16 if kind == "feature" else 32
    config = AutoencoderConfig(16, features, kind, most_active=2 if kind == "pursuit" else 0)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=2e-2, warmup_steps=10), config, 300)
    budgets = jnp.asarray(zipf_budgets(2 * TOKENS, 16, TOKENS, 0.0)) if kind == "feature" else None
    sample = batches["activations"][0]
    state = create_autoencoder_state(config, optimizer, sample, 2.0, coefficient, jax.random.key(2), budgets)
    terms = LossConfig(auxiliary="dead", auxiliary_k=4, dead_after=500, auxiliary_coefficient=0.25)
    state, _ = make_autoencoder_step(config, terms, optimizer)(state, batches)
    found = recovery(np.asarray(state.params["decoder"]), dictionary, np.ones((1, features)), np.ones((1, 16)))
    assert found.mcc > 0.99


def test_members_of_a_population_are_single_runs(half):
    seeds, ks = (0, 1), (1.0, 2.5)
    together = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(started(seed, k) for seed, k in zip(seeds, ks, strict=True))
    )
    step = make_autoencoder_step(CONFIG, TERMS, OPTIMIZER, "vmap")
    together, metrics = step(together, {"activations": X[:3]})
    assert metrics["fvu"].shape == (3, 2)
    for index, (seed, k) in enumerate(zip(seeds, ks, strict=True)):
        alone, _ = STEP(started(seed, k), {"activations": X[:3]})
        for left, right in zip(leaves(member(together, index)), leaves(alone), strict=True):
            np.testing.assert_allclose(left, right, rtol=2e-4, atol=1e-5)


STEPS = 12
DEAD = LossConfig(auxiliary="dead", auxiliary_k=2, dead_after=20)
STREAMED = {"mutual": DEAD, "feature": LossConfig(dead_after=20, dynamic_ranks=True, anneal_steps=5)}


class Stopped(Exception):
    pass


@cache
def streamed(kind):
    """Config, optimizer and step: compiled once for all runs."""
    config = AutoencoderConfig(3, 8, kind)
    optimizer = make_optimizer(OptimizerConfig(warmup_steps=1), config, STEPS)
    return config, optimizer, make_autoencoder_step(config, STREAMED[kind], optimizer)


def run_on_stream(kind, folder, stop_after=STEPS):
    """A run on 50 rows in blocks, from the newest checkpoint in the folder; three dispatches end within an epoch and within a group."""
    source = ComputedActivations(3, np.array([4] * 12 + [2]), lambda index: ROWS[4 * index : 4 * index + 4])
    scale = scale_to_unit(ROWS[:20], 1.0)
    k = 0.5 if kind == "mutual" else 2.0
    budgets = jnp.array([6, 5, 3, 2, 0, 0, 0, 0]) if kind == "feature" else None
    (config, optimizer, step), calls = streamed(kind), iter(range(STEPS))

    def stopping(state, batches):
        if next(calls) == stop_after:
            raise Stopped
        return step(state, batches)

    return fit(
        create_autoencoder_state(config, optimizer, jnp.asarray(ROWS[:6]), k, 0.1, jax.random.key(0), budgets),
        stopping,
        shuffled(source, 3, 17, 8, 2, scale),
        steps=STEPS,
        directory=folder,
        metadata={"config_hash": kind},
        tokens_per_step=8,
        checkpoints=CheckpointConfig(steps=4),
        progress=False,
    )


@pytest.mark.parametrize("kind", ["mutual", "feature"])
def test_an_interrupted_run_on_a_stream_resumes_bit_by_bit(kind, tmp_path):
    """Parameters, moments, thresholds, densities, counters and metrics."""
    whole = run_on_stream(kind, tmp_path / "whole")
    with pytest.raises(Stopped):
        run_on_stream(kind, tmp_path / "stopped", 3)
    resumed = run_on_stream(kind, tmp_path / "stopped")
    statistics = resumed.statistics
    assert int(statistics.batches) == STEPS and (np.asarray(statistics.threshold) > 0).any()
    assert np.asarray(statistics.density).std() > 0 and np.asarray(statistics.tokens_since_fired).max() > 0
    assert_equal(resumed, whole)
    assert read_metrics(tmp_path / "whole/metrics.jsonl") == read_metrics(tmp_path / "stopped/metrics.jsonl")


@jax.jit
def resampled(state, x, key):
    return resample(CONFIG, LossConfig(dead_after=500), state, OPTIMIZER, x, key)


def test_resampling_renews_the_dead_only(half):
    state = half
    dead = np.arange(FEATURES) % 4 == 0
    since = jnp.asarray(np.where(dead, 1000, 10), jnp.int32)
    state = state._replace(statistics=state.statistics._replace(tokens_since_fired=since))
    after = resampled(state, X[0], jax.random.key(3))
    for name, rows in (("decoder", lambda p: p), ("encoder", lambda p: p.T), ("encoder_bias", lambda p: p)):
        before, now = (np.asarray(rows(tree.params[name])) for tree in (state, after))
        np.testing.assert_array_equal(now[~dead], before[~dead])
        assert (now[dead] != before[dead]).any()
    decoder, encoder = np.asarray(after.params["decoder"])[dead], np.asarray(after.params["encoder"]).T[dead]
    np.testing.assert_allclose(np.linalg.norm(decoder, axis=1), 1.0, rtol=1e-5)
    alive = np.linalg.norm(np.asarray(state.params["encoder"]), axis=0)[~dead].mean()
    np.testing.assert_allclose(encoder, 0.2 * alive * decoder, rtol=1e-4)
    moments = [leaf for leaf in leaves(after.optimizer_state) if leaf.shape == (FEATURES, WIDTH)]
    assert len(moments) == 2 and all((leaf[dead] == 0).all() and (leaf[~dead] != 0).any() for leaf in moments)
    np.testing.assert_array_equal(after.statistics.tokens_since_fired, np.where(dead, 0, 10))


EVERY_TERM = {
    "relu": {"coefficient_warmup": 3},
    "gated": {},
    "jumprelu": {},
    "topk": {"multi": True, "k_anneal_steps": 3},
    "mutual": {"k_anneal_steps": 3},
    "feature": {"dynamic_ranks": True, "anneal_steps": 3},
    "matryoshka": {},
    "pursuit": {},
    "topk of few entries": {},
}


@pytest.mark.parametrize("name", EVERY_TERM)
def test_no_type_depends_on_the_default_precision(name):
    """Traced only: a scan whose carry changes its type fails there. "zipf" does all that "dead" does."""
    kind, few = name.split()[0], " " in name
    prefixes = (4, 16) if kind == "matryoshka" else ()
    config = AutoencoderConfig(8, 16, kind, prefixes=prefixes, most_active=6 if few or kind == "pursuit" else 0)
    terms = LossConfig(auxiliary="zipf", **EVERY_TERM[name])
    budgets = jnp.full(16, 4, jnp.int32) if kind == "feature" else None
    x = jnp.ones((2, 32, 8), jnp.float32)
    with double_precision():
        optimizer = make_optimizer(OptimizerConfig(warmup_steps=1), config, 10)
        start = partial(create_autoencoder_state, config, optimizer, budgets=budgets)
        state = jax.eval_shape(lambda x, key: start(x, 4.0, 0.1, key), x[0], jax.random.key(0))
        after, metrics = jax.eval_shape(make_autoencoder_step(config, terms, optimizer), state, {"activations": x})
        renewed = jax.eval_shape(lambda state: resample(config, terms, state, optimizer, x[0], state.key), state)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(state)} == {"float32", "int32", "key<fry>"}
    assert types(after) == types(state) == types(renewed)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(metrics)} == {"float32"}


def types(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
