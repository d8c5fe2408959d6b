"""What a page of features shows: where the features of a trained autoencoder fire, which of them are on it, and how specific they are.

A model is known by `read(windows)`: its activations at every position but the last of each window, one window after another; an autoencoder
by `codes(rows)`: the activations of its features, every token by itself.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from lexinv.data.tokenizers import Tokenizer
from lexinv.sae.feature_page import Feature, Passage, Token
from lexinv.validation import require

Windows = Int[np.ndarray, "windows time"]
Read = Callable[[Windows], Float[np.ndarray, "tokens width"]]
Codes = Callable[[Float[np.ndarray, "tokens width"]], Float[np.ndarray, "tokens features"]]
BLOCK = 32
"""Windows that are read at a time."""
HISTOGRAM_BINS = 30


class Survey(NamedTuple):
    """Of every feature, over some windows: its largest activation in each window and where, and over all tokens density and mean."""

    peaks: Float[np.ndarray, "windows features"]
    positions: Int[np.ndarray, "windows features"]
    density: Float[np.ndarray, " features"]
    mean: Float[np.ndarray, " features"]


def survey(codes: Codes, read: Read, windows: Windows) -> Survey:
    """One pass over the windows, of features or of anything to compare them with."""
    peaks, positions, fired, total = [], [], 0, 0
    for start in range(0, len(windows), BLOCK):
        z = codes(read(windows[start : start + BLOCK]))
        z = z.reshape(-1, windows.shape[1] - 1, z.shape[1])
        peaks.append(z.max(axis=1))
        positions.append(z.argmax(axis=1))
        fired, total = fired + (z > 0).sum(axis=(0, 1)), total + z.sum(axis=(0, 1), dtype=np.float64)
    tokens = len(windows) * (windows.shape[1] - 1)
    return Survey(np.concatenate(peaks), np.concatenate(positions), fired / tokens, total / tokens)


def top_windows(found: Survey, feature: int, windows: Windows, count: int, around: int = 4) -> list[tuple[int, int]]:
    """(window, position) of the largest activations, one of each window; none twice with the same `around` tokens before and after it."""
    chosen, seen = [], set()
    for window in np.argsort(-found.peaks[:, feature], kind="stable"):
        position = int(found.positions[window, feature])
        if found.peaks[window, feature] <= 0 or len(chosen) == count:
            break
        context = tuple(windows[window, max(position - around, 0) : position + around + 1].tolist())
        if context not in seen:
            seen.add(context)
            chosen.append((int(window), position))
    return chosen


def choose_features(
    found: Survey,
    top: Sequence[Sequence[tuple[int, int]]],
    texts: Sequence[str],
    windows: Windows,
    shown: int,
    search: Sequence[str],
    seed: int,
) -> dict[int, list[str]]:
    """The features of the page and why they are on it: `shown` of each kind, and of each text searched for.

    Most active: by mean activation. Densest, and sparsest of those with as many passages as the fullest. Random: of those that fire.
    Searched for: with the text, in either case, in one of their top tokens; the most such tokens first.
    """
    full = max(map(len, top))
    live = np.flatnonzero(found.density > 0)
    complete = np.array([feature for feature in live if len(top[int(feature)]) == full], int)
    groups = {
        "most active": live[np.argsort(-found.mean[live], kind="stable")],
        "densest": live[np.argsort(-found.density[live], kind="stable")],
        "sparsest": complete[np.argsort(found.density[complete], kind="stable")],
        "random": np.random.default_rng(seed).permutation(live),
    }
    for text in search:
        hits = np.array(
            [sum(text.lower() in texts[int(windows[place])].lower() for place in top[int(feature)]) for feature in live]
        )
        order = np.argsort(-hits, kind="stable")
        groups[f"“{text.strip()}”"] = live[order[hits[order] > 0]]
    chosen: dict[int, list[str]] = {}
    for name, members in groups.items():
        for feature in members[:shown].tolist():
            chosen.setdefault(feature, []).append(name)
    return chosen


def token_texts(tokenizer: Tokenizer) -> list[str]:
    """What every id stands for; the printable name where that is nothing, as for a separator."""
    return [tokenizer.decode([i]) or tokenizer.symbols[i] for i in range(tokenizer.vocab_size)]


def describe(
    chosen: dict[int, list[str]],
    codes: Codes,
    read: Read,
    decoder: Float[np.ndarray, "features width"],
    windows: Windows,
    found: Survey,
    top: Sequence[Sequence[tuple[int, int]]],
    effects: Float[np.ndarray, "features vocab"],
    texts: Sequence[str],
    context: int = 12,
    listed: int = 6,
) -> list[Feature]:
    """The features of the page: passages of `context` tokens on either side of the peak, `listed` logit effects and neighbours.

    texts: of each token. Raises `InvalidConfig` where they are those of a tokenizer with another vocabulary than the model's.
    """
    require(len(texts) == effects.shape[1], "tokenizer", len(texts), f"the model's, of {effects.shape[1]} tokens")
    features = list(chosen)
    needed = sorted({window for feature in features for window, _ in top[feature]})
    values = _values(codes, read, windows[needed], features)
    histograms = _histograms(codes, read, windows, features, found.peaks.max(axis=0))
    cosines = _cosines(decoder, features)
    ranks = np.argsort(np.argsort(-found.density, kind="stable"), kind="stable") + 1
    place = {window: number for number, window in enumerate(needed)}
    described = []
    for column, feature in enumerate(features):
        passages = []
        for window, position in top[feature]:
            start, stop = max(position - context, 0), min(position + context + 1, windows.shape[1])
            acts = np.append(values[place[window], :, column], 0.0)  # a window's last token has not been read
            tokens = tuple(Token(texts[int(windows[window, t])], float(acts[t])) for t in range(start, stop))
            passages.append(Passage(tokens, position - start))
        order: list[int] = np.argsort(
            effects[feature, : len(texts)]
        ).tolist()  # a checkpoint may have more rows than tokens
        near = [i for i in np.argsort(-cosines[column])[: listed + 1].tolist() if i != feature][:listed]
        described.append(
            Feature(
                feature,
                tuple(chosen[feature]),
                float(found.density[feature]),
                int(ranks[feature]),
                float(found.peaks[:, feature].max()),
                tuple(histograms[column].tolist()),
                tuple(passages),
                tuple((texts[i], float(effects[feature, i])) for i in order[::-1][:listed]),
                tuple((texts[i], float(effects[feature, i])) for i in order[:listed]),
                tuple((i, float(cosines[column, i])) for i in near),
            )
        )
    return described


def _values(
    codes: Codes, read: Read, windows: Windows, features: list[int]
) -> Float[np.ndarray, "windows time_read chosen"]:
    parts = [codes(read(windows[start : start + BLOCK]))[:, features] for start in range(0, len(windows), BLOCK)]
    return np.concatenate(parts).reshape(len(windows), windows.shape[1] - 1, len(features))


def _histograms(
    codes: Codes, read: Read, windows: Windows, features: list[int], peaks: Float[np.ndarray, " features"]
) -> Int[np.ndarray, "chosen bins"]:
    """Counts of positive activations in equal bins from 0 to each feature's peak."""
    counts = np.zeros((len(features), HISTOGRAM_BINS), np.int64)
    for start in range(0, len(windows), BLOCK):
        z = codes(read(windows[start : start + BLOCK]))[:, features]
        for column, feature in enumerate(features):
            fired = z[z[:, column] > 0, column]
            counts[column] += np.histogram(fired, HISTOGRAM_BINS, (0.0, float(peaks[feature])))[0]
    return counts


