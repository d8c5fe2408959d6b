"""Checkpoints saved by `transformers`, computed by us: the same logits and hidden states to 1e-4."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.nn.cache import empty_cache, make_extend
from lexinv.nn.generation import generate
from lexinv.nn.language_model import make_hidden_states, make_logits
from lexinv.nn.pretrained import load_language_model
from lexinv.nn.sampling import Sampling
from lexinv.nn.text_encoder import hidden_states, load_text_encoder

pytestmark = pytest.mark.parity
os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCAB, WIDTH, DEPTH, TIME = 61, 32, 3, 20
NEOX = {"vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": 2}
NEOX |= {"intermediate_size": 80, "max_position_embeddings": 32, "bos_token_id": 5, "eos_token_id": 5}


def gpt2(**changes):
    sizes = {"vocab_size": VOCAB, "n_embd": WIDTH, "n_layer": DEPTH, "n_head": 4, "n_positions": 32}
    config = transformers.GPT2Config(**sizes, bos_token_id=5, eos_token_id=5, **changes)
    return transformers.GPT2LMHeadModel(config)


def neox(share, **changes):
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": share}
    return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**NEOX, rope_parameters=rope, **changes))


def llama(kind, **changes):
    sizes = {"vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 32, "bos_token_id": 5}
    config = getattr(transformers, f"{kind}Config")(**sizes, eos_token_id=5, pad_token_id=None, **changes)
    return getattr(transformers, f"{kind}ForCausalLM")(config)


def gemma3(**changes):
    sizes = {"vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "head_dim": 12, "intermediate_size": 48, "max_position_embeddings": 32}
    sizes |= {"sliding_window": 5, "bos_token_id": 5, "eos_token_id": 5, "attn_implementation": "eager"}
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    return transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**sizes, **{"layer_types": kinds, **changes}))


LLAMA_3 = {"rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LINEAR = {"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}

MODELS = {
    "llama": lambda: llama("Llama"),
    "llama-tied-base": lambda: llama(
        "Llama", tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 100.0}
    ),
    "llama-wide-heads": lambda: llama("Llama", head_dim=12, rms_norm_eps=0.1),
    "llama-3-rope": lambda: llama("Llama", rope_parameters=LLAMA_3 | {"original_max_position_embeddings": 16}),
    "llama-linear-rope": lambda: llama("Llama", rope_parameters=LINEAR),
    "gemma3": lambda: gemma3(query_pre_attn_scalar=5),
    "gemma3-every-second": lambda: gemma3(layer_types=None, sliding_window_pattern=2, tie_word_embeddings=False),
    "gemma3-linear-rope": lambda: gemma3(rope_parameters={"full_attention": LINEAR}),
    "mistral-window": lambda: llama("Mistral", sliding_window=5, attn_implementation="eager"),
    "qwen2": lambda: llama("Qwen2"),
    "qwen3": lambda: llama("Qwen3", head_dim=16),
    "gpt2": lambda: gpt2(),
    "gpt2-exact-gelu": lambda: gpt2(activation_function="gelu", n_inner=48),
    "gpt2-untied": lambda: gpt2(tie_word_embeddings=False),
    "neox-parallel": lambda: neox(0.25),
    "neox-sequential": lambda: neox(0.25, use_parallel_residual=False),
    "neox-rotary": lambda: neox(1.0),
    "neox-tied": lambda: neox(1.0, use_parallel_residual=False, tie_word_embeddings=True),
}


def scrambled(model):
    """Every parameter random, biases and gains too, and large enough that a mistake shows."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_language_models_agree(name, tmp_path):
    theirs = scrambled(MODELS[name]())
    theirs.save_pretrained(tmp_path, safe_serialization=True)
    ours = load_language_model(tmp_path)
    tokens = np.random.default_rng(1).integers(0, VOCAB, (2, TIME)).astype(np.int32)
    read = np.concatenate([np.full((2, 1), 5), tokens[:, :-1]], axis=1)
    with torch.no_grad():
        expected = theirs(torch.as_tensor(read), output_hidden_states=True)
    batch, key = {"tokens": jnp.asarray(tokens), "row": jnp.arange(2)}, jax.random.key(0)
    logits = make_logits(ours.config, ours.lexicon, ours.vocab)(ours.params, batch, key)
    np.testing.assert_allclose(logits, expected.logits.numpy(), atol=1e-4)
    levels = make_hidden_states(ours.config, ours.lexicon, ours.vocab)(ours.params, batch, key)
    for level in range(DEPTH):  # their last is after the final norm
        np.testing.assert_allclose(levels[level], expected.hidden_states[level].numpy()[:, 1:], atol=1e-4)


@pytest.mark.parametrize("name", ["llama-tied-base", "mistral-window", "qwen3", "gpt2", "neox-parallel"])
def test_greedy_texts_agree(name, tmp_path):
    """Ours after prompts of two lengths, with a cache; theirs with their own, one prompt at a time."""
    theirs = scrambled(MODELS[name]())
    theirs.save_pretrained(tmp_path, safe_serialization=True)
    ours = load_language_model(tmp_path)
    prompt, count = np.random.default_rng(1).integers(0, VOCAB, (2, 9)).astype(np.int32), jnp.array([9, 6])
    extend, cache = make_extend(ours.config, ours.vocab), empty_cache(ours.config, 2, 32)
    keys = jax.random.split(jax.random.key(0), 2)
    found = generate(
        extend, ours.params, ours.params["table"], cache, jnp.asarray(prompt), count, keys, 20, Sampling(0.0)
    )
    for row, read in enumerate(count.tolist()):
        given = torch.as_tensor(prompt[row : row + 1, :read]).long()
        whole = theirs.generate(given, do_sample=False, min_new_tokens=20, max_new_tokens=20, pad_token_id=0)
        np.testing.assert_array_equal(found.tokens[row], whole[0, read:].numpy())


def test_sharded_checkpoints_are_the_same_model(tmp_path):
    theirs = scrambled(neox(0.25))
    theirs.save_pretrained(tmp_path / "one", safe_serialization=True)
    theirs.save_pretrained(tmp_path / "many", safe_serialization=True, max_shard_size="20KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    one, many = (load_language_model(tmp_path / name) for name in ("one", "many"))
    jax.tree.map(np.testing.assert_array_equal, one.params, many.params)


def test_bert_agrees_at_every_layer_and_under_padding(tmp_path):
    sizes = {"vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": 4}
    config = transformers.BertConfig(**sizes, intermediate_size=48, max_position_embeddings=32)
    theirs = scrambled(transformers.BertModel(config))
    theirs.save_pretrained(tmp_path, safe_serialization=True)
    ours = load_text_encoder(tmp_path)
    tokens = np.random.default_rng(1).integers(0, VOCAB, (3, TIME)).astype(np.int32)
    mask = np.arange(TIME)[None] < np.array([20, 7, 1])[:, None]
    with torch.no_grad():
        expected = theirs(torch.as_tensor(tokens), attention_mask=torch.as_tensor(mask), output_hidden_states=True)
    found = np.asarray(hidden_states(ours.config, ours.params, jnp.asarray(tokens), jnp.asarray(mask)))
    for level, theirs_level in enumerate(expected.hidden_states):
        np.testing.assert_allclose(found[level][mask], theirs_level.numpy()[mask], atol=1e-4)
