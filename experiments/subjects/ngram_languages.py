"""The languages that a lexinvariant model is constructed from: backed-off n-gram models of a text's train split."""

from dataclasses import dataclass

import numpy as np

from experiments.subjects.text import Text
from lexinv.data.automata import Automaton, kgram_automaton
from lexinv.data.kgram import fit_kgram, tune_strengths
from lexinv.validation import Checked, Count, CountOrZero


@dataclass(frozen=True)
class LanguageConfig(Checked):
    """order: symbols that it looks back. least: how often a context has to occur to have probabilities of its own."""

    order: CountOrZero = 4
    least: Count = 8


def fit_language(text: Text, config: LanguageConfig) -> Automaton:
    """Fitted to the train split but for its last twentieth, on which the strengths are chosen."""
    tokens = np.asarray(text.train.tokens)
    kept = len(tokens) - len(tokens) // 20
    model = fit_kgram(tokens[:kept], config.order, text.vocab)
    return kgram_automaton(model, tune_strengths(model, tokens[kept:]), config.least)
