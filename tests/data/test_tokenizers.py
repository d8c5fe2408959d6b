"""Tokenizers: what they fold, what they keep, and that every byte of the normalised text is counted once."""

import inspect
import json.decoder

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexinv.data.corpora import Corpus
from lexinv.data.fertility import fertility
from lexinv.data.tokenizers import bits_per_byte, load_tokenizer
from lexinv.validation import InvalidConfig

TEXT = "def naïve(x):\n    return 'ﬁve  “words”' + str(x) # 日本, e.g. Ünïcode…\n"
CORPUS = Corpus("test", "0123456789abcdef", {"train": [TEXT * 3, "the cat sat on the mat. " * 20], "validation": [""]})
NAMES = ["letters", "char", "byte", "bpe:300", "unigram:260"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_bytes_and_round_trip(name, text, cache):
    tokenizer = load_tokenizer(name, CORPUS, cache)
    tokens = tokenizer.encode(text)
    assert tokens.dtype == np.int32 and np.all((tokens >= 0) & (tokens < tokenizer.vocab_size))
    normalised = tokenizer.decode(tokens)
    assert b"".join(tokenizer.pieces[token] for token in tokens).decode("utf-8", "replace") == normalised
    assert tokenizer.token_bytes[tokens].sum() == len(normalised.encode())
    assert np.array_equal(tokenizer.encode(normalised), tokens) or name == "char"  # U+FFFD is folded like any other
    if name not in ("letters", "char"):
        assert normalised == text
    if name != "letters":
        assert tokenizer.separator not in tokens
        assert tokenizer.token_bytes[tokenizer.separator] == 0


@pytest.mark.parametrize(
    ("name", "size"), [("letters", 29), ("char", 130), ("byte", 257), ("bpe:300", 300), ("unigram:260", 260)]
)
def test_sizes_and_symbols(name, size, cache):
    tokenizer = load_tokenizer(name, CORPUS, cache)
    assert tokenizer.name == name
    assert tokenizer.vocab_size == len(tokenizer.symbols) == len(tokenizer.token_bytes) == size
    assert all(symbol and symbol.isprintable() for symbol in tokenizer.symbols)


def test_letters():
    tokenizer = load_tokenizer("letters", CORPUS)
    assert tokenizer.decode(tokenizer.encode(TEXT)) == "def na ve x return ve words str x , e.g. n code"
    assert tokenizer.symbols == ("␣", *"abcdefghijklmnopqrstuvwxyz.,")
    assert tokenizer.encode("az.,A \t\n Z").tolist() == [1, 26, 27, 28, 1, 0, 26]
    assert tokenizer.separator == 0


def test_char():
    tokenizer = load_tokenizer("char", CORPUS)
    assert tokenizer.decode(tokenizer.encode(TEXT)) == (
        "def naive(x):\n    return 'five  �words�' + str(x) # ��, e.g. Unicode...\n"
    )
    assert tokenizer.encode("\0A\x7fé中").tolist() == [0, 65, 127, ord("e"), 128]


def test_bpe_merges_what_is_frequent(cache):
    tokenizer = load_tokenizer("bpe:300", CORPUS, cache)
    words = tokenizer.encode("the cat sat on the mat.")
    assert len(words) < 12 and {"␣cat", "␣mat"} & set(tokenizer.symbols)
    assert tokenizer.token_bytes[tokenizer.symbols.index("␣the")] == 4
    assert tokenizer.decode(tokenizer.encode("<separator>")) == "<separator>"


def test_unigram_model_joins_bytes(tmp_path):
    source = inspect.getsource(json.decoder)
    tokenizer = load_tokenizer("unigram:400", Corpus("source", "a" * 16, {"train": [source]}), tmp_path)
    tokens = tokenizer.encode(source)
    assert len(tokens) < 0.6 * len(source) and tokenizer.decode(tokens) == source
    assert tokenizer.decode(tokenizer.encode("<separator>")) == "<separator>"


def test_bpe_is_trained_once_per_corpus_on_its_train_split(cache, tmp_path):
    first = load_tokenizer("bpe:300", CORPUS, cache)
    retrained = load_tokenizer("bpe:300", CORPUS, tmp_path)
    assert first.symbols == retrained.symbols
    cached = Corpus(CORPUS.name, CORPUS.fingerprint, {"train": []})
    assert load_tokenizer("bpe:300", cached, cache).symbols == first.symbols
    other = Corpus("other", "f" * 16, {"train": ["zyzzyva zyzzyva " * 50, TEXT * 3], "validation": ["the " * 99]})
    symbols = load_tokenizer("bpe:270", other, tmp_path).symbols
    assert "zyzzyva" in symbols and "␣the" not in symbols


@pytest.mark.parametrize(
    ("name", "text", "folded"),
    [
        ("letters", "It's 10 km,\n(about) naïve.", 3),  # 1, 0 and ï; a gap stands for white space and punctuation
        ("letters", "日本語。", 4),
        ("letters", "İ", 1),  # in lower case two characters, of which one is a letter
        ("char", "It's 10 km,\n(about) naïve.", 1),
        ("char", "日本語。", 4),
        ("byte", "日本語。", 0),
        ("bpe:300", "日本語。", 0),
    ],
)
def test_what_is_folded_is_counted(name, text, folded, cache):
    assert load_tokenizer(name, CORPUS, cache).folded(text) == folded


@pytest.mark.parametrize("name", NAMES)
def test_a_lone_surrogate_is_refused_with_its_place(name, cache):
    tokenizer = load_tokenizer(name, CORPUS, cache)
    for text in ("ab\ud800c", "\udfff"):
        at = text.index(text.strip("abc"))
        with pytest.raises(InvalidConfig, match=rf"text\[{at}\] = '\\ud.*no lone surrogate"):
            tokenizer.encode(text)


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("leters", "did you mean 'letters'"),
        ("bpe", "bpe:V with a number V"),
        ("bpe:V", "bpe:V with a number V"),
        ("unigram:", "unigram:V with a number V"),
        ("unigram:100", "at least 257"),
        ("bpe:100", "at least 257"),
        ("unigram:50000", r"another size: the library stops at \d+ subwords"),
        ("bpe:50000", r"at most \d+: the corpus has no more subwords"),
    ],
)
def test_bad_names(name, allowed, tmp_path):
    with pytest.raises(InvalidConfig, match=allowed):
        load_tokenizer(name, CORPUS, tmp_path)


