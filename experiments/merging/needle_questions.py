"""Questions about single tokens in a scene, answered by a fixed softmax readout after most tokens are gone.

Alvar et al. 2025 (DivPrune); method card divprune, small reproduction 2. A scene is background in a few textures and objects of one to many
tokens. A token of an object is the sum of its identity and its attribute over sqrt(2), with noise; a question is an identity, and the
answer the attribute nearest to softmax(BETA q X) X over what is kept, merged tokens counting as often as their size. CLS attends with the
mean of all objects' tokens, hence by their size, which is generous to it: no query comes from the background. `column` ranks by the
attention that tokens receive from one another. With outliers, some background tokens are replaced by noise in random directions.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments.harness.claims import Claim, above, below, every, interval
from experiments.harness.style import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, band, reference
from experiments.merging.selection_quality import keep
from lexinv.nn.attention import size_bias
from lexinv.validation import require

SOURCE = "method card divprune"
BETA = 16.0
ATTRIBUTES, TEXTURES = 8, 4
CHANCE = 1 / ATTRIBUTES
METHODS = {
    "divprune": ("DivPrune", BLUE),
    "maxsum": ("max-sum (ToDRE)", GREEN),
    "cls": ("CLS attention", ORANGE),
    "column": ("attention received", PURPLE),
    "random": ("random", GREY),
    "tome": ("ToMe", VERMILION),
}
KINDS = ("rare", "large")
JUDGED = 0.1


@dataclass(frozen=True)
class NeedleConfig:
    """objects: their sizes in tokens; those of one are rare, those of four or more are large. kept: shares of all tokens, falling."""

    tokens: int = 256
    width: int = 64
    objects: tuple[int, ...] = (16, 8, 4, 2, 1, 1, 1, 1)
    noise: float = 0.3
    outliers: int = 16
    kept: tuple[float, ...] = (0.5, 0.25, 0.1, 0.05)
    scenes: int = 32
    seeds: tuple[int, ...] = tuple(range(10))

    def __post_init__(self):
        both = 1 in self.objects and max(self.objects, default=0) >= 4 and min(self.objects) >= 1
        require(both, "needle.objects", self.objects, "some of 1 token and some of 4 or more")
        room = sum(self.objects) + self.outliers < self.tokens and self.outliers >= 0
        require(room, "needle.tokens", self.tokens, "more than the tokens of the objects and the outliers")
        needed = len(self.objects) + ATTRIBUTES + TEXTURES
        require(self.width >= needed, "needle.width", self.width, f"at least {needed}: directions are orthonormal")
        falling = all(a > b for a, b in zip(self.kept, self.kept[1:], strict=False))
        inside = falling and all(0 < k < 1 and round(k * self.tokens) >= 2 for k in self.kept)
        require(
            inside and JUDGED in self.kept, "needle.kept", self.kept, f"falling shares below 1, {JUDGED} among them"
        )
        require(self.scenes >= 1, "needle.scenes", self.scenes, "at least 1 per seed")
        require(0 < len(set(self.seeds)) == len(self.seeds), "needle.seeds", self.seeds, "at least one, each once")


class Scene(NamedTuple):
    """Tokens in random order, the directions of identities and of attributes, and which attribute each object has."""

    tokens: Any  # float [tokens, width]
    identities: Any  # float [objects, width]
    values: Any  # float [ATTRIBUTES, width]
    attributes: Any  # int [objects]


def draw_scene(config: NeedleConfig, outliers: int, seed: int, number: int) -> Scene:
    """The scene `number` of a seed, in NumPy; with outliers it is the same but for their tokens."""
    rng, objects = np.random.default_rng([seed, number]), len(config.objects)
    directions = np.linalg.qr(rng.normal(size=(config.width, config.width)))[0]
    identities, values, textures = np.split(directions, [objects, objects + ATTRIBUTES])
    attributes = rng.integers(ATTRIBUTES, size=objects)
    owner = np.repeat(np.arange(objects), config.objects)
    parts = (identities[owner] + values[attributes[owner]]) / np.sqrt(2)
    texture = rng.integers(TEXTURES, size=config.tokens - len(owner))
    noise = rng.normal(size=(config.tokens, config.width)) / np.sqrt(config.width)
    x = np.concatenate([parts, textures[texture]]) + config.noise * noise
    x[config.tokens - outliers :] = noise[config.tokens - outliers :]
    x, identities, values = (part.astype(np.float32) for part in (rng.permutation(x), identities, values))
    return Scene(x, identities, values, attributes)


def answers(config: NeedleConfig, method: str, scene: Scene, key: jax.Array) -> jax.Array:
    """Which of a scene's objects are answered for rightly, [kept, objects]."""
    x, identities, values, attributes = scene
    if method == "cls":
        shares = jnp.asarray(config.objects, jnp.float32) / sum(config.objects)
        scores = x @ jnp.sum(shares[:, None] * (identities + values[attributes]), axis=0)
    else:
        scores = jnp.mean(jax.nn.softmax(BETA * x @ x.T, axis=1), axis=0)
    ranked = {"cls": "top", "column": "top"}.get(method, method)

    def right(share: float) -> jax.Array:
        kept, sizes = keep(ranked, x, scores, round(share * config.tokens), key)
        weights = jax.nn.softmax(BETA * identities @ kept.T + size_bias(sizes)[None], axis=1)
        return jnp.argmax(weights @ kept @ values.T, axis=1) == attributes

    return jnp.stack([right(share) for share in config.kept])


