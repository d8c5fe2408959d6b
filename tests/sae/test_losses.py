"""Losses by hand, and where their gradients do and do not go."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.sae.autoencoders import decode, encode, initialize, pre_activations
from lexinv.sae.losses import LossConfig, budget_of, loss, start_statistics
from lexinv.sae.methods import AutoencoderConfig

WIDTH, FEATURES, TOKENS = 5, 12, 40
X = jnp.asarray(np.random.default_rng(0).normal(size=(TOKENS, WIDTH)), jnp.float32)


def started(kind: str, k: float = 2.0, coefficient: float = 0.0, **fields):
    config = AutoencoderConfig(WIDTH, FEATURES, kind, **fields)
    budgets = jnp.full(FEATURES, round(k * TOKENS / FEATURES)) if kind == "feature" else None
    return config, initialize(config, X, jax.random.key(0)), start_statistics(config, k, coefficient, budgets)


def variance() -> float:
    return float(np.square(np.asarray(X) - np.asarray(X).mean(axis=0)).sum(axis=1).mean())


def test_reconstruction_is_divided_by_the_variance():
    config, params, statistics = started("topk")
    total, (metrics, _) = jax.jit(lambda p: loss(config, LossConfig(), p, statistics, X))(params)
    error = X - decode(params, encode(config, params, X, 2).activations)
    assert float(total) == pytest.approx(np.square(error).sum(axis=1).mean() / variance(), rel=1e-5)
    assert float(metrics["fvu"]) == float(total) and float(metrics["l0"]) == 2.0


def test_losses_do_not_depend_on_the_scale_of_the_activations():
    """Thresholds and biases scaled along, everything is the same in other units."""
    for kind in ("relu", "gated", "topk"):
        config, params, statistics = started(kind, coefficient=0.3)
        scaled = params | {
            name: 10 * params[name] for name in ("encoder_bias", "decoder_bias", "magnitude_bias") if name in params
        }
        once, ten = (float(loss(config, LossConfig(), p, statistics, x)[0]) for p, x in ((params, X), (scaled, 10 * X)))
        assert ten == pytest.approx(once, rel=1e-4)


def test_l1_by_both_conventions():
    for free in (False, True):
        config, params, statistics = started("relu", coefficient=0.5, free_norms=free)
        params["decoder"] = 2.0 * params["decoder"]
        total, (metrics, _) = loss(config, LossConfig(), params, statistics, X)
        l1 = np.maximum(np.asarray(pre_activations(params, X)), 0).sum(axis=1).mean() * (2.0 if free else 1.0)
        assert float(total - metrics["fvu"]) == pytest.approx(0.5 * l1 / np.sqrt(variance()), rel=1e-4)


def test_the_coefficient_of_a_penalty_rises_from_zero():
    config, params, statistics = started("relu", coefficient=0.5)
    terms = LossConfig(coefficient_warmup=4)
    added = []
    for batches in (0, 1, 4, 9):
        total, (metrics, _) = loss(config, terms, params, statistics._replace(batches=jnp.int32(batches)), X)
        added.append(float(total - metrics["fvu"]))
    assert added[0] == 0.0
    np.testing.assert_allclose(added, added[2] * np.array([0, 0.25, 1, 1]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind, per_token", [("topk", True), ("mutual", False)])
def test_k_falls_from_the_width_to_its_value(kind, per_token):
    config, _, statistics = started(kind)
    terms, dense = LossConfig(k_anneal_steps=4), min(config.width, config.features)
    unit = 1 if per_token else TOKENS
    spent = [
        int(budget_of(config, terms, statistics._replace(batches=jnp.int32(batches)), TOKENS))
        for batches in (0, 2, 4, 9)
    ]
    assert spent == [dense * unit, (dense + 2) * unit // 2, 2 * unit, 2 * unit]


def test_gated_auxiliary_reconstruction_does_not_move_the_decoder():
    config, params, statistics = started("gated")
    params["magnitude_bias"] = jnp.full(
        FEATURES, -1e9
    )  # nothing is decoded: only the gate's own reconstruction remains
    gradient = jax.jit(jax.grad(lambda p: loss(config, LossConfig(), p, statistics, X)[0]))(params)
    np.testing.assert_array_equal(gradient["decoder"], 0.0)
    assert np.abs(gradient["encoder"]).max() > 0


def test_jumprelu_is_drawn_to_its_target():
    config, params, statistics = started("jumprelu", k=0.5, coefficient=1.0)
    total, (metrics, _) = loss(config, LossConfig(), params, statistics, X)
    assert float(total - metrics["fvu"]) == pytest.approx((float(metrics["l0"]) / 0.5 - 1) ** 2, rel=1e-4)
    gradient = jax.jit(jax.grad(lambda p: loss(config, LossConfig(), p, statistics, X)[0]))(params)["threshold"]
    assert (np.asarray(gradient) <= 1e-6).all() and np.asarray(
        gradient
    ).min() < 0  # too many are active: thresholds rise


def test_matryoshka_averages_its_prefixes():
    config, params, statistics = started("matryoshka", prefixes=(4, FEATURES))
    total, _ = loss(config, LossConfig(), params, statistics, X)
    z = encode(config, params, X, 2 * TOKENS).activations
    errors = [np.square(X - decode(params, z.at[:, stop:].set(0.0))).sum(axis=1).mean() for stop in (4, FEATURES)]
    assert float(total) == pytest.approx(np.mean(errors) / variance(), rel=1e-4)


def test_multi_topk_adds_an_eighth_at_four_times_k():
    config, params, statistics = started("topk")
    alone, wide = (float(loss(config, LossConfig(multi=multi), params, statistics, X)[0]) for multi in (False, True))
    error = X - decode(params, encode(config, params, X, 8).activations)
    assert wide - alone == pytest.approx(np.square(error).sum(axis=1).mean() / variance() / 8, rel=1e-3)


def added_by_the_auxiliary_term(config, terms, params, statistics) -> dict[str, np.ndarray]:
    """To the gradient, with the coefficient 1 against 0."""

    def gradient(coefficient: float) -> dict:
        changed = replace(terms, auxiliary_coefficient=coefficient)
        return jax.grad(lambda p: loss(config, changed, p, statistics, X)[0])(params)

    with_term, without = jax.jit(lambda: (gradient(1.0), gradient(0.0)))()
    return {name: np.asarray(with_term[name]) - np.asarray(without[name]) for name in params}


@pytest.mark.parametrize("auxiliary", ["dead", "zipf"])
def test_auxiliary_gradients_reach_under_used_features_only(auxiliary):
    """The difference that the term makes: zero for living features' encoder and decoder, not for those without use."""
    config, params, statistics = started("topk")
    unused = np.arange(FEATURES) >= 8
    since = jnp.asarray(np.where(unused, 10**6, 0), jnp.int32)
    density = jnp.asarray(np.where(unused, 1e-6, 0.5), jnp.float32)
    statistics = statistics._replace(tokens_since_fired=since, density=density, batches=jnp.int32(5))
    params["encoder"] = params["encoder"] * jnp.where(unused, 0.05, 1.0)[None]
    idle = unused & ~np.any(
        np.asarray(encode(config, params, X, 2).activations) > 0, axis=0
    )  # the others are alive again
    assert idle.sum() >= 2

    terms = LossConfig(auxiliary=auxiliary, auxiliary_k=3, dead_after=10**6)
    added = added_by_the_auxiliary_term(config, terms, params, statistics)
    np.testing.assert_array_equal(added["decoder"][~unused], 0.0)
    np.testing.assert_array_equal(added["encoder"][:, ~unused], 0.0)
    assert (np.abs(added["decoder"][idle]).max(axis=1) > 0).all()
    assert (np.abs(added["encoder"][:, idle]).max(axis=0) > 0).all()


