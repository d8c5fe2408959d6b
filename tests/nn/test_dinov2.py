"""DINOv2 from a graph: what the file's tensors say, positions, what is refused; and the released model against onnxruntime."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.nn import dinov2
from lexinv.nn.dinov2 import load_dinov2, resample
from lexinv.nn.reduced import Reduced
from lexinv.nn.vision_transformer import LAYERS, VisionConfig, classify, embed_images, encode, initialize
from lexinv.validation import InvalidConfig

SMALL = VisionConfig(8, 4, 3, 0, layers=replace(LAYERS, depth=2, width=64, heads=1, mlp_width=32, layer_scale=True))


@pytest.fixture(scope="module")
def params():
    leaves, structure = jax.tree.flatten(initialize(SMALL, jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(
        structure, [0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )


def exported(params):
    """The tensors as an exporter of `transformers` leaves them, positions cut in two."""
    p = jax.tree.map(np.asarray, params)
    tensors = {
        "backbone.embeddings.cls_token": p["cls"][None, None],
        "backbone.embeddings.patch_embeddings.projection.weight": p["patches"]
        .reshape(4, 4, 3, 64)
        .transpose(3, 2, 0, 1),
        "backbone.embeddings.patch_embeddings.projection.bias": p["patches_bias"],
        "backbone.layernorm.weight": p["norm"],
        "backbone.layernorm.bias": p["norm_bias"],
        "onnx::Concat_7": p["positions"][None, :1],
        "onnx::Reshape_9": p["positions"][None, 1:],
        "decoder.final_conv.bias": np.zeros(1, np.float32),
    }
    names = {"attention.attention.query": ("attention", "query"), "attention.attention.key": ("attention", "key")}
    names |= {"attention.attention.value": ("attention", "value"), "attention.output.dense": ("attention", "output")}
    names |= {"mlp.fc1": ("mlp_in",), "mlp.fc2": ("mlp_out",)}
    for i in range(2):
        layer, at = jax.tree.map(lambda leaf, i=i: leaf[i], p["layers"]), f"backbone.encoder.layer.{i}"
        for stored, (*path, name) in names.items():
            part = layer[path[0]] if path else layer
            tensors |= {f"{at}.{stored}.weight": part[name], f"{at}.{stored}.bias": part[f"{name}_bias"]}
        for number, name in ((1, "attention"), (2, "mlp")):
            tensors |= {
                f"{at}.norm{number}.weight": layer[f"{name}_norm"],
                f"{at}.norm{number}.bias": layer[f"{name}_norm_bias"],
            }
            tensors[f"{at}.layer_scale{number}.lambda1"] = layer[f"{name}_scale"]
    return tensors


def test_tensors_of_a_graph_come_under_our_names(params, monkeypatch, tmp_path):
    monkeypatch.setattr(dinov2, "read_onnx", lambda file: exported(params))
    config, found = load_dinov2(tmp_path / "model.onnx", 8)
    assert config == SMALL
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-7), found, params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("onnx::Reshape_9"), r"tensor positions.*in .*model\.onnx"),
        (lambda t: t.pop("backbone.encoder.layer.1.layer_scale2.lambda1"), r"layer\.1\.layer_scale2\.lambda1.*missing"),
        (lambda t: t.update({"backbone.embeddings.register_tokens": np.zeros((1, 4, 64))}), "register_tokens"),
        (lambda t: t.pop("backbone.embeddings.patch_embeddings.projection.weight"), r"patch_embeddings.*four axes"),
        (lambda t: [t.pop(name) for name in list(t) if ".layer." in name], r"encoder\.layer = 0.*as in DINOv2"),
        (lambda t: t.pop("backbone.encoder.layer.0.mlp.fc1.bias"), r"layer\.0\.mlp\.fc1.*in .*model\.onnx"),  # SwiGLU
    ],
)
def test_other_graphs_are_refused(params, monkeypatch, tmp_path, change, message):
    tensors = exported(params)
    change(tensors)
    monkeypatch.setattr(dinov2, "read_onnx", lambda file: tensors)
    with pytest.raises(InvalidConfig, match=message):
        load_dinov2(tmp_path / "model.onnx", 8)


def test_layer_scale_multiplies_what_a_layer_adds(params):
    images = jax.random.normal(jax.random.key(2), (2, 8, 8, 3))
    scaled = jax.jit(encode, static_argnums=0)(SMALL, params, images)[0]
    layers = dict(params["layers"])
    attention = dict(layers["attention"])
    for tree, names, scale in (
        (attention, ("output", "output_bias"), "attention"),
        (layers, ("mlp_out", "mlp_out_bias"), "mlp"),
    ):
        by = layers[f"{scale}_scale"]
        tree |= {names[0]: tree[names[0]] * by[:, None, :], names[1]: tree[names[1]] * by}
    layers = {name: leaf for name, leaf in layers.items() if not name.endswith("_scale")} | {"attention": attention}
    plain = replace(SMALL, layers=replace(SMALL.layers, layer_scale=False))
    folded = jax.jit(encode, static_argnums=0)(plain, params | {"layers": layers}, images)[0]
    np.testing.assert_allclose(scaled, folded, atol=1e-5)
    assert scaled.dtype == jnp.float32 and scaled.shape == (2, 5, 64)


def test_registers_stand_between_cls_and_patches_and_are_protected():
    config = replace(SMALL, registers=2)
    params = initialize(config, jax.random.key(0))
    images = jax.random.normal(jax.random.key(2), (2, 8, 8, 3))
    read, without = embed_images(config, params, images), embed_images(SMALL, params, images)
    assert (config.tokens, config.protected, SMALL.protected) == (7, 3, 1)
    np.testing.assert_array_equal(read[:, [0, 3, 4, 5, 6]], without)
    np.testing.assert_array_equal(read[:, 1:3], jnp.broadcast_to(params["registers"][None], (2, 2, 64)))

    def prune(seen):
        return Reduced(seen.stream[:, :4], seen.size[:, :4], None)

    tokens, size, *_ = jax.jit(lambda p, x: encode(config, p, x, (prune, None)))(params, images)
    assert tokens.shape == (2, 4, 64) and size.shape == (2, 4)
    with pytest.raises(InvalidConfig, match=r"model\.classes = 0"):
        classify(config, params, images)


def test_resampled_positions_keep_constants_lines_and_their_own_grid():
    table = np.random.default_rng(0).normal(size=(49, 3)).astype(np.float32)
    np.testing.assert_allclose(resample(table, 7), table, atol=1e-6)
    np.testing.assert_allclose(resample(np.ones((49, 1), np.float32), 4), 1.0, atol=1e-6)
    rows = np.repeat(np.arange(7, dtype=np.float32), 7)[:, None]
    # Between two points of a line the cubic gives their mean; at the rim the last point is repeated.
    halves = resample(rows, 14).reshape(14, 14)[:, 0]
    assert halves[5] + halves[6] == pytest.approx(5.0, abs=1e-5)  # places 2.25 and 2.75
    # A third of the way from 2 to 3, by Keys's weights of distances 4/3, 1/3, 2/3 and 5/3.
    places = resample(rows, 21).reshape(21, 21)[8, 0]  # (8 + 1/2) / 3 - 1/2 = 2 + 1/3
    weights = np.array([-1 / 9, 43 / 54, 10 / 27, -1 / 18])
    assert places == pytest.approx(float(weights @ [1, 2, 3, 4]), abs=1e-5)
    with pytest.raises(InvalidConfig, match="a square of patches"):
        resample(table[:5], 2)


@pytest.mark.parity
def test_the_released_backbone_is_that_of_onnxruntime(asset):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    file, output = asset("dinov2_small") / "vit_s_focus.onnx", "/backbone/layernorm/Add_1_output_0"
    images = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype(np.float32)
    graph = onnx.load(str(file))
    graph.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
    session = runtime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run([output], {"input_image": images.transpose(0, 3, 1, 2)})
    config, params = load_dinov2(file)
    found = np.asarray(jax.jit(encode, static_argnums=0)(config, params, jnp.asarray(images))[0])
    norms = np.linalg.norm(expected, axis=-1) * np.linalg.norm(found, axis=-1)
    assert ((expected * found).sum(-1) / norms).min() > 0.9999