def measure(config: NeedleConfig) -> dict[str, Any]:
    """Accuracy of every method, [seeds][kept] by kind of object, without and with outliers."""
    sizes = np.array(config.objects)
    kinds = {"rare": sizes == 1, "large": sizes >= 4}
    keys = jnp.stack([jax.random.split(jax.random.key(seed), config.scenes) for seed in config.seeds])
    found: dict[str, Any] = {"kept": list(config.kept), "outliers": config.outliers}
    runs = {"plain": (tuple(METHODS), 0), "with_outliers": (("divprune",), config.outliers)}
    for name, (methods, outliers) in runs.items():
        drawn = [
            [draw_scene(config, outliers, seed, number) for number in range(config.scenes)] for seed in config.seeds
        ]
        scenes = [jax.tree.map(lambda *leaves: np.stack(leaves), *of_seed) for of_seed in drawn]
        found[name] = {}
        for method in methods:
            one = jax.jit(jax.vmap(partial(answers, config, method)))
            right = np.stack([one(*pair) for pair in zip(scenes, keys, strict=True)])  # seeds, scenes, kept, objects
            found[name][method] = {
                kind: np.round(right[..., which].mean((1, 3)), 4).tolist() for kind, which in kinds.items()
            }
    return found


def claims(found: dict[str, Any]) -> list[Claim]:
    """Diversity keeps what importance by size loses, and outliers take its budget."""
    column, last = found["kept"].index(JUDGED), len(found["kept"]) - 1

    def at(method: str, kind: str, place: int, run: str = "plain") -> np.ndarray:
        return np.array(found[run][method][kind])[:, place]

    lead = {other: interval(at("divprune", "rare", column) - at(other, "rare", column)) for other in ("cls", "random")}
    over_sum = interval(at("divprune", "rare", column) - at("maxsum", "rare", column))
    large = interval(at("cls", "large", column) - at("random", "large", column))
    lost = interval(at("divprune", "rare", last, "with_outliers") - at("divprune", "rare", last))
    where = f"(measured: difference of accuracy on objects of one token, {JUDGED} of the tokens kept, by seed)"
    return [
        Claim(
            "divprune_keeps_needles",
            f"DivPrune answers for rare objects where tokens chosen by CLS attention or at random do not {where}.",
            SOURCE,
            None,
            lead,
            "both whole intervals above 0.05",
            every(above(value, 0.05) for value in lead.values()),
        ),
        Claim(
            "maxmin_not_below_maxsum_on_needles",
            f"Max-min is at least as good as max-sum there {where}.",
            SOURCE,
            None,
            over_sum,
            "whole interval above -0.01",
            above(over_sum, -0.01),
        ),
        Claim(
            "importance_serves_large_objects",
            "CLS attention answers for large objects better than random tokens do (measured: that difference on objects of four or more).",
            SOURCE,
            None,
            large,
            "whole interval above 0",
            above(large, 0.0),
        ),
        Claim(
            "outliers_take_the_budget",
            f"Max-min keeps outliers first: with {found['outliers']} of them DivPrune loses rare objects when few tokens are kept "
            f"(measured: difference of accuracy with and without, {found['kept'][last]} kept).",
            SOURCE,
            None,
            lost,
            "whole interval below -0.05",
            below(lost, -0.05),
        ),
    ]


def draw(axes: Axes, found: dict[str, Any]) -> None:
    """Accuracy on rare objects against the share of tokens kept; DivPrune with outliers dashed."""
    for method, (label, color) in METHODS.items():
        band(axes, found["kept"], found["plain"][method]["rare"], label, color, marker="o", markersize=3)
    label, color = METHODS["divprune"]
    style = {"linestyle": "--", "marker": "o", "markersize": 3}
    band(axes, found["kept"], found["with_outliers"]["divprune"]["rare"], f"{label}, outliers", color, **style)
    reference(axes, CHANCE, "chance")
    axes.set(title="Questions on single tokens", xlabel="share of tokens kept", ylabel="accuracy")
    axes.set(xscale="log", ylim=(0, 1.05))
    axes.set_xticks(found["kept"], [f"{kept:g}" for kept in found["kept"]])
    axes.minorticks_off()
    axes.legend(fontsize=7)
