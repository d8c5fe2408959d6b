"""A network that reads what a new token is in the old ones, and gives its rows (Minixhofer et al. 2024, ZeTT, arXiv 2405.07883).

It sees every token alone and no tokenizer, so that one network serves all of them. The released code's is built, over the spine's
Transformer (layers that normalise before, without offsets, in place of RoBERTa's); its bias for masked models and its language tokens
are left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, Key

from lexinv.data.tokenizers import Tokenizer
from lexinv.nn.language_model import Params
from lexinv.nn.linear import layer_norm, linear
from lexinv.nn.transformer import Transformer, TransformerConfig
from lexinv.transfer.combinations import apply, means_of_pieces
from lexinv.transfer.vocabularies import SurfaceForms, segmenter, surface_forms
from lexinv.validation import Checked, Count, require

NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class HypernetworkConfig(Checked):
    """length: tokens of a surface form that are read. Its transformer is bidirectional, with learned positions.

    skip: the network's answer is added to the mean of the rows of the form, and is 0 before training. Ours, for short training: what it
    begins with is means of pieces, and the source's own tokens are exact. Without it the network is the paper's.
    """

    length: Count = 7
    skip: bool = False
    transformer: TransformerConfig = TransformerConfig(
        depth=3, width=128, heads=4, mlp_width=256, positions="learned", causal=False, unroll=3, max_length=16
    )

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield not self.transformer.causal, "transformer.causal", "False: a form is read in both directions"
        yield self.length <= self.transformer.max_length, "length", f"at most {self.transformer.max_length} positions"


def surface(forms: SurfaceForms) -> Int32[np.ndarray, "vocab length"]:
    """Forms in one array: -1 where there is no token. A piece without bytes has a token 0, whose rows are to be replaced."""
    found = np.where(forms.mask, forms.ids, -1).astype(np.int32)
    found[~forms.mask.any(1), 0] = 0
    return found


def target_surface(source: Tokenizer, target: Tokenizer, length: int) -> Int32[np.ndarray, "vocab length"]:
    """Of every token of a target. Raises `InvalidConfig` for a target that cannot spell some byte."""
    pieces = set(target.pieces)
    missing = [byte for byte in range(256) if bytes([byte]) not in pieces]
    require(not missing, "target", target.name, f"a tokenizer with all 256 bytes; it lacks {missing[:5]}")
    return surface(surface_forms(target.pieces, segmenter(source), length))


def initialize(
    config: HypernetworkConfig,
    key: Key[Array, ""],
    source: tuple[Float[Array, "vocab width"], ...],
    anchors: Int[Array, "anchors length"],
) -> Params:
    """source: the tied table alone, or the input and the output table, each of which gets a head.

    The rescalers are fitted here, and never trained: source rows have mean 0 and deviation 1 in each dimension (the paper's 0.02 belongs
    to smaller initial weights), and the rows that the untrained network gives to `anchors` have the tables' own. What is added to means
    of pieces has the tables' deviation as its unit.
    """
    width, rows = config.transformer.width, jnp.concatenate(source, axis=1)
    keys = iter(jax.random.split(key, 3 + 2 * len(source)))
    start = jnp.zeros((1, config.length, width))
    params: Params = {
        "enter": {"kernel": _kernel(next(keys), rows.shape[1], width), "block": _block(next(keys), width)},
        "transformer": Transformer(config.transformer).init(next(keys), start)["params"],
        "heads": [
            {"block": _block(next(keys), width), "kernel": _kernel(next(keys), width, table.shape[1])}
            | {"bias": jnp.zeros(table.shape[1])}
            for table in source
        ],
        "scales": {"source": _onto(rows, jnp.zeros(rows.shape[1]), jnp.ones(rows.shape[1]))}
        | {"heads": [(jnp.ones(table.shape[1]), jnp.zeros(table.shape[1])) for table in source]},
    }
    if config.skip:
        heads = [head | {"kernel": jnp.zeros_like(head["kernel"])} for head in params["heads"]]
        units = [(table.std(0), jnp.zeros(table.shape[1])) for table in source]
        return params | {"heads": heads, "scales": params["scales"] | {"heads": units}}
    begun = predict(config, params, anchors, source)
    fitted = [_onto(made, table.mean(0), table.std(0)) for made, table in zip(begun, source, strict=True)]
    return params | {"scales": params["scales"] | {"heads": fitted}}


def predict(
    config: HypernetworkConfig,
    params: Params,
    surface: Int[Array, "vocab length"],
    source: tuple[Float[Array, "old width"], ...],
) -> tuple[Float[Array, "vocab width"], ...]:
    """The rows of tokens of these forms in each of the source's tables. A row depends on its form alone.

    Raises `InvalidConfig` for forms longer than the network reads.
    """
    require(surface.shape[1] <= config.length, "surface", surface.shape, f"forms of at most {config.length} tokens")
    scales = jax.lax.stop_gradient(params["scales"])
    enter = params["enter"]
    rows = _scaled(scales["source"], jnp.concatenate(source, axis=1))
    read = _project(
        enter["block"], linear(rows, enter["kernel"])
    )  # once for each row, not for each place it is read at
    mask = surface >= 0
    x = jnp.where(mask[..., None], read[jnp.maximum(surface, 0)], 0.0)
    hidden = Transformer(config.transformer).apply({"params": params["transformer"]}, x, mask=mask)
    first = hidden[0][:, 0]  # pyright: ignore[reportIndexIssue]
    answers = [
        _scaled(scale, linear(_project(head["block"], first), head["kernel"]) + head["bias"][None])
        for head, scale in zip(params["heads"], scales["heads"], strict=True)
    ]
    if not config.skip:
        return tuple(answers)
    pieces = means_of_pieces(jnp.maximum(surface, 0), mask)
    return tuple(apply(pieces, table) + answer for table, answer in zip(source, answers, strict=True))


def identity_loss(
    made: tuple[Float[Array, "vocab width"], ...], wanted: tuple[Float[Array, "vocab width"], ...]
) -> Float[Array, ""]:
    """The warm-up's, after MIMICK (Pinter et al. 2017): squared distance of whole rows, a mean over rows and tables."""
    distances = [jnp.square(rows - table).sum(1).mean() for rows, table in zip(made, wanted, strict=True)]
    return jnp.stack(distances).mean()


