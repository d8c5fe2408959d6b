"""A published language model that takes the tokens of other published tokenizers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.harness.assets import asset
from experiments.harness.workspace import Workspace
from experiments.subjects.pretrained_language_model import open_pretrained
from experiments.subjects.vocabulary_transfers import Source, passages, restrict, text_encoder, transfer
from lexinv.data.corpora import load_corpus
from lexinv.data.published_tokenizers import load_published_tokenizer
from lexinv.transfer.methods import METHODS
from lexinv.validation import Checked, Count, Distinct


@dataclass(frozen=True)
class PublishedConfig(Checked):
    """model: an asset or a folder with tied tables; "none" for none. targets: of which llama2 has a donor, a table of static vectors.

    It reads `groups` of `passages` of `size` characters of each of `corpora`, and takes no more tokens than it shares with the target and
    those that `sample` characters of each corpus use. tuning: passages of each corpus that choose the settings.
    """

    model: str = "smollm2"
    targets: Distinct[str] = ("deepseek", "o200k", "llama2")
    corpora: Distinct[str] = ("python-docs", "python-stdlib")
    groups: Count = 4
    passages: Count = 4
    size: Count = 256
    tuning: Count = 2
    sample: Count = 1_000_000


def published_transfers(
    config: PublishedConfig, encoder_name: str, methods: Sequence[str], workspace: Workspace
) -> dict[str, Any]:
    """By target and method, and by group of passages, of a published model; the donor of Llama 2's tokens is a table of static vectors."""
    world, encoder = open_pretrained(config.model, workspace), text_encoder(encoder_name, workspace)
    corpora = [load_corpus(name) for name in config.corpora]
    each = config.passages

    def drawn(split: str, count: int) -> list[list[str]]:
        return [passages(corpus, split, count, config.size, seed=0) for corpus in corpora]

    by_corpus = drawn("test", config.groups * each)
    groups = [[text for texts in by_corpus for text in texts[i * each : (i + 1) * each]] for i in range(config.groups)]
    tuning = [text for texts in drawn("validation", config.tuning) for text in texts]
    sample = [text for corpus in corpora for text in beginning(corpus.splits["train"], config.sample)]
    model = world.model
    source = Source(model.config, model.lexicon, model.params, world.tokenizer, tuning, groups)
    known = set(source.tokenizer.pieces)
    found: dict[str, Any] = {f"{config.model}/itself": {"all": source.bits()}}
    about = {}
    for name in config.targets:
        whole = load_published_tokenizer(name)
        used = np.concatenate(
            [whole.encode(text) for text in (*sample, *tuning, *(text for group in groups for text in group))]
        )
        kept = np.union1d(used, [number for number, piece in enumerate(whole.pieces) if piece in known])
        target = restrict(whole, kept)
        donor = None
        if name == "llama2":
            from safetensors.numpy import load_file

            file = next(asset("wordllama", workspace).glob("*.safetensors"))
            (vectors,) = load_file(file).values()
            rows = np.vstack(
                [vectors, np.zeros((1, vectors.shape[1]), vectors.dtype)]
            )  # and the separator that is ours
            donor = rows[np.union1d(kept, whole.separator)].astype(np.float32)
        moved = transfer(source, target, encoder, donor)
        about[name] = {"tokens": target.vocab_size, "new": len(moved.given.match.new)}
        for method in methods:
            if METHODS[method].needs != "donor" or donor is not None:
                found[f"{name}/{method}"] = moved.measured(method)
    return {"arms": found, "about": about}


def beginning(texts: Sequence[str], characters: int) -> list[str]:
    """The first texts, until there are so many characters."""
    found, total = [], 0
    for text in texts:
        if total >= characters:
            break
        found.append(text)
        total += len(text)
    return found
