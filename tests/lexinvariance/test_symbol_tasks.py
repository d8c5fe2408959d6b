"""The generated suite: every answer against a solver that reads the prompt, and symbols that carry nothing."""

from collections import Counter
from string import ascii_lowercase

import numpy as np
import pytest

from lexinv.lexinvariance.symbol_tasks import FAMILIES, MARKS, symbol_task
from lexinv.lexinvariance.tasks import prompts
from lexinv.validation import InvalidConfig


def drawn(name, seed=0, count=80, length=4, demonstrations=4, symbols=ascii_lowercase):
    rng = np.random.default_rng(seed)
    return symbol_task(name, rng, symbols, length=length, demonstrations=demonstrations, count=count)


def looked_up(line, header, shown):
    return dict(shown)[line]  # the last, where there are several


def most_frequent(line, header, shown):
    return Counter(output for key, output in shown if key == line).most_common(1)[0][0]


def completed(line, header, shown):
    (word,) = {before + after for before, after in shown if before == line}
    return word.removeprefix(line)


def next_of_cycle(line, header, shown):
    period = next(p for p in range(1, len(line)) if line[p:] == line[:-p])
    return line[len(line) - period]


def deleted(line, header, shown):
    before, after = line.split(" ")
    return before[:-1] + after


def permuted(line, header, shown):
    (order,) = {tuple(before.index(symbol) for symbol in after) for before, after in shown}
    assert sorted(order) == list(range(len(line))) != list(order)
    return "".join(line[place] for place in order)


def hopped(line, header, shown):
    facts = dict(header.split(" "))
    return facts[facts[line]]


# What a line's output must be, given the header and the lines before. The labels of `same_or_different` are free: here the relation.
SOLVERS = {
    "lookup": looked_up,
    "word": looked_up,
    "by_word": looked_up,
    "shared_ending": looked_up,
    "latest": looked_up,
    "majority": most_frequent,
    "category": looked_up,
    "complete_word": completed,
    "continue_cycle": next_of_cycle,
    "successor": lambda line, header, shown: header[header.index(line) + 1],
    "permutation": permuted,
    "copy": lambda line, header, shown: line,
    "reverse": lambda line, header, shown: "".join(reversed(line)),
    "first": lambda line, header, shown: line[0],
    "delete_marked": deleted,
    "odd_one_out": lambda line, header, shown: Counter(line).most_common()[-1][0],
    "missing": lambda line, header, shown: "".join(set(line.split(" ")[0]) - set(line.split(" ")[1])),
    "translate": lambda line, header, shown: "".join(dict(header.split(" "))[symbol] for symbol in line),
    "two_hop": hopped,
    "same_or_different": lambda line, header, shown: line[0] == line[1],
}
HEADED = {"successor", "translate", "two_hop"}
ARROWLESS = {"complete_word", "continue_cycle", "successor"}
OWN_SYMBOLS = {"continue_cycle", "permutation", "copy", "reverse", "first", "delete_marked", "odd_one_out", "missing"}


def parsed(prompt, answer, name):
    """The header and the lines with their outputs, the asked one last, by splitting the text."""
    parts = (prompt + answer).split(".")
    header = parts.pop(0) if name in HEADED else ""
    if name in ARROWLESS:
        return header, [(part[: -len(answer)], part[-len(answer) :]) for part in parts]
    return header, [tuple(part.split(",")) for part in parts]


@pytest.mark.parametrize("length, demonstrations", [(4, 4), (3, 3), (3, 5)])
@pytest.mark.parametrize("name", FAMILIES)
def test_answers_are_what_an_independent_solver_says(name, length, demonstrations):
    task = drawn(name, length=length, demonstrations=demonstrations)
    answers = set()
    for prompt, example in zip(prompts(task, np.random.default_rng(1)), task.examples, strict=True):
        (answer,) = example.targets
        header, lines = parsed(prompt, answer, name)
        assert len(lines) == demonstrations + 1
        shown = lines[:-1]
        said = [SOLVERS[name](line, header, shown) for line, _ in lines]
        if name == "same_or_different":
            assert set(said[:-1]) == {True, False}
            labels = dict(zip(said, (output for _, output in lines), strict=True))
            assert len(set(labels.values())) == 2
            said = [labels[relation] for relation in said]
        # Where a value changes or is contested only the line that is asked must have the output it is asked for.
        judged = lines[-1:] if name in ("latest", "majority") else lines
        assert [output for _, output in judged] == said[-len(judged) :]
        answers.add(answer)
    assert len(answers) > 15


def test_values_change_and_are_contested():
    for example in drawn("latest").examples:
        *shown, (asked, _) = parsed(example.input + ",", "", "latest")[1]
        assert len([key for key, _ in shown if key == asked]) == 2
    for example in drawn("majority").examples:
        *shown, (asked, _) = parsed(example.input + ",", "", "majority")[1]
        assert sorted(Counter(value for key, value in shown if key == asked).values()) == [1, 2]


def test_symbols_of_a_shared_ending_tell_nothing():
    for example in drawn("shared_ending").examples:
        _, lines = parsed(example.input + ",", "", "shared_ending")
        assert len({line[1] for line, _ in lines}) == 1 and len({line[0] for line, _ in lines}) == 4


@pytest.mark.parametrize("name", FAMILIES)
def test_choices_hold_the_answer_once_at_any_place_among_different_ones(name):
    places = Counter()
    for example in drawn(name).examples:
        texts = [text for text, _ in example.choices]
        assert 2 <= len(texts) == len(set(texts)) <= 4
        assert [score for text, score in example.choices if text == example.targets[0]] == [1.0]
        assert sum(score for _, score in example.choices) == 1.0
        assert {len(text) for text in texts} == {len(example.targets[0])}
        assert set("".join(texts)) <= set(example.input) - set(".,")
        places[texts.index(example.targets[0])] += 1
    assert min(places.values()) >= 10 and len(places) == max(map(len, (e.choices for e in drawn(name).examples)))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_symbol_is_as_often_the_answer_as_any_other(name):
    task = drawn(name, count=1000, symbols="abcdefghijklmnopqrst")
    counts = Counter(example.targets[0][0] for example in task.examples)
    # 1000 answers over 20 symbols: 50 each, standard deviation 7.
    assert set(counts) == set("abcdefghijklmnopqrst")
    assert all(abs(count - 50) < 5 * 7 for count in counts.values())
    assert len({example.input for example in task.examples}) > 990


def test_lines_under_a_rule_of_their_own_share_no_symbol():
    for name in OWN_SYMBOLS:
        for example in drawn(name).examples:
            _, lines = parsed(example.input + ",", example.targets[0], name)
            shown = [set(line) - set(MARKS) for line, _ in lines]
            assert sum(map(len, shown)) == len(set().union(*shown))


@pytest.mark.parametrize("name", FAMILIES)
def test_more_symbols_than_there_are_is_refused(name):
    needed = FAMILIES[name].symbols(4, 5)
    assert drawn(name, symbols=ascii_lowercase[:needed]).examples
    with pytest.raises(InvalidConfig, match=f"at least {needed} for '{name}'") as error:
        drawn(name, symbols=ascii_lowercase[: needed - 1])
    assert error.value.field == "symbols" and error.value.value == ascii_lowercase[: needed - 1]
    used = [len({*example.input, *example.targets[0]} - set(MARKS)) for example in drawn(name).examples]
    if name == "same_or_different":  # a line of two equal symbols leaves one out, and so may all lines but one
        assert needed - 4 <= min(used) and max(used) == needed - 1
    else:
        assert set(used) == {needed}
