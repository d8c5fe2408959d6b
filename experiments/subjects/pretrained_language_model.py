"""A published language model as a world: its tokenizer, its predictions, and the bits that a byte of text costs it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.harness.assets import asset
from experiments.harness.workspace import Workspace
from lexinv.data.assets import ASSETS
from lexinv.data.corpora import Corpus, load_corpus
from lexinv.data.tokenizers import Tokenizer, bits_per_byte, digest, load_tokenizer, of_library
from lexinv.nn.language_model import initialize, make_logits, make_nll
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.pretrained import Pretrained, load_language_model
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.evaluation import NllFn, evaluate_by_position
from lexinv.validation import Count, require

END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>")
UNTRAINED = "untrained"


@dataclass(frozen=True, eq=False)
class PretrainedWorld:
    """The model's sequences begin where its texts do: after the separator, the vector of which is that of BOS."""

    model: Pretrained
    tokenizer: Tokenizer

    @cached_property
    def nll(self) -> NllFn:
        """`nll(params, batch, key)` of `model.params`, as `lexinv.nn.language_model.make_nll`."""
        return make_nll(self.model.config, self.model.lexicon, self.model.vocab)

    @cached_property
    def logits(self) -> Callable[[Int[Array, "batch time"]], Float[Array, "batch time vocab"]]:
        """Compiled: of each of the tokens given those before it, the first given the separator alone."""
        read = jax.jit(make_logits(self.model.config, self.model.lexicon, self.model.vocab))
        key = jax.random.key(0)
        return lambda tokens: read(
            self.model.params, {"tokens": tokens, "row": np.arange(len(tokens), dtype=np.int32)}, key
        )

    def windows(self, texts: Sequence[str], length: int) -> Int[np.ndarray, "texts time"]:
        """The first `length` tokens of each text, then -1, which is padding."""
        most = self.model.config.max_length
        require(1 <= length <= most, "length", length, f"1 to {most}, which the model reads at most")
        found = np.full((len(texts), length), -1, np.int32)
        for row, text in zip(found, texts, strict=True):
            tokens = self.tokenizer.encode(text)[:length]
            row[: len(tokens)] = tokens
        return found

    def bits_per_byte(self, texts: Sequence[str], length: int, batch_size: Count = 2) -> float:
        """Of the first `length` tokens of all texts together. A batch holds float32 logits of batch, length and vocabulary."""
        windows = self.windows(texts, length)
        nats = evaluate_by_position(self.nll, self.model.params, windows, jax.random.key(0), batch_size)
        return bits_per_byte(nats, windows, self.tokenizer)


def open_pretrained(name: str, workspace: Workspace) -> PretrainedWorld:
    """The model of an asset, such as `smollm2`, noted in the run; that of a folder or GGUF file, see `load_language_model`; or `untrained`.

    Raises `InvalidConfig` for a model that is not there or cannot be read, and for one without a byte-level tokenizer.
    """
    if name == UNTRAINED:
        return untrained(load_corpus("python-docs"))
    path = asset(name, workspace) if name in ASSETS else Path(name).expanduser()
    require(
        path.exists(), "model", name, f"a folder, a GGUF file, or an asset with a language model: {', '.join(ASSETS)}"
    )
    return read_pretrained(path)


def read_pretrained(path: Path) -> PretrainedWorld:
    """The model of a folder or a GGUF file."""
    model = load_language_model(path)
    tokenizer = checkpoint_tokenizer(path, model.tokenizer)
    beginning = model.params["model"] | {"bos": model.params["table"][tokenizer.separator]}
    return PretrainedWorld(replace(model, params=model.params | {"model": beginning}), tokenizer)


def untrained(corpus: Corpus) -> PretrainedWorld:
    """A tiny model of the Llama form over bytes with random weights: two layers of width 16, for what is tried without published ones."""
    tokenizer, lexicon = load_tokenizer("byte", corpus), LexiconConfig()
    config = TransformerConfig(
        depth=2, width=16, heads=2, key_heads=1, mlp_width=32, gate="silu", output="tied", unroll=2
    )
    params = initialize(config, lexicon, tokenizer.vocab_size, jax.random.key(0))
    return PretrainedWorld(Pretrained(config, lexicon, tokenizer.vocab_size, params, None), tokenizer)


def checkpoint_tokenizer(path: Path, model: Any) -> Tokenizer:
    """The tokenizer of a checkpoint as one of ours: no special token is put in, or looked for in the text.

    The separator is the end of text. Raises `InvalidConfig` for a checkpoint without a tokenizer, and for one without such a token.
    """
    require(
        model is not None, "model", str(path), "a folder that holds tokenizer.json, or a GGUF file with a tokenizer"
    )
    separator = next((name for name in END_OF_TEXT if model.token_to_id(name) is not None), None)
    require(separator is not None, "model", str(path), f"a tokenizer with the token {' or '.join(END_OF_TEXT)}")
    return of_library(f"checkpoint-{digest(model.to_str())}", model, separator)
