"""Whether a masked model answers from the context or from its weights, under ways to forget its embeddings.

Anand et al. 2024 (arXiv 2406.00053), the synthetic setting; method card dual-process-learning. A noun or an adjective is asked for that
can be told by its slot in the sequence (in context, structurally) or by its embedding (in weights). Where the two disagree or the
embedding says nothing, one sees which strategy a model has.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.harness.presets import presets
from experiments.harness.style import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, band, panels, styled
from experiments.harness.verdicts import OURS, Claim, above, between
from experiments.harness.workspace import Workspace
from experiments.subjects.forgetful_encoders import CONTROLS, Arm, PosEncoders, draw_sets, follow, slug
from lexinv.lexinvariance.forgetting import Forgetting
from lexinv.lexinvariance.part_of_speech import PosTask
from lexinv.validation import Count, CountOrZero, Share

PAPERS = ("anand2025dual",)
STRUCTURAL = "holdout initial in context"


@dataclass(frozen=True)
class Config(PosEncoders):
    """period: of active forgetting; temporary forgetting re-initialises every `temporary_period` steps below `temporary_until`."""

    period: Count = 200
    temporary_period: Count = 20
    temporary_until: CountOrZero = 1050
    p_random: Share = 0.1
    fine_tuning_steps: Count = 1050

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield from super().checks()
        whole = self.temporary_until % self.evaluate_every == 0 and self.temporary_until < self.steps
        yield whole, "temporary_until", "a multiple of evaluate_every, below steps"
        tuned = self.fine_tuning_steps % self.evaluate_every == 0
        yield tuned, "fine_tuning_steps", f"a multiple of {self.evaluate_every}"

    @property
    def arms(self) -> dict[str, Arm]:
        """The ways to forget that are compared."""
        return {
            "vanilla": Arm(Forgetting()),
            "active": Arm(Forgetting(self.period)),
            "temporary": Arm(Forgetting(self.temporary_period, self.temporary_until)),
            "probabilistic": Arm(Forgetting(p_random=self.p_random)),
            "fine-tuned": Arm(Forgetting(p_random=self.p_random, frozen=True), steps=self.fine_tuning_steps),
            "lexinvariant": Arm(Forgetting(fresh=True)),
            "active, all moments": Arm(Forgetting(self.period, reset="all")),
            "vanilla, output bias": Arm(Forgetting(), bias=True),
        }


PRESETS = presets(
    Config(),
    smoke={
        "task": PosTask(vocab=40, holdout=8, bins=2, head=4),
        "model.depth": 1,
        "model.width": 16,
        "model.mlp_width": 16,
        "model.unroll": 1,
        "steps": 40,
        "batch_size": 16,
        "period": 10,
        "temporary_period": 5,
        "temporary_until": 20,
        "fine_tuning_steps": 20,
        "evaluate_every": 20,
        "sequences": 50,
    },
    quick={"seeds": (0,)},
    paper={
        "task": PosTask(vocab=10_000, holdout=1000, alpha=1.5, bins=10),
        "model.depth": 6,
        "model.unroll": 6,
        "steps": 62_500,
        "batch_size": 128,
        "learning_rate": 5e-5,
        "weight_decay": 0.01,
        "std": 0.02,
        "period": 1000,
        "temporary_period": 10,
        "temporary_until": 1000,
        "fine_tuning_steps": 1000,
        "evaluate_every": 500,
        "sequences": 10_000,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Accuracies of every arm on every set through training, [seeds][evaluations], and at the end by frequency bin."""
    sets = draw_sets(config)
    return {
        "corpora": {},
        "seeds": list(config.seeds),
        "steps": list(range(0, config.steps + 1, config.evaluate_every)),
        "temporary_until": config.temporary_until,
        "bins": config.task.bins,
        "arms": {
            name: workspace.cached(
                f"arms/{slug(name)}", lambda name=name, arm=arm: follow(name, arm, sets, config, workspace)
            )
            for name, arm in config.arms.items()
        },
    }


def followed(results: dict[str, Any], arm: str, kind: str) -> np.ndarray:
    """Accuracy [seeds, evaluations]."""
    return np.array(results["arms"][arm]["accuracy"][kind])


