"""What every row of the table of variants promises, whatever it is: each of `METHODS` through every law."""

from dataclasses import replace
from functools import cache, partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.sae.autoencoders import decode, encode, encode_by_threshold, initialize, pre_activations
from lexinv.sae.inference import calibrate, encode_alone, make_reconstruct, to_jumprelu
from lexinv.sae.losses import LossConfig, budget_of, check_terms, loss, start_statistics
from lexinv.sae.methods import METHODS, AutoencoderConfig, Kind
from lexinv.validation import InvalidConfig

TOKENS, WIDTH, FEATURES, K = 50, 6, 9, 2
CASES = (*METHODS, "free")
TERMS = LossConfig(auxiliary="dead", auxiliary_k=3, dead_after=60)
SETTINGS = {
    "free_norms": True,
    "most_active": 3,
    "prefixes": (3, FEATURES),
    "multi": True,
    "k_anneal_steps": 5,
    "coefficient_warmup": 5,
    "dynamic_ranks": True,
    "anneal_steps": 5,
}
each = pytest.mark.parametrize("case", CASES)


def test_every_name_has_its_row():
    assert set(get_args(Kind)) == set(METHODS)
    assert set(SETTINGS) == {setting for method in METHODS.values() for setting in method.has}


@pytest.fixture(scope="module")
def world(autoencoder):
    """By case: config, random parameters, statistics of a run in which a third of the features are dead, threshold, k, and data."""

    @cache
    def made(case):
        config, params, threshold, k, x = autoencoder(case, WIDTH, FEATURES)
        by_feature = config.method.per == "feature"
        budgets = jnp.arange(FEATURES) + K * TOKENS // FEATURES - FEATURES // 2 if by_feature else None
        statistics = start_statistics(config, float(K), 0.3, budgets)
        dead = jnp.arange(FEATURES) % 3 == 0
        since = jnp.where(dead, 1000, 0)
        statistics = statistics._replace(tokens_since_fired=since, batches=jnp.int32(3))
        if "encoder_bias" in params:
            params = params | {"encoder_bias": jnp.where(dead, -4.0, params["encoder_bias"])}
        return config, params, statistics, threshold, k, x

    return made


def judged(config, params, statistics, x):
    """Codes, loss, metrics, statistics afterwards, and gradients."""
    codes = encode(config, params, x, budget_of(config, TERMS, statistics, x.shape[0]))
    function = jax.value_and_grad(lambda p: loss(config, TERMS, p, statistics, x), has_aux=True)
    return codes, function(params)


compiled = cache(lambda config: jax.jit(partial(judged, config)))


@pytest.fixture(scope="module")
def once(world):
    """By case: `judged`, compiled."""

    @cache
    def found(case):
        config, params, statistics, *_, x = world(case)
        return compiled(config)(params, statistics, x)

    return found


def close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **{"rtol": 2e-5, "atol": 2e-6} | tolerance), a, b)


