"""Models of tokens and of words that go on with another text: what a byte of it costs them in the course, and one of the first text."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness.training import evaluations, scaled, stacked, train
from experiments.harness.workspace import Workspace
from experiments.subjects.text import STANDARD
from experiments.subjects.tokenized_models import TokenizedConfig
from experiments.subjects.unit_models import SpelledConfig, UnitModels, spelled_loss, word_text
from experiments.subjects.vocabulary_transfers import windows_of
from lexinv.data.corpora import Corpus
from lexinv.data.tokenizers import Tokenizer
from lexinv.data.windows import token_stream, window_source
from lexinv.nn.flops import forward_flops
from lexinv.nn.language_model import make_loss, make_nll
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.population import over_members
from lexinv.training.state import TrainState
from lexinv.transfer.word_model import WordModelConfig, word_flops
from lexinv.transfer.word_model import make_nll as make_word_nll
from lexinv.transfer.words import cut, pack, split


def continued(
    name: str,
    models: UnitModels,
    corpus: Corpus,
    texts: Mapping[str, Sequence[str]],
    like: TokenizedConfig,
    steps: int,
    share: float,
    workspace: Workspace,
) -> dict[str, Any]:
    """Trained on windows of `like`'s context by the byte.

    {"flops": forward operations so far, and by name of `texts` their bits per byte [seeds, evaluations]}.
    share: of the learning rate that the models were trained with, by the same optimiser.
    """
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
        word_nll = make_word_nll(models.model)
        asked: dict[str, Any] = {
            key: pack([cut(split(each, config.rule), config.most)[0] for each in found], config.most)
            for key, found in texts.items()
        }

        def nats(params: Any, batch: Any) -> Any:
            return word_nll(params, batch).sum()
    else:
        tokenizer = models.units
        assert isinstance(tokenizer, Tokenizer) and isinstance(models.model, TransformerConfig)
        stream, vocab = token_stream(corpus, "train", tokenizer), tokenizer.vocab_size
        windows = window_source(stream, round(like.context_bytes / float(tokenizer.token_bytes[stream.tokens].mean())))
        loss, flops = make_loss(models.model, STANDARD, vocab), forward_flops(models.model, vocab, windows.length)
        token_nll, key = make_nll(models.model, STANDARD, vocab), jax.random.key(0)
        asked = {}
        for name_of, found in texts.items():
            rows = windows_of(tokenizer, found)
            asked[name_of] = {"tokens": rows, "row": np.arange(len(rows), dtype=np.int32)}

        def nats(params: Any, batch: Any) -> Any:
            return token_nll(params, batch, key).sum()

    sizes = {key: sum(len(text.encode()) for text in found) for key, found in texts.items()}
    given = jax.tree.map(jnp.asarray, asked)

    @jax.jit
    def judge(params: Any) -> dict[str, Any]:
        return {
            key: over_members(lambda one, key=key: nats(one, given[key]), params) / (np.log(2) * sizes[key])
            for key in given
        }

    def evaluate(state: TrainState) -> dict[str, Any]:
        return {key: np.asarray(value) for key, value in judge(state.params).items()}

    train(
        name,
        stacked(models.params),
        loss,
        windows,
        training,
        workspace,
        optimizer=scaled,
        tokens=windows.length,
        evaluate=evaluate,
    )
    found = evaluations(name, workspace)
    by_step = flops * windows.length * training.batch_size
    return {"flops": [by_step * step for step in found.pop("steps")]} | {
        key: np.asarray(values).tolist() for key, values in found.items()
    }
