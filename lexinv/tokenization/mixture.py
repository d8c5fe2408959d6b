"""What a byte-pair tokenizer was trained on, from the order of its merges (Hayase et al. 2024)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64, Num

from lexinv.data.bpe import PAIR, Merges
from lexinv.validation import require

Changes = Sequence[tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, "_ categories"]]]

UNIT = 1e6
"""Counts are taken per so many pairs of a category, which the solver's tolerances suit."""
PER_MERGE = 10
"""Of the violated rows of a merge, so many of the worst are added in a round."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """weights: the share of each category in the pairs of adjacent symbols that the tokenizer was trained on, summing to 1.

    slack: by how much the merges contradict every mixture, in pairs per million; 0 where the samples are the training text.
    rounds: of adding rows. missing: numbers of the merges whose pair occurs in no category when they are reached; they say nothing.
    """

    weights: Float64[np.ndarray, " categories"]
    slack: float
    rounds: int
    missing: tuple[int, ...]


def infer(changes: Changes, merges: Merges, tolerance: float = 1e-3) -> Mixture:
    """The mixture under which each merge was the most frequent pair, as nearly as there is one (Hayase et al. 2024, linear programme).

    `changes` are `bpe.pair_changes` of the tokenizer's merges on samples of the categories, a column of counts each. With c[t, p] the
    share of pair p among a category's pairs when t merges are done, it minimises sum v + sum u over weights of sum 1 such that

        weights . (c[t, merges[t]] - c[t, p]) + v[t] + u[p] >= 0    for all t and p,    weights, v, u >= 0.

    v forgives a merge and u a pair. Rows are added as they are violated, by more than `tolerance` pairs per million, so that nearly all
    of them are never written down; the result is that of all rows.

    Raises `InvalidConfig` for less than two categories, one without any pair, and another number of merges than of changes.
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    pairs, steps, chosen = _numbered(changes, merges)
    categories = steps[0][1].shape[1]
    weights = np.full(categories, 1 / categories)
    forgiven, excused = np.zeros(len(merges)), np.zeros(len(pairs))
    rows: dict[tuple[int, int], np.ndarray] = {}
    slack, rounds = 0.0, 0
    while True:
        added, missing = _violated(steps, chosen, weights, forgiven, excused, tolerance, rows)
        if not added:
            return Mixture(weights, slack, rounds, missing)
        rows |= added
        rounds += 1
        (which, of_merge), (others, of_pair) = (
            np.unique(each, return_inverse=True) for each in zip(*rows, strict=True)
        )
        number, ones = np.arange(len(rows)), np.ones(len(rows))
        columns = np.concatenate([categories + of_merge, categories + len(which) + of_pair])
        width = categories + len(which) + len(others)
        slacks = csr_array((np.tile(ones, 2), (np.tile(number, 2), columns)), (len(rows), width))
        dense = csr_array(np.stack(list(rows.values())))
        dense.resize(len(rows), width)
        found = linprog(
            np.arange(width) >= categories,
            A_ub=-(dense + slacks),
            b_ub=0 * ones,
            A_eq=(np.arange(width) < categories)[None, :],
            b_eq=[1.0],
            method="highs",
        )
        weights, forgiven[which], excused[others] = np.split(found.x, [categories, categories + len(which)])
        slack = float(found.fun)


def to_bytes(
    weights: Num[np.ndarray, " categories"],
    sizes: Num[np.ndarray, " categories"],
    pairs: Num[np.ndarray, " categories"],
) -> Float64[np.ndarray, " categories"]:
    """Shares of bytes from shares of pairs, for categories of whose samples `sizes` are the bytes and `pairs` the pairs at first."""
    scaled = weights * sizes / pairs
    return scaled / scaled.sum()


