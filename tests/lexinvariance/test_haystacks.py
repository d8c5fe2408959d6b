"""Haystacks: chasing the pointers of the text again gives every stored answer; scores of solvers with planted faults, by known curves."""

import json
import re
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lexinv.lexinvariance import haystacks
from lexinv.lexinvariance.haystack_scores import contour, effective_length, evaluate, fraction_right, parse
from lexinv.lexinvariance.haystack_solvers import (
    any_value,
    hop_error,
    middle_blind,
    most_recent,
    one_link,
    perfect,
    window_limited,
)
from lexinv.validation import InvalidConfig

UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def rng(seed=0):
    return np.random.default_rng(seed)


def parsed(item):
    return json.loads(item.haystack, object_pairs_hook=list)


def chased(pairs, key):
    """The last value from a key, by a dictionary and a loop."""
    values = dict(pairs)
    while key in values:
        key = values[key]
    return key


def all_ways(following, key):
    return [[key, *way] for value in following.get(key, []) for way in all_ways(following, value)] or [[key]]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 6), st.integers(1, 6), st.data())
def test_threads_are_followed_to_their_answers_and_nothing_else_is_linked(seed, pairs, length, count, data):
    direction = data.draw(st.sampled_from(("forward", "backward", "random")))
    if length * count > pairs:
        with pytest.raises(InvalidConfig, match=f"length = {length} "):
            haystacks.threads(rng(seed), pairs, length, count, direction)
        return
    item = haystacks.threads(rng(seed), pairs, length, count, direction)
    found = parsed(item)
    keys, values = zip(*found, strict=True)
    assert len(found) == pairs and len(set(keys)) == len(set(values)) == pairs
    assert all(UUID.fullmatch(text) for text in (*keys, *values))
    assert item.values == tuple(chased(found, key) for key in item.keys)
    # Disjoint threads, and no link besides theirs.
    assert len(set(item.positions)) == length * count
    assert sum(value in keys for value in values) == count * (length - 1)
    for thread, key in zip(np.reshape(item.positions, (count, length)), item.keys, strict=True):
        assert found[thread[0]][0] == key
        assert all(found[a][1] == found[b][0] for a, b in pairwise(thread))
        steps = np.diff(thread)
        assert direction == "random" or (steps > 0 if direction == "forward" else steps < 0).all()
    assert item.context_length == len(item.haystack) == 80 * pairs


def test_random_threads_go_both_ways():
    steps = np.concatenate([np.diff(haystacks.threads(rng(seed), 30, 5, 1, "random").positions) for seed in range(20)])
    assert 20 < (steps > 0).sum() < 60


@pytest.mark.parametrize("depth, index", [(0.0, 0), (10.0, 2), (50.0, 12), (90.0, 22), (100.0, 24)])
def test_a_needle_lies_at_its_depth_in_a_haystack_of_2000_characters(depth, index):
    item = haystacks.single_needle(rng(), 25, depth)
    assert item.context_length == 2000
    assert item.positions == (index,)
    assert parsed(item)[index] == (item.keys[0], item.values[0])
    assert item.question.count(item.keys[0]) == 1 and item.values[0] not in item.question


@pytest.mark.parametrize("placement", ["random", "clustered"])
def test_several_needles_are_asked_for_in_an_order_of_their_own(placement):
    orders = set()
    for item in haystacks.repeats(lambda r: haystacks.multiple_needles(r, 40, 6, placement), seed=1, count=20):
        found = dict(parsed(item))
        assert item.values == tuple(found[key] for key in item.keys)
        assert [item.question.index(key) for key in item.keys] == sorted(item.question.index(key) for key in item.keys)
        orders.add(tuple(np.argsort(item.positions)))
        if placement == "clustered":
            assert sorted(item.positions) == list(range(min(item.positions), min(item.positions) + 6))
    assert len(orders) > 10


def test_clusters_begin_anywhere_and_choices_are_uniform():
    assert {int(haystacks.place_needles(rng(seed), 5, 3, "clustered")[0]) for seed in range(40)} == {0, 1, 2}
    counts = np.bincount(
        np.concatenate([haystacks.place_needles(rng(seed), 5, 2, "random") for seed in range(500)]), minlength=5
    )
    assert (abs(counts - 200) < 60).all()


@pytest.mark.parametrize("character", ["*", "&"])
def test_the_marked_keys_and_no_other_text_hold_the_character(character):
    item = haystacks.conditional_needles(rng(), 50, 7, "random", character)
    found = parsed(item)
    marked = [place for place, (key, _) in enumerate(found) if character in key]
    assert item.positions == tuple(marked) and len(marked) == 7
    assert item.values == tuple(found[place][1] for place in marked)
    assert item.haystack.count(character) == 7 and item.context_length == 80 * 50
    assert f'"{character}"' in item.question and item.keys == ()


def test_branches_are_shorter_than_the_thread_and_the_longest_way_is_the_answer():
    for seed in range(20):
        links = haystacks.branched_links(rng(seed), 6, 3)
        assert links == haystacks.branched_links(rng(seed), 6, 3)
        item = haystacks.branched_thread(rng(seed), 80, links, 0, "forward")
        following = {}
        for key, value in parsed(item):
            following.setdefault(key, []).append(value)
        found = sorted(all_ways(following, item.keys[0]), key=len)
        assert item.values == (found[-1][-1],) and len(found[-1]) == 7 == item.thread_length + 1
        assert len(found[-2]) < 7 and len(found) == 1 + 2 * 4
        assert list(item.positions) == sorted(item.positions)
        assert max(map(len, following.values())) == 3


