"""The harness on solvers with planted faults, and the effective length on curves whose limit is known."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lexinv.lexinvariance.haystack_scores import contour, effective_length, evaluate, fraction_right, parse
from lexinv.lexinvariance.haystack_solvers import hop_error, middle_blind, perfect, window_limited
from lexinv.lexinvariance.haystacks import (
    Item,
    branched_links,
    branched_thread,
    conditional_needles,
    multiple_needles,
    repeats,
    single_needle,
    threads,
)
from lexinv.validation import InvalidConfig

TASKS = {
    "single": lambda rng: single_needle(rng, 30, 40.0),
    "multiple": lambda rng: multiple_needles(rng, 30, 5, "clustered"),
    "conditional": lambda rng: conditional_needles(rng, 30, 5, "random", "&"),
    "backward": lambda rng: threads(rng, 30, 6, 1, "backward"),
    "multi-thread": lambda rng: threads(rng, 30, 4, 5, "random"),
    "branched": lambda rng: branched_thread(rng, 60, branched_links(rng, 5, 3), 0, "random"),
}


@pytest.mark.parametrize("task", TASKS)
def test_the_perfect_solver_scores_one_and_a_blind_one_nothing(task):
    items = repeats(TASKS[task], seed=0, count=10)
    assert (evaluate(perfect, items) == 1).all()
    assert (evaluate(window_limited(78), items) == 0).all()  # not one whole pair
    assert (evaluate(lambda prompt: "I do not know.", items) == 0).all()


@pytest.mark.parametrize("window", [400, 1000, 1610])
def test_a_window_of_w_characters_sees_what_lies_in_it_and_nothing_else(window):
    for item in (single_needle(np.random.default_rng(i), 25, 100.0 * i / 24) for i in range(25)):
        inside = 80 * (25 - item.positions[0]) - 1 <= window  # its pair begins so many characters before the end
        assert evaluate(window_limited(window), [item])[0] == inside


def test_a_broken_thread_is_wrong():
    items = repeats(lambda rng: threads(rng, 25, 4, 1, "forward"), seed=0, count=200)
    seen = [min(item.positions) >= 5 for item in items]
    assert (evaluate(window_limited(1600), items) == seen).all()
    assert 20 < sum(seen) < 180


@pytest.mark.parametrize("length", [1, 3, 8])
def test_errors_per_hop_multiply(length):
    items = repeats(lambda rng: threads(rng, 40, length, 5, "random"), seed=0, count=200)
    expected, n = 0.8**length, 5 * 200
    solver = hop_error(0.2, seed=1)
    found = evaluate(solver, items)
    assert abs(found.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / n)
    np.testing.assert_array_equal(found, evaluate(solver, items))
    assert (evaluate(hop_error(0.0, seed=1), items) == 1).all() and (evaluate(hop_error(1.0, seed=1), items) == 0).all()


def test_the_middle_is_not_seen():
    depths = np.linspace(0.0, 100.0, 101)
    items = [single_needle(np.random.default_rng(i), 101, float(depth)) for i, depth in enumerate(depths)]
    found = evaluate(middle_blind(0.4), items)
    assert (found[(depths < 29) | (depths > 71)] == 1).all() and (found[(depths > 31) & (depths < 69)] == 0).all()


def item_of(values, keys):
    return Item("", "", keys, values, (), 0)


def test_order_counts_where_keys_are_named():
    named, free = item_of(("a", "b", "c"), ("x", "y", "z")), item_of(("a", "b", "c"), ())
    assert fraction_right(["a", "b", "c"], named) == fraction_right(["c", "a", "b"], free) == 1
    assert fraction_right(["a", "c", "b"], named) == pytest.approx(1 / 3)
    assert fraction_right(["c", "a", "b"], named) == 0
    assert fraction_right(["a", "a", "b"], free) == pytest.approx(2 / 3)
    assert fraction_right(["a"], named) == pytest.approx(1 / 3)
    assert fraction_right(["a", "b", "c", "d", "e", "f"], named) == 0.5
    assert fraction_right([], named) == 0


def test_replies_are_read_as_they_come():
    first, second = (
        f"{digit}2345678-1234-4abc-8abc-123456789abc"[:8] + "-1234-4abc-8abc-123456789abc" for digit in "01"
    )
    reply = f'The values are:\n1. "{first.upper()}",\n2. none\n3. {second}.'
    assert parse(reply) == [first, "none", second]
    assert parse("nonexistent 1234") == []


def test_prompts_beyond_the_window_are_refused_and_not_cut():
    items = repeats(TASKS["single"], seed=0, count=3)
    longest = max(len(item.prompt) for item in items)
    asked = []

    def answer(prompt):
        asked.append(prompt)
        return ""

    with pytest.raises(InvalidConfig, match="window of 2400"):
        evaluate(answer, items, limit=2400)
    with pytest.raises(InvalidConfig, match="window of 10"):
        evaluate(answer, items, limit=10, length=lambda prompt: prompt.count('": "'))
    with pytest.raises(InvalidConfig, match="at least one"):
        evaluate(answer, [])
    assert asked == []
    evaluate(answer, items, limit=longest)
    assert asked == [item.prompt for item in items]


def test_effective_length_of_a_step_is_the_step():
    lengths = np.arange(1.0, 101.0)
    for step in (1.0, 37.0, 99.0):
        found = effective_length(lengths, np.where(lengths <= step, 1.0, 0.0), 0.75)
        assert found == pytest.approx(step + 0.25)  # the line to the next length falls from 1 to 0
    assert effective_length(lengths, np.where(lengths <= 0, 1.0, 0.7), 0.75) == 0
    assert effective_length(lengths, np.ones(100), 0.75) == 100


def test_what_comes_after_the_first_failure_does_not_count():
    assert effective_length(np.array([10.0, 20.0, 30.0, 40.0]), np.array([1.0, 0.8, 0.3, 1.0]), 0.75) == pytest.approx(
        21
    )


@settings(deadline=None)
@given(arrays(np.float64, (3, 6), elements=st.floats(0, 1)), st.floats(0.05, 1), st.floats(0.05, 1))
def test_effective_length_is_monotone_in_the_level(accuracy, level, other):
    lengths = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    low, high = (contour(lengths, accuracy, value) for value in sorted((level, other)))
    assert (low >= high - 1e-9).all()
    for row, limit in zip(accuracy, low, strict=True):
        assert limit == effective_length(lengths, row, min(level, other))
        assert (row[lengths <= limit - 1e-9] >= min(level, other) - 1e-9).all()


@pytest.mark.parametrize(
    "call, field",
    [
        (lambda: effective_length(np.array([2.0, 1.0]), np.ones(2), 0.5), "lengths"),
        (lambda: effective_length(np.array([0.0, 1.0]), np.ones(2), 0.5), "lengths"),
        (lambda: effective_length(np.array([1.0, 2.0]), np.ones(2), 0.0), "level"),
        (partial(window_limited, 0), "window"),
        (partial(hop_error, 1.5, 0), "error"),
        (partial(middle_blind, 0.0), "share"),
    ],
)
def test_impossible_settings_are_refused(call, field):
    with pytest.raises(InvalidConfig) as error:
        call()
    assert error.value.field == field
