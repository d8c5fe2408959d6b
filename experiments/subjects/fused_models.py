"""Models that read images of codes one by one or a window at a time, trained in as few programs as they have shapes.

Ma et al. 2025 (Token-Shuffle), see `lexinv.merging.token_shuffle`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.harness.arms import train_arms
from experiments.harness.training import Params, Training, initial
from experiments.harness.workspace import Workspace
from experiments.subjects.coded_images import Images
from lexinv.merging.token_shuffle import FusedConfig, code_windows, fused_nll, initialize, window_logits, z_loss


class Arm(NamedTuple):
    """How a model reads. order: side of the windows that a model of side 1 reads one after another.

    rank: of embeddings, the width over this. blocks: what the residual MLPs add is multiplied by it. flops: trained for as many operations
    as code by code, not as many steps. short: for a third of the steps.
    """

    side: int = 1
    order: int = 1
    rank: int = 1
    blocks: float = 1.0
    fusion: str = "concatenate"
    flops: bool = False
    short: bool = False

    @property
    def program(self) -> "Arm":
        """What arms that are trained together have in common."""
        return Arm(self.side, fusion=self.fusion, flops=self.flops, short=self.short)


Draw = Callable[[Array], Images]
"""draw(key): images to train with."""


def windows_of(arm: Arm, images: Any) -> np.ndarray:
    """Their codes as the arm reads them, [images, m, fused]."""
    codes = np.asarray(images)
    parts = code_windows(codes, max(arm.side, arm.order), int(codes.max()) + 1)
    return parts.reshape(len(codes), -1, arm.side**2)


def learn(
    name: str, model: FusedConfig, arms: dict[str, Arm], draw: Draw, training: Training, z: float, workspace: Workspace
) -> dict[str, list[Params]]:
    """Parameters by arm and seed: one program, in which the order of codes, the rank and what MLPs add are data."""
    seeds, width, grid = training.seeds, model.layers.width, jax.eval_shape(draw, jax.random.key(0)).codes.shape[1:]
    places = np.arange(np.prod(grid)).reshape(1, *grid)

    def given(arm: Arm) -> dict[str, Array]:
        channels = (np.arange(width) < width // arm.rank).astype(np.float32)
        found = {
            "blocks": np.float32(arm.blocks),
            "channels": channels,
            "order": windows_of(arm, places)[0].astype(np.float32),
        }
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (len(seeds), *leaf.shape)), found)

    def loss(params: Params, given: dict[str, Array], key: Array) -> tuple[Array, dict[str, Array]]:
        images = draw(key)
        windows = images.codes.reshape(len(images.codes), -1)[:, given["order"].astype(jnp.int32)]
        logits = window_logits(model, adapted(params, given), images.prompt, windows)
        return jnp.mean(fused_nll(logits, windows)) + z * z_loss(logits), {}

    begun = initial(partial(initialize, model), seeds)
    starts = {arm: (begun, given(one)) for arm, one in arms.items()}
    trained = train_arms(name, tuple(arms), starts, loss, training, workspace)
    first = {arm: jax.tree.map(lambda leaf: leaf[0], found[1]) for arm, found in starts.items()}
    return {arm: [adapted(one, first[arm]) for one in found] for arm, found in trained.items()}


def adapted(params: Params, given: dict[str, Array]) -> Params:
    """With embeddings of a lower rank, and without what MLPs add, where the arm says so."""
    mlps = {
        name: params[name] | {"mlp_out": params[name]["mlp_out"] * given["blocks"]} for name in ("shuffle", "unshuffle")
    }
    return params | mlps | {"codes": params["codes"] * given["channels"][None]}


@partial(jax.jit, static_argnums=0)
def _nats(model: FusedConfig, params: Params, prompt: Array, windows: Array) -> Array:
    return jnp.mean(fused_nll(window_logits(model, params, prompt, windows), windows))


def bits_of(model: FusedConfig, params: Params, arm: Arm, images: Images) -> float:
    """Of a code, the mean over images."""
    nats = _nats(model, params, jnp.asarray(images.prompt), jnp.asarray(windows_of(arm, images.codes)))
    return round(float(nats) / np.log(2), 5)
