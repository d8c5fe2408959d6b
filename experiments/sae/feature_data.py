"""What a page of features shows, taken from a trained autoencoder and its language model: where features fire and what they do."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from experiments.sae.feature_page import Feature, Passage, Token
from experiments.subjects.activation_autoencoders import Autoencoder
from experiments.subjects.language_subjects import BLOCK, LanguageSubject, unused_key
from lexinv.data.tokenizers import Tokenizer
from lexinv.nn.language_model import LanguageModel
from lexinv.nn.lexicon import draw_lexicon, readout, row_keys
from lexinv.nn.sites import Site, make_activations
from lexinv.validation import require

Activities = Callable[[Float[np.ndarray, "tokens width"]], Float[np.ndarray, "tokens features"]]
HISTOGRAM_BINS = 30


class Survey(NamedTuple):
    """Of every feature, over some windows: its largest activation in each window and where, and over all tokens density and mean."""

    peaks: Float[np.ndarray, "windows features"]
    positions: Int[np.ndarray, "windows features"]
    density: Float[np.ndarray, " features"]
    mean: Float[np.ndarray, " features"]


def survey(activities: Activities, subject: LanguageSubject, windows: Int[np.ndarray, "windows time"]) -> Survey:
    """One pass over the windows. `activities` maps activations of the model to those of features (or of anything to compare them with)."""
    peaks, positions, fired, total = [], [], 0, 0
    for start in range(0, len(windows), BLOCK):
        rows = subject.read(windows[start : start + BLOCK])
        z = activities(rows)
        z = z.reshape(-1, windows.shape[1] - 1, z.shape[1])
        peaks.append(z.max(axis=1))
        positions.append(z.argmax(axis=1))
        fired, total = fired + (z > 0).sum(axis=(0, 1)), total + z.sum(axis=(0, 1), dtype=np.float64)
    tokens = len(windows) * (windows.shape[1] - 1)
    return Survey(np.concatenate(peaks), np.concatenate(positions), fired / tokens, total / tokens)


def top_windows(
    found: Survey, feature: int, windows: Int[np.ndarray, "windows time"], count: int, around: int = 4
) -> list[tuple[int, int]]:
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
    windows: Int[np.ndarray, "windows time"],
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
    complete = np.array([feature for feature in live if len(top[feature]) == full], int)
    groups = {
        "most active": live[np.argsort(-found.mean[live], kind="stable")],
        "densest": live[np.argsort(-found.density[live], kind="stable")],
        "sparsest": complete[np.argsort(found.density[complete], kind="stable")],
        "random": np.random.default_rng(seed).permutation(live),
    }
    for text in search:
        hits = np.array(
            [sum(text.lower() in texts[windows[place]].lower() for place in top[feature]) for feature in live]
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
    autoencoder: Autoencoder,
    subject: LanguageSubject,
    windows: Int[np.ndarray, "windows time"],
    found: Survey,
    top: Sequence[Sequence[tuple[int, int]]],
    effects: Float[np.ndarray, "features vocab"],
    texts: Sequence[str],
    context: int = 12,
    listed: int = 6,
) -> list[Feature]:
    """The features of the page: passages of `context` tokens on either side of the peak, `listed` logit effects and neighbours."""
    features = list(chosen)
    needed = sorted({window for feature in features for window, _ in top[feature]})
    values = _values(autoencoder, subject, windows[needed], features)
    histograms = _histograms(autoencoder, subject, windows, features, found.peaks.max(axis=0))
    cosines = _cosines(np.asarray(autoencoder.state.params["decoder"]), features)
    ranks = np.argsort(np.argsort(-found.density, kind="stable"), kind="stable") + 1
    place = {window: number for number, window in enumerate(needed)}
    described = []
    for column, feature in enumerate(features):
        passages = []
        for window, position in top[feature]:
            start, stop = max(position - context, 0), min(position + context + 1, windows.shape[1])
            acts = np.append(values[place[window], :, column], 0.0)  # a window's last token has not been read
            tokens = tuple(Token(texts[windows[window, t]], float(acts[t])) for t in range(start, stop))
            passages.append(Passage(tokens, position - start))
        order = np.argsort(effects[feature, : len(texts)])  # a checkpoint may have more rows than tokens
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
    autoencoder: Autoencoder, subject: LanguageSubject, windows: np.ndarray, features: list[int]
) -> Float[np.ndarray, "windows time_read chosen"]:
    parts = [
        autoencoder.codes(subject.read(windows[start : start + BLOCK]))[:, features]
        for start in range(0, len(windows), BLOCK)
    ]
    return np.concatenate(parts).reshape(len(windows), windows.shape[1] - 1, len(features))


def _histograms(
    autoencoder: Autoencoder, subject: LanguageSubject, windows: np.ndarray, features: list[int], peaks: np.ndarray
) -> Int[np.ndarray, "chosen bins"]:
    """Counts of positive activations in equal bins from 0 to each feature's peak."""
    counts = np.zeros((len(features), HISTOGRAM_BINS), np.int64)
    for start in range(0, len(windows), BLOCK):
        z = autoencoder.codes(subject.read(windows[start : start + BLOCK]))[:, features]
        for column, feature in enumerate(features):
            fired = z[z[:, column] > 0, column]
            counts[column] += np.histogram(fired, HISTOGRAM_BINS, (0.0, float(peaks[feature])))[0]
    return counts


