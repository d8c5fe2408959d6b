"""Whether attention caches can be quantised with less error when tokens of outlying norm are dropped, or kept at full precision.

Kong et al. 2026 (arXiv 2505.18227), section 5; claim C11 of method card token-reduction-beyond-efficiency. The subject is MiniLM with its
trained weights on real paragraphs: keys and values of every layer are quantised, and its logits, the cosines between the embeddings of the
paragraphs, are compared with those of the whole model at full precision. A scale is shared by all tokens of a paragraph, for each channel
of keys and values, or for each head; where every token has a scale of its own, other tokens' outliers cannot matter.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.assets import asset
from experiments.harness.figures import bars
from experiments.harness.presets import presets
from experiments.harness.style import panels
from experiments.harness.verdicts import Claim, above
from experiments.harness.workspace import Workspace
from experiments.subjects.sentence_encoder import encode, paragraphs
from lexinv.data.corpora import load_corpus
from lexinv.merging.quantisation import largest_norms, quantise
from lexinv.nn.attention import attention
from lexinv.nn.linear import linear
from lexinv.nn.text_encoder import Params, embed_tokens, load_text_encoder, pool
from lexinv.nn.transformer import Block, TransformerConfig
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Fraction, Seeds, require

PAPERS = ("kong2025token",)
ARMS = {
    "all": "all tokens quantised",
    "random_exact": "random kept exact",
    "outliers_exact": "outliers kept exact",
    "random_dropped": "random dropped",
    "outliers_dropped": "outliers dropped",
}
SHARED_BY = {"channel": (0,), "head": (0, 2)}
"""The axes of [tokens, heads, dim] that share a scale."""
BITS = (8, 4)
PRECISIONS = {f"int{bits}, a scale by {shared}": (bits, shared) for shared in SHARED_BY for bits in BITS}
SMALLEST = 0.05
"""The least effect that matters, in logarithms of errors: about 5 %."""


@dataclass(frozen=True)
class Config(Checked):
    """passages: paragraphs for each seed, no paragraph for two. share: of a paragraph's tokens that are outliers, rounded up.

    context: the most tokens of a paragraph.
    """

    corpus: str = "python-docs"
    passages: Count = 32
    context: Count = 64
    share: Fraction = 0.1
    seeds: Seeds = (0, 1, 2, 3, 4)

    def checks(self):
        yield self.passages >= 2, "passages", "at least 2: logits are between them"
        yield self.context >= 8, "context", "at least 8 tokens"


PRESETS = presets(
    Config(),
    smoke={"passages": 2, "context": 12, "seeds": (0, 1)},
    quick={"seeds": (0, 1, 2)},
    paper={"passages": 64, "context": 256, "seeds": tuple(range(10))},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Root-mean-square error of the logits by arm and precision, and the mean norm of outliers in units of all; lists over seeds."""
    corpus, seeds = load_corpus(config.corpus), config.seeds
    corpora = {config.corpus: corpus.fingerprint}
    workspace.pinned("corpora", corpora)
    encoder = load_text_encoder(asset("minilm", workspace))
    texts = list(paragraphs(corpus, "test"))
    most = len(texts) // len(seeds)
    require(config.passages <= most, "passages", config.passages, f"at most {most}")
    order = np.random.default_rng(0).permutation(len(texts))

    def one(arm: str, seed: int) -> dict[str, float]:
        chosen = order[seeds.index(seed) * config.passages :][: config.passages]
        tokens, mask, _ = map(jnp.asarray, encode(encoder, [texts[i] for i in chosen], config.context))
        inputs = config.share, encoder.params, tokens, mask, stream(jax.random.key(seed), "quantisation"), arm
        exact, norm = logits(encoder.config, None, *inputs[:-1], "all")
        if arm == "exact":
            return {"outlier_norm": round(float(norm), 4)}
        found = {name: logits(encoder.config, precision, *inputs)[0] for name, precision in PRECISIONS.items()}
        return {name: float(f"{logit_error(one, exact):.4g}") for name, one in found.items()}

    arms = measured(workspace, ("exact", *ARMS), seeds, one)
    return {"corpora": corpora, "seeds": seeds, "arms": arms}


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
        x = Block(config, False).apply({"params": layer}, x, None, mask, change=change)[0]
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


def claims(results: dict[str, Any]) -> list[Claim]:
    """Both ways of treating outliers, with a scale for each channel, against all tokens quantised and the same done to random tokens."""
    arms = Arms(results)

    def claim(name: str, way: str, statement: str) -> Claim:
        gains = {
            f"{precision}, over {label}": np.log(arms[other, precision] / arms[f"outliers_{way}", precision])
            for precision, (_, shared) in PRECISIONS.items()
            if shared == "channel"
            for label, other in (("all quantised", "all"), (f"random {way}", f"random_{way}"))
        }
        unit = "decrease of ln of the RMS error of MiniLM's cosines between paragraphs"
        return Claim(name, f"C11: {statement}", "kong2025token: section 5", gains, above(0, matters=SMALLEST), unit)

    return [
        claim(
            "exact_outliers_help_quantisation",
            "exact",
            "With the tokens of largest norm kept at full precision, keys and values are quantised with less error.",
        ),
        claim(
            "dropping_outliers_helps_quantisation",
            "dropped",
            "So they are with these tokens dropped from the cache, although the logits are compared with those of all tokens.",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Errors by precision and arm, means over seeds with their interval."""
    arms = Arms(results)
    drawn, (axes,) = panels(width=6.5, height=3.6, titles=("Quantised keys and values",))
    within = {arm: (label, np.stack([arms[arm, name] for name in PRECISIONS], axis=1)) for arm, label in ARMS.items()}
    bars(axes, [name.replace(", a scale ", "\n") for name in PRECISIONS], within)
    axes.set(yscale="log", ylabel="RMS error of cosines")
    axes.set_ylim(top=1)
    axes.legend(ncols=2)
    return drawn
