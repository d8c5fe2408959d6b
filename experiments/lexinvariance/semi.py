"""Embedding dropout makes a standard language model better at symbol tasks and hardly worse at text.

Huang et al. 2023 (arXiv 2305.16349), semi-lexinvariance as a regulariser; method card lexinvariant-lm, experiment F. The models of
`lexinvariance/in_context`, one for each probability p with which a symbol's vector is random in training, are asked a suite of
generated tasks without any training on them, and evaluated on text, with p = 0 at test time (the lexinvariant one, p = 1, as trained);
what dropout costs on text is judged there.
Instead of the paper's subset of BIG-bench, which asks for larger models; task files of that format can be asked too.
"""

import hashlib
import json
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.curves import by_position
from experiments.harness.intervals import interval
from experiments.harness.presets import presets
from experiments.harness.style import BLUE, GREEN, GREY, PALETTE, VERMILION, panels, styled
from experiments.harness.verdicts import OURS, Claim, above
from experiments.harness.workspace import Workspace
from experiments.subjects.dropout_models import REGULARISED, SWEPT_PUBLISHED, SWEPT_SMOKE, SweptModels, tested
from experiments.subjects.language_models import training_mesh
from experiments.subjects.text import Text, late, prepare
from lexinv.lexinvariance.symbol_tasks import FAMILIES, MARKS, RECALL, RULES, symbol_task
from lexinv.lexinvariance.task_scores import LENGTHS, Answer, Scores, chance, encode_answers, score_task
from lexinv.lexinvariance.tasks import Task, as_bigbench, load_bigbench, prompts
from lexinv.validation import Checked, Count, CountOrZero, require, some_of

PAPERS = ("huang2023lexinvariant",)


@dataclass(frozen=True)
class SuiteConfig(Checked):
    """The tasks. length, demonstrations, symbols: see `lexinv.lexinvariance.symbol_tasks`. items: of each family and seed.

    bigbench: a BIG-bench JSON task file or a folder of them to be asked beside the suite, each example after `shots` others. Its results
    take no part in the claims.
    """

    families: Annotated[tuple[str, ...], some_of(FAMILIES)] = tuple(FAMILIES)
    length: Count = 4
    demonstrations: Count = 4
    items: Count = 100
    symbols: str = "abcdefghijklmnopqrstuvwxyz"
    bigbench: str | None = None
    shots: CountOrZero = 0

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        for name in self.families:
            self.draw(name, seed=0, items=1)  # refuses sizes that the symbols do not allow
        yield from ()

    def draw(self, name: str, seed: int, items: int) -> Task:
        """A family's task; every seed and every family has its own random items."""
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        sizes = {"length": self.length, "demonstrations": self.demonstrations, "count": items}
        return symbol_task(name, rng, self.symbols, **sizes)


@dataclass(frozen=True)
class Config(SweptModels):
    """With equal fields the models are those of `lexinvariance/in_context`."""

    suite: SuiteConfig = SuiteConfig()


PRESETS = presets(
    Config(),
    smoke={**SWEPT_SMOKE, "suite": SuiteConfig(length=3, demonstrations=3, items=8)},
    quick={"shares": (0.0, REGULARISED, 1.0)},
    paper=SWEPT_PUBLISHED,
)


class Asked(NamedTuple):
    """A task with all that a model may answer, as tokens behind the prompts."""

    task: Task
    answers: list[list[Answer]]


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Nats per token of text by position, and every task's scores, by share and seed."""
    training_mesh(config.training, config.model)  # refuses one that does not fit before anything is compiled
    seeds = config.training.seeds
    text = prepare(config.data.corpora[0], config.data, len(seeds), config.evaluation.windows, workspace)
    fingerprints = workspace.pinned("corpora", {text.name: text.fingerprint})
    marks = mark_ids(config.suite.symbols, text)
    others = load_tasks(config.suite.bigbench)
    workspace.pinned("bigbench", {task.name: fingerprint(task) for task in others})
    asked = [ask(config, text, others, seed) for seed in seeds]
    levels = {name: chance(each.task, each.answers, text.vocab, marks) for name, each in asked[0].items()}
    return {
        "corpora": fingerprints,
        "seeds": list(seeds),
        "shares": list(config.shares),
        "context": config.data.context,
        "suite": {
            group: [name for name in config.suite.families if name in families]
            for group, families in (("recall", RECALL), ("rules", RULES))
        },
        "chance": {name: means(scores) for name, scores in levels.items()},
        "arms": {
            f"{share:g}": workspace.cached(
                f"shares/{share:g}", lambda share=share: measure(share, text, asked, marks, config, workspace)
            )
            for share in config.shares
        },
    }


