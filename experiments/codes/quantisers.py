"""Which quantiser of image latents costs least? Scalars after training, vectors, bits and finite scalars on one grid of patches.

Wang et al. 2025 (arXiv 2503.16430, TokenBridge) and Liu et al. 2025 (arXiv 2410.16257, ELM); method cards tokenbridge and
elm-image-generation. One small autoencoder of tiles of photographs, trained anew with every quantiser that is trained at all. What the
papers lack: equal bits, moving averages and restarts for VQ, and the best levels for each dimension.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from math import log2
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import norm

from experiments.harness.arms import Arms, measured
from experiments.harness.figures import bars, legend_beside, lines
from experiments.harness.presets import presets
from experiments.harness.style import panels, reference
from experiments.harness.training import Training
from experiments.harness.verdicts import OURS, Claim, above, below, between
from experiments.harness.workspace import Workspace
from experiments.subjects.image_codes import autoencoders, image_tiles, pixels
from lexinv.codes.autoencoder import AutoencoderConfig, decode, encode, reconstruct
from lexinv.codes.codebooks import VectorConfig, index_backprop, residual, vq
from lexinv.codes.measures import code_use, psnr, ssim
from lexinv.codes.quantisers import Quantiser, bernoulli, fsq, gaussian, gaussian_levels, joined, k_means_levels, scalar
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import Checked, Count, Counts, Distinct, Positive

PAPERS = ("wang2025bridging", "liu2025elucidating")
LABELS = {
    "vq": "VQ",
    "averaged": "VQ, averages and restarts",
    "residual": "RVQ of 2 stages",
    "fsq": "FSQ",
    "bernoulli": "Bernoulli bits",
    "ibq": "IBQ",
}
CARD = {5.0: (6.56e-4, 5.724), 3.0: (3.93e-3, 5.999)}
"""By reach: squared error and bits of 64 levels for a standard normal, as on the paper's card."""
FREE, BINS, REACH = 32, 64, 5.0
"""Levels that are said to cost nothing; most levels and reach of the paper."""


@dataclass(frozen=True)
class Config(Checked):
    """images: "photographs", or a data set of TFDS. tile: pixels along a side; held_out: tiles. width: dimensions of latents.

    divergence: weight of that of continuous latents. bits: of a position, of the quantisers that are trained. bins, reaches: levels and
    range of the scalar one. fitted: latents to which levels are fitted. normals: draws, one from each of so many quantiles.
    """

    images: str = "photographs"
    tile: Count = 16
    held_out: Count = 2000
    model: AutoencoderConfig = AutoencoderConfig()
    width: Count = 8
    divergence: Positive = 1e-3
    bits: Counts = (8, 10)
    bins: Counts = (2, 4, 8, 16, FREE, BINS)
    reaches: Distinct[float] = (2.0, 3.0, 4.0, REACH)
    fitted: Count = 5000
    normals: Count = 200_000
    training: Training = Training(1000, 32, (0, 1, 2), OptimizerConfig(learning_rate=3e-3), steps_per_dispatch=20)

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield self.tile % self.model.patch == 0, "tile", f"a multiple of model.patch = {self.model.patch}"
        yield (
            self.width in self.bits and min(self.bits) >= 2,
            "bits",
            f"{self.width}, a bit for each dimension, among them",
        )
        yield all(bits % 2 == 0 for bits in self.bits), "bits", "even: FSQ has four levels in each dimension"
        yield {2, FREE, BINS} <= set(self.bins) and min(self.bins) > 1, "bins", f"2, {FREE} and {BINS} among them"
        yield REACH in self.reaches and min(self.reaches) > 0, "reaches", f"{REACH:g} among them, all above 0"
        yield self.fitted >= max(self.bins), "fitted", "at least as many as bins"


PRESETS = presets(
    Config(),
    smoke={
        "held_out": 40,
        "model": AutoencoderConfig(width=8, depth=1),
        "width": 4,
        "bits": (4,),
        "bins": (2, FREE, BINS),
        "reaches": (REACH,),
        "fitted": 200,
        "normals": 1000,
        "training.steps": 20,
        "training.batch_size": 4,
        "training.seeds": (0, 1),
        "training.optimizer.warmup_steps": 5,
    },
    paper={
        "images": "imagenet2012",
        "tile": 256,
        "model": AutoencoderConfig(patch=16, width=512, depth=8),
        "width": 16,
        "bits": (10, 14, 16),
        "divergence": 1e-6,
        "training.steps": 500_000,
        "training.batch_size": 256,
    },
)


