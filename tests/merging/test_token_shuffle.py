"""Fused codes: windows against loops, causality, the plain model at side 1, drawing against teacher forcing, marginals."""

from dataclasses import replace
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.merging.fused_sampling import marginal_nll, sample
from lexinv.merging.token_shuffle import (
    FusedConfig,
    code_windows,
    fused_nll,
    guidance_schedule,
    image_flops,
    initialize,
    window_logits,
    window_merge,
    window_partition,
    z_loss,
)
from lexinv.nn.transformer import Transformer, TransformerConfig
from lexinv.validation import InvalidConfig

LAYERS = TransformerConfig(1, 16, 2, 24, "learned", 16)
FUSED = FusedConfig(LAYERS, codes=3, words=5)
SINGLE = replace(FUSED, codes=2, side=1)
PROMPT = jnp.array([[1, 4], [2, 2]])
logits_of = jax.jit(window_logits, static_argnums=0)


def random_params(config, scale=1.0):
    """With MLPs that add something."""
    begun = initialize(config, jax.random.key(0))
    for name in ("shuffle", "unshuffle"):
        begun[name]["mlp_out"] = 0.3 * jax.random.normal(jax.random.key(1), begun[name]["mlp_out"].shape)
    return begun | {"readout": scale * begun["readout"]}


def random_windows(config, m):
    return jax.random.randint(jax.random.key(2), (2, m, config.fused), 0, config.codes)


