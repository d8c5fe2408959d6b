"""Claim C11: with tokens of outlying norm dropped, or kept at full precision, what attention caches can be quantised with less error.

Kong et al. 2026 (arXiv 2505.18227), section 5; method card token-reduction-beyond-efficiency. The subject is MiniLM with its trained
weights on real paragraphs: keys and values of every layer are quantised, and its logits, the cosines between the embeddings of the
paragraphs, are compared with those of the whole model at full precision. A scale is shared by all tokens of a paragraph, for each channel
of keys and values, or for each head; where every token has a scale of its own, other tokens' outliers cannot matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments.harness.claims import Claim, interval
from experiments.harness.style import BLACK, BLUE, GREY, ORANGE, SKY
from experiments.harness.workspace import Workspace
from experiments.merging.verdicts import judged
from experiments.subjects.sentence_encoder import encode, paragraphs
from lexinv.data.corpora import Corpus, load_corpus
from lexinv.data.minilm import minilm_directory
from lexinv.merging.quantisation import largest_norms, quantise
from lexinv.nn.attention import attention
from lexinv.nn.linear import linear
from lexinv.nn.text_encoder import Params, embed_tokens, load_text_encoder, pool
from lexinv.nn.transformer import Block, TransformerConfig
from lexinv.training.streams import stream
from lexinv.validation import require

ARMS = {
    "all": ("all tokens quantised", BLACK),
    "random exact": ("random kept exact", GREY),
    "outliers exact": ("outliers kept exact", BLUE),
    "random dropped": ("random dropped", ORANGE),
    "outliers dropped": ("outliers dropped", SKY),
}
SHARED_BY = {"channel": (0,), "head": (0, 2)}
"""The axes of [tokens, heads, dim] that share a scale."""
BITS = (8, 4)
PRECISIONS = [(bits, shared) for shared in SHARED_BY for bits in BITS]


@dataclass(frozen=True)
class QuantisationConfig:
    """passages: paragraphs for each seed, no paragraph for two. share: of a paragraph's tokens that are outliers, rounded up.

    context: the most tokens of a paragraph.
    """

    corpus: str = "python-docs"
    passages: int = 32
    context: int = 64
    share: float = 0.1

    def __post_init__(self):
        require(self.passages >= 2, "quantisation.passages", self.passages, "at least 2: logits are between them")
        require(self.context >= 8, "quantisation.context", self.context, "at least 8 tokens")
        require(0 < self.share < 1, "quantisation.share", self.share, "between 0 and 1")


def measure(config: QuantisationConfig, seeds: Sequence[int], workspace: Workspace) -> dict[str, Any]:
    """Root-mean-square error of the logits and the mean norm of outliers in units of all; lists over seeds."""
    corpus = load_corpus(config.corpus)
    workspace.pinned("quantisation/corpora", {config.corpus: corpus.fingerprint})
    found = workspace.cached("quantisation/errors", partial(_errors, config, corpus, seeds))
    return {"corpora": {config.corpus: corpus.fingerprint}, **found}


def _errors(config: QuantisationConfig, corpus: Corpus, seeds: Sequence[int]) -> dict[str, Any]:
    encoder = load_text_encoder(minilm_directory())
    texts = list(paragraphs(corpus, "test"))
    wanted = len(seeds) * config.passages
    require(len(texts) >= wanted, "quantisation.passages", config.passages, f"at most {len(texts) // len(seeds)}")
    order = np.random.default_rng(0).permutation(len(texts))
    errors: dict[str, dict[str, list[float]]] = {name_of(*p): {arm: [] for arm in ARMS} for p in PRECISIONS}
    norms = []
    for place, seed in enumerate(seeds):
        chosen = order[place * config.passages : (place + 1) * config.passages]
        tokens, mask, _ = map(jnp.asarray, encode(encoder, [texts[i] for i in chosen], config.context))
        key = stream(jax.random.key(seed), "quantisation")
        exact, ratio = logits(encoder.config, None, config.share, encoder.params, tokens, mask, key, "all")
        norms.append(round(float(ratio), 4))
        for precision in PRECISIONS:
            for arm in ARMS:
                found, _ = logits(encoder.config, precision, config.share, encoder.params, tokens, mask, key, arm)
                errors[name_of(*precision)][arm].append(float(f"{logit_error(found, exact):.4g}"))
    return {"errors": errors, "outlier_norm": norms}


def name_of(bits: int, shared: str) -> str:
    return f"int{bits}, a scale by {shared}"


def logit_error(found: jax.Array, exact: jax.Array) -> float:
    """Root mean square of the difference over all pairs of different passages."""
    others = ~np.eye(len(exact), dtype=bool)
    return float(np.sqrt(np.mean(np.square(np.asarray(found) - np.asarray(exact))[others])))


def logits(
    config: TransformerConfig,
    precision: tuple[int, str] | None,
    share: float,
    params: Params,
    tokens: jax.Array,
    mask: jax.Array,
    key: jax.Array,
    arm: str,
) -> tuple[jax.Array, jax.Array]:
    """(cosines of all pairs of passages, mean norm of outliers over that of all tokens); full precision for None.

    Which tokens are outliers, or drawn at random, is decided for each layer. What is dropped is seen by nobody in that layer's attention,
    but its own stream goes on, so that embeddings are means over the same tokens.
    """
    chosen = jnp.asarray(arm != "all"), jnp.asarray("outliers" in arm), jnp.asarray("dropped" in arm)
    return _logits(config, precision, share, params, tokens, mask, key, *chosen)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _logits(config, precision, share, params, tokens, mask, key, some, outliers, drop):
    x = embed_tokens(config, params, tokens)

    def step(carry: tuple[jax.Array, jax.Array], layer: Params) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        x, key = carry
        key, now = jax.random.split(key)
        change = Cached(config, layer, precision, share, mask, now, some, outliers, drop)
        x = Block(config, False).apply({"params": layer}, x, None, mask, change)[0]
        return (x, key), change.ratio

    (x, _), ratios = jax.lax.scan(step, (x, key), params["layers"])
    embeddings = pool(x, mask)
    return embeddings @ embeddings.T, jnp.mean(ratios)


class Cached:
    """Puts into a layer what its attention gives when it reads quantised keys and values, some tokens of them exact or dropped.

    The layer must normalise after its sums, so that attention reads what comes in.
    """

    def __init__(self, config, layer, precision, share, mask, key, some, outliers, drop):
        require(config.residual == "post", "model.residual", config.residual, "'post'")
        self.config, self.layer, self.precision, self.share, self.mask = (
            config,
            layer["attention"],
            precision,
            share,
            mask,
        )
        self.key, self.some, self.outliers, self.drop = key, some, outliers, drop
        self.seen: dict[str, jax.Array] = {}
        self.ratio: jax.Array = jnp.zeros(())

    def __call__(self, site: str, activations: jax.Array) -> jax.Array:
        if site in ("residual_in", "queries", "keys"):
            self.seen[site] = activations
        if site != "attention_output":
            return activations
        x, keys = self.seen["residual_in"], self.seen["keys"]
        values = (linear(x, self.layer["value"]) + self.layer["value_bias"][None, None]).reshape(keys.shape)
        scores = sum(relative_norms(cached, self.mask) for cached in (keys, values)) / 2
        noise = jax.random.uniform(self.key, scores.shape)
        count = int(np.ceil(self.share * scores.shape[1]))
        by_norm = jax.vmap(lambda s, m: largest_norms(s, count, m))(scores, self.mask)
        self.ratio = jnp.sum(jnp.where(by_norm, scores, 0.0)) / jnp.sum(by_norm, dtype=jnp.float32)
        drawn = jax.vmap(lambda s, m: largest_norms(s, count, m))(noise, self.mask)
        spared = self.some & jnp.where(self.outliers, by_norm, drawn)
        if self.precision is not None:
            bits, shared = self.precision
            exact = spared | ~self.mask
            keys, values = (
                jax.vmap(lambda x, e: quantise(x, bits, SHARED_BY[shared], e))(cached, exact)
                for cached in (keys, values)
            )
        visible = self.mask & ~(self.drop & spared)
        mixed = attention(self.seen["queries"], keys, values, None, False, "dot_product", mask=visible).reshape(x.shape)
        return linear(mixed, self.layer["output"]) + self.layer["output_bias"][None, None]


def relative_norms(cached: jax.Array, mask: jax.Array) -> jax.Array:
    """[batch, tokens]: the length of each token's vector over all heads, in units of the mean of its paragraph."""
    norms = jnp.sqrt(jnp.sum(jnp.square(cached), axis=(2, 3)))
    mean = jnp.sum(jnp.where(mask, norms, 0.0), axis=1, keepdims=True) / jnp.sum(
        mask, axis=1, keepdims=True, dtype=jnp.float32
    )
    return norms / mean


