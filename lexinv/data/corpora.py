"""Corpora: documents with train, validation and test splits by document, prepared once into the user's cache folder."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from lexinv.data import documents
from lexinv.data.cache import prepared
from lexinv.validation import InvalidConfig, choose, require

CORPORA = {
    "python-stdlib": "source code of the running Python's standard library, without tests (about 12 MB)",
    "python-docs": "Python's language reference and the standard library's docstrings (about 2 MB of English)",
    "kjv": "the King James Bible by chapters (4 MB; needs the extra `corpora`)",
    "bible:NAME": "another translation by chapters, bible:wyc of 1395 or bible:tyn of 1530 (2 to 5 MB; needs the extra `corpora`)",
    "messages:LANG": "a program's messages in a language such as de or ja, parallel (110 to 400 kB; the asset `messages`)",
    "licences": "software licences (2.8 MB of legal prose; the asset `licences`)",
    "file:GLOB": "UTF-8 text files, one document each; file:GLOB#blank-lines cuts them at blank lines",
    "tfds:NAME": "any TFDS text data set, such as tfds:wiki40b/en, tfds:lm1b, tfds:c4 or tfds:tiny_shakespeare",
}
_SOURCES = {
    "python-stdlib": documents.python_stdlib,
    "python-docs": documents.python_docs,
    "kjv": partial(documents.bible, "kjv"),
}
SPLITS = ("train", "validation", "test")
_HELD_OUT = 0.05  # share of the documents in each of validation and test


@dataclass(frozen=True)
class Corpus:
    """`splits` maps train, validation and test to documents, decoded as they are indexed; `fingerprint` identifies them all."""

    name: str
    fingerprint: str
    splits: Mapping[str, Sequence[str]]


def load_corpus(name: str, cache: Path | None = None) -> Corpus:
    """Open a corpus by its name in `CORPORA`, preparing it on first use; `cache` defaults to `cache_directory()`.

    Documents go to train, validation or test (90, 5 and 5 per cent, at least one each) by a hash of their id, never by
    position; within a split they lie in the order of that hash. A data set of TFDS keeps its own splits; those it lacks
    are taken from its train split by a hash of the text. TFDS itself stores those data sets in its own folder.

    Raises `InvalidConfig` for an unknown name, fewer than three documents, a `file:` pattern without matches, and a
    file that cannot be read or is not UTF-8.
    """
    kind, _, argument = name.partition(":")
    if kind == "tfds" and argument:
        return _load_tfds(name, argument, cache)
    is_files = kind == "file" and argument
    if kind == "messages" and argument:
        source = documents.messages(argument, cache)
    elif kind == "bible" and argument:
        source = documents.bible(argument)
    elif name == "licences":
        source = documents.licences(cache)
    else:
        source = documents.text_files(argument) if is_files else _SOURCES[choose("corpus", name, CORPORA)]()
    from lexinv.data.builder import read_documents, write_documents

    def build(folder: Path) -> None:
        found = source.documents()
        names = list(found)
        if is_files and len(names) < len(SPLITS):
            document = (
                "lies between blank lines"
                if name.endswith(documents.BLANK_LINES)
                else f"is a file: cut it into several, or at its blank lines by {name}{documents.BLANK_LINES}"
            )
            allowed = f"at least {len(SPLITS)} documents, here {len(names)}. A document {document}"
            raise InvalidConfig("corpus", name, allowed)
        splits = {split: {names[i]: found[names[i]] for i in chosen} for split, chosen in divide(name, names).items()}
        write_documents(splits, folder)
        _write_description(folder, name, read_documents(folder))

    folder = prepared(cache, "corpora", f"{kind}-{source.key[:16]}", build)
    return Corpus(name, _fingerprint_in(folder), read_documents(folder))


def _load_tfds(name: str, dataset: str, cache: Path | None) -> Corpus:
    from lexinv.data import builder

    sources, feature, identity = builder.open_dataset(name, dataset)
    key = hashlib.sha256(identity.encode()).hexdigest()

    def build(folder: Path) -> None:
        positions = {split: np.arange(len(source)) for split, source in sources.items() if split in SPLITS}
        missing = [split for split in SPLITS if split not in sources]
        if missing:
            train = builder.TextColumn(sources["train"], feature, positions["train"])
            positions |= divide(name, train, missing)
        for split in SPLITS:
            np.save(folder / f"{split}.npy", positions[split])
        _write_description(folder, name, splits(folder))

    def splits(folder: Path) -> dict[str, builder.TextColumn]:
        return {
            split: builder.TextColumn(sources.get(split, sources["train"]), feature, np.load(folder / f"{split}.npy"))
            for split in SPLITS
        }

    folder = prepared(cache, "corpora", f"tfds-{key[:16]}", build)
    return Corpus(name, _fingerprint_in(folder), splits(folder))


def divide(corpus: str, keys: Sequence[str], held_out: Sequence[str] = SPLITS[1:]) -> dict[str, np.ndarray]:
    """Positions of `keys` in train and in each split of `held_out`, by the SHA-256 of each key.

    The hash is read as a number in [0, 1); each split of `held_out` has a twentieth at the top of that range, so that a
    document stays in its split when others are added. Only a split that would be empty takes its neighbour's nearest.
    """
    require(len(keys) > len(held_out), "corpus", corpus, f"at least {len(held_out) + 1} documents, here {len(keys)}")
    hashes = [hashlib.sha256(key.encode()).digest() for key in keys]
    fractions = np.array([int.from_bytes(digest[:6]) / 2**48 for digest in hashes])
    order = np.argsort(fractions, kind="stable")
    stop, parts = len(keys), {}
    for below, split in enumerate(reversed(held_out), start=1):
        start = int(np.searchsorted(fractions[order], 1.0 - below * _HELD_OUT))
        start = max(min(start, stop - 1), len(held_out) - below + 1)
        parts[split], stop = order[start:stop], start
    return {"train": order[:stop], **parts}


def fingerprint(splits: Mapping[str, Sequence[str]]) -> str:
    """The first 16 hex digits of a SHA-256 over the names of the splits and all their documents, in order."""
    digest = hashlib.sha256()
    for split in SPLITS:
        digest.update(f"{split} {len(splits[split])}\n".encode())
        for text in splits[split]:
            encoded = text.encode()
            digest.update(f"{len(encoded)}\n".encode() + encoded)
    return digest.hexdigest()[:16]


def _write_description(folder: Path, name: str, splits: Mapping[str, Sequence[str]]) -> None:
    counts = {split: len(splits[split]) for split in SPLITS}
    description = {"corpus": name, "fingerprint": fingerprint(splits), "documents": counts}
    (folder / "corpus.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def _fingerprint_in(folder: Path) -> str:
    return json.loads((folder / "corpus.json").read_text(encoding="utf-8"))["fingerprint"]
