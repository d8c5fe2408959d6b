"""Sparse autoencoders judged against the features that made their activations, beside references that know more or learn less."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from experiments.harness.arms import by_metric
from experiments.subjects.sparse_activations import Trained, TrainingConfig, encode_batch, warn_off_target, world
from lexinv.sae.autoencoders import decode, encode_by_threshold, pre_activations
from lexinv.sae.inference import calibrate
from lexinv.sae.metrics import add, collapse, principal_components, recovery, start_sums, summarise
from lexinv.sae.pursuit import matching_pursuit
from lexinv.sae.synthetic import SyntheticConfig

UNDER_USED = 1e-3
"""A feature that fires in fewer tokens than this share is under-used."""
LEAST = 1e-6
"""Less than the share of one feature among all: rules are strict, and a share of features that is to be 0 has to be below it."""
REFERENCES = {"pursuit": "oracle: matching pursuit", "components": "principal components"}
"""What `refer` measures."""


def encode_held_out(trained: Trained, member: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Codes [tokens, latents] and reconstructions [tokens, width] of the held-out tokens, in batches as in training."""
    state = trained.members[member]
    parts = [
        encode_batch(trained.config, trained.variant.loss, state.params, state.statistics, x)
        for x in trained.held_out.activations.reshape(-1, trained.batch, trained.config.width)
    ]
    return np.concatenate([codes for codes, _ in parts]), np.concatenate([found for _, found in parts])


def refer(data: SyntheticConfig, ks: Sequence[float], training: TrainingConfig, seed: int) -> dict[str, list[float]]:
    """FVU of the principal components of rank k, and of k steps of matching pursuit on the true dictionary, on the held-out tokens."""
    dictionary, *tokens = world(data, training, seed)
    fitted, held_out = (np.asarray(part.activations) for part in tokens)
    ranks = [round(k) for k in ks]
    total = np.square(held_out - held_out.mean(axis=0)).sum()
    x, directions = held_out - data.offset, np.asarray(dictionary)
    pursuit = [np.asarray(matching_pursuit(jnp.asarray(x), dictionary, rank)) @ directions for rank in ranks]
    return {
        "components": [round(value, 5) for value in principal_components(fitted, held_out, ranks)],
        "pursuit": [round(float(np.square(x - found).sum() / total), 5) for found in pursuit],
    }


def judge(trained: Trained, member: int = 0) -> dict[str, float]:
    """Reconstruction and sparsity in batches as in training, and with thresholds; use of the features; recovery of the true ones.

    Thresholds of variants that need one are calibrated on tokens of their own; the others' codes do not depend on the batch.
    """
    config, batch, held_out, state = trained.config, trained.batch, trained.held_out, trained.members[member]
    params, statistics = state.params, state.statistics
    x, truth = np.asarray(held_out.activations), np.asarray(held_out.codes)
    z, reconstruction = encode_held_out(trained, member)
    sums = start_sums(config.width, config.features)
    for start in range(0, len(x), batch):
        sums = add(sums, *(part[start : start + batch] for part in (x, reconstruction, z)))
    found = alone = summarise(sums)
    if config.kind == "jumprelu":
        warn_off_target(found["l0"], float(statistics.k))
    active, present = (z != 0).sum(axis=1), (truth != 0).sum(axis=1)
    correlation = float(np.corrcoef(active, present)[0, 1]) if active.std() > 0 else 0.0
    if config.method.needs == "threshold":
        affinities = np.maximum(np.asarray(pre_activations(params, trained.calibration.activations)), 0)
        threshold = calibrate(config, affinities, float(statistics.k), np.asarray(statistics.budgets) / batch)
        by_threshold = encode_by_threshold(params, held_out.activations, jnp.asarray(threshold))
        parts = map(np.asarray, (x, decode(params, by_threshold), by_threshold))
        alone = summarise(add(start_sums(config.width, config.features), *parts))
    decoder = np.asarray(params["decoder"])
    recovered = recovery(decoder, np.asarray(trained.dictionary), z, truth)._asdict()
    return {
        **{name: round(value, 5) for name, value in found.items()},
        "under_used": float(np.mean((z != 0).mean(axis=0) < UNDER_USED)),
        "correlation": round(correlation, 4),
        "threshold_fvu": round(alone["fvu"], 5),
        "threshold_l0": round(alone["l0"], 4),
        "threshold_dead": round(alone["dead"], 5),
        "collapse": round(collapse(decoder), 4),
        **{name: round(value, 4) for name, value in recovered.items()},
    }


def judge_all(trained: Trained) -> dict[str, list[float]]:
    """By metric the judgement of each member."""
    return by_metric([judge(trained, member) for member in range(len(trained.members))])
