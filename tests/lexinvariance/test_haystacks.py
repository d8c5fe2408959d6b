"""Haystacks: parsing the text again and chasing its pointers gives every stored answer; places, lengths and refusals."""

import json
import re
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexinv.lexinvariance.haystacks import (
    branched_links,
    branched_thread,
    conditional_needles,
    longest_path,
    multiple_needles,
    place_needles,
    repeats,
    single_needle,
    threads,
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
            threads(rng(seed), pairs, length, count, direction)
        return
    item = threads(rng(seed), pairs, length, count, direction)
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
    steps = np.concatenate([np.diff(threads(rng(seed), 30, 5, 1, "random").positions) for seed in range(20)])
    assert 20 < (steps > 0).sum() < 60


@pytest.mark.parametrize("depth, index", [(0.0, 0), (10.0, 2), (50.0, 12), (90.0, 22), (100.0, 24)])
def test_a_needle_lies_at_its_depth_in_a_haystack_of_2000_characters(depth, index):
    item = single_needle(rng(), 25, depth)
    assert item.context_length == 2000
    assert item.positions == (index,)
    assert parsed(item)[index] == (item.keys[0], item.values[0])
    assert item.question.count(item.keys[0]) == 1 and item.values[0] not in item.question


@pytest.mark.parametrize("placement", ["random", "clustered"])
def test_several_needles_are_asked_for_in_an_order_of_their_own(placement):
    orders = set()
    for item in repeats(lambda r: multiple_needles(r, 40, 6, placement), seed=1, count=20):
        found = dict(parsed(item))
        assert item.values == tuple(found[key] for key in item.keys)
        assert [item.question.index(key) for key in item.keys] == sorted(item.question.index(key) for key in item.keys)
        orders.add(tuple(np.argsort(item.positions)))
        if placement == "clustered":
            assert sorted(item.positions) == list(range(min(item.positions), min(item.positions) + 6))
    assert len(orders) > 10


def test_clusters_begin_anywhere_and_choices_are_uniform():
    assert {int(place_needles(rng(seed), 5, 3, "clustered")[0]) for seed in range(40)} == {0, 1, 2}
    counts = np.bincount(np.concatenate([place_needles(rng(seed), 5, 2, "random") for seed in range(500)]), minlength=5)
    assert (abs(counts - 200) < 60).all()


@pytest.mark.parametrize("character", ["*", "&"])
def test_the_marked_keys_and_no_other_text_hold_the_character(character):
    item = conditional_needles(rng(), 50, 7, "random", character)
    found = parsed(item)
    marked = [place for place, (key, _) in enumerate(found) if character in key]
    assert item.positions == tuple(marked) and len(marked) == 7
    assert item.values == tuple(found[place][1] for place in marked)
    assert item.haystack.count(character) == 7 and item.context_length == 80 * 50
    assert f'"{character}"' in item.question and item.keys == ()


def test_branches_are_shorter_than_the_thread_and_the_longest_way_is_the_answer():
    for seed in range(20):
        links = branched_links(rng(seed), 6, 3)
        assert links == branched_links(rng(seed), 6, 3)
        item = branched_thread(rng(seed), 80, links, 0, "forward")
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
    assert longest_path(links, 0) == [0, 3, 4, 2, 5]
    assert longest_path(links, 1) == [1, 2, 5]


@pytest.mark.parametrize(
    "links, start, allowed",
    [
        ([(0, 1), (1, 2), (2, 0)], 0, "without a cycle"),
        ([(0, 0)], 0, "without a cycle"),
        ([(0, 1), (2, 3), (3, 2)], 0, "without a cycle"),
        ([(0, 1), (0, 2)], 0, "one longest way"),
        ([(0, 1), (0, 1)], 0, "each once"),
        ([(0, 1)], 1, "the key of a link"),
        ([], 0, "at least one"),
    ],
)
def test_graphs_without_an_answer_are_refused(links, start, allowed):
    with pytest.raises(InvalidConfig, match=allowed):
        branched_thread(rng(), 10, links, start, "random")


def test_same_seed_same_item_and_repeats_differ():
    draw = partial(threads, pairs=10, length=3, count=2, direction="random")
    first, second = repeats(draw, seed=3, count=2)
    assert repeats(draw, seed=3, count=2) == [first, second]
    assert repeats(draw, seed=4, count=1)[0].haystack != first.haystack
    assert set(first.keys).isdisjoint(second.keys)
    assert (first.repeat_number, second.repeat_number) == (0, 1)
    assert first.prompt == f"{first.haystack}\n{first.question}"


@pytest.mark.parametrize(
    "draw, field",
    [
        (lambda: threads(rng(), 10, 11, 1, "forward"), "length"),
        (lambda: threads(rng(), 10, 4, 3, "forward"), "length"),
        (lambda: threads(rng(), 10, 0, 1, "forward"), "length"),
        (lambda: threads(rng(), 10, 1, 0, "forward"), "count"),
        (lambda: threads(rng(), 10, 1, 1, "sideways"), "direction"),
        (lambda: single_needle(rng(), 10, 101.0), "depth"),
        (lambda: single_needle(rng(), 0, 0.0), "pairs"),
        (lambda: multiple_needles(rng(), 10, 11, "random"), "needles"),
        (lambda: multiple_needles(rng(), 10, 2, "sparse"), "placement"),
        (lambda: conditional_needles(rng(), 10, 2, "random", "a"), "character"),
        (lambda: branched_thread(rng(), 1, [(0, 1), (1, 2)], 0, "random"), "links"),
        (lambda: branched_links(rng(), 0, 2), "length"),
        (lambda: branched_links(rng(), 2, 0), "branches"),
    ],
)
def test_impossible_tasks_are_refused(draw, field):
    with pytest.raises(InvalidConfig) as error:
        draw()
    assert error.value.field == field
