"""The merges of published byte-level tokenizers, from assets: files are read, and no code of theirs."""

import base64
import gzip
import json
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from lexinv.data.assets import fetch
from lexinv.data.bpe import Merges
from lexinv.data.byte_level import ByteLevelBPE
from lexinv.data.tokenizers import byte_level
from lexinv.validation import InvalidConfig, choose, require

_ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")


def _split(words: str, digits: str, after: str = r"\r\n") -> str:
    """words, digits, punctuation with what may come `after` it, and gaps."""
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[{after}]*|\s*[\r\n]+|\s+(?!\S)|\s+"


_O200K, _TEKKEN = "|".join(f"{each}{_ENDINGS}?" for each in _CASED), "|".join(_CASED)
O200K_SPLIT = _split(_O200K, r"\p{N}{1,3}", r"\r\n/")
_QWEN = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+"


def _tiktoken(file: Path) -> list[bytes]:
    data = file.read_bytes()
    lines = (gzip.decompress(data) if file.suffix == ".gz" else data).splitlines()
    ranks = {int(rank): base64.b64decode(token) for token, rank in map(bytes.split, lines)}
    return [ranks[rank] for rank in range(len(ranks))]


def _tekken(file: Path) -> list[bytes]:
    found = json.loads(file.read_bytes())
    used = found["config"]["default_vocab_size"] - found["config"]["default_num_special_tokens"]
    return [base64.b64decode(row["token_bytes"]) for row in found["vocab"][:used]]


_RANKED: dict[str, tuple[str, str, Callable[[Path], list[bytes]], str]] = {
    "cl100k": ("o200k", "cl100k_base.tiktoken.gz", _tiktoken, _split(_QWEN, r"\p{N}{1,3}")),
    "o200k": ("o200k", "o200k_base.tiktoken.gz", _tiktoken, O200K_SPLIT),
    "qwen": ("qwen_tokenizers", "qwen.tiktoken", _tiktoken, _split(_QWEN, r"\p{N}")),
    "tekken": ("mistral_tokenizers", "tekken_240911.json", _tekken, _split(_TEKKEN, r"\p{N}", r"\r\n/")),
}
"""Of lists of tokens by rank: the asset, the file, its reader, the split."""

PUBLISHED = {**{name: asset for name, (asset, *_) in _RANKED.items()}, "smollm2": "smollm2"}
"""By name the asset that merges are read from."""


def load_published(name: str, count: int | None = None, cache: Path | None = None) -> ByteLevelBPE:
    """The first `count` merges of a published tokenizer (all of them for None), in the order in which they were learned.

    Raises `InvalidConfig` for an unknown name, a damaged file, and fewer merges, and as `fetch`.
    """
    if choose("tokenizer", name, PUBLISHED) == "smollm2":
        pairs = _gguf_merges(next(fetch("smollm2", cache).glob("*.gguf")), count)
        split = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # GPT-2's, and digits alone
        merges = from_pairs(pairs)
    else:
        asset, file, read, split = _RANKED[name]
        try:
            tokens = read(fetch(asset, cache) / file)
        except (OSError, ValueError, LookupError, EOFError) as error:
            raise InvalidConfig("file", file, f"a whole list of tokens ({error})") from None
        merges = from_ranks(tokens if count is None else tokens[: 256 + count])
    require(count is None or len(merges) == count, "count", count, f"at most {len(merges)}, the merges of {name}")
    return ByteLevelBPE(name, merges, split)


def from_ranks(tokens: Sequence[bytes]) -> Merges:
    """The merge that made each token of a list by rank: the two parts that the tokens before it leave of it.

    Exact for what byte-pair encoding has learned, since a token is merged as soon as its parts are there. Raises `InvalidConfig` for a list
    without all bytes or with a token twice, and for a token that those before it do not leave in two.
    """
    require(
        {token for token in tokens if len(token) == 1} == {bytes([b]) for b in range(256)},
        "tokens",
        len(tokens),
        "all 256 bytes",
    )
    ranks = {token: rank for rank, token in enumerate(tokens)}
    require(len(ranks) == len(tokens), "tokens", len(tokens), "tokens that are all different")
    pairs = []
    for rank, token in enumerate(tokens):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            joined = [ranks.get(left + right, rank) for left, right in pairwise(parts)]
            best = min(joined)
            require(best < rank, "token", token, "one that the tokens before it leave in two parts")
            at = joined.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            pairs.append((parts[0], parts[1]))
    return from_pairs(pairs)


def from_pairs(pairs: Iterable[tuple[bytes, bytes]]) -> Merges:
    """Merges of ids from merges of bytes. Raises `InvalidConfig` for a merge before its parts."""
    ids = {bytes([b]): b for b in range(256)}
    merges: Merges = []
    for number, (left, right) in enumerate(pairs):
        require(
            left in ids and right in ids,
            f"merge {number}",
            (left, right),
            "parts that are bytes or made by merges before it",
        )
        merges.append((ids[left], ids[right]))
        ids.setdefault(left + right, 256 + number)
    return merges


def _gguf_merges(file: Path, count: int | None) -> list[tuple[bytes, bytes]]:
    """Merges as GPT-2's files have them: two words of characters that stand for bytes."""
    try:
        import gguf
    except ImportError:
        raise InvalidConfig("file", str(file), "read with the package gguf: pip install gguf") from None
    field = gguf.GGUFReader(file).fields["tokenizer.ggml.merges"]
    lines = [bytes(field.parts[place]).decode() for place in field.data[:count]]
    return [(byte_level(left), byte_level(right)) for left, right in map(str.split, lines)]
