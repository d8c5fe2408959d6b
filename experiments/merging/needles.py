"""Which questions about single tokens of a scene are still answered after most tokens are gone, without a network.

Alvar et al. 2025 (DivPrune); method card divprune, small reproduction 2. A scene is background in a few textures and objects of one to many
tokens. A token of an object is the sum of its identity and its attribute over sqrt(2), with noise; a question is an identity, and the
answer the attribute nearest to softmax(BETA q X) X over what is kept, merged tokens counting as often as their size. CLS attends with the
mean of all objects' tokens, hence by their size, which is generous to it: no query comes from the background. `column` ranks by the
attention that tokens receive from one another. With outliers, some background tokens are replaced by noise in random directions.
"""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.figures import legend_beside, lines
from experiments.harness.presets import presets
from experiments.harness.style import panels, reference, styled
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from lexinv.merging.plan import merge
from lexinv.merging.selections import keep
from lexinv.nn.attention import size_bias
from lexinv.randomness import threefry
from lexinv.validation import Checked, Count, Fractions, NonNegative, Seeds

PAPERS = ("alvar2025divprune",)
READERS = {
    "divprune": "DivPrune",
    "maxsum": "max-sum (ToDRE)",
    "cls": "CLS attention",
    "column": "attention received",
    "random": "random",
    "tome": "ToMe",
}
BETA = 16.0
ATTRIBUTES, TEXTURES = 8, 4
JUDGED = 0.1


@dataclass(frozen=True)
class Config(Checked):
    """objects: their sizes in tokens; those of one are rare, those of four or more are large. kept: shares of all tokens, falling."""

    tokens: Count = 256
    width: Count = 64
    objects: tuple[int, ...] = (16, 8, 4, 2, 1, 1, 1, 1)
    noise: NonNegative = 0.3
    outliers: Count = 16
    kept: Fractions = (0.5, 0.25, 0.1, 0.05)
    scenes: Count = 32
    seeds: Seeds = tuple(range(10))

    def checks(self):
        both = 1 in self.objects and max(self.objects) >= 4 and min(self.objects) >= 1
        yield both, "objects", "some of 1 token and some of 4 or more"
        room = sum(self.objects) + self.outliers < self.tokens
        yield room, "tokens", "more than the tokens of the objects and the outliers"
        needed = len(self.objects) + ATTRIBUTES + TEXTURES
        yield self.width >= needed, "width", f"at least {needed}: directions are orthonormal"
        falling = all(a > b for a, b in pairwise(self.kept)) and min(self.kept) * self.tokens >= 2
        yield falling and JUDGED in self.kept, "kept", f"falling, {JUDGED} among them, of 2 tokens or more"


