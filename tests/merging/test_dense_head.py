"""The dense head against its definition, tap by tap, and the released one against its graph; what stands where a patch has gone."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.merging import dense_head
from lexinv.merging.dense_head import every_patch, importance_map, load_dense_head
from lexinv.merging.fourier import dct_reduce
from lexinv.merging.plan import Plan
from lexinv.nn.vision_transformer import LAYERS, Encoded, VisionConfig
from lexinv.validation import InvalidConfig

MODEL = VisionConfig(8, 4, 3, 0, layers=replace(LAYERS, depth=1))


def graph():
    """The tensors of a small head."""
    rng, tensors = np.random.default_rng(0), {}
    for number, (width_in, width) in enumerate([(6, 5), (5, 4), (4, 3)], 1):
        tensors[f"decoder.upconv{number}.weight"] = rng.normal(size=(width_in, width, 4, 4))
        tensors[f"decoder.upconv{number}.bias"] = rng.normal(size=width)
        for part in ("weight", "bias", "running_mean"):
            tensors[f"decoder.bn{number}.{part}"] = rng.normal(size=width)
        tensors[f"decoder.bn{number}.running_var"] = rng.uniform(0.5, 2, size=width)
    tensors |= {
        "decoder.final_conv.weight": rng.normal(size=(1, 3, 1, 1)),
        "decoder.final_conv.bias": rng.normal(size=1),
    }
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def by_definition(t, x):
    """Of one image [width, rows, columns]."""
    for n in (1, 2, 3):
        kernel, (rows, columns) = t[f"decoder.upconv{n}.weight"], x.shape[1:]
        out = np.zeros((kernel.shape[1], 2 * rows + 2, 2 * columns + 2))
        for row, column in np.ndindex(rows, columns):
            added = np.einsum("i,iost->ost", x[:, row, column], kernel)
            out[:, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4] += added
        bias, gain, offset, mean, variance = (
            t[f"decoder.{name}"][:, None, None]
            for name in (
                f"upconv{n}.bias",
                *(f"bn{n}.{part}" for part in ("weight", "bias", "running_mean", "running_var")),
            )
        )
        out = out[:, 1:-1, 1:-1] + bias
        x = np.maximum((out - mean) / np.sqrt(variance + 1e-5) * gain + offset, 0)
    logits = np.einsum("o,oyx->yx", t["decoder.final_conv.weight"][0, :, 0, 0], x) + t["decoder.final_conv.bias"]
    return 1 / (1 + np.exp(-logits))


def test_map_is_that_of_the_definition(monkeypatch, tmp_path):
    monkeypatch.setattr(dense_head, "read_onnx", lambda file: graph())
    x = np.random.default_rng(1).normal(size=(2, 4, 6)).astype(np.float32)
    found = jax.jit(importance_map)(load_dense_head(tmp_path / "head.onnx"), jnp.asarray(x))
    expected = [by_definition(graph(), one.T.reshape(6, 2, 2).astype(float)) for one in x]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(InvalidConfig, match="patches = 3"):
        importance_map(load_dense_head(tmp_path / "head.onnx"), jnp.asarray(x[:, :3]))


@pytest.mark.parametrize("name", ["decoder.upconv2.weight", "decoder.bn3.running_var"])
def test_other_graphs_are_refused(monkeypatch, tmp_path, name):
    tensors = graph()
    del tensors[name]
    monkeypatch.setattr(dense_head, "read_onnx", lambda file: tensors)
    with pytest.raises(InvalidConfig, match=rf"{name}.*in .*head\.onnx"):
        load_dense_head(tmp_path / "head.onnx")


def test_merged_patches_share_and_pruned_ones_borrow_from_their_neighbour():
    """Of four patches behind CLS the second goes into the first, the fourth is pruned, and of equally near ones the first is taken."""
    plan = Plan(jnp.array([[0, 1, 1, 2, 3]]), jnp.array([[1.0, 1, 1, 1, 0]]), jnp.array([[0, 1, 3]]))
    tokens = jnp.array([[[9.0], [1.0], [2.0]]])
    found = every_patch(MODEL, Encoded(tokens, jnp.ones((1, 3)), [plan], None))
    np.testing.assert_array_equal(found[0, :, 0], [1, 1, 2, 1])


def test_what_has_no_high_frequencies_is_stretched_to_what_it_was():
    wave = np.cos(np.pi * (np.arange(4) + 0.5) / 4)[:, None]  # the second of four frequencies
    x = jnp.asarray(np.concatenate([[[7.0]], 3 + wave]), jnp.float32)
    found = every_patch(MODEL, Encoded(dct_reduce(x, 2)[None], jnp.ones((1, 3)), [None], None))
    np.testing.assert_allclose(found[0], x[1:], atol=1e-6)


@pytest.mark.parity
def test_the_released_head_is_that_of_its_graph(asset):
    """From the patches on, as the package onnx evaluates it."""
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    file = asset("dinov2_small") / "vit_s_focus.onnx"
    whole, end = onnx.load(str(file)), "/decoder/final_conv/Conv_output_0"
    layers = ("ConvTranspose", "BatchNormalization", "Relu", "Conv")
    nodes = [node for node in whole.graph.node if "decoder" in node.output[0] and node.op_type in layers]
    weights = [tensor for tensor in whole.graph.initializer if tensor.name.startswith("decoder.")]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in (nodes[0].input[0], end)]
    head = onnx.helper.make_graph(nodes, "head", ends[:1], ends[1:], weights)
    patches = np.random.default_rng(0).normal(size=(1, 4, 384)).astype(np.float32)
    model = onnx.helper.make_model(head, opset_imports=whole.opset_import)
    (logits,) = ReferenceEvaluator(model).run(None, {nodes[0].input[0]: patches[0].T.reshape(1, 384, 2, 2)})
    found = jax.jit(importance_map)(load_dense_head(file), jnp.asarray(patches))
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits[:, 0])), atol=1e-5)