def test_longest_path_against_all_paths():
    links = [(0, 1), (1, 2), (0, 3), (3, 4), (4, 2), (2, 5), (4, 6)]
    assert haystacks.longest_path(links, 0) == [0, 3, 4, 2, 5]
    assert haystacks.longest_path(links, 1) == [1, 2, 5]


def test_same_seed_same_item_and_repeats_differ():
    draw = partial(haystacks.threads, pairs=10, length=3, count=2, direction="random")
    first, second = haystacks.repeats(draw, seed=3, count=2)
    assert haystacks.repeats(draw, seed=3, count=2) == [first, second]
    assert haystacks.repeats(draw, seed=4, count=1)[0].haystack != first.haystack
    assert set(first.keys).isdisjoint(second.keys)
    assert (first.repeat_number, second.repeat_number) == (0, 1)
    assert first.prompt == f"{first.haystack}\n{first.question}"


TASKS = {
    "single": lambda rng: haystacks.single_needle(rng, 30, 40.0),
    "multiple": lambda rng: haystacks.multiple_needles(rng, 30, 5, "clustered"),
    "conditional": lambda rng: haystacks.conditional_needles(rng, 30, 5, "random", "&"),
    "backward": lambda rng: haystacks.threads(rng, 30, 6, 1, "backward"),
    "multi-thread": lambda rng: haystacks.threads(rng, 30, 4, 5, "random"),
    "branched": lambda rng: haystacks.branched_thread(rng, 60, haystacks.branched_links(rng, 5, 3), 0, "random"),
}


@pytest.mark.parametrize("task", TASKS)
def test_the_perfect_solver_scores_one_and_a_blind_one_nothing(task):
    items = haystacks.repeats(TASKS[task], seed=0, count=10)
    assert (evaluate(perfect, items) == 1).all()
    assert (evaluate(window_limited(78), items) == 0).all()  # not one whole pair
    assert (evaluate(lambda prompt: "I do not know.", items) == 0).all()


def test_solvers_without_skill_are_right_by_chance_by_place_or_for_want_of_a_thread():
    many = {name: haystacks.repeats(draw, seed=0, count=200) for name, draw in TASKS.items()}
    assert evaluate(any_value(0), many["multiple"]).mean() == pytest.approx(1 / 30, abs=0.02)
    assert (evaluate(any_value(0), many["single"]) == evaluate(any_value(0), many["single"])).all()
    for depth in (0.0, 100.0):
        item = haystacks.single_needle(rng(), 30, depth)
        assert evaluate(most_recent, [item])[0] == (depth == 100.0)
    right = {name: evaluate(one_link, items).mean() for name, items in many.items()}
    assert right == {name: float(name in ("single", "multiple", "conditional")) for name in TASKS}


@pytest.mark.parametrize("window", [400, 1000, 1610])
def test_a_window_of_w_characters_sees_what_lies_in_it_and_nothing_else(window):
    for item in (haystacks.single_needle(np.random.default_rng(i), 25, 100.0 * i / 24) for i in range(25)):
        inside = 80 * (25 - item.positions[0]) - 1 <= window  # its pair begins so many characters before the end
        assert evaluate(window_limited(window), [item])[0] == inside


@pytest.mark.parametrize("length", [1, 3, 8])
def test_errors_per_hop_multiply(length):
    items = haystacks.repeats(lambda rng: haystacks.threads(rng, 40, length, 5, "random"), seed=0, count=200)
    expected, n = 0.8**length, 5 * 200
    solver = hop_error(0.2, seed=1)
    found = evaluate(solver, items)
    assert abs(found.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / n)
    np.testing.assert_array_equal(found, evaluate(solver, items))
    assert (evaluate(hop_error(0.0, seed=1), items) == 1).all() and (evaluate(hop_error(1.0, seed=1), items) == 0).all()


def test_the_middle_is_not_seen():
    depths = np.linspace(0.0, 100.0, 101)
    items = [haystacks.single_needle(np.random.default_rng(i), 101, float(depth)) for i, depth in enumerate(depths)]
    found = evaluate(middle_blind(0.4), items)
    assert (found[(depths < 29) | (depths > 71)] == 1).all() and (found[(depths > 31) & (depths < 69)] == 0).all()


def item_of(values, keys):
    return haystacks.Item("", "", keys, values, (), 0)


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
    items = haystacks.repeats(TASKS["single"], seed=0, count=3)
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
    falls_and_rises = effective_length(np.array([10.0, 20.0, 30.0, 40.0]), np.array([1.0, 0.8, 0.3, 1.0]), 0.75)
    assert falls_and_rises == pytest.approx(21)


@settings(deadline=None)
@given(arrays(np.float64, (3, 6), elements=st.floats(0, 1)), st.floats(0.05, 1), st.floats(0.05, 1))
def test_effective_length_is_monotone_in_the_level(accuracy, level, other):
    lengths = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    low, high = (contour(lengths, accuracy, value) for value in sorted((level, other)))
    assert (low >= high - 1e-9).all()
    for row, limit in zip(accuracy, low, strict=True):
        assert limit == effective_length(lengths, row, min(level, other))
        assert (row[lengths <= limit - 1e-9] >= min(level, other) - 1e-9).all()
