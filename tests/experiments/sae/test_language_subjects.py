"""A checkpoint of another's and MiniLM as models whose activations are read and spliced."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness.workspace import Workspace
from experiments.subjects.language_subjects import SubjectConfig, drawn, open_language_model
from lexinv.data.windows import array_windows
from lexinv.nn.language_model import make_hidden_states, make_nll
from lexinv.nn.sites import make_spliced_nll
from lexinv.validation import InvalidConfig


@pytest.fixture(scope="module")
def config(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for i in range(60):
        (folder / f"{i}.txt").write_text(f"document {i}: " + "some words and more of them, again and again. " * 4)
    return SubjectConfig(str(checkpoint), (f"file:{folder}/*.txt",), context=16, layer=0, windows=20, continued=5)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEXINV_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def subject(config, cache, tmp_path_factory):
    return open_language_model(config, 60, 2, Workspace(tmp_path_factory.mktemp("run"), "hash", False))


def test_a_checkpoint_is_read_and_goes_on_from_what_stands_in(subject):
    model, windows = subject.world.model, jnp.asarray(subject.windows[0])
    assert subject.width == 8 and [len(each.rows) for each in subject.held_out] == [60, 60]
    batch, key = {"tokens": windows, "row": jnp.arange(len(windows), dtype=jnp.int32)}, jax.random.key(0)
    parts = model.config, model.lexicon, model.vocab
    states = make_hidden_states(*parts)(model.params, batch, key)
    np.testing.assert_allclose(subject.held_out[0].rows, states[1].reshape(-1, 8), atol=1e-4)
    nats = make_nll(*parts)(model.params, batch, key)
    np.testing.assert_allclose(subject.held_out[0].losses, nats[:, 1:].reshape(-1), atol=1e-4)
    edited = make_spliced_nll(*parts, subject.site)(model.params, batch, key, lambda x: 0.5 * x)
    measured = subject.splice(lambda share, x: share * x)
    assert measured(jnp.float32(0.5), 0) == pytest.approx(float(edited[:, 1:].mean()), abs=1e-4)
    assert measured(jnp.float32(1.0), 0) == pytest.approx(float(subject.held_out[0].losses.mean()), abs=1e-4)
    assert measured(jnp.float32(1.0), 1) != measured(jnp.float32(1.0), 0)  # other windows


def test_windows_are_read_once_and_found_by_their_tokens(subject):
    windows = subject.windows[1]
    expected = subject.held_out[1].rows.reshape(len(windows), -1, 8)
    np.testing.assert_array_equal(subject.reader(windows)(windows[[3, 1]]), expected[[3, 1]].reshape(-1, 8))
    assert sum(subject.source.block_rows) == 20 * 15 and subject.source.block(0).shape[1] == 8


def test_corpora_are_read_in_equal_parts_and_none_twice():
    first, second = (array_windows(np.arange(start, start + 40, dtype=np.uint32), 4) for start in (0, 100))
    found = drawn([first, second], 7, 0, "windows")
    assert (found < 100).all(axis=1).sum() == 4 and len(set(map(tuple, found.tolist()))) == 7
    with pytest.raises(InvalidConfig) as error:
        drawn([first, second], 19, 0, "windows")
    assert error.value.field == "windows"


def test_a_layer_that_is_not_there_and_too_little_text_are_refused(config, tmp_path):
    workspace = Workspace(tmp_path / "run", "hash", False)
    for changes, field in (({"layer": 1}, "site.layer"), ({"windows": 100_000}, "windows")):
        with pytest.raises(InvalidConfig) as error:
            open_language_model(replace(config, **changes), 60, 2, workspace)
        assert error.value.field == field


def test_minilm_reads_words_alone_and_keeps_its_embeddings(asset, tmp_path, monkeypatch):
    from experiments.subjects import sentence_encoder
    from experiments.subjects.sentence_encoder import open_encoder

    monkeypatch.setattr(sentence_encoder, "asset", lambda name, workspace: asset(name))
    for i in range(40):
        sentence = f"Document number {i} is about cats, dogs and {i} other animals that live in the house."
        (tmp_path / f"{i}.txt").write_text(
            f"{sentence}\n\nThe second paragraph of it, number {i}, tells what they all ate.\n\nShort."
        )
    config = SubjectConfig("minilm", (f"file:{tmp_path}/*.txt",), context=24, layer=2, windows=8)
    subject = open_encoder(config, 20, 1, Workspace(tmp_path / "run", "hash", False))
    (passages,), (held_out,) = subject.passages, subject.held_out
    assert subject.width == 384 and held_out.losses is None
    assert not passages.words[:, 0].any() and (passages.words.sum(axis=1) == passages.mask.sum(axis=1) - 2).all()
    assert len(held_out.rows) == passages.words.sum() >= 20
    assert (
        sum(len(subject.source.block(i)) for i in range(len(subject.source.block_rows)))
        == subject.source.block_rows.sum()
    )
    measured = subject.splice(lambda share, x: share * x)
    assert measured(jnp.float32(1.0), 0) == pytest.approx(1.0, abs=1e-5)
    assert measured(jnp.float32(0.0), 0) < 0.9
    with pytest.raises(InvalidConfig) as error:
        open_encoder(replace(config, layer=5), 20, 1, Workspace(tmp_path / "run", "hash", False))
    assert error.value.field == "layer"
