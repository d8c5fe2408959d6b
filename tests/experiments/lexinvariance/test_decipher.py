"""The claims on results made up to satisfy all of them, then spoilt one by one; keys and passages of a text that is known."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from experiments.lexinvariance.decipher import (
    ARMS,
    PRESETS,
    DecipherConfig,
    claims,
    elect,
    encipher_windows,
    figure,
    reveal,
    score,
)
from experiments.lexinvariance.perplexity import Text
from lexinv.data.corpora import Corpus
from lexinv.data.tokenizers import load_tokenizer
from lexinv.data.windows import TokenStream, window_source
from lexinv.lexinvariance.probes import ProbeConfig
from lexinv.validation import InvalidConfig

SMOKE = PRESETS["smoke"]
SPREAD = np.array([0.0, 0.01, 0.02])
PLAIN = "a rose is a rose is a rose, said a. "


def entry(share: float) -> dict:
    return {"positions": [share / 2, share], "symbols": [share / 2, share], "late": share}


def keys(share: float) -> list:
    return [entry(value) for value in share + SPREAD]


def arm(late: float, key: float, first: float = 0.15) -> dict:
    rows = late + SPREAD[:, None, None] * np.ones((2, 16))
    rows[:, :, 0] = first
    return {"accuracy": [rows.tolist()], "chosen": [[0, 1]] * 3, "key": keys(key), "passage": [PLAIN, PLAIN]}


def made_up() -> dict:
    return {
        "corpora": {},
        "seeds": [0, 1, 2],
        "context": 17,
        "vocab": 29,
        "most_frequent": 0.17,
        "probes": [256],
        "read": [8, 16],
        "passage": {"plain": PLAIN, "cipher": PLAIN[::-1]},
        "baselines": {
            "frequency": {"key": keys(0.3), "passage": [PLAIN, PLAIN]},
            "metropolis": {"key": keys(0.9), "passage": [PLAIN, PLAIN]},
        },
        "arms": {"lexinvariant": arm(0.85, 0.95), "untrained": arm(0.2, 0.2), "standard": arm(0.3, 0.3)},
    }


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_results_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True}


@pytest.mark.parametrize(
    "path, value, broken",
    [
        (
            ("baselines", "frequency", "key"),
            keys(0.9),
            {"probe_above_frequency_matching", "metropolis_above_frequency_matching"},
        ),
        (("arms", "lexinvariant"), arm(0.6, 0.95), {"probe_reads_most_symbols"}),
        (("arms", "lexinvariant"), arm(0.85, 0.8), {"key_recovered"}),
        (("arms", "lexinvariant"), arm(0.85, 0.95, first=0.9), {"first_position_is_chance"}),
        (("arms", "untrained"), arm(0.85, 0.2), {"probe_needs_training"}),
        (("arms", "standard"), arm(0.85, 0.3), {"probe_above_standard_model"}),
        (("baselines", "metropolis", "key"), keys(0.5), {"metropolis_above_frequency_matching"}),
    ],
)
def test_each_claim_can_fail(path, value, broken):
    results = copy.deepcopy(made_up())
    place = results
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    assert {name for name, holds in verdicts(results).items() if not holds} == broken


def test_figure_shows_the_passage_and_every_arm():
    drawn = figure(made_up())
    labels = {text.get_text() for axes in drawn.axes if axes.get_legend() for text in axes.get_legend().get_texts()}
    assert {*ARMS, "metropolis (no network)"} <= labels
    written = [text.get_text() for text in drawn.axes[-1].texts]
    assert "plain" in written and "probe, 16 symbols read" in written


def test_windows_are_enciphered_each_with_its_own_key():
    plain = np.random.default_rng(0).integers(0, 29, (6, 40)).astype(np.int32)
    made = encipher_windows(plain, 29, seed=0)
    for window, key, cipher in zip(plain, made.keys, made.cipher, strict=True):
        np.testing.assert_array_equal(key[cipher], window)
    assert len({tuple(key) for key in made.keys}) == len(plain)
    assert (encipher_windows(plain, 29, seed=1).keys != made.keys).any()


def test_a_probe_that_knows_everything_recovers_the_key():
    plain = np.random.default_rng(0).integers(0, 5, (3, 60)).astype(np.int32)
    made = encipher_windows(plain, 5, seed=0)
    log_probs = np.log(np.where(np.eye(5, dtype=bool)[plain], 0.9, 0.025)).astype(np.float32)
    found = [elect(log_probs[:, :length], made.cipher[:, :length]) for length in (40, 60)]
    assert score(found, made, [40, 60]) == {"positions": [1.0, 1.0], "symbols": [1.0, 1.0], "late": 1.0}


def test_symbols_not_met_yet_are_dots():
    tokenizer = load_tokenizer("letters", Corpus("made up", "0", {}))
    windows = window_source(TokenStream(np.zeros(64, np.uint8), np.array([0, 64])), 32)
    text = Text("made up", "0", tokenizer.vocab_size, windows, [], tokenizer)
    plain = tokenizer.encode(PLAIN)[None]
    made = encipher_windows(plain, 29, seed=3)
    assert reveal(text, made.cipher[0], made.keys[0], 6) == "a␣rose␣·s␣a␣rose␣·s␣a␣rose·␣sa··␣a·"


@pytest.mark.parametrize(
    "change, field",
    [
        (lambda: DecipherConfig(read=(128, 32)), "decipher.read"),
        (lambda: DecipherConfig(read=(0,)), "decipher.read"),
        (lambda: DecipherConfig(probes=()), "decipher.probes"),
        (lambda: DecipherConfig(windows=0), "decipher.windows"),
        (lambda: DecipherConfig(probes=(ProbeConfig(), ProbeConfig(steps=5))), "decipher.probes"),
        (lambda: replace(SMOKE, decipher=replace(SMOKE.decipher, read=(63,))), "decipher.read"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        change()
    assert error.value.field == field
