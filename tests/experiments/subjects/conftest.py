"""A random model of the Llama form with a byte-level tokenizer."""

import json

import numpy as np
import pytest

from experiments.harness.workspace import Workspace
from experiments.subjects.pretrained_language_model import open_pretrained

WIDTH, HIDDEN, VOCAB = 8, 12, 260


@pytest.fixture(scope="package")
def folder(tmp_path_factory):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("llama")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = {piece: i for i, piece in enumerate(["<|begin|>", *letters, "<|endoftext|>", "th", "the"])}
    model = tokenizers.Tokenizer(models.BPE(pieces, [("t", "h"), ("th", "e")]))
    model.pre_tokenizer, model.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    model.add_special_tokens(["<|begin|>", "<|endoftext|>"])
    model.save(str(folder / "tokenizer.json"))
    config = {"model_type": "llama", "vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": HIDDEN, "bos_token_id": 0}
    config |= {"max_position_embeddings": 16, "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"embed_tokens": (VOCAB, WIDTH), "norm": (WIDTH,), "layers.0.input_layernorm": (WIDTH,)}
    shapes |= {"layers.0.post_attention_layernorm": (WIDTH,)}
    shapes |= {f"layers.0.self_attn.{name}_proj": (8 if name in "qo" else 4, WIDTH) for name in "qkvo"}
    shapes |= {f"layers.0.mlp.{name}_proj": (HIDDEN, WIDTH) for name in ("gate", "up")}
    shapes |= {"layers.0.mlp.down_proj": (WIDTH, HIDDEN)}
    generator = np.random.default_rng(0)
    tensors = {f"model.{k}.weight": generator.normal(0, 0.5, shape).astype(np.float32) for k, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="package")
def world(folder, tmp_path_factory):
    return open_pretrained(str(folder), Workspace(tmp_path_factory.mktemp("run"), "hash", False))