SMALLEST = 0.05
"""The least effect that matters, in logarithms of errors: about 5 %."""


def judge(measured: dict[str, Any]) -> list[Claim]:
    """Both ways of treating outliers, against all tokens quantised and against the same done to random tokens."""
    errors = {name: {arm: np.log(e) for arm, e in arms.items()} for name, arms in measured["errors"].items()}

    def claim(name: str, way: str, statement: str) -> Claim:
        less = {
            shared: {
                f"int{bits}, ln {against} / outliers": interval(arms[other] - arms[f"outliers {way}"])
                for bits in BITS
                for arms in [errors[name_of(bits, shared)]]
                for against, other in (("all", "all"), ("random", f"random {way}"))
            }
            for shared in SHARED_BY
        }
        return judged(
            11,
            name,
            f"{statement} (measured: ln of the RMS error of MiniLM's cosines between paragraphs when all tokens are quantised, or random "
            f"ones are {way}, over that when outliers are; a scale for each channel).",
            "at int8 and int4 the error is smaller than with all tokens quantised, and than with random tokens treated so",
            less["channel"],
            SMALLEST,
            {"a scale for each head": less["head"], "norm of outliers / mean": interval(measured["outlier_norm"])},
        )

    return [
        claim(
            "exact_outliers_help_quantisation",
            "exact",
            "with the tokens of largest norm kept at full precision, keys and values are quantised with less error",
        ),
        claim(
            "dropping_outliers_helps_quantisation",
            "dropped",
            "so they are with these tokens dropped from the cache, although the logits are compared with those of all tokens",
        ),
    ]


def draw(measured: dict[str, Any], axes: Axes) -> None:
    """Errors by precision and arm, means over seeds with a bar from the least to the most."""
    width = 0.8 / len(ARMS)
    for place, (arm, (label, color)) in enumerate(ARMS.items()):
        rows = np.array([arms[arm] for arms in measured["errors"].values()])
        mean = rows.mean(axis=1)
        at = np.arange(len(rows)) + (place - (len(ARMS) - 1) / 2) * width
        axes.bar(at, mean, width, color=color, label=label, yerr=[mean - rows.min(1), rows.max(1) - mean])
    axes.set(yscale="log", ylabel="RMS error of cosines", title="C11 quantised keys and values")
    axes.set_xticks(range(len(measured["errors"])), [name.replace(", a scale ", "\n") for name in measured["errors"]])
    axes.legend()
