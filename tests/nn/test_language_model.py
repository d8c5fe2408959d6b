"""The language model: what it may know of tokens, and what each choice of architecture computes."""

import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.data.markov_first_order import dirichlet_source, sample_tokens
from lexinv.nn import language_model
from lexinv.nn.language_model import (
    BOS,
    LanguageModel,
    make_hidden_states,
    make_logits,
    make_loss,
    make_nll,
    shift_right,
)
from lexinv.nn.lexicon import LexiconConfig, draw_lexicon, embed, readout, row_keys, token_nll
from lexinv.nn.linear import rms_norm
from lexinv.nn.transformer import Block, TransformerConfig
from lexinv.validation import InvalidConfig

VOCAB, WIDTH = 9, 16
KEY = jax.random.key(2)
initialize = jax.jit(language_model.initialize, static_argnums=(0, 1, 2))
PLAIN = TransformerConfig(depth=2, width=WIDTH, heads=2, mlp_width=32, max_length=128)
CONFIGS = {
    "rope": PLAIN,
    "learned": replace(PLAIN, positions="learned"),
    "relative": replace(PLAIN, positions="relative"),
    "smear": replace(PLAIN, positions="none", mixing="smear", initialization="mimetic"),
    "suffix_match": replace(PLAIN, positions="none", mixing="convolution", initialization="suffix_match"),
    "tied": replace(PLAIN, output="tied"),
}
LEXINVARIANT, STANDARD = LexiconConfig("lexinvariant"), LexiconConfig("standard")
TOKENS = jax.random.randint(jax.random.key(1), (2, 12), 0, VOCAB)
PREDICTIONS = [(kind, "matrix") for kind in ("standard", "lexinvariant", "semi", "permuted_bank")]
PREDICTIONS += [(kind, "tied") for kind, _ in PREDICTIONS] + [("standard", "untied")]


def example(config, kind=LEXINVARIANT, batch=2, time=12):
    """Inputs, their lexica, and the logits of both with random parameters."""
    params = initialize(config, kind, VOCAB, jax.random.key(0))
    inputs = shift_right(jax.random.randint(jax.random.key(1), (batch, time), 0, VOCAB))
    keys = row_keys(jax.random.key(2), jnp.arange(batch))
    lexicon = draw_lexicon(kind, params.get("table"), keys, VOCAB, WIDTH)
    apply = jax.jit(LanguageModel(config).apply, static_argnames="capture")
    return inputs, lexicon, partial(apply, {"params": params["model"]})


@pytest.mark.parametrize("name", CONFIGS)
def test_relabelling_tokens_and_lexicon_together_relabels_the_logits(name):
    inputs, lexicon, apply = example(CONFIGS[name])
    order = jax.random.permutation(jax.random.key(3), VOCAB)
    renamed = jnp.where(inputs == BOS, BOS, order[jnp.maximum(inputs, 0)])
    moved = jnp.zeros_like(lexicon).at[:, order].set(lexicon)
    np.testing.assert_allclose(apply(renamed, moved)[..., order], apply(inputs, lexicon), atol=1e-5)


def test_the_standard_model_is_not_invariant_and_the_lexinvariant_one_is():
    """E-averaged nats of x and of pi(x) agree within 3 standard errors for one; they are far apart for the other."""
    order = jnp.roll(jnp.arange(VOCAB), 1)
    tokens = jnp.tile(jnp.array([[0, 1, 0, 1, 2, 0, 0, 3, 1, 0]]), (256, 1))
    difference = {}
    for kind in (LEXINVARIANT, STANDARD):
        params = initialize(PLAIN, kind, VOCAB, jax.random.key(0))
        nll = jax.jit(make_nll(PLAIN, kind, VOCAB))
        first, second = (
            np.asarray(nll(params, {"tokens": text, "row": jnp.arange(256) + begin}, KEY)).sum(axis=1)
            for text, begin in ((tokens, 0), (order[tokens], 256))
        )
        error = np.sqrt((first.var() + second.var()) / 256)
        difference[kind.kind] = abs(first.mean() - second.mean()), 3 * error
    assert difference["lexinvariant"][0] < difference["lexinvariant"][1]
    assert difference["standard"][0] > 0.5


