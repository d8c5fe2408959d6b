"""Telling a machine's texts from a human's: by what a language model thinks of them, by their style, and by how many there are.

Rivera Soto et al. 2025 (arXiv 2505.14608); method card style-detection-aura. The paper's text was not at hand: AURA is the card's formula
under the paper's name.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from lexinv.nn.language_model import Params
from lexinv.validation import choose, require


class LmStatistics(NamedTuple):
    """Of every text. likelihood: mean log p, in nats. rank: mean log of the token's rank. lrr: -likelihood / rank (Su et al. 2023).

    fast_detect: (log p(x) - mu) / sigma of tokens that q draws anew at every place (Bao et al. 2024). binoculars: log perplexity under p
    over the cross-entropy of p and q (Hans et al. 2024). A machine's texts are higher in likelihood, lrr and fast_detect, and lower in
    rank and binoculars.
    """

    likelihood: Float[Array, " texts"]
    rank: Float[Array, " texts"]
    lrr: Float[Array, " texts"]
    fast_detect: Float[Array, " texts"]
    binoculars: Float[Array, " texts"]


def lm_statistics(
    logits_p: Float[Array, "texts time vocab"],
    logits_q: Float[Array, "texts time other_vocab"],
    tokens: Int[Array, "texts time"],
    mask: Bool[Array, "texts time"],
) -> LmStatistics:
    """All at once from the logits of two models at each of the tokens; `mask` says which count, at least one of a text.

    p scores, q draws; of one tokenizer, without which the numbers mean nothing. Raises `InvalidConfig` for unlike vocabularies.
    """
    require(logits_p.shape == logits_q.shape, "logits_q", logits_q.shape, f"the shape of logits_p, {logits_p.shape}")
    p, q = jax.nn.log_softmax(logits_p), jax.nn.log_softmax(logits_q)
    chosen = jnp.take_along_axis(p, tokens[..., None], axis=-1)
    mu = jnp.sum(jnp.exp(q) * p, axis=-1)
    variance = jnp.sum(jnp.exp(q) * p**2, axis=-1) - mu**2
    ranks = 1 + jnp.sum(p > chosen, axis=-1)
    crossed = -jnp.sum(jnp.exp(p) * q, axis=-1)
    chosen = chosen[..., 0]

    def total(values: Array) -> Array:
        return jnp.sum(jnp.where(mask, values, 0.0), axis=1)

    count = jnp.sum(mask, axis=1).astype(p.dtype)
    likelihood, rank = total(chosen) / count, total(jnp.log(ranks.astype(p.dtype))) / count
    fast = (total(chosen) - total(mu)) / jnp.sqrt(jnp.maximum(total(variance), 1e-12))
    lrr = -likelihood / jnp.maximum(rank, 1e-6)
    return LmStatistics(likelihood, rank, lrr, fast, -total(chosen) / total(crossed))


def auroc(human: Float[np.ndarray, "*batch humans"], machine: Float[np.ndarray, "*batch machines"]) -> np.ndarray:
    """The chance that a machine's score is above a human's, ties counted half: what lies below 1/2 is not turned round.

    Raises `InvalidConfig` for NaN.
    """
    human, machine = np.asarray(human, np.float64), np.asarray(machine, np.float64)
    for name, scores in (("human", human), ("machine", machine)):
        require(not np.isnan(scores).any(), name, "NaN", "scores that can be compared")
    if human.ndim > 1:
        return np.stack([auroc(*pair) for pair in zip(human, machine, strict=True)])
    ordered = np.sort(human)
    places = [np.searchsorted(ordered, machine, side) for side in ("left", "right")]
    return np.asarray(np.mean(places) / len(human))


Score = Callable[[np.ndarray], Float[np.ndarray, " sets"]]
"""Of sets [sets, n, ...] of what is known of n texts."""


def mean_score(sets: Float[np.ndarray, "sets n"]) -> Float[np.ndarray, " sets"]:
    return np.mean(sets, axis=1)


def auroc_by_count(
    rng: np.random.Generator,
    human: Float[np.ndarray, "humans *features"],
    machine: Float[np.ndarray, "machines *features"],
    counts: Sequence[int],
    trials: int,
    score: Score = mean_score,
) -> Float[np.ndarray, " counts"]:
    """A(n): the AUROC of sets of n texts of one human author against sets of one machine, `trials` random sets of each.

    A set of human texts by several authors would be told from a machine's by nothing but its mixture: this function takes one author's.
    Raises `InvalidConfig` where there are fewer texts than a set holds.
    """
    most = min(len(human), len(machine))
    require(all(1 <= n <= most for n in counts), "counts", list(counts), f"1 to {most}, the texts that there are")

    def sets(texts: np.ndarray, n: int) -> np.ndarray:
        if n == 1:
            return texts[:, None]
        return texts[rng.random((trials, len(texts))).argpartition(n - 1, axis=1)[:, :n]]

    return np.array([auroc(score(sets(human, n)), score(sets(machine, n))) for n in counts])


def aura(
    values: Float[np.ndarray, "*batch counts"], counts: Sequence[int], weight: Literal["n", "log n"] = "n"
) -> np.ndarray:
    """The area under A(n) from one text to the most, over its width: 1/2 where nothing is ever told, 1 where one text betrays.

    It depends on the largest n, which has to be said with it; 2 (1 - AURA) estimates how far both laws overlap. weight: of n, or of log n.
    """
    choose("weight", weight, ("n", "log n"))
    x = np.asarray(counts, np.float64)
    require(len(x) >= 2 and bool(np.all(np.diff(x) > 0)), "counts", list(counts), "two or more, ascending")
    x = np.log(x) if weight == "log n" else x
    return np.asarray(np.trapezoid(np.asarray(values, np.float64), x, axis=-1) / (x[-1] - x[0]))


def initialize_style_encoder(key: Key[Array, ""], vocab: int, hidden: int = 256, width: int = 64) -> Params:
    """Weights of `style_encoder`."""
    before, token, out = jax.random.split(key, 3)
    return {
        "before": jax.random.normal(before, (vocab, hidden)),
        "token": jax.random.normal(token, (vocab, hidden)),
        "out": jax.random.normal(out, (hidden, width)) / jnp.sqrt(hidden),
    }


def style_encoder(params: Params, docs: Int[Array, "sets docs time"]) -> Float[Array, "sets width"]:
    """A unit vector of each set of documents by one author: the mean over all pairs of neighbouring tokens, projected.

    In place of LUAR's Transformer. A set's vector is that of the mean of its documents before they are scaled, `scaled=False`.
    """
    return unit(jnp.mean(document_styles(params, docs), axis=1))


def document_styles(params: Params, docs: Int[Array, "*batch time"]) -> Float[Array, "*batch width"]:
    """Vectors of single documents, whose mean over a set gives `style_encoder`'s by `unit`."""
    pairs = jax.nn.gelu(params["before"][docs[..., :-1]] + params["token"][docs[..., 1:]])
    return jnp.mean(pairs, axis=-2) @ params["out"]


def unit(x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
    return x / jnp.maximum(jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True)), 1e-6)


def contrastive_loss(
    one: Float[Array, "authors width"], other: Float[Array, "authors width"], temperature: float = 0.1
) -> Float[Array, ""]:
    """Nats to find each author's other set among all authors', both ways: unit vectors of two sets by every author."""
    similar = one @ other.T / temperature
    losses = [jnp.diagonal(jax.nn.log_softmax(similar, axis=axis)) for axis in (0, 1)]
    return -jnp.mean(jnp.stack(losses))
