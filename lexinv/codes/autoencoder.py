"""A small convolutional autoencoder of images whose latents lie on a grid of patches; what is between its halves is a quantiser's."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lexinv.codes.quantisers import Draw, Params, Quantised, Quantiser, State
from lexinv.nn.linear import linear, rms_norm
from lexinv.validation import Checked, Count, require


@dataclass(frozen=True)
class AutoencoderConfig(Checked):
    """Images of `channels`, cut into patches of `patch` pixels a side; `depth` residual blocks of `width` in either half."""

    patch: Count = 4
    channels: Count = 3
    width: Count = 32
    depth: Count = 2

    def check_image(self, shape: Sequence[int]) -> None:
        """Raise `InvalidConfig` for images [..., height, width, channels] that are no whole patches."""
        whole = len(shape) >= 3 and shape[-3] % self.patch == shape[-2] % self.patch == 0 and min(shape[-3:-1]) > 0
        require(whole, "image", shape, f"[..., height, width, channels] with sides that patches of {self.patch} divide")
        require(shape[-1] == self.channels, "image", shape, f"{self.channels} channels")


def initialize(config: AutoencoderConfig, quantiser: Quantiser, key: Key[Array, ""]) -> tuple[Params, State]:
    """(parameters with the quantiser's, the quantiser's state)."""
    pixels, (enter, leave, own) = config.patch**2 * config.channels, jax.random.split(key, 3)
    params, state = quantiser.start(own)
    encoder = _half(config, pixels, quantiser.width, enter)
    return {"encoder": encoder, "decoder": _half(config, quantiser.written, pixels, leave), "quantiser": params}, state


def encode(config: AutoencoderConfig, params: Params, images: Float[Array, "*b h w c"]) -> Float[Array, "*b y x d"]:
    """Latents. Raises `InvalidConfig` for images that are no whole patches."""
    config.check_image(images.shape)
    *batch, height, width, channels = images.shape
    side = config.patch
    cut = images.reshape(*batch, height // side, side, width // side, side, channels).swapaxes(-4, -3)
    return _transform(params["encoder"], cut.reshape(*batch, height // side, width // side, -1))


def decode(config: AutoencoderConfig, params: Params, values: Float[Array, "*b y x e"]) -> Float[Array, "*b h w c"]:
    """Images of what the quantiser wrote."""
    side, channels = config.patch, config.channels
    found = _transform(params["decoder"], values)
    *batch, rows, columns, _ = found.shape
    whole = found.reshape(*batch, rows, columns, side, side, channels).swapaxes(-4, -3)
    return whole.reshape(*batch, rows * side, columns * side, channels)


def reconstruct(
    config: AutoencoderConfig,
    quantiser: Quantiser,
    params: Params,
    state: State,
    images: Float[Array, "*b h w c"],
    key: Draw = None,
) -> tuple[Float[Array, "*b h w c"], Quantised]:
    """Images from their codes, and the codes."""
    found = quantiser.quantize(params["quantiser"], state, encode(config, params, images), key)
    return decode(config, params, found.values), found


def _half(config: AutoencoderConfig, read: int, written: int, key: Key[Array, ""]) -> Params:
    enter, leave, *blocks = jax.random.split(key, 2 + config.depth)
    width = config.width

    def matrix(key: Key[Array, ""], rows: int, columns: int) -> Float[Array, "rows columns"]:
        return jax.random.normal(key, (rows, columns)) / rows**0.5

    return {
        "in": {"kernel": matrix(enter, read, width), "bias": jnp.zeros(width)},
        "blocks": [
            {"norm": jnp.ones(width), "near": {"kernel": matrix(one, 9 * width, width)}, "out": {"kernel": jnp.zeros((width, width))}}
            for one in blocks
        ],
        "norm": jnp.ones(width),
        "out": {"kernel": matrix(leave, width, written), "bias": jnp.zeros(written)},
    }  # fmt: skip


def _transform(params: Params, x: Float[Array, "*b y x n"]) -> Float[Array, "*b y x m"]:
    h = linear(x, params["in"]["kernel"]) + params["in"]["bias"].reshape((1,) * (x.ndim - 1) + (-1,))
    for block in params["blocks"]:
        near = linear(neighbourhoods(rms_norm(h, block["norm"])), block["near"]["kernel"])
        h = h + linear(jax.nn.gelu(near), block["out"]["kernel"])
    bias = params["out"]["bias"].reshape((1,) * (x.ndim - 1) + (-1,))
    return linear(rms_norm(h, params["norm"]), params["out"]["kernel"]) + bias


def neighbourhoods(x: Float[Array, "*b y x n"]) -> Float[Array, "*b y x nine_n"]:
    """Each cell with the eight around it, 0 beyond the edge: a convolution of 3 x 3 is a product with these.

    As a product since XLA's convolutions are slow on the CPU inside a loop, and where members of a population have kernels of their own.
    """
    rows, columns = x.shape[-3:-1]
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(1, 1), (1, 1), (0, 0)])
    shifts = [padded[..., i : i + rows, j : j + columns, :] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifts, axis=-1)
