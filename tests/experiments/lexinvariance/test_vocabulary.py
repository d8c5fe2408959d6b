"""The claims on results made up to satisfy all of them, then spoilt one by one."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from experiments.lexinvariance.vocabulary import PRESETS, claims, figure, gap
from lexinv.validation import InvalidConfig

SMOKE = PRESETS["smoke"]
SPREAD = np.array([0.0, 0.01, 0.02])[:, None]
CONTEXT = 32


def arm(first: float, last: float, size: float = 2.0) -> dict:
    """A gap that falls along the window from `first` to `last` bits per byte, with tokens of `size` bytes."""
    rows = size * (np.linspace(first, last, CONTEXT)[None] + SPREAD)
    return {
        "bytes": np.full((3, CONTEXT), size).tolist(),
        "standard": np.full((3, CONTEXT), size).tolist(),
        "lexinvariant": (size + rows).tolist(),
    }


def made_up() -> dict:
    return {
        "corpora": {"code": "0", "prose": "1"},
        "seeds": [0, 1, 2],
        "context": CONTEXT,
        "vocab": {"letters": 29, "bpe:1024": 1024},
        "arms": {
            "code": {"letters": arm(2.0, 0.5, 1.0), "bpe:1024": arm(3.0, 1.5)},
            "prose": {"letters": arm(2.0, 1.0, 1.0), "bpe:1024": arm(3.0, 2.0)},
        },
    }


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_results_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True}


@pytest.mark.parametrize(
    "corpus, tokenizer, value, broken",
    [
        ("code", "bpe:1024", arm(3.0, 0.0), "larger_vocabulary_stays_further_behind"),
        ("prose", "letters", arm(2.0, -1.0, 1.0), "code_closes_faster_than_prose"),
        ("prose", "bpe:1024", arm(1.5, 2.0), "gap_closes_for_every_vocabulary"),
    ],
)
def test_each_claim_can_fail(corpus, tokenizer, value, broken):
    results = copy.deepcopy(made_up())
    results["arms"][corpus][tokenizer] = value
    assert {name for name, holds in verdicts(results).items() if not holds} == {broken}


def test_gap_is_in_bits_per_byte_and_weighs_bytes():
    made = {"bytes": [[1.0, 3.0]], "standard": [[2.0, 2.0]], "lexinvariant": [[3.0, 5.0]]}
    assert gap(made, slice(0, 2)) == pytest.approx([(1 + 3) / (1 + 3)])
    assert gap(made, slice(1, 2)) == pytest.approx([1.0])


def test_figure_names_every_tokenizer():
    labels = [text.get_text() for text in figure(made_up()).axes[-1].get_legend().get_texts()]
    assert labels == ["letters (V = 29)", "bpe:1024 (V = 1,024)"]


@pytest.mark.parametrize(
    "change, field",
    [
        ({"prose": "python-stdlib"}, "prose"),
        ({"tokenizers": ("letters",)}, "tokenizers"),
        ({"tokenizers": ("letters", "letters")}, "tokenizers"),
        ({"context": 8}, "data.context"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        replace(SMOKE, **change)
    assert error.value.field == field