def trained_quantiser(arm: str, width: int) -> Quantiser:
    """Of an arm such as "vq/8": its kind and the bits of a position."""
    kind, bits = arm.split("/")[0], int(arm.split("/")[1])

    def kept(codes: int) -> VectorConfig:
        return VectorConfig(codes, decay=0.95, restart=0.1)

    made = {
        "vq": lambda: vq(width, VectorConfig(2**bits)),
        "averaged": lambda: vq(width, kept(2**bits)),
        "residual": lambda: residual(width, kept(2 ** (bits // 2)), 2, dropout=True),
        "fsq": lambda: fsq((4,) * (bits // 2)),
        "bernoulli": lambda: bernoulli(bits, width),
        "ibq": lambda: index_backprop(width, 2**bits),
    }
    return made[kind]()


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By arm and seed: PSNR in decibels, SSIM, share and perplexity of codes on held-out tiles; of scalars those of a dimension's codes.
    "analytic": squared error and entropy of 64 levels of normals, by reach."""
    training, width, model = config.training, config.width, config.model
    tiles, told = image_tiles(config.images, config.tile, config.held_out)
    images, seeds, corpora = pixels(tiles.test), training.seeds, workspace.pinned("corpora", told)

    def quality(found: Any) -> dict[str, float]:
        shown = np.clip(np.asarray(found), -1, 1)
        return {"psnr": round(psnr(shown, np.asarray(images)), 4), "ssim": round(ssim(shown, np.asarray(images)), 4)}

    def use(codes: np.ndarray, size: int) -> dict[str, float]:
        share, perplexity = code_use(codes, size)
        return {"use": round(share, 4), "perplexity": round(perplexity, 2)}

    def learned(arm: str, seed: int) -> dict[str, float]:
        quantiser = trained_quantiser(arm, width)
        params = autoencoders(f"train/{arm}", model, quantiser, tiles, training, workspace)[seeds.index(seed)]
        read = jax.jit(partial(reconstruct, model, quantiser))
        found, codes = read(params["learned"], params["state"], images)
        drawn = read(params["learned"], params["state"], images, jax.random.key(seed))[1]
        every, size = (
            (np.asarray(joined(one.ids, quantiser.sizes)) for one in (codes, drawn)),
            2 ** int(arm.split("/")[1]),
        )
        own, other = (use(one, size) for one in every)
        return {**quality(found), **own, "drawn_use": other["use"]}

    @cache
    def continuous(seed: int) -> tuple[Any, np.ndarray, np.ndarray]:
        """(parameters, latents of held-out tiles, some of training tiles), latents by position."""
        trained = autoencoders(
            "train/continuous", model, gaussian(width, config.divergence), tiles, training, workspace
        )
        params = trained[seeds.index(seed)]["learned"]
        positions = (config.tile // model.patch) ** 2
        some = tiles.train[: -(-config.fitted // positions)]
        read = jax.jit(partial(encode, model))
        held_out, fitted = (np.asarray(read(params, one)[..., :width]) for one in (images, pixels(some)))
        return params, held_out, fitted.reshape(-1, width)[: config.fitted]

    write = jax.jit(partial(decode, model))

    def after(arm: str, seed: int) -> dict[str, float]:
        params, latents, fitted = continuous(seed)
        if arm == "continuous":
            return quality(write(params, latents))
        kind, bins = arm.split("/")[0], int(arm.split("/")[1])
        centre, scale = fitted.mean(axis=0), fitted.std(axis=0)
        levels = k_means_levels((fitted - centre) / scale, bins, seed) if kind == "kmeans" else None
        reach = float(arm.split("/")[2]) if levels is None else REACH
        quantiser = scalar(width, gaussian_levels(bins, reach) if levels is None else levels)
        z = jnp.asarray((latents - centre) / scale)
        found = jax.jit(quantiser.quantize)(*quantiser.start(jax.random.key(0)), z, None)
        parts = [use(np.asarray(found.ids[..., i]), bins) for i in range(width)]
        mean = {name: round(float(np.mean([part[name] for part in parts])), 4) for name in parts[0]}
        return {**quality(write(params, np.asarray(found.values) * scale + centre)), **mean}

    def normals(arm: str, seed: int) -> dict[str, float]:
        quantiser = scalar(1, gaussian_levels(BINS, float(arm.split("/")[1])))
        uniform = np.random.default_rng(seed).uniform(size=config.normals)
        z = norm.ppf((np.arange(config.normals) + uniform) / config.normals)[:, None].astype(np.float32)
        found = quantiser.quantize(*quantiser.start(jax.random.key(0)), jnp.asarray(z), None)
        error = float(np.mean(np.square(np.asarray(found.values, np.float64) - z)))
        return {"error": error, "bits": log2(code_use(np.asarray(found.ids), BINS)[1])}

    scalars = [f"scalar/{bins}/{reach:g}" for reach in config.reaches for bins in config.bins]
    arms = measured(workspace, ["continuous", *scalars, *(f"kmeans/{bins}" for bins in config.bins)], seeds, after)
    arms |= measured(workspace, [f"{kind}/{bits}" for kind in LABELS for bits in config.bits], seeds, learned)
    return {
        "corpora": corpora,
        "seeds": seeds,
        "width": width,
        "positions": (config.tile // model.patch) ** 2,
        "steps": training.steps,
        "bits": config.bits,
        "bins": config.bins,
        "reaches": config.reaches,
        "arms": arms,
        "analytic": measured(workspace, [f"normals/{reach:g}" for reach in CARD], seeds, normals),
    }


def claims(results: dict[str, Any]) -> list[Claim]:
    """What the papers say of their quantisers, and equal bits."""
    arms, width = Arms(results), results["width"]
    free = {bins: arms["continuous", "psnr"] - arms[f"scalar/{bins}/{REACH:g}", "psnr"] for bins in results["bins"]}
    vectors = [f"{kind}/{bits}" for kind in ("vq", "averaged") for bits in results["bits"]]
    best = arms[f"scalar/{FREE}/{REACH:g}", "psnr"]
    use = {f"{bits} bits": arms[f"bernoulli/{bits}", "use"] for bits in results["bits"]}
    plain = {f"{bits} bits": arms[f"vq/{bits}", "use"] for bits in results["bits"]}
    found = results["analytic"]
    return [
        Claim(
            "scalar_free_at_32_levels",
            "Reconstructions from 32 levels of each dimension, fixed after training, are within 0.1 dB of those from the latents.",
            "wang2025bridging: abstract and ablation of levels",
            {f"{bins} levels": lost for bins, lost in free.items()},
            {f"{FREE} levels": below(0.1)},
            "dB lost",
            "rFID 1.12 against 1.11 (third-party note)",
        ),
        Claim(
            "vq_worse_on_the_same_grid",
            "A trained codebook of vectors on the same grid reconstructs worse than those levels, by 1 dB at least.",
            "wang2025bridging: abstract",
            {f"{LABELS[arm.split('/')[0]]}, {arm.split('/')[1]} bits": best - arms[arm, "psnr"] for arm in vectors},
            above(1.0),
            "dB",
        ),
        Claim(
            "bernoulli_uses_all_codes",
            "A binary autoencoder uses all of its codes.",
            "liu2025elucidating: section on tokenizers [recalled]",
            use | {f"{bits} bits, drawn": arms[f"bernoulli/{bits}", "drawn_use"] for bits in results["bits"]},
            dict.fromkeys(use, above(0.99)),
            "share of the codes",
        ),
        Claim(
            "plain_vq_wastes_codes",
            "A codebook that is learned by gradients alone uses less than half of its codes.",
            "liu2025elucidating: section on tokenizers [recalled]",
            plain | {f"{bits} bits, restarts": arms[f"averaged/{bits}", "use"] for bits in results["bits"]},
            dict.fromkeys(plain, below(0.5)),
            "share of the codes",
        ),
        Claim(
            "analytic_distortion",
            "64 levels of a standard normal have the error and the entropy that integration gives.",
            OURS,
            {
                f"{what}, range {reach:g}": np.array(found[f"normals/{reach:g}"][name]) / value
                for reach, values in CARD.items()
                for what, name, value in zip(("error", "entropy"), ("error", "bits"), values, strict=True)
            },
            between(0.99, 1.01),
            "over the value on the card",
        ),
        Claim(
            "equal_bits_reverse_it",
            "At equal bits, one a dimension, codes learned with the autoencoder reconstruct better than levels fixed after training.",
            OURS,
            {
                label: arms[f"{kind}/{width}", "psnr"] - arms[f"scalar/2/{REACH:g}", "psnr"]
                for kind, label in LABELS.items()
            },
            {LABELS["averaged"]: above(0.0)},
            "dB",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Reconstruction against bits, the use of codes, and what range and number of levels cost."""
    arms, width, bins, bits = Arms(results), results["width"], results["bins"], results["bits"]
    titles = ("reconstruction against bits", "use of codes", "levels fixed after training")
    drawn, (quality, use, range_) = panels(1, 3, width=5.2, height=3.6, titles=titles)

    def levels(form: str) -> np.ndarray:
        return np.stack([arms[form.format(count), "psnr"] for count in bins], axis=1)

    def at(kind: str, metric: str) -> np.ndarray:
        return np.stack([arms[f"{kind}/{count}", metric] for count in bits], axis=1)

    fixed = {"scalar, range 5": levels("scalar/{}/5"), "scalar, k-means of each dimension": levels("kmeans/{}")}
    lines(quality, bits, {label: at(kind, "psnr") for kind, label in LABELS.items()})
    lines(quality, [width * log2(count) for count in bins], dict.fromkeys(LABELS.values()) | fixed)
    reference(quality, arms["continuous", "psnr"].mean(), "continuous")
    quality.set(xlabel="bits of a position", ylabel="PSNR of held-out tiles (dB)")
    quality.legend(fontsize=6.5)
    bars(use, [f"{count} bits" for count in bits], {kind: (label, at(kind, "use")) for kind, label in LABELS.items()})
    use.set(ylabel="share of the codes that occur", ylim=(0, 1.05))
    legend_beside(use)
    lost = {
        f"range {reach:g}": arms["continuous", "psnr"][:, None] - levels(f"scalar/{{}}/{reach:g}")
        for reach in results["reaches"]
    }
    lines(range_, np.log2(bins), lost)
    range_.set(xlabel="levels of a dimension", ylabel="PSNR lost (dB)")
    range_.set_xticks(np.log2(bins), [str(count) for count in bins])
    reference(range_, 0.1, "0.1 dB")
    range_.legend()
    return drawn
