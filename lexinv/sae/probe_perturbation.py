"""Targeted probe perturbation: do the latents of one class, taken away, blind its probe and no other? (Karvonen et al. 2025, SAEBench.)"""

import numpy as np
from jaxtyping import Bool, Float

from lexinv.sae.probing import Labels, Probe, difference_of_means, scores
from lexinv.validation import require


def perturbed_accuracies(
    probe: Probe,
    decoder: Float[np.ndarray, "latents width"],
    train: tuple[Float[np.ndarray, "tokens latents"], Labels],
    held_out: tuple[
        Float[np.ndarray, "held latents"], Float[np.ndarray, "held width"], Bool[np.ndarray, "held classes"]
    ],
    latents: int,
) -> Float[np.ndarray, "classes classes"]:
    """[i, j]: how far the balanced accuracy of the probe of class j falls where `latents` latents of class i are set to 0.

    Those with the largest effect: by how much more they are active in the class on training tokens, times decoder row and weights of its
    probe. What the autoencoder does not reconstruct stays as it is. held_out: codes, activations and labels.
    """
    require(1 <= latents <= len(decoder), "latents", latents, f"1 to {len(decoder)}")
    codes, activations, labels = held_out
    along = decoder.astype(np.float64) @ probe.weights
    effects = np.maximum(difference_of_means(*train), 0) * along
    logits = probe.logits(activations)
    before, rows = scores(logits, labels).balanced_accuracy, []
    for effect in effects.T:
        chosen = np.argsort(-effect, kind="stable")[:latents]
        chosen = chosen[effect[chosen] > 0]
        rows.append(before - scores(logits - codes[:, chosen] @ along[chosen], labels).balanced_accuracy)
    return np.array(rows)


def selectivity(falls: Float[np.ndarray, "classes classes"]) -> float:
    """Mean fall of the class that is aimed at minus that of the others: `perturbed_accuracies`."""
    own = np.eye(len(falls), dtype=bool)
    return float(falls[own].mean() - falls[~own].mean())