def mark_ids(symbols: str, text: Text) -> frozenset[int]:
    """The tokens of the marks. Raises `InvalidConfig` where the tokenizer does not keep each symbol and mark as one token."""
    ids = {}
    for character in (*symbols, *MARKS):
        around = f"{symbols[0]}{character}{symbols[0]}"
        encoded = text.tokenizer.encode(around).tolist()
        kept = len(encoded) == 3 and text.tokenizer.decode(encoded) == around
        require(kept, "symbols", character, f"characters that are one token of {text.tokenizer.name!r}")
        ids[character] = encoded[1]
    return frozenset(ids[mark] for mark in MARKS)


def load_tasks(path: str | None) -> list[Task]:
    """The user's tasks; warns of every problem of their files. Raises `InvalidConfig` where two tasks have one name."""
    if path is None:
        return []
    tasks, problems = load_bigbench(Path(path))
    for problem in problems:
        warnings.warn(str(problem), stacklevel=2)
    for index, task in enumerate(tasks):
        taken = {*FAMILIES, *(other.name for other in tasks[:index])}
        require(task.name not in taken, "bigbench", task.name, "tasks with different names, none of the suite's")
    return tasks


def fingerprint(task: Task) -> str:
    return hashlib.sha256(json.dumps(as_bigbench(task)).encode()).hexdigest()[:16]


def ask(config: Config, text: Text, others: list[Task], seed: int) -> dict[str, Asked]:
    """All tasks with the prompts of one seed, the same for all models.

    Raises `InvalidConfig` for prompts that the context does not hold and answers that the tokenizer drops.
    """
    suite, rng = config.suite, np.random.default_rng(seed)
    longest = config.data.context // LENGTHS * LENGTHS  # so that it fits after padding too
    spelled = [(task, prompts(task, rng)) for task in (suite.draw(name, seed, suite.items) for name in suite.families)]
    spelled += [(task, prompts(task, rng, suite.shots)) for task in others]
    return {
        task.name: Asked(task, encode_answers(task, texts, text.tokenizer.encode, longest)) for task, texts in spelled
    }


def means(scores: Scores) -> dict[str, float | None]:
    """Over the examples; the grade is None where none has choices."""
    return {name: float(column.mean()) if len(column) else None for name, column in scores._asdict().items()}


def measure(
    share: float,
    text: Text,
    asked: list[dict[str, Asked]],
    marks: frozenset[int],
    config: Config,
    workspace: Workspace,
) -> dict[str, Any]:
    """Nats of text and scores of the models of one share."""
    models = tested(share, text, config, workspace)
    key, compiled, size = jax.random.key(0), jax.jit(models.logits), config.evaluation.batch_size
    scores: dict[str, list[dict[str, float | None]]] = {name: [] for name in asked[0]}
    for tree, tasks in zip(models.params, asked, strict=True):
        model = partial(compiled, tree, key=key)
        for name, (task, answers) in tasks.items():
            scores[name].append(means(score_task(model, task, answers, marks=marks, batch_size=size)))
    by_scoring = {
        name: {scoring: [seed[scoring] for seed in seeds] for scoring in Scores._fields}
        for name, seeds in scores.items()
    }
    return {"nats": by_position(models.nats), "scores": by_scoring}


def suite_scores(results: dict[str, Any], share: float, scoring: str, *groups: str) -> np.ndarray:
    """Mean over the tasks of the suite, or of some groups of it, per seed."""
    scores = results["arms"][f"{share:g}"]["scores"]
    return np.mean([scores[name][scoring] for name in names(results, *groups)], axis=0)


def names(results: dict[str, Any], *groups: str) -> list[str]:
    return [name for group in groups or results["suite"] for name in results["suite"][group]]


def gains(results: dict[str, Any], share: float) -> dict[str, np.ndarray]:
    """What a share adds to the mean exact accuracy among the whole vocabulary, on the suite and on each group of its tasks; per seed."""
    groups = {"suite": (), **{group: (group,) for group, tasks in results["suite"].items() if tasks}}
    return {
        label: suite_scores(results, share, "whole", *group) - suite_scores(results, 0.0, "whole", *group)
        for label, group in groups.items()
    }


