"""The vision transformer against NumPy and timm, and what reductions between its layers see and change."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.special import erf

from lexinv.nn.reduced import Reduced, run_layers, unstack
from lexinv.nn.vision_transformer import LAYERS, VisionConfig, classify, initialize, load_vision_transformer
from lexinv.validation import InvalidConfig

SMALL = VisionConfig(8, 4, 3, 5, layers=replace(LAYERS, depth=2, width=16, heads=2, mlp_width=32))


def spread(params, key):
    """The same tree with random numbers everywhere, so that no gain, bias or head is trivial."""
    keys = iter(jax.random.split(key, len(jax.tree.leaves(params))))
    return jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(next(keys), leaf.shape), params)


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
    return x * (1 + erf(x / np.sqrt(2))) / 2


def by_hand(params, images):
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


LAYER = replace(SMALL.layers, depth=3)


def test_layers_one_by_one_are_stacked_layers(params, images):
    apart = {**params, "layers": unstack(params["layers"])}
    assert len(apart["layers"]) == SMALL.layers.depth
    np.testing.assert_array_equal(classify(SMALL, apart, images)[0], classify(SMALL, params, images)[0])


@pytest.fixture(scope="module")
def layers():
    return jax.jit(lambda key: spread(initialize(replace(SMALL, layers=LAYER), key)["layers"], key))(jax.random.key(2))


def test_attention_has_no_bias_until_something_has_been_merged(layers):
    x, biases = jax.random.normal(jax.random.key(4), (2, 5, 16)), []

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


def test_the_mean_is_by_size_and_leaves_cls_out(params, images):
    config = replace(SMALL, pool="mean")
    still = params | {"layers": jax.tree.map(jnp.zeros_like, params["layers"])}  # layers that add nothing

    def merging(size):
        def reduction(seen):
            kept, merged = seen.stream[:, :2], jnp.mean(seen.stream[:, 2:], axis=1, keepdims=True)
            return Reduced(jnp.concatenate([kept, merged], axis=1), jnp.array([[1.0, 1.0, size]] * 3), None)

        return reduction, None

    whole = classify(config, still, images)[0]
    np.testing.assert_allclose(classify(config, still, images, merging(3.0))[0], whole, rtol=1e-4, atol=1e-5)
    assert float(jnp.max(jnp.abs(classify(config, still, images, merging(1.0))[0] - whole))) > 1e-2
    other = still | {"cls": still["cls"] + 7.0}
    np.testing.assert_allclose(classify(config, other, images)[0], whole, rtol=1e-4, atol=1e-5)
    assert float(jnp.max(jnp.abs(classify(SMALL, other, images)[0] - whole))) > 1e-2


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
    names = {"attn.qkv": "qkv", "attn.proj": "output", "mlp.fc1": "mlp_in", "mlp.fc2": "mlp_out"}
    names |= {"norm1": "attention_norm", "norm2": "mlp_norm"}
    for i in range(2):
        layer = jax.tree.map(lambda leaf, i=i: leaf[i], p["layers"])
        layer |= layer.pop("attention")
        for end in ("", "_bias"):
            layer[f"qkv{end}"] = np.concatenate([layer[f"{name}{end}"] for name in ("query", "key", "value")], axis=-1)
        for stored, name in names.items():
            at = f"blocks.{i}.{stored}"
            tensors |= {f"{at}.weight": layer[name].T, f"{at}.bias": layer[f"{name}_bias"]}
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
    sizes = {"img_size": 8, "patch_size": 4, "num_classes": 5, "embed_dim": 16, "depth": 2, "num_heads": 2}
    pooled = {"cls": "token", "mean": "avg"}[pool]
    peer = timm.models.vision_transformer.VisionTransformer(**sizes, mlp_ratio=2, global_pool=pooled).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        save_file({name: tensor.numpy() for name, tensor in peer.state_dict().items()}, tmp_path / "model.safetensors")
        wanted = peer(torch.tensor(np.asarray(images).transpose(0, 3, 1, 2))).numpy()
    config, params = load_vision_transformer(tmp_path, heads=2)
    np.testing.assert_allclose(classify(config, params, images)[0], wanted, rtol=1e-4, atol=1e-4)


def test_impossible_images_and_reductions_are_refused(params, images):
    with pytest.raises(InvalidConfig, match="images"):
        classify(SMALL, params, images[:, :4])
    with pytest.raises(InvalidConfig, match="reductions"):
        classify(SMALL, params, images, (None,))
    for field, value in (("causal", True), ("positions", "relative"), ("mixing", "smear")):
        with pytest.raises(InvalidConfig, match=field):
            run_layers(replace(LAYER, **{field: value}), {}, jnp.zeros((1, 3, 16)), jnp.ones((1, 3)))
