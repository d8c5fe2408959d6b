"""Symbols that mean nothing are recalled in context: what models learn of that from text, with and without token identities.

Huang et al. 2023 (arXiv 2305.16349), in-context reasoning and semi-lexinvariant regularisation; method card lexinvariant-lm, experiments
E and F. LookUp, Permutation and other symbol tasks in place of the paper's subset of BIG-bench, without any training on them. Four models,
of equal tokens and a random start: standard, semi-lexinvariant (embedding dropout), lexinvariant (Gaussian vectors), canonical (relabelled
by first occurrence); convolutions on queries and keys help all to match what repeats. All are judged less their own untrained state. The
control: models that begin with a suffix match set by hand, which recalls before any training, so that their accuracy at the end only says
how much of it training has left.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.figures import bars
from experiments.harness.intervals import interval
from experiments.harness.presets import presets
from experiments.harness.style import BLUE, GREEN, GREY, ORANGE, VERMILION, panels, styled
from experiments.harness.training import Training
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.language_models import train_seeds, training_mesh, untrained_seeds
from experiments.subjects.symbol_suite import Suite, SuiteConfig, accuracies, guessed, spell
from experiments.subjects.text import (
    CANONICAL,
    LEXINVARIANT,
    MUON,
    PUBLISHED_DATA,
    PUBLISHED_EVALUATION,
    PUBLISHED_MODEL,
    PUBLISHED_TRAINING,
    STANDARD,
    SUFFIX_MATCH,
    DataConfig,
    EvaluationConfig,
    Text,
    TextModels,
    held_out_nats,
    prepare,
)
from lexinv.data.tokenizers import bits_per_byte
from lexinv.lexinvariance.symbol_tasks import RECALL, RULES
from lexinv.nn.language_model import Params, make_logits, make_nll
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import CountOrZero, Share

PAPERS = ("huang2023lexinvariant",)
HANDED = "handed-"
"""Before the name of a kind: its model begins with the suffix match."""


@dataclass(frozen=True)
class Config(TextModels):
    """What one run trains and asks. The tokenizer should lose nothing of the text.

    p_random: of the semi-lexinvariant model, the paper's by default; tested without. handed_steps: of the models that begin with the suffix
    match; 0 for none.
    """

    data: DataConfig = DataConfig(tokenizer="byte", context=128)
    model: TransformerConfig = replace(SUFFIX_MATCH, width=128, mlp_width=128, initialization="normal")
    training: Training = Training(
        steps=600, seeds=(0, 1, 2), optimizer=replace(MUON, warmup_steps=20), steps_per_dispatch=10
    )
    evaluation: EvaluationConfig = EvaluationConfig(windows=128)
    p_random: Share = 0.2
    handed_steps: CountOrZero = 150
    suite: SuiteConfig = SuiteConfig()

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield from super().checks()
        ordinary = self.model.initialization in ("normal", "gpt2")
        yield ordinary, "model.initialization", "normal or gpt2: the suffix match is given to `handed_steps`"
        matched = not self.handed_steps or self.model.mixing == "convolution"
        yield matched, "handed_steps", "0 unless model.mixing = 'convolution'"
        whole = self.handed_steps % self.training.steps_per_dispatch == 0
        yield whole, "handed_steps", f"a multiple of training.steps_per_dispatch = {self.training.steps_per_dispatch}"


PRESETS = presets(
    Config(),
    smoke={
        "data.context": 64,
        "model.depth": 1,
        "model.width": 32,
        "model.mlp_width": 32,
        "training.steps": 4,
        "training.batch_size": 4,
        "training.seeds": (0, 1),
        "training.optimizer.warmup_steps": 2,
        "training.steps_per_dispatch": 4,
        "evaluation": EvaluationConfig(windows=8, batch_size=8),
        "handed_steps": 4,
        "suite": SuiteConfig(length=3, demonstrations=3, items=8),
    },
    paper={
        "data": PUBLISHED_DATA,
        "model": PUBLISHED_MODEL,
        "training": PUBLISHED_TRAINING,
        "evaluation": PUBLISHED_EVALUATION,
        "handed_steps": 0,
        "suite.items": 500,
    },
)


class Arm(NamedTuple):
    """How a model is made; `tested`: nothing is random in its vectors any more, unless everything was."""

    model: TransformerConfig
    lexicon: LexiconConfig
    tested: LexiconConfig
    training: Training


def arms(config: Config) -> dict[str, Arm]:
    """Every kind from a random start; those that are tested alike also from the suffix match, where it is handed."""
    kinds = {
        "standard": (STANDARD, STANDARD),
        "semi": (LexiconConfig("semi", p_random=config.p_random), STANDARD),
        "lexinvariant": (LEXINVARIANT, LEXINVARIANT),
        "canonical": (CANONICAL, CANONICAL),
    }
    found = {kind: Arm(config.model, *lexica, config.training) for kind, lexica in kinds.items()}
    if config.handed_steps:
        start = replace(config.model, initialization="suffix_match")
        shorter = replace(config.training, steps=config.handed_steps)
        found |= {f"{HANDED}{kind}": Arm(start, *kinds[kind], shorter) for kind in ("standard", "semi")}
    return found


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Bits per byte of text and accuracies on every task, by arm, before and after training, and seed."""
    training_mesh(config.training, config.model)  # refuses one that does not fit before anything is compiled
    seeds = config.training.seeds
    text = prepare(config.data.corpora[0], config.data, len(seeds), config.evaluation.windows, workspace)
    suites = [spell(config.suite, text, config.data.context, seed) for seed in seeds]
    return {
        "corpora": workspace.pinned("corpora", {text.name: text.fingerprint}),
        "seeds": list(seeds),
        "tasks": {"recall": list(RECALL), "rules": list(RULES)},
        "chance": guessed(suites[0]),
        "arms": {
            name: workspace.cached(
                f"arms/{name}", lambda name=name, arm=arm: measure(name, arm, text, suites, config, workspace)
            )
            for name, arm in arms(config).items()
        },
    }


