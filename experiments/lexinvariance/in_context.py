"""Without token identities a language model reasons better over symbols that mean nothing; embedding dropout lies between.

Huang et al. 2023 (arXiv 2305.16349), in-context reasoning and semi-lexinvariant regularisation; method card lexinvariant-lm, experiments
E and F. One model for each probability p with which a symbol's vector is random in training, p = 0 the standard and p = 1 the lexinvariant
one, all else equal; LookUp and Permutation tasks without any training on them, against the perplexity of text.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.curves import by_position
from experiments.harness.intervals import interval
from experiments.harness.presets import presets
from experiments.harness.style import BLUE, GREY, PALETTE, VERMILION, band, panels, styled
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.dropout_models import REGULARISED, SWEPT_PUBLISHED, SWEPT_SMOKE, SweptModels, tested
from experiments.subjects.language_models import training_mesh
from experiments.subjects.text import Text, late, prepare
from lexinv.lexinvariance.in_context import Items, Separators, chance, lookup_items, permutation_items, score
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, require

PAPERS = ("huang2023lexinvariant",)


@dataclass(frozen=True)
class TasksConfig(Checked):
    """lookups: pairs in a LookUp prompt. permutations: symbols of a tuple and demonstrations. items: of each task and seed.

    symbols: the characters to draw from; arrow, end: the two separators. All are characters of the tokenizer.
    """

    lookups: tuple[int, ...] = (2, 4, 8)
    permutations: tuple[tuple[int, int], ...] = ((2, 3), (3, 4))
    items: Count = 500
    symbols: str = "abcdefghijklmnopqrstuvwxyz"
    arrow: str = ","
    end: str = "."

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield len(self.lookups) + len(self.permutations) > 0, "lookups", "at least one task"
        used = (*self.symbols, self.arrow, self.end)
        yield len(set(used)) == len(used), "symbols", "each once, without arrow and end"


@dataclass(frozen=True)
class Config(SweptModels):
    """The models and what they are asked."""

    tasks: TasksConfig = TasksConfig()


PRESETS = presets(
    Config(),
    smoke={**SWEPT_SMOKE, "tasks": TasksConfig(lookups=(2,), permutations=((2, 1),), items=20)},
    quick={"shares": (0.0, REGULARISED, 1.0)},
    paper={**SWEPT_PUBLISHED, "tasks": TasksConfig(lookups=(2, 4, 8, 16), arrow=">", end=";")},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Nats per token of text by position, and accuracies on every task, by share and seed."""
    training_mesh(config.training, config.model)  # refuses one that does not fit before anything is compiled
    seeds = config.training.seeds
    text = prepare(config.data.corpora[0], config.data, len(seeds), config.evaluation.windows, workspace)
    fingerprints = workspace.pinned("corpora", {text.name: text.fingerprint})
    tasks = [draw_tasks(config, text, seed) for seed in seeds]
    return {
        "corpora": fingerprints,
        "seeds": list(seeds),
        "shares": list(config.shares),
        "context": config.data.context,
        "chance": {name: chance(items) for name, items in tasks[0].items()},
        "arms": {
            f"{share:g}": workspace.cached(
                f"shares/{share:g}", lambda share=share: measure(share, text, tasks, config, workspace)
            )
            for share in config.shares
        },
    }


def draw_tasks(config: Config, text: Text, seed: int) -> dict[str, Items]:
    """The items of one seed, the same for all models. Raises `InvalidConfig` for characters that the tokenizer does not keep."""
    tasks = config.tasks
    ids = {}
    for character in (*tasks.symbols, tasks.arrow, tasks.end):
        encoded = text.tokenizer.encode(character).tolist()
        kept = len(encoded) == 1 and text.tokenizer.decode(encoded) == character
        require(kept, "symbols", character, f"characters that are one token of {config.data.tokenizer!r}")
        ids[character] = encoded[0]
    symbols = jnp.array([ids[character] for character in tasks.symbols], jnp.int32)
    common = symbols, Separators(ids[tasks.arrow], ids[tasks.end]), text.vocab
    key, count = jax.random.key(seed), tasks.items
    drawn = {
        f"lookup {pairs}": lookup_items(stream(key, f"lookup-{pairs}"), *common, pairs=pairs, count=count)
        for pairs in tasks.lookups
    }
    for length, shown in tasks.permutations:
        rng = stream(key, f"permutation-{length}-{shown}")
        items = permutation_items(rng, *common, length=length, demonstrations=shown, count=count)
        drawn[f"permutation {length}, {shown}"] = items
    return drawn


def measure(
    share: float, text: Text, tasks: list[dict[str, Items]], config: Config, workspace: Workspace
) -> dict[str, Any]:
    """Nats of text and accuracies of the models of one share."""
    models = tested(share, text, config, workspace)
    key, compiled = jax.random.key(0), jax.jit(models.logits)
    accuracy: dict[str, Any] = {}
    for name in tasks[0]:
        scores = []
        for tree, drawn_tasks in zip(models.params, tasks, strict=True):
            items = drawn_tasks[name]
            batch = {"tokens": items.tokens, "row": jnp.arange(len(items.tokens))}
            judged = score(compiled(tree, batch, key), items)
            scores.append([float(jnp.mean(judged.whole.all(axis=1))), float(jnp.mean(judged.prompt.all(axis=1)))])
        whole, prompt = zip(*scores, strict=True)
        accuracy[name] = {"whole": whole, "prompt": prompt}
    return {"nats": by_position(models.nats), "accuracy": accuracy}


