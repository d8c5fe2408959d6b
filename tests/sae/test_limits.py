"""What is refused before anything is compiled, and what the message says of it. Directories have their refusals beside them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.data.windows import array_windows
from lexinv.sae.absorption import absorption
from lexinv.sae.activation_streams import ComputedActivations, model_activations, scale_to_unit, shuffled
from lexinv.sae.autoencoders import initialize
from lexinv.sae.budgets import zipf_budgets
from lexinv.sae.difficulty import difficulty_use
from lexinv.sae.inference import encode_alone
from lexinv.sae.losses import LossConfig, check_terms, start_statistics
from lexinv.sae.methods import AutoencoderConfig
from lexinv.sae.metrics import add, start_sums, summarise
from lexinv.sae.probing import most_different
from lexinv.sae.synthetic import SyntheticConfig
from lexinv.sae.training import OptimizerConfig, create_autoencoder_state, make_optimizer
from lexinv.validation import InvalidConfig

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(size=(20, 3)), jnp.float32)
BROKEN = X.at[1, 0].set(jnp.nan)
TOPK, FEATURE = AutoencoderConfig(3, 8, "topk"), AutoencoderConfig(3, 8, "feature")
PARAMS = initialize(TOPK, X, KEY)
OPTIMIZER = make_optimizer(OptimizerConfig(warmup_steps=1), TOPK, 6)
SOURCE = ComputedActivations(3, np.array([5, 3]), lambda index: np.asarray(X[:5]))
WINDOWS = array_windows(np.arange(1, 71, dtype=np.uint8), 10)
HALF = np.arange(20)[:, None] < 9


def stream(buffer_rows=10, batch=2, **options):
    return shuffled(SOURCE, 0, buffer_rows, batch, **options)


REFUSED = [
    ("prefixes", lambda: AutoencoderConfig(6, 10, "matryoshka", prefixes=(3, 9))),
    ("prefixes", lambda: AutoencoderConfig(6, 10, "matryoshka", prefixes=(0, 10))),
    ("most_active", lambda: AutoencoderConfig(4, 8, "topk", most_active=9)),
    ("threshold", lambda: encode_alone(FEATURE, PARAMS, X, jnp.zeros(3))),
    ("k", lambda: encode_alone(TOPK, PARAMS, X, k=10)),
    (r"x = \(20, 2\).*\[tokens, 3\]", lambda: encode_alone(TOPK, PARAMS, X[:, :2], k=2)),  # of another model
    ("k", lambda: start_statistics(TOPK, 13.0, 0.0)),
    ("k", lambda: start_statistics(TOPK, 2.5, 0.0)),
    ("k", lambda: start_statistics(AutoencoderConfig(3, 8, "mutual"), 0.0, 0.0)),
    ("k", lambda: start_statistics(AutoencoderConfig(3, 8, most_active=5), 6.0, 0.0)),
    ("coefficient", lambda: start_statistics(TOPK, 2.0, -1.0)),
    ("budgets", lambda: start_statistics(FEATURE, 2.0, 0.0)),
    ("multi", lambda: check_terms(AutoencoderConfig(3, 8, most_active=5), LossConfig(multi=True))),
    (r"total = 9 .* 10 \(one for each feature\) to 200", lambda: zipf_budgets(9, 10, 20, 1.0)),
    ("total", lambda: zipf_budgets(201, 10, 20, 1.0)),
    ("l0", lambda: difficulty_use(np.ones(1), np.ones(1))),
    ("l0, difficulty", lambda: difficulty_use(np.ones(2), np.array([1.0, np.inf]))),
    ("labels", lambda: most_different(np.ones((20, 3)), HALF & False, 1)),
    ("k", lambda: most_different(np.ones((20, 3)), HALF, 4)),
    ("main", lambda: absorption(np.ones((20, 3)), np.ones((20, 2)), np.ones((3, 2)), np.eye(2)[:, :1], HALF, [])),
    (".*row 1 is not", lambda: add(start_sums(3, 3), *map(np.asarray, (BROKEN, BROKEN, X)))),
    (".*nothing to explain", lambda: summarise(add(start_sums(3, 3), *np.ones((3, 4, 3), np.float32)))),
    ("l0", lambda: SyntheticConfig(features=4)),
    ("orthogonal", lambda: SyntheticConfig(orthogonal=True)),
    ("parents", lambda: SyntheticConfig(parents=65)),
    ("activations", lambda: scale_to_unit(np.ones((3, 2), np.float32), 1.0)),
    ("activations", lambda: scale_to_unit(np.full((3, 2), np.inf, np.float32), 1.0)),
    ("buffer_rows", lambda: stream(buffer_rows=4)),
    ("batch", lambda: stream(batch=1)),
    ("steps_per_dispatch", lambda: stream(steps_per_dispatch=0)),
    ("scale", lambda: stream(scale=0.0)),
    ("windows_per_block", lambda: model_activations(lambda *_: X, PARAMS, WINDOWS, 0, KEY)),
    ("activations_fn", lambda: model_activations(lambda *_: X, PARAMS, WINDOWS, 3, KEY)),
    ("optimizer.warmup_steps", lambda: make_optimizer(OptimizerConfig(warmup_steps=10), TOPK, 10)),
    ("sample = 'not finite'", lambda: create_autoencoder_state(TOPK, OPTIMIZER, BROKEN, 2.0, 0.0, KEY)),
    (r"sample = .*tokens, 3", lambda: create_autoencoder_state(TOPK, OPTIMIZER, X[:, :2], 2.0, 0.0, KEY)),
]


@pytest.mark.parametrize("message, call", REFUSED)
def test_what_cannot_be_is_refused_by_name(message, call):
    with pytest.raises(InvalidConfig, match=rf"^{message}(?!\w)"):
        call()
