"""The language model: what it may know of tokens, and what each choice of architecture computes."""

import re
from dataclasses import replace

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
from lexinv.nn.lexicon import LexiconConfig, draw_lexicon, embed, readout, row_keys
from lexinv.nn.linear import rms_norm
from lexinv.nn.transformer import TransformerConfig
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


def example(config, kind=LEXINVARIANT, batch=2, time=12):
    params = initialize(config, kind, VOCAB, jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (batch, time), 0, VOCAB)
    return params, shift_right(tokens), row_keys(jax.random.key(2), jnp.arange(batch))


@pytest.mark.parametrize("name", CONFIGS)
def test_relabelling_tokens_and_lexicon_together_relabels_the_logits(name):
    config = CONFIGS[name]
    params, inputs, keys = example(config)
    lexicon = draw_lexicon(LEXINVARIANT, None, keys, VOCAB, WIDTH)
    apply = jax.jit(lambda inputs, lexicon: LanguageModel(config).apply({"params": params["model"]}, inputs, lexicon))
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
        first = np.asarray(nll(params, {"tokens": tokens, "row": jnp.arange(256)}, jax.random.key(5))).sum(axis=1)
        second = np.asarray(nll(params, {"tokens": order[tokens], "row": jnp.arange(256, 512)}, jax.random.key(5))).sum(
            axis=1
        )
        error = np.sqrt((first.var() + second.var()) / 256)
        difference[kind.kind] = abs(first.mean() - second.mean()), 3 * error
    assert difference["lexinvariant"][0] < difference["lexinvariant"][1]
    assert difference["standard"][0] > 0.5


def test_no_parameter_of_the_lexinvariant_model_belongs_to_a_token():
    for name, config in CONFIGS.items():
        params = jax.eval_shape(lambda key, config=config: initialize(config, LEXINVARIANT, 13, key), jax.random.key(0))
        assert not [leaf.shape for leaf in jax.tree.leaves(params) if 13 in leaf.shape], name
    learned = initialize(PLAIN, STANDARD, 13, jax.random.key(0))
    assert learned["table"].shape == (13, WIDTH)


def test_averaged_over_lexica_the_first_token_is_uniform_and_unseen_tokens_are_exchangeable():
    params, _, keys = example(PLAIN, batch=4000)
    lexica = draw_lexicon(LEXINVARIANT, None, keys, VOCAB, WIDTH)
    inputs = jnp.tile(jnp.array([[BOS, 4, 2, 4]]), (4000, 1))
    logits = jax.jit(LanguageModel(PLAIN).apply)({"params": params["model"]}, inputs, lexica)
    probabilities = np.asarray(jax.nn.softmax(logits))
    mean, error = probabilities.mean(axis=0), probabilities.std(axis=0) / np.sqrt(4000)
    assert (np.abs(mean[0] - 1 / VOCAB) < 4.5 * error[0]).all()
    unseen = [v for v in range(VOCAB) if v not in (2, 4)]
    spread = mean[-1, unseen] - mean[-1, unseen].mean()
    assert (np.abs(spread) < 4.5 * error[-1, unseen]).all()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_future_changes_nothing(name):
    config = CONFIGS[name]
    params, inputs, keys = example(config, time=100)  # more than one query chunk
    lexicon = draw_lexicon(LEXINVARIANT, None, keys, VOCAB, WIDTH)
    apply = jax.jit(lambda inputs: LanguageModel(config).apply({"params": params["model"]}, inputs, lexicon))
    changed = inputs.at[:, 70:].set((inputs[:, 70:] + 1) % VOCAB)
    np.testing.assert_array_equal(apply(inputs)[:, :70], apply(changed)[:, :70])
    assert not np.allclose(apply(inputs)[:, 70:], apply(changed)[:, 70:])


@pytest.mark.parametrize("name", ["rope", "relative"])
def test_one_layer_with_a_window_of_w_does_not_see_a_token_that_is_w_back(name):
    config = replace(CONFIGS[name], depth=1, window=5)
    params, inputs, keys = example(config, time=100)
    lexicon = draw_lexicon(LEXINVARIANT, None, keys, VOCAB, WIDTH)
    apply = jax.jit(lambda inputs: LanguageModel(config).apply({"params": params["model"]}, inputs, lexicon))
    reacts = (apply(inputs) != apply(inputs.at[:, 70].set((inputs[:, 70] + 1) % VOCAB))).any(axis=-1)
    np.testing.assert_array_equal(reacts, np.tile((np.arange(100) >= 70) & (np.arange(100) < 75), (2, 1)))


