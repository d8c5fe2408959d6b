"""Tiles of images, and autoencoders of them with a quantiser between their halves."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key, UInt8

from experiments.harness.training import Training, train
from experiments.harness.work import MapDataset, Params
from experiments.harness.workspace import Workspace
from experiments.subjects.pretrained_vision import fingerprint, photographs
from lexinv.codes.autoencoder import AutoencoderConfig, initialize, reconstruct
from lexinv.codes.quantisers import Quantiser
from lexinv.data.images import decode, open_images
from lexinv.training.optimizers import OptimizerConfig, rated_in_state
from lexinv.training.streams import stream
from lexinv.validation import MOST, require


class Tiles(NamedTuple):
    train: UInt8[np.ndarray, "tiles side side 3"]
    test: UInt8[np.ndarray, "tiles side side 3"]


@lru_cache(2)
def image_tiles(images: str, side: int, held_out: int) -> tuple[Tiles, dict[str, str]]:
    """All squares of so many pixels of the images, side by side, those held out the same for all seeds; what tells the images from others.

    images: "photographs", those that come with packages, or a data set of TFDS, of which its validation split is cut.
    """
    if images == "photographs":
        named = photographs()
        whole, told = iter(named.values()), fingerprint(named)
    else:
        source = open_images(images, "validation")
        whole, told = (decode(example["image"]) for example in source.examples), {images: source.identity}
    found = []
    for image in whole:
        rows, columns = (size // side for size in image.shape[:2])
        cut = image[: rows * side, : columns * side].reshape(rows, side, columns, side, 3).swapaxes(1, 2)
        found.append(cut.reshape(-1, side, side, 3))
    tiles = np.random.default_rng(0).permutation(np.concatenate(found))
    require(held_out < len(tiles), "held_out", held_out, f"fewer than the {len(tiles)} tiles")
    return Tiles(tiles[held_out:], tiles[:held_out]), told


def pixels(tiles: Any) -> Float[Array, "tiles side side 3"]:
    """From -1 to 1."""
    return jnp.asarray(tiles, jnp.float32) / 127.5 - 1


def with_state(config: OptimizerConfig, steps: int, rate: Any) -> optax.GradientTransformation:
    """Of {"learned", "state"}: the usual one, and a step as long as the gradient, by which a state gets to where `toward` wants it."""
    labels: Any = {"learned": "learned", "state": "state"}
    return optax.multi_transform({"learned": rated_in_state(config, steps, rate), "state": optax.sgd(1.0)}, labels)


def toward(state: Params, moved: Params) -> Float[Array, ""]:
    """0, with such a gradient that a step as long as it takes the state to where it moved."""
    still = jax.lax.stop_gradient
    parts = jax.tree.map(lambda old, new: jnp.sum(still(old - new) * (old - still(old))), state, moved)
    return sum(jax.tree.leaves(parts), jnp.zeros(()))


def autoencoders(
    name: str, model: AutoencoderConfig, quantiser: Quantiser, tiles: Tiles, training: Training, workspace: Workspace
) -> list[Params]:
    """{"learned", "state"} for each seed. The loss is the share of the pixels' variance that is not reconstructed, and the quantiser's."""
    variance, shape = float(np.var(tiles.train / 127.5)), (training.steps_per_dispatch, training.batch_size)

    def begin(key: Key[Array, ""]) -> Params:
        learned, state = initialize(model, quantiser, key)
        return {"learned": learned, "state": state}

    def loss(params: Params, batch: Any, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        images, state = pixels(batch["tiles"]), params["state"]
        found, codes = reconstruct(model, quantiser, params["learned"], state, images, stream(key, "quantiser"))
        unexplained = jnp.mean(jnp.square(found - images)) / variance
        return unexplained + jnp.mean(codes.losses) + toward(state, codes.state), {"unexplained": unexplained}

    return train(name, begin, loss, batches(tiles, shape), training, workspace, optimizer=with_state)


def batches(tiles: Tiles, shape: tuple[int, int]) -> Callable[[int], MapDataset]:
    """By seed, tiles drawn with replacement, [dispatch, batch, side, side, 3]."""

    def of_seed(seed: int) -> MapDataset:
        import grain

        def dispatch(index: int) -> dict[str, np.ndarray]:
            return {"tiles": tiles.train[np.random.default_rng((seed, index)).integers(0, len(tiles.train), shape)]}

        return grain.MapDataset.range(MOST // shape[0]).map(dispatch)

    return of_seed