def test_windows_by_hand():
    """Windows row by row, and the codes of each row by row."""
    grid = np.arange(16).reshape(1, 4, 4)
    expected = [[[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]]
    np.testing.assert_array_equal(code_windows(grid, 2, 16), expected)


@pytest.mark.parametrize("s", [1, 2, 3])
def test_partition_against_loops_and_inverse(s):
    x = jax.random.normal(jax.random.key(s), (2 * s, 3 * s, 5))
    found = window_partition(x, s)
    for row, column, i, j in product(range(2), range(3), range(s), range(s)):
        part = found[3 * row + column].reshape(s, s, 5)[i, j]
        np.testing.assert_array_equal(part, x[row * s + i, column * s + j])
    np.testing.assert_array_equal(window_merge(found, 2 * s, 3 * s, s), x)
    several = jnp.stack([x, -x])
    np.testing.assert_array_equal(window_merge(window_partition(several, s), 2 * s, 3 * s, s), several)


@pytest.mark.parametrize("fusion", ["concatenate", "mean"])
def test_a_window_is_read_only_after_itself(fusion):
    config = replace(FUSED, fusion=fusion)
    params, windows = random_params(config), random_windows(config, 4)
    before = logits_of(config, params, PROMPT, windows)
    for code in range(4):
        changed = logits_of(config, params, PROMPT, windows.at[:, 1, code].add(1) % 3)
        np.testing.assert_allclose(changed[:, :2], before[:, :2], atol=1e-6)
        assert float(jnp.abs(changed[:, 2:] - before[:, 2:]).max(axis=(2, 3)).min()) > 1e-3


def test_mean_forgets_who_stood_where():
    windows = random_windows(FUSED, 4)
    for config, least, most in ((replace(FUSED, fusion="mean"), -1, 1e-5), (FUSED, 0.1, np.inf)):
        one, turned = (logits_of(config, random_params(config), PROMPT, w) for w in (windows, windows[:, :, ::-1]))
        assert least < float(jnp.abs(one - turned).max()) < most


def test_side_one_with_mlps_that_add_nothing_is_the_plain_model():
    params, windows = initialize(SINGLE, jax.random.key(0)), random_windows(SINGLE, 4)
    x = params["codes"][windows[:, :-1, 0]] @ params["fuse"]["kernel"]
    hidden, _ = Transformer(LAYERS).apply(
        {"params": params["transformer"]}, jnp.concatenate([params["words"][PROMPT], x], axis=1)
    )
    plain = hidden[:, 1:] @ params["split"]["kernel"] @ params["readout"]
    np.testing.assert_allclose(logits_of(SINGLE, params, PROMPT, windows)[:, :, 0], plain, atol=1e-5)


@pytest.mark.parametrize("side", [1, 2, 4])
def test_parameters_beside_the_transformer(side):
    """Tables, two matrices between the width and its s^2-th part, two blocks of two matrices on either side, the head."""
    shapes = jax.eval_shape(lambda: initialize(replace(FUSED, side=side), jax.random.key(0)))
    found = sum(leaf.size for name, part in shapes.items() if name != "transformer" for leaf in jax.tree.leaves(part))
    assert found == 16 * (5 + 3) + 2 * 16 * 16 // side**2 + 2 * 2 * 2 * 16**2 + 16 * 3


def test_fused_nll_is_the_mean_over_codes():
    logits, targets = jax.random.normal(jax.random.key(3), (2, 4, 3)), jnp.array([[0, 2, 1, 1], [2, 0, 0, 1]])
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    nats = [-np.log(shares[m, c, targets[m, c]]) for m in range(2) for c in range(4)]
    np.testing.assert_allclose(fused_nll(logits, targets), np.mean(nats), rtol=1e-6)


def test_drawn_codes_have_the_chances_of_teacher_forcing():
    params = random_params(FUSED)
    found = sample(FUSED, params, PROMPT, 4, jax.random.key(5))
    forced = jax.nn.log_softmax(logits_of(FUSED, params, PROMPT, found.windows))
    chosen = jnp.take_along_axis(forced, found.windows[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(found.log_probs, chosen, atol=1e-5)


def test_guidance_moves_away_from_the_unconditional():
    params, null, strengths = random_params(FUSED), jnp.zeros(2, jnp.int32), jnp.array([1.0, 3.0, 0.0, 2.0])
    found = sample(FUSED, params, PROMPT, 4, jax.random.key(5), guidance=strengths, null=null)
    c = logits_of(FUSED, params, PROMPT, found.windows)
    u = logits_of(FUSED, params, jnp.broadcast_to(null, PROMPT.shape), found.windows)
    forced = jax.nn.log_softmax(u + strengths[None, :, None, None] * (c - u))
    chosen = jnp.take_along_axis(forced, found.windows[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(found.log_probs, chosen, atol=1e-5)


def test_codes_of_a_window_are_independent():
    """Pairs in the first window of 4,000 images: their shares are products of the chances that the logits give."""
    params = random_params(FUSED, 2.0)
    drawn = np.asarray(sample(FUSED, params, jnp.tile(PROMPT[:1], (4000, 1)), 4, jax.random.key(6)).windows[:, 0])
    chances = jax.nn.softmax(logits_of(FUSED, params, PROMPT, random_windows(FUSED, 4))[0, 0])
    for a, b in ((0, 1), (0, 3), (2, 3)):
        pairs = np.zeros((3, 3))
        np.add.at(pairs, (drawn[:, a], drawn[:, b]), 1 / 4000)
        expected = np.outer(chances[a], chances[b])
        assert (np.abs(pairs - expected) < 4.5 * np.sqrt(expected * (1 - expected) / 4000)).all()


def test_marginals_against_all_cases():
    """Two windows of four bits: the others of a window are summed out by hand."""
    params, codes = random_params(SINGLE, 3.0), random_windows(SINGLE, 8)[..., 0]
    found = marginal_nll(SINGLE, params, PROMPT, codes, 4, 2000, jax.random.key(7))

    def joint(image, window):
        """Chances [2, 2, 2, 2] of the window's codes after the windows before it."""
        cases = np.array(list(product((0, 1), repeat=4)))
        texts = np.tile(np.asarray(codes[image]), (16, 1))
        texts[:, 4 * window : 4 * window + 4] = cases
        logits = logits_of(SINGLE, params, jnp.tile(PROMPT[image][None], (16, 1)), jnp.asarray(texts)[..., None])
        log_probs = np.asarray(jax.nn.log_softmax(logits))[:, 4 * window : 4 * window + 4, 0]
        return np.exp(np.take_along_axis(log_probs, cases[..., None], axis=-1).sum(axis=(1, 2))).reshape(2, 2, 2, 2)

    for image, window in product(range(2), range(2)):
        chances = joint(image, window)
        for place in range(4):
            alone = chances.sum(axis=tuple(other for other in range(4) if other != place))
            expected = alone[codes[image, 4 * window + place]]
            # A draw's chance is within 0 and 1, so that its deviation is at most that of a coin.
            error = 4.5 * np.sqrt(expected * (1 - expected) / 2000) if place else 1e-4
            assert abs(np.exp(-found[image, window, place]) - expected) < error


def test_half_linear_guidance():
    ramp = guidance_schedule(8, 5.0, "half_linear")
    np.testing.assert_allclose(ramp, [1, 2, 3, 4, 5, 5, 5, 5])
    np.testing.assert_allclose(guidance_schedule(4, 5.0, "linear"), [1, 2, 3, 4])
    np.testing.assert_allclose(guidance_schedule(3, 5.0, "constant"), 5)


def test_z_loss_is_least_where_logits_are_log_probabilities():
    normal = jax.nn.log_softmax(jnp.array([[0.3, -1.0, 2.0]]))
    np.testing.assert_allclose(jax.grad(z_loss)(normal), 0, atol=1e-6)
    np.testing.assert_allclose(z_loss(normal + 2), 4, rtol=1e-5)


def test_windows_save_operations_but_for_the_head():
    """A Transformer without attention to itself costs the same a token: 4 windows for 16 codes, and the prompt."""
    one, four = (image_flops(replace(FUSED, side=s, blocks=0), 1, 16 // s**2) for s in (1, 2))
    codes = [16 * 2 * (2 * 16 * 16 // s**2 + 16 * 3) for s in (1, 2)]
    token = 2 * (4 * 16 * 16 + 2 * 16 * 24)
    attention = [2 * 2 * 16 * n * (n + 1) / 2 for n in (16, 4)]
    head = [2 * 16 * n for n in (16, 4)]
    np.testing.assert_allclose(
        [one, four], [n * token + a + c + h for n, a, c, h in zip((16, 4), attention, codes, head, strict=True)]
    )


@pytest.mark.parametrize(
    ("field", "call"),
    [
        ("s", lambda: code_windows(np.zeros((1, 6, 4), int), 4, 2)),
        ("s", lambda: code_windows(np.zeros((1, 4, 6), int), 4, 2)),
        ("codes", lambda: code_windows(np.full((1, 4, 4), 2), 2, 2)),
        ("codes", lambda: code_windows(np.full((1, 4, 4), -1), 2, 2)),
        ("x", lambda: window_merge(jnp.zeros((3, 8)), 4, 4, 2)),
        ("layers.width", lambda: replace(FUSED, side=3)),
        ("layers.causal", lambda: replace(FUSED, layers=replace(LAYERS, causal=False))),
        ("layers.positions", lambda: replace(FUSED, layers=replace(LAYERS, positions="relative"))),
        ("null", lambda: sample(FUSED, {}, PROMPT, 2, jax.random.key(0), guidance=jnp.ones(2))),
        ("config.side", lambda: marginal_nll(FUSED, {}, PROMPT, jnp.zeros((2, 8), int), 4, 2, jax.random.key(0))),
        ("codes", lambda: marginal_nll(SINGLE, {}, PROMPT, jnp.zeros((2, 6), int), 4, 2, jax.random.key(0))),
        ("samples", lambda: marginal_nll(SINGLE, {}, PROMPT, jnp.zeros((2, 8), int), 4, 3, jax.random.key(0))),
    ],
)
def test_bad_input_is_named(field, call):
    with pytest.raises(InvalidConfig, match=rf"^{field} = "):
        call()
