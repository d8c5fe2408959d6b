"""Models of tokens and of words that go on with another text: what a byte of it costs them in the course, and one of the first text."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from experiments.harness.training import evaluations, scaled, stacked, train
from experiments.subjects.text import STANDARD
from experiments.subjects.unit_models import SpelledConfig, Tuning, UnitModels, spelled_loss, word_text
from experiments.subjects.word_scores import bits, reader
from lexinv.data.corpora import Corpus
from lexinv.data.tokenizers import Tokenizer
from lexinv.data.windows import token_stream, window_source
from lexinv.nn.flops import forward_flops
from lexinv.nn.language_model import make_loss
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.population import member
from lexinv.training.state import TrainState
from lexinv.transfer.word_model import WordModelConfig, word_flops


def continued(
    name: str,
    models: UnitModels,
    corpus: Corpus,
    texts: Mapping[str, Sequence[str]],
    tuning: Tuning,
    steps: int,
    share: float,
) -> dict[str, Any]:
    """Trained on windows of another text, of as many bytes as before, by the same optimiser at a share of its learning rate.

    {"flops": forward operations so far, and by name of `texts` their bits per byte [seeds, evaluations]}.
    """
    like, read, folder = tuning.like, reader(models), f"continued/{name}"
    optimizer = replace(
        models.optimizer, learning_rate=share * models.optimizer.learning_rate, warmup_steps=steps // 10
    )
    training = replace(like.training, steps=steps, optimizer=optimizer)
    if isinstance(models.units, SpelledConfig) and isinstance(models.model, WordModelConfig):
        config = models.units
        text = word_text(corpus, ("train",), config.rule, config.most, like.context_bytes)
        windows = text.windows["train"]
        loss, lengths = spelled_loss(models.model, text), text.lengths[windows.tokens]
        flops = word_flops(models.model, lengths, windows.length) * float(lengths.mean())
    else:
        tokenizer = models.units
        assert isinstance(tokenizer, Tokenizer) and isinstance(models.model, TransformerConfig)
        stream, vocab = token_stream(corpus, "train", tokenizer), tokenizer.vocab_size
        windows = window_source(stream, round(like.context_bytes / float(tokenizer.token_bytes[stream.tokens].mean())))
        loss, flops = make_loss(models.model, STANDARD, vocab), forward_flops(models.model, vocab, windows.length)
    held = {part: [text.encode() for text in found] for part, found in texts.items()}

    def evaluate(state: TrainState) -> dict[str, Any]:
        each = [member(state.params, index) for index in range(len(models.params))]
        return {part: np.array([bits(read(one, found), found) for one in each]) for part, found in held.items()}

    train(
        folder,
        stacked(models.params),
        loss,
        windows,
        training,
        tuning.workspace,
        optimizer=scaled,
        tokens=windows.length,
        evaluate=evaluate,
    )
    found = evaluations(folder, tuning.workspace)
    by_step = flops * windows.length * training.batch_size
    return {"flops": [by_step * step for step in found.pop("steps")]} | {
        key: np.asarray(values).tolist() for key, values in found.items()
    }


def reached(learning: Mapping[str, Any]) -> np.ndarray:
    """Of each seed, the operations with which HAT has BPE's last bits, as a share of BPE's; where it has not, all of HAT's."""
    spent, pairs = learning["hat"]["flops"], zip(learning["hat"]["second"], learning["bpe"]["second"], strict=True)
    found = [np.interp(other[-1], np.minimum.accumulate(own)[::-1], spent[::-1]) for own, other in pairs]
    return np.array(found) / learning["bpe"]["flops"][-1]
