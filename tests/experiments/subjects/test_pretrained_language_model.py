"""A random model of the Llama form with a byte-level tokenizer as a world, and SmolLM2."""

import jax
import numpy as np
import pytest

from experiments.harness.workspace import Workspace
from experiments.subjects import pretrained_language_model
from experiments.subjects.pretrained_language_model import open_pretrained
from lexinv.validation import InvalidConfig


def test_bits_per_byte_are_those_of_the_logits_after_the_separator(world):
    texts = ["the <|endoftext|> éa", "b"]
    windows = world.windows(texts, 16)
    assert world.tokenizer.decode(windows[1, :1]) == "b" and (windows[1, 1:] == -1).all()
    assert (windows[0] >= 0).all() and not (windows[0] == world.tokenizer.separator).any()  # as text, byte by byte
    logits = np.asarray(world.logits(np.maximum(windows, 0)), np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    real = windows >= 0
    nats = -np.take_along_axis(log_probs, np.maximum(windows, 0)[..., None], -1)[..., 0][real].sum()
    read = world.tokenizer.token_bytes[windows[real]].sum()
    assert read == 3 + 15 + 1  # `the`, 15 of the bytes after it, and the second text
    assert world.bits_per_byte(texts, 16) == pytest.approx(nats / np.log(2) / read, rel=1e-5)
    # The separator's vector begins a sequence, not that of the checkpoint's own BOS.
    table, begun = world.model.params["table"], world.model.params["model"]["bos"]
    np.testing.assert_array_equal(begun, table[world.tokenizer.separator])


def test_what_is_no_world_is_refused(world, checkpoint, tmp_path):
    workspace = Workspace(tmp_path / "run", "hash", False)
    with pytest.raises(InvalidConfig, match=r"model = 'smollm3' .*smollm2"):
        open_pretrained("smollm3", workspace)
    with pytest.raises(InvalidConfig, match="length = 17"):
        world.windows(["a"], 17)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((checkpoint / name).read_bytes())
    with pytest.raises(InvalidConfig, match=r"tokenizer\.json"):
        open_pretrained(str(tmp_path), workspace)


@pytest.mark.long
def test_smollm2_reads_english_better_than_turkish(asset, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained_language_model, "asset", lambda name, workspace: asset(name))
    world = open_pretrained("smollm2", Workspace(tmp_path / "run", "hash", False))
    assert world.tokenizer.vocab_size == world.model.vocab == 49152
    texts = {
        "english": "The central bank raised interest rates again, because prices were still rising faster than wages.",
        "turkish": "Merkez bankası faizleri yeniden yükseltti, çünkü fiyatlar hâlâ ücretlerden daha hızlı artıyordu.",
    }
    bits = {name: world.bits_per_byte([text], 64) for name, text in texts.items()}
    assert 0.5 < bits["english"] < 1.2 and bits["turkish"] > 2 * bits["english"]
    last = world.logits(world.tokenizer.encode("The capital of Italy is the city of Rome")[None])[0, -1]
    assert world.tokenizer.decode([int(jax.numpy.argmax(last))]) == " Rome"
