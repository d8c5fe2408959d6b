"""The tokenizers of the theory: a dictionary of strings, its side information, and a way to encode with it.

A tokenizer here is what Rajaraman et al. 2024 call one: (Dict, DS, enc, dec), lossless, with a decoder that joins strings. Those that the
`tokenizers` library trains are in `library`.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Literal

import numpy as np
from jaxtyping import Int, Int32, Integer

from lexinv.data import tokenizers as language_model_tokenizers
from lexinv.data.bpe import apply_merges, check_size, learn_merges, learn_merges_sequentially, one_chunk
from lexinv.data.markov import longest_blocks
from lexinv.data.symbols import require_symbols
from lexinv.tokenization.encoders import Encode, LibraryEncoder, greedy_encoder, minimum_length_encoder
from lexinv.validation import InvalidConfig, choose, require

EncoderName = Literal["greedy", "minimum_length", "merges", "library"]


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A token's id is its place in `vocabulary`. `decode(encode(text)) == text` for every text over `alphabet`.

    merges: the side information of byte-pair encoding; merge i makes the token after the alphabet's and i others.
    encoder: which rule `encode` follows. Where that is not a plain dictionary (WordPiece) two tokens may be the same string.
    """

    name: str
    alphabet: str
    vocabulary: tuple[str, ...]
    merges: tuple[tuple[int, int], ...]
    encoder: EncoderName
    encode_text: Encode

    @property
    def size(self) -> int:
        """d, the number of tokens."""
        return len(self.vocabulary)

    @cached_property
    def lengths(self) -> Int32[np.ndarray, " vocab"]:
        """Characters of each token."""
        return np.array([len(token) for token in self.vocabulary], np.int32)

    @cached_property
    def fingerprint(self) -> str:
        """Identifies what `encode` does: two tokenizers of one name may have learnt different dictionaries."""
        trained = self.encode_text.model.to_str() if isinstance(self.encode_text, LibraryEncoder) else None
        decides = [self.alphabet, self.vocabulary, self.merges, self.encoder, trained]
        return language_model_tokenizers.digest(json.dumps(decides))

    def encode(self, text: str) -> Int32[np.ndarray, " tokens"]:
        """The ids of a text. Raises `InvalidConfig` naming the first character outside the alphabet and its position."""
        to_symbols(text, self.alphabet)
        return self.encode_text(text)

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " tokens"]) -> str:
        """The text of some ids. Raises `InvalidConfig` for one that is no token, with its position."""
        ids = np.asarray(ids, np.int64)
        for position in np.flatnonzero((ids < 0) | (ids >= self.size)):
            raise InvalidConfig(f"ids[{position}]", int(ids[position]), f"0 to {self.size - 1}")
        return "".join(map(self.vocabulary.__getitem__, ids.tolist()))


