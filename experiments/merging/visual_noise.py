"""Claim C6: without the noise among visual tokens a model hallucinates less: questions whether an object is there (as POPE's).

Kong et al. 2026 (arXiv 2505.18227), section 4; method card token-reduction-beyond-efficiency. The toy vision-language models of
`scene_models` answer whether each shape is in the scene, half of which are, from a share of the visual tokens: the most diverse ones
(DivPrune), the most relevant ones to the question (attention of its last word in the decoder's third layer, as in FastV), or random ones.
Which criterion and share is judged is decided on other scenes than it is judged on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int
from matplotlib.axes import Axes

from experiments.harness.claims import Claim, interval
from experiments.harness.style import BLUE, GREY, ORANGE, band, reference
from experiments.harness.workspace import Workspace
from experiments.merging.scene_answers import logits_with, one_by_one, visual_tokens
from experiments.merging.scene_models import HeldOut, SceneSubject, scene_models
from experiments.merging.verdicts import judged
from lexinv.data.scenes import KINDS, ask, sample_scenes
from lexinv.merging.diversity import diversity_prune
from lexinv.merging.ranking import prune_at_random, prune_by_score
from lexinv.nn.vision_language import SYSTEM, attention_in_layer, decode, prompt
from lexinv.training.streams import stream
from lexinv.validation import require

CRITERIA = {
    "random": ("random", GREY),
    "diversity": ("diversity (DivPrune)", BLUE),
    "relevance": ("relevance to the question", ORANGE),
}
HALVES = ("choose", "judge")
SMALLEST = 0.01
"""The least effect that matters: one point of F1."""


@dataclass(frozen=True)
class VisualNoiseConfig:
    """shares: of the visual tokens that are kept, falling. scenes: for each model in each half, with a question for each shape."""

    subject: SceneSubject = SceneSubject()
    shares: tuple[float, ...] = (0.75, 0.5, 0.25, 0.125, 0.0625)
    scenes: int = 64
    layer: int = 2

    def __post_init__(self):
        falling = sorted(set(self.shares), reverse=True) == list(self.shares) != []
        fine = falling and all(
            1 <= share * self.subject.data.patches < self.subject.data.patches for share in self.shares
        )
        require(fine, "visual_noise.shares", self.shares, "falling, each at least one token and less than all")
        require(self.scenes >= 2, "visual_noise.scenes", self.scenes, "at least 2")
        depth = self.subject.depth
        require(0 <= self.layer < depth, "visual_noise.layer", self.layer, f"from 0 to {depth - 1}")


def measure(config: VisualNoiseConfig, seeds: Sequence[int], workspace: Workspace) -> dict[str, Any]:
    """F1 of yes and the rate of yes above half: in each half, of all tokens [models] and of every criterion [shares][models]."""
    models = scene_models(config.subject, workspace)
    found = workspace.cached("visual_noise/scores", partial(_scores, config, models.params[: len(seeds)], seeds))
    return {**models.origin, "shares": list(config.shares), **found}


def _scores(config: VisualNoiseConfig, params: list[Any], seeds: Sequence[int]) -> dict[str, Any]:
    measures = ("f1", "bias")
    empty = {name: {what: [[] for _ in config.shares] for what in measures} for name in CRITERIA}
    found: dict[str, Any] = {}
    for half in HALVES:
        arms = {name: {what: [list(row) for row in rows] for what, rows in arm.items()} for name, arm in empty.items()}
        full: dict[str, list[float]] = {what: [] for what in measures}
        for tree, seed in zip(params, seeds, strict=False):
            drawn = presence_questions(config, stream(jax.random.key(seed), f"presence {half}"))
            scene, words, answer = one_by_one(drawn, KINDS.index("presence"))
            visual = visual_tokens(config.subject, tree, drawn.scenes.pixels)[scene]
            truth = answer == config.subject.data.no + 1

            def score(into: dict[str, Any], row: int | None, kept, places, tree=tree, words=words, truth=truth):
                yes = says_yes(config.subject, logits_with(config.subject, tree, kept, words, places))
                for what, value in zip(measures, (f1(yes, truth), float(yes.mean() - truth.mean())), strict=True):
                    (into[what] if row is None else into[what][row]).append(round(value, 4))

            score(full, None, visual, None)
            attended = relevance(config, tree, visual, words)
            for row, share in enumerate(config.shares):
                for name in CRITERIA:
                    key = stream(jax.random.key(seed), "random tokens")
                    places = kept_places(name, round(share * visual.shape[1]), visual, attended, key)
                    score(arms[name], row, jnp.take_along_axis(visual, places[..., None], axis=1), places)
        found[half] = {"full": full, "arms": arms}
    return found


@partial(jax.jit, static_argnums=0)
def presence_questions(config: VisualNoiseConfig, key: Array) -> HeldOut:
    """Scenes, each asked about all shapes."""
    scene_key, question_key = jax.random.split(key)
    scenes = sample_scenes(config.subject.data, config.scenes, scene_key)
    return HeldOut(scenes, ask(config.subject.data, scenes, question_key, 0, config.subject.data.shapes))


@partial(jax.jit, static_argnums=0)
def relevance(config: VisualNoiseConfig, params: Any, visual: Array, words: Array) -> Array:
    """[prompts, patches]: what the last word attends to in the decoder's layer, averaged over heads."""
    model = config.subject.model
    seen = decode(model, params, prompt(model, params, visual, words), 0, config.layer)
    weights = attention_in_layer(model, params, seen, config.layer)
    return jnp.mean(weights[:, :, -1, SYSTEM : SYSTEM + visual.shape[1]], axis=1)