def test_dead_features_are_drawn_to_their_thresholds():
    """By how far their pre-activations are below, over the root of the variance, as rows have norm 1; the living are left alone."""
    config, params, statistics = started("jumprelu")
    dead = np.arange(FEATURES) < 4
    params["threshold"] = jnp.where(dead, 50.0, params["threshold"])
    statistics = statistics._replace(tokens_since_fired=jnp.asarray(np.where(dead, 10**6, 0), jnp.int32))
    terms = LossConfig(auxiliary="distance", dead_after=10**6)
    total, plain = (
        float(loss(config, replace(terms, auxiliary_coefficient=each), params, statistics, X)[0]) for each in (1.0, 0.0)
    )
    pre = np.asarray((X - params["decoder_bias"][None]) @ params["encoder"] + params["encoder_bias"][None])
    assert total - plain == pytest.approx((50 - pre[:, dead]).sum(axis=1).mean() / variance() ** 0.5, rel=1e-4)
    added = added_by_the_auxiliary_term(config, terms, params, statistics)["encoder_bias"]
    assert (added[dead] < 0).all() and (added[~dead] == 0).all()


def test_statistics_count_tokens_and_firing():
    config, params, statistics = started("mutual")
    params["encoder_bias"] = params["encoder_bias"].at[3].set(-100.0)
    _, (_, once) = loss(config, LossConfig(), params, statistics, X)
    _, (_, twice) = loss(config, LossConfig(), params, once, X)
    assert int(twice.tokens_since_fired[3]) == 2 * TOKENS and int(twice.batches) == 2
    codes = np.asarray(encode(config, params, X, 2 * TOKENS).activations)
    np.testing.assert_allclose(once.density, (codes > 0).mean(axis=0), rtol=1e-6)