def _cosines(decoder: Float[np.ndarray, "features width"], chosen: list[int]) -> Float[np.ndarray, "chosen features"]:
    rows = decoder / np.maximum(np.linalg.norm(decoder, axis=1, keepdims=True), 1e-12)
    return rows[chosen] @ rows.T


def logit_effects(
    subject: LanguageSubject, directions: Float[np.ndarray, "features width"], positions: int = 64
) -> Float[np.ndarray, "features vocab"]:
    """Change of each token's logit, against the mean over tokens, when a direction is added to the last residual stream.

    The direct effect alone, without what the layers between would do. To first order: the derivative through the final norm and the
    unembedding, averaged over `positions` positions of the held-out text.
    """
    config, params = subject.config, subject.params
    model, last = LanguageModel(config), config.depth - 1
    keys = row_keys(unused_key(), jnp.zeros(1, jnp.int32))
    table = draw_lexicon(subject.lexicon, params.get("table"), keys, subject.vocab, config.width)
    table = params.get("output_table", table)

    def head(x: Float[Array, " width"]) -> Float[Array, " width"]:
        """What the unembedding reads, where x is the last residual stream."""

        def stand_in(name: str, activations: Array) -> Array:
            return x[None, None].astype(activations.dtype) if name == "residual_out" else activations

        tokens, nothing = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1, config.width))
        variables, edit = {"params": params["model"]}, (last, stand_in)
        read: Any = model.apply(variables, tokens, nothing, edit=edit, method="features")
        return read[0][0, 0].astype(jnp.float32)

    final = make_activations(config, subject.lexicon, subject.vocab, Site(last, "residual_out"))
    batch = {"tokens": jnp.asarray(subject.windows[0][:1], jnp.int32), "row": jnp.zeros(1, jnp.int32)}
    at = final(params, batch, unused_key())[0][:positions]

    @jax.jit
    def effects_of(at: Float[Array, "positions width"], directions: Float[Array, "features width"]) -> Array:
        zeros = jnp.zeros((config.width, config.width))
        total, _ = jax.lax.scan(lambda total, x: (total + jax.jacrev(head)(x), None), zeros, at)
        return readout((directions @ total.T / at.shape[0])[None], table)[0]

    effects = np.asarray(effects_of(at, jnp.asarray(directions, jnp.float32)))
    return effects - effects.mean(axis=1, keepdims=True)


def specificity(
    top: Sequence[Sequence[tuple[int, int]]], windows: Int[np.ndarray, "windows time"], count: int
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
    windows: Int[np.ndarray, "windows time"],
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
