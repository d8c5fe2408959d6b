"""How well a code reconstructs when only its k' largest entries are kept: TopK fits its own k, Multi-TopK serves all up to 4k.

Gao et al. 2024 (arXiv 2406.04093), Multi-TopK and progressive codes; method card sparse-autoencoders. One k in training, every k' after it.
Variants that select keep the k' largest affinities of a token, JumpReLU and ReLU the k' largest entries of their own codes. References:
the k' largest true codes with the best bias, matching pursuit on the true dictionary, and principal components of rank k'.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from experiments.harness.claims import Claim, above, below, every, interval
from experiments.harness.style import BLACK, GREY, PALETTE, panels, styled
from experiments.harness.workspace import Workspace
from experiments.subjects.sparse_activations import NAMES, VARIANTS, Setting, TrainingConfig, train
from lexinv.sae.autoencoders import PER, AutoencoderConfig, Params, decode, encode, pre_activations, progressive
from lexinv.sae.metrics import matching_pursuit, principal_components
from lexinv.sae.synthetic import SyntheticConfig, make_dictionary, sample_tokens
from lexinv.sae.training import OptimizerConfig
from lexinv.training.streams import stream
from lexinv.validation import require

PAPER = """@article{gao2024scaling,
  title = {Scaling and Evaluating Sparse Autoencoders},
  author = {Gao, Leo and Dupr{\\'e} la Tour, Tom and Tillman, Henk and Goh, Gabriel and Troll, Rajan and Radford, Alec and
    Sutskever, Ilya and Leike, Jan and Wu, Jeffrey},
  journal = {arXiv preprint arXiv:2406.04093},
  year = {2024}
}"""
SOURCE = "Gao et al. 2024, Multi-TopK (method card; wording recalled)"
KINDS = ("topk", "multi_topk", "mutual", "matryoshka", "jumprelu", "relu")
REFERENCES = {
    "oracle": "true codes",
    "pursuit": "matching pursuit, true dictionary",
    "components": "principal components",
}


@dataclass(frozen=True)
class Config:
    """k: of training, and JumpReLU's target. jumprelu, relu: coefficients of their penalties. k' runs over the powers of 2 up to 4k."""

    data: SyntheticConfig = field(default_factory=SyntheticConfig)
    features: int = 192
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(seeds=(0, 1, 2, 3, 4)))
    k: int = 4
    jumprelu: float = 0.3
    relu: float = 0.5

    def __post_init__(self):
        fits = self.k >= 1 and self.k & (self.k - 1) == 0 and 4 * self.k <= min(self.features, self.data.width)
        largest = min(self.features, self.data.width)
        require(
            fits, "k", self.k, f"a power of 2 of which four times is at most {largest}, the features and dimensions"
        )
        for name in ("jumprelu", "relu"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "zero or more")

    @property
    def kept(self) -> list[int]:
        """The values of k'."""
        return [2**power for power in range((4 * self.k).bit_length())]

    def setting(self, kind: str) -> Setting:
        """What is trained of one variant."""
        return Setting(float(self.k), {"jumprelu": self.jumprelu, "relu": self.relu}.get(kind, 0.0))


PRESETS = {
    "smoke": Config(
        SyntheticConfig(width=16, features=24, l0=2.0),
        32,
        TrainingConfig(20, 64, OptimizerConfig(warmup_steps=2), held_out=4, steps_per_dispatch=10, seeds=(0, 1)),
        k=2,
    ),
    "cpu": Config(),
    "paper": Config(
        SyntheticConfig(width=768, features=16_384, l0=25.0),
        4096,
        TrainingConfig(
            steps=50_000, batch=4096, held_out=10, seeds=(0, 1, 2, 3, 4), dead_after=10_000_000, auxiliary_k=384
        ),
        k=32,
    ),
}


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """FVU by variant, seed and k'."""
    seeds = config.training.seeds
    found = {
        kind: [
            workspace.cached(
                f"{kind}/{seed}", lambda kind=kind, seed=seed: measure_progress(config, kind, seed, workspace)
            )
            for seed in seeds
        ]
        for kind in KINDS
    }
    references = [workspace.cached(f"references/{seed}", lambda seed=seed: refer(config, seed)) for seed in seeds]
    return {
        "corpora": {},
        "seeds": list(seeds),
        "k": config.k,
        "kept": config.kept,
        "fvu": found,
        "references": {name: [each[name] for each in references] for name in REFERENCES},
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
    if config.kind in PER:
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
    key = jax.random.key(seed)
    dictionary = make_dictionary(config.data, stream(key, "dictionary"))
    count = config.training.held_out * config.training.batch
    fitted, held_out = (
        sample_tokens(config.data, dictionary, count, stream(key, name)) for name in ("calibration", "held-out")
    )
    x, total = held_out.activations, total_variance(held_out.activations)
    params = {"decoder": dictionary, "decoder_bias": jnp.full(config.data.width, config.data.offset)}
    centred = x - params["decoder_bias"][None]
    pursued = [matching_pursuit(centred, dictionary, k) for k in config.kept]
    return {
        "oracle": [  # the variance of what is left: an oracle may have a bias, as autoencoders do
            round(total_variance(x - progressive(held_out.codes, jnp.int32(k)) @ dictionary) / total, 5)
            for k in config.kept
        ],
        "pursuit": [
            round(float(squared_error(params, codes, x, jnp.int32(k))) / total, 5)
            for codes, k in zip(pursued, config.kept, strict=True)
        ],
        "components": [
            round(value, 5)
            for value in principal_components(np.asarray(fitted.activations), np.asarray(x), config.kept)
        ],
    }


def claims(results: dict[str, Any]) -> list[Claim]:
    """Multi-TopK against TopK, TopK beyond its k, and the oracle."""
    kept, k = results["kept"], results["k"]
    fvu = {kind: np.array(rows) for kind, rows in results["fvu"].items()}
    own, wide = kept.index(k), kept.index(4 * k)
    gain = interval(fvu["topk"][:, wide] - fvu["multi_topk"][:, wide])
    price = interval(fvu["multi_topk"][:, own] / fvu["topk"][:, own])
    rise = interval(fvu["topk"][:, wide] - fvu["topk"][:, own])
    multi = interval(fvu["multi_topk"][:, wide] - fvu["multi_topk"][:, own])
    oracle = np.array(results["references"]["oracle"])
    lowest = np.min([fvu[kind] for kind in fvu], axis=0)
    margins = {f"k' = {count}": interval(lowest[:, i] - oracle[:, i]) for i, count in enumerate(kept)}
    return [
        Claim(
            "multi_topk_progressive",
            "Trained with the loss at 4k beside that at k, TopK reconstructs better from 4k entries and hardly worse from k (measured: FVU "
            "of TopK minus that of Multi-TopK at 4k; FVU of Multi-TopK over that of TopK at k).",
            SOURCE,
            "a progressive code over all k'",
            {"at 4k, difference": gain, "at k, ratio": price},
            "difference: whole interval above 0; ratio: whole interval below 1.1",
            every([above(gain, 0.0), below(price, 1.1)]),
        ),
        Claim(
            "topk_overfits_k",
            "TopK reconstructs worse from 4k entries than from the k it was trained with (measured: FVU at 4k minus FVU at k; Multi-TopK's "
            "beside it).",
            SOURCE,
            "TopK overfits to its k",
            {"TopK": rise, "Multi-TopK": multi},
            "TopK: whole interval above 0",
            above(rise, 0.0),
        ),
        Claim(
            "oracle_below_all",
            "The k' largest of the true features leave less unexplained than k' latents of any variant (measured: lowest FVU of all "
            "variants on each seed minus that of the true codes).",
            "own reference, no published counterpart",
            None,
            margins,
            "every whole interval above 0",
            every(above(value, 0.0) for value in margins.values()),
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """FVU against k', all variants in one panel and TopK against Multi-TopK in another; means over seeds with their range."""
    kept, k = results["kept"], results["k"]
    drawn, axes = panels(1, 2, width=5.2, height=4.0)
    with styled():
        for panel, kinds in zip(axes, (list(results["fvu"]), ["topk", "multi_topk"]), strict=True):
            for kind in kinds:
                color = PALETTE[KINDS.index(kind)]
                values = np.array(results["fvu"][kind])
                panel.plot(kept, values.mean(axis=0), "o-", color=color, markersize=3.5, label=NAMES[kind])
                panel.vlines(kept, values.min(axis=0), values.max(axis=0), color=color, linewidth=0.8, alpha=0.6)
            for (name, label), (color, line) in zip(
                REFERENCES.items(), ((BLACK, "--"), (BLACK, ":"), (GREY, ":")), strict=True
            ):
                mean = np.maximum(np.mean(results["references"][name], axis=0), 1e-3)
                panel.plot(kept, mean, color=color, linestyle=line, linewidth=1.2, label=label)
            panel.axvline(k, color=GREY, linewidth=0.8)
            panel.set(xlabel="entries kept per token (k')", ylabel="fraction of variance unexplained")
            panel.set(xscale="log", yscale="log")
            panel.set_xticks(kept, [str(count) for count in kept])
            panel.set_xticks([], minor=True)
        axes[0].set_ylim(bottom=2e-3)
        axes[1].set_ylim(axes[0].get_ylim())
        axes[0].set_title(f"All variants, trained at k = {k}")
        axes[1].set_title("With and without the loss at 4k")
        axes[0].legend(fontsize=6.5, loc="lower left")
    return drawn
