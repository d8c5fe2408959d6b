"""The same messages of a program in many languages, in a tokenizer's tokens and in those of their batches."""

from collections.abc import Sequence

import numpy as np

from experiments.harness.assets import asset
from experiments.harness.workspace import Workspace
from experiments.subjects.halved_passages import length
from lexinv.data.corpora import Corpus
from lexinv.data.documents import messages
from lexinv.data.published import PUBLISHED, load_published
from lexinv.data.tokenizers import Tokenizer, load_tokenizer
from lexinv.tokenization.byte_pairs import GPT2_SPLIT
from lexinv.transfer.dynamic import merge_batch, tokenize


def parallel_messages(languages: Sequence[str], workspace: Workspace) -> dict[str, list[str]]:
    """By language the messages that all of them have, in the same order."""
    asset("messages", workspace)
    found = {language: messages(language).documents() for language in languages}
    common = sorted(set.intersection(*map(set, found.values())))
    return {language: [texts[key]() for key in common] for language, texts in found.items()}


def load_with_split(name: str, corpus: Corpus, workspace: Workspace) -> tuple[Tokenizer, str]:
    """A published list of merges, or a tokenizer trained on the corpus, and the expression that cuts texts before it."""
    if name not in PUBLISHED:
        return load_tokenizer(name, corpus), GPT2_SPLIT
    asset(PUBLISHED[name], workspace)
    found = load_published(name)
    return found.tokenizer(), found.split


def token_counts(
    texts: Sequence[str], tokenizer: Tokenizer, split: str, batch: int, settings: Sequence[int | None]
) -> list[int]:
    """Tokens of all texts after each number of merges in every batch of them, None for whole pieces; see `merge_batch`."""
    tokens, boundary = tokenize(texts, tokenizer, split)
    known, ids = np.unique(tokens, return_inverse=True)  # those that occur, numbered in their order: -1 is the first
    ids = ids.reshape(tokens.shape).astype(np.int32) - 1
    parts = [slice(start, start + batch) for start in range(0, len(ids), batch)]
    return [
        length([merge_batch(ids[part], setting, boundary[part], len(known)) for part in parts]) for setting in settings
    ]