def test_no_parameter_of_the_lexinvariant_model_belongs_to_a_token():
    for name, config in CONFIGS.items():
        params = jax.eval_shape(lambda key, config=config: initialize(config, LEXINVARIANT, 13, key), jax.random.key(0))
        assert not [leaf.shape for leaf in jax.tree.leaves(params) if 13 in leaf.shape], name


def reacting(config, changed):
    """Which times [T] have other logits where the token at each of the times `changed` is another one."""
    inputs, lexicon, apply = example(config, time=100)  # more than one query chunk
    other = inputs.at[:, changed].set((inputs[:, changed] + 1) % VOCAB)
    reacts = (apply(inputs, lexicon) != apply(other, lexicon)).any(axis=-1)
    np.testing.assert_array_equal(reacts[0], reacts[1])
    return np.flatnonzero(reacts[0]).tolist()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_future_changes_nothing(name):
    assert reacting(CONFIGS[name], slice(70, None)) == list(range(70, 100))


@pytest.mark.parametrize("name", ["rope", "relative"])
def test_one_layer_with_a_window_of_w_does_not_see_a_token_that_is_w_back(name):
    assert reacting(replace(CONFIGS[name], depth=1, window=5), 70) == list(range(70, 75))


def test_layers_that_see_all_are_told_from_those_with_a_window():
    config = replace(PLAIN, depth=3, window=5, global_layers=(1,), residual="sandwich")
    inputs, lexicon, apply = example(config)
    logits, seen = apply(inputs, lexicon, capture=True)
    later, earlier = np.indices((12, 12))
    reach = [(later - earlier)[(weights > 0).any(axis=(0, 1))].max() + 1 for weights in seen["attention_weights"]]
    assert reach == [5, 12, 5]
    for layer in range(3):
        edit = (layer, lambda site, activations: activations)
        one_by_one = LanguageModel(config).apply(*apply.args, inputs, lexicon, edit=edit)
        np.testing.assert_allclose(one_by_one, logits, atol=1e-5)
    local = example(replace(config, window_rotary_base=50.0, global_layers=(0, 1, 2)))[2](inputs, lexicon)
    np.testing.assert_allclose(
        local, example(replace(config, window=0, global_layers=()))[2](inputs, lexicon), atol=1e-5
    )
    with pytest.raises(InvalidConfig, match="global_layers"):
        Block(config, False).init(KEY, jnp.ones((1, 4, WIDTH)), None)


def test_bidirectional_models_see_the_future():
    assert reacting(replace(PLAIN, causal=False), 99) == list(range(100))


@pytest.mark.parametrize("kind, output", PREDICTIONS)
@pytest.mark.parametrize("block", [0, 4])
def test_logits_losses_and_blockwise_losses_are_of_the_same_prediction(kind, output, block):
    config, lexicon = replace(PLAIN, output=output), LexiconConfig(kind, p_random=0.3)
    params = initialize(config, lexicon, VOCAB, jax.random.key(0))
    batch = {"tokens": TOKENS.at[0, 9:].set(-1), "row": jnp.array([3, 5])}
    expected = token_nll(make_logits(config, lexicon, VOCAB)(params, batch, KEY), batch["tokens"])
    blockwise = replace(lexicon, vocab_block=block)
    np.testing.assert_allclose(make_nll(config, blockwise, VOCAB)(params, batch, KEY), expected, rtol=1e-5)
    loss, _ = make_loss(config, blockwise, VOCAB)(params, batch, KEY)
    np.testing.assert_allclose(loss, expected.sum() / 21, rtol=1e-5)  # without padding