def test_feature_choice_follows_what_mutual_choice_wants():
    """From a fresh state: after a batch the ranks and the annealed budgets are those of the selection over the whole batch."""
    config, params, statistics = started("feature")
    budgets = jnp.arange(FEATURES, 0, -1)
    statistics = statistics._replace(budgets=budgets)
    params["encoder_bias"] = jnp.linspace(-0.5, 1.0, FEATURES)
    mutual = encode(replace(config, kind="mutual"), params, X, 2 * TOKENS).activations
    wanted = np.mean(np.asarray(mutual) > 0, axis=0)

    def budget(terms: LossConfig) -> np.ndarray:
        _, (_, after) = loss(config, terms, params, statistics, X)
        np.testing.assert_allclose(after.wanted, wanted if terms != LossConfig() else 1 / 6, rtol=1e-5)
        return np.asarray(budget_of(config, terms, after, TOKENS))

    np.testing.assert_array_equal(budget(LossConfig()), budgets)
    by_rank = budget(LossConfig(dynamic_ranks=True))
    np.testing.assert_array_equal(by_rank[np.argsort(-wanted, kind="stable")], budgets)
    annealed = budget(LossConfig(anneal_steps=10))  # a tenth of the way
    np.testing.assert_allclose(annealed, 0.9 * wanted * TOKENS + 0.1 * np.asarray(budgets), atol=1.5)


def test_long_dead_features_do_not_bend_the_zipf_law():
    """152 features that died long ago and 40 alive: all of the dead get their second chance, and none of the living."""
    config = AutoencoderConfig(WIDTH, 192, "topk")
    params, statistics = initialize(config, X, jax.random.key(0)), start_statistics(config, 2.0, 0.0)
    alive = np.arange(192) < 40
    density = np.where(alive, 0.3 * np.arange(1, 193.0) ** -0.9, 1e-7)
    statistics = statistics._replace(
        density=jnp.asarray(density, jnp.float32),
        tokens_since_fired=jnp.asarray(np.where(alive, 0, 10**6), jnp.int32),
        batches=jnp.int32(1000),
    )
    params["encoder"] = params["encoder"] * jnp.where(alive, 1.0, 0.01)[None]
    terms = LossConfig(auxiliary="zipf", auxiliary_k=200, dead_after=10**5)
    reached = np.abs(added_by_the_auxiliary_term(config, terms, params, statistics)["decoder"]).max(axis=1) > 0
    assert reached[~alive].mean() > 0.9 and not reached[alive].any()
