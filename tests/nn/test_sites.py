"""Activations are read where they are said to be, and replaced there and nowhere else."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.nn.language_model import LanguageModel, initialize, make_logits, make_nll, shift_right
from lexinv.nn.lexicon import LexiconConfig, readout, token_nll
from lexinv.nn.linear import rms_norm
from lexinv.nn.sites import Site, make_activations, make_spliced_nll
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import InvalidConfig

VOCAB, WIDTH = 9, 16
CONFIG = TransformerConfig(depth=3, width=WIDTH, heads=2, mlp_width=32, max_length=32)
STANDARD = LexiconConfig("standard")
NAMES = ("residual_in", "residual_middle", "residual_out", "attention_output", "mlp_output")
KEY = jax.random.key(2)
BATCH = {"tokens": jax.random.randint(jax.random.key(1), (2, 12), 0, VOCAB), "row": jnp.array([3, 5])}


@pytest.fixture(scope="module")
def params():
    """They serve every lexicon and compute dtype: a table that is drawn is not read."""
    return jax.jit(initialize, static_argnums=(0, 1, 2))(CONFIG, STANDARD, VOCAB, jax.random.key(0))


@pytest.fixture(scope="module")
def captured(params):
    """The intermediates of all layers, as the model itself returns them."""
    variables = {"params": params["model"]}
    apply = jax.jit(LanguageModel(CONFIG).apply, static_argnames="capture")
    return apply(variables, shift_right(BATCH["tokens"]), params["table"], capture=True)[1]


def spliced(params, site, edit, config=CONFIG, kind=STANDARD):
    return jax.jit(make_spliced_nll(config, kind, VOCAB, site), static_argnums=3)(params, BATCH, KEY, edit)


def test_reading_gives_the_intermediates_of_the_model(params, captured):
    sites = [Site(1, name) for name in NAMES] + [Site(0, "mlp_output"), Site(2, "residual_out")]
    readers = [make_activations(CONFIG, STANDARD, VOCAB, site) for site in sites]
    read = jax.jit(lambda params: [reader(params, BATCH, KEY) for reader in readers])(params)
    for site, found in zip(sites, read, strict=True):
        np.testing.assert_allclose(found, captured[site.name][site.layer][:, 1:], atol=1e-5, err_msg=str(site))


@pytest.mark.parametrize(("kind", "block"), [("standard", 0), ("standard", 4), ("permuted_bank", 0)])
def test_splicing_in_the_same_activations_changes_nothing(params, kind, block):
    lexicon = LexiconConfig(kind, vocab_block=block)
    found = spliced(params, Site(1, "residual_out"), lambda x: x, kind=lexicon)
    np.testing.assert_allclose(found, jax.jit(make_nll(CONFIG, lexicon, VOCAB))(params, BATCH, KEY), atol=1e-5)


def test_splicing_in_another_text_s_stream_gives_that_text_s_predictions(params):
    """The residual stream is all that the later layers know of the tokens."""
    other = BATCH | {"tokens": (BATCH["tokens"] + 2) % VOCAB}
    site = Site(1, "residual_out")
    theirs = jax.jit(make_activations(CONFIG, STANDARD, VOCAB, site))(params, other, KEY)
    found = spliced(params, site, lambda x: theirs)
    expected = token_nll(jax.jit(make_logits(CONFIG, STANDARD, VOCAB))(params, other, KEY), BATCH["tokens"])
    np.testing.assert_allclose(found[:, 1:], expected[:, 1:], atol=1e-5)


def test_without_its_mlp_the_last_layer_predicts_from_its_middle(params, captured):
    found = spliced(params, Site(2, "mlp_output"), jnp.zeros_like)
    model = params["model"]
    hidden = rms_norm(captured["residual_middle"][2], model["transformer"]["final_norm"])
    logits = readout(model["logit_scale"] * hidden @ model["readout"], params["table"])
    np.testing.assert_allclose(found[:, 1:], token_nll(logits, BATCH["tokens"])[:, 1:], atol=1e-5)


def test_the_edit_neither_sees_nor_changes_bos(params):
    shapes = []

    def edit(x):
        shapes.append(x.shape)
        return x + 100.0

    plain = jax.jit(make_nll(CONFIG, STANDARD, VOCAB))(params, BATCH, KEY)
    found = spliced(params, Site(0, "residual_in"), edit)
    assert set(shapes) == {(2, 11, WIDTH)}
    np.testing.assert_allclose(found[:, 0], plain[:, 0], atol=1e-6)
    assert (np.abs(found[:, 1:] - plain[:, 1:]) > 1e-6).any()


def test_gradients_reach_the_edit(params):
    nll = make_spliced_nll(CONFIG, STANDARD, VOCAB, Site(1, "residual_out"))
    value_and_slope = jax.jit(jax.value_and_grad(lambda a: nll(params, BATCH, KEY, lambda x: a * x).sum()))
    numeric = (value_and_slope(1.01)[0] - value_and_slope(0.99)[0]) / 0.02
    np.testing.assert_allclose(value_and_slope(1.0)[1], numeric, rtol=0.02, atol=0.01)


def test_activations_are_float32_and_edits_are_cast_back(params):
    config = replace(CONFIG, dtype="bfloat16")
    site = Site(1, "mlp_output")
    assert jax.eval_shape(make_activations(config, STANDARD, VOCAB, site), params, BATCH, KEY).dtype == jnp.float32
    found = spliced(params, site, lambda x: x, config=config)
    np.testing.assert_allclose(found, jax.jit(make_nll(config, STANDARD, VOCAB))(params, BATCH, KEY), atol=0.05)


@pytest.mark.parametrize("make", [make_activations, make_spliced_nll])
def test_sites_that_the_model_does_not_have_are_refused(make):
    for layer in (-1, 3):
        with pytest.raises(InvalidConfig, match=r"site\.layer"):
            make(CONFIG, STANDARD, VOCAB, Site(layer, "residual_in"))
    with pytest.raises(InvalidConfig, match=r"site\.name"):
        make(replace(CONFIG, residual="parallel"), STANDARD, VOCAB, Site(0, "residual_middle"))
