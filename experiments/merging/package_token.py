"""Claim C10: soft pruning, with one package token for all that is dropped, is better than hard pruning to the same number of tokens.

Kong et al. 2026 (arXiv 2505.18227), appendix A; method card token-reduction-beyond-efficiency. The tiny Vision Transformers of
`vision_models`, trained without reduction, keep a share of their tokens after the attention of one layer: those with the most attention
of CLS, or a random choice as the control. The package counts as one of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from matplotlib.axes import Axes

from experiments.harness.claims import Claim, interval
from experiments.harness.style import BLUE, GREY, ORANGE, SKY, band, reference
from experiments.harness.workspace import Workspace
from experiments.merging.verdicts import judged
from experiments.subjects.glyph_classifiers import GLYPHS, VisionSubject, accuracy, held_out, vision_models
from lexinv.merging.plan import Plan, merge, unmerge
from lexinv.merging.ranking import cls_attention, prune_by_score
from lexinv.merging.reduction import Example, reduction
from lexinv.merging.strategies import package
from lexinv.nn.reduced import Reduced, Reduction, Seen
from lexinv.nn.vision_transformer import VisionConfig, classify
from lexinv.training.streams import stream
from lexinv.validation import require


def cross_entropy(logits: Float[Array, "images classes"], labels: Int[Array, " images"]) -> float:
    """Mean over images, in nats."""
    own = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), np.asarray(labels)[:, None], axis=1)
    return float(-own.mean())


ARMS = {
    "random": ("random pruned", GREY),
    "random package": ("random in a package", ORANGE),
    "prune": ("CLS attention, pruned", SKY),
    "package": ("CLS attention, package", BLUE),
}
MEASURES = {"nats": cross_entropy, "accuracy": accuracy}
JUDGED = 0.25
"""The share of tokens kept at which the claim is judged."""
SMALLEST = 0.01
"""The least effect that matters: a hundredth of a nat, 1 % of an error."""


@dataclass(frozen=True)
class PackageConfig:
    """shares: of the patches kept, the package among them, the judged one too. layer: where, by default a third of the way up."""

    subject: VisionSubject = GLYPHS
    shares: tuple[float, ...] = (0.5, 0.25, 0.125)
    layer: int = 2
    images: int = 1000

    def __post_init__(self):
        require(JUDGED in self.shares, "package_token.shares", self.shares, f"shares with {JUDGED} among them")
        patches = self.subject.model.patches
        fine = all(2 <= share * patches <= patches for share in self.shares)
        require(fine, "package_token.shares", self.shares, f"at least 2 of {patches} patches, and at most all")
        require(self.subject.model.cls, "package_token.subject.model.cls", False, "True: its attention is the score")
        depth = self.subject.model.layers.depth
        require(0 <= self.layer < depth, "package_token.layer", self.layer, f"from 0 to {depth - 1}")
        require(self.images >= 2, "package_token.images", self.images, "at least 2")


def measure(config: PackageConfig, seeds: Sequence[int], workspace: Workspace) -> dict[str, Any]:
    """Cross-entropy in nats and accuracy of all tokens by model; for every arm, [shares][models], these and the error of reconstruction.

    A model for each of the first seeds, as many as there are models.
    """
    models = vision_models(config.subject, workspace)
    found = workspace.cached("package_token/arms", partial(_arms, config, models.params[: len(seeds)], seeds))
    return {**models.origin, "shares": list(config.shares), **found}


def _arms(config: PackageConfig, params: list[Any], seeds: Sequence[int]) -> dict[str, Any]:
    full: dict[str, list[float]] = {what: [] for what in MEASURES}
    measures = (*MEASURES, "error")
    arms: dict[str, Any] = {name: {what: [[] for _ in config.shares] for what in measures} for name in ARMS}
    for tree, seed in zip(params, seeds, strict=False):
        images = held_out(config.subject, seed, config.images)
        key = stream(jax.random.key(seed), "package")
        logits = all_tokens(config.subject.model, tree, images.pixels)
        for what, measured in MEASURES.items():
            full[what].append(round(measured(logits, images.labels), 4))
        for row, share in enumerate(config.shares):
            budget = round(share * config.subject.model.patches) + 1
            for name in ARMS:
                logits, error = reduced(config.subject.model, config.layer, name, budget, tree, images.pixels, key)
                for what, measured in MEASURES.items():
                    arms[name][what][row].append(round(measured(logits, images.labels), 4))
                arms[name]["error"][row].append(float(f"{float(error):.4g}"))
    return {"full": full, "arms": arms}


@partial(jax.jit, static_argnums=0)
def all_tokens(config: VisionConfig, params: Any, pixels: Array) -> Float[Array, "images classes"]:
    """Logits of the whole model."""
    return classify(config, params, pixels)[0]


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def reduced(
    config: VisionConfig, layer: int, arm: str, budget: int, params: Any, pixels: Array, key: Array
) -> tuple[Float[Array, "images classes"], Float[Array, ""]]:
    """(logits with `budget` tokens left after the attention of `layer`, error of the patches reconstructed from them)."""
    tokens = config.tokens

    def method(example: Example) -> Plan:
        assert example.key is not None
        drawn = arm.startswith("random")
        scores = jax.random.uniform(example.key, (tokens,)) if drawn else cls_attention(example.attention)
        if arm in ("package", "random package"):
            return package(scores, budget, protect=1)
        return prune_by_score(scores, tokens - budget, protect=1)

    def reduce(seen: Seen) -> Reduced:
        found = reduction(method, key=key)(seen)
        return found._replace(kept=(found.kept, seen.stream))

    reductions: list[Reduction | None] = [None] * config.layers.depth
    reductions[layer] = reduce
    logits, [(plans, x)] = classify(config, params, pixels, reductions)
    return logits, reconstruction_error(plans, x[:, 1:], 1)


def reconstruction_error(plans: Plan, x: Float[Array, "images patches width"], protect: int) -> Float[Array, ""]:
    """The squared error of x rebuilt from the targets of the plans, over that of rebuilding it by the mean image alone.

    A token that is its own target is as it was. Any other is its mean over images and the mean deviation from those means in what the plan
    has left for it: its target, if it has one, or else all that was kept.
    """
    residual = x - jnp.mean(x, axis=0, keepdims=True)

    def rebuilt(plan: Plan, residual: Array) -> Array:
        padded = jnp.concatenate([jnp.zeros((protect, residual.shape[1])), residual])
        targets, _ = merge(plan, padded)
        nowhere = plan.assign >= plan.anchor.shape[0]
        kept = jnp.mean(targets[protect:], axis=0)  # only where tokens go nowhere, and then all sizes are 1
        return jnp.where(nowhere[:, None], kept[None], unmerge(plan, targets))[protect:]

    error = jnp.sum(jnp.square(residual - jax.vmap(rebuilt)(plans, residual)))
    return error / jnp.sum(jnp.square(residual))


def judge(measured: dict[str, Any]) -> list[Claim]:
    """Package against hard pruning and against random pruning, on both tasks, and by accuracy."""
    row = measured["shares"].index(JUDGED)
    nats = {name: np.array(arm["nats"][row]) for name, arm in measured["arms"].items()}
    right = {name: arm["accuracy"][row] for name, arm in measured["arms"].items()}
    error = {name: np.log(arm["error"][row]) for name, arm in measured["arms"].items()}
    shown = {name: interval(values) for name, values in (("all tokens", measured["full"]["accuracy"]), *right.items())}
    return [
        judged(
            10,
            "package_token_beats_pruning",
            f"with {JUDGED:.0%} of the patches kept by attention of CLS, one package token for the others is better than one more kept "
            "(measured: cross-entropy in nats less the package's, and ln of the error of reconstructing all patches in that layer over the "
            "package's).",
            "better than hard pruning, and than random pruning, at classification and reconstruction",
            {
                "nats hard - package": interval(nats["prune"] - nats["package"]),
                "ln error hard / package": interval(error["prune"] - error["package"]),
                "nats random - package": interval(nats["random"] - nats["package"]),
                "ln error random / package": interval(error["random"] - error["package"]),
            },
            SMALLEST,
            {"accuracy": shown},
        ),
        judged(
            10,
            "package_token_keeps_accuracy",
            f"and more images are classified rightly, with {JUDGED:.0%} of the patches (measured: gain of accuracy over keeping one more "
            "token; the card's measure, which a pilot on one model had at its ceiling, so that cross-entropy was put beside it).",
            "better than hard pruning, and than random pruning",
            {
                "accuracy package - hard": interval(np.subtract(right["package"], right["prune"])),
                "accuracy package - random": interval(np.subtract(right["package"], right["random"])),
            },
            SMALLEST,
        ),
    ]


def draw(measured: dict[str, Any], axes: Axes) -> None:
    """Cross-entropy against the share kept."""
    for name, (label, color) in ARMS.items():
        rows = np.array(measured["arms"][name]["nats"])
        style = "-" if "package" in name else "--"
        band(axes, measured["shares"], rows.T, label, color, marker="o", markersize=3, linestyle=style)
    reference(axes, float(np.mean(measured["full"]["nats"])), "all tokens")
    axes.set(
        xscale="log",
        xlabel="share of patches kept",
        yscale="log",
        ylabel="cross-entropy, nats",
        title="C10 package token",
    )
    axes.set_xticks(measured["shares"], [f"{share:g}" for share in measured["shares"]])
    axes.minorticks_off()
    axes.legend()
