"""How specific the features of an autoencoder are, beside random directions of the same activations and random tokens; and densities."""

from typing import Any

import jax
import numpy as np

from lexinv.sae.densities import fit_middle_zipf, ranks_shown
from lexinv.sae.feature_survey import Codes, Read, specificity, survey, top_windows
from lexinv.training.streams import stream

FEATURES, DIRECTIONS, TOKENS = "features", "directions", "tokens"


def surveyed(
    codes: Codes, read: Read, windows: np.ndarray, mean: np.ndarray, passages: int, seed: int
) -> tuple[list[list[tuple[int, int]]], dict[str, Any]]:
    """(Top passages of all features; how specific those with so many `passages` are, and densities). mean: of activations."""
    found = survey(codes, read, windows)
    features = found.peaks.shape[1]
    top = [top_windows(found, i, windows, passages) for i in range(features)]
    key = stream(jax.random.key(seed), "directions")
    directions = np.asarray(jax.random.normal(key, (len(mean), features)))
    random = survey(lambda rows: np.maximum((rows - mean) @ directions, 0.0), read, windows)
    random_top = [top_windows(random, i, windows, passages) for i in range(features)]
    rng = np.random.default_rng(seed)
    places = rng.integers((0, 0), (len(windows), windows.shape[1] - 1), (features, passages, 2))
    groups = {FEATURES: top, DIRECTIONS: random_top, TOKENS: [list(map(tuple, group)) for group in places.tolist()]}
    shares = {name: specificity(each, windows, passages) for name, each in groups.items()}
    slope, quality = fit_middle_zipf(np.sort(found.density)[::-1])
    return top, {
        "specific": {name: round(float(each.mean()), 5) if len(each) else 0.0 for name, each in shares.items()},
        "complete": len(shares[FEATURES]),
        "densities": [float(f"{x:.4g}") for x in np.sort(found.density)[::-1][ranks_shown(features)]],
        "live": int(np.sum(found.density > 0)),
        "alpha": round(slope, 4),
        "zipf_r2": round(quality, 4),
    }