def measure(
    name: str, arm: Arm, text: Text, suites: Sequence[Suite], config: Config, workspace: Workspace
) -> dict[str, Any]:
    """Train an arm, and evaluate its untrained and its trained state."""
    made, size = (arm.model, arm.tested, text.vocab), config.evaluation.batch_size
    nll, logits = make_nll(*made), jax.jit(make_logits(*made))

    def state(params: Sequence[Params]) -> dict[str, Any]:
        nats = held_out_nats(nll, params, text.held_out, size)
        bits = [bits_per_byte(*each, text.tokenizer) for each in zip(nats, text.held_out, strict=True)]
        scores = [
            accuracies(partial(logits, tree, key=jax.random.key(0)), suite, size)
            for tree, suite in zip(params, suites, strict=True)
        ]
        by_task = {s: {task: [seed[s][task] for seed in scores] for task in asked} for s, asked in scores[0].items()}
        return {"bits_per_byte": bits, **by_task}

    how = arm.model, arm.lexicon, text.vocab
    trained = train_seeds(name, *how, text.train, arm.training, workspace)
    return {"untrained": state(untrained_seeds(*how, arm.training.seeds)), "trained": state(trained)}


def accuracy(
    results: dict[str, Any], arm: str, tasks: Sequence[str], scoring: str = "whole", state: str = "trained"
) -> np.ndarray:
    """Mean over tasks, per seed."""
    return np.mean([results["arms"][arm][state][scoring][task] for task in tasks], axis=0)


def learned(results: dict[str, Any], arm: str, tasks: Sequence[str]) -> np.ndarray:
    """What training has added to the accuracy, per seed."""
    return accuracy(results, arm, tasks) - accuracy(results, arm, tasks, state="untrained")