def accuracies(results: dict[str, Any], share: float, scoring: str) -> np.ndarray:
    """Mean over the tasks, per seed."""
    return np.mean([task[scoring] for task in results["arms"][f"{share:g}"]["accuracy"].values()], axis=0)


def nats_late(results: dict[str, Any], share: float) -> np.ndarray:
    """Nats per token of text in the second half of the context, per seed."""
    return late(results["arms"][f"{share:g}"]["nats"])


SCORINGS = {"whole": "among the whole vocabulary", "prompt": "among the prompt's symbols"}


def claims(results: dict[str, Any]) -> list[Claim]:
    """The paper's orderings."""
    standard, lexinvariant = ({s: accuracies(results, p, s) for s in SCORINGS} for p in (0.0, 1.0))
    guessed = float(np.mean(list(results["chance"].values())))
    judged = [
        Claim(
            "lexinvariant_above_standard",
            "The lexinvariant model solves more LookUp and Permutation items than the standard one.",
            "huang2023lexinvariant: abstract",
            {label: lexinvariant[s] - standard[s] for s, label in SCORINGS.items()},
            above(0),
            "difference of mean accuracies",
        ),
        Claim(
            "lexinvariant_twice_as_accurate",
            "It is at least twice as accurate among the whole vocabulary.",
            "huang2023lexinvariant: abstract",
            {label: lexinvariant[s] / np.maximum(standard[s], 1e-3) for s, label in SCORINGS.items()},
            {SCORINGS["whole"]: above(2)},
            "ratio of mean accuracies",
            "4x on average (150M parameters)",
        ),
        Claim(
            "standard_near_chance",
            "The standard model is near or below chance among the prompt's symbols.",
            OURS,
            {"standard": standard["prompt"] - guessed},
            below(0.05),
            "accuracy above chance",
        ),
    ]
    if REGULARISED in results["shares"]:
        nats = {p: nats_late(results, p) - nats_late(results, 0.0) for p in (REGULARISED, 1.0)}
        judged += [
            Claim(
                "semi_above_standard",
                f"A standard model trained with a share {REGULARISED} of random embeddings solves more items than without. So it does by "
                "the initial circuit alone, which both were handed and which training destroys less where embeddings are dropped.",
                "huang2023lexinvariant",
                {"semi": accuracies(results, REGULARISED, "whole") - standard["whole"]},
                above(0),
                "difference of mean accuracies among the whole vocabulary",
                "+25 % on a BIG-bench subset (150M parameters)",
            ),
            Claim(
                "semi_costs_little",
                "That costs it less than 0.1 nats per token of text without random embeddings at test time; beside it what the "
                "lexinvariant model adds.",
                OURS,
                {"semi": nats[REGULARISED], "lexinvariant": nats[1.0]},
                {"semi": below(0.1)},
                "added nats per token in the second half of the context",
            ),
        ]
    return judged


def figure(results: dict[str, Any]) -> Figure:
    """Accuracy by task and share with chance, and the trade-off between text and tasks."""
    shares, tasks = results["shares"], list(results["chance"])
    drawn, (whole, prompt, trade) = panels(1, 3, width=4.2, height=3.4)
    with styled():
        for axes, scoring, title in (
            (whole, "whole", "Among the whole vocabulary"),
            (prompt, "prompt", "Among the prompt's symbols"),
        ):
            for name, color in zip(tasks, PALETTE, strict=False):
                rows = np.transpose([results["arms"][f"{p:g}"]["accuracy"][name][scoring] for p in shares])
                band(axes, shares, rows, name, color, marker="o", markersize=3)
                if scoring == "prompt":
                    axes.axhline(results["chance"][name], color=color, linewidth=0.8, linestyle=":")
            axes.set(
                title=title, xlabel="share of random embeddings in training, p", ylabel="accuracy", ylim=(-0.02, 1.02)
            )
            axes.legend(loc="center right")
        prompt.annotate("dotted: chance", (0.03, 0.32), xycoords="axes fraction", fontsize=7)
        nats = [nats_late(results, p).mean() for p in shares]
        for scoring, label, color in (("whole", "whole vocabulary", VERMILION), ("prompt", "prompt's symbols", BLUE)):
            values = [interval(accuracies(results, p, scoring)) for p in shares]
            means = [value.mean for value in values]
            errors = [value.mean - (value.mean if value.low is None else value.low) for value in values]
            trade.errorbar(nats, means, yerr=errors, color=color, marker="o", markersize=4, label=label, capsize=2)
        for p, x, y in zip(shares, nats, [accuracies(results, p, "whole").mean() for p in shares], strict=True):
            trade.annotate(f"{p:g}", (x, y), xytext=(4, -9), textcoords="offset points", fontsize=7, color=GREY)
        trade.set(title="Text against tasks", xlabel="nats per token of text, second half", ylabel="mean accuracy")
        trade.legend(loc="lower right")
    return drawn
