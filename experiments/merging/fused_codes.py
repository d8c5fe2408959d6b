"""What it costs to read and predict the codes of an image a window at a time, and how much of that no training can take away.

Ma et al. 2025 (Token-Shuffle, arXiv 2504.17789); method card token-shuffle. Scanned digits of 17 grey levels, turned, moved and faded anew
whenever they are read, are images of 64 codes that need no quantiser: models read them code by code, or s x s codes as one token, at equal
steps and at equal floating-point operations. Windows whose fourth code is the parity of the others have an exact floor. Guidance is judged
on captioned pictures (`experiments.subjects.captions`).
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.figures import lines
from experiments.harness.presets import presets
from experiments.harness.style import GREY, PALETTE, panels, styled
from experiments.harness.training import Params, Training
from experiments.harness.verdicts import OURS, Claim, above, below, between
from experiments.harness.workspace import Workspace
from experiments.subjects.captions import CODES, COLUMNS, NULL, ROWS, WORDS, sample_captions, shows
from experiments.subjects.coded_images import (
    LEVELS,
    SIDE,
    Images,
    as_patches,
    digits,
    every_parity,
    larger_patches,
    random_parities,
    rows_of,
    transformed,
)
from experiments.subjects.fused_models import Arm, Draw, bits_of, learn, windows_of
from lexinv.merging.fused_sampling import marginal_nll, sample
from lexinv.merging.token_shuffle import FusedConfig, Schedule, guidance_schedule, image_flops, window_merge
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, NonNegative, NonNegatives, Share

PAPERS = ("ma2025tokenshuffle",)
PAPER = "ma2025tokenshuffle"
RANKS = (1, 2, 4, 8, 16)
SCHEDULES: tuple[Schedule, ...] = ("constant", "half_linear")
DRAWS = {"seen": False, "held out": True}

DIGITS = {
    "raster": Arm(),
    "windows": Arm(order=2),
    "windows_4": Arm(order=4),
    **{f"rank_{rank}": Arm(rank=rank, short=True) for rank in RANKS},
    "fused_2": Arm(2),
    "no_mlps": Arm(2, blocks=0.0),
    "mean": Arm(2, fusion="mean"),
    "fused_4": Arm(4),
    "fused_2_flops": Arm(2, flops=True),
}
PARITY = {"parity_1": Arm(order=2), "parity_2": Arm(2)}


@dataclass(frozen=True)
class Config(Checked):
    """digits, parity, captions: how models of these are trained. images: digits held out, the same of all seeds; each is judged in two
    forms. z: weight of `z_loss`.

    patches: k-means centres of 2 x 2 pixels, the larger patches. samples: Monte Carlo, of each window. unread: share of captions that
    training hides. strengths: of guidance; strength: the judged one. prompts: of each kind.
    """

    model: TransformerConfig = TransformerConfig(2, 64, 4, 128, "learned", 64, unroll=2)
    digits: Training = Training(2400, 16, (0, 1, 2), OptimizerConfig("muon", 1e-2, 30), steps_per_dispatch=20)
    parity: Training = Training(1500, 32, (0, 1, 2), OptimizerConfig("muon", 1e-2, 30), steps_per_dispatch=20)
    captions: Training = Training(600, 32, (0, 1, 2), OptimizerConfig("muon", 1e-2, 30), steps_per_dispatch=20)
    z: NonNegative = 1e-4
    images: Count = 450
    patches: Count = 64
    samples: Count = 32
    unread: Share = 0.1
    strengths: NonNegatives = (1.0, 3.0, 6.0)
    strength: NonNegative = 3.0
    prompts: Count = 256

    def checks(self):
        d = self.model.width
        yield d % max(RANKS) == 0, "model.width", f"a multiple of {max(RANKS)}, for the ranks and windows of side 4"
        yield self.model.max_length >= SIDE**2, "model.max_length", "at least 64, the codes of a digit"
        yield self.samples % 2 == 0, "samples", "even"
        yield min(self.strengths) > 0, "strengths", "above 0"
        yield self.strength in self.strengths, "strength", f"one of {self.strengths}"
        for other in ("parity", "captions"):
            yield getattr(self, other).seeds == self.digits.seeds, f"{other}.seeds", "those of digits"
        _ = self.fused(LEVELS, 10, 4)  # refuses what cannot be cut

    def fused(self, codes: int, words: int, side: int, fusion: Any = "concatenate") -> FusedConfig:
        return FusedConfig(self.model, codes, words, side, fusion=fusion)

    def steps(self, arm: Arm) -> int:
        """Steps of digits."""
        each, share = self.digits.steps_per_dispatch, 1 / 3 if arm.short else 1.0
        if arm.flops:
            one, fused = (image_flops(self.fused(LEVELS, 10, s), 1, SIDE**2 // s**2) for s in (1, arm.side))
            share = one / fused
        return max(round(self.digits.steps * share / each), 1) * each


PRESETS = presets(
    Config(),
    smoke={
        "model": TransformerConfig(1, 16, 2, 16, "learned", 64),
        **{
            name: Training(4, 4, (0, 1), OptimizerConfig(warmup_steps=1), steps_per_dispatch=4)
            for name in ("digits", "parity", "captions")
        },
        "images": 20,
        "patches": 8,
        "samples": 2,
        "strengths": (1.0, 3.0),
        "prompts": 4,
    },
    quick={"digits.steps": 480, "parity.steps": 1000, "captions.steps": 300, "images": 100, "prompts": 64},
    paper={
        "model": TransformerConfig(20, 3072, 24, 8192, "learned", 4096),
        "digits.steps": 20_000,
        "parity.steps": 5_000,
        "captions.steps": 100_000,
        "prompts": 2000,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By arm [seeds]: bits of a held-out code, of digits and of parities; of captions shares that are shown, [seeds][strengths]."""
    (train, held_out), seeds = digits(config.images), config.digits.seeds
    test, again = (forms(images, 2 * config.images, kind) for kind, images in (("test", held_out), ("train", train)))
    models: dict[str, tuple[FusedConfig, list[Params]]] = {}

    def drawn(key: Array) -> Images:
        return transformed(rows_of(train, config.digits.batch_size, key), stream(key, "forms"))

    def add(name: str, model: FusedConfig, arms: dict[str, Arm], draw: Draw, training: Training) -> None:
        found = learn(name, model, arms, draw, training, config.z, workspace)
        models.update({arm: (model, params) for arm, params in found.items()})

    for program in dict.fromkeys(arm.program for arm in DIGITS.values()):
        arms = {name: arm for name, arm in DIGITS.items() if arm.program == program}
        training = replace(config.digits, steps=config.steps(program))
        model = config.fused(LEVELS, 10, program.side, program.fusion)
        add(f"digits/{next(iter(arms))}", model, arms, drawn, training)
    centres, rest = larger_patches(config.patches, forms(train, 8 * len(train.codes), "patches"), test)
    coarse, patches = config.fused(config.patches, 10, 1), as_patches(centres, test)
    add("digits/patches", coarse, {"patches": Arm()}, lambda key: as_patches(centres, drawn(key)), config.digits)
    for arm in PARITY.values():
        draw = partial(random_parities, config.parity.batch_size)
        add(f"parity/{arm.side}", config.fused(2, 1, arm.side), {f"parity_{arm.side}": arm}, draw, config.parity)
    hiding = partial(captioned, config.captions.batch_size, config.unread)
    add("captions", config.fused(CODES, len(WORDS), 2), {"captions": Arm(2)}, hiding, config.captions)

    def one(name: str, seed: int) -> dict[str, Any]:
        model, params = models[name][0], models[name][1][seeds.index(seed)]
        if name == "captions":
            return guided(config, model, params, seed)
        if name in PARITY:
            return {"bits": bits_of(model, params, PARITY[name], every_parity())}
        if name == "patches":
            return {"bits": bits_of(model, params, Arm(), patches) / 4 + rest}
        arm = DIGITS[name]
        found = {"bits": bits_of(model, params, arm, test), "training_bits": bits_of(model, params, arm, again)}
        if arm.order > 1:
            flat, key = jnp.asarray(windows_of(arm, test.codes)[..., 0]), stream(jax.random.key(seed), "marginals")
            nats = marginal_nll(model, params, test.prompt, flat, arm.order**2, config.samples, key)
            found["marginal_bits"] = round(float(jnp.mean(nats)) / np.log(2), 5)
        return found

    return {
        "corpora": {},
        "seeds": seeds,
        "images": {"training": len(train.codes), "held out": len(held_out.codes)},
        "steps": {name: config.steps(arm) for name, arm in DIGITS.items()},
        "strengths": config.strengths,
        "judged": config.strengths.index(config.strength),
        "arms": measured(workspace, models, seeds, one),
    }


