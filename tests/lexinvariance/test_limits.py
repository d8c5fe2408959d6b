"""What is refused before anything is compiled, by the field that the message names."""

import re
from functools import partial
from string import ascii_lowercase

import jax
import numpy as np
import pytest

from lexinv.lexinvariance import haystacks
from lexinv.lexinvariance.bayes import all_keys
from lexinv.lexinvariance.cipher import encipher
from lexinv.lexinvariance.forgetting import Forgetting
from lexinv.lexinvariance.haystack_scores import effective_length
from lexinv.lexinvariance.haystack_solvers import hop_error, middle_blind, window_limited
from lexinv.lexinvariance.invariance import Moments, finite_class_violation, invariant_subset
from lexinv.lexinvariance.part_of_speech import PosTask, slots
from lexinv.lexinvariance.probes import ProbeConfig
from lexinv.lexinvariance.structural_equations import check_sites, make_sem, random_sem
from lexinv.lexinvariance.symbol_tasks import symbol_task
from lexinv.lexinvariance.threads import Limits, draw_setting, setting
from lexinv.validation import InvalidConfig

KEY, RNG = jax.random.key(0), np.random.default_rng(0)
HIDDEN = np.array([0], np.int32)
WIDE = Moments(np.ones((2, 17, 17)), np.ones((2, 17)), np.ones(2))
POS = partial(PosTask, vocab=40, holdout=8, bins=5, head=3)
LIMITS = Limits(symbols=40, pairs=16, threads=4, length=4)
SYMBOLS = {"name": "reverse", "symbols": ascii_lowercase, "length": 4, "demonstrations": 4, "count": 8}


def symbols(**change):
    asked = SYMBOLS | change
    return symbol_task(asked.pop("name"), RNG, asked.pop("symbols"), **asked)


REFUSED = [
    ("vocab", all_keys, 9),
    ("key", lambda key: encipher(HIDDEN, np.array(key, np.int32)), [0, 0, 1], [1, 2, 3], [0, -1, 1]),
    ("lengths", lambda lengths: effective_length(np.array(lengths), np.ones(2), 0.5), [2.0, 1.0], [0.0, 1.0]),
    ("level", lambda level: effective_length(np.array([1.0, 2.0]), np.ones(2), level), 0.0),
    ("window", window_limited, 0),
    ("error", lambda error: hop_error(error, 0), 1.5),
    ("share", middle_blind, 0.0),
    ("length", lambda length: haystacks.threads(RNG, 10, length, 3, "forward"), 11, 4, 0),
    ("count", lambda count: haystacks.threads(RNG, 10, 1, count, "forward"), 0),
    ("direction", lambda direction: haystacks.threads(RNG, 10, 1, 1, direction), "sideways"),
    ("depth", lambda depth: haystacks.single_needle(RNG, 10, depth), 101.0),
    ("pairs", lambda pairs: haystacks.single_needle(RNG, pairs, 0.0), 0),
    ("needles", lambda needles: haystacks.multiple_needles(RNG, 10, needles, "random"), 11),
    ("placement", lambda placement: haystacks.multiple_needles(RNG, 10, 2, placement), "sparse"),
    ("character", lambda character: haystacks.conditional_needles(RNG, 10, 2, "random", character), "a"),
    ("links", lambda links: haystacks.branched_thread(RNG, 1, links, 0, "random"), [(0, 1), (1, 2)]),
    ("length", lambda length: haystacks.branched_links(RNG, length, 2), 0),
    ("branches", lambda branches: haystacks.branched_links(RNG, 2, branches), 0),
    ("covariates", lambda moments: invariant_subset(moments, 1e-8), WIDE),
    ("delta", lambda delta: finite_class_violation(4, 10, delta), 0.0),
    ("predictors", lambda predictors: finite_class_violation(predictors, 10, 0.05), 0),
    ("environments", lambda environments: finite_class_violation(4, environments, 0.05), 0),
    ("forgetting.period", lambda period: Forgetting(period), -1),
    ("forgetting.until", lambda until: Forgetting(until=until), -1),
    ("forgetting.p_random", lambda p: Forgetting(p_random=p), 1.5),
    ("forgetting.fresh", lambda fresh: Forgetting(5, fresh=fresh), True),
    ("task.vocab", lambda vocab: POS(vocab=vocab), 7),
    ("task.holdout", lambda holdout: POS(holdout=holdout), 3),
    ("task.alpha", lambda alpha: POS(alpha=alpha), -1.0),
    ("task.ambiguity", lambda ambiguity: POS(ambiguity=ambiguity), 1.0, 0.9),
    ("task.bins", lambda bins: POS(bins=bins), 3),
    ("task.head", lambda head: POS(head=head), 0),
    ("kind", lambda kind: slots(POS(), kind), "heads"),
    ("probe.hidden", lambda hidden: ProbeConfig(hidden=hidden), -1),
    ("probe.steps", lambda steps: ProbeConfig(steps=steps), 0),
    ("probe.learning_rate", lambda rate: ProbeConfig(learning_rate=rate), 0.0),
    (
        "weights",
        lambda weights: make_sem(np.array(weights), np.ones(2)),
        [[0.0] * 3] * 2,
        [[0, 1.0], [1, 0]],
        [[0.5, 0], [0, 0]],
    ),
    ("noise_variance", lambda variance: make_sem(np.zeros((2, 2)), np.array(variance)), [1.0, 0.0]),
    ("noise_mean", lambda mean: make_sem(np.zeros((2, 2)), np.ones(2), np.array(mean)), [0.0] * 3),
    ("sites", lambda target: check_sites(np.array([True, False]), target), 0),
    ("target", lambda target: random_sem(KEY, 5, 2, target), 4),
    ("family", lambda name: symbols(name=name), "revers"),
    ("symbols", lambda letters: symbols(symbols=letters), "aabcdefghijklmnopqrstuvw", "abcdefghijklmnopqrstuvw,"),
    ("length", lambda length: symbols(length=length), 2),
    ("demonstrations", lambda count: symbols(demonstrations=count), 2),
    ("count", lambda count: symbols(count=count), 0),
    ("limits.pairs", lambda pairs: Limits(symbols=47, pairs=pairs), 24),
    ("limits.length", lambda length: Limits(pairs=3, length=length), 4),
    ("limits.threads", lambda count: Limits(threads=count), 0),
    ("pairs", lambda pairs: setting(LIMITS, pairs=pairs), 17),
    ("threads", lambda count: setting(LIMITS, pairs=8, threads=count), 5),
    ("length", lambda length: setting(LIMITS, pairs=8, threads=3, length=length), 5, 3),
    ("direction", lambda direction: setting(LIMITS, pairs=8, direction=direction), "up"),
    ("fewest_pairs", lambda pairs: draw_setting(KEY, LIMITS, pairs), 3, 17),
]
"""Each with the field that the message names, a call, and values that it has to refuse."""


@pytest.mark.parametrize(
    "field, call, value", [(field, call, bad) for field, call, *all_bad in REFUSED for bad in all_bad]
)
def test_what_cannot_be_is_refused_by_name(field, call, value):
    with pytest.raises(InvalidConfig, match=f"^{re.escape(field)} = "):
        call(value)


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
        haystacks.branched_thread(RNG, 10, links, start, "random")
