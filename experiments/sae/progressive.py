"""How well a code reconstructs when only its k' largest entries are kept: TopK fits its own k, Multi-TopK serves all up to 4k.

Gao et al. 2024, Multi-TopK and progressive codes. One k in training, every k' after it. Variants that select keep the k' largest affinities
of a token, JumpReLU and ReLU the k' largest entries of their own codes. References: the k' largest true codes with the best bias, matching
pursuit on the true dictionary, and principal components of rank k'.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, GREY, PALETTE, band, panels
from experiments.harness.verdicts import Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.sparse_activations import (
    NAMES,
    PUBLISHED,
    SMOKE,
    VARIANTS,
    Setting,
    TrainingConfig,
    train,
    world,
)
from lexinv.sae.autoencoders import decode, encode, pre_activations, progressive
from lexinv.sae.methods import AutoencoderConfig, Params
from lexinv.sae.metrics import principal_components
from lexinv.sae.pursuit import matching_pursuit
from lexinv.sae.synthetic import SyntheticConfig
from lexinv.validation import Checked, Count, NonNegative

PAPERS = ("gao2025scaling",)
KINDS = ("topk", "multi_topk", "mutual", "matryoshka", "jumprelu", "relu")
PANELS = {
    "With and without the loss at 4k": (("topk", "multi_topk"), ("oracle", "pursuit", "components")),
    "Other variants": (("multi_topk", "mutual", "matryoshka", "jumprelu", "relu"), ("oracle",)),
}
REFERENCES = {
    "oracle": ("true codes", BLACK, "--"),
    "pursuit": ("matching pursuit, true dictionary", BLACK, ":"),
    "components": ("principal components", GREY, ":"),
}


@dataclass(frozen=True)
class Config(Checked):
    """k: of training, and JumpReLU's target. jumprelu, relu: coefficients of their penalties. k' runs over the powers of 2 up to 4k."""

    data: SyntheticConfig = SyntheticConfig()
    features: Count = 192
    training: TrainingConfig = TrainingConfig(seeds=(0, 1, 2, 3, 4))
    k: Count = 4
    jumprelu: NonNegative = 0.3
    relu: NonNegative = 0.5

    def checks(self):
        largest = min(self.features, self.data.width)
        fits = self.k & (self.k - 1) == 0 and 4 * self.k <= largest
        yield fits, "k", f"a power of 2 of which four times is at most {largest}, the features and dimensions"

    @property
    def kept(self) -> list[int]:
        """The values of k'."""
        return [2**power for power in range((4 * self.k).bit_length())]

    def setting(self, kind: str) -> Setting:
        """What is trained of one variant."""
        return Setting(float(self.k), {"jumprelu": self.jumprelu, "relu": self.relu}.get(kind, 0.0))


PRESETS = presets(Config(), smoke={**SMOKE, "features": 32, "k": 2}, paper={**PUBLISHED, "features": 4096, "k": 32})


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """FVU by variant, seed and k'."""

    def one(arm: str, seed: int) -> dict[str, list[float]]:
        return refer(config, seed) if arm == "references" else {"fvu": measure_progress(config, arm, seed, workspace)}

    return {
        "seeds": list(config.training.seeds),
        "k": config.k,
        "kept": config.kept,
        "arms": measured(workspace, (*KINDS, "references"), config.training.seeds, one),
    }


def measure_progress(config: Config, kind: str, seed: int, workspace: Workspace) -> list[float]:
    """FVU on the held-out tokens for every k'."""
    arguments = config.data, config.features, [config.setting(kind)], config.training, seed
    trained = train(VARIANTS[kind], *arguments, f"{kind}/seed-{seed}", workspace)
    x, params = trained.held_out.activations, trained.members[0].params
    codes = full_codes(trained.config, params, x)
    errors = [float(squared_error(params, codes, x, jnp.int32(k))) for k in config.kept]
    return [round(error / total_variance(x), 5) for error in errors]


@partial(jax.jit, static_argnums=0)
def full_codes(
    config: AutoencoderConfig, params: Params, x: Float[Array, "tokens width"]
) -> Float[Array, "tokens features"]:
    """What the k' largest entries are taken from: all affinities of a variant that selects, the codes of another."""
    if config.method.per is not None:
        return jax.nn.relu(pre_activations(params, x))
    return encode(config, params, x).activations