def test_bidirectional_models_see_the_future():
    config = replace(PLAIN, causal=False)
    params, inputs, keys = example(config)
    lexicon = draw_lexicon(LEXINVARIANT, None, keys, VOCAB, WIDTH)
    apply = jax.jit(lambda inputs: LanguageModel(config).apply({"params": params["model"]}, inputs, lexicon))
    changed = inputs.at[:, -1].set((inputs[:, -1] + 1) % VOCAB)
    assert not np.allclose(apply(inputs)[:, 0], apply(changed)[:, 0])


def test_permuted_bank_loss_is_that_of_its_lexica():
    kind = LexiconConfig("permuted_bank")
    params, inputs, _ = example(PLAIN, kind)
    tokens = jnp.concatenate([inputs[:, 1:], inputs[:, 1:2]], axis=1)
    batch = {"tokens": tokens, "row": jnp.arange(2)}
    keys = row_keys(jax.random.key(6), jnp.arange(2))
    lexica = draw_lexicon(kind, None, keys, VOCAB, WIDTH)
    logits = LanguageModel(PLAIN).apply({"params": params["model"]}, shift_right(tokens), lexica)
    want = -jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=2)[..., 0]
    np.testing.assert_allclose(make_nll(PLAIN, kind, VOCAB)(params, batch, jax.random.key(6)), want, atol=1e-5)


@pytest.mark.parametrize("output", ["matrix", "tied"])
@pytest.mark.parametrize("kind", ["standard", "lexinvariant", "semi", "permuted_bank"])
def test_the_blockwise_loss_is_the_dense_one(kind, output):
    dense, config = LexiconConfig(kind, p_random=0.3), replace(PLAIN, output=output)
    params, inputs, _ = example(config, dense)
    batch = {"tokens": inputs.at[:, 0].set(1), "row": jnp.arange(2)}
    want = make_loss(config, dense, VOCAB)(params, batch, jax.random.key(7))[0]
    got = make_loss(config, replace(dense, vocab_block=4), VOCAB)(params, batch, jax.random.key(7))[0]
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_the_gradient_of_the_standard_loss_reaches_the_table_and_the_lexinvariant_one_has_none():
    batch = {"tokens": jnp.array([[1, 2, 1, 2]]), "row": jnp.arange(1)}
    for kind in (STANDARD, LEXINVARIANT):
        params, _, _ = example(PLAIN, kind)
        loss = make_loss(PLAIN, kind, VOCAB)
        gradient = jax.jit(jax.grad(lambda p, loss=loss: loss(p, batch, jax.random.key(0))[0]))(params)
        assert ("table" in gradient) == kind.learned
        assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradient.get("table", jnp.ones(1))))