PRESETS = presets(
    Config(),
    smoke={"tokens": 80, "kept": (JUDGED,), "scenes": 2, "seeds": (0, 1), "outliers": 4},
    quick={"seeds": (0, 1, 2)},
    paper={"seeds": tuple(range(100))},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By method accuracy by kind of object [seeds, kept]."""
    arms = measured(workspace, (*READERS, "divprune-outliers"), config.seeds, partial(answered, config))
    return {
        "corpora": {},
        "seeds": list(config.seeds),
        "outliers": config.outliers,
        "kept": list(config.kept),
        "arms": arms,
    }


class Scene(NamedTuple):
    """Tokens in random order, the directions of identities and of attributes, and which attribute each object has."""

    tokens: Any  # float [tokens, width]
    identities: Any  # float [objects, width]
    values: Any  # float [ATTRIBUTES, width]
    attributes: Any  # int [objects]


def draw_scene(config: Config, outliers: int, seed: int, number: int) -> Scene:
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


def answered(config: Config, arm: str, seed: int) -> dict[str, list[float]]:
    """Accuracy on rare and on large objects, by share kept."""
    method, _, spoilt = arm.partition("-")
    drawn = [draw_scene(config, config.outliers if spoilt else 0, seed, n) for n in range(config.scenes)]
    keys = jax.random.split(threefry(jax.random.key(seed)), config.scenes)
    scenes = jax.tree.map(lambda *leaves: np.stack(leaves), *drawn)
    right, sizes = np.asarray(_answers(config, method, scenes, keys)), np.array(config.objects)
    kinds = {"rare": sizes == 1, "large": sizes >= 4}
    return {kind: np.round(right[..., which].mean((0, 2)), 4).tolist() for kind, which in kinds.items()}


@partial(jax.jit, static_argnums=(0, 1))
def _answers(config: Config, method: str, scenes: Scene, keys: jax.Array) -> jax.Array:
    return jax.vmap(partial(answers, config, method))(scenes, keys)


def answers(config: Config, method: str, scene: Scene, key: jax.Array) -> jax.Array:
    """Which of a scene's objects are answered for rightly, [kept, objects]."""
    x, identities, values, attributes = scene
    if method == "cls":
        shares = jnp.asarray(config.objects, jnp.float32) / sum(config.objects)
        scores = x @ jnp.sum(shares[:, None] * (identities + values[attributes]), axis=0)
    else:
        scores = jnp.mean(jax.nn.softmax(BETA * x @ x.T, axis=1), axis=0)
    ranked = {"cls": "top", "column": "top"}.get(method, method)

    def right(share: float) -> jax.Array:
        kept, sizes = merge(keep(ranked, x, scores, round(share * config.tokens), key), x)
        weights = jax.nn.softmax(BETA * identities @ kept.T + size_bias(sizes)[None], axis=1)
        return jnp.argmax(weights @ kept @ values.T, axis=1) == attributes

    return jnp.stack([right(share) for share in config.kept])


def claims(results: dict[str, Any]) -> list[Claim]:
    """Diversity answers what importance by size loses, and outliers take its budget."""
    arms, shares = Arms(results), results["kept"]
    at, last = shares.index(JUDGED), len(shares) - 1

    def rare(method: str, place: int = at) -> np.ndarray:
        return arms[method, "rare"][:, place]

    where = f"{JUDGED} of the tokens kept"
    return [
        Claim(
            "divprune_keeps_needles",
            f"DivPrune answers for rare objects where tokens chosen by CLS attention or at random do not ({where}).",
            "alvar2025divprune: abstract",
            {other: rare("divprune") - rare(other) for other in ("cls", "random")},
            above(0.05),
            "difference of accuracy on objects of one token",
            "state of the art over 16 sets, without attention",
        ),
        Claim(
            "maxmin_not_below_maxsum_on_needles",
            f"Max-min is at least as good as max-sum there ({where}).",
            OURS,
            {"difference": rare("divprune") - rare("maxsum")},
            above(-0.01),
            "difference of accuracy on objects of one token",
        ),
        Claim(
            "importance_serves_large_objects",
            f"CLS attention answers for large objects better than random tokens do ({where}).",
            OURS,
            {"difference": (arms["cls", "large"] - arms["random", "large"])[:, at]},
            above(0),
            "difference of accuracy on objects of four tokens or more",
        ),
        Claim(
            "outliers_take_the_budget",
            f"Max-min keeps outliers first: with {results['outliers']} of them DivPrune loses rare objects when few tokens are kept.",
            OURS,
            {"with less without": rare("divprune-outliers", last) - rare("divprune", last)},
            below(-0.05),
            f"difference of accuracy on objects of one token, {shares[last]} kept",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Accuracy on rare and on large objects against what is kept; beside it what outliers do to DivPrune."""
    arms, shares = Arms(results), results["kept"]
    drawn, axes = panels(1, 3, width=3.6, height=3.2)
    places = np.log(shares)
    with styled():
        for panel, kind in zip(axes, ("rare", "large"), strict=False):
            lines(panel, places, {label: arms[method, kind] for method, label in READERS.items()})
            panel.set_title(f"questions on {kind} objects")
        spoilt = f"{results['outliers']} outliers"
        lines(axes[2], places, {"no outliers": arms["divprune", "rare"], spoilt: arms["divprune-outliers", "rare"]})
        axes[2].set_title("DivPrune, rare objects")
        axes[2].legend(fontsize=7, loc="center right")
        for panel in axes:
            reference(panel, 1 / ATTRIBUTES, "chance")
            panel.set_xticks(places, [f"{share:g}" for share in shares])
            panel.set(xlabel="share of tokens kept", ylim=(0, 1.05))
        axes[0].set_ylabel("accuracy, mean and range of seeds")
        legend_beside(axes[1])
    return drawn
