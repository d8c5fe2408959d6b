"""Windows and batches: no token lost, none repeated within an epoch, the same element i whichever way it is reached."""

from collections import Counter

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexinv.data.corpora import Corpus
from lexinv.data.tokenizers import load_tokenizer
from lexinv.data.windows import PADDING, TokenStream, batches, evaluation_windows, token_stream, window_source
from lexinv.tokenization.tokenizers import dictionary, for_language_model, train_bpe, with_encoder
from lexinv.validation import InvalidConfig


def numbered(lengths: list[int]) -> TokenStream:
    """Documents of the given lengths in which every token is another number."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return TokenStream(np.arange(offsets[-1], dtype=np.uint16), offsets)


streams = st.lists(st.integers(1, 20), min_size=1, max_size=8).map(numbered)


@pytest.mark.parametrize("packing", ["stream", "documents"])
@settings(deadline=None, max_examples=25)
@given(stream=streams, length=st.integers(1, 40), batch_size=st.integers(1, 5), k=st.integers(1, 3), data=st.data())
def test_no_token_lost_none_repeated_within_an_epoch(packing, stream, length, batch_size, k, data):
    length = min(length, len(stream.tokens))
    source = window_source(stream, length, packing)
    dataset = batches(source, batch_size, data.draw(st.integers(0, 2**31)), k)
    epochs, per_dispatch = 2, batch_size * k
    dispatches = [dataset[i]["tokens"] for i in range(-(-epochs * len(source) // per_dispatch))]
    windows = np.concatenate(dispatches).reshape(-1, length)
    for epoch in range(epochs):
        seen = windows[epoch * len(source) : (epoch + 1) * len(source)]
        assert sorted(seen[seen != PADDING].tolist()) == stream.tokens.tolist()


@settings(deadline=None)
@given(stream=streams, length=st.integers(1, 40))
def test_windows_are_runs_of_the_stream(stream, length):
    length = min(length, len(stream.tokens))
    whole = window_source(stream, length)
    assert len(whole) == -(-len(stream.tokens) // length)
    for packing in ("stream", "documents"):
        source = window_source(stream, length, packing)
        for i in range(len(source)):
            window = source[i]["tokens"]
            tokens = window[: np.count_nonzero(window != PADDING)]  # padding only at the end
            assert window.dtype == np.int32 and len(tokens) >= 1
            assert np.array_equal(tokens, np.arange(tokens[0], tokens[0] + len(tokens)))
            if packing == "documents":
                ends = np.searchsorted(stream.offsets, [tokens[0], tokens[-1]], side="right")
                assert ends[0] == ends[1]


def test_steps_per_dispatch_changes_only_the_grouping():
    source = window_source(numbered([1000]), 10)
    one, four = batches(source, 3, seed=7), batches(source, 3, seed=7, steps_per_dispatch=4)
    assert np.array_equal(four[6]["tokens"], np.concatenate([one[i]["tokens"] for i in range(24, 28)]))


def test_rows_held_apart_are_those_of_the_whole_batch():
    source = window_source(numbered([1000]), 10)
    whole = batches(source, 6, seed=7, steps_per_dispatch=2)[9]
    assert whole["tokens"].shape == (2, 6, 10) and whole["row"].tolist() == [list(range(6))] * 2
    for held in (np.array([0, 1, 2]), np.array([1, 5])):
        part = batches(source, 6, seed=7, steps_per_dispatch=2, held=held)[9]
        for name in ("tokens", "row"):
            assert part[name].dtype == np.int32 and np.array_equal(part[name], whole[name][:, held])


def test_every_epoch_of_every_seed_has_an_order_of_its_own():
    source = window_source(numbered([1000]), 10)
    epochs = [(seed, epoch) for seed in range(3) for epoch in range(3)]
    orders = [tuple(batches(source, 100, seed)[epoch]["tokens"][0, :, 0]) for seed, epoch in epochs]
    assert len({tuple(range(0, 1000, 10)), *orders}) == 10
    assert orders[-1] == tuple(batches(source, 100, 2)[2]["tokens"][0, :, 0])


def test_iterator_resumes_where_it_was():
    source = window_source(numbered([1000]), 10)
    dataset = batches(source, 3, 0)
    iterator = iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))
    for _ in range(40):
        next(iterator)
    state = iterator.get_state()
    restored = iter(dataset.to_iter_dataset())
    restored.set_state(state)
    for i in (40, 41):
        expected = dataset[i]["tokens"]
        assert np.array_equal(next(iterator)["tokens"], expected)
        assert np.array_equal(next(restored)["tokens"], expected)


def test_evaluation_windows_are_different_complete_and_fixed():
    source = window_source(numbered([25, 7, 48]), 10, "documents")
    windows = evaluation_windows(source, 6, seed=0)
    assert windows.dtype == np.int32 and PADDING not in windows
    assert sorted(windows[:, 0].tolist()) == [0, 10, 32, 42, 52, 62]
    assert np.array_equal(evaluation_windows(source, 3, seed=0), windows[:3])
    assert Counter(map(tuple, windows)) != Counter(map(tuple, evaluation_windows(source, 5, seed=1)))
    with pytest.raises(InvalidConfig, match="from 1 to the 6 windows without padding"):
        evaluation_windows(source, 7, seed=0)


CORPUS = Corpus("test", "0123456789abcdef", {"train": ["One two.", "", "three"], "validation": ["x"], "test": []})


def test_token_stream_is_the_documents_with_separators(tmp_path):
    for name, text in (("letters", "one two.  three "), ("char", "One two.three")):
        tokenizer = load_tokenizer(name, CORPUS)
        stream = token_stream(CORPUS, "train", tokenizer, tmp_path)
        assert tokenizer.decode(stream.tokens) == text
        assert stream.tokens.dtype == np.uint8 and stream.offsets.tolist() == [0, 9, 10, 16]
        assert np.all(stream.tokens[stream.offsets[1:] - 1] == tokenizer.separator)
    assert token_stream(CORPUS, "train", load_tokenizer("byte", CORPUS), tmp_path).tokens.dtype == np.uint16


def test_the_share_that_is_folded_is_recorded_said_and_refused_above_a_tenth(tmp_path, capsys):
    letters, char = (load_tokenizer(name, CORPUS) for name in ("letters", "char"))
    tenth = Corpus("tenth", "a" * 16, {"train": ["abcdefghi7", "ten words."]})
    stream = token_stream(tenth, "train", letters, tmp_path)
    assert stream.folded == 1 / 20
    capsys.readouterr()
    assert token_stream(tenth, "train", letters, tmp_path).folded == 1 / 20  # also where it is read from the cache
    assert "letters folds 5.0 % of the characters of tenth (train)" in " ".join(capsys.readouterr().err.split())
    assert token_stream(tenth, "train", char, tmp_path).folded == 0
    assert "folds" not in capsys.readouterr().err
    japanese = Corpus("japanese", "b" * 16, {"train": ["日本語の文章 " * 20, "ab"]})
    for tokenizer, share in ((letters, "84.5"), (char, "84.5")):
        allowed = f"{share} % of the characters of japanese .* byte, bpe:V.* {tokenizer.name}:lossy"
        with pytest.raises(InvalidConfig, match=f"tokenizer = '{tokenizer.name}' .*{allowed}"):
            token_stream(japanese, "train", tokenizer, tmp_path)
        asked = load_tokenizer(f"{tokenizer.name}:lossy", japanese)
        assert token_stream(japanese, "train", asked, tmp_path).folded == 120 / 142
        np.testing.assert_array_equal(asked.encode("naïve 7"), tokenizer.encode("naïve 7"))


def test_tokenizers_of_one_name_have_streams_of_their_own(tmp_path):
    text = "aabbaabbab"
    corpus = Corpus("test", "0123456789abcdef", {"train": [text]})
    learned = [train_bpe(training, 3, "ab") for training in ("aaaa", "abab")]
    spelled = dictionary("bpe:3", "ab", ("a", "b", "aa"), "minimum_length")
    named_alike = [*learned, spelled, with_encoder(spelled, "greedy")]
    for tokenizer in map(for_language_model, named_alike):
        assert tokenizer.name == "bpe:3"
        stream = token_stream(corpus, "train", tokenizer, tmp_path)
        np.testing.assert_array_equal(stream.tokens[:-1], tokenizer.encode(text))
        assert tokenizer.decode(stream.tokens) == text
    assert len(list(tmp_path.rglob("tokens.bin"))) == 4
    token_stream(corpus, "train", for_language_model(train_bpe("aaaa", 3, "ab")), tmp_path)
    assert len(list(tmp_path.rglob("tokens.bin"))) == 4  # the same tokenizer once more


def test_bad_input_is_refused(tmp_path):
    stream = numbered([5, 6])
    for length in (0, 12):
        with pytest.raises(InvalidConfig, match=f"context = {length} .*from 1 to the length of the corpus, 11 tokens"):
            window_source(stream, length)
    with pytest.raises(InvalidConfig, match="did you mean 'validation'"):
        token_stream(CORPUS, "valid", load_tokenizer("letters", CORPUS), tmp_path)
    with pytest.raises(InvalidConfig, match="split = 'test' .*a split with documents"):
        token_stream(CORPUS, "test", load_tokenizer("letters", CORPUS), tmp_path)
    for field, sizes in (("batch_size", (0, 0)), ("steps_per_dispatch", (1, 0, 0))):
        with pytest.raises(InvalidConfig, match=f"{field} = 0"):
            batches(window_source(stream, 2), *sizes)
