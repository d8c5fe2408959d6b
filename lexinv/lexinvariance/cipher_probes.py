"""Probes of a language model that reads ciphers: can the plain symbol under the present one be read off its hidden states?

Huang et al. 2023, deciphering. Every window is enciphered with a key of its own, so that only what was inferred from the context tells.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from lexinv.lexinvariance.cipher import Ciphers
from lexinv.lexinvariance.probes import ProbeConfig, fit_probe, probe_log_probs
from lexinv.nn.language_model import Params, make_hidden_states
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.streams import stream


class Probed(NamedTuple):
    """What a probe of every level reads on held-out windows. level: whose loss was lowest in the last tenth of training, in nats."""

    level: int
    loss: float
    log_probs: Float[np.ndarray, "windows time vocab"]
    """Of that level, in nats: those of all would fill the memory."""
    accuracy: Float[np.ndarray, "levels time"]


def make_probing(
    model: TransformerConfig, lexicon: LexiconConfig, vocab: int
) -> Callable[[Params, ProbeConfig, Ciphers, Ciphers, int, int], Probed]:
    """`probe(params, config, train, held_out, rows, seed)` for frozen models of one kind; its two programs are compiled once.

    Windows are read `rows` at a time, those of `train` each once. The last symbol of a window is not read.
    """
    states = make_hidden_states(model, lexicon, vocab)

    def flat(params: Params, batch: dict[str, Any]) -> jax.Array:
        found = states(params, {"tokens": batch["tokens"], "row": batch["row"]}, jax.random.key(0))
        return found.reshape(len(found), -1, model.width)

    @jax.jit
    def predict(params, probe, batch):
        rows, time = batch["tokens"].shape
        return probe_log_probs(probe, flat(params, batch)).reshape(-1, rows, time - 1, vocab)

    def fit(params, rng, batches, labels, config):
        return fit_probe(rng, config, vocab, lambda batch: flat(params, batch), batches, labels)

    fit = jax.jit(fit, static_argnums=4)

    def probe(params: Params, config: ProbeConfig, train: Ciphers, held_out: Ciphers, rows: int, seed: int) -> Probed:
        count = config.steps * rows
        # A row of its own for every sequence, so that no two of them share a lexicon.
        batches = {
            "tokens": train.cipher[:count].reshape(config.steps, rows, -1),
            "row": np.arange(count, dtype=np.int32).reshape(config.steps, rows),
        }
        labels = train.plain[:count, :-1].reshape(config.steps, -1)
        rng = stream(jax.random.key(seed), f"probe-{config.hidden}")
        fitted, losses = fit(params, rng, batches, labels, config)
        final = np.asarray(losses[-max(config.steps // 10, 1) :]).mean(axis=0)
        level, kept, right = int(final.argmin()), [], []
        for start in range(0, len(held_out.plain), rows):
            tokens = held_out.cipher[start : start + rows]
            row = np.arange(len(tokens), dtype=np.int32) + count + start
            log_probs = np.asarray(predict(params, fitted, {"tokens": tokens, "row": row}))
            kept.append(log_probs[level])
            right.append(log_probs.argmax(axis=-1) == held_out.plain[None, start : start + rows, :-1])
        accuracy = np.concatenate(right, axis=1).mean(axis=1)
        return Probed(level, float(final[level]), np.concatenate(kept), accuracy)

    return probe


def probe_features(
    train: Float[np.ndarray, "fitted time features"],
    train_labels: Int[np.ndarray, "fitted time"],
    held_out: Float[np.ndarray, "windows time features"],
    held_out_labels: Int[np.ndarray, "windows time"],
    classes: int,
    config: ProbeConfig,
    seed: int,
) -> Probed:
    """The same probe of other features than hidden states, as of one level; every step sees all windows of `train`."""
    rng = stream(jax.random.key(seed), f"probe-{config.hidden}")
    features = jnp.asarray(train).reshape(1, -1, train.shape[2])
    labels = np.broadcast_to(train_labels.reshape(1, -1), (config.steps, train_labels.size))
    fit = jax.jit(lambda labels: fit_probe(rng, config, classes, lambda _: features, labels[:, :1], labels))
    fitted, losses = fit(labels)
    log_probs = np.asarray(probe_log_probs(fitted, jnp.asarray(held_out).reshape(1, -1, held_out.shape[2])))
    log_probs = log_probs.reshape(*held_out_labels.shape, classes)
    accuracy = (log_probs.argmax(axis=-1) == held_out_labels).mean(axis=0)
    return Probed(0, float(losses[-1, 0]), log_probs, accuracy[None])