@jax.jit
def squared_error(
    params: Params, codes: Float[Array, "tokens features"], x: Float[Array, "tokens width"], k: Array
) -> Float[Array, ""]:
    """Mean over tokens of the squared error with the k largest entries."""
    return jnp.mean(jnp.sum(jnp.square(x - decode(params, progressive(codes, k))), axis=1))


def total_variance(x: Float[Array, "tokens width"]) -> float:
    """Mean over tokens of the squared distance to the mean."""
    values = np.asarray(x, np.float64)
    return float(np.square(values - values.mean(axis=0)).sum(axis=1).mean())


def refer(config: Config, seed: int) -> dict[str, list[float]]:
    """FVU of the references for every k', on the held-out tokens of the seed."""
    dictionary, fitted, held_out = world(config.data, config.training, seed)
    x, total = held_out.activations, total_variance(held_out.activations)
    params = {"decoder": dictionary, "decoder_bias": jnp.full(config.data.width, config.data.offset)}
    pursued = [matching_pursuit(x - params["decoder_bias"][None], dictionary, k) for k in config.kept]
    # The variance of what is left: an oracle may have a bias, as autoencoders do.
    left = [x - progressive(held_out.codes, jnp.int32(k)) @ dictionary for k in config.kept]
    errors = [
        float(squared_error(params, codes, x, jnp.int32(k))) for codes, k in zip(pursued, config.kept, strict=True)
    ]
    components = principal_components(np.asarray(fitted.activations), np.asarray(x), config.kept)
    return {
        "oracle": [round(total_variance(each) / total, 5) for each in left],
        "pursuit": [round(error / total, 5) for error in errors],
        "components": [round(value, 5) for value in components],
    }


def claims(results: dict[str, Any]) -> list[Claim]:
    """Multi-TopK against TopK, and TopK beyond its k."""
    arms, kept, k = Arms(results), results["kept"], results["k"]
    topk, multi = (arms[kind, "fvu"][:, kept.index(k)] for kind in ("topk", "multi_topk"))
    topk_wide, multi_wide = (arms[kind, "fvu"][:, kept.index(4 * k)] for kind in ("topk", "multi_topk"))
    return [
        Claim(
            "multi_topk_progressive",
            "Trained with the loss at 4k beside that at k, TopK reconstructs better from 4k entries and hardly worse from k.",
            "gao2025scaling",
            {"at 4k, difference": topk_wide - multi_wide, "at k, ratio": multi / topk},
            {"at 4k, difference": above(0), "at k, ratio": below(1.1)},
            "FVU of TopK minus that of Multi-TopK at 4k; FVU of Multi-TopK over that of TopK at k",
            "a progressive code over all k'",
        ),
        Claim(
            "topk_overfits_k",
            "TopK reconstructs worse from 4k entries than from the k it was trained with.",
            "gao2025scaling",
            {"TopK": topk_wide - topk, "Multi-TopK": multi_wide - multi},
            {"TopK": above(0)},
            "FVU at 4k minus FVU at k",
            "TopK overfits to its k",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """FVU against k', TopK against Multi-TopK in one panel and the other variants in another; means over seeds with their 95 % band."""
    arms, kept = Arms(results), results["kept"]
    drawn, axes = panels(1, 2, width=5.2, height=4.0, titles=tuple(PANELS))
    for panel, (kinds, references) in zip(axes, PANELS.values(), strict=True):
        for kind in kinds:
            color = PALETTE[KINDS.index(kind)]
            band(panel, kept, arms[kind, "fvu"], NAMES[kind], color, marker="o", markersize=3.5)
        for name in references:
            label, color, style = REFERENCES[name]
            values = np.maximum(arms["references", name], 1e-3)
            band(panel, kept, values, label, color, linestyle=style, linewidth=1.2)
        panel.axvline(results["k"], color=GREY, linewidth=0.8)
        panel.set(xlabel="entries kept per token (k'; line: k of training)", ylabel="fraction of variance unexplained")
        panel.set(xscale="log", yscale="log", ylim=(2e-3, 2))
        panel.set_xticks(kept, [str(count) for count in kept])
        panel.set_xticks([], minor=True)
        panel.legend(fontsize=7, loc="lower left")
    return drawn
