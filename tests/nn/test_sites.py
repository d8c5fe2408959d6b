"""Activations are read where they are said to be, and replaced there and nowhere else."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.nn import language_model
from lexinv.nn.language_model import LanguageModel, make_logits, make_nll, shift_right
from lexinv.nn.lexicon import LexiconConfig, draw_lexicon, readout, row_keys
from lexinv.nn.linear import rms_norm
from lexinv.nn.sites import Site, make_activations, make_spliced_nll
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import InvalidConfig

VOCAB, WIDTH = 9, 16
CONFIG = TransformerConfig(depth=3, width=WIDTH, heads=2, mlp_width=32, max_length=32)
LEXINVARIANT, STANDARD = LexiconConfig("lexinvariant"), LexiconConfig("standard")
NAMES = ("residual_in", "residual_middle", "residual_out", "attention_output", "mlp_output")
KEY = jax.random.key(2)
BATCH = {"tokens": jax.random.randint(jax.random.key(1), (2, 12), 0, VOCAB), "row": jnp.array([3, 5])}


def start(config=CONFIG, kind=STANDARD):
    return jax.jit(language_model.initialize, static_argnums=(0, 1, 2))(config, kind, VOCAB, jax.random.key(0))


@pytest.fixture(scope="module")
def params():
    return start()


@pytest.fixture(scope="module")
def captured(params):
    """The intermediates of all layers, as the model itself returns them."""
    variables = {"params": params["model"]}
    return LanguageModel(CONFIG).apply(variables, shift_right(BATCH["tokens"]), params["table"], capture=True)[1]


def spliced(params, site, edit, batch=BATCH, config=CONFIG, kind=STANDARD):
    return jax.jit(make_spliced_nll(config, kind, VOCAB, site), static_argnums=3)(params, batch, KEY, edit)


@pytest.mark.parametrize("name", NAMES)
def test_reading_gives_the_intermediates_of_the_model(params, captured, name):
    for layer in (0, 2) if name == "mlp_output" else (1,):
        read = jax.jit(make_activations(CONFIG, STANDARD, VOCAB, Site(layer, name)))(params, BATCH, KEY)
        np.testing.assert_allclose(read, captured[name][layer][:, 1:], atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "block"), [("standard", 0), ("standard", 4), ("lexinvariant", 0), ("permuted_bank", 0)]
)
def test_splicing_in_the_same_activations_changes_nothing(kind, block):
    lexicon = LexiconConfig(kind, vocab_block=block)
    started = start(kind=lexicon)
    found = spliced(started, Site(1, "residual_out"), lambda x: x, kind=lexicon)
    np.testing.assert_allclose(found, jax.jit(make_nll(CONFIG, lexicon, VOCAB))(started, BATCH, KEY), atol=1e-5)


def test_splicing_in_another_text_s_stream_gives_that_text_s_predictions(params):
    """The residual stream is all that the later layers know of the tokens."""
    other = BATCH | {"tokens": (BATCH["tokens"] + 2) % VOCAB}
    site = Site(1, "residual_out")
    theirs = jax.jit(make_activations(CONFIG, STANDARD, VOCAB, site))(params, other, KEY)
    found = spliced(params, site, lambda x: theirs)
    log_probs = jax.nn.log_softmax(jax.jit(make_logits(CONFIG, STANDARD, VOCAB))(params, other, KEY))
    expected = -jnp.take_along_axis(log_probs, BATCH["tokens"][..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(found[:, 1:], expected[:, 1:], atol=1e-5)


def test_without_its_mlp_the_last_layer_predicts_from_its_middle(params, captured):
    found = spliced(params, Site(2, "mlp_output"), jnp.zeros_like)
    model = params["model"]
    hidden = rms_norm(captured["residual_middle"][2], model["transformer"]["final_norm"])
    logits = readout(model["logit_scale"] * hidden @ model["readout"], params["table"])
    expected = -jnp.take_along_axis(jax.nn.log_softmax(logits), BATCH["tokens"][..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(found[:, 1:], expected[:, 1:], atol=1e-5)


def test_each_site_s_zeros_are_those_of_the_parameters_that_write_there(params):
    """Without output matrix attention writes nothing, BOS's position apart, which no first token's value reaches here."""
    layers = params["model"]["transformer"]["layers"]
    output = layers["attention"]["output"].at[2].set(0.0)
    silent = layers | {"attention": layers["attention"] | {"output": output}}
    muted = params | {"model": params["model"] | {"transformer": params["model"]["transformer"] | {"layers": silent}}}
    expected = jax.jit(make_nll(CONFIG, STANDARD, VOCAB))(muted, BATCH, KEY)
    found = spliced(params, Site(2, "attention_output"), jnp.zeros_like)
    np.testing.assert_allclose(found[:, 1:], expected[:, 1:], atol=1e-5)


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
    slope = jax.jit(jax.grad(lambda a: nll(params, BATCH, KEY, lambda x: a * x).sum()))
    value = jax.jit(lambda a: nll(params, BATCH, KEY, lambda x: a * x).sum())
    numeric = (value(1.01) - value(0.99)) / 0.02
    np.testing.assert_allclose(slope(1.0), numeric, rtol=0.02, atol=0.01)


def test_activations_are_float32_and_edits_are_cast_back():
    config = replace(CONFIG, dtype="bfloat16")
    started = start(config)
    site = Site(1, "mlp_output")
    assert jax.eval_shape(make_activations(config, STANDARD, VOCAB, site), started, BATCH, KEY).dtype == jnp.float32
    found = spliced(started, site, lambda x: x, config=config)
    np.testing.assert_allclose(found, make_nll(config, STANDARD, VOCAB)(started, BATCH, KEY), atol=0.05)


def test_lexica_are_drawn_as_by_the_loss():
    started = start(kind=LEXINVARIANT)
    read = make_activations(CONFIG, LEXINVARIANT, VOCAB, Site(0, "residual_in"))(started, BATCH, KEY)
    lexica = draw_lexicon(LEXINVARIANT, None, row_keys(KEY, BATCH["row"]), VOCAB, WIDTH)
    expected = jnp.take_along_axis(lexica, BATCH["tokens"][:, :-1, None], axis=1)
    np.testing.assert_allclose(read, expected, atol=1e-6)


@pytest.mark.parametrize("make", [make_activations, make_spliced_nll])
def test_sites_that_the_model_does_not_have_are_refused(make):
    for layer in (-1, 3):
        with pytest.raises(InvalidConfig, match=r"site\.layer"):
            make(CONFIG, STANDARD, VOCAB, Site(layer, "residual_in"))
    with pytest.raises(InvalidConfig, match=r"site\.name"):
        make(replace(CONFIG, residual="parallel"), STANDARD, VOCAB, Site(0, "residual_middle"))
