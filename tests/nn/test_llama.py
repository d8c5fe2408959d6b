"""The Llama form from Hugging Face's files and from GGUF: against a short forward pass in NumPy, and what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.nn.flops import forward_flops
from lexinv.nn.language_model import initialize, make_logits, make_nll
from lexinv.nn.llama import GEMMA_NAMES, GGUF_NAMES, NAMES
from lexinv.nn.pretrained import load_language_model
from lexinv.validation import InvalidConfig

gguf = pytest.importorskip("gguf")
save_file = pytest.importorskip("safetensors.numpy").save_file

VOCAB, WIDTH, DEPTH, HEADS, KEY_HEADS, DIM, HIDDEN, BOS = 11, 8, 2, 4, 2, 6, 12, 3
BASE, EPSILON = 50.0, 0.01
CONFIG = {"model_type": "llama", "vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": DEPTH}
CONFIG |= {"num_attention_heads": HEADS, "num_key_value_heads": KEY_HEADS, "head_dim": DIM, "bos_token_id": BOS}
CONFIG |= {"intermediate_size": HIDDEN, "max_position_embeddings": 16, "rms_norm_eps": EPSILON, "rope_theta": BASE}
SHAPES = {
    "attention_norm": (WIDTH,),
    "mlp_norm": (WIDTH,),
    "query": (HEADS * DIM, WIDTH),
    "output": (WIDTH, HEADS * DIM),
}
SHAPES |= {"key": (KEY_HEADS * DIM, WIDTH), "value": (KEY_HEADS * DIM, WIDTH), "mlp_gate": (HIDDEN, WIDTH)}
SHAPES |= {"mlp_in": (HIDDEN, WIDTH), "mlp_out": (WIDTH, HIDDEN)}
BATCH = {"tokens": jnp.array([[1, 4, 0, 7, 10, 2], [5, 5, 9, 3, 8, 6]]), "row": jnp.arange(2)}
READ = np.concatenate([np.full((2, 1), BOS), np.asarray(BATCH["tokens"])[:, :-1]], axis=1)


def named(tensors, names, prefix=""):
    """`tensors` by (layer, our name) under the names of a kind of file."""
    stored = {}
    for (layer, name), tensor in tensors.items():
        at = "" if layer is None else f"{names['layer']}.{layer}."
        stored[f"{prefix if name != 'output_table' else ''}{at}{names[name]}.weight"] = tensor
    return stored


@pytest.fixture
def tensors():
    generator = np.random.default_rng(0)
    shapes = {(None, "table"): (VOCAB, WIDTH), (None, "output_table"): (VOCAB, WIDTH), (None, "final_norm"): (WIDTH,)}
    shapes |= {(layer, name): shape for layer in range(DEPTH) for name, shape in SHAPES.items()}
    return {name: generator.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


def write(folder, config, tensors):
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, folder / "model.safetensors")


def write_gguf(file, stored, **changes):
    sizes = {"embedding_length": WIDTH, "block_count": DEPTH, "feed_forward_length": HIDDEN, "context_length": 16}
    sizes |= {"attention.head_count": HEADS, "attention.head_count_kv": KEY_HEADS, "attention.key_length": DIM}
    writer = gguf.GGUFWriter(file, "llama")
    for name, value in sizes.items():
        writer.add_uint32(f"llama.{name}", value)
    for name, value in {"attention.layer_norm_rms_epsilon": EPSILON, "rope.freq_base": BASE}.items():
        writer.add_float32(f"llama.{name}", value)
    writer.add_uint32("tokenizer.ggml.bos_token_id", BOS)
    for name, value in changes.items():
        writer.add_key_value(name, value, gguf.GGUFValueType.get_type(value), None)
    for name, tensor in stored.items():
        writer.add_tensor(name, np.ascontiguousarray(tensor))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()


def interleave(tensors):
    """Rows of queries and keys as llama.cpp stores them: channels 2 i and 2 i + 1 of a head are one plane."""
    order = np.arange(DIM).reshape(2, DIM // 2).T.reshape(-1)
    turned = dict(tensors)
    for (layer, name), tensor in tensors.items():
        if name in ("query", "key"):
            turned[layer, name] = tensor.reshape(-1, DIM, WIDTH)[:, order].reshape(tensor.shape)
    return turned


def numpy_logits(tensors, ids, gemma=False):
    """Of Gemma layer 0 has a window of 3 times and rotates by the base 10, and scores are over the root of 5."""

    def norm(x, layer, name):
        return (tensors[layer, name] + gemma) * x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + EPSILON)

    def turned(x, base):
        """Channels i and i + 3 of six as a complex number, turned by the time over the base to the power of i / 3."""
        planes = x[:, : DIM // 2] + 1j * x[:, DIM // 2 :]
        planes = planes * np.exp(1j * np.arange(len(x))[:, None] * base ** (-np.arange(DIM // 2) / (DIM // 2)))
        return np.concatenate([planes.real, planes.imag], axis=1)

    def given_out(x, layer, name):
        return norm(x, layer, name) if gemma else x

    x = tensors[None, "table"][ids] * (WIDTH**0.5 if gemma else 1)
    for layer in range(DEPTH):
        local = gemma and layer == 0
        base, visible = (10.0 if local else BASE), np.tri(len(ids)) - (np.tri(len(ids), k=-3) if local else 0)
        read, mixed = norm(x, layer, "attention_norm"), []
        q, k, v = (read @ tensors[layer, name].T for name in ("query", "key", "value"))
        for head in range(HEADS):
            own, shared = slice(head * DIM, (head + 1) * DIM), slice(head // 2 * DIM, (head // 2 + 1) * DIM)
            query, key = (
                norm(z, layer, f"{name}_norm") if gemma else z
                for name, z in (("query", q[:, own]), ("key", k[:, shared]))
            )
            scores = turned(query, base) @ turned(key, base).T / np.sqrt(5 if gemma else DIM)
            weights = np.where(visible, np.exp(scores), 0.0)
            mixed.append(weights / weights.sum(1, keepdims=True) @ v[:, shared])
        x = x + given_out(np.concatenate(mixed, axis=1) @ tensors[layer, "output"].T, layer, "attention_out_norm")
        read = norm(x, layer, "mlp_norm")
        gate = read @ tensors[layer, "mlp_gate"].T
        slope = np.sqrt(8 / np.pi) * (1 + 0.044715 * gate**2) if gemma else 1.0  # GELU by tanh, or SiLU
        fed = (gate / (1 + np.exp(-slope * gate)) * (read @ tensors[layer, "mlp_in"].T)) @ tensors[layer, "mlp_out"].T
        x = x + given_out(fed, layer, "mlp_out_norm")
    return norm(x, None, "final_norm") @ tensors[None, "table" if gemma else "output_table"].T


def logits(model):
    return jax.jit(make_logits(model.config, model.lexicon, model.vocab))(model.params, BATCH, jax.random.key(0))


def test_llama_is_what_its_tensors_say_in_either_kind_of_file(tmp_path, tensors):
    expected = np.stack([numpy_logits(tensors, ids) for ids in READ])
    (tmp_path / "hf").mkdir()
    write(tmp_path / "hf", CONFIG, named(tensors, NAMES, "model."))
    ours = load_language_model(tmp_path / "hf")
    np.testing.assert_allclose(logits(ours), expected, atol=1e-4)
    write_gguf(tmp_path / "model.gguf", named(interleave(tensors), GGUF_NAMES))
    for path in (tmp_path / "model.gguf", tmp_path):  # the only one of a directory
        read = load_language_model(path)
        jax.tree.map(np.testing.assert_array_equal, read.params, ours.params)
        assert read.tokenizer is None


def test_gemma_is_what_its_tensors_say(tmp_path, tensors):
    del tensors[None, "output_table"]
    generator, sizes = np.random.default_rng(1), {"query_norm": DIM, "key_norm": DIM}
    for name, size in (sizes | {"attention_out_norm": WIDTH, "mlp_out_norm": WIDTH}).items():
        tensors |= {(layer, name): generator.normal(0, 0.5, size).astype(np.float32) for layer in range(DEPTH)}
    gemma = {"model_type": "gemma3_text", "sliding_window": 3, "query_pre_attn_scalar": 5, "rope_local_base_freq": 10.0}
    write(tmp_path, CONFIG | gemma | {"sliding_window_pattern": 2}, named(tensors, GEMMA_NAMES, "model."))
    model = load_language_model(tmp_path)
    assert model.config.global_layers == (1,) and model.config.output == "tied"
    np.testing.assert_allclose(logits(model), np.stack([numpy_logits(tensors, ids, True) for ids in READ]), atol=1e-4)
    # Kinds of layers that are named are taken before the pattern, and each must be known.
    for kinds, message in ((["full_attention"] * 2, None), (["sliding_attention"] * 2, "at least once")):
        write(tmp_path, CONFIG | gemma | {"layer_types": kinds}, named(tensors, GEMMA_NAMES, "model."))
        if message is None:
            assert load_language_model(tmp_path).config.global_layers == (0, 1)
            continue
        with pytest.raises(InvalidConfig, match=message):
            load_language_model(tmp_path)


def test_frequencies_are_divided_by_llama_3_s_rule_or_as_a_gguf_file_says(tmp_path, tensors):
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope |= {"original_max_position_embeddings": 40}
    write(tmp_path, CONFIG | {"rope_scaling": rope}, named(tensors, NAMES, "model."))
    model = load_language_model(tmp_path)
    # In 40 times the planes turn 6.37, 1.73 and 0.47 times: kept, the share 0.243 of it kept, slowed down by the whole factor.
    share = (40 / (2 * np.pi * 50 ** (1 / 3)) - 1) / 3
    divisors = np.float32([1.0, 1 / (share + (1 - share) / 8), 8.0])
    np.testing.assert_allclose(model.config.rotary_divisors, divisors, rtol=1e-6)
    stored = named(interleave(tensors), GGUF_NAMES) | {"rope_freqs.weight": divisors}
    write_gguf(tmp_path / "model.gguf", stored)
    read = load_language_model(tmp_path / "model.gguf")
    np.testing.assert_allclose(logits(read), logits(model), atol=1e-5)
    assert np.abs(logits(read) - np.stack([numpy_logits(tensors, ids) for ids in READ])).max() > 0.01


def test_tied_tables_and_the_size_of_what_is_counted(tmp_path, tensors):
    stored = named(interleave(tensors), GGUF_NAMES)
    stored.pop("output.weight")
    write_gguf(tmp_path / "model.gguf", stored)
    model = load_language_model(tmp_path)
    assert model.config.output == "tied" and "output_table" not in model.params
    sizes = jax.eval_shape(lambda key: initialize(model.config, model.lexicon, VOCAB, key), jax.random.key(0))
    jax.tree.map(lambda ours, fresh: np.testing.assert_equal(ours.shape, fresh.shape), model.params, sizes)
    products = sum(tensor.size for (layer, _), tensor in tensors.items() if layer is not None and tensor.ndim == 2)
    seen = 2 * HEADS * DIM * 7 / 2  # scores and values of 6 times, of which a query sees 3.5
    assert forward_flops(model.config, VOCAB, 6) == 2 * (products + DEPTH * seen + VOCAB * WIDTH)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "Q4_K"])
def test_blocks_of_few_bits_are_what_they_stand_for(tmp_path, kind):
    """Every block is a ramp that the format holds to half a step."""
    from lexinv.nn.gguf_files import read_gguf

    ramp = np.tile(np.arange(256, dtype=np.float32) % 16, (3, 1))
    kinds = gguf.GGMLQuantizationType
    if kind == "Q4_K":  # the package reads these only: one block by hand, scales and offsets 1 and 0, digits 0 to 15
        scale = np.float16([1.0, 0.0]).view(np.uint8)
        digits = np.concatenate([low | low << 4 for low in np.tile(np.arange(16, dtype=np.uint8), (4, 2))])
        # The 8 scales of 6 bits in 12 bytes: 4 whole ones, 4 offsets, then the low halves of the others.
        packed = np.tile(np.concatenate([scale, np.uint8([1] * 4 + [0] * 4 + [1] * 4), digits]), (3, 1))
    else:
        packed = gguf.quantize(ramp, kinds[kind])
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("ramp", packed, raw_dtype=kinds[kind])
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    _, tensors = read_gguf(tmp_path / "x.gguf")
    assert tensors["ramp"].dtype == np.float32
    np.testing.assert_allclose(tensors["ramp"], ramp, atol=0.07 if kind == "Q8_0" else 1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("blk.1.ffn_gate.weight"), r"blk\.1\.ffn_gate\.weight.*missing.*model\.gguf"),
        (lambda t: t.update({"output_norm.weight": np.ones(9, np.float32)}), r"output_norm\.weight = \(9,\).*\(8,\)"),
        (lambda t: t["blk.0.attn_q.weight"].__setitem__((1, 2), np.nan), r"blk\.0\.attn_q\.weight = 'NaN or inf"),
        (lambda t: t.update({"rope_freqs.weight": np.ones(4, np.float32)}), r"rope_freqs\.weight = \(4,\).*\(3,\)"),
        (lambda t: t.update({"rope_factors.weight": np.ones(3, np.float32)}), r"rope_factors\.weight.*of this archi"),
        (lambda t: t.update({"output.weight": np.ones((11, 8), np.int8)}), r"output\.weight = 'I8'.*quantisation"),
    ],
)
def test_tensors_that_do_not_fit_are_named_with_the_file(tmp_path, tensors, change, message):
    stored = named(tensors, GGUF_NAMES)
    change(stored)
    write_gguf(tmp_path / "model.gguf", stored)
    with pytest.raises(InvalidConfig, match=message):
        load_language_model(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"general.architecture": "mamba"}, "known: llama, qwen2, qwen3"),
        ({"llama.rope.scaling.type": "yarn"}, r"rope\.scaling\.type = 'yarn'"),
        ({"llama.rope.dimension_count": 4}, r"dimension_count = 4.*all 6 channels"),
        ({"tokenizer.ggml.tokens": ["a"], "tokenizer.ggml.model": "llama"}, "known: gpt2"),
        ({"tokenizer.ggml.tokens": ["a"], "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "x"}, "known: gpt-2"),
    ],
)
def test_files_of_what_we_do_not_compute_are_refused(tmp_path, tensors, fields, message):
    write_gguf(tmp_path / "model.gguf", named(tensors, GGUF_NAMES), **fields)
    with pytest.raises(InvalidConfig, match=message):
        load_language_model(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor = None"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "known: default, linear, llama3"),
        ({"model_type": "gemma3_text", "final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"num_key_value_heads": 3}, r"model\.key_heads"),
        ({"head_dim": 5}, "even width per head"),
        ({"rms_norm_eps": 0.0}, r"model\.norm_epsilon"),
        ({"model_type": "qwen3"}, r"layers\.0\.self_attn\.q_norm\.weight.*missing"),
        ({"model_type": "qwen2"}, r"layers\.0\.self_attn\.q_proj\.bias.*missing"),
        ({"model_type": "gemma3"}, "did you mean .gemma3_text"),
    ],
)
def test_variants_in_hugging_face_s_form_are_refused(tmp_path, tensors, change, message):
    write(tmp_path, CONFIG | change, named(tensors, NAMES, "model."))
    with pytest.raises(InvalidConfig, match=message):
        load_language_model(tmp_path)


@pytest.mark.parametrize("kept", [0, 3, 60, 400, -40])
def test_damaged_files_are_named(tmp_path, tensors, kept):
    file = tmp_path / "model.gguf"
    write_gguf(file, named(tensors, GGUF_NAMES))
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(InvalidConfig, match=r"model\.gguf.*a whole GGUF file"):
        load_language_model(file)


def test_two_gguf_files_are_told_apart_by_the_caller(tmp_path, tensors):
    for name in ("a", "b"):
        write_gguf(tmp_path / f"{name}.gguf", named(tensors, GGUF_NAMES))
    with pytest.raises(InvalidConfig, match="it has 2 of these"):
        load_language_model(tmp_path)


def test_the_tokenizer_is_in_the_fields(tmp_path, tensors):
    pieces = ["<|endoftext|>", "a", "b", "Ġ", "1", "2", "ab", "Ġab", "12", "c", "!"]
    fields = {"model": "gpt2", "pre": "smollm", "tokens": pieces, "merges": ["a b", "Ġ ab", "1 2"]}
    fields |= {"token_type": [3] + [1] * 10}
    write_gguf(
        tmp_path / "model.gguf", named(tensors, GGUF_NAMES), **{f"tokenizer.ggml.{k}": v for k, v in fields.items()}
    )
    model = load_language_model(tmp_path)
    np.testing.assert_array_equal(model.encode("ab ab12!<|endoftext|>"), [6, 7, 4, 5, 10, 0])  # digits stay alone
    assert model.tokenizer.decode([6, 7, 4, 5, 10, 0]) == "ab ab12!"


TEXTS = {
    "english": "The Roman Empire was one of the largest in history, with territories throughout Europe, North Africa, and "
    "Western Asia. At its height it was governed by emperors who ruled from the city of Rome, and its roads, laws and "
    "language shaped the continent for centuries after it had fallen.",
    "python": '''def fibonacci(n):
    """Return the n-th Fibonacci number."""
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def factorial(n):
    """Return n!."""
    result = 1
    for i in range(2, n + 1):
        result *= i
    return result
''',
    "turkish": "İstanbul, Türkiye'nin en kalabalık şehridir ve ülkenin ekonomik, tarihi ve kültürel merkezidir. Şehir, "
    "Avrupa ile Asya kıtalarını birbirine bağlayan boğazın iki yakasında kurulmuştur.",
}


@pytest.mark.long
def test_smollm2_predicts_as_transformers_does(asset):
    """The numbers are those of `LlamaForCausalLM` and `AutoTokenizer` of transformers 5.24 (torch 2.14, CPU) on the same GGUF file."""
    model = load_language_model(asset("smollm2"))
    nll = jax.jit(make_nll(model.config, model.lexicon, model.vocab))
    found = {}
    for name, text in TEXTS.items():
        ids = model.encode(text)
        assert model.tokenizer.decode(ids.tolist()) == text
        batch = {"tokens": jnp.asarray(ids)[None], "row": jnp.arange(1)}
        nats = float(jnp.sum(nll(model.params, batch, jax.random.key(0))))
        found[name] = (len(ids), nats / np.log(2) / len(text.encode()))
    assert {name: tokens for name, (tokens, _) in found.items()} == {"english": 56, "python": 88, "turkish": 95}
    expected = {"english": 0.881657, "python": 0.440273, "turkish": 2.656726}
    assert {name: bits for name, (_, bits) in found.items()} == pytest.approx(expected, rel=1e-3)
