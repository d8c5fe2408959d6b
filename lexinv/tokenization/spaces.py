"""How alike the spaces of two vocabularies are, of which nobody says what corresponds to what."""

import numpy as np
from jaxtyping import Float, Integer
from scipy.optimize import quadratic_assignment

from lexinv.validation import require


def cooccurrence_distances(
    tokens: Integer[np.ndarray, " tokens"], types: int, window: int, width: int
) -> Float[np.ndarray, "types types"]:
    """1 - cosine between the most frequent types, each a vector of `width` by the singular values of its positive pointwise mutual
    information (Levy and Goldberg 2014) with the same types, within `window` tokens on either side.

    Raises `InvalidConfig` for fewer types in the tokens, and a width above their number.
    """
    require(1 <= width <= types, "width", width, f"from 1 to the {types} types")
    counts = np.bincount(tokens)
    there = int(np.count_nonzero(counts))
    require(types <= there, "types", types, f"at most the {there} there are")
    number = np.full(len(counts), -1)
    number[np.argsort(-counts, kind="stable")[:types]] = np.arange(types)
    ids, pairs = number[tokens], np.zeros((types, types))
    for step in range(1, window + 1):
        left, right = ids[:-step], ids[step:]
        both = (left >= 0) & (right >= 0)
        np.add.at(pairs, (left[both], right[both]), 1)
    pairs += pairs.T
    share, own = pairs / pairs.sum(), pairs.sum(axis=1) / pairs.sum()
    chance = np.outer(own, own)
    information = np.log(np.maximum(np.divide(share, chance, out=np.ones_like(share), where=chance > 0), 1))
    left, values, _ = np.linalg.svd(information)
    vectors = (left * np.sqrt(values))[:, :width]
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
    return 1 - vectors @ vectors.T


def space_distance(
    one: Float[np.ndarray, "types types"],
    other: Float[np.ndarray, "others others"],
    rng: np.random.Generator,
    starts: int = 3,
) -> float:
    """1 - the correlation of two tables of distances, each point matched with one of the other space so that it is greatest.

    The matching is the best that `scipy.optimize.quadratic_assignment` finds from the barycentre and random starts (Vogelstein et al.
    2015), so that this is an upper bound. Spaces that differ in scale and offset alone have distance 0.
    """
    require(one.shape == other.shape, "other", other.shape, f"as many points as the {len(one)} of the first space")
    apart = ~np.eye(len(one), dtype=bool)
    first, second = (np.where(apart, (space - space[apart].mean()) / space[apart].std(), 0) for space in (one, other))
    found = []
    for start in range(starts):
        options = {"maximize": True, "rng": rng, "P0": "randomized" if start else "barycenter"}
        found.append(quadratic_assignment(first, second, options=options).fun)
    return float(1 - max(found) / apart.sum())
