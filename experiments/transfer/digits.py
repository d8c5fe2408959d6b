"""Sums after a transplant: with other tokens for the same digits a model adds as before, with digits grouped otherwise it does not.

Goddard and Fernandes Neto 2025 (arXiv 2506.06607; method card omp-tokenizer-transplantation) say that mismatched digits are what breaks
mathematics. Small models learn to add with the tokens of Tekken, a digit each, or of DeepSeek, up to three digits each, and are given the
tokens of others. Numbers have at most three digits, so that DeepSeek writes each by one token. Tokens are those that the texts use;
what the source did not learn is new, words among them. Donors learned the same texts with the target's tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.figures import bars, legend_beside
from experiments.harness.presets import presets
from experiments.harness.style import panels
from experiments.harness.verdicts import Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.additions import AdditionsConfig, accuracy, adders, additions
from experiments.subjects.text import STANDARD
from experiments.subjects.vocabulary_transfers import Source, Transfer, text_encoder, transfer
from lexinv.transfer.methods import METHODS, transplanted
from lexinv.validation import Checked, Distinct

PAPERS = ("goddard2025training",)
LABELS = {
    "zero": "zeros",
    "pieces": "means of pieces",
    "focus": "FOCUS",
    "hybrid": "TokenAdapt",
    "pursuit": "matching pursuit",
    "ridge": "ridge",
}


@dataclass(frozen=True)
class Config(Checked):
    """one, three: published tokenizers that write digits one by one, and in groups of up to three; the first of each are the sources.

    encoder: an asset with a text encoder, or "untrained".
    """

    one: Distinct[str] = ("tekken", "llama2")
    three: Distinct[str] = ("deepseek", "o200k")
    additions: AdditionsConfig = AdditionsConfig()
    encoder: str = "minilm"

    def checks(self):
        for field in ("one", "three"):
            yield len(getattr(self, field)) >= 2, field, "at least 2: a source, and another target of the same grouping"


PRESETS = presets(
    Config(),
    smoke={
        "one": ("llama2", "cl100k"),  # those that open soonest, whatever they do with digits
        "three": ("mistral", "rwkv"),
        "additions.below": 20,
        "additions.texts": 200,
        "additions.tested": 16,
        "additions.tuning": 8,
        "additions.model.depth": 1,
        "additions.model.width": 32,
        "additions.model.mlp_width": 64,
        "additions.model.unroll": 1,
        "additions.training.steps": 20,
        "additions.training.batch_size": 16,
        "additions.training.seeds": (0,),
        "additions.training.optimizer.warmup_steps": 5,
        "encoder": "untrained",
    },
    paper={
        "one": ("tekken", "llama2", "qwen", "smollm2"),
        "three": ("deepseek", "o200k", "cl100k"),
        "additions.below": 1000,
        "additions.texts": 1_000_000,
        "additions.model.width": 256,
        "additions.model.mlp_width": 1024,
        "additions.training.steps": 50_000,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Share of right sums, before and after, by source, target and method, and the setting that validation sums chose."""
    groups = {"one": config.one, "three": config.three}
    names = [name for group in groups.values() for name in group]
    sources = [group[0] for group in groups.values()]
    texts, encoder = additions(config.additions), text_encoder(config.encoder, workspace)
    model, seeds = config.additions.model, config.additions.training.seeds
    found = adders(names, texts, config.additions, workspace)

    @cache
    def pair(source: str, target: str, seed: int) -> Transfer:
        params, donor = (found[name].params[seeds.index(seed)] for name in (source, target))
        begun = Source(model, STANDARD, params, found[source].tokenizer, (), ())
        return transfer(begun, found[target].tokenizer, encoder, np.asarray(donor["table"]))

    def measure(arm: str, seed: int) -> dict[str, Any]:
        source, target, method = arm.split("/")
        moved = pair(source, target, seed)

        def right(setting: float, part: str) -> float:
            table = transplanted(method, moved.given, moved.source.params["table"], setting)
            return accuracy(model, moved.source.params | {"table": table}, moved.target, texts[part])

        tried = METHODS[method].tried
        validation = [right(setting, "tuning") for setting in tried]
        best = tried[int(np.argmax(validation))] if tried else 0.0
        return {"accuracy": right(best, "test"), "setting": best, "validation": validation}

    def itself(arm: str, seed: int) -> dict[str, Any]:
        one = found[arm.partition("/")[0]]
        return {"accuracy": accuracy(model, one.params[seeds.index(seed)], one.tokenizer, texts["test"])}

    pairs = [(source, target) for source in sources for target in names if source != target]
    arms = measured(workspace, [f"{name}/itself" for name in names], seeds, itself)
    arms |= measured(workspace, [f"{a}/{b}/{method}" for a, b in pairs for method in LABELS], seeds, measure)
    kept = [(a, b, pair(a, b, seeds[0]).given.match) for a, b in pairs]
    return {
        "seeds": seeds,
        "groups": groups,
        "tested": config.additions.tested,
        "pairs": [{"source": a, "target": b, "shared": len(each.shared), "new": len(each.new)} for a, b, each in kept],
        "arms": arms,
    }


def kept_by(results: Mapping[str, Any], same: bool) -> dict[str, dict[str, np.ndarray]]:
    """By pair and method, accuracy after over accuracy before of every seed, of pairs that group digits alike or not.

    Before, one sum at least is taken to be right."""
    arms, found = Arms(results), {}
    for pair in results["pairs"]:
        source, target = pair["source"], pair["target"]
        if same == any({source, target} <= set(group) for group in results["groups"].values()):
            before = np.maximum(arms[f"{source}/itself", "accuracy"], 1 / results["tested"])
            found[f"{source} to {target}"] = {
                method: arms[f"{source}/{target}/{method}", "accuracy"] / before for method in LABELS
            }
    return found


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """That digits must be grouped alike."""
    same, other = kept_by(results, True), kept_by(results, False)
    paper, unit = "goddard2025training: abstract and tables of GSM8K", "share of the accuracy before"
    return [
        Claim(
            "digits_must_match",
            "Matching pursuit keeps 80 % of the accuracy of additions where both tokenizers group digits alike; where they do not, no "
            "method keeps 30 %.",
            paper,
            {pair: kept["pursuit"] for pair, kept in same.items()}
            | {f"{pair}, the best": np.max(list(kept.values()), axis=0) for pair, kept in other.items()},
            dict.fromkeys(same, above(0.8)) | {f"{pair}, the best": below(0.3) for pair in other},
            unit,
            "GSM8K falls by 74 and 79 % under the other, by 6 % under the same (third-party note)",
        ),
    ]


def figure(results: Mapping[str, Any]) -> Figure:
    """Share of the accuracy that is left, by pair and method."""
    drawn, axes = panels(1, 2, width=4.6, titles=("digits grouped alike", "grouped otherwise"))
    for panel, same in zip(axes, (True, False), strict=True):
        found = kept_by(results, same)
        columns = {
            method: (label, np.stack([kept[method] for kept in found.values()], axis=1))
            for method, label in LABELS.items()
        }
        bars(panel, [pair.replace(" to ", "\nto ") for pair in found], columns)
        panel.axhline(0.8 if same else 0.3, color="black", linestyle="--", linewidth=0.8)
        panel.set_ylim(0, 1.1)
        panel.set_ylabel("accuracy after over before")
    legend_beside(axes[1])
    return drawn
