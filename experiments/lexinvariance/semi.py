"""Embedding dropout makes a standard language model better at symbol tasks and hardly worse at text.

Huang et al. 2023 (arXiv 2305.16349), semi-lexinvariance as a regulariser; method card lexinvariant-lm, experiment F. The models of
`lexinvariance/in_context`, one for each probability p with which a symbol's vector is random in training, are asked a suite of
generated tasks without any training on them, and evaluated on text, with p = 0 at test time (the lexinvariant one, p = 1, as trained).
Instead of the paper's subset of BIG-bench, which asks for larger models; task files of that format can be asked too.
"""

import hashlib
import json
import warnings
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.claims import Claim, Interval, above, below, interval
from experiments.harness.style import BLUE, GREEN, GREY, PALETTE, VERMILION, panels, styled
from experiments.harness.training import Training
from experiments.harness.workspace import Workspace
from experiments.lexinvariance import in_context, perplexity
from experiments.lexinvariance.in_context import REGULARISED, SEMI, late
from experiments.subjects.language_models import training_mesh
from lexinv.lexinvariance.symbol_tasks import FAMILIES, MARKS, RECALL, RULES, symbol_task
from lexinv.lexinvariance.task_scores import LENGTHS, Answer, Scores, chance, encode_answers, score_task
from lexinv.lexinvariance.tasks import Task, as_bigbench, load_bigbench, prompts
from lexinv.nn.language_model import make_logits, make_nll
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.evaluation import evaluate_by_position
from lexinv.validation import require

PAPER = perplexity.PAPER


@dataclass(frozen=True)
class SuiteConfig:
    """The tasks. length, demonstrations, symbols: see `lexinv.lexinvariance.symbol_tasks`. items: of each family and seed.

    bigbench: a BIG-bench JSON task file or a folder of them to be asked beside the suite, each example after `shots` others. Its results
    take no part in the claims.
    """

    families: tuple[str, ...] = tuple(FAMILIES)
    length: int = 4
    demonstrations: int = 4
    items: int = 100
    symbols: str = "abcdefghijklmnopqrstuvwxyz"
    bigbench: str | None = None
    shots: int = 0

    def __post_init__(self):
        families = self.families
        require(self.items >= 1, "suite.items", self.items, "at least 1")
        require(len(families) > 0 and len(set(families)) == len(families), "suite.families", families, "each once")
        for name in families:
            self.draw(name, seed=0, items=1)

    def draw(self, name: str, seed: int, items: int) -> Task:
        """A family's task; every seed and every family has its own random items."""
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        sizes = {"length": self.length, "demonstrations": self.demonstrations, "count": items}
        return symbol_task(name, rng, self.symbols, **sizes)


@dataclass(frozen=True)
class Config:
    """shares: the probabilities p, with 0 and 1. With equal fields the models are those of `lexinvariance/in_context`."""

    model: TransformerConfig
    training: Training
    data: perplexity.DataConfig = perplexity.DataConfig()
    suite: SuiteConfig = SuiteConfig()
    evaluation: perplexity.EvaluationConfig = perplexity.EvaluationConfig()
    shares: tuple[float, ...] = (0.0, 0.1, 0.2, 0.5, 1.0)

    def __post_init__(self):
        self.as_in_context()

    def as_in_context(self) -> in_context.Config:
        """The experiment that trains the same models, with its checks."""
        return in_context.Config(self.model, self.training, self.data, evaluation=self.evaluation, shares=self.shares)


def asking(models: in_context.Config, suite: SuiteConfig) -> Config:
    """The suite for the models of a preset of `lexinvariance/in_context`."""
    return Config(models.model, models.training, models.data, suite, models.evaluation, models.shares)


SMALL = SuiteConfig(length=3, demonstrations=3, items=8)
PRESETS = {
    name: asking(models, SMALL if name == "smoke" else SuiteConfig()) for name, models in in_context.PRESETS.items()
}


