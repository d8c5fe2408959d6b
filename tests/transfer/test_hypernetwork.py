"""A network for rows against what it has to leave alone, and sampled tokenizers against counting and trying everything."""

from collections import Counter
from dataclasses import replace
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.data.corpora import Corpus
from lexinv.data.tokenizers import load_tokenizer
from lexinv.nn.language_model import initialize as begin_model
from lexinv.nn.language_model import make_logits
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.transfer import hypernetwork
from lexinv.transfer.hypernetwork import HypernetworkConfig, identity_loss, lexical_loss, target_surface
from lexinv.transfer.sampled_tokenizers import SubstringQueue, Vocabulary, sample_vocabulary, substring_scores
from lexinv.transfer.sampled_tokenizers import unigram_tokenizer as tokenizer_of
from lexinv.validation import InvalidConfig

CORPUS = Corpus("test", "0123456789abcdef", {"train": [str.__doc__ + dict.__doc__ + slice.__doc__], "validation": [""]})
BODY = TransformerConfig(depth=1, width=16, heads=2, mlp_width=32, positions="learned", causal=False, max_length=6)
PAPER, WITH_SKIP = HypernetworkConfig(6, False, BODY), HypernetworkConfig(6, True, BODY)
QUIET = (-100.0, 1e-9)
initialize, predict = (jax.jit(each, static_argnums=0) for each in (hypernetwork.initialize, hypernetwork.predict))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return load_tokenizer("bpe:270", CORPUS, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def untied():
    """Two tables, forms of 1 to 4 tokens, and a network for them."""
    one, two, key = jax.random.split(jax.random.key(0), 3)
    tables = jax.random.normal(one, (40, 12)) * jnp.arange(1.0, 13.0)[None], 3.0 + jax.random.normal(two, (40, 12))
    random = np.random.default_rng(0)
    sizes = np.arange(40) % 4 + 1
    forms = np.where(np.arange(6)[None] < sizes[:, None], random.integers(0, 40, (40, 6)), -1).astype(np.int32)
    return tables, jnp.asarray(forms), initialize(PAPER, key, tables, jnp.asarray(forms))


def test_before_training_a_network_with_a_skip_leaves_the_logits_of_a_model_as_they_are(source):
    model = replace(BODY, causal=True, positions="rope", max_length=12, output="tied")
    setting = model, LexiconConfig("standard"), source.vocab_size
    params = begin_model(*setting, jax.random.key(1))
    table, own = params["table"], target_surface(source, source, 6)
    assert ((own >= 0).sum(1) == 1).all()
    forms = jnp.asarray(np.append(own, [[3, 5, 8, -1, -1, -1]], axis=0))
    network = initialize(WITH_SKIP, jax.random.key(2), (table,), forms)
    (made,) = predict(WITH_SKIP, network, forms, (table,))
    logits, batch = jax.jit(make_logits(*setting)), {"tokens": jnp.arange(24).reshape(2, 12), "row": jnp.arange(2)}
    either = [logits(params | {"table": each}, batch, jax.random.key(0)) for each in (table, made[:-1])]
    np.testing.assert_array_equal(*either)
    assert lexical_loss((made[:-1],), forms[:-1], (table,)) == 0 == identity_loss((made[:-1],), (table,))
    np.testing.assert_allclose(made[-1], table[jnp.array([3, 5, 8])].mean(0), rtol=1e-5, atol=1e-6)


def test_a_row_depends_on_its_own_form_and_not_on_padding(untied):
    tables, forms, params = untied
    made, order = predict(PAPER, params, forms, tables), np.random.default_rng(1).permutation(40)
    for shown in (forms[order], forms[order, :4]):
        other = predict(PAPER, params, shown, tables)
        for rows, mixed in zip(made, other, strict=True):
            np.testing.assert_allclose(rows[order], mixed, rtol=1e-4, atol=1e-4)
    changed = predict(PAPER, params, forms.at[3, 3].set((forms[3, 3] + 1) % 40), tables)
    assert all(np.abs(rows - other)[3].max() > 1e-3 for rows, other in zip(made, changed, strict=True))


def test_rescalers_give_untrained_rows_the_tables_scale_and_are_not_trained(untied):
    tables, forms, params = untied
    for rows, table in zip(predict(PAPER, params, forms, tables), tables, strict=True):
        np.testing.assert_allclose(rows.mean(0), table.mean(0), atol=1e-3)
        np.testing.assert_allclose(rows.std(0), table.std(0), rtol=1e-3)

    def loss(params):
        return lexical_loss(predict(PAPER, params, forms, tables), forms, tables)

    slopes = jax.jit(jax.grad(loss))(params)
    assert all(not leaf.any() for leaf in jax.tree.leaves(slopes["scales"]))
    assert all(np.abs(head["kernel"]).max() > 0 for head in slopes["heads"])
    assert np.abs(slopes["enter"]["kernel"]).max() > 0


def test_the_lexical_loss_by_hand():
    """Lengths of the first tokens' rows are 5, 5 and 13; the two tokens of one piece are off by 1 and by 2 in one dimension."""
    table = jnp.array([[3.0, 4.0], [5.0, 12.0]])
    forms = jnp.array([[0, -1], [0, 1], [1, -1]])
    made = jnp.array([[4.0, 4.0], [100.0, 100.0], [5.0, 14.0]])
    np.testing.assert_allclose(lexical_loss((made,), forms, (table,)), (1 + 4) / 2 / (23 / 3), rtol=1e-6)
    np.testing.assert_allclose(identity_loss((made[:1],), (table[:1],)), 1.0)


def test_a_queue_holds_the_scores_of_its_last_batches():
    texts = [[" the cat"], [" the dog", " a cat"], [" then"]]
    queue = SubstringQueue(2)
    for batch in texts:
        queue.push(substring_scores(batch))
    recount = substring_scores(texts[1] + texts[2])
    assert +queue.scores == recount
    assert recount["\u0120the"] == 2 * 4 and recount["cat"] == 3 and "t\u0120" not in recount


def test_a_sampled_vocabulary_holds_all_bytes_and_without_noise_the_best_substrings():
    scores = substring_scores(CORPUS.splits["train"])
    exact = sample_vocabulary(np.random.default_rng(0), scores, 300, QUIET)
    best = Counter({piece: score for piece, score in scores.items() if len(piece) > 1}).most_common(44)
    assert sorted(scores[piece] for piece in exact.pieces[:44]) == sorted(score for _, score in best)
    np.testing.assert_allclose(np.exp(exact.scores[0]), best[0][1] / sum(scores.values()), rtol=1e-6)
    noisy = sample_vocabulary(np.random.default_rng(0), scores, 300)
    for drawn in (exact, noisy):
        assert len(set(drawn.pieces)) == 300 and (np.diff(drawn.scores) <= 0).all()
        tokenizer = tokenizer_of(drawn)
        assert tokenizer.vocab_size == 301 and tokenizer.separator == 300
        assert {bytes([byte]) for byte in range(256)} <= set(tokenizer.pieces)
        text = "Ein Stück 日本 \x00\n  zwei"
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert noisy.pieces != sample_vocabulary(np.random.default_rng(1), scores, 300).pieces


def test_segmentation_is_the_best_of_all():
    scores = substring_scores(CORPUS.splits["train"])
    drawn = sample_vocabulary(np.random.default_rng(3), scores, 330)
    least = drawn.scores[-1]
    lowered = Vocabulary(drawn.pieces, np.append(drawn.scores[:-256], np.full(256, least - 1.0)))
    tokenizer, of_piece = tokenizer_of(lowered), dict(zip(lowered.pieces, lowered.scores.tolist(), strict=True))

    def total(pieces):
        return sum(of_piece.get(piece, -np.inf) for piece in pieces)

    for word in ("returns", "object", "encoding", "iterable", "xqzt"):
        cuts = (cut for count in range(len(word)) for cut in combinations(range(1, len(word)), count))
        best = max(total([word[a:b] for a, b in zip((0, *cut), (*cut, len(word)), strict=True)]) for cut in cuts)
        found = [tokenizer.pieces[number].decode() for number in tokenizer.encode(word)]
        np.testing.assert_allclose(total(found), best, rtol=1e-9)


def test_what_cannot_be_meant_is_refused(source, untied):
    tables, _, params = untied
    lacking = replace(source, pieces=tuple(piece for piece in source.pieces if piece != b"\x07"))
    with pytest.raises(InvalidConfig, match=r"target = .*256 bytes; it lacks \[7\]"):
        target_surface(source, lacking, 4)
    with pytest.raises(InvalidConfig, match="surface = .*at most 6"):
        predict(PAPER, params, jnp.zeros((2, 7), jnp.int32), tables)
    for size in (255, 10**6):
        with pytest.raises(InvalidConfig, match=f"size = {size}"):
            sample_vocabulary(np.random.default_rng(0), Counter({"ab": 2}), size)
    with pytest.raises(InvalidConfig, match="batches = 0"):
        SubstringQueue(0)
    with pytest.raises(InvalidConfig, match=r"transformer\.causal"):
        HypernetworkConfig(4, transformer=replace(BODY, causal=True))
    with pytest.raises(InvalidConfig, match="length = 7"):
        HypernetworkConfig(7, transformer=BODY)