def classified(changes: Changes, merges: Merges) -> Float64[np.ndarray, " categories"]:
    """A baseline: the share of the merges whose pair, when they are reached, is a larger share of a category's pairs than of any other's.

    Errors as of `infer`. As the paper's baseline of classified tokens [recalled].
    """
    pairs, steps, chosen = _numbered(changes, merges)
    of_merges = [own.argmax() for _, own in _at_merges(steps, chosen, len(pairs)) if own is not None]
    return np.bincount(of_merges, minlength=steps[0][1].shape[1]) / max(len(of_merges), 1)


def bytes_per_token(changes: Changes, sizes: Num[np.ndarray, " categories"]) -> Float64[np.ndarray, " categories"]:
    """How long the tokens of each category are after all merges, where symbols are bytes and `sizes` the bytes of the samples."""
    pieces = sizes - changes[0][1].sum(axis=0)  # a piece has one pair less than symbols
    return sizes / (pieces + sum(change.sum(axis=0) for _, change in changes))


def from_lengths(
    lengths: Float[np.ndarray, "tokenizers categories"], true: Float[np.ndarray, "tokenizers categories"]
) -> Float64[np.ndarray, "tokenizers categories"]:
    """A baseline: shares of bytes from `bytes_per_token` of several tokenizers, for each as if only the mixtures of the others were known.

    A line of log share against log length for each category, fitted to the others; then made to sum to 1. As the paper's baseline of
    encoding efficiency [recalled].
    """
    logs, wanted, found = np.log(lengths), np.log(true), np.empty_like(true)
    for one, category in np.ndindex(true.shape):
        others = np.arange(len(true)) != one
        line = np.polyfit(logs[others, category], wanted[others, category], 1)
        found[one, category] = np.exp(np.polyval(line, logs[one, category]))
    return found / found.sum(axis=1, keepdims=True)


def _numbered(changes: Changes, merges: Merges) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]], list[int]]:
    """All pairs there ever are; before each merge the numbers of those that change, by how many per million; and the number of each
    merge's pair, -1 for one that never occurs."""
    count = f"{len(merges) + 1}: what there is at first, and after each merge"
    require(len(changes) == len(merges) + 1, "changes", len(changes), count)
    totals = changes[0][1].sum(axis=0)
    require(
        np.ndim(totals) == 1 and len(totals) > 1, "categories", np.size(totals), "at least two, a column of counts each"
    )
    for category in np.flatnonzero(totals == 0):
        require(False, f"category {category}", "no pairs", "text in which symbols are adjacent")
    pairs = np.unique(np.concatenate([each for each, _ in changes]))
    steps = [(np.searchsorted(pairs, each), change * (UNIT / totals)) for each, change in changes[:-1]]
    wanted = np.array([left * PAIR + right for left, right in merges])
    places = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    return pairs, steps, np.where(pairs[places] == wanted, places, -1).tolist()


def _at_merges(steps, chosen, pairs) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Before each merge the counts of all pairs, one array that changes, and those of its own pair, None where it occurs in no category."""
    shares = np.zeros((pairs, steps[0][1].shape[1]))
    for (which, change), pair in zip(steps, chosen, strict=True):
        shares[which] += change
        yield shares, shares[pair] if pair >= 0 and shares[pair].any() else None


def _violated(
    steps, chosen, weights, forgiven, excused, tolerance, rows
) -> tuple[dict[tuple[int, int], np.ndarray], tuple[int, ...]]:
    """New rows that are violated, by merge and pair; and the merges that say nothing."""
    mixed, found, missing = -excused, {}, []
    for merge, (shares, own) in enumerate(_at_merges(steps, chosen, len(excused))):
        pairs = steps[merge][0]
        mixed[pairs] = shares[pairs] @ weights - excused[pairs]
        if own is None:
            missing.append(merge)
            continue
        others = np.flatnonzero(mixed > own @ weights + forgiven[merge] + tolerance)
        for other in others[np.argsort(-mixed[others])[:PER_MERGE]].tolist():
            if (merge, other) not in rows:
                found[merge, other] = own - shares[other]
    return found, tuple(missing)
