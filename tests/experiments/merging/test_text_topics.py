"""Topics of the position paper on text: questions and reading at any positions, noise that is known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.merging import long_context, selective_training
from experiments.merging.long_context import CHUNK
from experiments.merging.selective_training import noisy_text
from experiments.subjects.pair_recall import draw_question, read
from lexinv.nn.language_model import BOS, initialize, make_logits
from lexinv.nn.lexicon import LexiconConfig

CONFIG = long_context.Config(
    length=32, factors=(1, 4), keys=64, values=4, items=CHUNK, batch_size=2, steps=20, width=16
)
VOCAB = CONFIG.keys + CONFIG.values
PARAMS = jax.jit(partial(initialize, CONFIG.model(), LexiconConfig(), VOCAB))(jax.random.key(0))


def test_the_answer_is_unique_and_stands_where_it_should():
    ask = jax.jit(jax.vmap(partial(draw_question, count=30, keys=64, values=4)))
    questions = ask(jax.random.split(jax.random.key(0), 50), depth=(jnp.arange(50.0) + 0.5) / 50)
    keys, values = np.asarray(questions.pairs[..., 0]), np.asarray(questions.pairs[..., 1])
    assert all(len(set(row)) == 30 for row in keys.tolist())
    assert keys.max() < 64 and set(np.unique(values)) == {64, 65, 66, 67}  # so that chance is 1 / values
    assert questions.needle.tolist() == [int((i + 0.5) / 50 * 30) for i in range(50)]


def test_reading_at_plain_positions_is_the_language_model_and_shifted_ones_change_nothing():
    tokens = jax.random.randint(jax.random.key(1), (2, 9), 0, VOCAB)
    places = jnp.broadcast_to(jnp.arange(10.0)[None], (2, 10))
    seen = jnp.concatenate([jnp.full((2, 1), BOS), tokens], axis=1)
    reading = jax.jit(partial(read, CONFIG.model()))
    found, attention = reading(PARAMS, seen, places)
    longer = jnp.concatenate([tokens, tokens[:, :1]], axis=1)
    logits = jax.jit(make_logits(CONFIG.model(), LexiconConfig(), VOCAB))
    wanted = logits(PARAMS, {"tokens": longer, "row": jnp.arange(2)}, jax.random.key(0))
    np.testing.assert_allclose(found, wanted[:, -1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jnp.sum(attention, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(reading(PARAMS, seen, places + 7)[0], found, rtol=1e-3, atol=1e-4)
    assert np.abs(reading(PARAMS, seen, 3 * places)[0] - found).max() > 1e-2


def test_noise_is_told_from_text_and_the_language_goes_on_behind_it():
    """In a language that counts, the clean tokens of a noisy text count on."""
    config = selective_training.Config(symbols=8, length=64, batch_size=50)
    text = jax.jit(partial(noisy_text, config=config))
    counting = jnp.roll(jnp.eye(8), 1, axis=1)
    tokens, clean = map(np.asarray, text(jax.random.key(0), counting, noise=jnp.float32(0.3)))
    assert abs(clean.mean() - 0.7) < 4 * np.sqrt(0.21 / clean.size)
    for row, there in zip(tokens, clean, strict=True):
        assert set(np.diff(row[there]) % 8) == {1}
    assert np.unique(tokens[~clean]).size == 8
    assert text(jax.random.key(0), counting, noise=jnp.float32(0.0))[1].all()
