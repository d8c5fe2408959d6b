"""The benchmark of sources and tokenizers: its verdicts can go either way, and its loops sample the same source."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.benchmarks.sources_and_tokenizers import (
    ALPHABET,
    PRESETS,
    by_length,
    claims,
    figure,
    list_loop,
    numpy_loop,
    read,
    row_loop,
    train_in_pieces,
)
from experiments.harness.turns import take_turns
from lexinv.data.corpora import Corpus
from lexinv.data.markov import digits
from lexinv.tokenization.tokenizers import to_text, train_bpe
from lexinv.validation import InvalidConfig

ROUNDS = 3


def rounds(value: float) -> list:
    return [value, 1.01 * value, 1.02 * value]


def made_up() -> dict:
    rates = {
        "sample, vmapped": rounds(5e7),
        "sample_stream": rounds(2.5e7),
        "NumPy, symbol by symbol": rounds(1e6),
        "Python lists": rounds(5e6),
        "NumPy over sequences": rounds(3e7),
    }
    seconds = {"LZW": 0.1, "BPE": 7.0, "library BPE, pieces": 13.0, "library BPE, words": 2.0}
    trainers = {label: [rounds(0.1 * s), rounds(s)] for label, s in seconds.items()}
    return {
        "size": 512,
        "samplers": {"contexts": 4, "symbols": 1000, "rates": rates},
        "trainers": {
            "characters": [10**6, 10**7],
            "seconds": trainers,
            "exponents": {label: [1.0] * ROUNDS for label in trainers},
        },
        "whole": {
            "characters": [10**4, 10**5],
            "seconds": {"library BPE, whole": [rounds(0.02), rounds(2.0)]},
            "exponents": {"library BPE, whole": [2.0] * ROUNDS},
        },
        "encoders": {"characters": 10**6, "seconds": {"BPE, merges": rounds(0.3)}, "unigram": rounds(1e-3)},
    }


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def slower(part: str, kind: str, label: str, factor: float):
    def change(results: dict) -> None:
        found = results[part][kind]
        found[label] = (factor * np.array(found[label])).tolist()

    return change


@pytest.mark.parametrize(
    "change, name",
    [
        (slower("samplers", "rates", "sample_stream", 0.5), "samplers_twenty_times_a_loop"),
        (slower("samplers", "rates", "sample, vmapped", 0.2), "samplers_twenty_times_a_loop"),
        (slower("trainers", "seconds", "LZW", 200.0), "lzw_trainer_faster_than_library_bpe"),
        (slower("trainers", "seconds", "BPE", 2.0), "bpe_trainer_no_slower_than_library"),
    ],
)
def test_each_claim_holds_and_can_fail_alone(change, name):
    results = made_up()
    assert set(verdicts(results).values()) == {True}
    change(results)
    assert {claim for claim, holds in verdicts(results).items() if not holds} == {name}


def test_too_few_rounds_cannot_tell():
    results = made_up()
    for found in (results["samplers"]["rates"], results["trainers"]["seconds"]):
        for label, rows in found.items():
            found[label] = [row[:2] for row in rows] if isinstance(rows[0], list) else rows[:2]
    assert set(verdicts(results).values()) == {None}


def test_figure_shows_all_parts():
    sampling, training, encoding = figure(made_up()).axes
    assert len(sampling.get_yticklabels()) == 5 and len(encoding.get_yticklabels()) == 1
    assert "library BPE, whole: exponent 2.00" in [text.get_text() for text in training.get_legend().get_texts()]


def test_loops_sample_the_kernel():
    """All of them give the same symbols for the same uniform numbers, and these follow the kernel."""
    kernel = np.random.default_rng(1).dirichlet(np.ones(3), size=9)
    uniforms = np.random.default_rng(0).random((20_000, 4))
    rows = row_loop(kernel, np.zeros(4, np.int64), uniforms)
    np.testing.assert_array_equal(numpy_loop(kernel, 0, uniforms[:, 1]), rows[:, 1])
    np.testing.assert_array_equal(list_loop(kernel, 0, uniforms[:, 2]), rows[:, 2])
    assert digits([7], 2, 3).tolist() == [[2, 1]]
    after = rows[2:][(rows[:-2] == 2) & (rows[1:-1] == 1)]
    frequencies = np.bincount(after, minlength=3) / len(after)
    np.testing.assert_allclose(frequencies, kernel[7], atol=4 * 0.5 / np.sqrt(len(after)))


def test_sides_take_turns_in_both_directions():
    order = []
    seconds = take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert [len(times) for times in seconds.values()] == [3, 3]


def test_lengths_are_those_that_were_asked_for():
    seen = []
    found = by_length({"a": lambda text: seen.append(len(text))}, "x" * 100, (10, 100), rounds=2)
    assert seen == [10, 10, 10, 100, 100]
    assert np.shape(found["seconds"]["a"]) == (2, 2) and len(found["exponents"]["a"]) == 2


def test_text_is_repeated_where_it_is_too_short_and_says_so():
    corpus = Corpus("made-up", "0", {"train": ["one"], "validation": ["two"], "test": ["three"]})
    assert read([corpus, corpus], 20) == ("one two three one tw", False)
    assert read([corpus], 20) == ("one two three one tw", True)


def test_the_library_learns_what_ours_does_within_a_piece_and_no_token_across_two():
    text = to_text(np.random.default_rng(0).integers(0, 4, 256), ALPHABET)
    assert set(train_in_pieces(text, 50).get_vocab()) == set(train_bpe(text, 50, ALPHABET).vocabulary)
    pieces = ("b" + "a" * 254 + "c") * 4
    assert any("cb" in token for token in train_bpe(pieces, 46, ALPHABET).vocabulary)
    assert not any("cb" in token for token in train_in_pieces(pieces, 46).get_vocab())


@pytest.mark.parametrize(
    "change, field",
    [
        ({"length": 2}, "length"),
        ({"sequences": 0}, "sequences"),
        ({"loop_symbols": 100}, "loop_symbols"),
        ({"rounds": 0}, "rounds"),
        ({"trainer_rounds": 0}, "trainer_rounds"),
        ({"corpora": ()}, "corpora"),
        ({"size": 29}, "size"),
        ({"texts": (10_000,)}, "texts"),
        ({"texts": (30_000, 10_000)}, "texts"),
        ({"whole_texts": (100, 6000)}, "whole_texts"),
        ({"encoded": 40_000}, "encoded"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        replace(PRESETS["smoke"], **change)
    assert error.value.field == field
