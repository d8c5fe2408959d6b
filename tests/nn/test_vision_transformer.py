from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from lexinv.nn.reduced import Reduced, run_layers, unstack
from lexinv.nn.transformer import TransformerConfig
from lexinv.nn.vision_transformer import (
    LAYERS,
    VisionConfig,
    classify,
    cut,
    initialize,
    load_vision_transformer,
)
from lexinv.validation import InvalidConfig

SMALL = VisionConfig(8, 4, 3, 5, layers=replace(LAYERS, depth=2, width=16, heads=2, mlp_width=32))


def spread(params, key):
    """The same tree with random numbers everywhere, so that no gain, bias or head is trivial."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        structure, [leaf + 0.3 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)]
    )


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda key: spread(initialize(SMALL, key), key))(jax.random.key(0))


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(1), (3, 8, 8, 3))


def norm(x, gain, offset):
    centred = x - x.mean(axis=-1, keepdims=True)
    return gain * centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + 1e-6) + offset


def gelu(x):
    from scipy.special import erf

    return x * (1 + erf(x / np.sqrt(2))) / 2


def by_hand(params, images, sizes=None):
    """Pre-norm layers on the patches of images, in NumPy, one image and head after another."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    logits = []
    for image in np.asarray(images, np.float64):
        patches = [image[r : r + 4, c : c + 4].reshape(-1) for r in (0, 4) for c in (0, 4)]
        x = np.stack([p["cls"], *(np.array(patches) @ p["patches"] + p["patches_bias"])]) + p["positions"]
        for index in range(2):
            layer = jax.tree.map(lambda leaf, index=index: leaf[index], p["layers"])
            a = layer["attention"]
            y = norm(x, layer["attention_norm"], layer["attention_norm_bias"])
            q, k, v = (y @ a[name] + a[f"{name}_bias"] for name in ("query", "key", "value"))
            heads = []
            for head in range(2):
                span = slice(8 * head, 8 * head + 8)
                weights = np.exp(q[:, span] @ k[:, span].T / np.sqrt(8))
                heads.append(weights / weights.sum(axis=1, keepdims=True) @ v[:, span])
            x = x + np.concatenate(heads, axis=1) @ a["output"] + a["output_bias"]
            y = norm(x, layer["mlp_norm"], layer["mlp_norm_bias"])
            x = x + gelu(y @ layer["mlp_in"] + layer["mlp_in_bias"]) @ layer["mlp_out"] + layer["mlp_out_bias"]
        logits.append(norm(x[0], p["norm"], p["norm_bias"]) @ p["head"] + p["head_bias"])
    return np.array(logits)


run = jax.jit(lambda params, images: classify(SMALL, params, images)[0])


def test_logits_are_those_of_the_definition(params, images):
    np.testing.assert_allclose(run(params, images), by_hand(params, images), rtol=1e-4, atol=1e-4)


def test_patches_are_read_row_by_row():
    image = jnp.arange(2 * 8 * 8 * 3, dtype=jnp.float32).reshape(2, 8, 8, 3)
    patches = cut(SMALL, image)
    assert patches.shape == (2, 4, 48)
    np.testing.assert_array_equal(patches[1, 1], image[1, :4, 4:].reshape(-1))
    with pytest.raises(InvalidConfig, match="images"):
        cut(SMALL, image[:, :4])


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_bfloat16_is_close_and_gives_float32_logits(pool, params, images):
    def first_three(seen):
        return Reduced(seen.stream[:, :3], seen.size[:, :3], (seen.stream, seen.size))

    full = replace(SMALL, pool=pool)
    half = replace(full, layers=replace(SMALL.layers, dtype="bfloat16"))
    for reductions in ((), (first_three, None)):
        logits, seen = classify(half, params, images, reductions)
        wanted = classify(full, params, images, reductions)[0]
        assert logits.dtype == jnp.float32
        assert 0 < float(jnp.max(jnp.abs(logits - wanted))) < 0.05 * float(jnp.max(jnp.abs(wanted)))
        assert all(found[0].dtype == jnp.bfloat16 and found[1].dtype == jnp.float32 for found in seen)


def duplicate(seen):
    """No reduction: the sizes doubled, every token once more."""
    twice = jnp.concatenate([seen.stream, seen.stream], axis=1)
    return Reduced(twice, jnp.concatenate([seen.size, seen.size], axis=1), seen.attention_weights())


def merge_duplicates(seen):
    """The second half, which are copies of the first, into it."""
    half = seen.stream.shape[1] // 2
    return Reduced(seen.stream[:, :half], 2 * seen.size[:, :half], None)


LAYER = replace(SMALL.layers, depth=3)


