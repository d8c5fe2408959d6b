"""Whether soft pruning, with one package token for all that is dropped, is better than hard pruning to the same number of tokens.

Kong et al. 2026 (arXiv 2505.18227), appendix A; claim C10 of method card token-reduction-beyond-efficiency. Tiny Vision Transformers,
trained without reduction, keep a share of their tokens after the attention of one layer: those with the most attention of CLS, or a random
choice as the control. The package counts as one of them. Accuracy is the card's measure; a pilot on one model had it at its ceiling, so
that cross-entropy was put beside it.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.figures import curves
from experiments.harness.presets import presets
from experiments.harness.style import BLUE, GREY, ORANGE, SKY, panels, reference
from experiments.harness.verdicts import Claim, above
from experiments.harness.workspace import Workspace
from experiments.subjects.glyph_classifiers import GLYPHS, VisionSubject, accuracy, held_out, tiny, vision_models
from experiments.subjects.reduced_vision import forward
from lexinv.merging.plan import Plan, merge, unmerge
from lexinv.merging.ranking import cls_attention, prune_by_score
from lexinv.merging.reduction import Example, reduction
from lexinv.merging.strategies import package
from lexinv.nn.reduced import Reduced, Reduction, Seen
from lexinv.nn.vision_transformer import VisionConfig, classify
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, CountOrZero, Shares

PAPERS = ("kong2025token",)
ARMS = {
    "random_package": ("random in a package", ORANGE),
    "random": ("random pruned", GREY),
    "package": ("CLS attention, package", BLUE),
    "prune": ("CLS attention, pruned", SKY),
}
JUDGED = 0.25
"""The share of tokens kept at which the claim is judged."""
SMALLEST = 0.01
"""The least effect that matters: a hundredth of a nat, 1 % of an error."""


@dataclass(frozen=True)
class Config(Checked):
    """shares: of the patches kept, the package among them, the judged one too. layer: where, by default a third of the way up."""

    subject: VisionSubject = GLYPHS
    shares: Shares = (0.5, 0.25, 0.125)
    layer: CountOrZero = 2
    images: Count = 1000

    def checks(self):
        model = self.subject.model
        yield JUDGED in self.shares, "shares", f"shares with {JUDGED} among them"
        yield (
            all(share * model.patches >= 2 for share in self.shares),
            "shares",
            f"at least 2 of {model.patches} patches",
        )
        yield model.cls, "subject.model.cls", "True: its attention is the score"
        yield self.layer < model.layers.depth, "layer", f"below subject.model.layers.depth = {model.layers.depth}"
        yield self.images >= 2, "images", "at least 2"


PRESETS = presets(
    Config(),
    smoke={"subject": tiny(GLYPHS), "shares": (0.25,), "layer": 0, "images": 16},
    quick={"subject.training.seeds": (0, 1, 2)},
    paper={"images": 10_000},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Cross-entropy in nats and accuracy of all tokens [seeds]; for every arm [seeds][shares] these and the error of reconstruction."""
    params, seeds = vision_models(config.subject, workspace), config.subject.training.seeds
    model = config.subject.model

    def one(arm: str, seed: int) -> dict[str, Any]:
        images = held_out(config.subject, seed, config.images)
        key = stream(jax.random.key(seed), "package")

        def scored(logits: Array) -> dict[str, float]:
            found = {"nats": cross_entropy(logits, images.labels), "accuracy": accuracy(logits, images.labels)}
            return {what: round(value, 4) for what, value in found.items()}

        if arm == "all":
            return scored(forward(params[seed], images.pixels, key, model)[0])
        rows = []
        for share in config.shares:
            budget = round(share * model.patches) + 1
            logits, error = reduced(model, config.layer, arm, budget, params[seed], images.pixels, key)
            rows.append(scored(logits) | {"error": float(f"{float(error):.4g}")})
        return {what: [row[what] for row in rows] for what in rows[0]}

    arms = measured(workspace, ("all", *ARMS), seeds, one)
    return {"corpora": {}, "seeds": seeds, "shares": config.shares, "arms": arms}


def cross_entropy(logits: Float[Array, "images classes"], labels: Int[Array, " images"]) -> float:
    """Mean over images, in nats."""
    own = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), np.asarray(labels)[:, None], axis=1)
    return float(-own.mean())


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
        if arm in ("package", "random_package"):
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


def claims(results: dict[str, Any]) -> list[Claim]:
    """Package against hard pruning and against random pruning, on both tasks, and by accuracy."""
    arms, row = Arms(results), results["shares"].index(JUDGED)

    def gains(what: str, label: str, better: int, form: Any = lambda values: values) -> dict[str, Any]:
        at = {arm: form(arms[arm, what][:, row]) for arm in ("prune", "random", "package")}
        others = {"hard": "prune", "random": "random"}
        return {f"{label} over {name} pruning": better * (at["package"] - at[other]) for name, other in others.items()}

    return [
        Claim(
            "package_token_beats_pruning",
            f"C10: With {JUDGED:.0%} of the patches kept by attention of CLS, one package token for the others is better than one more "
            "kept, at classification and at reconstructing all patches in that layer.",
            "kong2025token: appendix A",
            gains("nats", "nats", -1) | gains("error", "ln error", -1, np.log),
            above(0, matters=SMALLEST),
            "decrease of cross-entropy in nats, and of ln of the error of reconstruction",
        ),
        Claim(
            "package_token_keeps_accuracy",
            f"C10: So are more images classified rightly, with {JUDGED:.0%} of the patches.",
            "kong2025token: appendix A",
            gains("accuracy", "accuracy", 1),
            above(0, matters=SMALLEST),
            "gain of accuracy",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Cross-entropy and error of reconstruction against the share kept."""
    arms, shares = Arms(results), results["shares"]
    drawn, axes = panels(1, 2, titles=("Classification", "Reconstruction"))
    for panel, what, ylabel in zip(axes, ("nats", "error"), ("cross-entropy, nats", "error / variance"), strict=True):
        curves(panel, shares, arms, what, ARMS, ticks=True)
        panel.set(xlabel="share of patches kept", ylabel=ylabel)
    reference(axes[0], arms["all", "nats"].mean(), "all tokens")
    axes[0].set_yscale("log")
    axes[0].legend(axes[0].lines[-1:], ["all tokens"], loc=(0.02, 0.08))
    axes[1].legend()
    return drawn