@pytest.mark.parametrize("output", ["tied", "untied"])
def test_tied_and_untied_outputs_are_read_from_the_hidden_states_by_their_table(output):
    config = replace(PLAIN, output=output)
    params = initialize(config, STANDARD, VOCAB, jax.random.key(0))
    assert ("output_table" in params) == (output == "untied")
    assert "readout" not in params["model"]
    batch, key = {"tokens": jax.random.randint(jax.random.key(1), (2, 12), 0, VOCAB), "row": jnp.arange(2)}, KEY
    states = jax.jit(make_hidden_states(config, STANDARD, VOCAB))(params, batch, key)
    hidden = rms_norm(states[-1], params["model"]["transformer"]["final_norm"])
    table = params["table" if output == "tied" else "output_table"]
    expected = hidden @ table.T / np.float32(np.sqrt(WIDTH))
    found = jax.jit(make_logits(config, STANDARD, VOCAB))(params, batch, key)
    np.testing.assert_allclose(found[:, 1:], expected, atol=1e-5)
    nll = -jnp.take_along_axis(jax.nn.log_softmax(found), batch["tokens"][..., None], axis=-1)[..., 0]
    for lexicon in (STANDARD, replace(STANDARD, vocab_block=4)):
        np.testing.assert_allclose(jax.jit(make_nll(config, lexicon, VOCAB))(params, batch, key), nll, rtol=1e-5)


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
    batch = {"tokens": jnp.arange(12)[None], "row": jnp.arange(1)}
    hidden = rms_norm(jax.jit(make_hidden_states(config, STANDARD, 500))(params, batch, KEY)[-1], jnp.ones(64))
    logits = jax.jit(make_logits(config, STANDARD, 500))(params, batch, KEY)[:, 1:]
    np.testing.assert_allclose(logits, hidden @ params["table"].T, atol=1e-5)


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
    params, inputs, keys = example(PLAIN)
    lexicon = draw_lexicon(LEXINVARIANT, None, keys, VOCAB, WIDTH)
    variables = {"params": params["model"]}
    logits, seen = LanguageModel(PLAIN).apply(variables, inputs, lexicon, capture=True)
    np.testing.assert_array_equal(logits, LanguageModel(PLAIN).apply(variables, inputs, lexicon))
    assert seen["residual_in"].shape == (2, 2, 12, WIDTH)
    np.testing.assert_array_equal(seen["residual_in"][1], seen["residual_out"][0])
    added = seen["residual_in"] + seen["attention_output"] + seen["mlp_output"]
    np.testing.assert_allclose(seen["residual_out"], added, atol=1e-5)
    np.testing.assert_allclose(seen["attention_weights"].sum(axis=-1), 1.0, atol=1e-5)


def test_unrolling_and_rematerialisation_change_nothing():
    batch = {"tokens": jnp.array([[1, 2, 1, 2, 3]]), "row": jnp.arange(1)}
    params, _, _ = example(PLAIN)
    gradients = []
    for config in (PLAIN, replace(PLAIN, unroll=2), replace(PLAIN, remat=True)):
        loss = make_loss(config, LEXINVARIANT, VOCAB)
        gradients.append(jax.grad(lambda p, loss=loss: loss(p, batch, jax.random.key(0))[0])(params))
    for other in gradients[1:]:
        for want, got in zip(jax.tree.leaves(gradients[0]), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(got, want, atol=1e-5)


def test_bfloat16_compute_keeps_parameters_and_logits_in_float32():
    config = replace(PLAIN, dtype="bfloat16")
    params, inputs, keys = example(config)
    logits, seen = LanguageModel(config).apply(
        {"params": params["model"]}, inputs, draw_lexicon(LEXINVARIANT, None, keys, VOCAB, WIDTH), capture=True
    )
    assert logits.dtype == jnp.float32
    assert seen["residual_out"].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("output", ["matrix", "tied"])
def test_bfloat16_does_not_round_the_scale_of_the_logits(output):
    """27.7128 = sqrt(768) is 27.75 in bfloat16, and all logits of GPT-2 would be 0.13 % too large."""
    config = replace(PLAIN, dtype="bfloat16", output=output)
    params, inputs, _ = example(config, STANDARD)
    embeddings = jax.random.normal(jax.random.key(3), (*inputs.shape, WIDTH), jnp.bfloat16)
    features = jax.jit(LanguageModel(config).apply, static_argnames="method")
    scaled, plain = (
        features(
            {"params": params["model"] | {"logit_scale": jnp.float32(scale)}}, inputs, embeddings, method="features"
        )[0]
        for scale in (768**0.5, 1.0)
    )
    assert scaled.dtype == jnp.bfloat16
    scaled, plain = (np.asarray(each, np.float64) for each in (scaled, plain))
    np.testing.assert_allclose((scaled * plain).sum() / np.square(plain).sum(), 768**0.5, rtol=5e-4)


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("heads", {"heads": 3}),
        ("depth", {"depth": 0}),
        ("heads", {"width": 6, "heads": 2}),
        ("initialization", {"initialization": "suffix_match"}),
        ("window", {"window": -1}),
        ("window", {"window": 3, "causal": False}),
        ("output", {"output": "tied", "initialization": "mimetic"}),
        ("rotary_share", {"rotary_share": 0.4}),
        ("rotary_share", {"rotary_share": 1.5}),
        ("rotary_share", {"positions": "none", "rotary_share": 0.5}),
        ("norm_epsilon", {"norm_epsilon": 1e-5}),
        ("norm_epsilon", {"norm": "layer", "norm_epsilon": 0.0}),
        *(
            ("initialization", {"initialization": "mimetic", **change})
            for change in ({"norm": "layer"}, {"bias": True}, {"residual": "parallel"}, {"rotary_share": 0.5})
        ),
    ],
)
def test_impossible_models_are_refused_by_name(field, arguments):
    with pytest.raises(InvalidConfig, match=rf"model\.{field}"):
        replace(PLAIN, **arguments)