def to_symbols(text: str, alphabet: str) -> Int32[np.ndarray, " characters"]:
    """The place in `alphabet` of every character. Raises `InvalidConfig` with the position of one that is not in it."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    letters = np.frombuffer(alphabet.encode("utf-32-le", "surrogatepass"), np.uint32)
    by_code = np.argsort(letters)
    places = np.minimum(np.searchsorted(letters[by_code], codes), len(letters) - 1)
    for position in np.flatnonzero(letters[by_code][places] != codes):
        raise InvalidConfig(
            "text", text[position], f"characters of the alphabet {alphabet!r}; this one is at position {position}"
        )
    return by_code[places].astype(np.int32)


def to_text(symbols: Integer[np.ndarray, " characters"], alphabet: str) -> str:
    """The text of symbols given as places in `alphabet`, such as the sample of a source. Raises `InvalidConfig` for one that is none."""
    if np.size(symbols):
        require_symbols("symbols", np.asarray(symbols), len(alphabet))
    letters = np.frombuffer(alphabet.encode("utf-32-le", "surrogatepass"), np.uint32)
    return letters[np.asarray(symbols)].tobytes().decode("utf-32-le", "surrogatepass")


def check_alphabet(alphabet: str) -> str:
    """`alphabet`, if its characters are different, at least two, and no lone surrogates; `InvalidConfig` otherwise."""
    language_model_tokenizers.unicode_text(alphabet, "alphabet")
    require(len(set(alphabet)) == len(alphabet) >= 2, "alphabet", alphabet, "at least two characters, each once")
    return alphabet


def dictionary(
    name: str, alphabet: str, vocabulary: Sequence[str], encoder: Literal["greedy", "minimum_length"] = "greedy"
) -> Tokenizer:
    """The tokenizer of any dictionary of strings.

    Raises `InvalidConfig` for a token that is empty, occurs twice or holds a character outside the alphabet, and for a dictionary without
    some character of the alphabet: that could not encode every text.
    """
    check_alphabet(alphabet)
    require(len(set(vocabulary)) == len(vocabulary), "vocabulary", len(vocabulary), "tokens that are all different")
    for token in vocabulary:
        require(
            bool(token) and set(token) <= set(alphabet),
            "token",
            token,
            f"characters of the alphabet {alphabet!r}, at least one",
        )
    missing = "".join(character for character in alphabet if character not in set(vocabulary))
    require(
        not missing,
        "vocabulary",
        f"{len(vocabulary)} tokens",
        f"every character of the alphabet; {missing!r} cannot be encoded",
    )
    return Tokenizer(name, alphabet, tuple(vocabulary), (), encoder, _encoder(encoder, vocabulary))


def with_encoder(tokenizer: Tokenizer, encoder: Literal["greedy", "minimum_length", "merges"]) -> Tokenizer:
    """The same dictionary with another encoder. Raises `InvalidConfig` for `merges` where there are none."""
    choose("encoder", encoder, ("greedy", "minimum_length", "merges"))
    if encoder == "merges":
        require(
            len(tokenizer.merges) > 0, "encoder", encoder, f"greedy or minimum_length: {tokenizer.name} has no merges"
        )
        encode = _merge_encoder(tokenizer.alphabet, tokenizer.merges)
    else:
        encode = _encoder(encoder, tokenizer.vocabulary)
    return replace(tokenizer, encoder=encoder, encode_text=encode)


def shortened(tokenizer: Tokenizer, size: int) -> Tokenizer:
    """The first `size` tokens of an LZW or BPE dictionary: what training with that size would have given.

    Raises `InvalidConfig` for a size below the alphabet or above the tokenizer's, and for dictionaries that do not grow token by token.
    """
    kind = tokenizer.name.partition(":")[0]
    choose("tokenizer", kind, ("lzw", "bpe"))
    least = len(tokenizer.alphabet)
    check_size(size, least)
    require(size <= tokenizer.size, "size", size, f"{least} to {tokenizer.size}")
    if kind == "lzw":
        return dictionary(f"lzw:{size}", tokenizer.alphabet, tokenizer.vocabulary[:size])
    return _from_merges(f"bpe:{size}", tokenizer.alphabet, tokenizer.merges[: size - least])


def characters(alphabet: str) -> Tokenizer:
    """No tokenization: every character is a token."""
    return dictionary("characters", alphabet, tuple(alphabet))


def blocks(alphabet: str, length: int) -> Tokenizer:
    """The "toy" tokenizer of Rajaraman et al. 2024, theorem 2: the text cut into blocks of `length` characters.

    Ids 0 to |A|^length - 1 are the blocks, in the order of the alphabet; the shorter strings come after them, of which at most one is
    used, at the end of a text. Raises `InvalidConfig` above 2^20 blocks, and names the longest possible length.
    """
    check_alphabet(alphabet)
    longest = longest_blocks(len(alphabet))
    require(
        1 <= length <= longest,
        "length",
        length,
        f"1 to {longest} for {len(alphabet)} characters; BPE or LZW have longer tokens",
    )
    vocabulary = ["".join(token) for n in range(length, 0, -1) for token in product(alphabet, repeat=n)]
    return dictionary(f"blocks:{length}", alphabet, vocabulary)


def train_lzw(text: str, size: int, alphabet: str) -> Tokenizer:
    """The first `size` entries of the dictionary of Lempel-Ziv-Welch, with greedy encoding (Rajaraman et al. 2024, theorem 3).

    The text is parsed into longest matches, and each match with the character after it becomes a token. Only as much of the text is read
    as it takes. Raises `InvalidConfig` if `size` is below the number of characters or the text ends before it is reached.
    """
    to_symbols(text, check_alphabet(alphabet))
    check_size(size, len(alphabet))
    vocabulary = list(alphabet)
    node_of: dict[tuple[int, str], int] = {}  # token and character -> the token that joins them
    roots = {character: index for index, character in enumerate(alphabet)}
    match = -1
    for character in text:
        if len(vocabulary) == size:
            break
        longer = roots[character] if match < 0 else node_of.get((match, character), -1)
        if longer < 0:
            node_of[match, character] = len(vocabulary)
            vocabulary.append(vocabulary[match] + character)
            longer = roots[character]
        match = longer
    require(len(vocabulary) == size, "size", size, f"at most {len(vocabulary)}: the text has no more phrases")
    return dictionary(f"lzw:{size}", alphabet, vocabulary)


def train_bpe(text: str, size: int, alphabet: str) -> Tokenizer:
    """Byte-pair encoding of `size` tokens over one text without word limits; see `bpe.learn_merges`, also for the errors."""
    merges = learn_merges(one_chunk(to_symbols(text, check_alphabet(alphabet))), len(alphabet), size)
    return _from_merges(f"bpe:{size}", alphabet, merges)


def train_sequential_bpe(text: str, size: int, alphabet: str, threshold: float | None = None) -> Tokenizer:
    """Sequential byte-pair encoding, of `size` tokens or fewer; see `bpe.learn_merges_sequentially`. `threshold` defaults to ln(size)."""
    symbols = to_symbols(text, check_alphabet(alphabet))
    merges = learn_merges_sequentially(
        symbols, len(alphabet), size, float(np.log(size)) if threshold is None else threshold
    )
    return _from_merges(f"sequential-bpe:{size}", alphabet, merges)


def long_substrings(text: str, size: int, length: int, alphabet: str) -> Tokenizer:
    """A dictionary that has learnt its text by heart: the characters and substrings of `length` characters, `size` tokens (theorem 5).

    The first substrings of the text, one after the other, as many as are different from one another: the beginning of the text is
    encoded in few tokens. Encoded with the fewest tokens. Raises `InvalidConfig` where the text has not so many.
    """
    to_symbols(text, check_alphabet(alphabet))
    count = size - len(alphabet)
    check_size(size, len(alphabet) + 1, "of the alphabet's characters and a token more")
    require(length >= 2, "length", length, "at least 2")
    found: dict[str, None] = {}
    for start in range(0, len(text) - length + 1, length):
        if len(found) == count:
            break
        found.setdefault(text[start : start + length])
    require(
        len(found) == count,
        "length",
        length,
        f"less: the text has only {len(found)} different substrings of it, {count} are asked",
    )
    return dictionary(f"substrings:{length}", alphabet, (*alphabet, *found), "minimum_length")


def trap(alphabet: str, encoder: Literal["greedy", "minimum_length"]) -> Tokenizer:
    """A dictionary that one encoder uses well and another badly: the characters, a b ... z, and a b ... z a.

    Ours, in the place of the paper's theorem on interaction. On `sources.cyclic_kernel` the fewest tokens are one `ab...z` per cycle, which
    costs almost nothing. Greedy takes `ab...za`, and must spell the rest of the cycle after it: half of all characters, ln|A| nats each.
    """
    return dictionary(f"trap:{len(alphabet)}", alphabet, (*alphabet, alphabet, alphabet + alphabet[0]), encoder)


def for_language_model(tokenizer: Tokenizer) -> language_model_tokenizers.Tokenizer:
    """The tokenizer as the data pipeline of language models takes it: one id more, the last, separates documents."""
    separator = tokenizer.size
    return language_model_tokenizers.Tokenizer(
        name=tokenizer.name,
        vocab_size=tokenizer.size + 1,
        symbols=(*tokenizer.vocabulary, "<separator>"),
        separator=separator,
        pieces=(*map(str.encode, tokenizer.vocabulary), b""),
        encode=tokenizer.encode,
        decode=lambda ids: tokenizer.decode([int(i) for i in ids if i != separator]),
        fingerprint=tokenizer.fingerprint,
    )


def _from_merges(name: str, alphabet: str, merges: Sequence[tuple[int, int]]) -> Tokenizer:
    vocabulary = list(alphabet)
    for left, right in merges:
        vocabulary.append(vocabulary[left] + vocabulary[right])
    return Tokenizer(name, alphabet, tuple(vocabulary), tuple(merges), "merges", _merge_encoder(alphabet, merges))


def _merge_encoder(alphabet: str, merges: Sequence[tuple[int, int]]) -> Encode:
    return lambda text: apply_merges(to_symbols(text, alphabet), merges, len(alphabet))


def _encoder(name: str, vocabulary: Sequence[str]) -> Encode:
    makers: dict[str, Callable[[Sequence[str]], Encode]] = {
        "greedy": greedy_encoder,
        "minimum_length": minimum_length_encoder,
    }
    return makers[name](vocabulary)
