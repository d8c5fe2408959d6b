"""What a pretrained model is asked of haystacks, and how its answers are counted."""

from functools import partial
from string import ascii_letters

import numpy as np
import pytest

from experiments.harness.workspace import Workspace
from experiments.subjects import haystack_readers
from experiments.subjects.haystack_readers import Question, Reader, ReaderConfig, beside, measure, question, read, tasks
from lexinv.lexinvariance import haystacks
from lexinv.validation import InvalidConfig

CONFIG = ReaderConfig(pairs=(5, 8), items=(2, 1), links=(2, 3), baselines=100)


def drawn(task, pairs=8):
    return tasks(CONFIG)[task](np.random.default_rng(0), pairs)


@pytest.mark.parametrize("task", tasks(CONFIG))
def test_the_answer_holds_the_values_and_where_no_key_is_named_the_keys(task):
    item = drawn(task)
    asked = question(item)
    assert asked.text.startswith(item.prompt)
    parts = [asked.text[start:stop] for start, stop in asked.spans]
    assert [part[-36:] for part in parts] == list(item.values)
    begun = [asked.text[start - 40 : start] for start, _ in asked.spans]
    if item.keys:
        assert parts == list(item.values) and [text[:36] for text in begun] == list(item.keys)
    else:
        assert all(part[36:40] == '": "' and "*" in part[:36] and part[:36] in item.haystack for part in parts)


def test_beside_a_key_stands_the_first_link():
    item = drawn("3 links backward")
    first, second = beside(item)[0], question(item, beside(item))
    assert f'"{item.keys[0]}": "{first}"' in item.haystack and f'"{first}": "' in item.haystack
    assert second.text.endswith(first) or f'"{first}"' in second.text[len(item.prompt) :]
    assert beside(drawn("one needle at 50 %")) == list(drawn("one needle at 50 %").values)


def test_a_part_is_found_where_all_its_tokens_are_the_likeliest(world):
    text = "the key: abc"
    ids = world.tokenizer.encode(text)
    logits = np.asarray(world.logits(ids[None]), np.float64)[0]
    best, nats = logits.argmax(-1), np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(ids)), ids]
    # `the` is one token, so that character c is token c - 2.
    spans = [(0, 3), (4, 7), (9, 12)]
    places = [slice(0, 1), slice(2, 5), slice(7, 10)]
    asked = [Question(text, tuple(spans))]
    [parts], padded = read(world, asked, asked)
    assert padded == world.model.config.max_length
    for part, place in zip(parts, places, strict=True):
        assert part.found == (best[place] == ids[place]).all()
        assert part.nats == pytest.approx(nats[place].sum(), rel=1e-4)
    # What greedy decoding says after a letter is found, and no other letter.
    after = np.asarray(world.logits(np.array([world.tokenizer.encode(f"{a}.") for a in ascii_letters])))[:, 1].argmax(
        -1
    )
    said = {a: world.tokenizer.decode([int(one)]) for a, one in zip(ascii_letters, after, strict=True)}
    first, then = next((a, b) for a, b in said.items() if len(b) == 1 and b.isascii() and b.isprintable())
    asked = [Question(first + letter, ((1, 2),)) for letter in (then, "~" if then != "~" else "%")]
    readings, _ = read(world, asked, asked)
    assert [part.found for [part] in readings] == [True, False]
    with pytest.raises(InvalidConfig, match="at most the model's 16"):
        read(world, asked, [Question("x" * 17, ((0, 1),))])


def test_answers_are_counted_by_task_and_size(world, monkeypatch, tmp_path):
    """Of a reader that finds every value but those of marked keys, and never says another one."""

    def answers(world, asked, alike):
        told = [[one in right and '"*"' not in one.text] * len(one.spans) for one in asked]
        return [[haystack_readers.Reading(found, 1.5) for found in each] for each in told], 64

    sizes = list(zip(CONFIG.pairs, CONFIG.items, strict=True))
    draws = [(partial(make, pairs=pairs), pairs, count) for make in tasks(CONFIG).values() for pairs, count in sizes]
    right = {question(item) for draw in draws for item in haystacks.repeats(*draw)}
    workspace = Workspace(tmp_path, "hash", False)
    monkeypatch.setattr(haystack_readers, "read", answers)
    reader = Reader([measure(CONFIG, world, number, workspace) for number in range(2)], window=1280.0)
    assert reader.characters == [400, 640]
    one, marked = reader.share("one needle"), reader.share("marked")
    assert (one.mean, one.n) == (1.0, 5 * 3) and (marked.mean, marked.n) == (0.0, 2 * 3 * 3)
    assert reader.share("2 links", what="copied").mean == 0.0 and reader.share("2 threads", 1).n == 2
    assert reader.more("one needle", "marked").mean == 1.0
    assert reader.effective("one needle", 0.75).mean == 0.5 and reader.effective("marked", 0.75).mean == 0.0
    baselines = reader.sizes[0]["baselines"]
    assert baselines["the last value"]["one needle at 100 %"] == baselines["the value beside"]["needles"] == 1.0
    assert baselines["any value"]["one needle at 50 %"] == pytest.approx(1 / 5, abs=0.12)
    assert baselines["the value beside"]["3 links forward"] == 0.0
    # For want of a place where it is known, the last value is one of five needles.
    depths = [f"one needle at {depth:g} %" for depth in CONFIG.depths]
    last, guessed = (np.mean([baselines[name][at] for at in depths]) for name in ("the last value", "any value"))
    assert last == pytest.approx(0.2) and reader.baseline("one needle", 0) == pytest.approx(max(last, guessed))
    by_size = [reader.baseline("needles", size) for size in range(2)]
    assert reader.baseline("needles") == pytest.approx((2 * by_size[0] + by_size[1]) / 3)
