"""A limit: what is predicted for every pixel suffers from fewer tokens, from pruning far more than from merging and unmerging.

Kong et al. 2026 (arXiv 2505.18227), section 7; claim C12 of method card token-reduction-beyond-efficiency. Tiny Vision Transformers,
trained without reduction, see glyphs that are not aligned with the patches, so that many patches have an edge in them. A linear head,
trained for every arm by itself, tells from a patch's last vector which of its pixels are background, red and blue; pruned patches have the
vector zero, merged ones that of their target. All layers remove the same share of their tokens.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.figures import curves
from experiments.harness.presets import presets
from experiments.harness.style import BLUE, GREY, ORANGE, VERMILION, panels, reference
from experiments.harness.verdicts import Claim, above
from experiments.harness.workspace import Workspace
from experiments.subjects.glyph_classifiers import GLYPHS, VisionSubject, tiny, vision_models
from lexinv.data.glyphs import sample_images
from lexinv.merging.agreement import confusion, mean_iou
from lexinv.merging.bipartite import bipartite_matching
from lexinv.merging.plan import composed, unmerge
from lexinv.merging.ranking import cls_attention, prune_at_random, prune_by_score
from lexinv.merging.reduction import Method, reduction
from lexinv.merging.schedules import ratio_schedule, token_counts
from lexinv.nn.reduced import run_layers
from lexinv.nn.vision_transformer import VisionConfig, cut, embed_images
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Fractions, Positive

PAPERS = ("kong2025token",)
ARMS = {
    "random": ("random pruned", GREY),
    "prune": ("CLS attention, pruned", ORANGE),
    "merge": ("ToMe, unmerged", BLUE),
}
CLASSES = 3
JUDGED = 0.25
"""The share of patches left at the end at which the claim is judged."""
SMALLEST = 0.02
"""The least effect that matters: two points of mIoU."""


@dataclass(frozen=True)
class Config(Checked):
    """shares: of the patches left after the last layer, about; the judged one among them. images: to train the heads, and to judge.

    patches: drawn from the images that train. steps, learning_rate: of Adam on the heads.
    """

    subject: VisionSubject = GLYPHS
    shares: Fractions = (0.5, 0.25, 0.125)
    images: tuple[int, int] = (192, 192)
    patches: Count = 4096
    steps: Count = 150
    learning_rate: Positive = 0.03

    def checks(self):
        yield JUDGED in self.shares, "shares", f"shares with {JUDGED} among them"
        yield min(self.images) >= 1, "images", "at least 1"
        yield self.subject.model.cls, "subject.model.cls", "True: its attention is the score"
        most = self.images[0] * self.subject.model.patches
        yield self.patches <= most, "patches", f"at most {most}"

    def schedule(self, share: float) -> tuple[int, ...]:
        """The tokens that each layer removes."""
        model = self.subject.model
        depth = model.layers.depth
        return ratio_schedule(model.tokens, depth, share ** (1 / depth), protect=1)


PRESETS = presets(
    Config(),
    smoke={"subject": tiny(GLYPHS), "shares": (0.25,), "images": (8, 8), "patches": 64, "steps": 5},
    quick={"subject.training.seeds": (0, 1, 2)},
    paper={"images": (2000, 2000), "patches": 100_000, "steps": 1000},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """mIoU of all tokens and of guessing background, [seeds], and of every arm, [seeds][shares], with the patches left."""
    params, seeds = vision_models(config.subject, workspace), config.subject.training.seeds
    model = config.subject.model

    def one(arm: str, seed: int) -> dict[str, Any]:
        train_key, test_key, head_key, random_key = jax.random.split(stream(jax.random.key(seed), "dense"), 4)
        train, test = (labelled(config, n, key) for n, key in zip(config.images, (train_key, test_key), strict=True))

        def scored(schedule: tuple[int, ...]) -> float:
            """mIoU of a head on what is left of both sets of images."""
            read, judge = (patch_features(model, arm, schedule, params[seed], x, random_key) for x, _ in (train, test))
            head = fit_head(
                config, read.reshape(-1, read.shape[-1]), train[1].reshape(-1, train[1].shape[-1]), head_key
            )
            return round(mean_iou(confusion_of(head, judge, test[1])), 4)

        if arm == "background":
            truth = np.asarray(test[1]).reshape(-1)
            return {"miou": round(mean_iou(confusion(truth, np.zeros_like(truth), CLASSES)), 4)}
        return {"miou": scored(()) if arm == "full" else [scored(config.schedule(share)) for share in config.shares]}

    arms = measured(workspace, ("full", "background", *ARMS), seeds, one)
    left = [token_counts(model.tokens, config.schedule(share))[-1] - 1 for share in config.shares]
    shares = {"shares": config.shares, "left": left}
    return {"corpora": {}, "seeds": seeds, **shares, "arms": arms}


@partial(jax.jit, static_argnums=(0, 1))
def labelled(config: Config, count: int, key: Array) -> tuple[Array, Int[Array, "images patches pixels"]]:
    """Images that are not aligned, and for the pixels of every patch 0 for background, 1 for red, 2 for blue."""
    data = replace(config.subject.glyphs, aligned=False)
    clean = sample_images(replace(data, noise=0.0), count, key).pixels  # the same draws: noise has a key of its own
    labels = (clean[..., 0] - clean[..., 2]) > 0.5, (clean[..., 2] - clean[..., 0]) > 0.5
    found = labels[0].astype(jnp.float32) + 2 * labels[1].astype(jnp.float32)
    one = replace(config.subject.model, channels=1)
    return sample_images(data, count, key).pixels, cut(one, found[..., None]).astype(jnp.int32)


@partial(jax.jit, static_argnums=(0, 1, 2))
def patch_features(
    config: VisionConfig, arm: str, schedule: tuple[int, ...], params: Any, pixels: Array, key: Array
) -> Float[Array, "images patches width"]:
    """The last vector of every patch, after unmerging; zeros for pruned ones."""
    x = embed_images(config, params, pixels)
    counts = token_counts(config.tokens, schedule)

    def method(count: int, tokens: int) -> Method:
        return {
            "random": lambda e: prune_at_random(e.key, tokens, count, protect=1),
            "prune": lambda e: prune_by_score(cls_attention(e.attention), count, protect=1),
            "merge": lambda e: bipartite_matching(e.similarity, count, protect=1),
        }[arm]

    keys = jax.random.split(key, max(len(schedule), 1))
    reductions = [reduction(method(r, n), key=k) for r, n, k in zip(schedule, counts[:-1], keys, strict=False)]
    x, _, plans = run_layers(config.layers, params["layers"], x, None, reductions)
    if not plans:
        return x[:, 1:]
    return jax.vmap(unmerge)(composed(plans), x)[:, 1:]


@partial(jax.jit, static_argnums=0)
def fit_head(config: Config, features: Array, labels: Array, key: Array) -> dict[str, Array]:
    """A linear head [width, pixels, classes] on features of unit deviation, trained with all drawn patches in every step."""
    rows = jax.random.permutation(key, features.shape[0])[: config.patches]
    features, labels = features[rows], labels[rows]
    mean, deviation = jnp.mean(features, axis=0), jnp.std(features, axis=0) + 1e-6
    x = (features - mean[None]) / deviation[None]
    hot = jax.nn.one_hot(labels, CLASSES)  # picking one of each row by number takes several times as long on the CPU
    head = {"out": jnp.zeros((x.shape[1], labels.shape[1], CLASSES)), "bias": jnp.zeros((labels.shape[1], CLASSES))}
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps))

    def loss(head: dict[str, Array]) -> Array:
        logits = jnp.einsum("nd,dpc->npc", x, head["out"]) + head["bias"][None]
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(logits) * hot, axis=-1))

    def step(carry, _):
        head, state = carry
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to the power of an int32
            updates, state = optimizer.update(jax.grad(loss)(head), state)
        return (optax.apply_updates(head, updates), state), None

    (head, _), _ = jax.lax.scan(step, (head, optimizer.init(head)), None, length=config.steps)
    return {**head, "mean": mean, "deviation": deviation}


def confusion_of(head: dict[str, Array], features: Array, labels: Array) -> np.ndarray:
    """Of all pixels of all images."""
    head = {name: np.asarray(part) for name, part in head.items()}
    x = (np.asarray(features) - head["mean"]) / head["deviation"]
    found = (np.einsum("nkd,dpc->nkpc", x, head["out"], optimize=True) + head["bias"]).argmax(axis=-1)
    return confusion(np.asarray(labels).reshape(-1), found.reshape(-1), CLASSES)


def claims(results: dict[str, Any]) -> list[Claim]:
    """All tokens above merging above pruning."""
    arms, row = Arms(results), results["shares"].index(JUDGED)
    at = {name: arms[name, "miou"][:, row] for name in ARMS}
    return [
        Claim(
            "dense_prediction_suffers",
            f"C12: A label for every pixel suffers when {results['left'][row]} patches are left after the last layer, more from pruning "
            "than from merging and unmerging.",
            "kong2025token: section 7",
            {
                "all tokens over merging": arms["full", "miou"] - at["merge"],
                "merging over pruning": at["merge"] - at["prune"],
                "merging over random pruning": at["merge"] - at["random"],
            },
            above(0, matters=SMALLEST),
            "mIoU over background, red and blue",
        )
    ]


def figure(results: dict[str, Any]) -> Figure:
    """mIoU against the patches that are left."""
    arms = Arms(results)
    drawn, (axes,) = panels(width=5, titles=("A label for every pixel",))
    curves(axes, results["left"], arms, "miou", ARMS)
    reference(axes, arms["full", "miou"].mean(), "all tokens")
    reference(axes, arms["background", "miou"].mean(), "background only", VERMILION)
    axes.set(xlabel="patches left of the last layer", ylabel="mIoU")
    axes.set_ylim(top=axes.get_ylim()[1] + 0.08)
    axes.legend(ncols=2)
    return drawn