def test_bits_per_byte_of_a_uniform_model(cache):
    byte, bpe = load_tokenizer("byte", CORPUS), load_tokenizer("bpe:300", CORPUS, cache)
    tokens = np.array([[*byte.encode("four"), byte.separator, -1, -1]])
    nats = np.where(tokens >= 0, np.log(256.0), 1e9)
    assert bits_per_byte(nats, tokens, byte) == pytest.approx(8 * 5 / 4)  # the separator costs bits and is no byte
    with pytest.raises(InvalidConfig, match=r"tokens\[0, 1\] = 257"):
        bits_per_byte(np.zeros((1, 2)), np.array([[0, 257]]), byte)
    with pytest.raises(InvalidConfig, match="some that stand for text"):
        bits_per_byte(np.zeros((1, 2)), np.array([[byte.separator, -1]]), byte)
    tokens = bpe.encode(TEXT)[None, :]
    expected = tokens.size * np.log2(300) / len(TEXT.encode())
    assert bits_per_byte(np.full(tokens.shape, np.log(300.0)), tokens, bpe) == pytest.approx(expected)


def test_fertility_is_of_totals_and_not_a_mean_of_ratios():
    found = fertility(load_tokenizer("byte", CORPUS).encode, ["naïve", "日本 123"])
    assert found == (6 + 10, 5 + 6, 6 + 10)
    assert (found.bytes_per_token, found.characters_per_token) == (1, 11 / 16)
    assert fertility(str.split, ["a b c", "longer"]).characters_per_token == 11 / 4
    with pytest.raises(InvalidConfig, match="texts"):
        fertility(str.split, [" "])
