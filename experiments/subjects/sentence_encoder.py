"""MiniLM as a model whose activations autoencoders are trained on: a sentence encoder with published weights, on paragraphs of text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.harness.assets import asset
from experiments.harness.workspace import Workspace
from experiments.subjects.language_subjects import (
    BLOCK,
    Edit,
    HeldOut,
    SubjectConfig,
    blocks,
    identify,
    load_corpora,
)
from experiments.subjects.passages import Passages, encode, paragraphs
from lexinv.nn.text_encoder import Params, TextEncoder, embed_tokens, load_text_encoder, pool
from lexinv.nn.transformer import Block, TransformerConfig
from lexinv.sae.activation_streams import ActivationSource, ComputedActivations
from lexinv.validation import require


@dataclass(frozen=True, eq=False)
class EncoderSubject:
    """A `Subject` that is a text encoder: activations after a layer at the words of paragraphs; [CLS] and [SEP] are left as they are."""

    encoder: TextEncoder
    layer: int
    source: ActivationSource
    calibration: Float[np.ndarray, "tokens width"]
    passages: Sequence[Passages]
    held_out: Sequence[HeldOut]
    fingerprints: Mapping[str, str]
    identity: str

    @property
    def width(self) -> int:
        return self.encoder.config.width

    def splice(self, edit: Edit) -> Callable[[Any, int], float]:
        config, layer = self.encoder.config, self.layer

        @jax.jit
        def cosines(params: Params, tokens: Array, mask: Array, words: Array, extra: Any) -> Float[Array, " passages"]:
            x = up_to(config, params, tokens, mask, layer)
            changed = jnp.where(words[..., None], edit(extra, x), x)
            before, after = (pool(onwards(config, params, each, mask, layer), mask) for each in (x, changed))
            return jnp.sum(before * after, axis=-1)

        def measure(extra: Any, seed: int) -> float:
            passages, found = self.passages[seed], []
            for chosen in blocks(len(passages.tokens)):
                found.append(np.asarray(cosines(self.encoder.params, *(part[chosen] for part in passages), extra)))
            return float(np.concatenate(found)[: len(passages.tokens)].mean())

        return measure


def up_to(config: TransformerConfig, params: Params, tokens: Array, mask: Array, layer: int) -> Array:
    """The stream after layer number `layer`, from 0."""
    return _layers(config, params, embed_tokens(config, params, tokens), mask, 0, layer + 1)


def onwards(config: TransformerConfig, params: Params, x: Array, mask: Array, layer: int) -> Array:
    """The last level, from the stream after layer number `layer`."""
    return _layers(config, params, x, mask, layer + 1, config.depth)


def _layers(config: TransformerConfig, params: Params, x: Array, mask: Array, start: int, stop: int) -> Array:
    for index in range(start, stop):
        layer = jax.tree.map(lambda leaf, index=index: leaf[index], params["layers"])
        x = Block(config, False).apply({"params": layer}, x, None, mask)[0]
    return x


def open_encoder(config: SubjectConfig, tokens: int, seeds: int, workspace: Workspace) -> EncoderSubject:
    """MiniLM, and its activations on the corpus's paragraphs: at least `tokens` for each of `seeds`, and as many for calibration.

    `config.windows` paragraphs of the training split are trained on, the next ones calibrate. Raises `InvalidConfig` where MiniLM
    cannot be had, the corpus has too little text, or the model too few layers.
    """
    encoder = load_text_encoder(asset("minilm", workspace))
    depth = encoder.config.depth
    require(config.layer < depth - 1, "layer", config.layer, f"below {depth - 1}: later layers must read it")
    corpora = load_corpora(config)
    read = jax.jit(partial(up_to, encoder.config, layer=config.layer))

    def rows(passages: Passages) -> Float[np.ndarray, "tokens width"]:
        parts = []
        for chosen in blocks(len(passages.tokens)):
            part = Passages(*(each[chosen] for each in passages))
            parts.append(np.asarray(read(encoder.params, part.tokens, part.mask)))
        states = np.concatenate(parts)[: len(passages.tokens)]
        return states[passages.words]

    def taken(split: str, field: str, wanted: int, size: Callable[[Passages], np.ndarray], after: int = 0) -> Passages:
        """So many of a split's paragraphs, shuffled, that their sizes sum to `wanted`; without the `after` first ones."""
        texts = [text for corpus in corpora for text in paragraphs(corpus, split)]
        order = np.random.default_rng(0).permutation(len(texts))[after : after + wanted]
        found = f"less: {', '.join(config.corpora)} has too little text in the {split} split"
        require(len(order) > 0, field, wanted, found)
        passages = encode(encoder, [texts[i] for i in order], config.context)
        sizes = np.cumsum(size(passages))
        require(int(sizes[-1]) >= wanted, field, wanted, found)
        return Passages(*(part[: int(np.searchsorted(sizes, wanted)) + 1] for part in passages))

    train = taken("train", "windows", config.windows, lambda passages: np.ones(len(passages.tokens), int))
    calibration = taken("train", "calibration tokens", tokens, words_of, after=config.windows)
    held = taken("test", "held-out tokens", seeds * (tokens + config.context), words_of)
    groups, start = [], 0
    for _ in range(seeds):
        stop = start + int(np.searchsorted(np.cumsum(words_of(held)[start:]), tokens)) + 1
        groups.append(Passages(*(part[start:stop] for part in held)))
        start = stop
    pieces = [Passages(*(part[i : i + BLOCK] for part in train)) for i in range(0, len(train.tokens), BLOCK)]
    counts, computed = np.array([words_of(piece).sum() for piece in pieces]), lambda index: rows(pieces[index])
    source = ComputedActivations(encoder.config.width, counts, cache(computed) if config.keep else computed)
    fingerprints = {corpus.name: corpus.fingerprint for corpus in corpora}
    return EncoderSubject(
        encoder,
        config.layer,
        source,
        rows(calibration),
        groups,
        [HeldOut(rows(group), None) for group in groups],
        fingerprints,
        identify({"config": asdict(config), "tokens": tokens, "seeds": seeds, "corpora": fingerprints}, __file__),
    )


def words_of(passages: Passages) -> Int[np.ndarray, " passages"]:
    """How many activations each passage has."""
    return passages.words.sum(axis=1)
