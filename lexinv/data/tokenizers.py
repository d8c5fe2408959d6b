"""Tokenizers of language models: `letters`, `char`, `byte`, `bpe:V` and `unigram:V`; the first two fold what they have no symbol for."""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache as once
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Int32

from lexinv.data.cache import prepared
from lexinv.data.corpora import Corpus
from lexinv.data.symbols import require_symbols
from lexinv.validation import InvalidConfig, choose, require

TOKENIZERS = {
    "letters": "29 symbols: space, a to z, full stop, comma; everything else becomes a space",
    "char": "130 symbols: ASCII, one for every other character, one between documents",
    "letters:lossy": "letters for a corpus of which more than a tenth is folded",
    "char:lossy": "char for a corpus of which more than a tenth is folded",
    "byte": "257 symbols: UTF-8 bytes and one between documents",
    "bpe:V": "V byte-level subwords, trained on the corpus's train split",
    "unigram:V": "the same, but chosen as a unigram language model",
}


LETTERS = " abcdefghijklmnopqrstuvwxyz.,"
"""The alphabet of `letters`, in the order of its ids."""

MOST_FOLDED = 0.1
"""The share of a corpus's characters up to which it may be folded by a tokenizer that was not asked for as lossy."""

_NEITHER_LETTER_NOR_GAP = re.compile(r"[^a-z\s!-/:-@\[-`{-~]")  # the ranges are ASCII's punctuation


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Ids 0 to `vocab_size` - 1 and what they stand for. `encode` first normalises the text, as its name prescribes, and raises
    `InvalidConfig` for a lone surrogate, which no encoding of text can hold.

    symbols: a printable name per id. separator: the id put after every document.
    pieces: the bytes in UTF-8 that each id stands for in the normalised text, none for a separator that stands for no text; those of
    `encode(text)` joined are `decode(encode(text))`, but for a character of which there is only a part.
    fingerprint: identifies what `encode` does, as the name does not: `digest` of all that it was trained to.
    folded: how many characters of a text are not told apart from others. Of `letters` digits and what is not ASCII: that white space and
    punctuation end words is all that a gap says; of `char` all that is not ASCII. most_folded: see `MOST_FOLDED`.
    """

    name: str
    vocab_size: int
    symbols: tuple[str, ...]
    separator: int
    pieces: tuple[bytes, ...]
    encode: Callable[[str], Int32[np.ndarray, " tokens"]]
    decode: Callable[[Sequence[int] | np.ndarray], str]
    fingerprint: str
    folded: Callable[[str], int] = lambda text: 0
    most_folded: float = MOST_FOLDED

    @cached_property
    def token_bytes(self) -> Int32[np.ndarray, " vocab"]:
        """How many bytes each id stands for."""
        return np.array(list(map(len, self.pieces)), np.int32)


def load_tokenizer(name: str, corpus: Corpus, cache: Path | None = None) -> Tokenizer:
    """Make the tokenizer called `name` (see `TOKENIZERS`); `bpe:V` and `unigram:V` are trained once per corpus and cached.

    Raises `InvalidConfig` for an unknown name, and for a V below 257 or above what the corpus can fill.
    """
    kind, _, size = name.partition(":")
    if kind in ("bpe", "unigram"):
        require(size.isdecimal(), "tokenizer", name, f"{kind}:V with a number V, such as {kind}:4096")
        return _subwords(kind, int(size), corpus, cache)
    choose("tokenizer", name, TOKENIZERS)
    made = {"letters": _letters, "char": _char, "byte": _byte}[kind]()
    return replace(made, name=name, most_folded=1.0) if size else made


def folded_share(tokenizer: Tokenizer, texts: Iterable[str], where: str) -> float:
    """The share of the characters of texts that the tokenizer folds. Raises `InvalidConfig` where it is above its `most_folded`."""
    characters = folded = 0
    for text in texts:
        characters, folded = characters + len(text), folded + tokenizer.folded(text)
    share = folded / max(characters, 1)
    allowed = (
        f"it folds {100 * share:.1f} % of the characters of {where}; take byte, bpe:V or unigram:V, which keep all of them, or ask for "
        f"{tokenizer.name}:lossy"
    )
    require(share <= tokenizer.most_folded, "tokenizer", tokenizer.name, allowed)
    return share


def unicode_text(text: str, field: str = "text") -> str:
    """`text`, unless it holds a lone surrogate: `InvalidConfig` with its place."""
    if found := re.search("[\ud800-\udfff]", text):
        allowed = "no lone surrogate: it is half of a character, and cannot be written as UTF-8"
        raise InvalidConfig(f"{field}[{found.start()}]", found[0], allowed)
    return text


def digest(content: str) -> str:
    """The first 16 hex digits of the SHA-256 of what decides a tokenizer, such as the JSON of its vocabulary, merges and encoder."""
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def bits_per_byte(
    nats: Float[np.ndarray, "windows time"], tokens: Int[np.ndarray, "windows time"], tokenizer: Tokenizer
) -> float:
    """The losses `nats` of `tokens` in bits per byte of the normalised text; padding (-1) is not counted.

    Raises `InvalidConfig` for tokens that the tokenizer does not have, and where none stands for text.
    """
    counted = tokens >= 0
    require_symbols("tokens", np.maximum(tokens, 0), tokenizer.vocab_size)
    count = int(tokenizer.token_bytes[tokens[counted]].sum())
    require(count > 0, "tokens", tokens.shape, "some that stand for text")
    return float(nats[counted].sum(dtype=np.float64) / np.log(2.0) / count)


def _letters() -> Tokenizer:
    """Lower-cased; each maximal run of anything but a-z, full stop and comma is one space, none at a document's ends.

    The separator is the space itself, so that the stream has one space, never two, between documents.
    """
    ids = np.zeros(128, np.int32)
    ids[np.frombuffer(LETTERS.encode(), np.uint8)] = np.arange(len(LETTERS))

    def encode(text: str) -> np.ndarray:
        folded = re.sub("[^a-z.,]+", " ", unicode_text(text).lower()).strip(" ")
        return ids[np.frombuffer(folded.encode("ascii"), np.uint8)]

    symbols = tuple(map(_printable, LETTERS))
    return Tokenizer(
        "letters",
        len(LETTERS),
        symbols,
        0,
        tuple(map(str.encode, LETTERS)),
        encode,
        lambda ids: "".join(LETTERS[i] for i in ids),
        digest("letters"),
        lambda text: len(_NEITHER_LETTER_NOR_GAP.findall(text.lower())),
    )


def _char() -> Tokenizer:
    """ASCII as it is (ids 0 to 127). Other characters are decomposed (NFKD) and lose their combining marks; what is still
    not ASCII becomes id 128, decoded as U+FFFD (three bytes). The separator is id 129."""
    other, separator = 128, 129

    def encode(text: str) -> np.ndarray:
        if not unicode_text(text).isascii():
            text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        return np.minimum(codes, other).astype(np.int32)

    characters = [*map(chr, range(128)), "\N{REPLACEMENT CHARACTER}", ""]
    symbols = (*map(_printable, characters[:129]), "<separator>")
    return Tokenizer(
        "char",
        130,
        symbols,
        separator,
        tuple(map(str.encode, characters)),
        encode,
        lambda ids: "".join(characters[i] for i in ids),
        digest("char"),
        lambda text: sum(not character.isascii() for character in text),
    )


def _byte() -> Tokenizer:
    """UTF-8 bytes (ids 0 to 255); the separator is id 256. Decoding replaces what is not UTF-8 by U+FFFD."""
    separator = 256
    symbols = (*(_printable(chr(b)) if b < 128 else f"\\x{b:02x}" for b in range(256)), "<separator>")
    pieces = (*(bytes([b]) for b in range(256)), b"")

    def encode(text: str) -> np.ndarray:
        return np.frombuffer(unicode_text(text).encode("utf-8"), np.uint8).astype(np.int32)

    def decode(ids: Sequence[int] | np.ndarray) -> str:
        return bytes(int(i) for i in ids if i != separator).decode("utf-8", errors="replace")

    return Tokenizer("byte", 257, symbols, separator, pieces, encode, decode, digest("byte"))


def _subwords(kind: str, size: int, corpus: Corpus, cache: Path | None) -> Tokenizer:
    """Byte-pair encoding or a unigram model (Kudo 2018) on bytes, pre-split by GPT-2's regular expression; the separator is id 0."""
    name, special = f"{kind}:{size}", "<separator>"
    require(size >= 257, "tokenizer", name, "at least 257: the bytes and the separator")
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    def build(folder: Path) -> None:
        bpe = kind == "bpe"
        model = tokenizers.Tokenizer(models.BPE() if bpe else models.Unigram())
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = decoders.ByteLevel()
        trainer = (trainers.BpeTrainer if bpe else trainers.UnigramTrainer)(
            vocab_size=size,
            special_tokens=[special],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        model.train_from_iterator(map(unicode_text, corpus.splits["train"]), trainer)
        reached = model.get_vocab_size()
        most = f"at most {reached}: the corpus has no more subwords"
        # A unigram model drops subwords until they are few enough, and may drop more than it must.
        allowed = most if bpe else f"another size: the library stops at {reached} subwords of this corpus"
        require(reached == size, "tokenizer", name, allowed)
        model.save(str(folder / "tokenizer.json"))

    folder = prepared(cache, "tokenizers", f"{kind}-{size}-{corpus.fingerprint}", build)
    return of_library(name, tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")), special)


def of_library(name: str, model: Any, special: str | None = None) -> Tokenizer:
    """A model of the `tokenizers` library on bytes, written as GPT-2 writes them or by SentencePiece's `▁` and `<0x00>`.

    special: the token between documents; for None an id more, the last, takes that place. Special tokens stand for no text.
    """
    model.encode_special_tokens = True  # text that looks like the separator is text
    ids = model.get_vocab()
    written = sorted(ids, key=ids.__getitem__)
    size = len(written)
    require(ids[written[-1]] == size - 1, "tokenizer", name, "a model whose ids are 0 to the number of its tokens")
    to_bytes = byte_level if "ByteLevel" in str(model.decoder) else _metaspace
    silent = {number for number, token in model.get_added_tokens_decoder().items() if token.special}
    pieces = [b"" if number in silent else to_bytes(token) for number, token in enumerate(written)]
    symbols = [
        "".join(map(_printable, piece.decode("utf-8", "replace"))) or token
        for piece, token in zip(pieces, written, strict=True)
    ]
    separator = size if special is None else ids[special]
    pieces[separator:] = [b"", *pieces[separator + 1 :]]
    symbols[separator:] = [special or "<separator>", *symbols[separator + 1 :]]

    def encode(text: str) -> np.ndarray:
        return np.array(model.encode(unicode_text(text), add_special_tokens=False).ids, np.int32)

    def decode(ids: Sequence[int] | np.ndarray) -> str:
        return b"".join(pieces[int(i)] for i in ids).decode("utf-8", "replace")

    return Tokenizer(
        name, len(pieces), tuple(symbols), separator, tuple(pieces), encode, decode, digest(model.to_str())
    )


def byte_level(written: str) -> bytes:
    """The bytes of a token of GPT-2's byte-level tokenizers, which write each by a printable character.

    A token with another character, as special ones may be, stands for its text.
    """
    byte_of = _byte_of_character()
    return bytes(map(byte_of.__getitem__, written)) if all(c in byte_of for c in written) else written.encode()


def byte_level_characters(piece: bytes) -> str:
    """The inverse of `byte_level`."""
    return "".join(map(_character_of_byte().__getitem__, piece))


@once
def _byte_of_character() -> dict[str, int]:
    """A byte that is printable by its own character, and others by those from U+0100 on."""
    from tokenizers import pre_tokenizers

    written = set(pre_tokenizers.ByteLevel.alphabet())
    own = {chr(b): b for b in range(256) if chr(b) in written}
    return own | {chr(256 + i): b for i, b in enumerate(sorted(set(range(256)) - set(own.values())))}


@once
def _character_of_byte() -> dict[int, str]:
    return {byte: character for character, byte in _byte_of_character().items()}


def _metaspace(written: str) -> bytes:
    """The bytes of a token of SentencePiece: U+2581 is a space, <0x41> a byte."""
    byte = re.fullmatch("<0x([0-9A-F]{2})>", written)
    return bytes.fromhex(byte[1]) if byte else written.replace("\u2581", " ").encode()


def _printable(character: str) -> str:
    if character == " ":
        return "␣"
    return character if character.isprintable() else repr(character)[1:-1]
