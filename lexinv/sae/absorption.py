"""Absorption: the latent of a general feature is silent where a special one is there, as the latent of that says both.

Chanin et al. 2024. Their measure needs probes for what a language model knows; here features and their hierarchy are known by
construction, so that the form is ours: who is there, how strongly, and in which direction is read from the truth.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lexinv.sae.synthetic import SyntheticConfig
from lexinv.validation import require


class Absorption(NamedTuple):
    """Of each pair of parent and child: the main latents of both, and numbers of tokens.

    present: with the parent. with_child: with both. silent_alone: with the parent and without the child, the parent's latent silent.
    silent_with_child: with both, the parent's latent silent. absorbed: of those, where the child's latent carries the parent.
    """

    parent_latent: Int[np.ndarray, " pairs"]
    child_latent: Int[np.ndarray, " pairs"]
    present: Int[np.ndarray, " pairs"]
    with_child: Int[np.ndarray, " pairs"]
    silent_alone: Int[np.ndarray, " pairs"]
    silent_with_child: Int[np.ndarray, " pairs"]
    absorbed: Int[np.ndarray, " pairs"]

    def rates(self) -> dict[str, float]:
        """Over all pairs: absorbed tokens among those with the parent and among those with both; silent ones without and with the child.

        Where silence is as frequent without the child as with it, the parent is missed and not absorbed.
        """
        return {
            "absorbed": _ratio(self.absorbed, self.present),
            "absorbed_with_child": _ratio(self.absorbed, self.with_child),
            "silent_alone": _ratio(self.silent_alone, self.present - self.with_child),
            "silent_with_child": _ratio(self.silent_with_child, self.with_child),
        }


def hierarchy(config: SyntheticConfig) -> list[tuple[int, int]]:
    """(parent, child) of every pair in synthetic tokens: the most frequent features, and the last ones as their children, in order."""
    first = config.features - config.parents
    return [(parent, first + parent) for parent in range(config.parents)]


def absorption(
    decoder: Float[np.ndarray, "latents width"],
    dictionary: Float[np.ndarray, "features width"],
    codes: Float[np.ndarray, "tokens latents"],
    truth: Float[np.ndarray, "tokens features"],
    pairs: list[tuple[int, int]],
    share: float = 0.5,
) -> Absorption:
    """Count absorbed tokens of each (parent, child) of known features.

    The main latent of the parent is, of the latents that fire at all, the one with the largest cosine to its direction; that of the child
    the best of the others. On a token the parent is absorbed if (1) parent and child are there, (2) the parent's latent is silent, (3) the
    child's latent fires, and (4) the child's latent carries at least `share` of the parent's magnitude: with its decoder row written as
    p v_parent + c v_child + rest by least squares, z p >= share c_parent. (Not by the cosine, so that a child whose own direction is near
    the parent's carries nothing by that.)
    Raises `InvalidConfig` without pairs, for fewer than two latents that fire, a feature that is not there, or parallel directions.
    """
    features = len(dictionary)
    require(len(pairs) > 0, "pairs", pairs, "at least one (parent, child): SyntheticConfig.parents")
    fires = (codes != 0).any(axis=0)
    require(int(fires.sum()) >= 2, "codes", int(fires.sum()), "at least two latents that fire")
    inside = all(0 <= index < features for pair in pairs for index in pair)
    require(inside, "pairs", pairs, f"features from 0 to {features - 1}")
    rows = decoder.astype(np.float64)
    directions = dictionary.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1)[:, None] * np.linalg.norm(directions, axis=1)[None]
    cosines = np.where(fires[:, None], rows @ directions.T / np.maximum(norms, 1e-12), -np.inf)
    counted = []
    for parent, child in pairs:
        both = directions[[parent, child]].T
        apart = int(np.linalg.matrix_rank(both)) == 2
        require(apart, "pairs", (parent, child), "directions that are not parallel")
        main = int(cosines[:, parent].argmax())
        others = cosines[:, child].copy()
        others[main] = -np.inf
        special = int(others.argmax())
        carried = np.linalg.lstsq(both, rows[special], rcond=None)[0][0]
        there, with_child = truth[:, parent] != 0, (truth[:, parent] != 0) & (truth[:, child] != 0)
        silent = codes[:, main] == 0
        enough = codes[:, special].astype(np.float64) * carried >= share * truth[:, parent]
        absorbed = with_child & silent & (codes[:, special] != 0) & enough
        masks = (there, with_child, there & ~with_child & silent, with_child & silent, absorbed)
        counted.append([main, special, *(int(mask.sum()) for mask in masks)])
    return Absorption(*np.array(counted).T)


def _ratio(part: Int[np.ndarray, " pairs"], whole: Int[np.ndarray, " pairs"]) -> float:
    """Of the sums over pairs; 0 of nothing."""
    return float(part.sum() / whole.sum()) if whole.any() else 0.0
