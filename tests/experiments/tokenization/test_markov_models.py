"""Texts with exact floors, losses per character, and populations whose members are runs of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness.workspace import Workspace
from experiments.subjects.markov_models import (
    LEXICON,
    MODEL,
    PopulationConfig,
    as_characters,
    as_tokens,
    by_rate,
    characters_of,
    draw,
    evaluator,
    sized,
    train_population,
)
from experiments.subjects.markov_sources import SourceConfig
from lexinv.nn.language_model import initialize
from lexinv.tokenization.tokenizers import train_bpe
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.streams import stream

SOURCE = SourceConfig(2, 0.8, 0.7)
TINY = sized(MODEL, 4, 16)
TRAINING = PopulationConfig(
    4, 2, (0, 1), (1e-3, 1e-2), OptimizerConfig("adamw", 1.0, 1, b2=0.95), evaluate_every=2, held_out=256
)


def test_source_attains_the_floor_of_windows_of_characters():
    """The generator does not leak, and the floor is that of windows that begin knowing nothing."""
    symbols = draw(SOURCE, "held-out", 400_000)
    text = as_characters(SOURCE, symbols[:64], symbols, 16)
    rate, single = SOURCE.entropies.values()
    assert text.floor == pytest.approx(rate + 2 * (single - rate) / 16)
    error = text.source_nll.std() / np.sqrt(len(text.source_nll)) / 16
    assert text.source_nll.sum() / text.characters.sum() == pytest.approx(text.floor, abs=4 * error)


def test_source_attains_the_entropy_rate_on_tokens():
    symbols = draw(SOURCE, "held-out", 400_000)
    tokenizer = train_bpe("".join(map(str, draw(SOURCE, "tokenizer", 20_000))), 16, "01")
    text = as_tokens(SOURCE, tokenizer, symbols[:1000], symbols, 16).text
    error = text.source_nll.std() / np.sqrt(len(text.source_nll)) / text.characters.mean()
    assert text.source_nll.sum() / text.characters.sum() == pytest.approx(
        SOURCE.entropies["entropy_rate"], abs=4 * error
    )


def test_loss_of_a_uniform_model_is_log_vocabulary_over_the_mean_length():
    symbols = draw(SOURCE, "held-out", 4000)
    tokenizer = train_bpe("".join(map(str, symbols)), 8, "01")
    text = as_tokens(SOURCE, tokenizer, symbols, symbols, 16).text
    params = jax.tree.map(lambda leaf: leaf[None], initialize(TINY, LEXICON, 8, jax.random.key(0)))
    params["model"]["logit_scale"] = jnp.zeros(1)
    counted = text.held_out[:, 1:]
    expected = counted.size * np.log(8) / np.asarray(tokenizer.lengths)[counted].sum()
    found = evaluator(TINY, text)(params)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-6)
    own = text.source_nll.sum() / text.characters.sum()
    np.testing.assert_allclose(found["excess"], expected - own, rtol=1e-5)


@pytest.mark.long
def test_members_are_seeds_at_learning_rates(tmp_path):
    """Rate by rate: the members of a seed begin alike, those of a rate do not; and a complete run is read, not trained again."""
    text = characters_of(SOURCE, 16, TRAINING)
    workspace = Workspace(tmp_path, "0", progress=False)
    params, curves = train_population("arm", TINY, text, TRAINING, workspace)
    assert curves["steps"] == [0, 2, 4]
    assert TRAINING.members == [(1e-3, 0), (1e-3, 1), (1e-2, 0), (1e-2, 1)]
    slow, fast = by_rate(curves["loss"], TRAINING)
    np.testing.assert_array_equal(slow[:, 0], fast[:, 0])
    assert slow[0, 0] != slow[1, 0]
    begun = jax.jit(lambda key: initialize(TINY, LEXICON, 2, stream(key, "parameters")))
    for rate, moved in zip(TRAINING.learning_rates, by_rate(params["table"], TRAINING), strict=True):
        for seed in TRAINING.seeds:
            # Adam moves an entry by about its rate in a step: 1 + 0.9 + 0.5 of it after the warm-up's first step, which is 0.
            distance = np.abs(moved[seed] - begun(jax.random.key(seed))["table"]).max()
            assert 0.5 * rate < distance < 4 * rate
    _, again = train_population("arm", TINY, text, TRAINING, workspace)
    np.testing.assert_array_equal(again["loss"], curves["loss"])
