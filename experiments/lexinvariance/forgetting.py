"""When a masked model answers from the context and when from its weights: by skew, vocabulary, ambiguity, and how it forgets.

Anand et al. 2024 (arXiv 2406.00053), the synthetic setting; method card dual-process-learning. A noun or an adjective is asked for that
can be told by its slot in the sequence (in context, structurally) or by its embedding (in weights). Where the two disagree or the
embedding says nothing, one sees which strategy a model has. Answers are scored among the tokens that the sequence shows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.harness.presets import presets
from experiments.harness.style import BLUE, GREEN, GREY, PALETTE, VERMILION, band, panels, styled
from experiments.harness.verdicts import OURS, Claim, Rule, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.forgetful_encoders import Cell, Members, PosEncoders, chosen, follow
from lexinv.lexinvariance.forgetting import Forgetting
from lexinv.lexinvariance.part_of_speech import PosTask
from lexinv.validation import Count, CountOrZero, Share

PAPERS = ("anand2025dual",)
ABSTRACT = "anand2025dual: abstract"
STRUCTURAL = "holdout initial"


@dataclass(frozen=True)
class Config(PosEncoders):
    """usual: skew and ambiguity of the task that is looked at closely, of the largest vocabulary; those of the paper's main setting.

    period: of active forgetting; temporary forgetting re-initialises every `temporary_period` steps below `temporary_until`. p_random:
    of probabilistic forgetting, by which models of the usual task are fine-tuned.
    """

    usual: tuple[float, float] = (1.5, 0.1)
    period: Count = 200
    temporary_period: Count = 20
    temporary_until: CountOrZero = 500
    p_random: Share = 0.1
    fine_tuning_steps: Count = 500

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield from super().checks()
        for field in ("skews", "vocabularies", "ambiguities"):
            values = getattr(self, field)
            yield len(values) > 1 and list(values) == sorted(values), field, "at least two, ascending"
        yield self.usual_cell in self.tasks, "usual", "a skew and an ambiguity of the grid"
        whole = self.temporary_until % self.evaluate_every == 0 and self.temporary_until < self.steps
        yield whole, "temporary_until", "a multiple of evaluate_every, below steps"
        tuned = self.fine_tuning_steps % self.evaluate_every == 0
        yield tuned, "fine_tuning_steps", f"a multiple of {self.evaluate_every}"

    @property
    def usual_cell(self) -> Cell:
        return Cell(self.usual[0], max(self.vocabularies), self.usual[1])

    @property
    def arms(self) -> dict[str, Forgetting]:
        """The ways to forget that are compared on every task."""
        return {
            "vanilla": Forgetting(),
            "active": Forgetting(self.period),
            "temporary": Forgetting(self.temporary_period, self.temporary_until),
        }


PRESETS = presets(
    Config(),
    smoke={
        "skews": (0.0, 1.5),
        "vocabularies": (20, 40),
        "ambiguities": (0.1, 0.4),
        "task": PosTask(vocab=20, holdout=8, bins=2, head=4),
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
        "seeds": (0, 1),
    },
    paper={
        "skews": (0.0, 1.0001, 1.2, 1.5),
        "vocabularies": (100, 1000, 10_000),
        "ambiguities": (0.01, 0.1, 0.5),
        "task": PosTask(vocab=100, holdout=1000),
        "model.depth": 6,
        "model.unroll": 6,
        "model.width": 64,
        "model.mlp_width": 128,
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
    """Accuracies of every arm on every set through training, [tasks][seeds][evaluations]; of fine-tuning on the usual task alone."""
    cells, usual = tuple(config.tasks), config.usual_cell

    def grid() -> dict[str, Any]:
        states, found = follow("grid", config.arms, cells, config, workspace)
        trained = chosen(states, Members(tuple(config.arms), cells), "vanilla", usual, len(config.seeds))
        tuning = {"fine-tuned": Forgetting(p_random=config.p_random, frozen=True)}
        _, tuned = follow("fine-tuning", tuning, [usual], config, workspace, trained, config.fine_tuning_steps)
        return found | tuned

    return {
        "corpora": {},
        "seeds": list(config.seeds),
        "tasks": [list(cell) for cell in cells],
        "usual": cells.index(usual),
        "steps": list(range(0, config.steps + 1, config.evaluate_every)),
        "temporary_until": config.temporary_until,
        "arms": workspace.cached("arms", grid),
    }


def followed(results: dict[str, Any], arm: str, kind: str) -> np.ndarray:
    """Accuracy [seeds, evaluations] on the usual task."""
    rows = results["arms"][arm][kind]
    return np.array(rows[results["usual"] if len(rows) > 1 else 0])


def at_end(results: dict[str, Any], arm: str, kind: str, **where: float) -> np.ndarray:
    """Accuracy [seeds, tasks] after training, on the tasks that have these values."""
    cells = [Cell(*cell) for cell in results["tasks"]]
    kept = [i for i, cell in enumerate(cells) if all(getattr(cell, name) == value for name, value in where.items())]
    return np.array(results["arms"][arm][kind])[kept, :, -1].T


def claims(results: dict[str, Any]) -> list[Claim]:
    """The paper's dual process, with the card's thresholds."""

    def last(arm: str, kind: str = STRUCTURAL) -> np.ndarray:
        return followed(results, arm, kind)[:, -1]

    def claim(name: str, statement: str, measured: Any, rule: Any, published: str, source: str = ABSTRACT) -> Claim:
        return Claim(name, statement, source, measured, rule, "accuracy", published or None)

    vanilla = followed(results, "vanilla", STRUCTURAL)
    stop = results["steps"].index(results["temporary_until"])
    switched = np.array(results["arms"]["temporary"]["head_switch"])
    falls = {tuple(cell): rows[:, stop] - rows[:, -1] for cell, rows in zip(results["tasks"], switched, strict=True)}
    skew, most, ambiguity = results["tasks"][results["usual"]]
    fewest = min(cell[1] for cell in results["tasks"])
    return [
        claim(
            "structural_rises_and_falls",
            "Under ordinary training the accuracy on held-out tokens rises and then falls: the highest minus the last.",
            {"held-out": vanilla.max(axis=1) - vanilla[:, -1]},
            above(0.3),
            "structural in-context learning is transient",
        ),
        claim(
            "active_keeps_structural",
            "Under active forgetting held-out tokens are answered in context at the end, on the task of the grid where least so.",
            {"held-out": at_end(results, "active", STRUCTURAL).min(axis=1)},
            above(0.9),
            "structural in-context learning is kept",
        ),
        claim(
            "active_removes_in_weights",
            "Where slot and embedding disagree on frequent tokens, active forgetting follows the slot, on the task of the grid where least "
            "so; on the usual task more often than ordinary training does.",
            {
                "least": at_end(results, "active", "head_switch").min(axis=1),
                "above vanilla": last("active", "head_switch") - last("vanilla", "head_switch"),
            },
            {"least": above(0.9), "above vanilla": above(0.3)},
            "all preference for in-weights learning is removed, across distributions",
        ),
        claim(
            "temporary_is_dual",
            "Temporary forgetting gives both strategies: held-out tokens are answered in context at the end, better than under ordinary "
            "training, while frequent tokens of switched class come to be answered from the weights once forgetting has stopped.",
            {
                "held-out": last("temporary"),
                "held-out above vanilla": last("temporary") - last("vanilla"),
                "fall of switched": falls[skew, most, ambiguity],
                f"fall of switched, of {fewest} words": falls[skew, fewest, ambiguity],
            },
            {"held-out": above(0.8), "held-out above vanilla": above(0.1), "fall of switched": above(0.2)},
            "a dual process strategy",
        ),
        claim(
            "fine_tuning_is_dual",
            "Probabilistic forgetting as fine-tuning, the table frozen, turns an ordinarily trained model to the context: frequent tokens "
            "of switched class follow the slot more often than before, held-out tokens are answered, and ordinary sequences still are.",
            {
                "switched above vanilla": last("fine-tuned", "head_switch") - last("vanilla", "head_switch"),
                "held-out": last("fine-tuned"),
                "val": last("fine-tuned", "val"),
            },
            {"switched above vanilla": above(0.1), "held-out": above(0.8), "val": above(0.9)},
            "",
        ),
        claim(
            "rare_tokens_in_context_frequent_in_weights",
            "Where slot and embedding disagree, rare tokens are answered by the slot more often than frequent ones, under ordinary "
            "training and under temporary forgetting.",
            {arm: last(arm, "tail_switch") - last(arm, "head_switch") for arm in ("vanilla", "temporary")},
            above(0.2),
            "head tokens prefer in-weights, tail tokens in-context learning",
        ),
        *grid_claims(results),
        claim(
            "survives_fitted_gaussian",
            "What forgetting keeps is not a matter of the held-out vectors' distribution: the same with vectors from the Gaussian fitted "
            "to the trained embeddings, on the usual task.",
            {arm: last(arm, "holdout fitted") for arm in ("active", "temporary")},
            {"active": above(0.9), "temporary": above(0.8)},
            *("", OURS),
        ),
    ]


def grid_claims(results: dict[str, Any]) -> list[Claim]:
    """What turns ordinary training to the weights: the ends of one axis compared, on the mean over all tasks of the others."""
    values = {name: sorted({cell[i] for cell in results["tasks"]}) for i, name in enumerate(Cell._fields)}

    def change(axis: str, kind: str) -> np.ndarray:
        low, high = (at_end(results, "vanilla", kind, **{axis: values[axis][end]}).mean(axis=1) for end in (0, -1))
        return high - low

    def claim(name: str, statement: str, axis: str, rule: Rule, source: str = OURS) -> Claim:
        kinds = {"head_switch": "frequent switched", "tail_switch": "rare switched", STRUCTURAL: "held-out"}
        measured = {label: change(axis, kind) for kind, label in kinds.items()}
        ends = f"{axis} {values[axis][-1]:g} minus that at {values[axis][0]:g}"
        return Claim(name, statement, source, measured, {"frequent switched": rule}, f"accuracy at {ends}")

    return [
        claim(
            "skew_turns_to_weights",
            "The more skewed the words, the more often ordinary training answers frequent tokens from the weights.",
            *("skew", below(-0.1), "anand2025dual"),
        ),
        claim(
            "vocabulary_turns_to_context",
            "The more words there are, the more often it answers them from the context.",
            *("vocab", above(0.1)),
        ),
        claim(
            "ambiguity_turns_to_context",
            "The more of the words are ambiguous, the more often it answers them from the context.",
            *("ambiguity", above(0.1)),
        ),
    ]


COLORS = {"vanilla": VERMILION, "active": BLUE, "temporary": GREEN, "fine-tuned": GREY}
SETS = {
    STRUCTURAL: "Held-out tokens: structural",
    "head_switch": "Frequent tokens, classes switched",
    "tail_switch": "Rare tokens, classes switched",
}


def figure(results: dict[str, Any]) -> Figure:
    """Three sets through training on the usual task by how the model forgets, and at its end by skew, vocabulary and ambiguity."""
    drawn, axes = panels(2, 3, width=4.2, height=3.1, titles=(*SETS.values(), *("At the end, by skew",) * 3))
    steps, cells = results["steps"], [Cell(*cell) for cell in results["tasks"]]
    skews, others = sorted({cell.skew for cell in cells}), sorted({cell[1:] for cell in cells})
    with styled():
        for course, phase, kind in zip(axes[:3], axes[3:], SETS, strict=True):
            for arm, color in COLORS.items():
                rows = followed(results, arm, kind)
                after = steps[-1] if arm == "fine-tuned" else 0
                band(course, [after + step for step in steps[: rows.shape[1]]], rows, arm, color)
            course.axvline(results["temporary_until"], color=GREEN, linewidth=0.8, linestyle=":")
            course.set(xlabel="step (dotted: temporary forgetting ends)")
            for (vocab, ambiguity), color in zip(others, PALETTE, strict=False):
                for arm, line in (("vanilla", "-"), ("active", ":")):
                    rows = at_end(results, arm, kind, vocab=vocab, ambiguity=ambiguity)
                    band(phase, skews, rows, f"{arm}, v = {vocab:g}, ε = {ambiguity:g}", color, linestyle=line)
            phase.set(xlabel="exponent of Zipf's law", xticks=skews)
        for panel in axes:
            panel.set(ylim=(-0.03, 1.03), ylabel="all three masks right")
        axes[0].legend()
        axes[3].legend(fontsize=6.5)
    return drawn
