"""Labels of tokens against what they mean: nothing where both models are one, and a text read again from its start elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.decoding.routed_real import recalls
from experiments.subjects.halved_model import SENTENCE, HalvedConfig, HalvedPair, answers, tell
from experiments.subjects.pretrained_language_model import untrained
from lexinv.data.corpora import load_corpus
from lexinv.decoding.ngram_overlap import ngram_f1
from lexinv.nn.language_model import BOS

STEPS = 5


@pytest.fixture(scope="module")
def whole():
    """A pair of one model with itself."""
    world = untrained(load_corpus("python-docs"))
    asked = np.random.default_rng(0).integers(97, 123, (3, 4)).astype(np.int32)
    asked[:, 0] = BOS
    return HalvedPair(HalvedConfig(steps=STEPS), world, world.model.config, world.model.params, {"asked": asked})


def test_a_half_that_is_the_whole_says_the_same(whole):
    texts, told = tell(whole, "asked")
    assert not told.differs.any() and np.all(told.same == 1) and not told.diverges.any()
    np.testing.assert_array_equal(texts, answers(whole.world, whole.requests["asked"], STEPS + SENTENCE))
    hidden = np.linalg.lstsq(np.asarray(whole.large["table"]), np.asarray(logits_of(whole, texts))[0, 0], rcond=None)[0]
    np.testing.assert_allclose(told.given.state[0, 0], hidden, rtol=1e-3, atol=1e-3)


def logits_of(pair, texts):
    read = pair.world.logits(jnp.asarray(texts[:, 1:]))
    return read[:, pair.requests["asked"].shape[1] - 1 :]


def test_another_token_is_gone_on_with_as_if_the_text_were_read_anew(whole):
    moved = jax.tree.map(
        lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(1), leaf.shape), whole.tuned["model"]
    )
    pair = HalvedPair(whole.config, whole.world, whole.half, whole.tuned | {"model": moved}, whole.requests)
    texts, told = tell(pair, "asked")
    assert told.differs.any() and np.all(told.same[~told.differs] == 1)
    before, table = pair.requests["asked"].shape[1], np.asarray(pair.large["table"])
    for row, step in np.argwhere(told.differs)[:3]:
        other = int(np.argmin(np.linalg.norm(table - np.asarray(told.given.chosen[row, step]), axis=1)))
        prompt = np.append(texts[row, : before + step], other)[None].astype(np.int32)
        on = answers(pair.world, prompt, SENTENCE)[0, before + step :]
        both = pair.said(on), pair.said(texts[row, before + step :][: 1 + SENTENCE])
        want = ngram_f1(both[:1], both[1:], 1) if any(both) else 1.0
        assert told.same[row, step] == pytest.approx(want)


def test_the_oracle_finds_as_many_as_are_sent():
    diverges = np.array([[True, False, True, False, True], [False] * 5])
    np.testing.assert_allclose(
        recalls(diverges.astype(float), diverges, (0.2, 0.4, 1.0)), [[1 / 3, 2 / 3, 1], [1, 1, 1]]
    )