def test_layers_one_by_one_are_stacked_layers(params, images):
    apart = {**params, "layers": unstack(params["layers"])}
    assert len(apart["layers"]) == SMALL.layers.depth
    np.testing.assert_array_equal(classify(SMALL, apart, images)[0], classify(SMALL, params, images)[0])


@partial(jax.jit, static_argnums=(1, 2))
def streams(x, reductions, proportional=True):
    one = initialize(replace(SMALL, layers=LAYER), jax.random.key(2))["layers"]
    return run_layers(LAYER, spread(one, jax.random.key(3)), x, jnp.ones(x.shape[:2]), reductions, proportional)


def test_exact_duplicates_are_merged_without_loss_where_attention_counts_sizes():
    x = jax.random.normal(jax.random.key(4), (2, 5, 16))
    without, _, _ = streams(x, (duplicate, None, None))
    merged, size, handed_on = streams(x, (duplicate, merge_duplicates, None))
    assert merged.shape == (2, 5, 16)
    np.testing.assert_array_equal(size, 2)
    np.testing.assert_allclose(merged, without[:, :5], rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(jnp.sum(handed_on[0], axis=-1), 1.0, rtol=1e-5)


def test_attention_has_no_bias_until_something_has_been_merged():
    x, biases = jax.random.normal(jax.random.key(4), (2, 5, 16)), []
    layers = spread(initialize(replace(SMALL, layers=LAYER), jax.random.key(2))["layers"], jax.random.key(3))

    def look(seen):
        biases.append(seen.bias)
        return Reduced(seen.stream, seen.size, None)

    alone, ones, _ = run_layers(LAYER, layers, x)
    np.testing.assert_array_equal(ones, 1)
    counted, _, _ = run_layers(LAYER, layers, x, jnp.ones((2, 5)), (None, look, look))
    np.testing.assert_allclose(alone, counted, rtol=1e-6, atol=1e-6)
    assert all(bias is not None for bias in biases)
    biases.clear()
    run_layers(LAYER, layers, x, None, (None, look, look))
    assert biases[0] is None
    np.testing.assert_array_equal(biases[1], 0)  # log of the sizes that the second layer gave


def test_sizes_count_only_in_proportional_attention():
    x = jax.random.normal(jax.random.key(4), (2, 5, 16))

    def resize(seen):
        return Reduced(seen.stream, seen.size.at[:, 0].set(9.0), None)

    without, _, _ = streams(x, (None, None, None), False)
    unequal, _, _ = streams(x, (resize, None, None), False)
    counted, _, _ = streams(x, (resize, None, None), True)
    np.testing.assert_allclose(unequal, without, rtol=1e-5, atol=1e-5)
    assert float(jnp.max(jnp.abs(counted - without))) > 1e-2


def test_tokens_of_size_zero_are_seen_by_nobody():
    x = jax.random.normal(jax.random.key(4), (2, 5, 16))

    def drop(seen):
        return Reduced(seen.stream, seen.size.at[:, 3:].set(0.0), None)

    def cut_off(seen):
        return Reduced(seen.stream[:, :3], seen.size[:, :3], None)

    hidden, _, _ = streams(x, (drop, None, None))
    gone, _, _ = streams(x, (cut_off, None, None))
    np.testing.assert_allclose(hidden[:, :3], gone, rtol=1e-5, atol=1e-5)


def test_the_mean_is_by_size_and_leaves_cls_out(params, images):
    config = replace(SMALL, pool="mean")

    def one_and_three(seen):
        kept, merged = seen.stream[:, :2], jnp.mean(seen.stream[:, 2:], axis=1, keepdims=True)
        return Reduced(jnp.concatenate([kept, merged], axis=1), jnp.array([[1.0, 1.0, 3.0]] * 3), None)

    pooled, _ = classify(config, params, images)
    assert pooled.shape == (3, 5)
    assert float(jnp.max(jnp.abs(pooled - run(params, images)))) > 1e-2
    last = jax.tree.map(jnp.zeros_like, params["layers"])  # layers that add nothing
    still = params | {"layers": last}
    whole = classify(config, still, images)[0]
    np.testing.assert_allclose(classify(config, still, images, (one_and_three, None))[0], whole, rtol=1e-4, atol=1e-5)
    other = still | {"cls": still["cls"] + 7.0}
    np.testing.assert_allclose(classify(config, other, images)[0], whole, rtol=1e-4, atol=1e-5)

    def equally(seen):
        return one_and_three(seen)._replace(size=jnp.ones((3, 3)))

    assert float(jnp.max(jnp.abs(classify(config, still, images, (equally, None))[0] - whole))) > 1e-2


def timm_names(params):
    """The tensors as timm's ViT stores them."""
    p = jax.tree.map(np.asarray, params)
    tensors = {
        "cls_token": p["cls"][None, None],
        "pos_embed": p["positions"][None],
        "patch_embed.proj.weight": p["patches"].reshape(4, 4, 3, 16).transpose(3, 2, 0, 1),
        "patch_embed.proj.bias": p["patches_bias"],
        "norm.weight": p["norm"],
        "norm.bias": p["norm_bias"],
        "head.weight": p["head"].T,
        "head.bias": p["head_bias"],
    }
    names = {"attn.proj": ("attention", "output"), "mlp.fc1": ("mlp_in",), "mlp.fc2": ("mlp_out",)}
    for i in range(2):
        layer = jax.tree.map(lambda leaf, i=i: leaf[i], p["layers"])
        a = layer["attention"]
        fused = [np.concatenate([a[f"{name}{end}"] for name in ("query", "key", "value")], -1) for end in ("", "_bias")]
        tensors |= {f"blocks.{i}.attn.qkv.weight": fused[0].T, f"blocks.{i}.attn.qkv.bias": fused[1]}
        for stored, (*path, name) in names.items():
            part = layer[path[0]] if path else layer
            tensors |= {
                f"blocks.{i}.{stored}.weight": part[name].T,
                f"blocks.{i}.{stored}.bias": part[f"{name}_bias"],
            }
        for stored, name in (("norm1", "attention_norm"), ("norm2", "mlp_norm")):
            tensors |= {f"blocks.{i}.{stored}.weight": layer[name], f"blocks.{i}.{stored}.bias": layer[f"{name}_bias"]}
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def test_timm_weights_are_read(params, images, tmp_path):
    save_file(timm_names(params), tmp_path / "model.safetensors")
    config, found = load_vision_transformer(tmp_path, heads=2)
    assert config == SMALL
    jax.tree.map(np.testing.assert_array_equal, found, params)


@pytest.mark.parametrize(
    "change, field",
    [
        ({"dist_token": np.zeros((1, 1, 16), np.float32)}, "dist_token"),
        ({"norm.bias": None}, "norm.bias"),
        ({"head.weight": np.zeros((5, 17), np.float32)}, "head.weight"),
        ({"patch_embed.proj.weight": None}, "patch_embed"),
        ({"blocks.norm.weight": np.zeros(16, np.float32)}, "blocks.norm"),
        ({"pos_embed": np.zeros((1, 4, 16), np.float32)}, "pos_embed"),
    ],
)
def test_other_weights_are_refused_by_name(params, tmp_path, change, field):
    tensors = {name: tensor for name, tensor in (timm_names(params) | change).items() if tensor is not None}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(InvalidConfig, match=field):
        load_vision_transformer(tmp_path, heads=2)


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parity
def test_timm_computes_the_same(pool, images, tmp_path):
    timm = pytest.importorskip("timm")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    peer = timm.models.vision_transformer.VisionTransformer(
        img_size=8,
        patch_size=4,
        num_classes=5,
        embed_dim=16,
        depth=2,
        num_heads=2,
        mlp_ratio=2,
        global_pool={"cls": "token", "mean": "avg"}[pool],
    ).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        save_file({name: tensor.numpy() for name, tensor in peer.state_dict().items()}, tmp_path / "model.safetensors")
        wanted = peer(torch.tensor(np.asarray(images).transpose(0, 3, 1, 2))).numpy()
    config, params = load_vision_transformer(tmp_path, heads=2)
    np.testing.assert_allclose(classify(config, params, images)[0], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "field, settings",
    [
        ("model.size", {"size": 10}),
        ("model.classes", {"classes": 0}),
        ("model.pool", {"cls": False}),
        ("model.layers.causal", {"layers": replace(LAYERS, causal=True)}),
        ("model.layers.norm", {"layers": replace(LAYERS, norm="rms")}),
    ],
)
def test_impossible_models_are_refused(field, settings):
    with pytest.raises(InvalidConfig, match=field):
        VisionConfig(**settings)


def test_impossible_reductions_are_refused(params, images):
    with pytest.raises(InvalidConfig, match="reductions"):
        classify(SMALL, params, images, (None,))
    causal = TransformerConfig(depth=2, width=16, heads=2)
    with pytest.raises(InvalidConfig, match="causal"):
        run_layers(causal, {}, jnp.zeros((1, 3, 16)), jnp.ones((1, 3)))
    for field, value in (("positions", "relative"), ("mixing", "smear")):
        with pytest.raises(InvalidConfig, match=field):
            run_layers(replace(LAYER, **{field: value}), {}, jnp.zeros((1, 3, 16)), jnp.ones((1, 3)))
