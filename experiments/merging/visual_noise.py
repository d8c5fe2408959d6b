"""Whether a model hallucinates less without the noise among visual tokens: questions whether an object is there (as POPE's).

Kong et al. 2026 (arXiv 2505.18227), section 4; claim C6 of method card token-reduction-beyond-efficiency. Toy vision-language models answer
whether each shape is in the scene, half of which are, from a share of the visual tokens: the most diverse ones (DivPrune), the ones most
relevant to the question (attention of its words in the decoder, as in FastV), or random ones. Which criterion and share is judged is
decided on other scenes than it is judged on.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.figures import curves
from experiments.harness.presets import presets
from experiments.harness.style import BLUE, GREY, ORANGE, panels, reference
from experiments.harness.verdicts import Claim, above
from experiments.harness.workspace import Workspace
from experiments.subjects.scene_answerers import PUBLISHED, SMOKE, HeldOut, SceneSubject, scene_models
from experiments.subjects.scene_pruning import (
    answers,
    encode_images,
    keep,
    one_by_one,
    pose,
    right_answers,
    run_layers,
    text_attention,
    views_of,
)
from lexinv.data.scenes import Questions, ask, sample_scenes
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Shares

PAPERS = ("kong2025token",)
CRITERIA = {
    "random": ("random", GREY),
    "divprune": ("diversity (DivPrune)", BLUE),
    "text": ("relevance to the question", ORANGE),
}
HALVES = ("choose", "judge")
SMALLEST = 0.01
"""The least effect that matters: one point of F1."""


@dataclass(frozen=True)
class Config(Checked):
    """shares: of the visual tokens that are kept, falling. scenes: for each model in each half, with a question for each shape."""

    subject: SceneSubject = SceneSubject()
    shares: Shares = (0.75, 0.5, 0.25, 0.125, 0.0625)
    scenes: Count = 128

    def checks(self):
        patches = self.subject.data.patches
        fine = sorted(self.shares, reverse=True) == list(self.shares)
        fine = fine and all(1 <= share * patches < patches for share in self.shares)
        yield fine, "shares", "falling, each at least one token and less than all"


PRESETS = presets(
    Config(),
    smoke={**SMOKE, "shares": (0.25,), "scenes": 16},
    quick={"subject.training.seeds": (0, 1)},
    paper={**PUBLISHED, "scenes": 2000},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By arm and half: F1 of yes and the rate of yes above half, [seeds] of all tokens and [seeds][shares] of every criterion."""
    params, seeds = scene_models(config.subject, workspace), config.subject.training.seeds
    arms = measured(workspace, ("all", *CRITERIA), seeds, lambda arm, seed: measure(config, params[seed], arm, seed))
    return {"corpora": {}, "seeds": seeds, "shares": config.shares, "arms": arms}


def measure(config: Config, params: Any, arm: str, seed: int) -> dict[str, Any]:
    """An arm of `run` for one model."""
    subject, found = config.subject, {}
    for half in HALVES:
        key = stream(jax.random.key(seed), f"presence {half}")
        scenes, questions = presence_questions(config, key)
        truth = np.asarray(questions.answer) == subject.data.no + 1
        encoded = encode_images(subject.model, params, scenes.pixels)
        if arm == "all":
            asked = run_layers(subject, params, pose(subject, params, encoded.visual, questions))
            scores = score(right_answers(params, asked, questions), truth)
        else:
            views, text = views_of(encoded, key), text_attention(subject, params, encoded, questions)
            rows = []
            for share in config.shares:
                kept = keep(arm, round(share * subject.data.patches), views, text)
                right = answers(subject, params, kept, one_by_one(questions) if arm == "text" else questions)
                rows.append(score(right.reshape(truth.shape), truth))
            scores = {what: [row[what] for row in rows] for what in rows[0]}
        found |= {f"{half} {what}": value for what, value in scores.items()}
    return found


@partial(jax.jit, static_argnums=0)
def presence_questions(config: Config, key: Array) -> HeldOut:
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


def chosen(arms: Arms) -> tuple[str, int]:
    """The criterion, not random, and the row of its share with the best mean F1 in the half for choosing."""
    mean = {name: arms[name, "choose f1"].mean(axis=0) for name in CRITERIA if name != "random"}
    return max(
        ((name, row) for name in mean for row in range(len(mean[name]))), key=lambda cell: mean[cell[0]][cell[1]]
    )


def claims(results: dict[str, Any]) -> list[Claim]:
    """The chosen criterion and share against all tokens and against random ones."""
    arms = Arms(results)
    name, row = chosen(arms)
    best = arms[name, "judge f1"][:, row]
    return [
        Claim(
            "less_visual_noise_less_hallucination",
            f"C6: Some reduction answers presence questions better than all tokens; {results['shares'][row]:.0%} of the visual tokens "
            f"kept by {name} was the best on other scenes.",
            "kong2025token: section 4",
            {
                "over all tokens": best - arms["all", "judge f1"],
                "over random tokens": best - arms["random", "judge f1"][:, row],
            },
            above(0, matters=SMALLEST),
            "difference of F1",
        )
    ]


def figure(results: dict[str, Any]) -> Figure:
    """F1 and the excess of yes against the share kept, on the scenes for judging."""
    arms, shares = Arms(results), results["shares"]
    drawn, axes = panels(1, 2, titles=("Presence questions", "Bias towards yes"))
    for panel, what, label in zip(axes, ("f1", "bias"), ("F1 of yes", "rate of yes less that of truth"), strict=True):
        curves(panel, shares, arms, f"judge {what}", CRITERIA, ticks=True)
        reference(panel, arms["all", f"judge {what}"].mean(), "all tokens")
        panel.set(xlabel="share of visual tokens kept", ylabel=label)
    axes[0].legend()
    return drawn
