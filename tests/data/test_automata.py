"""Automata against the languages that they are made of."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexinv.data.automata import kgram_automaton, markov_automaton, read_text, states_before
from lexinv.data.kgram import fit_kgram, probabilities
from lexinv.data.markov_first_order import MarkovSource, predictions
from lexinv.validation import InvalidConfig

STRENGTHS = (0.5, 2.0, 1.0, 4.0)


def walk(automaton, text):
    states = [0]
    for symbol in text:
        states.append(int(automaton.next_state[states[-1], symbol]))
    return states[:-1]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.lists(st.integers(0, 2), min_size=9, max_size=9))
def test_an_automaton_of_kgrams_is_their_law(train, text):
    model = fit_kgram(np.array(train), 3, 3)
    automaton = kgram_automaton(model, STRENGTHS)
    expected = np.log(probabilities(model, np.array(text), STRENGTHS)[-1])
    np.testing.assert_allclose(read_text(automaton, jnp.asarray(text)), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(states_before(automaton, jnp.asarray(text)), walk(automaton, text))


def test_rare_contexts_are_backed_off_from():
    train = np.random.default_rng(0).choice(4, p=[0.6, 0.3, 0.08, 0.02], size=300)
    model = fit_kgram(train, 2, 4)
    whole, small = kgram_automaton(model, STRENGTHS[:3]), kgram_automaton(model, STRENGTHS[:3], least=20)
    assert len(small.log_probs) < len(whole.log_probs)
    np.testing.assert_allclose(jnp.exp(small.log_probs).sum(axis=1), 1.0, rtol=1e-5)
    text = jnp.asarray(train[:60])
    np.testing.assert_array_equal(states_before(small, text), walk(small, train[:60]))
    known = [int(each.next_state[each.next_state[0, 0], 0]) for each in (whole, small)]  # after 0 0, which is common
    np.testing.assert_allclose(whole.log_probs[known[0]], small.log_probs[known[1]], rtol=1e-5)
    assert int(small.next_state[small.next_state[0, 0], 3]) == 0  # 3 is rare


def test_a_markov_source_is_an_automaton():
    rng = np.random.default_rng(0)
    source = MarkovSource(
        jnp.log(jnp.asarray(rng.dirichlet(np.ones(5), 5))), jnp.log(jnp.asarray(rng.dirichlet(np.ones(5))))
    )
    text = jnp.asarray(rng.integers(0, 5, 30))
    expected = jnp.take_along_axis(predictions(source, text), text[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(read_text(markov_automaton(source), text), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "strengths, least, field", [((1.0,), 1, "strengths"), ((1.0, 0.0), 1, "strengths"), ((1.0, 1.0), 0, "least")]
)
def test_refusals(strengths, least, field):
    with pytest.raises(InvalidConfig, match=field):
        kgram_automaton(fit_kgram(np.array([0, 1]), 1, 2), strengths, least)
