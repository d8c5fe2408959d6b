"""Losses of tuning: what they are where it is known, and the order of pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.decoding.preference import by_preference, dpo_loss, supervised_loss
from lexinv.validation import InvalidConfig


def test_dpo_begins_at_log_two_with_the_known_gradient():
    chosen, rejected = jnp.array([-3.0, -5.0]), jnp.array([-4.0, -2.0])
    loss, _ = dpo_loss(chosen, rejected, chosen, rejected, 0.3)
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)
    slopes = jax.grad(lambda c, r: dpo_loss(c, r, chosen, rejected, 0.3)[0], (0, 1))(chosen, rejected)
    np.testing.assert_allclose(slopes, [[-0.075, -0.075], [0.075, 0.075]], rtol=1e-6)


def test_dpo_weighs_what_the_reference_does_not_say_already():
    loss, metrics = dpo_loss(
        jnp.array([-1.0, -6.0]), jnp.array([-4.0, -2.0]), jnp.array([-2.0, -5.0]), jnp.array([-3.0, -2.0]), 0.5
    )
    want = np.log1p(np.exp(-0.5 * np.array([2.0, -1.0]))).mean()
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    np.testing.assert_allclose(metrics["preferred"], 0.5)
    with pytest.raises(InvalidConfig, match="beta"):
        dpo_loss(*[jnp.zeros(1)] * 4, 0.0)


def test_only_the_answer_is_imitated():
    log_probs = jnp.array([[-9.0, -1.0, -2.0], [-9.0, -9.0, -3.0]])
    answer = jnp.array([[False, True, True], [False, False, True]])
    np.testing.assert_allclose(supervised_loss(log_probs, answer), 2.0)
    np.testing.assert_allclose(supervised_loss(log_probs), 33 / 6, rtol=1e-6)


def test_the_text_with_the_higher_score_is_chosen():
    texts = jnp.arange(12).reshape(2, 2, 3)
    chosen, rejected = by_preference(texts, jnp.array([[0.1, 0.9], [5.0, -1.0]]))
    np.testing.assert_array_equal(chosen, [[3, 4, 5], [6, 7, 8]])
    np.testing.assert_array_equal(rejected, [[0, 1, 2], [9, 10, 11]])
