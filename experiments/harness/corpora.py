"""Corpora as experiments name them: which of them are there, folders called after them, and what tokenizers lose of them."""

import re
import zlib
from collections.abc import Mapping
from importlib.util import find_spec

from experiments.harness.workspace import Workspace, write_json


def installed(corpus: str) -> bool:
    """Whether the package behind an optional corpus is there."""
    name = "kjv" if corpus == "kjv" else corpus.partition("bible:")[2]
    return not name or find_spec(f"pythonbible_{name}") is not None


def slug(corpus: str) -> str:
    """A corpus name as the name of a folder; different for different corpora."""
    plain = re.sub("[^A-Za-z0-9_-]+", "-", corpus)
    return plain if plain == corpus else f"{plain}-{zlib.crc32(corpus.encode()):08x}"


def note_folded(workspace: Workspace, corpus: str, tokenizer: str, shares: Mapping[str, float]) -> None:
    """Have environment.json say which share of the characters of each part of a corpus the tokenizer folds."""
    note = {"corpus": corpus, "tokenizer": tokenizer, "shares": dict(shares)}
    write_json(workspace.folder("folded") / f"{slug(f'{corpus} {tokenizer}')}.json", note)
