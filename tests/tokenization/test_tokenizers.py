"""Round trips, encoders against brute force, the library's reading of what we export, and refusals."""

import functools

import numpy as np
import pytest
import tokenizers as library
from hypothesis import given, settings
from hypothesis import strategies as st

from lexinv.data.bpe import check_size
from lexinv.tokenization.library import export, train_library_bpe, train_unigram, train_wordpiece
from lexinv.tokenization.tokenizers import (
    blocks,
    characters,
    dictionary,
    long_substrings,
    shortened,
    to_symbols,
    to_text,
    train_bpe,
    train_lzw,
    train_sequential_bpe,
    trap,
    with_encoder,
)
from lexinv.validation import InvalidConfig

ALPHABET = " ab"
BITS = "0101 1100 " * 30
WORDS = "".join(np.random.default_rng(0).choice(list(ALPHABET), 2000, p=[0.2, 0.5, 0.3]))
TRAINERS = {
    "lzw": lambda size: train_lzw(WORDS, size, ALPHABET),
    "bpe": lambda size: train_bpe(WORDS, size, ALPHABET),
    "sequential": lambda size: train_sequential_bpe(WORDS, size, ALPHABET, threshold=0.0),
    "substrings": lambda size: long_substrings(WORDS, size, 5, ALPHABET),
    "wordpiece": lambda size: train_wordpiece(WORDS, size, ALPHABET, split_words=True),
    "wordpiece whole": lambda size: train_wordpiece(WORDS, size, ALPHABET, split_words=False),
    "unigram": lambda size: train_unigram(WORDS, size, ALPHABET, split_words=True),
    "library bpe": lambda size: train_library_bpe(WORDS, size, ALPHABET, split_words=False),
}


@functools.cache
def made() -> dict:
    untrained = {"characters": characters(ALPHABET), "blocks": blocks(ALPHABET, 3), "trap": trap(ALPHABET, "greedy")}
    return untrained | {name: train(30) for name, train in TRAINERS.items()}


@pytest.mark.parametrize("name", made())
@given(text=st.text(ALPHABET, max_size=300))
@settings(max_examples=40, deadline=None)
def test_every_tokenizer_is_lossless(name, text):
    tokenizer = made()[name]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.lengths[ids].sum() == len(text)


VOCABULARIES = st.lists(st.text("ab", min_size=1, max_size=5), max_size=8).map(
    lambda tokens: list(dict.fromkeys(["a", "b", *tokens]))
)


@given(vocabulary=VOCABULARIES, text=st.text("ab", max_size=40))
@settings(max_examples=150, deadline=None)
def test_greedy_takes_the_longest_match(vocabulary, text):
    rest, expected = text, []
    while rest:
        longest = max((token for token in vocabulary if rest.startswith(token)), key=len)
        expected.append(vocabulary.index(longest))
        rest = rest[len(longest) :]
    assert dictionary("any", "ab", vocabulary).encode(text).tolist() == expected


@given(vocabulary=VOCABULARIES, text=st.text("ab", max_size=12))
@settings(max_examples=150, deadline=None)
def test_minimum_length_is_the_shortest_of_all_encodings(vocabulary, text):
    @functools.cache
    def shortest(rest: str) -> tuple[int, list[int]]:
        """Tokens, then minus their lengths from the first on: fewest, then longest first."""
        if not rest:
            return 0, []
        options = []
        for token in vocabulary:
            if rest.startswith(token):
                count, lengths = shortest(rest[len(token) :])
                options.append((count + 1, [-len(token), *lengths]))
        return min(options)

    tokenizer = dictionary("any", "ab", vocabulary, "minimum_length")
    ids = tokenizer.encode(text)
    assert [-int(length) for length in tokenizer.lengths[ids]] == shortest(text)[1]


def test_lzw_by_hand():
    """a | b | ab | aba: each match with the character after it."""
    assert train_lzw("abababa", 5, "ab").vocabulary == ("a", "b", "ab", "ba", "aba")


@pytest.mark.parametrize("train", [train_lzw, train_bpe])
def test_a_shortened_dictionary_is_that_of_a_shorter_training(train):
    shorter, trained = shortened(train(WORDS, 30, ALPHABET), 12), train(WORDS, 12, ALPHABET)
    assert (shorter.name, shorter.vocabulary, shorter.merges) == (trained.name, trained.vocabulary, trained.merges)
    assert shorter.encode(WORDS).tolist() == trained.encode(WORDS).tolist()


def test_blocks_are_numbered_in_base_of_the_alphabet():
    tokenizer = blocks("01", 3)
    assert tokenizer.encode("000101111").tolist() == [0, 5, 7]
    assert [tokenizer.vocabulary[i] for i in tokenizer.encode("11101")] == ["111", "01"]
    assert tokenizer.size == 8 + 4 + 2


def test_trap_encodes_a_cycle_as_its_docstring_says():
    for encoder, expected in (("minimum_length", ["abcd"] * 10), ("greedy", ["abcda", "b", "c", "d"] * 5)):
        tokenizer = trap("abcd", encoder)
        assert [tokenizer.vocabulary[i] for i in tokenizer.encode("abcd" * 10)] == expected