def forms(images: Images, count: int, name: str) -> Images:
    """So many of them, one after another, in forms that are always the same."""
    rows = np.arange(count) % len(images.codes)
    return transformed(Images(*(each[rows] for each in images)), stream(jax.random.key(0), name))


def captioned(count: int, unread: float, key: Array) -> Images:
    """Captioned pictures; some of the captions say nothing."""
    pictures, hidden = sample_captions(key, count), jax.random.bernoulli(stream(key, "unread"), unread, (count, 1))
    return Images(jnp.where(hidden, jnp.array(NULL)[None], pictures.caption), pictures.codes)


def guided(config: Config, model: FusedConfig, params: Params, seed: int) -> dict[str, Any]:
    """Shares of pictures that show what their caption says, by schedule and captions, [strengths]."""
    windows, found = ROWS * COLUMNS // 4, {}
    for kind, held_out in DRAWS.items():
        key = stream(jax.random.key(seed), kind)
        wanted = sample_captions(key, config.prompts, 0.0, held_out)
        for schedule in SCHEDULES:
            shares = []
            for strength in config.strengths:
                ramp = jnp.asarray(guidance_schedule(windows, strength, schedule))
                drawn = sample(model, params, wanted.caption, windows, key, guidance=ramp, null=jnp.array(NULL)).windows
                codes = np.asarray(window_merge(drawn, ROWS, COLUMNS, 2))[..., 0]
                shares.append(float(shows(codes, np.asarray(wanted.shape), np.asarray(wanted.colour)).mean()))
            found[f"{schedule} {kind}"] = shares
    return found


