"""Vocabularies of a domain (KL3M, Bommarito et al. 2025): byte-pair encoding with forced tokens and a cap on their length."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from lexinv.data.assets import fetch
from lexinv.data.bpe import byte_chunks, count_pieces, learn_merges
from lexinv.data.byte_level import SEPARATOR, ByteLevelBPE
from lexinv.data.published import O200K_SPLIT
from lexinv.data.tokenizers import Tokenizer, of_library
from lexinv.validation import choose, require

ABBREVIATIONS = ("case_name_abbreviations", "journals", "laws", "reporters")
"""Kinds of legal abbreviations, as the asset `reporters` has them."""


def train(
    texts: Iterable[str],
    size: int,
    most_characters: int | None = None,
    forced: Sequence[str] = (),
    name: str = "domain",
) -> Tokenizer:
    """Byte-pair encoding of `size` tokens (and a separator, id 0), of which the last ones are the forced ones.

    most_characters: of a merged token, None for any number; bytes are counted, that of a leading space among them, as the library does
    whose `max_token_length` is one more (the released trainers add one). forced: found in a text before it is cut into words, wherever they
    stand as whole words, and never merged with anything; of one that merges make, too, there is one token, and the vocabulary is smaller.
    Unlike the released tokenizers it does not normalise (NFKC), so that decoding gives the text back.

    Raises `InvalidConfig` for a cap below one character, forced tokens that are not all different and of two or more bytes, a size that
    does not hold them, an empty text, and where no pair is left.
    """
    require(most_characters is None or most_characters >= 1, "most_characters", most_characters, "1 or more, or None")
    forced = tuple(forced)
    proper = len(set(forced)) == len(forced) and all(len(token.encode()) >= 2 for token in forced)
    require(proper, "forced", forced, "different tokens of two or more bytes")
    require(size >= 256 + len(forced), "size", size, f"at least the 256 bytes and {len(forced)} forced tokens")
    texts = list(texts)
    require(any(texts), "texts", len(texts), "some that are not empty")

    def allowed(left: tuple[int, ...], right: tuple[int, ...]) -> bool:
        return most_characters is None or len(left) + len(right) <= most_characters

    chunks = byte_chunks(count_pieces(texts, O200K_SPLIT))
    model = ByteLevelBPE(name, learn_merges(chunks, 256, size - len(forced), allowed=allowed), O200K_SPLIT).library()
    from tokenizers import AddedToken

    model.add_tokens([AddedToken(token, single_word=True, normalized=False) for token in forced])
    return of_library(name, model, SEPARATOR)


def abbreviations(kind: str, cache: Path | None = None) -> tuple[str, ...]:
    """Legal abbreviations of two or more characters, one of the kinds `ABBREVIATIONS`. Raises as `fetch`."""
    file = fetch("reporters", cache) / f"{choose('kind', kind, ABBREVIATIONS)}.json"
    return tuple(key for key in json.loads(file.read_text("utf-8")) if len(key) > 1)
