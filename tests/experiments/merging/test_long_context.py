"""Claims C1 and C2 on made-up accuracies; questions, and reading at any positions."""

import copy
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness.style import panels
from experiments.merging.long_context import (
    ARMS as PANEL,
)
from experiments.merging.long_context import (
    CHUNK,
    DEPTHS,
    QUERIES,
    LongContextConfig,
    ask_all,
    draw,
    draw_question,
    draw_text,
    judge,
    read,
    unevenness,
)
from lexinv.nn.language_model import BOS, initialize, make_logits
from lexinv.nn.lexicon import LexiconConfig
from lexinv.validation import InvalidConfig

SMALL = LongContextConfig(length=32, factors=(1, 4), keys=64, values=4, items=CHUNK, batch_size=2, steps=20, width=16)
ARMS = (
    "full",
    "interpolated",
    *(f"{name}{kept}" for kept in ("", ", kept") for name in ("oracle", "similarity", "attention", "random")),
)
SPREAD = 0.01 * np.arange(3)[:, None]


def level(value: float, slope: float = 0.0) -> list:
    """Accuracy [seeds, depths]."""
    return (value + SPREAD + slope * np.linspace(-1, 1, DEPTHS)).tolist()


def made_up() -> dict:
    values = {
        "full": level(0.5, 0.3),
        "interpolated": level(0.55, 0.3),
        "random": level(0.2),
        "random, kept": level(0.2),
    }
    long = {arm: values.get(arm, level(0.9)) for arm in ARMS}
    return {
        "chance": 0.25,
        "length": 64,
        "items": 400,
        "accuracy": {"1": dict.fromkeys(ARMS, level(0.9)), "4": long, "8": copy.deepcopy(long)},
    }


def verdicts(measured: dict) -> dict:
    return {claim.name: claim.holds for claim in judge(measured)}


def test_all_claims_hold_on_accuracies_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True} and len(verdicts(made_up())) == 4


@pytest.mark.parametrize(
    "factor, arm, value, refuted",
    [
        (
            "4",
            "full",
            level(0.95),
            {"selection_keeps_long_context", "own_attention_selects", "selection_beyond_positions"},
        ),
        ("8", "similarity", level(0.2, 0.2), {"selection_keeps_long_context", "selection_flattens_depth"}),
        ("4", "attention", level(0.3), {"own_attention_selects"}),
        ("4", "interpolated", level(0.95), {"selection_beyond_positions"}),
        ("8", "similarity, kept", level(0.5), {"selection_beyond_positions"}),
        ("8", "random, kept", level(0.95), {"selection_beyond_positions"}),
        (
            "8",
            "random",
            level(0.95),
            {"selection_keeps_long_context", "own_attention_selects", "selection_flattens_depth"},
        ),
        ("8", "full", level(0.5), {"selection_flattens_depth"}),
        ("1", "full", level(0.1), set()),
    ],
)
def test_one_arm_is_enough_to_refute(factor, arm, value, refuted):
    measured = made_up()
    measured["accuracy"][factor][arm] = value
    assert {name for name, holds in verdicts(measured).items() if holds is False} == refuted


def test_one_seed_cannot_tell():
    measured = made_up()
    measured["accuracy"] = {f: {arm: rows[:1] for arm, rows in by.items()} for f, by in measured["accuracy"].items()}
    assert set(verdicts(measured).values()) == {None}


def test_sampling_alone_is_no_unevenness():
    rng = np.random.default_rng(0)
    drawn = rng.binomial(80, 0.5, size=(400, DEPTHS)) / 80
    measured = {"accuracy": {"8": {"full": drawn.tolist()}}, "items": 400}
    assert np.mean(np.square(unevenness(measured, 8, "full"))) < drawn.var(1, ddof=1).mean() * 0.6
    measured["accuracy"]["8"]["full"] = level(0.5, 0.4)
    np.testing.assert_allclose(unevenness(measured, 8, "full"), np.linspace(-0.4, 0.4, DEPTHS).std(ddof=1), rtol=0.05)


def test_draws_one_panel():
    _, (axes,) = panels()
    draw(made_up(), axes)
    assert len(axes.lines) == len(PANEL) + 1  # and chance


def test_the_answer_is_unique_and_stands_where_it_should():
    ask = jax.jit(jax.vmap(partial(draw_question, config=SMALL, count=30)))
    questions = ask(jax.random.split(jax.random.key(0), 50), depth=(jnp.arange(50.0) + 0.5) / 50)
    keys, values = np.asarray(questions.pairs[..., 0]), np.asarray(questions.pairs[..., 1])
    assert all(len(set(row)) == 30 for row in keys.tolist())
    assert keys.max() < SMALL.keys <= values.min() and values.max() < SMALL.vocab
    assert questions.needle.tolist() == [int((i + 0.5) / 50 * 30) for i in range(50)]
    assert np.unique(values).size == SMALL.values  # every answer comes, so that chance is 1 / values


def test_a_training_text_asks_what_it_has_told():
    text = np.asarray(jax.jit(partial(draw_text, config=SMALL))(jax.random.key(1))).reshape(-1, 2)
    told, asked = text[:-QUERIES], text[-QUERIES:]
    assert len({*map(tuple, asked.tolist())}) == QUERIES
    assert {*map(tuple, asked.tolist())} <= {*map(tuple, told.tolist())}


def test_reading_at_plain_positions_is_the_language_model_and_shifted_ones_change_nothing():
    model = SMALL.model()
    params = initialize(model, LexiconConfig(), SMALL.vocab, jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (2, 9), 0, SMALL.vocab)
    places = jnp.broadcast_to(jnp.arange(10.0)[None], (2, 10))
    seen = jnp.concatenate([jnp.full((2, 1), BOS), tokens], axis=1)
    reading = jax.jit(partial(read, model))
    found, attention = reading(params, seen, places)
    longer = jnp.concatenate([tokens, tokens[:, :1]], axis=1)
    logits = jax.jit(make_logits(model, LexiconConfig(), SMALL.vocab))
    wanted = logits(params, {"tokens": longer, "row": jnp.arange(2)}, jax.random.key(0))
    np.testing.assert_allclose(found, wanted[:, -1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jnp.sum(attention, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(reading(params, seen, places + 7)[0], found, rtol=1e-3, atol=1e-4)
    assert np.abs(reading(params, seen, 3 * places)[0] - found).max() > 1e-2


def test_at_the_trained_length_every_selection_keeps_all():
    params = initialize(SMALL.model(), LexiconConfig(), SMALL.vocab, jax.random.key(0))
    found = jax.jit(partial(ask_all, SMALL, SMALL.length // 2 - 1))(params, jax.random.key(2))
    assert set(found) == set(ARMS)
    for arm in ARMS:
        np.testing.assert_allclose(found[arm], found["full"])


@pytest.mark.parametrize(
    "change, field",
    [
        ({"length": 33}, "long_context.length"),
        ({"length": 2 * QUERIES}, "long_context.length"),
        ({"factors": (1, 2)}, "long_context.factors"),
        ({"factors": (2, 4)}, "long_context.factors"),
        ({"keys": 63}, "long_context.keys"),
        ({"values": 1}, "long_context.values"),
        ({"items": CHUNK + 1}, "long_context.items"),
        ({"steps": 10}, "long_context.steps"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        replace(SMALL, **change)
    assert error.value.field == field