def claims(results: dict[str, Any]) -> list[Claim]:
    """The paper's dual process, with the card's thresholds."""

    def last(arm: str, kind: str = STRUCTURAL) -> np.ndarray:
        return followed(results, arm, kind)[:, -1]

    falls = {kind: followed(results, "vanilla", kind).max(axis=1) - last("vanilla", kind) for kind in CONTROLS}
    switched = followed(results, "temporary", "head_switch")
    stop = results["steps"].index(results["temporary_until"])
    return [
        Claim(
            "structural_rises_and_falls",
            "Under ordinary training the accuracy on held-out tokens rises and then falls; judged among the tokens that the sequence "
            "shows, since among the whole vocabulary a new vector loses to trained ones that have grown long. Beside it that measure, "
            "and vectors of other distributions.",
            "anand2025dual: abstract",
            falls,
            {STRUCTURAL: above(0.3)},
            "highest accuracy minus the last",
            "structural in-context learning is transient",
        ),
        Claim(
            "active_keeps_structural",
            "Under active forgetting the accuracy on held-out tokens is high at the end; beside it that on ordinary sequences.",
            "anand2025dual: abstract",
            {kind: last("active", kind) for kind in (STRUCTURAL, "val")},
            {STRUCTURAL: above(0.9)},
            "accuracy",
            "structural in-context learning is kept",
        ),
        Claim(
            "active_removes_in_weights",
            "Where slot and embedding disagree on frequent tokens, active forgetting follows the slot more often than ordinary training "
            "does.",
            "anand2025dual: abstract",
            {"head_switch": last("active", "head_switch") - last("vanilla", "head_switch")},
            above(0.3),
            "difference of accuracies",
            "all preference for in-weights learning is removed",
        ),
        Claim(
            "temporary_is_dual",
            "Temporary forgetting gives both strategies: held-out tokens are answered in context at the end, better than under ordinary "
            "training, while frequent tokens come to be answered from the weights once forgetting has stopped.",
            "anand2025dual: abstract",
            {
                "held-out": last("temporary"),
                "held-out above vanilla": last("temporary") - last("vanilla"),
                "fall of head_switch after the last forgetting": switched[:, stop] - switched[:, -1],
            },
            {
                "held-out": above(0.8),
                "held-out above vanilla": above(0.1),
                "fall of head_switch after the last forgetting": above(0.2),
            },
            "accuracy",
            "a dual process strategy",
        ),
        Claim(
            "fine_tuning_is_dual",
            "Probabilistic forgetting as fine-tuning, the table frozen, turns an ordinarily trained model to the context: frequent tokens "
            "of switched class follow the slot more often than before, held-out tokens are answered, and ordinary sequences still are.",
            "anand2025dual",
            {
                "switched above vanilla": last("fine-tuned", "head_switch") - last("vanilla", "head_switch"),
                "held-out": last("fine-tuned"),
                "val": last("fine-tuned", "val"),
            },
            {"switched above vanilla": above(0.1), "held-out": above(0.8), "val": above(0.9)},
            "accuracy",
        ),
        Claim(
            "rare_tokens_in_context_frequent_in_weights",
            "Where slot and embedding disagree, rare tokens are answered by the slot more often than frequent ones, under ordinary "
            "training and under temporary forgetting.",
            "anand2025dual: abstract",
            {arm: last(arm, "tail_switch") - last(arm, "head_switch") for arm in ("vanilla", "temporary")},
            above(0.2),
            "accuracy on tail_switch minus that on head_switch",
            "head tokens prefer in-weights, tail tokens in-context learning",
        ),
        Claim(
            "survives_fitted_gaussian",
            "What forgetting keeps is not a matter of the held-out vectors' distribution: the same with vectors from the Gaussian fitted "
            "to the trained embeddings.",
            OURS,
            {arm: last(arm, "holdout fitted in context") for arm in ("active", "temporary")},
            {"active": above(0.9), "temporary": above(0.8)},
            "accuracy",
        ),
        Claim(
            "lexinvariant_treats_all_tokens_alike",
            "With a fresh table in every step no token is special: held-out tokens are as good as any.",
            OURS,
            {"lexinvariant": last("lexinvariant") - last("lexinvariant", "val")},
            between(-0.05, 0.05),
            "accuracy on held-out tokens minus that on val",
        ),
        Claim(
            "moment_reset_does_not_matter",
            "Zeroing the moments of all parameters, as the released code does, instead of the table's gives the same on held-out tokens.",
            OURS,
            {"active": last("active, all moments") - last("active")},
            between(-0.1, 0.1),
            "difference of accuracies",
        ),
        Claim(
            "output_bias_hurts_held_out",
            "With an output bias, which sinks for tokens that are never targets, ordinary training is worse on held-out tokens among the "
            "whole vocabulary.",
            OURS,
            {"vanilla": last("vanilla", "holdout initial") - last("vanilla, output bias", "holdout initial")},
            above(0),
            "accuracy without minus with bias",
        ),
    ]


COLORS = {
    "vanilla": VERMILION,
    "active": BLUE,
    "temporary": GREEN,
    "probabilistic": PURPLE,
    "lexinvariant": ORANGE,
    "fine-tuned": GREY,
}
SETS = {
    "val": "Ordinary sequences",
    STRUCTURAL: "Held-out tokens: structural",
    "head_switch": "Frequent tokens, classes switched",
    "tail_switch": "Rare tokens, classes switched",
}


def figure(results: dict[str, Any]) -> Figure:
    """Four sets through training for the five ways to forget, held-out tokens by control, and frequency bins at the end."""
    titles = *SETS.values(), "Vanilla on held-out tokens, by control", "Classes switched, by frequency"
    drawn, axes = panels(2, 3, width=4.2, height=3.0, titles=titles)
    steps, bins = results["steps"], range(results["bins"])
    with styled():
        for panel, kind in zip(axes, SETS, strict=False):
            for arm, color in COLORS.items():
                rows = followed(results, arm, kind)
                after = steps[-1] if arm == "fine-tuned" else 0
                band(panel, [after + step for step in steps[: rows.shape[1]]], rows, arm, color)
            panel.axvline(results["temporary_until"], color=GREEN, linewidth=0.8, linestyle=":")
            panel.set(xlabel="step (dotted: temporary forgetting ends)", ylabel="all three masks right")
        for kind, style in (("initial", "-"), ("fitted", "--"), ("means", ":")):
            for scoring, color in (("", VERMILION), (" in context", BLUE)):
                label = f"{kind}, {'among the context' if scoring else 'whole vocabulary'}"
                rows = followed(results, "vanilla", f"holdout {kind}{scoring}")
                band(axes[4], steps, rows, label, color, linestyle=style)
        axes[4].set(xlabel="step")
        for arm, color in COLORS.items():
            found = results["arms"][arm]["by_bin"]
            rows = np.transpose([found[f"nonamb_{index}_switch"] for index in bins])
            band(axes[5], bins, rows, arm, color, marker="o", markersize=3)
        axes[5].set(xlabel="frequency bin (0: most frequent words)", xticks=list(bins))
        for panel in axes:
            panel.set_ylim(-0.03, 1.03)
        axes[0].legend()
        axes[4].legend(fontsize=6.5)
    return drawn