def claims(results: dict[str, Any]) -> list[Claim]:
    """The paper's orderings from a random start, what they cost, and what becomes of a circuit that was set by hand."""
    recall, rules = results["tasks"].values()
    groups = {"LookUp": ["lookup"], "all recall": recall, "Permutation": ["permutation"], "all rules": rules}

    def more(name: str, arm: str, statement: str, source: str, published: str | None = None) -> Claim:
        gained = {
            label: learned(results, arm, tasks) - learned(results, "standard", tasks) for label, tasks in groups.items()
        }
        unit = "difference of what training adds to the accuracy"
        return Claim(name, statement, source, gained, {"all recall": above(0)}, unit, published)

    def bits(arm: str) -> np.ndarray:
        return np.array(results["arms"][arm]["trained"]["bits_per_byte"])

    guess = np.mean([results["chance"]["prompt"][task] for task in recall])
    judged = [
        more(
            "lexinvariant_learns_more_recall",
            "lexinvariant",
            "From a random start the lexinvariant model learns from as much text to answer more tasks of recall, LookUp among them, than "
            "the standard one. Permutation and the other rules, which models of this size do not solve, are beside it and take no part.",
            "huang2023lexinvariant: abstract",
        ),
        Claim(
            "lexinvariant_twice_as_accurate",
            "It is at least twice as accurate at recall; a standard model that is worse than guessing among the prompt's symbols counts as "
            "one that guesses.",
            "huang2023lexinvariant: abstract",
            {
                f"among the {where}": accuracy(results, "lexinvariant", recall, scoring)
                / np.maximum(accuracy(results, "standard", recall, scoring), guess)
                for scoring, where in (("whole", "whole vocabulary"), ("prompt", "prompt's symbols"))
            },
            above(2),
            "ratio of the mean accuracies",
            "4x on average over LookUp and Permutation (150M parameters)",
        ),
        more(
            "semi_learns_more_recall",
            "semi",
            "So does the semi-lexinvariant model, which is tested without anything random.",
            "huang2023lexinvariant",
            "+25 % on a BIG-bench subset (150M parameters)",
        ),
        more(
            "canonical_learns_more_recall",
            "canonical",
            "So does the model that reads the order of first occurrence, which is lexinvariant without anything random.",
            OURS,
        ),
        Claim(
            "semi_costs_little",
            "Embedding dropout costs less than 0.1 bits per byte of text; beside it what the other models add.",
            OURS,
            {arm: bits(arm) - bits("standard") for arm in ("semi", "lexinvariant", "canonical")},
            {"semi": below(0.1)},
            "added bits per byte",
        ),
    ]
    if f"{HANDED}standard" in results["arms"]:
        lost = {kind: learned(results, HANDED + kind, recall) for kind in ("standard", "semi")}
        judged += [
            Claim(
                "training_wears_the_circuit",
                "A standard model that begins with the suffix match recalls less after training than before; beside it the "
                "semi-lexinvariant one.",
                OURS,
                lost,
                {"standard": below(0)},
                "what training adds to the accuracy at recall",
            ),
            Claim(
                "dropout_keeps_the_circuit",
                "The semi-lexinvariant one loses less: the better of two that were handed the circuit need not have learned anything.",
                OURS,
                {"semi": lost["semi"] - lost["standard"]},
                above(0),
                "difference of what training adds to the accuracy at recall",
            ),
        ]
    return judged


COLORS = {"standard": BLUE, "semi": ORANGE, "lexinvariant": VERMILION, "canonical": GREEN}


def figure(results: dict[str, Any]) -> Figure:
    """Every task from a random start; recall before and after training from both starts, with what was learned of text."""
    groups, arms = results["tasks"], results["arms"]
    names = [*groups["recall"], *groups["rules"]][::-1]
    titles = ("Exact answers, from a random start", "Recall before and after training")
    drawn, (tasks, states) = panels(1, 2, width=5.2, height=4.8, titles=titles)
    with styled():
        for row, name in enumerate(names):
            level = results["chance"]["prompt"][name]
            label = None if row else "guessing a symbol of the prompt"
            tasks.plot([level] * 2, [row - 0.4, row + 0.4], color=GREY, label=label)
        for place, (kind, color) in enumerate(COLORS.items()):
            found = [interval(arms[kind]["trained"]["whole"][name]) for name in names]
            means, errors = zip(*((f.mean, f.mean - (f.mean if f.low is None else f.low)) for f in found), strict=True)
            rows = np.arange(len(names)) + 0.2 * (1.5 - place)
            tasks.errorbar(means, rows, xerr=errors, fmt="o", markersize=3.5, linewidth=1, color=color, label=kind)
        tasks.axhline(len(groups["rules"]) - 0.5, color=GREY, linewidth=0.8)
        tasks.set(xlabel="accuracy (recall above the line, rules below)", xlim=(-0.03, 1.03))
        tasks.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
        tasks.legend(loc="lower right", bbox_to_anchor=(1.0, 0.18), fontsize=7)
        bits = [np.mean(arm["trained"]["bits_per_byte"]) for arm in arms.values()]
        labels = ["\n".join([*arm.split("-"), f"{level:.2f}"]) for arm, level in zip(arms, bits, strict=True)]
        within = {
            state: (state, np.transpose([accuracy(results, arm, groups["recall"], state=state) for arm in arms]))
            for state in ("untrained", "trained")
        }
        bars(states, labels, within)
        states.set(xlabel="bits per byte of text, trained", ylabel="mean accuracy at recall", ylim=(0, 1.15))
        states.legend(loc="upper left", ncols=2)
    return drawn
