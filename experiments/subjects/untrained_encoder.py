"""A tiny BERT over bytes with random weights, for trying out what is done with text encoders where no published weights are."""

from typing import Any

import jax
import jax.numpy as jnp

from lexinv.nn.text_encoder import TextEncoder
from lexinv.nn.transformer import Block, TransformerConfig
from lexinv.randomness import threefry


def untrained() -> TextEncoder:
    """One layer of width 16 over bytes, with random weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {
        symbol: i for i, symbol in enumerate(["[CLS]", "[SEP]", *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    tokenizer: Any = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    ends = [("[CLS]", 0), ("[SEP]", 1)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    config = TransformerConfig(
        depth=1,
        width=16,
        heads=2,
        mlp_width=32,
        positions="none",
        causal=False,
        attention="dot_product",
        norm="layer",
        norm_epsilon=1e-12,
        bias=True,
        residual="post",
        gelu="exact",
    )
    word_key, place_key, layer_key = jax.random.split(jax.random.key(0), 3)
    one = jnp.zeros((1, 1, config.width))
    params = {
        "words": jax.random.normal(word_key, (len(vocabulary), config.width)),
        "positions": 0.1 * jax.random.normal(place_key, (config.max_length, config.width)),
        "types": jnp.zeros((2, config.width)),
        "norm": jnp.ones(config.width),
        "norm_bias": jnp.zeros(config.width),
        "layers": jax.jit(jax.vmap(lambda key: Block(config, False).init(key, one, None)["params"]))(
            jax.random.split(threefry(layer_key), config.depth)
        ),
    }
    return TextEncoder(config, len(vocabulary), params, tokenizer)