@pytest.mark.parametrize("kind, output", PREDICTIONS)
def test_hidden_states_are_those_that_the_logits_are_read_from(kind, output):
    config, lexicon = replace(PLAIN, output=output), LexiconConfig(kind)
    params, batch = initialize(config, lexicon, VOCAB, jax.random.key(0)), {"tokens": TOKENS, "row": jnp.arange(2)}
    assert ("output_table" in params) == (output == "untied")
    states = jax.jit(make_hidden_states(config, lexicon, VOCAB))(params, batch, KEY)
    assert states.shape == (config.depth + 1, 2, 11, WIDTH)
    rows = draw_lexicon(lexicon, params.get("table"), row_keys(KEY, batch["row"]), VOCAB, WIDTH)
    np.testing.assert_allclose(states[0], embed(rows, TOKENS[:, :-1]), rtol=1e-6)
    model = params["model"]
    features = model["logit_scale"] * rms_norm(states[-1], model["transformer"]["final_norm"])
    features = features @ model["readout"] if output == "matrix" else features
    expected = jax.jit(make_logits(config, lexicon, VOCAB))(params, batch, KEY)[:, 1:]  # the first has read BOS alone
    np.testing.assert_allclose(readout(features, params.get("output_table", rows)), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["lexinvariant", "semi", "permuted_bank", "orthonormal"])
def test_an_untied_output_needs_a_lexicon_that_all_sequences_share(kind):
    with pytest.raises(InvalidConfig, match=r"model\.output"):
        language_model.initialize(replace(PLAIN, output="untied"), LexiconConfig(kind), VOCAB, KEY)


def test_an_orthonormal_lexicon_of_more_tokens_than_the_width_is_refused_before_anything_is_drawn():
    with pytest.raises(InvalidConfig, match=r"model\.width"):
        language_model.initialize(PLAIN, LexiconConfig("orthonormal"), WIDTH + 1, KEY)


def test_the_gpt2_scheme_is_small_and_its_logits_are_plain_inner_products():
    config = replace(PLAIN, width=64, mlp_width=256, depth=8, output="tied", initialization="gpt2", positions="learned")
    params = initialize(config, STANDARD, 500, KEY)
    layers = params["model"]["transformer"]["layers"]
    small = {name: layers["attention"][name] for name in ("query", "key", "value")} | {"mlp_in": layers["mlp_in"]}
    small |= {"table": params["table"], "positions": params["model"]["transformer"]["positions"]}
    for name, leaf in small.items():
        assert float(jnp.std(leaf)) == pytest.approx(0.02, rel=0.05), name
    for name, leaf in {"output": layers["attention"]["output"], "mlp_out": layers["mlp_out"]}.items():
        assert float(jnp.std(leaf)) == pytest.approx(0.005, rel=0.05), name
    assert float(jnp.std(params["model"]["bos"])) < 0.03
    assert float(params["model"]["logit_scale"]) == 64**0.5


def test_the_suffix_match_starts_below_the_plain_model_on_repeating_text():
    """At step 0 the circuit already predicts a repetition that the plain model cannot."""
    tokens = jnp.tile(jax.random.randint(jax.random.key(1), (8, 8), 0, VOCAB), (1, 6))
    batch = {"tokens": tokens, "row": jnp.arange(8)}
    late = {}
    for name in ("rope", "suffix_match"):
        config = replace(CONFIGS[name], width=128, mlp_width=128)
        params = initialize(config, LEXINVARIANT, VOCAB, jax.random.key(0))
        nll = jax.jit(make_nll(config, LEXINVARIANT, VOCAB))
        late[name] = float(jnp.mean(nll(params, batch, jax.random.key(2))[:, 24:]))
    assert late["suffix_match"] < 0.5
    assert late["rope"] > np.log(VOCAB) - 0.3


@pytest.mark.long
def test_the_suffix_match_starts_alike_at_every_width():
    """On a language whose suffixes are misleading, so that sharper scores or larger logits than at 128 channels are overconfident."""
    source = dirichlet_source(jax.random.key(3), VOCAB, 0.3)
    tokens = jax.vmap(lambda key: sample_tokens(key, source, 96))(jax.random.split(KEY, 16))
    batch = {"tokens": tokens, "row": jnp.arange(16)}

    def start(config, **scales):
        params = initialize(config, LEXINVARIANT, VOCAB, jax.random.key(0))
        params["model"] |= {name: scale * params["model"][name] for name, scale in scales.items()}
        nll = jax.jit(make_nll(config, LEXINVARIANT, VOCAB))
        return float(jnp.mean(nll(params, batch, jax.random.key(2))[:, 48:]))

    models = {
        (width, heads): replace(CONFIGS["suffix_match"], width=width, heads=heads, mlp_width=16)
        for width, heads in ((64, 2), (128, 2), (256, 2), (256, 4), (512, 2))
    }
    found = {sizes: start(model) for sizes, model in models.items()}
    assert max(found.values()) - min(found.values()) < 0.1, found
    assert start(models[512, 2], logit_scale=2.0) > found[512, 2] + 0.5  # as it was, halved at every width


