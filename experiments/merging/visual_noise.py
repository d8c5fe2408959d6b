"""Claim C6: without the noise among visual tokens a model hallucinates less: questions whether an object is there (as POPE's).

Kong et al. 2026 (arXiv 2505.18227), section 4; method card token-reduction-beyond-efficiency. The toy vision-language models of
`scene_models` answer whether each shape is in the scene, half of which are, from a share of the visual tokens: the most diverse ones
(DivPrune), the most relevant ones to the question (attention of its words in the decoder, as in FastV), or random ones. Which criterion
and share is judged is decided on other scenes than it is judged on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool
from matplotlib.axes import Axes

from experiments.harness.claims import Claim, interval
from experiments.harness.style import BLUE, GREY, ORANGE, band, reference
from experiments.harness.workspace import Workspace
from experiments.merging.verdicts import judged
from experiments.subjects.scene_answerers import HeldOut, SceneSubject, ask_together, scene_models
from experiments.subjects.scene_pruning import (
    answers,
    encode_images,
    keep,
    one_by_one,
    right_answers,
    run_layers,
    text_attention,
    views_of,
)
from lexinv.data.scenes import Questions, ask, sample_scenes
from lexinv.training.streams import stream
from lexinv.validation import require

CRITERIA = {
    "random": ("random", GREY),
    "divprune": ("diversity (DivPrune)", BLUE),
    "text": ("relevance to the question", ORANGE),
}
HALVES = ("choose", "judge")
SMALLEST = 0.01
"""The least effect that matters: one point of F1."""


@dataclass(frozen=True)
class VisualNoiseConfig:
    """shares: of the visual tokens that are kept, falling. scenes: for each model in each half, with a question for each shape."""

    subject: SceneSubject = SceneSubject()
    shares: tuple[float, ...] = (0.75, 0.5, 0.25, 0.125, 0.0625)
    scenes: int = 128

    def __post_init__(self):
        falling = sorted(set(self.shares), reverse=True) == list(self.shares) != []
        fine = falling and all(
            1 <= share * self.subject.data.patches < self.subject.data.patches for share in self.shares
        )
        require(fine, "visual_noise.shares", self.shares, "falling, each at least one token and less than all")
        require(self.scenes >= 2, "visual_noise.scenes", self.scenes, "at least 2")


def measure(config: VisualNoiseConfig, seeds: Sequence[int], workspace: Workspace) -> dict[str, Any]:
    """F1 of yes and the rate of yes above half: in each half, of all tokens [models] and of every criterion [shares][models]."""
    models = scene_models(config.subject, workspace)
    found = workspace.cached("visual_noise/scores", partial(_scores, config, models.params[: len(seeds)], seeds))
    return {**models.origin, "shares": list(config.shares), **found}


def _scores(config: VisualNoiseConfig, params: list[Any], seeds: Sequence[int]) -> dict[str, Any]:
    measures, subject = ("f1", "bias"), config.subject
    found: dict[str, Any] = {}
    for half in HALVES:
        arms: dict[str, Any] = {name: {what: [[] for _ in config.shares] for what in measures} for name in CRITERIA}
        full: dict[str, list[float]] = {what: [] for what in measures}
        for tree, seed in zip(params, seeds, strict=False):
            key = stream(jax.random.key(seed), f"presence {half}")
            scenes, questions = presence_questions(config, key)
            encoded = encode_images(subject.model, tree, scenes.pixels)
            views, text = views_of(encoded, key), text_attention(subject, tree, encoded, questions)
            asked = run_layers(subject, tree, ask_together(subject, tree, encoded.visual, questions))
            truth = np.asarray(questions.answer) == subject.data.no + 1
            for what, value in score(right_answers(tree, asked, questions), truth).items():
                full[what].append(value)
            for row, share in enumerate(config.shares):
                for name in CRITERIA:
                    kept = keep(name, round(share * subject.data.patches), views, text)
                    right = answers(subject, tree, kept, one_by_one(questions) if name == "text" else questions)
                    for what, value in score(right.reshape(truth.shape), truth).items():
                        arms[name][what][row].append(value)
        found[half] = {"full": full, "arms": arms}
    return found


@partial(jax.jit, static_argnums=0)
def presence_questions(config: VisualNoiseConfig, key: Array) -> HeldOut:
    """Scenes, each asked about all shapes."""
    scene_key, question_key = jax.random.split(key)
    scenes = sample_scenes(config.subject.data, config.scenes, scene_key)
    questions = ask(config.subject.data, scenes, question_key, 0, config.subject.data.shapes)
    first = len(config.subject.data.sizes)  # before them are the colours of the objects
    return HeldOut(scenes, Questions(*(part[:, first:] for part in questions)))


def score(right: Bool[np.ndarray, "scenes questions"], truth: Bool[np.ndarray, "scenes questions"]) -> dict[str, float]:
    """F1 of yes, and how much more often the answer is yes than it should be. A wrong answer to a no counts as yes."""
    yes = right == truth
    return {"f1": round(f1(yes, truth), 4), "bias": round(float(yes.mean() - truth.mean()), 4)}


def f1(yes: Bool[np.ndarray, "*questions"], truth: Bool[np.ndarray, "*questions"]) -> float:
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