class Asked(NamedTuple):
    """A task with all that a model may answer, as tokens behind the prompts."""

    task: Task
    answers: list[list[Answer]]


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Nats per token of text by position, and every task's scores, by share and seed."""
    training_mesh(config.training, config.model)  # refuses one that does not fit before anything is compiled
    text = perplexity.prepare(config.data.corpora[0], config.as_in_context().as_perplexity())
    fingerprints = workspace.pinned("corpora", {text.name: text.fingerprint})
    marks = mark_ids(config.suite.symbols, text)
    others = load_tasks(config.suite.bigbench)
    workspace.pinned("bigbench", {task.name: fingerprint(task) for task in others})
    asked = [ask(config, text, others, seed) for seed in config.training.seeds]
    levels = {name: chance(each.task, each.answers, text.vocab, marks) for name, each in asked[0].items()}
    return {
        "corpora": fingerprints,
        "seeds": list(config.training.seeds),
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


def mark_ids(symbols: str, text: perplexity.Text) -> frozenset[int]:
    """The tokens of the marks. Raises `InvalidConfig` where the tokenizer does not keep each symbol and mark as one token."""
    ids = {}
    for character in (*symbols, *MARKS):
        around = f"{symbols[0]}{character}{symbols[0]}"
        encoded = text.tokenizer.encode(around).tolist()
        kept = len(encoded) == 3 and text.tokenizer.decode(encoded) == around
        require(kept, "suite.symbols", character, f"characters that are one token of {text.tokenizer.name!r}")
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
        require(task.name not in taken, "suite.bigbench", task.name, "tasks with different names, none of the suite's")
    return tasks


def fingerprint(task: Task) -> str:
    return hashlib.sha256(json.dumps(as_bigbench(task)).encode()).hexdigest()[:16]


def ask(config: Config, text: perplexity.Text, others: list[Task], seed: int) -> dict[str, Asked]:
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
    text: perplexity.Text,
    asked: list[dict[str, Asked]],
    marks: frozenset[int],
    config: Config,
    workspace: Workspace,
) -> dict[str, Any]:
    """Evaluate the models of one share: nothing is random in their embeddings any more, unless everything was (p = 1)."""
    models = in_context.train(share, text, config.data, config.model, config.training, workspace)
    params, size = models.params, config.evaluation.batch_size
    tested = LexiconConfig("lexinvariant" if share == 1 else "standard")
    nll, logits = (make(config.model, tested, text.vocab) for make in (make_nll, make_logits))
    key, compiled = jax.random.key(0), jax.jit(logits)
    nats = [
        evaluate_by_position(nll, tree, windows, key, size) for tree, windows in zip(params, text.held_out, strict=True)
    ]
    scores: dict[str, list[dict[str, float | None]]] = {name: [] for name in asked[0]}
    for tree, tasks in zip(params, asked, strict=True):
        model = partial(compiled, tree, key=key)
        for name, (task, answers) in tasks.items():
            scores[name].append(means(score_task(model, task, answers, marks=marks, batch_size=size)))
    return {
        "nats": perplexity.by_position(nats),
        "scores": {
            name: {scoring: [seed[scoring] for seed in seeds] for scoring in Scores._fields}
            for name, seeds in scores.items()
        },
        **models.origin,
    }


def suite_scores(results: dict[str, Any], share: float, scoring: str, *groups: str) -> np.ndarray:
    """Mean over the tasks of the suite, or of some groups of it, per seed."""
    scores = results["arms"][f"{share:g}"]["scores"]
    return np.mean([scores[name][scoring] for name in names(results, *groups)], axis=0)


def names(results: dict[str, Any], *groups: str) -> list[str]:
    return [name for group in groups or results["suite"] for name in results["suite"][group]]


def gains(results: dict[str, Any], share: float) -> dict[str, Interval]:
    """What a share adds to the mean exact accuracy among the whole vocabulary, on the suite and on each group of its tasks."""
    groups = {"suite": (), **{group: (group,) for group, tasks in results["suite"].items() if tasks}}
    return {
        label: interval(suite_scores(results, share, "whole", *group) - suite_scores(results, 0.0, "whole", *group))
        for label, group in groups.items()
    }


def claims(results: dict[str, Any]) -> list[Claim]:
    """The paper's statement, its limit case, and whether the suite can tell."""
    lexinvariant = gains(results, 1.0)
    guessed = np.mean([results["chance"][name]["grade"] for name in names(results)])
    graded = interval(suite_scores(results, 1.0, "grade") - guessed)
    judged = [
        Claim(
            "lexinvariant_above_standard_on_suite",
            "The lexinvariant model answers more of the suite exactly than the standard one (measured: difference of mean accuracies among "
            "the whole vocabulary, and the same for the tasks of recall and of rules alone)",
            "Huang et al. 2023, in-context reasoning over symbols; our tasks",
            None,
            lexinvariant,
            "whole interval of the suite's difference above 0",
            above(lexinvariant["suite"], 0.0),
        ),
        Claim(
            "lexinvariant_above_chance",
            "The suite is not out of reach: in multiple choice the lexinvariant model is above chance (measured: mean grade above chance)",
            "ours",
            None,
            graded,
            "whole interval above 0",
            above(graded, 0.0),
        ),
    ]
    if REGULARISED in results["shares"]:
        ratio = suite_scores(results, REGULARISED, "whole") / np.maximum(suite_scores(results, 0.0, "whole"), 1e-3)
        regularised = gains(results, REGULARISED)
        added = {share: interval(late(results, share) - late(results, 0.0)) for share in (REGULARISED, 1.0)}
        judged += [
            Claim(
                "semi_above_standard",
                f"A standard model trained with a share {REGULARISED} of random embeddings answers more of the suite exactly than without "
                "(measured: difference of mean accuracies among the whole vocabulary, the same for the tasks of recall and of rules "
                "alone, and the ratio of the means)",
                SEMI,
                "+25 % on a BIG-bench subset (150M parameters)",
                {**regularised, "ratio": interval(ratio)},
                "whole interval of the suite's difference above 0",
                above(regularised["suite"], 0.0),
            ),
            Claim(
                "semi_costs_little",
                "That costs it less than 0.1 nats per token of text without random embeddings at test time (measured: added nats; beside "
                "them what the lexinvariant model adds)",
                f"{SEMI}; method card lexinvariant-lm, experiment F",
                None,
                {"semi": added[REGULARISED], "lexinvariant": added[1.0]},
                "whole interval of the added nats below 0.1",
                below(added[REGULARISED], 0.1),
            ),
        ]
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
        nats = [late(results, share).mean() for share in shares]
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
