"""Traces that are billed: all alike in length, without a token of the domain that is held out, and readable once they are open."""

import jax
import numpy as np
import pytest

from experiments.harness.sweep_algebra import override
from experiments.subjects.audited_traces import Billing, Traces
from experiments.subjects.dialogue_models import LEXICON, TINY, DialogueModels
from lexinv.decoding.token_audit import ATTACKS
from lexinv.nn.language_model import initialize

BILLING = Billing(sentences=8, own=(4, 6), blocks=(4, 8), looks=(1, 2))


@pytest.fixture(scope="module")
def traces():
    changes = {name.removeprefix("dialogues."): value for name, value in TINY.items() if name.startswith("dialogues.")}
    config = override(DialogueModels(), changes)
    start = jax.jit(lambda key: initialize(config.large, LEXICON, config.world.vocab, key))
    return Traces(config, BILLING, start(jax.random.key(0)), 0)


def test_length_gives_nothing_away_and_the_domain_that_is_held_out_is_never_seen(traces):
    world = traces.config.world
    held = np.setdiff1d(np.arange(world.vocab), traces.vocabulary(held=False))
    assert len(held) == world.tables
    for attack in ATTACKS:
        sessions = [traces.padded("test", attack, own, 6, 4) for own in BILLING.own]
        for one in sessions:
            assert one.billed.shape == (6, BILLING.tokens) and one.known.shape == sessions[0].known.shape
            if attack != "other_topic":  # with two domains the other one is that which is held out
                assert not np.isin(one.billed, held).any()
    assert not np.isin(traces.honest("test", 6).billed, held).any()
    assert np.isin(traces.honest("test", 6, held=True).billed, held).any(axis=1).all()


def test_opened_blocks_are_some_of_the_trace_and_every_token_of_them_can_be_read(traces):
    sessions = traces.honest("test", 6)
    opened = traces.opened(sessions, 4, "test")
    assert opened.tokens.shape == (6, 4, 4) and opened.fingerprints.dtype == np.int8
    for billed, blocks in zip(sessions.billed.reshape(6, -1, 4).tolist(), opened.tokens.tolist(), strict=True):
        assert all(block in billed for block in blocks)
    np.testing.assert_array_equal(traces.read(opened.fingerprints[0]), opened.tokens[0])
