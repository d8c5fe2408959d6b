"""Checkpoints written here, tensor by tensor, against short forward passes in NumPy; and what is refused."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.nn.language_model import make_logits, make_nll
from lexinv.nn.pretrained import load_language_model
from lexinv.nn.sites import Site, make_activations, make_spliced_nll
from lexinv.validation import InvalidConfig

save_file = pytest.importorskip("safetensors.numpy").save_file

VOCAB, WIDTH, DEPTH, HEADS, TIME, EOT = 11, 8, 2, 2, 6, 3
GPT2 = {"model_type": "gpt2", "vocab_size": VOCAB, "n_embd": WIDTH, "n_layer": DEPTH, "n_head": HEADS}
GPT2 |= {"n_positions": 16, "layer_norm_epsilon": 1e-5, "bos_token_id": EOT, "eos_token_id": EOT}
NEOX = {"model_type": "gpt_neox", "vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": DEPTH}
NEOX |= {"num_attention_heads": HEADS, "intermediate_size": 12, "max_position_embeddings": 16, "rotary_pct": 0.5}
NEOX |= {"bos_token_id": EOT, "use_parallel_residual": True, "hidden_act": "gelu"}


def gpt2_shapes():
    shapes = {"wte.weight": (VOCAB, WIDTH), "wpe.weight": (16, WIDTH), "ln_f.weight": (WIDTH,), "ln_f.bias": (WIDTH,)}
    for i in range(DEPTH):
        for name, n, m in (("attn.c_attn", 8, 24), ("attn.c_proj", 8, 8), ("mlp.c_fc", 8, 32), ("mlp.c_proj", 32, 8)):
            shapes |= {f"h.{i}.{name}.weight": (n, m), f"h.{i}.{name}.bias": (m,)}
        shapes |= {f"h.{i}.{name}.{part}": (WIDTH,) for name in ("ln_1", "ln_2") for part in ("weight", "bias")}
    return shapes


def neox_shapes():
    shapes = {"gpt_neox.embed_in.weight": (VOCAB, WIDTH), "embed_out.weight": (VOCAB, WIDTH)}
    shapes |= {f"gpt_neox.final_layer_norm.{part}": (WIDTH,) for part in ("weight", "bias")}
    matrices = {"attention.query_key_value": (24, 8), "attention.dense": (8, 8)}
    matrices |= {"mlp.dense_h_to_4h": (12, 8), "mlp.dense_4h_to_h": (8, 12)}
    for i in range(DEPTH):
        at = f"gpt_neox.layers.{i}"
        for name, shape in matrices.items():
            shapes |= {f"{at}.{name}.weight": shape, f"{at}.{name}.bias": shape[:1]}
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes |= {f"{at}.{name}.{part}": (WIDTH,) for part in ("weight", "bias")}
    return shapes


def random_tensors(shapes):
    generator = np.random.default_rng(0)
    return {name: generator.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


def write(folder, config, tensors):
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")


def norm(x, t, name):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-5) * t[f"{name}.weight"] + t[f"{name}.bias"]


def attend(q, k, v):
    """Causal attention of one head, [time, dim] each, one query at a time."""
    rows = []
    for t in range(len(q)):
        scores = np.exp(k[: t + 1] @ q[t] / math.sqrt(q.shape[1]))
        rows.append(scores @ v[: t + 1] / scores.sum())
    return np.stack(rows)


def gpt2_logits(t, ids):
    x = t["wte.weight"][ids] + t["wpe.weight"][: len(ids)]
    for i in range(DEPTH):
        at = f"h.{i}"
        qkv = norm(x, t, f"{at}.ln_1") @ t[f"{at}.attn.c_attn.weight"] + t[f"{at}.attn.c_attn.bias"]
        heads = [attend(*(qkv[:, p * 8 + 4 * h : p * 8 + 4 * h + 4] for p in range(3))) for h in range(HEADS)]
        x = x + np.concatenate(heads, 1) @ t[f"{at}.attn.c_proj.weight"] + t[f"{at}.attn.c_proj.bias"]
        u = norm(x, t, f"{at}.ln_2") @ t[f"{at}.mlp.c_fc.weight"] + t[f"{at}.mlp.c_fc.bias"]
        u = 0.5 * u * (1 + np.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
        x = x + u @ t[f"{at}.mlp.c_proj.weight"] + t[f"{at}.mlp.c_proj.bias"]
    return norm(x, t, "ln_f") @ t["wte.weight"].T


def turned(x):
    """The first two of four channels turned by the time, in radians: one plane, frequency 1."""
    angle = np.arange(len(x))
    first, second = x[:, 0], x[:, 1]
    turn = [first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)]
    return np.stack([*turn, x[:, 2], x[:, 3]], axis=1)


def neox_logits(t, ids, parallel):
    t = {name.removeprefix("gpt_neox."): tensor for name, tensor in t.items()}
    x = t["embed_in.weight"][ids]
    for i in range(DEPTH):
        at = f"layers.{i}"
        read = norm(x, t, f"{at}.input_layernorm")
        qkv = read @ t[f"{at}.attention.query_key_value.weight"].T + t[f"{at}.attention.query_key_value.bias"]
        heads = []
        for h in range(HEADS):
            q, k, v = (qkv[:, 12 * h + 4 * p : 12 * h + 4 * p + 4] for p in range(3))
            heads.append(attend(turned(q), turned(k), v))
        attended = np.concatenate(heads, 1) @ t[f"{at}.attention.dense.weight"].T + t[f"{at}.attention.dense.bias"]
        read = norm(x if parallel else x + attended, t, f"{at}.post_attention_layernorm")
        u = read @ t[f"{at}.mlp.dense_h_to_4h.weight"].T + t[f"{at}.mlp.dense_h_to_4h.bias"]
        u = 0.5 * u * (1 + np.vectorize(math.erf)(u / math.sqrt(2)))
        x = x + attended + u @ t[f"{at}.mlp.dense_4h_to_h.weight"].T + t[f"{at}.mlp.dense_4h_to_h.bias"]
    return norm(x, t, "final_layer_norm") @ t["embed_out.weight"].T


BATCH = {"tokens": jnp.array([[1, 4, 0, 7, 10, 2], [5, 5, 9, 3, 8, 6]]), "row": jnp.arange(2)}
READ = np.concatenate([np.full((2, 1), EOT), np.asarray(BATCH["tokens"])[:, :-1]], axis=1)
KEY = jax.random.key(0)


def logits(model):
    return jax.jit(make_logits(model.config, model.lexicon, model.vocab))(model.params, BATCH, KEY)


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_gpt2_is_what_its_tensors_say(tmp_path, prefix):
    tensors = random_tensors(gpt2_shapes())
    ignored = {"h.0.attn.bias": np.ones((1, 1, 16, 16), bool)}
    write(tmp_path, GPT2, {f"{prefix}{name}": tensor for name, tensor in (tensors | ignored).items()})
    expected = np.stack([gpt2_logits(tensors, ids) for ids in READ])
    np.testing.assert_allclose(logits(load_language_model(tmp_path)), expected, atol=1e-4)


@pytest.mark.parametrize("parallel", [True, False])
def test_gpt_neox_is_what_its_tensors_say(tmp_path, parallel):
    tensors = random_tensors(neox_shapes())
    write(tmp_path, NEOX | {"use_parallel_residual": parallel}, tensors)
    expected = np.stack([neox_logits(tensors, ids, parallel) for ids in READ])
    np.testing.assert_allclose(logits(load_language_model(tmp_path)), expected, atol=1e-4)


@pytest.mark.parametrize("held", [("wte.weight", "lm_head.weight"), ("wte.weight",), ("lm_head.weight",)])
def test_a_tied_file_may_hold_either_name_or_both(tmp_path, held):
    tensors = random_tensors(gpt2_shapes())
    table = tensors.pop("wte.weight")
    write(tmp_path, GPT2, tensors | {name: table.copy() for name in held})
    params = load_language_model(tmp_path).params
    assert "output_table" not in params
    np.testing.assert_array_equal(params["table"], table)


def test_an_untied_head_is_used(tmp_path):
    tensors = random_tensors(gpt2_shapes() | {"lm_head.weight": (VOCAB, WIDTH)})
    write(tmp_path, GPT2 | {"tie_word_embeddings": False}, tensors)
    params = load_language_model(tmp_path).params
    np.testing.assert_array_equal(params["output_table"], tensors["lm_head.weight"])
    np.testing.assert_array_equal(params["table"], tensors["wte.weight"])


def test_activations_of_pretrained_models_are_read_and_spliced(tmp_path):
    write(tmp_path, NEOX, random_tensors(neox_shapes()))
    model = load_language_model(tmp_path)
    face = (model.config, model.lexicon, model.vocab)
    read = jax.jit(make_activations(*face, Site(1, "mlp_output")))(model.params, BATCH, KEY)
    assert read.shape == (2, TIME - 1, WIDTH)
    spliced = jax.jit(make_spliced_nll(*face, Site(1, "mlp_output")), static_argnums=3)
    plain = jax.jit(make_nll(*face))(model.params, BATCH, KEY)
    np.testing.assert_allclose(spliced(model.params, BATCH, KEY, lambda x: x), plain, atol=1e-5)
    zeroed = spliced(model.params, BATCH, KEY, jnp.zeros_like)
    assert (np.abs(zeroed - plain)[:, 1:] > 1e-3).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_checkpoints_become_float32(tmp_path, dtype):
    tensors = {name: tensor.astype(jnp.dtype(dtype)) for name, tensor in random_tensors(neox_shapes()).items()}
    write(tmp_path, NEOX, tensors)
    params = load_language_model(tmp_path).params
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(params["table"], tensors["gpt_neox.embed_in.weight"].astype(np.float32))


def shard(folder, tensors, names):
    """Write every second tensor to one file and the others to another; the index calls them by `names`."""
    parts = [dict(list(tensors.items())[part::2]) for part in range(2)]
    for name, part in zip(("a.safetensors", "b.safetensors"), parts, strict=True):
        save_file(part, folder / name)
    weight_map = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_shards_make_one_model(tmp_path):
    tensors = random_tensors(gpt2_shapes())
    write(tmp_path, GPT2, {})
    (tmp_path / "model.safetensors").unlink()
    shard(tmp_path, tensors, ("a.safetensors", "b.safetensors"))
    np.testing.assert_array_equal(load_language_model(tmp_path).params["table"], tensors["wte.weight"])


@pytest.mark.parametrize("name", ["../b.safetensors", "/b.safetensors", "sub/b.safetensors", "c.safetensors", "b.bin"])
def test_an_index_names_files_of_its_own_directory_only(tmp_path, name):
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "config.json").write_text(json.dumps(GPT2))
    shard(inside, random_tensors(gpt2_shapes()), ("a.safetensors", name))
    (tmp_path / "b.safetensors").write_bytes((inside / "b.safetensors").read_bytes())
    with pytest.raises(InvalidConfig, match="index"):
        load_language_model(inside)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("h.1.mlp.c_fc.bias"), r"h\.1\.mlp\.c_fc\.bias.*missing"),
        (lambda t: t.update({"h.2.ln_1.weight": np.ones(8, np.float32)}), r"h\.2\.ln_1\.weight.*of this architecture"),
        (lambda t: t.update({"wpe.weight": np.ones((15, 8), np.float32)}), r"wpe\.weight.*\(15, 8\).*\(16, 8\)"),
        (lambda t: t.update({"wpe.weight": np.ones((16, 8), np.int8)}), r"wpe\.weight.*int8.*not quantised"),
        (lambda t: t["h.1.ln_2.bias"].__setitem__(3, np.nan), r"h\.1\.ln_2\.bias = 'NaN or infinity'.*finite"),
        (lambda t: t["wte.weight"].__setitem__((1, 2), -np.inf), r"wte\.weight = 'NaN or infinity'.*finite"),
        (lambda t: t.update({"lm_head.weight": t["wte.weight"] + 1}), r"tie_word_embeddings = True .*lm_head\.weight"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, change, message):
    tensors = random_tensors(gpt2_shapes())
    change(tensors)
    write(tmp_path, GPT2, tensors)
    with pytest.raises(InvalidConfig, match=message):
        load_language_model(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GPT2 | {"model_type": "gpt_neo"}, "known: gpt2, gpt_neox"),
        (GPT2 | {"n_layer": None}, "n_layer = None"),
        (GPT2 | {"n_layer": True}, "n_layer = True"),
        (GPT2 | {"n_head": 3}, r"model\.heads"),
        (GPT2 | {"activation_function": "relu"}, "relu"),
        (GPT2 | {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        (GPT2 | {"bos_token_id": VOCAB}, "bos_token_id"),
        (NEOX | {"rotary_emb_base": 500}, "rotary_emb_base"),
        (NEOX | {"rope_theta": 500}, "config.json: rope_theta = 500"),
        (NEOX | {"partial_rotary_factor": 1.0}, r"'rotary_pct': 0\.5, 'partial_rotary_factor': 1\.0"),
        (NEOX | {"tie_word_embeddings": True}, r"tie_word_embeddings = True .*embed_out\.weight .* is unlike embed_in"),
        (NEOX | {"rope_scaling": {"type": "linear"}}, "rope_scaling"),
        (NEOX | {"attention_bias": False}, "attention_bias"),
        (NEOX | {"rotary_pct": 0.25}, r"model\.rotary_share"),  # one channel of four
    ],
)
def test_models_that_we_do_not_compute_are_refused(tmp_path, config, message):
    write(tmp_path, config, random_tensors(neox_shapes() if "rotary_pct" in config else gpt2_shapes()))
    with pytest.raises(InvalidConfig, match=message):
        load_language_model(tmp_path)


def test_files_that_are_missing_or_damaged_are_named(tmp_path):
    with pytest.raises(InvalidConfig, match=r"config\.json"):
        load_language_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(GPT2))
    with pytest.raises(InvalidConfig, match="it has 0 files"):
        load_language_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(InvalidConfig, match=r"model\.safetensors"):
        load_language_model(tmp_path)
    (tmp_path / "other.safetensors").write_bytes(b"")
    with pytest.raises(InvalidConfig, match="it has 2 files"):
        load_language_model(tmp_path)


def test_the_tokenizer_comes_with_the_model(tmp_path):
    import tokenizers

    write(tmp_path, GPT2, random_tensors(gpt2_shapes()))
    with pytest.raises(InvalidConfig, match=r"tokenizer\.json"):
        load_language_model(tmp_path).encode("b a")
    vocabulary = tokenizers.models.WordLevel({"a": 4, "b": 9, "?": 0}, unk_token="?")
    tokenizer = tokenizers.Tokenizer(vocabulary)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    np.testing.assert_array_equal(load_language_model(tmp_path).encode("b a c"), [9, 4, 0])
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidConfig, match=r"tokenizer\.json"):
        load_language_model(tmp_path)
