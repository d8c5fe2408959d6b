"""The claims on results made up to satisfy all of them, then spoilt one by one; the division of documents; and what is refused."""

import copy
import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

from experiments.harness.claims import Interval
from experiments.tokenization.real_text import (
    ALPHABET,
    LABELS,
    PRESETS,
    all_below,
    claims,
    compressors,
    divide,
    figure,
    measure_kgrams,
    tokenizers,
    worst,
)
from lexinv.data.corpora import Corpus
from lexinv.tokenization.tokenizers import to_text, train_bpe
from lexinv.validation import InvalidConfig

SIZES = [64, 1024, 4096, 16_384]
CURVES = {
    "bpe": [2.7, 1.8, 1.45, 1.3],
    "wordpiece": [2.8, 1.8, 1.44, 1.3],
    "unigram": [2.6, 1.7, 1.42, 1.4],
    "bpe_whole": [2.7, 1.85, 1.46, 1.25],
    "lzw": [2.9, 2.0, 1.5, 1.6],
}


def rows(values: list) -> list:
    return [[value + 0.002 * seed for value in values] for seed in range(3)]


def made_up() -> dict:
    text = {
        "kgrams": {
            "sizes": [[29, 800, 8000, 30_000]] * 3,
            "nats": rows([2.9, 2.4, 1.9, 1.45]),
            "strengths": [[1.0] * 4] * 3,
        },
        "compressors": {"gzip": [1.5] * 3, "xz": [1.4] * 3},
        "tokens": {kind: {"sizes": [list(SIZES)] * 3, "nats": rows(curve)} for kind, curve in CURVES.items()},
    }
    texts = {"python-docs": text, "kjv": copy.deepcopy(text)}
    return {"corpora": {}, "left_out": {}, "seeds": [0, 1, 2], "sizes": SIZES, "texts": texts}


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_what_they_expect():
    assert set(verdicts(made_up()).values()) == {True}


def set_nats(kind: str, column: int, value: float):
    def change(results: dict) -> None:
        for row in results["texts"]["kjv"]["tokens"][kind]["nats"]:
            row[column] = value

    return change


@pytest.mark.parametrize(
    "change, name",
    [
        (set_nats("unigram", 3, 1.46), "tokens_beat_kgrams_of_equal_size"),
        (set_nats("unigram", 2, 1.2), "tokenizers_are_close"),
        (set_nats("lzw", 2, 1.7), "lzw_is_close"),
        (set_nats("bpe_whole", 0, 1.8), "larger_dictionaries_are_better"),
    ],
)
def test_each_claim_can_fail_alone_on_one_corpus(change, name):
    results = made_up()
    change(results)
    assert {claim for claim, holds in verdicts(results).items() if not holds} == {name}


def test_the_kgram_of_equal_size_is_never_smaller():
    """800 is nearer to 1024 than 8000 is, and an easier opponent."""
    results = made_up()
    for row in results["texts"]["kjv"]["tokens"]["bpe"]["nats"]:
        row[1] = 2.0  # below the 2-gram, above the 3-gram
    assert verdicts(results)["tokens_beat_kgrams_of_equal_size"] is False
    for text in results["texts"].values():
        for kind in text["tokens"]:
            text["tokens"][kind]["sizes"] = [[64, 700, 4096, 16_384]] * 3  # the tokenizer stopped early
    assert verdicts(results)["tokens_beat_kgrams_of_equal_size"] is True


def test_without_a_kgram_as_large_nothing_is_claimed():
    results = made_up()
    results["texts"]["kjv"]["kgrams"]["sizes"] = [[29, 800, 8000, 12_000]] * 3
    assert verdicts(results)["tokens_beat_kgrams_of_equal_size"] is None


def test_one_seed_and_other_sizes_cannot_tell():
    results = made_up()
    for text in results["texts"].values():
        for found in (text["kgrams"], *text["tokens"].values()):
            found.update({key: value[:1] for key, value in found.items()})
    assert set(verdicts(results).values()) == {None}
    assert figure(results)
    results = made_up()
    results["sizes"] = [64, 128, 256, 512]
    found = verdicts(results)
    assert found.pop("larger_dictionaries_are_better") is False  # LZW's last one rises, and is now among those judged
    assert set(found.values()) == {None}