def _cosines(decoder: Float[np.ndarray, "features width"], chosen: list[int]) -> Float[np.ndarray, "chosen features"]:
    rows = decoder / np.maximum(np.linalg.norm(decoder, axis=1, keepdims=True), 1e-12)
    return rows[chosen] @ rows.T


def specificity(
    top: Sequence[Sequence[tuple[int, int]]], windows: Windows, count: int
) -> Float[np.ndarray, " complete"]:
    """Of every feature with `count` passages: the share of them whose top token is the most frequent one among their top tokens."""
    shares = []
    for places in top:
        if len(places) == count:
            tokens = [int(windows[place]) for place in places]
            shares.append(max(map(tokens.count, tokens)) / count)
    return np.array(shares)


def foretold(
    top: Sequence[Sequence[tuple[int, int]]],
    windows: Windows,
    promoted: Bool[np.ndarray, "features vocab"],
) -> tuple[float, float]:
    """(own, others): how often the token after the peak is among those that the feature raises most; the same with another feature's.

    Averaged over features with passages; the other feature is the one with the next number that has some.
    """
    with_passages = [feature for feature, places in enumerate(top) if places]
    require(len(with_passages) >= 2, "features", len(with_passages), "at least two that fire")
    own, others = [], []
    for feature, other in zip(with_passages, with_passages[1:] + with_passages[:1], strict=True):
        following = [int(windows[window, position + 1]) for window, position in top[feature]]
        own.append(promoted[feature, following].mean())
        others.append(promoted[other, following].mean())
    return float(np.mean(own)), float(np.mean(others))