@partial(jax.jit, static_argnums=(0, 1))
def kept_places(criterion: str, count: int, visual: Array, attended: Array, key: Array) -> Int[Array, "prompts kept"]:
    """The places of the tokens that a criterion keeps, rising."""
    tokens = visual.shape[1]
    if criterion == "diversity":
        return jax.vmap(lambda x: diversity_prune(x, count).anchor)(visual)
    if criterion == "relevance":
        return jax.vmap(lambda scores: prune_by_score(scores, tokens - count, protect=0).anchor)(attended)
    keys = jax.random.split(key, visual.shape[0])
    return jax.vmap(lambda k: prune_at_random(k, tokens, tokens - count, protect=0).anchor)(keys)


def says_yes(subject: SceneSubject, logits: Array) -> Bool[np.ndarray, " prompts"]:
    """Whether yes has the larger logit of yes and no."""
    no = subject.data.no
    found = np.asarray(logits)
    return found[:, no + 1] > found[:, no]


def f1(yes: Bool[np.ndarray, " prompts"], truth: Bool[np.ndarray, " prompts"]) -> float:
    """2 TP / (2 TP + FP + FN) of yes; 0 where nothing is yes."""
    hits, wrong = int((yes & truth).sum()), int((yes != truth).sum())
    return 2 * hits / (2 * hits + wrong) if hits else 0.0


def chosen(measured: dict[str, Any]) -> tuple[str, int]:
    """The criterion, not random, and the row of its share with the best mean F1 in the half for choosing."""
    arms = measured["choose"]["arms"]
    cells = [(name, row) for name in CRITERIA if name != "random" for row in range(len(measured["shares"]))]
    return max(cells, key=lambda cell: float(np.mean(arms[cell[0]]["f1"][cell[1]])))


def judge(measured: dict[str, Any]) -> list[Claim]:
    """The chosen criterion and share against all tokens and against random ones."""
    name, row = chosen(measured)
    half = measured["judge"]
    full = np.array(half["full"]["f1"])
    best, random = (np.array(half["arms"][arm]["f1"][row]) for arm in (name, "random"))
    bias = {arm: interval(half["arms"][arm]["bias"][row]) for arm in CRITERIA}
    share = measured["shares"][row]
    return [
        judged(
            6,
            "less_visual_noise_less_hallucination",
            f"some reduction answers presence questions better than all tokens (measured: differences of F1, with {share:.0%} of the "
            f"visual tokens kept by {name}, which was the best on other scenes).",
            "F1 above that of all tokens, and above that of random tokens; refuted if F1 only falls",
            {"F1 - all tokens": interval(best - full), "F1 - random": interval(best - random)},
            SMALLEST,
            {
                "F1 of all tokens": interval(full),
                "rate of yes - truth": {"all tokens": interval(half["full"]["bias"]), **bias},
            },
        )
    ]


def draw(measured: dict[str, Any], axes: Axes) -> None:
    """F1 against the share kept, on the scenes for judging."""
    half = measured["judge"]
    for name, (label, color) in CRITERIA.items():
        rows = np.array(half["arms"][name]["f1"])
        band(axes, measured["shares"], rows.T, label, color, marker="o", markersize=3)
    reference(axes, float(np.mean(half["full"]["f1"])), "all tokens")
    axes.set(xscale="log", xlabel="share of visual tokens kept", ylabel="F1 of yes", title="C6 presence questions")
    axes.set_xticks(measured["shares"], [f"{share:g}" for share in measured["shares"]])
    axes.minorticks_off()
    axes.legend()