def claims(results: dict[str, Any]) -> list[Claim]:
    """With the card's thresholds."""
    arms = Arms(results)
    bits = {name: arms[name, "bits"] for name in arms if name != "captions"}
    gap, marginal = bits["fused_2"] - bits["windows"], arms["windows", "marginal_bits"]
    marginal_4 = arms["windows_4", "marginal_bits"]
    judged = results["judged"]
    ramp = {kind: arms["captions", f"half_linear {kind}"] - arms["captions", f"constant {kind}"] for kind in DRAWS}
    unit = "bits per code"
    return [
        Claim(
            "gap_is_total_correlation",
            "What windows of 2 x 2 cost over reading the same windows code by code is their conditional total correlation under the model "
            "that does: the difference of the two.",
            OURS,
            {
                "difference": bits["fused_2"] - marginal,
                "difference at equal operations": bits["fused_2_flops"] - marginal,
                "cost of windows": gap,
                "total correlation": marginal - bits["windows"],
                "difference, side 4": bits["fused_4"] - marginal_4,
                "total correlation, side 4": marginal_4 - bits["windows_4"],
            },
            {"difference": between(-0.03, 0.03)},
            unit,
        ),
        Claim(
            "parity_floor",
            "Where the fourth code of every window is the parity of the others, windows cost at least one bit more than the entropy of "
            "three bits, whatever the training; code by code it is reached.",
            OURS,
            {"windows": 4 * bits["parity_2"] - 3, "code by code": 4 * bits["parity_1"] - 3},
            {"windows": above(0.999), "code by code": below(0.05)},
            "bits per window above its entropy",
        ),
        Claim(
            "small_windows_cheap",
            "Windows of 2 x 2 cost little over code by code in the order of rows, those of 4 x 4 more; both at equal steps.",
            PAPER,
            {
                "side 2": bits["fused_2"] - bits["raster"],
                "side 4 over side 2": bits["fused_4"] - bits["fused_2"],
                "side 2 at equal operations": bits["fused_2_flops"] - bits["raster"],
                "larger patches over side 2": bits["patches"] - bits["fused_2"],
                "learned by heart, code by code": bits["raster"] - arms["raster", "training_bits"],
                "learned by heart, side 2 at equal operations": bits["fused_2_flops"]
                - arms["fused_2_flops", "training_bits"],
            },
            {"side 2": below(0.1), "side 4 over side 2": above(0)},
            unit,
            "s = 2 hardly loses quality, s = 4 visibly blurs",
        ),
        Claim(
            "concatenation_beats_mean",
            "The mean of a window's vectors costs more than the vectors side by side.",
            PAPER,
            {"mean over concatenation": bits["mean"] - bits["fused_2"], "no MLPs": bits["no_mlps"] - bits["fused_2"]},
            {"mean over concatenation": above(0)},
            unit,
        ),
        Claim(
            "embedding_rank_spare",
            "Embeddings of codes need an eighth of the width.",
            PAPER,
            {f"width / {rank}": bits[f"rank_{rank}"] - bits["rank_1"] for rank in RANKS[1:]},
            {"width / 8": below(0.03)},
            unit,
            "an eighth raises the loss of pre-training only minimally",
        ),
        Claim(
            "guidance_ramp",
            f"Guidance that rises to {results['strengths'][judged]:g} over the first half of the windows shows what the caption says more "
            "often than the same strength throughout.",
            PAPER,
            {f"captions {kind}": found[:, judged] for kind, found in ramp.items()},
            above(0),
            "share of pictures",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Bits by how many tokens an image has with the cost of independence, rank, and guidance."""
    arms = Arms(results)
    drawn, (tokens, ranks, guidance) = panels(
        1, 3, titles=("Digits: bits by tokens", "Embeddings of a lower rank", "Guidance")
    )
    with styled():
        draw_tokens(tokens, arms)
        ranked = np.stack([arms[f"rank_{rank}", "bits"] - arms["rank_1", "bits"] for rank in RANKS], axis=1)
        lines(ranks, np.log2(RANKS).tolist(), {"over the whole width": ranked})
        ranks.set_xticks(np.log2(RANKS), [f"d / {rank}" for rank in RANKS])
        ranks.axhline(0.03, color=GREY, linestyle="--", linewidth=1)
        ranks.set(ylabel="bits per code over the whole width")
        pairs = {
            f"{name}, {kind} pairs": arms["captions", f"{schedule} {kind}"]
            for kind in DRAWS
            for schedule, name in zip(SCHEDULES, ("constant", "rising at first"), strict=True)
        }
        lines(guidance, np.log2(results["strengths"]).tolist(), pairs)
        guidance.set_xticks(np.log2(results["strengths"]), [f"{strength:g}" for strength in results["strengths"]])
        guidance.set(xlabel="strength", ylabel="pictures that show their caption", ylim=(0, 1))
        guidance.legend(fontsize=7, loc="center left", bbox_to_anchor=(0, 0.4))
    return drawn


def draw_tokens(axes: Axes, arms: Arms) -> None:
    """By tokens, controls beside, and what total correlation adds to code by code."""
    by_side = np.stack([arms[name, "bits"] for name in ("raster", "fused_2", "fused_4")], axis=1)
    lines(axes, (6, 4, 2), {"equal steps": by_side})
    for arm, place, label in (("windows", 4, "in windows, and with total correlation"), ("windows_4", 2, None)):
        floor = arms[arm, "bits"].mean(), arms[arm, "marginal_bits"].mean()
        axes.plot((6, place), floor, "*--", color=PALETTE[2], label=label, linewidth=1)
    controls = {"mean": "mean of a window", "no_mlps": "no MLPs", "patches": "larger patches"}
    controls["fused_2_flops"] = "equal operations"
    for (name, label), marker, place, color in zip(
        controls.items(), "sv^D", (3.7, 3.85, 4.15, 4.3), (*PALETTE[3:6], PALETTE[1]), strict=True
    ):
        values = arms[name, "bits"]
        axes.plot(place, values.mean(), marker, color=color, label=label, markersize=5)
        axes.vlines(place, values.min(), values.max(), color=color, linewidth=1)
    axes.set_xticks([2, 4, 6], ["4", "16", "64"])
    axes.set(xlabel="tokens of an image", ylabel="bits per held-out code")
    axes.legend(fontsize=7, ncols=2, loc="upper left", bbox_to_anchor=(0, -0.16))
