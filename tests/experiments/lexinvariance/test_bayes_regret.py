"""What is measured on drawn and on adversarial texts."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lexinvariance.bayes_regret import PRESETS, decipher, measure
from lexinv.lexinvariance.bayes import regret_bound
from lexinv.precision import double_precision

TIMES = np.arange(1, 257)


@pytest.fixture(scope="module")
def measured():
    """Two seeds, 30 texts of low entropy sources and 10 others, of which every second is one symbol only."""
    with double_precision():
        rngs = jnp.stack([jax.random.key(0), jax.random.key(1)])
        return jax.device_get(measure(rngs, 3, 0.3, 48, 30, 10))


def test_measurements_of_drawn_and_adversarial_texts(measured):
    assert measured.l1.shape == (2, 40, 48)
    assert np.all(measured.regret <= regret_bound(3, measured.symbols) + 1e-9)
    assert np.all(measured.symbols[:, 31::2] == 1)
    assert np.all(measured.symbols[:, :, 0] == 1)
    # Nothing is known of the first symbol; in the end the key is, which is not the identity.
    assert 0.2 < measured.accuracy[:, :30, 0].mean() < 0.75
    assert measured.accuracy[:, :30, -1].mean() > 0.9
    assert measured.l1[:, :30, -8:].mean() < 0.1 * measured.l1[:, :30, :8].mean()


def test_texts_are_the_same_under_another_implementation_of_keys():
    config = replace(PRESETS["smoke"], length=16, sequences=2, adversarial=1)
    wanted = decipher(config, 3, 1.0, TIMES[:16])
    with jax.default_prng_impl("rbg"):
        assert decipher(config, 3, 1.0, TIMES[:16]) == wanted
