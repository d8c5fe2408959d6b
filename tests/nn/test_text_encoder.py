"""BERT's forward pass against NumPy, its mask, its layers one by one, and MiniLM's real weights."""

import json
import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.merging.bipartite import bipartite_matching
from lexinv.merging.reduction import reduction
from lexinv.nn.reduced import Reduced
from lexinv.nn.text_encoder import embed_tokens, hidden_states, load_text_encoder, pool, sentence_embeddings
from lexinv.nn.transformer import Transformer, TransformerConfig
from lexinv.validation import InvalidConfig

save_file = pytest.importorskip("safetensors.numpy").save_file

VOCAB, WIDTH, DEPTH = 11, 8, 2
BERT = {"model_type": "bert", "vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": DEPTH}
BERT |= {"num_attention_heads": 2, "intermediate_size": 12, "max_position_embeddings": 16, "type_vocab_size": 2}
TOKENS = jnp.array([[1, 4, 0, 7, 10], [5, 2, 9, 0, 0]])
MASK = jnp.array([[True] * 5, [True, True, True, False, False]])


def random_tensors():
    shapes = {"word": (VOCAB, WIDTH), "position": (16, WIDTH), "token_type": (2, WIDTH)}
    shapes = {f"embeddings.{name}_embeddings.weight": shape for name, shape in shapes.items()}
    norms, matrices = ["embeddings.LayerNorm"], {"pooler.dense": (WIDTH, WIDTH)}
    for i in range(DEPTH):
        at = f"encoder.layer.{i}"
        norms += [f"{at}.attention.output.LayerNorm", f"{at}.output.LayerNorm"]
        matrices |= {f"{at}.attention.self.{name}": (WIDTH, WIDTH) for name in ("query", "key", "value")}
        matrices |= {f"{at}.attention.output.dense": (WIDTH, WIDTH)}
        matrices |= {f"{at}.intermediate.dense": (12, WIDTH), f"{at}.output.dense": (WIDTH, 12)}
    for name in norms:
        shapes |= {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}
    for name, shape in matrices.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    generator = np.random.default_rng(0)
    return {name: generator.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


def numpy_levels(t, ids):
    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-12) * t[f"{name}.weight"] + t[f"{name}.bias"]

    def dense(x, name):
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    kinds = ("word", "position", "token_type")
    words, positions, types = (t[f"embeddings.{kind}_embeddings.weight"] for kind in kinds)
    levels = [norm(words[ids] + positions[: len(ids)] + types[0], "embeddings.LayerNorm")]
    for i in range(DEPTH):
        at, x = f"encoder.layer.{i}", levels[-1]
        q, k, v = (dense(x, f"{at}.attention.self.{name}") for name in ("query", "key", "value"))
        heads = []
        for span in (slice(0, 4), slice(4, 8)):
            weights = np.exp(q[:, span] @ k[:, span].T / 2.0)
            heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, span])
        mixed = dense(np.concatenate(heads, 1), f"{at}.attention.output.dense")
        x = norm(x + mixed, f"{at}.attention.output.LayerNorm")
        u = dense(x, f"{at}.intermediate.dense")
        u = 0.5 * u * (1 + np.vectorize(math.erf)(u / math.sqrt(2)))
        levels.append(norm(x + dense(u, f"{at}.output.dense"), f"{at}.output.LayerNorm"))
    return np.stack(levels)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder, tensors = tmp_path_factory.mktemp("bert"), random_tensors()
    (folder / "config.json").write_text(json.dumps(BERT))
    save_file({f"bert.{name}": tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    return load_text_encoder(folder), tensors


def test_bert_is_what_its_tensors_say_and_padding_is_not_read(tiny):
    encoder, tensors = tiny
    found = jax.jit(hidden_states, static_argnums=0)(encoder.config, encoder.params, TOKENS, MASK)
    for row, length in ((0, 5), (1, 3)):
        expected = numpy_levels(tensors, np.asarray(TOKENS)[row, :length])
        np.testing.assert_allclose(found[:, row, :length], expected, atol=1e-4)


def test_sentences_are_means_over_the_mask_at_length_one(tiny):
    encoder, _ = tiny
    hidden = jnp.array([[[3.0, 0.0], [0.0, 1.0], [100.0, 100.0]]])
    np.testing.assert_allclose(pool(hidden, jnp.array([[True, True, False]])), [[3 / 10**0.5, 1 / 10**0.5]], rtol=1e-6)
    for found in (hidden, hidden.at[0, 2].set(jnp.nan)):
        np.testing.assert_allclose(pool(found, jnp.array([[1.0, 4.0, 0.0]])), [[0.6, 0.8]], rtol=1e-6)
    found = jax.jit(sentence_embeddings, static_argnums=0)(encoder.config, encoder.params, TOKENS, MASK)
    np.testing.assert_allclose(jnp.linalg.norm(found, axis=-1), 1.0, rtol=1e-6)


embed = jax.jit(sentence_embeddings, static_argnums=(0, 4, 5))


def test_reductions_see_the_normalised_sum_after_attention(tiny):
    """The stream that the MLP reads: one layer by hand, and its last two tokens gone before the MLP."""
    encoder, tensors = tiny
    seen: list[jax.Array] = []

    def look(found):
        seen.append(found.stream)
        return Reduced(found.stream[:, :3], found.size[:, :3], None)

    config = replace(encoder.config, depth=1)
    params = encoder.params | {"layers": jax.tree.map(lambda leaf: leaf[:1], encoder.params["layers"])}
    found = sentence_embeddings(config, params, TOKENS[:1], MASK[:1], (look,))
    levels = numpy_levels(tensors, np.asarray(TOKENS)[0])
    middle = np.asarray(seen[0][0])
    gain, offset = (tensors[f"encoder.layer.0.attention.output.LayerNorm.{part}"] for part in ("weight", "bias"))
    normalised = (middle - offset) / gain
    np.testing.assert_allclose([normalised.mean(-1), normalised.std(-1)], [[0] * 5, [1] * 5], atol=1e-4)
    np.testing.assert_allclose(found[0], pool(jnp.asarray(levels[1, None, :3]), jnp.ones((1, 3), bool))[0], atol=1e-5)


def tome(count):
    return reduction(lambda e: bipartite_matching(e.similarity, count, mask=e.mask), padded=True)


def test_more_padding_is_the_same_sentence(tiny):
    """As many unprotected tokens are padded on as there are real ones, and the count is doubled: the same real ones merge."""
    encoder, _ = tiny
    tokens = jnp.array([[1, 4, 2, 7, 10, 3, 6], [5, 2, 9, 8, 1, 7, 4]])
    longer, mask = jnp.pad(tokens, ((0, 0), (0, 6)), constant_values=9), jnp.arange(13)[None] < jnp.array([[7], [7]])
    alone = embed(encoder.config, encoder.params, tokens, jnp.ones(tokens.shape, bool), (tome(2), None))
    padded = embed(encoder.config, encoder.params, longer, mask, (tome(4), None))
    np.testing.assert_allclose(padded, alone, atol=1e-5)
    plain = embed(encoder.config, encoder.params, tokens, jnp.ones(tokens.shape, bool))
    assert float(jnp.max(jnp.abs(alone - plain))) > 1e-3  # something was merged
    nothing = embed(encoder.config, encoder.params, longer, jnp.zeros_like(mask), (tome(4), None))
    np.testing.assert_array_equal(nothing, 0.0)


def test_bfloat16_is_close_and_pools_in_float32(tiny):
    encoder, _ = tiny
    half = replace(encoder.config, dtype="bfloat16")
    for reductions in ((), (tome(2), None)):
        found, wanted = (embed(each, encoder.params, TOKENS, MASK, reductions) for each in (half, encoder.config))
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(jnp.sum(found * wanted, axis=-1), 1.0, atol=2e-3)
        assert float(jnp.max(jnp.abs(found - wanted))) > 0
    levels = jax.eval_shape(partial(hidden_states, half), encoder.params, TOKENS, MASK)
    assert levels.dtype == jnp.bfloat16


def test_what_bert_does_not_compute_is_refused(tiny, tmp_path):
    encoder, _ = tiny
    for change, message in (
        ({"model_type": "roberta"}, "known: bert"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"num_hidden_layers": 3}, r"encoder\.layer\.2.*missing"),
        ({"num_hidden_layers": 1}, r"encoder\.layer\.1.*of this architecture"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(BERT | change))
        save_file(random_tensors(), tmp_path / "model.safetensors")
        with pytest.raises(InvalidConfig, match=message):
            load_text_encoder(tmp_path)
    with pytest.raises(InvalidConfig, match=r"model\.max_length"):
        embed_tokens(encoder.config, encoder.params, jnp.zeros((1, 17), jnp.int32))
    with pytest.raises(InvalidConfig, match=r"tokenizer\.json"):
        encoder.encode(["a"], 8)


def test_a_mask_is_for_models_that_are_not_causal():
    config = TransformerConfig(depth=1, width=8, heads=2, mlp_width=8)
    with pytest.raises(InvalidConfig, match=r"model\.causal"):
        Transformer(config).init(jax.random.key(0), jnp.zeros((2, 5, 8)), mask=MASK)


SENTENCES = [
    "A man is playing a guitar on the street.",
    "Someone plays guitar outdoors.",
    "The central bank raised interest rates again.",
]


@pytest.fixture(scope="module")
def minilm(asset):
    return load_text_encoder(asset("minilm"))


def test_minilm_gives_the_embeddings_of_transformers(minilm):
    """The numbers are those of `BertModel` and `AutoTokenizer` of transformers 5.24 (torch 2.13, CPU) on the same directory, with the mean
    over the attention mask divided by its norm."""
    tokens, mask = minilm.encode(SENTENCES, 256)
    np.testing.assert_array_equal(tokens[1], [101, 2619, 3248, 2858, 19350, 1012, 102, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(mask.sum(axis=1), [12, 7, 10])
    embed = jax.jit(sentence_embeddings, static_argnums=0)
    found = np.asarray(embed(minilm.config, minilm.params, jnp.asarray(tokens), jnp.asarray(mask)))
    first = [
        [0.07721826, -0.03773744, 0.03996627, -0.03565874],
        [0.03577156, 0.03405580, 0.02692712, -0.04893704],
        [0.03442311, -0.05916726, -0.03991509, 0.01949115],
    ]
    np.testing.assert_allclose(found[:, :4], first, atol=1e-5)
    cosines = found @ found.T
    np.testing.assert_allclose(cosines[[0, 0, 1], [1, 2, 2]], [0.7427378, -0.1199657, -0.0816329], atol=1e-5)


def test_long_texts_keep_their_ends(minilm):
    tokens, mask = minilm.encode(["guitar " * 50, "guitar"], 6)
    np.testing.assert_array_equal(tokens, [[101, 2858, 2858, 2858, 2858, 102], [101, 2858, 102, 0, 0, 0]])
    np.testing.assert_array_equal(mask.sum(axis=1), [6, 3])
    for length in (2, 513):
        with pytest.raises(InvalidConfig, match="length"):
            minilm.encode(["a"], length)