def lexical_loss(
    made: tuple[Float[Array, "vocab width"], ...],
    surface: Int[Array, "vocab length"],
    source: tuple[Float[Array, "old width"], ...],
) -> Float[Array, ""]:
    """Squared distance of the rows of those tokens that the source has, over the mean length of the rows of all first tokens.

    That mean is over all tokens, as in the released code.
    """
    shared = (surface >= 0).sum(1) == 1
    count = jnp.maximum(shared.sum(), 1).astype(jnp.float32)
    found = []
    for rows, table in zip(made, source, strict=True):
        wanted = table[surface[:, 0]]
        distance = jnp.where(shared, jnp.square(rows - wanted).sum(1), 0.0).sum() / count
        found.append(distance / jnp.linalg.norm(wanted, axis=1).mean())
    return jnp.stack(found).mean()


def _kernel(key: Key[Array, ""], n: int, m: int) -> Float[Array, "n m"]:
    return n**-0.5 * jax.random.normal(key, (n, m))


def _block(key: Key[Array, ""], width: int) -> Params:
    one, other = jax.random.split(key)
    kernels = {
        "wide": {"kernel": _kernel(one, width, 2 * width)},
        "narrow": {"kernel": _kernel(other, 2 * width, width)},
    }
    return kernels | {"gain": jnp.ones(width), "offset": jnp.zeros(width)}


def _project(block: Params, x: Float[Array, "rows width"]) -> Float[Array, "rows width"]:
    """LN(x + gelu(W2 gelu(W1 x)))."""
    wide = jax.nn.gelu(linear(x, block["wide"]["kernel"]))
    added = x + jax.nn.gelu(linear(wide, block["narrow"]["kernel"]))
    return layer_norm(added, block["gain"], block["offset"], NORM_EPSILON)


def _onto(rows: Array, mean: Array, deviation: Array) -> tuple[Float[Array, " width"], Float[Array, " width"]]:
    """(gain, offset) of the affine map of each dimension that gives rows this mean and deviation."""
    gain = deviation / jnp.maximum(rows.std(0), 1e-8)
    return gain, mean - gain * rows.mean(0)


def _scaled(scale: tuple[Array, Array], rows: Float[Array, "rows width"]) -> Float[Array, "rows width"]:
    gain, offset = scale
    return gain[None] * rows + offset[None]
