"""The decoder: what it remembers counts as what it reads again, for every configuration, ragged prompts, trees and paths of them."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.nn import language_model
from lexinv.nn.attention import attention
from lexinv.nn.cache import empty_cache, keep, make_extend, unstacked
from lexinv.nn.language_model import make_logits, shift_right
from lexinv.nn.lexicon import LexiconConfig, draw_lexicon, row_keys
from lexinv.nn.slots import Slots, attention_to_slots
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import InvalidConfig

VOCAB, ROWS, TIME, SLOTS, N = 9, 3, 12, 18, 5
PLAIN = TransformerConfig(depth=2, width=16, heads=4, mlp_width=32, max_length=32)
GEMMA = replace(PLAIN, residual="sandwich", gate="gelu", window=3, global_layers=(1,), rotary_divisors=(1.0, 4.0))
LLAMA = replace(PLAIN, key_heads=2, gate="silu", head_width=6, head_norm=True, window=4, output="tied")
NEOX = replace(PLAIN, residual="parallel", norm="layer", bias=True, rotary_share=0.5, output="untied", gelu="exact")
MODELS = {
    "rope": (PLAIN, "lexinvariant"),
    "smear": (replace(PLAIN, positions="none", mixing="smear"), "semi"),
    "smear-rope-window": (replace(PLAIN, mixing="smear", window=5), "canonical"),
    "gpt2": (replace(PLAIN, positions="learned", norm="layer", bias=True, output="tied"), "standard"),
    "neox": (NEOX, "canonical"),
    "llama": (LLAMA, "permuted_bank"),
    "llama-bfloat16-weights": (LLAMA, "standard"),
    "gemma": (replace(GEMMA, window_rotary_base=100.0, head_norm=True, output="tied"), "standard"),
    "softplus": (replace(LLAMA, attention_kind="softplus", sharpness=15.0), "standard"),
    "scaled-softmax": (replace(PLAIN, attention_kind="scaled_softmax"), "standard"),
    "bfloat16": (replace(LLAMA, dtype="bfloat16", window=0), "orthonormal"),
}
KEY = jax.random.key(2)
DEPTH, PARENTS = np.array([0, 1, 1, 2, 2]), (-1, 0, 0, 1, 2)
ORDER, EARLIER, TREE = np.arange(N), np.tril(np.ones((N, N), bool)), np.eye(N, dtype=bool)
for node, parent in enumerate(PARENTS[1:], 1):
    TREE[node] |= TREE[parent]
initialize = jax.jit(language_model.initialize, static_argnums=(0, 1, 2))


@pytest.mark.parametrize("name", MODELS)
def test_what_is_remembered_counts_as_what_is_read(name):
    """Ragged prompts, then a tree against its two paths, one of them kept, and what follows it."""
    config, kind = MODELS[name][0], LexiconConfig(MODELS[name][1])
    params = initialize(config, kind, VOCAB, jax.random.key(0))
    if name == "llama-bfloat16-weights":
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    atol = 0.1 if name == "bfloat16" else 1e-5  # two of bfloat16's digits at logits of 4
    whole = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    reread = jax.jit(make_logits(config, kind, VOCAB))
    extend = make_extend(config, VOCAB, kind.kind == "canonical")
    params, table = (
        unstacked(params),
        draw_lexicon(kind, params.get("table"), row_keys(KEY, jnp.arange(ROWS)), VOCAB, 16),
    )
    compiled = extend._cache_size()
    texts = np.array(jax.random.randint(jax.random.key(1), (ROWS, TIME), 0, VOCAB))
    tree = np.array(jax.random.randint(jax.random.key(3), (ROWS, N), 0, VOCAB))
    rows, length = np.arange(ROWS), np.array([7, 5, 6])

    def wanted(texts):
        """Logits of x_t by t, where the decoder gives what comes after x_{t - 1}."""
        return np.asarray(reread(whole, {"tokens": jnp.asarray(texts), "row": jnp.arange(ROWS)}, KEY))

    def read(cache, tokens, count, depth=ORDER, visible=EARLIER):
        return extend(params, table, cache, jnp.asarray(tokens), jnp.asarray(count), depth, visible)

    inputs, cache, want = np.asarray(shift_right(jnp.asarray(texts))), empty_cache(config, ROWS, SLOTS), wanted(texts)
    logits, cache = read(cache, inputs[:, :N], np.full(ROWS, N) - [0, 1, 2])
    at = np.array([5, 4, 3])
    np.testing.assert_allclose(logits[0], want[0, :N], atol=atol)
    rest = np.stack([inputs[row, at[row] : at[row] + N] for row in rows])
    logits, cache = read(cache, rest, length - at)
    for row in rows:
        np.testing.assert_allclose(logits[row, : length[row] - at[row]], want[row, at[row] : length[row]], atol=atol)

    logits, cache = read(cache, tree, np.full(ROWS, N), DEPTH, TREE)
    for path in ((0, 1, 3), (0, 2, 4)):
        for row in rows:  # inputs are one behind: x_{length - 1} has not been read yet
            texts[row, length[row] - 1 : length[row] + 2] = tree[row, path]
        want = wanted(texts)
        for row in rows:
            np.testing.assert_allclose(logits[row, path], want[row, length[row] : length[row] + 3], atol=atol)
    count = np.array([3, 1, 2])
    cache = keep(cache, jnp.asarray(length), jnp.tile(jnp.array([[0, 2, 4]]), (ROWS, 1)), jnp.asarray(count))
    np.testing.assert_array_equal(cache.length, length + count)
    for row in rows:
        texts[row, length[row] + count[row] - 1] = 5
    logits, _ = read(cache, np.full((ROWS, N), 5), np.ones(ROWS, int))
    np.testing.assert_allclose(logits[:, 0], wanted(texts)[rows, length + count], atol=atol)
    assert extend._cache_size() == compiled + 1


@pytest.mark.parametrize("key_heads", [4, 2])
def test_attention_to_blocks_of_slots_is_attention(key_heads):
    """10 slots in blocks of 4, of which 7 are used: the last block overlaps the one before."""
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 10, n, 6)) for i, n in enumerate((4, key_heads, key_heads)))
    slots = Slots(jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2), None)
    seen = jnp.broadcast_to(jnp.tril(jnp.ones((10, 10), bool))[None], (2, 10, 10))
    for used, block in ((7, 4), (10, 4), (10, 128)):
        of_slots = jax.jit(partial(attention_to_slots, block=block))
        found = of_slots(q[:, :used], slots, seen[:, :used], jnp.int32(used))
        np.testing.assert_allclose(found, attention(q, k, v, implementation="whole")[:, :used], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"positions": "relative"}, "model.positions"),
        ({"mixing": "convolution"}, "model.mixing"),
        ({"causal": False}, "model.causal"),
    ],
)
def test_models_without_a_memory_are_refused(change, field):
    with pytest.raises(InvalidConfig, match=field):
        make_extend(replace(PLAIN, **change), VOCAB)


def test_unlike_shapes_are_refused():
    extend, cache = make_extend(replace(PLAIN, depth=1), VOCAB), empty_cache(replace(PLAIN, depth=1), 2, 8)
    table, tokens, count = jnp.zeros((VOCAB, 16)), jnp.zeros((2, 3), jnp.int32), jnp.ones(2, jnp.int32)
    for field, given in (
        ("table", (table[1:], cache, tokens)),
        ("table", (jnp.zeros((3, VOCAB, 16)), cache, tokens)),
        ("tokens", (table, cache, jnp.zeros((2, 9), jnp.int32))),
        ("tokens", (table, cache, tokens[:1])),
        ("cache", (table, empty_cache(PLAIN, 2, 8), tokens)),
    ):
        with pytest.raises(InvalidConfig, match=field):
            extend({}, *given, count[: len(given[2])])
    with pytest.raises(InvalidConfig, match="slots"):
        empty_cache(PLAIN, 2, 33)
