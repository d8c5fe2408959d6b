"""Small models of Turkish words over each tokenizer, asked about words that they have not seen.

Every seed divides the words anew: tokenizers and models learn from one part.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from experiments.harness.arms import by_metric
from experiments.harness.training import Training, scaled, train
from experiments.harness.workspace import Workspace
from experiments.subjects.turkish_words import Words, WordTokenizer, agreement, divide, word_tokenizer
from lexinv.data.windows import PADDING, TokenStream, Windows, window_source
from lexinv.data.windows import batches as window_batches
from lexinv.nn.flops import train_flops
from lexinv.nn.language_model import initialize, make_loss, make_nll
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.tokenization.less_is_better import LessIsBetter
from lexinv.tokenization.linguistic import other_harmony
from lexinv.training.evaluation import evaluate_by_position

STANDARD = LexiconConfig("standard")


def measure_tokenizers(
    names: Sequence[str],
    words: Words,
    held_out: float,
    together: int,
    model: TransformerConfig,
    training: Training,
    lib: LessIsBetter,
    workspace: Workspace,
) -> dict[str, dict[str, list[float]]]:
    """By tokenizer and metric a list over seeds: vocabulary, `agreement` on all words, and what `train_word_models` says."""
    folders = {name.replace(":", "-"): name for name in names}

    def measure(folder: str) -> dict[str, list[float]]:
        name = folders[folder]
        found = {
            seed: word_tokenizer(name, words, divide(words, held_out, seed)[0], seed, lib) for seed in training.seeds
        }
        rows = [{"vocabulary": each.size} | agreement(words, each.parts) for each in found.values()]
        said = train_word_models(f"models/{folder}", found, words, held_out, together, model, training, workspace)
        return by_metric(rows) | said

    return {folders[folder]: rows for folder, rows in workspace.stages("tokenizers", folders, measure).items()}


def word_windows(ids: Sequence[Sequence[int]], separator: int, words: int, length: int | None = None) -> Windows:
    """So many words to a window, each with a separator before it, and one after the last."""
    groups = [ids[first : first + words] for first in range(0, len(ids) - words + 1, words)]
    flat = [np.array([separator, *(i for each in group for i in (*each, separator))], np.int32) for group in groups]
    ends = np.cumsum([0, *map(len, flat)])
    longest = -(-max(map(len, flat)) // 8) * 8
    return window_source(TokenStream(np.concatenate(flat).astype(np.uint32), ends), length or longest, "documents")


def train_word_models(
    name: str,
    tokenizers: Mapping[int, WordTokenizer],
    words: Words,
    held_out: float,
    together: int,
    model: TransformerConfig,
    training: Training,
    workspace: Workspace,
) -> dict[str, list[float]]:
    """Two-layer models of words over each seed's tokenizer, by seed: bits per byte of held-out words, their end counted as one, and the
    share of words that cost less than their like with the last suffix against vowel harmony.

    Every word of a division is seen equally often, whatever its frequency, and by every tokenizer. Bits are those of the tokens that the
    tokenizer gives, an upper bound of what the model says of the bytes.
    """
    size = next(iter(tokenizers.values())).size
    vocab, divided = size + 1, {seed: divide(words, held_out, seed) for seed in tokenizers}

    def windows(seed: int, length: int | None = None) -> Windows:
        return word_windows(
            [tokenizers[seed].encode(words.parts[word]) for word in divided[seed][0]], size, together, length
        )

    length = max(windows(seed).length for seed in tokenizers)
    sources = {seed: windows(seed, length) for seed in tokenizers}

    def batches(seed: int) -> Any:
        return window_batches(sources[seed], training.batch_size, seed, training.steps_per_dispatch)

    found = train(
        name,
        partial(initialize, model, STANDARD, vocab),
        make_loss(model, STANDARD, vocab),
        batches,
        training,
        workspace,
        optimizer=scaled,
        tokens=length,
        flops_per_token=train_flops(model, vocab, length),
    )
    nll, scores = make_nll(model, STANDARD, vocab), []
    for seed, params in zip(training.seeds, found, strict=True):
        tokenizer, unseen = tokenizers[seed], [words.parts[word] for word in divided[seed][1]]
        pairs = [(each, other_harmony(each, words.lexicon)) for each in unseen if "".join(each) in words.agreed]
        right, wrong = zip(*((each, other) for each, other in pairs if other is not None), strict=True)
        asked = word_windows([tokenizer.encode(each) for each in (*unseen, *right, *wrong)], size, 1)
        rows = asked.gather(np.arange(len(asked)))
        nats = evaluate_by_position(nll, params, rows, jax.random.key(0), 512)
        costs = np.where(rows == PADDING, 0.0, nats)[:, 1:].sum(
            axis=1, dtype=np.float64
        )  # the first separator is given
        count = sum(len("".join(each).encode()) + 1 for each in unseen)
        kept, broken = np.split(costs[len(unseen) :], 2)
        scores.append(
            {
                "bits": costs[: len(unseen)].sum() / np.log(2) / count,
                "harmony": float(np.mean(kept < broken)),
                "pairs": len(kept),
            }
        )
    return by_metric(scores)