def test_worst_reaches_highest():
    differences = {"a": Interval(0.0, -1.0, 1.0, 3), "b": Interval(0.5, 0.4, 0.6, 3), "c": None}
    assert list(worst(differences)) == ["a"]
    assert worst({"c": None}) == {}
    assert all_below([None, Interval(0.5, 0.4, 0.6, 3)], 0.0) is False
    assert all_below([None, Interval(-0.5, -0.6, -0.4, 3)], 0.0) is None
    assert all_below([], 0.0) is None


def test_figure_shows_every_tokenizer_and_names_the_references():
    drawn = figure(made_up())
    axes = drawn.axes
    assert [panel.get_title(loc="left") for panel in axes] == ["python-docs", "kjv"]
    labels = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert {label for label, _ in LABELS.values()} < set(labels)
    assert [label.split()[0] for label in labels if "learns" in label] == ["gzip", "xz"]
    json.dumps(made_up())


CORPUS = Corpus(
    "made-up",
    "0",
    {
        "train": [f"Document {'x' * i}, yes." for i in range(40)],
        "validation": ["a validation document!", "..."],
        "test": ["the very last", ""],
    },
)


def test_documents_are_divided_anew_by_every_seed_and_never_shared():
    train, test = (to_text(part, ALPHABET) for part in divide(CORPUS, 400, 200, seed=0))
    assert (len(train), len(test)) == (400, 200)
    whole = [set(text.split(" document ")[1:-1]) for text in (train, test)]
    assert whole[0] and whole[1] and not whole[0] & whole[1]
    again = [to_text(part, ALPHABET) for part in divide(CORPUS, 400, 200, seed=0)]
    assert again == [train, test]
    assert to_text(divide(CORPUS, 400, 200, seed=1)[1], ALPHABET) != test


def test_a_corpus_with_too_little_text_is_refused():
    with pytest.raises(InvalidConfig, match="made-up has") as error:
        divide(CORPUS, 100_000, 200, seed=0)
    assert error.value.field == "train_characters"


def test_smaller_dictionaries_without_words_are_those_of_training_them():
    text = to_text(np.random.default_rng(0).integers(0, 4, 3000), ALPHABET)
    for found, size in zip(tokenizers("bpe_whole", text, (60, 80, 100)), (60, 80, 100), strict=True):
        trained = train_bpe(text, size, ALPHABET)
        assert found.vocabulary == trained.vocabulary
        np.testing.assert_array_equal(found.encode(text[:500]), trained.encode(text[:500]))


def test_kgrams_are_tuned_on_training_text_alone():
    """The test text, of another law, must not change strengths; and k-grams of a text without order are no better than frequencies."""
    rng = np.random.default_rng(0)
    train = rng.integers(0, 4, 20_000).astype(np.int32)
    found = [
        measure_kgrams(train, test.astype(np.int32), 3) for test in (rng.integers(0, 4, 5000), np.arange(5000) % 2)
    ]
    assert found[0]["strengths"] == found[1]["strengths"]
    assert found[0]["sizes"] == [4, 16, 64]
    np.testing.assert_allclose(found[0]["nats"], np.log(4), atol=0.01)


def test_compressors_count_nats_per_character():
    text = "abcd" * 500
    assert compressors(text)["gzip"] == pytest.approx(
        len(gzip.compress(text.encode(), 9)) * np.log(256) / 2000, abs=1e-4
    )


@pytest.mark.parametrize(
    "change, field",
    [
        ({"corpora": ()}, "corpora"),
        ({"corpora": ("kjv", "kjv")}, "corpora"),
        ({"seeds": ()}, "seeds"),
        ({"sizes": ()}, "sizes"),
        ({"sizes": (256, 64)}, "sizes"),
        ({"sizes": (32, 64)}, "sizes"),
        ({"grams": 0}, "grams"),
        ({"grams": 13}, "grams"),
        ({"train_characters": 2000}, "train_characters"),
        ({"test_characters": 10}, "test_characters"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        replace(PRESETS["smoke"], **change)
    assert error.value.field == field
