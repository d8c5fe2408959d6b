"""Models of first-order binary sources: windows of one long stream, and which of kernel and stationary distribution a model has found."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from experiments.harness.curves import bins, rounded
from lexinv.data.markov import Kernel, symbol_distribution
from lexinv.data.markov_sampling import stationary_text
from lexinv.data.windows import Windows, array_windows
from lexinv.nn.language_model import Params, make_logits
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig

LEXICON = LexiconConfig("standard")


def windows_of(kernel: Kernel, key: Key[Array, ""], count: int, context: int) -> Windows:
    """`count` windows that follow each other in one long stream of the source."""
    return array_windows(stationary_text(key, kernel, count * context), context)


def evaluate(model: TransformerConfig, params: list[Params], kernel: Kernel, windows: np.ndarray) -> dict[str, Any]:
    """By seed, over all symbols but the first of each window: excess, its standard error, state, and map.

    excess: mean nats above those of the kernel itself on the same symbols, so that the luck of the sample cancels; its expectation is the
    loss minus H_inf. map: mean P(1 | last symbol) for each last symbol and bin of positions.
    """
    logits = jax.jit(make_logits(model, LEXICON, 2))
    batch = {"tokens": jnp.asarray(windows), "row": jnp.arange(len(windows))}
    last, following = windows[:, :-1], windows[:, 1:]
    truth, pi = kernel[:, 1][last], symbol_distribution(kernel)[1]
    binned = bins(last.shape[1], max(last.shape[1] // 16, 1))[1]
    found: dict[str, Any] = {"excess": [], "error": [], "state": [], "map": []}
    for tree in params:
        log_probs = np.asarray(jax.nn.log_softmax(logits(tree, batch, jax.random.key(0))), np.float64)[:, 1:]
        excess = np.log(kernel[last, following]) - np.take_along_axis(log_probs, following[..., None], axis=2)[..., 0]
        by_window = excess.mean(axis=1)
        predicted = np.exp(log_probs[..., 1])
        found["excess"].append(round(float(by_window.mean()), 6))
        found["error"].append(round(float(by_window.std(ddof=1) / np.sqrt(len(windows))), 6))
        found["state"].append(state(predicted, truth, pi))
        found["map"].append(
            [rounded(binned(np.ma.array(predicted, mask=last != x).mean(axis=0).filled(pi)[None])[0]) for x in (0, 1)]
        )
    return found


def state(predicted: np.ndarray, truth: np.ndarray, pi: float) -> str:
    """Which of kernel and stationary distribution P(1) is within a tenth of the range of the kernel of, on average; "between" if none."""
    span = truth.max() - truth.min()
    distances = {"kernel": np.abs(predicted - truth).mean(), "stationary": np.abs(predicted - pi).mean()}
    return next((name for name, distance in distances.items() if distance < 0.1 * span), "between")
