"""Dialogues of a world so small that all of its texts can be written down, by another program than the one that draws them."""

from dataclasses import replace
from itertools import pairwise, product
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from lexinv.data.automata import allowed
from lexinv.data.dialogue_law import author_log_probs, next_probs, predictive
from lexinv.data.dialogues import DialogueConfig, draw_texts, draw_windows, grammar, judge, make_world, mistaught
from lexinv.validation import InvalidConfig

TINY = DialogueConfig(values=2, domains=2, tables=2, steps=1, words=2, authors=2, openings=2, closings=1, stops=2)
WORLD = make_world(TINY)
log_probs_of, probs_of, predicted, judged = (jax.jit(f) for f in (author_log_probs, next_probs, predictive, judge))
automaton = jax.jit(grammar, static_argnames="right")
FIRST = TINY.first


def all_texts(world, author):
    """{text: probability} of every text by this author."""
    found, law = {}, SimpleNamespace(**vars(world))
    for name in ("results", "initial", "chain", "opening", "stop", "domain"):
        setattr(law, name, np.asarray(getattr(world, name), np.float64))
    for start, operation, opening, stop, result in product(range(2), range(4), range(2), range(2), range(2)):
        p = 0.5 / 2 * law.domain[operation // 2] / 2 * law.opening[author, opening] * law.stop[author, stop]
        p *= law.results[operation, start, result]
        problem, sentence = [start, operation + 2], [6 + opening, start, operation + 2, FIRST["equals"], result, 8]
        found[(*problem, *sentence, 9 + stop, FIRST["answer"], result, TINY.end)] = p
    for words in product(range(2), repeat=TINY.said):
        p = 0.5 * law.initial[author, words[0]]
        for before, after in pairwise(words):
            p *= law.chain[author, before, after]
        found[(FIRST["talk"], *(FIRST["word"] + word for word in words), TINY.end)] = p
    return {text: p for text, p in found.items() if p > 0}


@pytest.fixture(scope="module", params=["world", "mistaught"])
def enumerated(request):
    """(a world, its texts, their probabilities [authors, texts])."""
    world = WORLD if request.param == "world" else mistaught(WORLD)
    laws = [all_texts(world, author) for author in range(2)]
    texts = list(laws[0])
    return world, np.array(texts), np.array([[law[text] for text in texts] for law in laws])


def test_the_law_of_an_author_is_the_sum_over_all_texts(enumerated):
    world, texts, probs = enumerated
    np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=1e-5)
    nats = log_probs_of(world, jnp.asarray(texts, jnp.int32)).sum(axis=1)
    np.testing.assert_allclose(nats.T, np.log(probs), atol=1e-4)
    np.testing.assert_allclose(probs_of(world, jnp.asarray(texts[:3], jnp.int32)).sum(axis=-1), 1, rtol=1e-5)


def test_the_predictive_law_is_that_of_all_windows(enumerated):
    """p(token | before) of a second text by brute force over authors and over all texts that begin alike."""
    world, texts, probs = enumerated
    prior = np.asarray(world.author)
    rng = np.random.default_rng(0)
    for first, second in rng.integers(0, len(texts), (5, 2)):
        window = np.concatenate([texts[first], texts[second]])
        found = np.asarray(predicted(world, jnp.asarray(window[None], jnp.int32))[0, TINY.length :])
        for place in range(TINY.length):
            alike = np.all(texts[:, :place] == texts[second, :place], axis=1)
            joint = prior @ (probs[:, first, None] * probs * alike)
            expected = np.bincount(texts[:, place], joint, TINY.vocab)
            np.testing.assert_allclose(found[place], expected / expected.sum(), atol=1e-5)


def test_texts_are_drawn_by_their_law(enumerated):
    world, texts, probs = enumerated
    n = 20_000
    drawn = jax.jit(lambda key: draw_texts(key, world, jnp.ones(n, jnp.int32)))(jax.random.key(0))
    places = {tuple(text): place for place, text in enumerate(texts.tolist())}
    counts = np.bincount([places[tuple(text)] for text in drawn.tolist()], minlength=len(texts))
    likely = probs[1] * n > 5
    observed, expected = (np.array([*x[likely], x[~likely].sum()], np.float64) for x in (counts, probs[1] * n))
    assert chisquare(observed, expected * n / expected.sum()).pvalue > 1e-3


def test_the_checker_and_the_grammar_know_what_is_right():
    """Over all texts that a text becomes by changing one token: the grammar accepts exactly those that the checker finds right."""
    world = make_world(replace(TINY, steps=2, seed=1))
    config = world.config
    text = draw_texts(jax.random.key(3), replace(world, talk=jnp.zeros(())), jnp.zeros(1, jnp.int32))[0]
    others = np.repeat(np.asarray(text)[None], config.length * config.vocab, axis=0)
    changed = np.repeat(np.arange(config.prompt, config.length), config.vocab)
    others = others[: len(changed)]
    others[np.arange(len(changed)), changed] = np.arange(len(changed)) % config.vocab
    found = judged(world, jnp.asarray(others))
    right = np.asarray(found.formed & found.right.all(axis=1) & found.answered)
    for exact, expected in ((True, right), (False, None)):
        acceptor = automaton(world, text[: config.prompt], right=exact)
        may = np.asarray(allowed(acceptor))
        states = np.arange(config.length - config.prompt)
        accepted = may[states[None], others[:, config.prompt :]].all(axis=1)
        if expected is None:  # any value, but the operation of the problem
            same = others[:, config.prompt + 2 :: 7][:, :2] == np.asarray(text)[None, 1:3]
            expected = np.asarray(found.formed) & same.all(axis=1)
        np.testing.assert_array_equal(accepted, expected)
    assert 0 < right.sum() < len(right)


def test_windows_are_by_one_author_of_those_that_are_taught():
    tokens, authors = draw_windows(jax.random.key(0), mistaught(WORLD), 64)
    assert tokens.shape == (64, 2 * TINY.length)
    assert set(authors.tolist()) == {0}
    wrong = mistaught(WORLD).results
    np.testing.assert_array_equal(wrong[1::2], 0.5)
    assert float((wrong[::2] * WORLD.results[::2]).sum()) == 0


def test_refusals():
    with pytest.raises(InvalidConfig, match="tables"):
        DialogueConfig(tables=1)