@each
def test_begins_with_unit_rows_tied_to_the_encoder_at_the_mean(case, world):
    config, *_, x = world(case)
    params = initialize(config, x, jax.random.key(0))
    np.testing.assert_allclose(np.linalg.norm(params["decoder"], axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(params["decoder_bias"], np.asarray(x).mean(axis=0), rtol=1e-5)
    encoder = set() if config.method.tied else {"encoder", "encoder_bias"}
    assert params.keys() - config.method.own(config).keys() == encoder | {"decoder", "decoder_bias"}
    np.testing.assert_allclose(
        pre_activations(params, x), (x - params["decoder_bias"][None]) @ params["decoder"].T, rtol=1e-5, atol=1e-6
    )


@each
def test_shapes_signs_and_budgets(case, world, once):
    config, params, statistics, *_ = world(case)
    (affinities, z), ((total, (metrics, after)), gradient) = once(case)
    assert affinities.shape == z.shape == (TOKENS, FEATURES) and total.shape == ()
    fires = np.asarray(z) > 0
    assert (np.asarray(z) >= 0).all() and 0 < fires.mean() < 1
    assert config.method.tied or (np.asarray(affinities)[fires] > 0).all()
    assert float(metrics["l0"]) == pytest.approx(fires.sum() / TOKENS)
    axes, per = {"token": 1, "batch": None, "feature": 0}, config.method.per
    if config.method.tied:  # the first step takes the largest affinity; others may come back to it
        assert (fires.sum(axis=1) <= K).all() and fires[np.arange(TOKENS), np.asarray(affinities).argmax(axis=1)].all()
    elif per is not None:
        positive = (np.asarray(affinities) > 0).sum(axis=axes[per])
        wanted = {"token": K, "batch": K * TOKENS, "feature": np.asarray(statistics.budgets)}[per]
        np.testing.assert_array_equal(fires.sum(axis=axes[per]), np.minimum(wanted, positive))
    shapes = partial(jax.tree.map, lambda leaf: (leaf.shape, leaf.dtype))
    assert shapes(after) == shapes(statistics) and shapes(gradient) == shapes(params)


@each
def test_gradients_are_finite_and_reach_every_parameter(case, once):
    _, (_, gradient) = once(case)
    for name, leaf in gradient.items():
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, name


@each
def test_the_order_of_tokens_and_features_does_not_matter(case, world, once):
    """But for the prefixes of nested dictionaries, which are about the order of features."""
    config, params, statistics, *_, x = world(case)
    rows = np.random.default_rng(0).permutation(TOKENS)
    columns = np.arange(FEATURES) if config.prefixes else np.random.default_rng(1).permutation(FEATURES)

    def moved(leaf):
        if leaf.shape == (WIDTH, FEATURES):
            return leaf[:, columns]
        return leaf[columns] if leaf.shape[:1] == (FEATURES,) else leaf

    codes, ((total, (metrics, after)), gradient) = once(case)
    permuted = compiled(config)(jax.tree.map(moved, params), jax.tree.map(moved, statistics), x[rows])
    expected = (
        codes.__class__(*(part[rows][:, columns] for part in codes)),
        ((total, (metrics, jax.tree.map(moved, after))),),
    )
    close(permuted[0], expected[0])
    close(permuted[1][0], expected[1][0])
    close(permuted[1][1], jax.tree.map(moved, gradient))


@each
def test_a_token_by_itself_and_in_bfloat16(case, world):
    """Inference knows no batch; activations in half the bits give the same but for their rounding, in their own type."""
    config, params, _, threshold, k, x = world(case)
    together = np.asarray(encode_alone(config, params, x, threshold, k))
    np.testing.assert_allclose(together[:1], encode_alone(config, params, x[:1], threshold, k), atol=1e-6)
    half = x.astype(jnp.bfloat16)
    rebuilt = make_reconstruct(config, k)((params, threshold), half.reshape(5, 10, WIDTH))
    expected = decode(params, encode_alone(config, params, half.astype(jnp.float32), threshold, k))
    assert rebuilt.dtype == jnp.bfloat16 and rebuilt.shape == (5, 10, WIDTH)
    np.testing.assert_allclose(rebuilt.astype(jnp.float32).reshape(TOKENS, WIDTH), expected, rtol=1e-2, atol=1e-2)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    statistics = world(case)[2]
    assert encode(config, rounded, half, budget_of(config, TERMS, statistics, TOKENS)).activations.dtype == jnp.bfloat16


@each
def test_every_variant_but_topk_is_a_jumprelu(case, world):
    config, params, _, threshold, k, x = world(case)
    if config.method.needs == "k":
        with pytest.raises(InvalidConfig, match="does not count"):
            to_jumprelu(config, params)
        return
    codes = encode_alone(config, params, x, threshold, k)
    jump_config, jump = to_jumprelu(config, params, threshold)
    found = encode(jump_config, jump, x).activations
    np.testing.assert_array_equal(np.asarray(found) > 0, np.asarray(codes) > 0)
    np.testing.assert_allclose(decode(jump, found), decode(params, codes), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(jump["decoder"], axis=1), 1.0, rtol=1e-5)
    norms = np.linalg.norm(params["decoder"], axis=1)[None]
    np.testing.assert_allclose(found, np.asarray(codes) * norms, atol=1e-5)


@pytest.mark.parametrize("kind", ["mutual", "matryoshka", "feature", "topk", "gated"])
def test_calibrated_thresholds_spend_the_budget_of_a_batch(kind, autoencoder):
    config, params, _, _, x = autoencoder(kind)
    affinities, shares = np.maximum(np.asarray(pre_activations(params, x)), 0), np.linspace(0.02, 0.3, config.features)
    threshold = calibrate(config, affinities, 1.5, shares)
    if config.method.needs != "threshold":
        assert threshold is None
        return
    fires = np.asarray(encode_by_threshold(params, x, jnp.asarray(threshold))) > 0
    if kind == "feature":
        positive = (affinities > 0).sum(axis=0)
        np.testing.assert_array_equal(fires.sum(axis=0), np.minimum(np.round(shares * len(x)), positive))
    else:
        assert fires.sum() == round(1.5 * len(x))


def attempt(config, setting, value):
    if setting in AutoencoderConfig.__dataclass_fields__:
        replace(config, **{setting: value})
    else:
        check_terms(config, LossConfig(**{setting: value}))


@pytest.mark.parametrize("kind", METHODS)
def test_what_a_variant_does_not_have_is_refused(kind, world):
    """Settings of other variants, thresholds and k that it does not need or lacks, and a batch of one token."""
    config, params, statistics, threshold, k, x = world(kind)
    for setting, value in SETTINGS.items():
        if setting not in METHODS[kind].has:
            with pytest.raises(InvalidConfig, match=rf"^{setting} = "):
                attempt(config, setting, value)
    needs = METHODS[kind].needs
    for field, wrong in {
        "threshold": None if needs == "threshold" else 0.5,
        "k": None if needs == "k" else 2,
    }.items():
        with pytest.raises(InvalidConfig, match=rf"^{field} = "):
            encode_alone(config, params, x, **{"threshold": threshold, "k": k} | {field: wrong})
    with pytest.raises(InvalidConfig, match="batch = 1 "):
        jax.eval_shape(lambda: loss(config, TERMS, params, statistics, x[:1]))
