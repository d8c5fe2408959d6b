"""Absorption: the latent of a general feature is silent on a token whose own latent says the general feature too (Chanin et al. 2024).

The form is that of SAEBench (Karvonen et al. 2025), which asks how much of a probe's projection a latent carries, where Chanin et al.
ablate it and read the model's answer.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from lexinv.sae.probing import Labels, Tokens, most_different, sparse_probing
from lexinv.validation import require


class Absorption(NamedTuple):
    """Tokens of each class: those that are judged; with all main latents silent; and of these with an absorbing latent."""

    judged: Int[np.ndarray, " classes"]
    silent: Int[np.ndarray, " classes"]
    absorbed: Int[np.ndarray, " classes"]

    @property
    def rate(self) -> float:
        """Mean over the classes with a judged token of the share that is absorbed."""
        some = self.judged > 0
        return float((self.absorbed[some] / self.judged[some]).mean()) if some.any() else 0.0


def main_latents(codes: Tokens, labels: Labels, most: int = 5, least_gain: float = 0.03) -> list[Int[np.ndarray, " _"]]:
    """The latents over which the feature of each class is split.

    The first k that are most active in the class, by `most_different`, where the next one would raise F1 of a probe on them by no more than
    `least_gain`: k is 1 to `most`.
    """
    found = []
    for latents, label in zip(most_different(codes, labels, most, either=False), labels.T, strict=True):
        both = codes[:, latents], label[:, None]
        kept, before = 0, -np.inf
        for k in range(1, most + 1):
            f1 = sparse_probing(both, both, np.arange(k)[None]).f1[0]
            if f1 <= before + least_gain:
                break
            kept, before = k, f1
        found.append(latents[:kept])
    return found


def absorption(
    codes: Float[np.ndarray, "tokens latents"],
    activations: Float[np.ndarray, "tokens width"],
    decoder: Float[np.ndarray, "latents width"],
    directions: Float[np.ndarray, "width classes"],
    judged: Bool[np.ndarray, "tokens classes"],
    main: Sequence[Int[np.ndarray, " _"]],
    share: float = 0.4,
    least_cosine: float = 0.025,
) -> Absorption:
    """Count absorbed tokens of each class, whose direction is that of a probe, among `judged`: those of the class that the probe finds.

    Absorbed: all `main` latents of the class are silent, and the latent that fires and carries most of the projection on the direction
    has at least this cosine to it and carries at least `share` of the token's. Both are taken from their means over all tokens: what every
    token has says nothing of its class. (SAEBench takes them from 0, and with them what a common prompt adds.)
    Raises `InvalidConfig` for classes that differ in number.
    """
    classes = directions.shape[1]
    require(judged.shape[1] == len(main) == classes, "main", len(main), f"one for each of {classes} classes")
    along = decoder.astype(np.float64) @ directions
    norms = np.linalg.norm(decoder, axis=1)[:, None] * np.linalg.norm(directions, axis=0)[None]
    aligned = along >= least_cosine * norms
    mean, away, counted = codes.mean(axis=0), (activations - activations.mean(axis=0)) @ directions, []
    for c in range(classes):
        tokens, whole = codes[judged[:, c]], away[judged[:, c], c]
        carried = np.where(tokens != 0, (tokens - mean) * along[:, c], -np.inf)
        enough = (carried.max(axis=1) >= share * whole) & aligned[carried.argmax(axis=1), c] & (whole > 0)
        silent = (tokens[:, main[c]] == 0).all(axis=1)
        counted.append([len(tokens), int(silent.sum()), int((silent & enough).sum())])
    return Absorption(*np.array(counted).T)
