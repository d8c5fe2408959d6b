"""Claim C12, a limit: what is predicted for every pixel suffers from fewer tokens, from pruning far more than from merging and unmerging.

Kong et al. 2026 (arXiv 2505.18227), section 7; method card token-reduction-beyond-efficiency. The tiny Vision Transformers of
`vision_models`, trained without reduction, see glyphs that are not aligned with the patches, so that many patches have an edge in them. A
linear head, trained for every arm by itself, tells from a patch's last vector which of its pixels are background, red and blue; pruned
patches have the vector zero, merged ones that of their target. All layers remove the same share of their tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from matplotlib.axes import Axes

from experiments.harness.claims import Claim, interval
from experiments.harness.style import BLUE, GREY, ORANGE, band, reference
from experiments.harness.workspace import Workspace
from experiments.merging.verdicts import judged
from experiments.subjects.glyph_classifiers import GLYPHS, VisionSubject, vision_models
from lexinv.data.glyphs import sample_images
from lexinv.merging.agreement import confusion, mean_iou
from lexinv.merging.bipartite import bipartite_matching
from lexinv.merging.plan import compose, unmerge
from lexinv.merging.ranking import cls_attention, prune_at_random, prune_by_score
from lexinv.merging.reduction import Method, reduction
from lexinv.merging.schedules import ratio_schedule, token_counts
from lexinv.nn.reduced import run_layers
from lexinv.nn.vision_transformer import VisionConfig, cut, embed_images
from lexinv.training.streams import stream
from lexinv.validation import require

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
class DenseConfig:
    """shares: of the patches left after the last layer, about; the judged one among them. images: to train the heads, and to judge.

    patches: drawn from the images that train. steps, learning_rate: of Adam on the heads.
    """

    subject: VisionSubject = GLYPHS
    shares: tuple[float, ...] = (0.5, 0.25, 0.125)
    images: tuple[int, int] = (192, 192)
    patches: int = 4096
    steps: int = 150
    learning_rate: float = 0.03

    def __post_init__(self):
        require(JUDGED in self.shares, "dense_prediction.shares", self.shares, f"shares with {JUDGED} among them")
        fine = all(0 < share < 1 for share in self.shares)
        require(fine, "dense_prediction.shares", self.shares, "between 0 and 1")
        require(min(self.images) >= 1, "dense_prediction.images", self.images, "at least 1")
        require(self.subject.data == "glyphs", "dense_prediction.subject.data", self.subject.data, "'glyphs'")
        require(self.subject.model.cls, "dense_prediction.subject.model.cls", False, "True: its attention is the score")
        most = self.images[0] * self.subject.model.patches
        require(1 <= self.patches <= most, "dense_prediction.patches", self.patches, f"from 1 to {most}")
        require(self.steps >= 1, "dense_prediction.steps", self.steps, "at least 1")
        require(self.learning_rate > 0, "dense_prediction.learning_rate", self.learning_rate, "above 0")

    def schedule(self, share: float) -> tuple[int, ...]:
        """The tokens that each layer removes."""
        model = self.subject.model
        depth = model.layers.depth
        return ratio_schedule(model.tokens, depth, share ** (1 / depth), protect=1)


def measure(config: DenseConfig, seeds: Sequence[int], workspace: Workspace) -> dict[str, Any]:
    """mIoU of all tokens by model, of guessing background, and of every arm, [shares][models], with the patches left.

    A model for each of the first seeds, as many as there are models.
    """
    models = vision_models(config.subject, workspace)
    found = workspace.cached("dense_prediction/arms", partial(_arms, config, models.params[: len(seeds)], seeds))
    left = [token_counts(config.subject.model.tokens, config.schedule(share))[-1] - 1 for share in config.shares]
    return {**models.origin, "shares": list(config.shares), "left": left, **found}


def _arms(config: DenseConfig, params: list[Any], seeds: Sequence[int]) -> dict[str, Any]:
    model = config.subject.model
    full: list[float] = []
    guessed: list[float] = []
    arms: dict[str, list[list[float]]] = {name: [[] for _ in config.shares] for name in ARMS}
    for tree, seed in zip(params, seeds, strict=False):
        key = stream(jax.random.key(seed), "dense")
        train_key, test_key, head_key, random_key = jax.random.split(key, 4)
        train = labelled(config, config.images[0], train_key)
        test = labelled(config, config.images[1], test_key)

        def score(name: str, schedule: tuple[int, ...], tree=tree, train=train, test=test, keys=(head_key, random_key)):
            """mIoU of a head on what is left of both sets of images."""
            read, judge = (patch_features(model, name, schedule, tree, pixels, keys[1]) for pixels, _ in (train, test))
            head = fit_head(config, read.reshape(-1, read.shape[-1]), train[1].reshape(-1, train[1].shape[-1]), keys[0])
            return round(mean_iou(confusion_of(head, judge, test[1])), 4)

        full.append(score("full", ()))
        truth = np.asarray(test[1]).reshape(-1)
        guessed.append(round(mean_iou(confusion(truth, np.zeros_like(truth), CLASSES)), 4))
        for row, share in enumerate(config.shares):
            for name in ARMS:
                arms[name][row].append(score(name, config.schedule(share)))
    return {"full": full, "background": guessed, "arms": arms}


@partial(jax.jit, static_argnums=(0, 1))
def labelled(config: DenseConfig, count: int, key: Array) -> tuple[Array, Int[Array, "images patches pixels"]]:
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
    whole = plans[0]
    for plan in plans[1:]:
        whole = jax.vmap(compose)(plan, whole)
    return jax.vmap(unmerge)(whole, x)[:, 1:]


@partial(jax.jit, static_argnums=0)
def fit_head(config: DenseConfig, features: Array, labels: Array, key: Array) -> dict[str, Array]:
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


def judge(measured: dict[str, Any]) -> list[Claim]:
    """All tokens above merging above pruning."""
    row = measured["shares"].index(JUDGED)
    full = np.array(measured["full"])
    at = {name: np.array(rows[row]) for name, rows in measured["arms"].items()}
    shown = {"all tokens": full, "background only": measured["background"], **at}
    return [
        judged(
            12,
            "dense_prediction_suffers",
            f"a label for every pixel suffers when {measured['left'][row]} patches are left after the last layer, more from pruning than "
            "from merging and unmerging (measured: differences of mIoU over background, red and blue).",
            "all tokens better than merging, merging than pruning by CLS attention and at random",
            {
                "mIoU all - merging": interval(full - at["merge"]),
                "mIoU merging - pruning": interval(at["merge"] - at["prune"]),
                "mIoU merging - random": interval(at["merge"] - at["random"]),
            },
            SMALLEST,
            {"mIoU": {name: interval(values) for name, values in shown.items()}},
        )
    ]


def draw(measured: dict[str, Any], axes: Axes) -> None:
    """mIoU against the patches that are left."""
    for name, (label, color) in ARMS.items():
        band(axes, measured["left"], np.array(measured["arms"][name]).T, label, color, marker="o", markersize=3)
    reference(axes, float(np.mean(measured["full"])), "all tokens")
    axes.axhline(float(np.mean(measured["background"])), color=GREY, linestyle=":", label="background only")
    axes.set(xlabel="patches left of the last layer", ylabel="mIoU", title="C12 dense prediction")
    axes.legend()