def test_substrings_encode_their_own_text_in_few_tokens():
    assert len(made()["substrings"].encode(WORDS[: 27 * 5])) == 27
    repeating = long_substrings("0101" * 9 + "1100" * 9 + "0" * 99, 5, 4, "01")
    assert repeating.vocabulary == ("0", "1", "0101", "1100", "0000")
    assert len(repeating.encode("0101" * 9)) == 9


@pytest.mark.parametrize(
    "name",
    ["characters", "blocks", "lzw", "bpe", "sequential", "wordpiece", "wordpiece whole", "unigram", "library bpe"],
)
def test_the_library_reads_what_is_exported(name, tmp_path):
    tokenizer = made()[name]
    (tmp_path / "tokenizer.json").write_text(export(tokenizer), encoding="utf-8")
    loaded = library.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in (WORDS[:500], "a", "bb  a"):
        assert loaded.encode(text).ids == tokenizer.encode(text).tolist()
    if tokenizer.encoder != "library":
        assert loaded.decode(loaded.encode(WORDS[:500]).ids) == WORDS[:500]


def test_minimum_length_has_no_counterpart_in_the_library():
    with pytest.raises(InvalidConfig, match="no such encoder"):
        export(with_encoder(made()["lzw"], "minimum_length"))


@pytest.mark.parametrize("train", [train_library_bpe, train_unigram, train_wordpiece])
def test_the_library_trains_the_same_tokenizer_every_time(train):
    """The order of its hashes, which it changes from call to call, must not break ties: there are many among so few words."""
    alphabet = "abcdefgh "
    text = " ".join("".join(word) for word in np.random.default_rng(0).choice(list(alphabet[:-1]), (40, 3)))
    assert len({train(text, 30, alphabet, split_words=True).vocabulary for _ in range(3)}) == 1


def test_words_are_not_crossed_when_they_are_split():
    for name in ("wordpiece", "unigram"):
        assert all(" " not in token[1:] for token in made()[name].vocabulary)
    assert any(" " in token[1:] for token in made()["library bpe"].vocabulary)


@given(text=st.text("zä€𝄞", max_size=20))
def test_symbols_and_text_are_the_same(text):
    symbols = to_symbols(text, "zä€𝄞")
    assert ["zä€𝄞"[i] for i in symbols] == list(text)
    assert to_text(symbols, "zä€𝄞") == text


@pytest.mark.parametrize("name", TRAINERS)
def test_a_trained_vocabulary_has_the_size_that_was_asked_for(name):
    assert TRAINERS[name](17).size == 17


def test_unigram_may_be_asked_for_a_size_or_less():
    assert train_unigram(BITS, 40, "01 ", True, at_most=True).size == 6
    assert train_unigram(WORDS, 30, ALPHABET, True, at_most=True).vocabulary == made()["unigram"].vocabulary


@pytest.mark.parametrize(
    "attempt, message",
    [
        (lambda: characters("a"), "at least two characters"),
        (lambda: characters("aa"), "each once"),
        (lambda: dictionary("d", "ab", ["a", "ab"]), "every character of the alphabet; 'b' cannot be encoded"),
        (lambda: dictionary("d", "ab", ["a", "b", ""]), "at least one"),
        (lambda: dictionary("d", "ab", ["a", "b", "a"]), "all different"),
        (lambda: dictionary("d", "ab", ["a", "b", "ac"]), "token = 'ac'"),
        (lambda: characters("ab").encode("abca"), "'c'.*position 2"),
        (lambda: characters("ab").decode([0, 2]), r"ids\[1\] = 2"),
        (lambda: to_text(np.array([0, -1]), "ab"), r"symbols\[1\] = -1 .*0 to 1"),
        (lambda: train_bpe("abxab", 3, "ab"), "position 2"),
        (lambda: train_lzw("abab", 1, "ab"), "at least the 2 characters"),
        (lambda: train_lzw("abab", 50, "ab"), "at most 4"),
        (lambda: train_wordpiece("abab", 3, "ab", True), "at least the 4 characters"),
        (lambda: train_unigram("abab", 1, "ab", True), "at least the 3 of the alphabet's characters and a token more"),
        (lambda: train_unigram(BITS, 3, "01 ", True), "at least the 4 of"),  # the library would never end
        (lambda: train_unigram(BITS, 3, "01 ", False), "at least the 4 of"),  # it would give 5 tokens
        (lambda: train_unigram(BITS, 40, "01 ", True), "another size: the library stops at 6 tokens on this text"),
        (lambda: train_library_bpe("abab", 50, "ab", False), "another size: the library stops at"),
        (lambda: train_wordpiece("abab", 50, "ab", False), "another size: the library stops at"),
        (lambda: check_size(16.5, 3), "size = 16.5 .*whole number"),
        (lambda: blocks("01", 21), "1 to 20 for 2 characters"),
        (lambda: with_encoder(characters("ab"), "merges"), "has no merges"),
        (lambda: shortened(blocks("ab", 2), 3), "known: lzw, bpe"),
        (lambda: shortened(made()["lzw"], 41), "3 to 30"),
        (lambda: long_substrings("ab" * 50, 12, 4, "ab"), "only 1 different"),
    ],
)
def test_bad_input_is_refused(attempt, message):
    with pytest.raises(InvalidConfig, match=message):
        attempt()
