"""Context-free grammars with probabilities by a network: the inside algorithm, and the neural and the compound grammar (Kim et al. 2019).

A sentence begins with a nonterminal, which becomes two symbols, and so on; preterminals become words. In the compound grammar all rules
depend on a vector z of the sentence, drawn from a normal law. Kim, Dyer and Rush 2019 (arXiv 1906.10225) infer z by a bidirectional LSTM;
here it is a convolution over two words, and both take the maximum over places.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from lexinv.validation import Checked, Count, CountOrZero, require

LONGEST = 64
"""Words of a span: the table has a program of its own for each width."""
NOTHING = -1e9
"""Instead of log 0, whose gradient is not a number."""


@dataclass(frozen=True)
class GrammarConfig(Checked):
    """latent: width of a sentence's own vector; 0 for the neural grammar. width: of symbols' vectors and hidden layers."""

    words: Count = 1024
    nonterminals: Count = 10
    preterminals: Count = 20
    width: Count = 64
    latent: CountOrZero = 0

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield self.words >= 2, "words", "at least 2"

    @property
    def symbols(self) -> int:
        return self.nonterminals + self.preterminals


class Rules(NamedTuple):
    """Log-probabilities. root: of the first nonterminal. binary: of two symbols, nonterminals before preterminals. unary: of words."""

    root: Float[Array, " nonterminals"]
    binary: Float[Array, "nonterminals symbols symbols"]
    unary: Float[Array, "preterminals words"]


def inside(
    root: Float[Array, " nonterminals"],
    binary: Float[Array, "nonterminals symbols symbols"],
    unary: Float[Array, "length preterminals"],
) -> Float[Array, ""]:
    """log Z: the log-probability in nats of a span, summed over all of its trees; unary: of its words, by preterminal.

    Its gradient with respect to `binary` is how often each rule is expected, length - 1 in all. Raises `InvalidConfig` for a span of one
    word, which has no tree, and one longer than `LONGEST`.
    """
    length, nonterminals = len(unary), len(root)
    require(2 <= length <= LONGEST, "length", length, f"from 2 to {LONGEST} words")

    def padded(cells: Array, rows: tuple[int, int], symbols: tuple[int, int]) -> Array:
        return jnp.pad(cells, (rows, symbols), constant_values=NOTHING)[:, None]

    rules, (_, symbols, _) = jnp.exp(binary), binary.shape
    # [words, widths, symbols], by first and by last word of a span: what its splits read lies side by side.
    firsts = lasts = padded(unary, (0, 0), (nonterminals, 0))
    made = unary
    for width in range(2, length + 1):
        left, right = firsts[: length - width + 1], lasts[width - 1 :, ::-1]
        left_top, right_top = (jax.lax.stop_gradient(jnp.max(part, axis=2, keepdims=True)) for part in (left, right))
        top = jnp.max(left_top + right_top, axis=1, keepdims=True)
        weighted = jnp.exp(left - left_top + (left_top + right_top - top))
        pairs = jnp.einsum("skb,skc->sbc", weighted, jnp.exp(right - right_top))
        total = jnp.einsum("sbc,abc->sa", pairs, rules)
        made = jnp.log(jnp.maximum(total, jnp.finfo(total.dtype).tiny)) + top[:, 0]
        room = (0, symbols - nonterminals)
        firsts = jnp.concatenate([firsts, padded(made, (0, width - 1), room)], axis=1)
        lasts = jnp.concatenate([lasts, padded(made, (width - 1, 0), room)], axis=1)
    return jax.nn.logsumexp(root + made[0])


def initialize(config: GrammarConfig, key: Key[Array, ""]) -> dict[str, Any]:
    """Parameters of a grammar, and of the network that guesses z where it has one."""
    width, hidden, pairs = config.width, config.width + config.latent, config.symbols**2
    shapes = {
        "root": (1, width),
        "nonterminals": (config.nonterminals, width),
        "preterminals": (config.preterminals, width),
        "to_pair": (hidden, pairs),
        **{
            f"{name}_{layer}": (hidden if layer == "in" else width, width)
            for name in ("root", "word")
            for layer in ("in", "out")
        },
        "to_root": (width, config.nonterminals),
        "to_word": (width, config.words),
    }
    if config.latent:
        shapes |= {"seen": (config.words, width), "before": (width, width), "after": (width, width)}
        shapes |= {"guess": (width, 2 * config.latent)}
    keys = jax.random.split(key, len(shapes))
    embeddings = ("root", "nonterminals", "preterminals", "seen")
    return {
        name: jax.random.normal(one, shape) * (1.0 if name in embeddings else shape[0] ** -0.5)
        for one, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def rules(params: dict[str, Any], z: Float[Array, " latent"]) -> Rules:
    """The rules of a sentence with this vector, which has no entries in the neural grammar."""

    def known(name: str) -> Array:
        rows = params[name]
        return jnp.concatenate([rows, jnp.broadcast_to(z, (len(rows), len(z)))], axis=1)

    def deep(symbols: str, name: str) -> Array:
        first = jax.nn.relu(known(symbols) @ params[f"{name}_in"])
        return first + jax.nn.relu(first @ params[f"{name}_out"])

    root = jax.nn.log_softmax(deep("root", "root") @ params["to_root"])[0]
    pairs = jax.nn.log_softmax(known("nonterminals") @ params["to_pair"])
    symbols = len(root) + len(params["preterminals"])
    words = jax.nn.log_softmax(deep("preterminals", "word") @ params["to_word"])
    return Rules(root, pairs.reshape(len(root), symbols, symbols), words)


def elbo(params: dict[str, Any], spans: Int[Array, "batch length"], key: Key[Array, ""]) -> Float[Array, " batch"]:
    """log p of each span in nats; of the compound grammar a bound from below, E log p(span | z) - KL(q(z) || normal), z drawn once."""
    if "guess" not in params:
        found = rules(params, jnp.zeros(0))
        words = found.unary.T[spans]
        return jax.vmap(lambda unary: inside(found.root, found.binary, unary))(words)
    seen = params["seen"][spans]
    features = jnp.max(jnp.tanh(seen[:, :-1] @ params["before"] + seen[:, 1:] @ params["after"]), axis=1)
    mean, log_variance = jnp.split(features @ params["guess"], 2, axis=1)
    z = mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape)
    divergence = jnp.sum(jnp.exp(log_variance) + jnp.square(mean) - 1 - log_variance, axis=1) / 2

    def one(z: Array, span: Array) -> Array:
        found = rules(params, z)
        return inside(found.root, found.binary, found.unary.T[span])

    return jax.vmap(one)(z, spans) - divergence
