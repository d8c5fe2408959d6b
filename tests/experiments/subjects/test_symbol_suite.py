"""The suite is asked in characters of the tokenizer; what it cannot spell is refused, and solvers get what they must."""

import json
from dataclasses import replace

import numpy as np
import pytest

from experiments.subjects.symbol_suite import SuiteConfig, accuracies, guessed, spell
from experiments.subjects.text import Text
from lexinv.data.corpora import Corpus
from lexinv.data.tokenizers import load_tokenizer
from lexinv.data.windows import TokenStream, window_source
from lexinv.lexinvariance.symbol_tasks import FAMILIES
from lexinv.lexinvariance.tasks import Example, Task, as_bigbench
from lexinv.validation import InvalidConfig

SUITE = SuiteConfig(length=3, demonstrations=3, items=8)


def text(tokenizer: str) -> Text:
    loaded = load_tokenizer(tokenizer, Corpus("made up", "0", {}))
    windows = window_source(TokenStream(np.zeros(64, np.uint8), np.array([0, 64])), 32)
    return Text("made up", "0", loaded.vocab_size, windows, [], loaded)


@pytest.mark.parametrize("tokenizer", ["letters", "byte"])
def test_the_whole_suite_is_asked_in_characters_of_the_tokenizer(tokenizer):
    suite, decode = spell(SUITE, text(tokenizer), 64, seed=0), text(tokenizer).tokenizer.decode
    assert set(suite.tasks) == set(FAMILIES)
    for task, answers in suite.tasks.values():
        for example, (only,) in zip(task.examples, answers, strict=True):
            assert decode(only.tokens) == example.input + task.example_output_prefix + example.targets[0]
            assert len(only.tokens) - only.start == len(example.targets[0])
    assert {decode([mark]) for mark in suite.marks} == {",", ".", " "}


def test_seeds_and_families_have_items_of_their_own():
    first, again, other = (spell(SUITE, text("byte"), 64, seed).tasks for seed in (0, 0, 1))
    assert first["copy"][0] == again["copy"][0] != other["copy"][0]
    assert [e.input for e in first["reverse"][0].examples] != [e.input for e in first["copy"][0].examples]


def test_whoever_says_the_first_symbol_of_the_prompt_is_right_as_often_as_it_is_the_answer():
    suite = spell(SUITE, text("byte"), 64, seed=0)

    def first_symbol(batch):
        return 9.0 * (np.arange(suite.vocab) == batch["tokens"][:, :1, None]) + np.zeros((1, 64, 1))

    found = accuracies(lambda batch: first_symbol(batch)[:, : batch["tokens"].shape[1]], suite, 8)
    task, _ = suite.tasks["two_hop"]
    right = np.mean([example.input[0] == example.targets[0] for example in task.examples])
    assert found["whole"]["two_hop"] == found["prompt"]["two_hop"] == right
    assert guessed(suite)["prompt"]["lookup"] == pytest.approx(1 / 6)
    assert guessed(suite)["whole"]["lookup"] == pytest.approx(1 / suite.vocab)


def test_what_the_tokenizer_or_the_context_does_not_hold_is_refused():
    with pytest.raises(InvalidConfig, match="at most 32 with the prompt"):
        spell(SUITE, text("letters"), 40, seed=0)
    capital = replace(SUITE, symbols="Abcdefghijklmnopqrstuvwxyz")
    with pytest.raises(InvalidConfig, match="^symbols = 'A'"):
        spell(capital, text("letters"), 64, seed=0)
    assert spell(capital, text("byte"), 64, seed=0)


def test_task_files_are_asked_beside_the_suite(tmp_path):
    examples = (
        Example("1 + 1 =", ("2",), (("2", 1.0), ("3", 0.0))),
        Example("2 + 1 =", ("3",), (("2", 0.0), ("3", 1.0))),
    )
    file, suite = tmp_path / "task.json", replace(SUITE, bigbench=str(tmp_path), shots=1)
    file.write_text(json.dumps(as_bigbench(Task("sums", "Sums.", examples))))
    spelled = spell(suite, text("byte"), 128, seed=0)
    assert set(spelled.tasks) == {*FAMILIES, "sums"}
    shown = text("byte").tokenizer.decode(spelled.tasks["sums"][1][0][0].tokens)
    assert shown.startswith("\nQ: 2 + 1 =") and "1 + 1 =" in shown  # one shot, then the example
    assert guessed(spelled)["grade"] == {"sums": 0.5}
    file.write_text(json.dumps(as_bigbench(Task("lookup", "Sums.", examples))))
    with pytest.raises(InvalidConfig, match="bigbench = 'lookup'"):
        spell(suite, text("byte"), 64, seed=0)