def test_intermediates_are_returned_and_add_up():
    inputs, lexicon, apply = example(PLAIN)
    logits, seen = apply(inputs, lexicon, capture=True)
    np.testing.assert_allclose(logits, apply(inputs, lexicon), atol=1e-6)
    assert seen["residual_in"].shape == (2, 2, 12, WIDTH)
    np.testing.assert_array_equal(seen["residual_in"][1], seen["residual_out"][0])
    added = seen["residual_in"] + seen["attention_output"] + seen["mlp_output"]
    np.testing.assert_allclose(seen["residual_out"], added, atol=1e-5)
    np.testing.assert_allclose(seen["attention_weights"].sum(axis=-1), 1.0, atol=1e-5)


def test_gradients_reach_the_table_and_are_the_same_unrolled_and_rematerialised():
    batch = {"tokens": jnp.array([[1, 2, 1, 2, 3]]), "row": jnp.arange(1)}
    params, gradients = initialize(PLAIN, STANDARD, VOCAB, jax.random.key(0)), []
    for config in (PLAIN, replace(PLAIN, unroll=2), replace(PLAIN, remat=True)):
        loss = make_loss(config, STANDARD, VOCAB)
        gradients.append(jax.jit(jax.grad(lambda p, loss=loss: loss(p, batch, KEY)[0]))(params))
    assert np.abs(gradients[0]["table"]).max() > 0
    for other in gradients[1:]:
        jax.tree.map(lambda want, got: np.testing.assert_allclose(got, want, atol=1e-5), gradients[0], other)


def test_bfloat16_compute_keeps_logits_in_float32():
    inputs, lexicon, apply = example(replace(PLAIN, dtype="bfloat16"))
    logits, seen = apply(inputs, lexicon, capture=True)
    assert (logits.dtype, seen["residual_out"].dtype) == (jnp.float32, jnp.bfloat16)


@pytest.mark.parametrize("output", ["matrix", "tied"])
def test_bfloat16_does_not_round_the_scale_of_the_logits(output):
    """27.7128 = sqrt(768) is 27.75 in bfloat16, and all logits of GPT-2 would be 0.13 % too large."""
    config = replace(PLAIN, dtype="bfloat16", output=output)
    params, (inputs, _, _) = initialize(config, STANDARD, VOCAB, jax.random.key(0)), example(config, STANDARD)
    embeddings = jax.random.normal(jax.random.key(3), (*inputs.shape, WIDTH), jnp.bfloat16)
    features = jax.jit(partial(LanguageModel(config).apply, method="features"))

    def at(scale):
        weights = params["model"] | {"logit_scale": jnp.float32(scale)}
        return features({"params": weights}, inputs, embeddings)[0]

    assert at(1.0).dtype == jnp.bfloat16
    scaled, plain = (np.asarray(at(scale), np.float64) for scale in (768**0.5, 1.0))
    np.testing.assert_allclose((scaled * plain).sum() / np.square(plain).sum(), 768**0.5, rtol=5e-4)


def test_a_context_longer_than_the_positions_is_refused():
    inputs, lexicon, apply = example(replace(PLAIN, positions="learned", max_length=4), time=4)
    with pytest.raises(InvalidConfig, match=r"model\.max_length"):
        apply(jnp.tile(inputs, (1, 2)), lexicon)


def test_suffix_match_starts_without_batched_lapack_calls():
    config = CONFIGS["suffix_match"]
    program = initialize.lower(config, LEXINVARIANT, VOCAB, jax.random.key(0)).as_text()
    assert set(re.findall(r'num_batch_dims = "(\d+)"', program)) == {"0"}
