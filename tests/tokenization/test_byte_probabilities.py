"""Bytes of models of tokens: enumerated chains, laws that hold for any model, and texts whose beginnings are encoded in two ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.subjects.chain_tokens import chain_tokens
from lexinv.data.byte_level import ByteLevelBPE
from lexinv.nn.language_model import initialize, make_logits
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.tokenization.byte_pairs import GPT2_SPLIT, BytePairs
from lexinv.tokenization.byte_probabilities import (
    END,
    advance,
    byte_log_probs,
    log_mass,
    mean_of,
    next_bytes,
    start,
)
from lexinv.tokenization.context_tree import tree_log_probs
from lexinv.validation import InvalidConfig

A, B = b"AB"
CHAIN = [(A, A), (B, A), (256, B), (257, 256)]
KERNEL = np.array([[0.6, 0.4], [0.3, 0.7]])


@pytest.fixture(scope="module")
def chain():
    return chain_tokens(b"AB", np.array([0.5, 0.5]), KERNEL, CHAIN, 12)


def random_model(vocab, seed=0):
    """Numbers that a context decides."""

    def log_probs(contexts):
        rows = [np.random.default_rng([seed, *context]).gumbel(size=vocab) for context in contexts]
        return np.stack([row - np.log(np.exp(row).sum()) for row in rows])

    return log_probs


def test_a_chains_letters_and_masses_are_those_of_enumeration(chain):
    pairs, model, true = chain
    for text in [text for text in true if len(text) < 7]:
        state = start(pairs, text, model)
        found = next_bytes(state)
        for letter in (A, B):
            assert found[letter] == pytest.approx(true[text + bytes([letter])] / true[text], abs=1e-12)
        assert found[[A, B]].sum() == pytest.approx(1) and log_mass(state) == pytest.approx(np.log(true[text]))
    text = b"ABAABBABAAAB"
    assert byte_log_probs(pairs, text, model).sum() == pytest.approx(np.log(true[text]), abs=1e-11)
    assert next_bytes(start(pairs, text, model))[END] == pytest.approx(1)


def test_the_naive_way_is_as_biased_as_the_card_says(chain):
    pairs, model, _ = chain
    for naive, exact, prompts in (
        (0.0, 0.6, (b"A", b"BA", b"ABA")),
        (0.9259, 0.6, (b"BAA", b"AAAA")),
        (0.2045, 0.3, (b"B", b"AB", b"BB", b"AAB")),
    ):
        for prompt in prompts:
            assert next_bytes(start(pairs, prompt, model, rule="naive"))[A] == pytest.approx(naive, abs=2e-3)
            assert next_bytes(start(pairs, prompt, model))[A] == pytest.approx(exact)
            assert next_bytes(start(pairs, prompt, model, masked=False))[A] == pytest.approx(exact)
    # Taking back the token A after B A, which nothing else begins with, mends nothing.
    assert next_bytes(start(pairs, b"AAB", model, rule="healing"))[A] == pytest.approx(0.2045, abs=2e-3)


def test_going_on_byte_by_byte_is_starting_anew(byte_pairs, tricky):
    pairs = byte_pairs(GPT2_SPLIT)
    model = random_model(pairs.tokenizer.vocab_size)
    text, calls = tricky[:24].encode(), []

    def counted(contexts):
        calls.append(len(contexts))
        return model(contexts)

    state = start(pairs, b"", counted)
    for at in range(len(text)):
        state = advance(state, text[at], counted)
        found, anew = next_bytes(state), start(pairs, text[: at + 1], model)
        assert found.sum() == pytest.approx(1)
        if len({branch.context for branch in state.branches}) == len(anew.branches):
            np.testing.assert_allclose(found, next_bytes(anew), atol=1e-12)
    assert max(calls) <= 2 and sum(calls) <= len(text) + 5  # more than one only where the expression looks ahead


def test_bytes_cost_no_more_than_tokens_and_masks_take_only_what_cannot_come(byte_pairs, tricky):
    pairs = byte_pairs(GPT2_SPLIT)
    model = random_model(pairs.tokenizer.vocab_size)
    for text in (tricky[:30], "größer 日本", "the end of it's"):
        ids = pairs.tokenizer.encode(text).tolist()
        rows = model([tuple(ids[:at]) for at in range(len(ids))])
        tokens = sum(row[token] for row, token in zip(rows, ids, strict=True))
        found = byte_log_probs(pairs, text.encode(), model)
        assert found.shape == (len(text.encode()),) and found.sum() >= tokens
    cut = next_bytes(start(pairs, "größ".encode()[:-1], model))
    assert cut[:128].sum() == 0 and cut[0x80:0xC0].sum() == pytest.approx(1)


def test_with_bytes_alone_and_with_one_model_twice_nothing_changes():
    pairs = BytePairs(ByteLevelBPE("bytes", [], GPT2_SPLIT).tokenizer(), GPT2_SPLIT, [])
    one, other = (random_model(257, seed) for seed in (0, 1))
    state = start(pairs, b"The Lo", one, masked=False)
    np.testing.assert_allclose(next_bytes(state), next_bytes(start(pairs, b"The Lo", one, rule="naive")))
    np.testing.assert_allclose(mean_of([state, state], [0.3, 0.7]), next_bytes(state))
    mixed = mean_of([state, start(pairs, b"The Lo", other)], [0.5, 0.5])
    assert mixed.sum() == pytest.approx(1) and abs(mixed - next_bytes(state)).max() > 1e-4
    with pytest.raises(InvalidConfig, match="weights"):
        mean_of([state, state], [0.5, 0.6])


def test_where_the_expression_looks_ahead_the_lemma_as_published_has_nothing_left(byte_pairs):
    found = {}
    for look_ahead in (True, False):
        pairs = byte_pairs(GPT2_SPLIT, look_ahead=look_ahead)
        assert b"\n\n" in pairs.by_bytes
        state = start(pairs, b"it\n\n", random_model(pairs.tokenizer.vocab_size))
        found[look_ahead] = next_bytes(state)[ord("t")], len(state.branches)
    # Two line ends before a word are two tokens, though the two alone are one.
    assert found[True][0] > 0 and found[False][0] == 0
    assert found[True][1] > found[False][1]


def test_what_no_token_covers_and_what_is_no_text_is_refused(chain, byte_pairs):
    pairs = byte_pairs(GPT2_SPLIT)
    model = random_model(pairs.tokenizer.vocab_size)
    with pytest.raises(InvalidConfig, match=r"bytes at 1 = b'\\xff'"):
        start(pairs, b"a\xff", model)
    with pytest.raises(InvalidConfig, match="whole characters for the rule naive"):
        start(pairs, "é".encode()[:1], model, rule="naive")
    with pytest.raises(InvalidConfig, match="rule = 'exakt'"):
        start(pairs, b"a", model, rule="exakt")
    with pytest.raises(InvalidConfig, match="log_probs = 3 .*one for each"):
        start(pairs, b"a", lambda contexts: np.zeros((len(contexts), 3)))
    with pytest.raises(InvalidConfig, match="byte = 65 .*covers"):
        advance(start(pairs, "é".encode()[:1], model), A, model)
    with pytest.raises(InvalidConfig, match=r"prompt = b'AC'"):
        start(chain[0], b"AC", chain[1])


def test_one_pass_over_a_tree_of_contexts_gives_what_reading_each_gives():
    config, vocab = TransformerConfig(depth=1, width=16, heads=2, mlp_width=16, max_length=32), 11
    params = initialize(config, LexiconConfig(), vocab, jax.random.key(0))
    contexts = [(), (3, 1, 4), (3, 1), (3, 1, 5, 9), (2,)]
    found = tree_log_probs(config, params, vocab, 16, bucket=16)(contexts)
    padded = np.zeros((len(contexts), 5), np.int32)
    for row, context in zip(padded, contexts, strict=True):
        row[: len(context)] = context
    batch = {"tokens": jnp.asarray(padded), "row": jnp.arange(len(contexts))}
    logits = make_logits(config, LexiconConfig(), vocab)(params, batch, jax.random.key(0))
    wanted = jax.nn.log_softmax(logits[np.arange(len(contexts)), np.array(list(map(len, contexts)))])
    np.testing.assert_allclose(found, wanted, atol=2e-6)
    few = tree_log_probs(config, params, vocab, 5, bucket=5)
    np.testing.assert_allclose(few(contexts), wanted, atol=2e-6)  # in several passes
    with pytest.raises(InvalidConfig, match="context = 5"):
        few([(1, 2, 3, 4, 5)])
