"""What is no text of a source."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.data import markov_first_order as markov
from lexinv.data.automata import markov_automaton
from lexinv.lexinvariance.bayes import bayes_decipher
from lexinv.lexinvariance.cipher import encipher, score_key, vote_shares
from lexinv.lexinvariance.counters import Counter, counter_nll, in_context_ngram, tune_counter
from lexinv.lexinvariance.metropolis import metropolis_decipher
from lexinv.lexinvariance.particles import filter_keys
from lexinv.validation import InvalidConfig

SOURCE = markov.MarkovSource(jnp.full((3, 3), -jnp.log(3.0)), jnp.full(3, -jnp.log(3.0)))
COUNTER = Counter(jnp.zeros(1), jnp.ones(1), jnp.ones(1))


TEXTS = {
    "bayes_decipher": lambda text: bayes_decipher(SOURCE, jnp.asarray(text)),
    "metropolis_decipher": lambda text: metropolis_decipher(jax.random.key(0), SOURCE, jnp.asarray(text)),
    "filter_keys": lambda text: filter_keys(jax.random.key(0), markov_automaton(SOURCE), text[None]),
    "predictions": lambda text: markov.predictions(SOURCE, jnp.asarray(text)),
    "estimate_source": lambda text: markov.estimate_source(text, 3),
    "encipher": lambda text: encipher(text[None], np.arange(3)[None]),
    "vote_shares": lambda text: vote_shares(np.zeros((len(text), 3)), text),
    "score_key": lambda text: score_key(np.arange(3), np.arange(3), text),
}
COUNTERS = {
    "in_context_ngram": lambda text: in_context_ngram(jnp.asarray(text), 3, COUNTER),
    "counter_nll": lambda text: counter_nll(text[None], 3, COUNTER),
    "tune_counter": lambda text: tune_counter(text[None], 3, 0),
}


@pytest.mark.parametrize("name", [*TEXTS, *COUNTERS])
def test_other_symbols_and_empty_texts_give_no_number(name):
    bad = {"= 3 .*0 to 2": [0, 1, 3], "at least one symbol": []}
    if name in TEXTS:  # to counters a negative number is padding
        bad["= -1 .*0 to 2"] = [0, -1]
    for message, text in bad.items():
        with pytest.raises(InvalidConfig, match=message):
            (TEXTS | COUNTERS)[name](np.array(text, np.int32))
