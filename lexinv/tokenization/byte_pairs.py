"""Which tokens byte-pair encoding may write after others: what no merge crosses, and where the expression that cuts a text ends a piece."""

import codecs
import unicodedata
from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Bool, UInt8

from lexinv.data.bpe import Merges, spell
from lexinv.data.pieces import Pieces, sort_pieces
from lexinv.data.published import from_ranks
from lexinv.data.tokenizers import Tokenizer
from lexinv.validation import InvalidConfig, require

GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""That of the library's byte-level tokenizers, ours among them."""

SMOLLM2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
"""The same, after every digit was cut out of the text, as SmolLM2 does: white space before one is not before anything."""

PROBES = ("", *"aA1 \n\t.'/stmdlrve")
"""What a text may go on with, for all that published expressions tell apart."""

_CONTRACTED = frozenset("sdtmrvel")
_SEEN, _HEAD = 8, 3
"""Characters before a token, and of a token, that decide whether a piece ends between them."""
_NEVER = np.iinfo(np.int64).max
_JOINED, _JOINED_CUT, _BEGUN, _BEGUN_CUT = 1, 2, 4, 8
"""Bits: no piece ends between a context and a token, or one does; and one ends just before the context's last character."""


class BytePairs:
    """A byte-level BPE tokenizer as the tokens that may follow one another.

    A sequence of tokens is valid if it is the beginning of an encoded text. Within a piece of text that is so where every two neighbours
    are the encoding of their bytes, that is, where no merge crosses them; between pieces nothing is merged. Where the expression looks
    ahead, as GPT-2's does after white space, the beginning of an encoding need not be the encoding of a beginning: it is valid here as
    soon as some text goes on with it.

    pieces: the tokens that encoding writes, sorted. lengths: their bytes. continues: those that begin inside a character. places: of an
    id in `pieces`, -1 for others.

    tokenizer: any that is byte-level BPE. split: its expression (Oniguruma's syntax), `(?!)` for none; letters are taken to be alike but
    for case, except after an apostrophe. merges: see `lexinv.data.byte_level`; for None they are recovered from the order of the ids.
    look_ahead: False for the lemma as it is published, where only what is itself the encoding of its bytes is valid.
    Raises `InvalidConfig` for a tokenizer that is not made by these merges, as a Unigram model is not.
    """

    def __init__(self, tokenizer: Tokenizer, split: str, merges: Merges | None = None, look_ahead: bool = True):
        import tokenizers

        self.tokenizer, self._look_ahead = tokenizer, look_ahead
        self._splitter = tokenizers.pre_tokenizers.Split(tokenizers.Regex(split), "isolated")
        merges = _recovered(tokenizer) if merges is None else merges
        spelled = [bytes(token) for token in spell(merges, 256)]
        written, known = set(spelled), set(tokenizer.pieces)
        require(set(spelled[256:]) <= known, "tokenizer", tokenizer.name, "one that has all that the merges make")
        self.pieces: Pieces = sort_pieces([piece if piece in written else b"" for piece in tokenizer.pieces])
        strings = self.pieces.strings
        self.lengths = np.array(list(map(len, strings)), np.int32)
        self.places = np.full(tokenizer.vocab_size, -1, np.int32)
        self.places[self.pieces.ids] = np.arange(len(strings))
        self.by_bytes = {string: place for place, string in enumerate(strings)}
        self._number(merges, [self.by_bytes.get(piece, -1) for piece in spelled])
        texts = [string.decode("utf-8", "ignore") for string in strings]
        self._characters = np.array(list(map(len, texts)))
        self.continues = np.array([0x80 <= string[0] < 0xC0 for string in strings])
        heads = [[_shape(text[:_HEAD]), _shape("'" + text[:_HEAD])[1:]] for text in texts]
        self._heads = [np.unique(each, return_inverse=True) for each in zip(*heads, strict=True)]
        self._verdict, self._allowed = lru_cache(4096)(self._judge), lru_cache(2048)(self._judged)
        sample = " ".join(piece.decode("utf-8", "ignore") for piece in spelled[:255:-1][:8])
        ids = tokenizer.encode(sample).tolist()
        fits = all(
            self.places[token] >= 0 and self.allowed(ids[:at])[self.places[token]] for at, token in enumerate(ids)
        )
        require(fits, "tokenizer", tokenizer.name, f"one that encodes {sample!r} by these merges and this split")

    def _number(self, merges: Merges, place: Sequence[int]) -> None:
        """Every token lies under its left part, in an order in which it is followed by all that lie under it, those made first in front.

        The merge of a token's last part a with b, at some step, joins that token to all that still begin with b then: b itself, and what
        lies under b and is made at that step or later, which is the end of b's range.
        """
        count = len(self.lengths)
        self._made, self._left, self._right = (np.full(count, -1, np.int64) for _ in range(3))
        self._steps: dict[tuple[int, int], int] = {}
        self._reached = self.lengths == 1
        for step, (left, right) in enumerate(merges):
            a, b, token = place[left], place[right], place[256 + step]
            if not self._reached[token] and self._reached[a] and self._reached[b] and self._apart(a, b):
                self._made[token], self._left[token], self._right[token] = step, a, b
                self._reached[token] = True
            self._steps.setdefault((a, b), step)
        by_step = np.argsort(self._made, kind="stable")
        size, start, free = np.ones(count, np.int64), np.zeros(count, np.int64), np.zeros(count, np.int64)
        for token in by_step[::-1]:
            if self._made[token] >= 0:
                size[self._left[token]] += size[token]
        roots = by_step[self._made[by_step] < 0]
        start[roots] = np.cumsum(size[roots]) - size[roots]
        free[roots] = start[roots] + 1
        crossing: dict[int, list[tuple[int, int, int]]] = {}
        for step, (left, right) in enumerate(merges):
            a, b, token = place[left], place[right], place[256 + step]
            found = crossing.setdefault(a, [])
            found += [(step, start[b], start[b] + 1), (step, free[b], start[b] + size[b])]
            if self._made[token] == step:
                start[token] = free[a]
                free[a], free[token] = free[a] + size[token], start[token] + 1
        self._crossing = {a: np.array(rows, np.int64).T for a, rows in crossing.items()}
        self._start = start

    def _apart(self, last: int, token: int) -> bool:
        """Whether none of the merges so far crosses two tokens. Where the same is merged at once in both, the left one is first."""
        until, part = _NEVER, last
        while part >= 0:
            later, head = _NEVER, token
            while head >= 0:
                step = self._steps.get((part, head), _NEVER)
                if step < until and step <= later:
                    return False
                later, head = self._made[head], self._left[head]
            until, part = self._made[part], self._right[part]
        return True

    def unmerged(self, last: int) -> Bool[np.ndarray, " pieces"]:
        """Which tokens byte-pair encoding leaves apart after the token at place `last`, within one piece of text."""
        crossed = np.zeros(len(self._start) + 1, np.int64)
        until, part = _NEVER, last
        while part >= 0:
            if part in self._crossing:
                steps, low, high = self._crossing[part]
                count = int(np.searchsorted(steps, until))
                np.add.at(crossed, low[:count], 1)
                np.subtract.at(crossed, high[:count], 1)
            until, part = self._made[part], self._right[part]
        return (np.cumsum(crossed[:-1]) == 0)[self._start] & self._reached

    def allowed(self, context: Sequence[int]) -> Bool[np.ndarray, " pieces"]:
        """Which tokens, in the order of `pieces`, may follow the ids of a valid context. A separator begins a text anew."""
        tail: list[int] = []
        characters = 0
        for token in reversed(context):
            place = int(self.places[token])
            if place < 0 or (characters >= _SEEN and len(tail) > 1):
                break
            tail.insert(0, place)
            characters += self._characters[place]
        decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        text = decoder.decode(b"".join(self.pieces.strings[place] for place in tail))
        alone = not tail or bool(self._characters[tail[-1]] <= 1)
        apart = len(tail) > 1 and alone and _looked_at(text) and bool(self.unmerged(tail[-2])[tail[-1]])
        within = bool(decoder.getstate()[0])
        return self._allowed(_shape(text[-_SEEN:]), within, tail[-1] if tail else -1, alone, apart)

    @cached_property
    def columns(self) -> UInt8[np.ndarray, "longest pieces"]:
        """The bytes of every token by their place in it, 0 where there is none."""
        longest = int(self.lengths.max()) + 1
        padded = b"".join(string.ljust(longest, b"\0") for string in self.pieces.strings)
        return np.ascontiguousarray(np.frombuffer(padded, np.uint8).reshape(-1, longest).T)

    def _judged(self, before: str, within: bool, last: int, alone: bool, apart: bool) -> Bool[np.ndarray, " pieces"]:
        """alone: the last token is one character. apart: it may be left apart from the token before it, within one piece of text."""
        unmerged = self.unmerged(last) if last >= 0 else np.ones(len(self.lengths), bool)
        if within:
            return unmerged & self.continues
        whole = cut = True
        if len(before) > 1 and _looked_at(before):
            whole, cut = not alone or apart, alone
        verdict = self._verdict(before) * self._reached
        joined = verdict & (_JOINED * whole | _JOINED_CUT * cut) != 0
        begun = verdict & (_BEGUN * whole | _BEGUN_CUT * cut) != 0
        return (begun | (joined & unmerged)) & ~self.continues

    def _judge(self, before: str) -> UInt8[np.ndarray, " pieces"]:
        """Of every token the bits of all ways in which a text may go on with it."""
        heads, index = self._heads["'" in before[-2:]]
        found = np.zeros(len(heads), np.uint8)
        here = len(before)
        for number, head in enumerate(heads.tolist()):
            if not head:  # the first bytes of a character
                found[number] = _JOINED | _JOINED_CUT | _BEGUN | _BEGUN_CUT
                continue
            for after in ("", "a", ".") if self._look_ahead and not head[-1].isalnum() else ("",):
                ends = self._ends(before + head + after)
                if not any(here < end < here + len(head) for end in ends):
                    cut = here > 1 and here - 1 in ends
                    found[number] |= (_BEGUN if here in ends or not here else _JOINED) << cut
        return found[index]

    def _ends(self, text: str) -> set[int]:
        return {end for _, (_, end) in self._splitter.pre_tokenize_str(text)}

    def stable(self, text: str) -> int:
        """The last place of a text, before its end, at which a piece ends however the text goes on."""
        common = set(range(1, len(text)))
        for after in PROBES:
            common &= self._ends(text + after)
        return max(common, default=0)

    def contexts(self, before: tuple[int, ...], data: bytes) -> list[list[tuple[int, ...]]]:
        """By the number of bytes read, the valid sequences of tokens that end there: `before` and what spells these bytes."""
        found: list[list[tuple[int, ...]]] = [[before], *([] for _ in data)]
        for at in range(len(data)):
            for context in found[at]:
                allowed = self.allowed(context)
                for end in range(at + 1, min(at + int(self.lengths.max()), len(data)) + 1):
                    place = self.by_bytes.get(data[at:end])
                    if place is not None and allowed[place]:
                        found[end].append((*context, int(self.pieces.ids[place])))
        return found


def _recovered(tokenizer: Tokenizer) -> Merges:
    try:
        return from_ranks([piece for piece in tokenizer.pieces if piece])
    except InvalidConfig as error:
        allowed = f"byte-pair encoding on bytes, with its ids in the order of the merges ({error})"
        raise InvalidConfig("tokenizer", tokenizer.name, allowed) from None


def _looked_at(text: str) -> bool:
    """Whether what comes next may end a piece just before the last character: after white space and signs, and in a contraction."""
    return not text[-1:].isalnum() or text[-2:-1] == "'"


def _shape(text: str) -> str:
    """The same for texts that published expressions do not tell apart."""
    return "".join(
        character if character in _CONTRACTED and "'" in text[max(at - 2, 0) : at] else _kind(character)
        for at, character in enumerate(text)
    )


@lru_cache(65536)
def _kind(character: str) -> str:
    if character in " \t\r\n'/":
        return character
    if character.isspace():
        return "\t"
    category = unicodedata.category(character)
    if category[0] == "L":
        return "A" if category in ("Lu", "Lt") else "a"
    return {"N": "1", "M": "\u0301"}.get(category[0], ".")