def claims(results: dict[str, Any]) -> list[Claim]:
    """The paper's statement, its limit case, and whether the suite can tell.

    The models are handed a circuit that recalls, and training destroys it less the more embeddings are dropped: gains show that alone.
    """
    guessed = np.mean([results["chance"][name]["grade"] for name in names(results)])
    judged = [
        Claim(
            "lexinvariant_above_standard_on_suite",
            "The lexinvariant model answers more of the suite exactly than the standard one; beside it the tasks of recall and of rules "
            "alone. So it does by the initial circuit, which both were handed and which training destroys in the standard one.",
            "huang2023lexinvariant: abstract",
            gains(results, 1.0),
            {"suite": above(0)},
            "difference of mean accuracies among the whole vocabulary",
        ),
        Claim(
            "lexinvariant_above_chance",
            "The suite is not out of reach: in multiple choice the lexinvariant model is above chance.",
            OURS,
            {"lexinvariant": suite_scores(results, 1.0, "grade") - guessed},
            above(0),
            "mean grade above chance",
        ),
    ]
    if REGULARISED in results["shares"]:
        ratio = suite_scores(results, REGULARISED, "whole") / np.maximum(suite_scores(results, 0.0, "whole"), 1e-3)
        judged.append(
            Claim(
                "semi_above_standard",
                f"A standard model trained with a share {REGULARISED} of random embeddings answers more of the suite exactly than without; "
                "beside it the tasks of recall and of rules alone, and the ratio of the means. So it does by the initial circuit, which "
                "both were handed and which training destroys less where embeddings are dropped.",
                "huang2023lexinvariant",
                {**gains(results, REGULARISED), "ratio": ratio},
                {"suite": above(0)},
                "difference of mean accuracies among the whole vocabulary",
                "+25 % on a BIG-bench subset (150M parameters)",
            )
        )
    return judged


def figure(results: dict[str, Any]) -> Figure:
    """Every task, recall above the line and rules below, under the standard, the regularised and the lexinvariant model; the trade-off."""
    shares, tasks = results["shares"], names(results)[::-1]
    shown = [share for share in (0.0, REGULARISED, 1.0) if share in shares]
    drawn, (whole, grade, trade) = panels(1, 3, width=4.2, height=4.6)
    with styled():
        for axes, scoring, title in ((whole, "whole", "Exact answers"), (grade, "grade", "Multiple choice")):
            for row, name in enumerate(tasks):
                level = results["chance"][name][scoring]
                label = None if row else "chance"
                axes.plot([level, level], [row - 0.4, row + 0.4], color=GREY, linewidth=1.2, label=label)
            for place, (share, color) in enumerate(zip(shown, PALETTE, strict=False)):
                scores = results["arms"][f"{share:g}"]["scores"]
                means, errors = spread([scores[name][scoring] for name in tasks])
                rows = np.arange(len(tasks)) + 0.22 * ((len(shown) - 1) / 2 - place)
                line = {"fmt": "o", "markersize": 3.5, "linewidth": 1, "color": color}
                axes.errorbar(means, rows, xerr=errors, label=f"p = {share:g}", **line)
            axes.axhline(len(results["suite"]["rules"]) - 0.5, color=GREY, linewidth=0.8)
            axes.set(title=title, xlabel="accuracy", xlim=(-0.03, 1.03), ylim=(-0.6, len(tasks) - 0.4))
            axes.set_yticks(range(len(tasks)), [name.replace("_", " ") for name in tasks])
        grade.set_yticklabels([])
        whole.legend(loc="lower right")
        nats = [late(results["arms"][f"{share:g}"]["nats"]).mean() for share in shares]
        for scoring, label, color in (
            ("grade", "multiple choice", GREEN),
            ("prompt", "exact, among the prompt's symbols", BLUE),
            ("whole", "exact, among the whole vocabulary", VERMILION),
        ):
            means, errors = spread([suite_scores(results, share, scoring) for share in shares])
            trade.errorbar(nats, means, yerr=errors, color=color, marker="o", markersize=4, label=label, capsize=2)
        low, high = trade.get_ylim()
        trade.set_ylim(low - 0.12 * (high - low), high + 0.25 * (high - low))  # room for the shares and the legend
        for place, (share, x) in enumerate(zip(shares, nats, strict=True)):
            at = {"xycoords": trade.get_xaxis_transform(), "ha": "center", "color": GREY}
            trade.annotate(
                f"p = {share:g}" if place == 0 else f"{share:g}", (x, 0.06 - 0.04 * (place % 2)), fontsize=7, **at
            )
        trade.set(title="Text against the suite", xlabel="nats per token of text, second half", ylabel="suite's mean")
        trade.legend(loc="upper right")
    return drawn


def spread(rows: list[Any]) -> tuple[list[float], list[float]]:
    """Means over the seeds and half the lengths of their intervals."""
    found = [interval(values) for values in rows]
    return [each.mean for each in found], [0.0 if each.low is None else each.mean - each.low for each in found]