def test_a_context_longer_than_the_positions_is_refused():
    params, inputs, keys = example(replace(PLAIN, positions="learned"))
    short = LanguageModel(replace(PLAIN, max_length=4))
    with pytest.raises(InvalidConfig, match=r"model\.max_length"):
        short.apply({"params": params["model"]}, inputs, draw_lexicon(LEXINVARIANT, None, keys, VOCAB, WIDTH))


def test_suffix_match_starts_without_batched_lapack_calls():
    config = CONFIGS["suffix_match"]
    program = initialize.lower(config, LEXINVARIANT, VOCAB, jax.random.key(0)).as_text()
    assert set(re.findall(r'num_batch_dims = "(\d+)"', program)) == {"0"}


@pytest.mark.parametrize("kind", [STANDARD, LEXINVARIANT])
def test_logits_and_nll_are_of_the_same_prediction(kind):
    params = initialize(PLAIN, kind, VOCAB, jax.random.key(0))
    batch = {"tokens": jax.random.randint(jax.random.key(1), (2, 12), 0, VOCAB), "row": jnp.array([3, 5])}
    log_probs = jax.nn.log_softmax(make_logits(PLAIN, kind, VOCAB)(params, batch, jax.random.key(2)))
    expected = -jnp.take_along_axis(log_probs, batch["tokens"][..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(make_nll(PLAIN, kind, VOCAB)(params, batch, jax.random.key(2)), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", [LEXINVARIANT, STANDARD])
def test_hidden_states_are_those_that_the_logits_are_read_from(kind):
    config, tokens = CONFIGS["rope"], jax.random.randint(jax.random.key(1), (2, 12), 0, VOCAB)
    params = initialize(config, kind, VOCAB, jax.random.key(0))
    batch, key = {"tokens": tokens, "row": jnp.arange(2)}, jax.random.key(2)
    states = jax.jit(make_hidden_states(config, kind, VOCAB))(params, batch, key)
    assert states.shape == (config.depth + 1, 2, 11, WIDTH)
    lexicon = draw_lexicon(kind, params.get("table"), row_keys(key, batch["row"]), VOCAB, WIDTH)
    np.testing.assert_allclose(states[0], embed(lexicon, tokens[:, :-1]), rtol=1e-6)
    model = params["model"]
    features = rms_norm(states[-1], model["transformer"]["final_norm"]) @ (model["logit_scale"] * model["readout"])
    expected = jax.jit(make_logits(config, kind, VOCAB))(params, batch, key)[:, 1:]  # the first has read BOS alone
    np.testing.assert_allclose(readout(features, lexicon), expected, atol=1e-5)


def test_a_hidden_state_has_read_its_own_token_and_no_later_one():
    config, tokens = CONFIGS["suffix_match"], jax.random.randint(jax.random.key(1), (1, 12), 0, VOCAB)
    params = initialize(config, LEXINVARIANT, VOCAB, jax.random.key(0))
    states = jax.jit(make_hidden_states(config, LEXINVARIANT, VOCAB))
    changed = tokens.at[0, 5].set((tokens[0, 5] + 1) % VOCAB)
    before, after = (
        states(params, {"tokens": each, "row": jnp.arange(1)}, jax.random.key(2)) for each in (tokens, changed)
    )
    np.testing.assert_array_equal(before[:, 0, :5], after[:, 0, :5])
    assert (before[:, 0, 5] != after[:, 0, 5]).any(axis=-1).all()
