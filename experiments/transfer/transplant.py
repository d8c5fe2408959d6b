"""Another tokenizer for a trained model without training: every published way to fill the new rows, judged where the new tokens are read.

Sharthak et al. 2025 (TokenAdapt, arXiv 2505.09738) and Goddard and Fernandes Neto 2025 (orthogonal matching pursuit, arXiv 2506.06607);
method cards tokenadapt and omp-tokenizer-transplantation. Most text is of tokens that both vocabularies have, so that rows of zeros look
well on all of it; bits per byte are therefore also those of words that hold a new token. Donors are models trained with the target's
tokenizer; they say, too, what a model can reach with it. A model with two tables has them filled apart. SmolLM2 takes DeepSeek's, o200k's
and Llama 2's tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.figures import legend_beside
from experiments.harness.intervals import interval
from experiments.harness.presets import presets
from experiments.harness.style import GREY, PALETTE, panels
from experiments.harness.verdicts import OURS, Claim, above, below, between
from experiments.harness.workspace import Workspace
from experiments.subjects import tokenized_models
from experiments.subjects.published_transfers import PublishedConfig, published_transfers
from experiments.subjects.text import PUBLISHED_MODEL, STANDARD
from experiments.subjects.tokenized_models import TokenizedConfig, load_text_tokenizer
from experiments.subjects.vocabulary_transfers import Source, Transfer, passages, text_encoder, transfer
from lexinv.data.corpora import load_corpus
from lexinv.transfer.methods import METHODS
from lexinv.validation import Checked, Count, Distinct

PAPERS = ("sharthak2025achieving", "goddard2025training")
LABELS = {
    "zero": "zeros",
    "mean": "mean",
    "drawn": "drawn",
    "pieces": "means of pieces",
    "length": "local, lengths only",
    "local": "TokenAdapt, local",
    "hybrid": "TokenAdapt, hybrid",
    "focus": "FOCUS",
    "pursuit": "matching pursuit",
    "ridge": "ridge",
}
HEURISTICS = tuple(method for method, each in METHODS.items() if each.needs != "donor")
PARTS = {"all": "all text", "new": "words with a new token", "others": "other words"}
REAL = ("zero", "mean", "pieces", "local", "hybrid", "focus", "pursuit", "ridge")
UNTIED, APART = "untied", ("pieces", "zero")
"""The model with two tables, whose inputs and outputs are each filled by these."""
PRINTED = {
    "Llama-3.2-3B to QTK-81K": (71.1, 48.2),
    "Qwen2.5-3B to QTK-81K": (139.1, 85.8),
    "Llama-3.2-3B to Adi-Bun-128K": (1174.0, 577.5),
}
"""Perplexity ratios of ReTok and of the hybrid in table 1 of Sharthak et al. 2025."""


@dataclass(frozen=True)
class Config(Checked):
    """models: the first is given the vocabularies of the others, which are donors, and `others`: tokenizers of `load_text_tokenizer`,
    trained on the models' text or, after @, on another.

    passages: of `size` characters, that each seed's model reads; `tuning` of validation text choose the settings. encoder: an asset with a
    text encoder, or "untrained".
    """

    models: TokenizedConfig = TokenizedConfig(tokenizers=("bpe:1024", "bpe:4096", "superbpe:4096"))
    others: Distinct[str] = ("unigram:2048", "bpe:1024@bible:wyc")
    passages: Count = 96
    tuning: Count = 24
    size: Count = 256
    encoder: str = "minilm"
    real: PublishedConfig = PublishedConfig()

    def checks(self):
        yield len(self.models.tokenizers) >= 2, "models.tokenizers", "at least 2: a source and a donor"


PRESETS = presets(
    Config(),
    smoke={
        **tokenized_models.TINY,
        "models.training.seeds": (0,),
        "others": ("unigram:310",),
        "passages": 4,
        "tuning": 2,
        "size": 64,
        "encoder": "untrained",
        "real.model": "none",
    },
    quick={"others": ("unigram:2048",), "passages": 48, "tuning": 12, "real.model": "none"},
    paper={
        "models.model": PUBLISHED_MODEL,
        "models.context_bytes": 512,
        "models.training.steps": 20_000,
        "passages": 2000,
        "tuning": 200,
        "real.groups": 10,
        "real.passages": 50,
        "real.tuning": 50,
        "real.sample": 100_000_000,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By target and method, and by seed: bits per byte of all text, of words with a new token and of others, and the setting chosen."""
    models = {plain(name): found for name, found in tokenized_models.tokenized_models(config.models, workspace).items()}
    corpus, encoder = load_corpus(config.models.corpus), text_encoder(config.encoder, workspace)
    source, *donors = models
    seeds = config.models.training.seeds
    tokenizers = {name: models[name].tokenizer for name in donors}
    for name in config.others:
        kind, _, text = name.partition("@")
        tokenizers[plain(name)] = load_text_tokenizer(kind, load_corpus(text or config.models.corpus))

    [untied] = tokenized_models.tokenized_models(apart(config.models, models[source].rate), workspace).values()
    models[UNTIED] = untied

    @cache
    def read(name: str, seed: int) -> Source:
        place, texts = seeds.index(seed), {}
        for split, count in {"validation": config.tuning, "test": config.passages}.items():
            texts[split] = passages(corpus, split, count, config.size, seed)
        params, model = models[name].params[place], models[name].model
        return Source(model, STANDARD, params, models[name].tokenizer, texts["validation"], [texts["test"]])

    @cache
    def pair(given: str, target: str, seed: int) -> Transfer:
        donor = np.asarray(read(target, seed).params["table"]) if target in donors else None
        return transfer(read(given, seed), tokenizers[target], encoder, donor)

    def measure(arm: str, seed: int) -> dict[str, Any]:
        target, _, method = arm.partition("/")
        if method == "itself":
            return {"all": read(target, seed).bits()[0]}
        inputs, _, outputs = method.partition("+")
        found = pair(UNTIED if outputs else source, target, seed).measured(inputs, outputs)
        return {name: value if name in ("setting", "validation") else value[0] for name, value in found.items()}

    possible = {name: HEURISTICS + (("pursuit", "ridge") if name in donors else ()) for name in tokenizers}
    arms = [f"{name}/{method}" for name, methods in possible.items() for method in methods]
    arms += [f"{name}/{inputs}+{outputs}" for name in tokenizers for inputs in APART for outputs in APART]
    arms += [f"{name}/itself" for name in models]
    found = measured(workspace, arms, seeds, measure)
    shared = {name: len(pair(source, name, seeds[0]).given.match.shared) for name in tokenizers}
    real = {}
    if config.real.model != "none":
        real = workspace.cached("real", lambda: published_transfers(config.real, config.encoder, REAL, workspace))
    return {
        "corpora": {corpus.name: corpus.fingerprint},
        "seeds": seeds,
        "source": source,
        "targets": list(tokenizers),
        "donors": donors,
        "shared": {name: [count, tokenizers[name].vocab_size] for name, count in shared.items()},
        "models": {name: model.described() for name, model in models.items()},
        "real": real.get("about", {}),
        "original": f"{config.real.model}/itself",
        "arms": found | real.get("arms", {}),
    }


def apart(config: TokenizedConfig, rate: float) -> TokenizedConfig:
    """Of the source with an output table of its own, at the learning rate of the tied one."""
    return replace(
        config, tokenizers=config.tokenizers[:1], model=replace(config.model, output="untied"), rates=(rate,)
    )


def plain(name: str) -> str:
    """A tokenizer's name as that of an arm."""
    return name.translate(str.maketrans(":@", "--"))


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """What both papers say, the rival that they lack, and where rows of zeros hide."""
    arms, targets, donors = Arms(results), results["targets"], results["donors"]

    def more(part: str, target: str, method: str, than: str, relative: bool = True) -> np.ndarray:
        base = arms[f"{target}/{than}", part]
        return (arms[f"{target}/{method}", part] - base) / (base if relative else 1.0)

    def least(target: str) -> np.ndarray:
        return np.min([arms[f"{target}/{method}", "new"] for method in HEURISTICS], axis=0)

    def gain(kind: str, target: str) -> np.ndarray:
        retok, hybrid = (arms[f"{target}/{method}", f"{kind}_perplexity"] for method in ("pieces", "hybrid"))
        return retok / hybrid

    pursuit, adapt = "goddard2025training", "sharthak2025achieving"

    def hiding(name: str, begins: str, where: Sequence[str], over: str = "seeds") -> Claim:
        parts = {f"{target}, {part}": (target, part) for target in where for part in ("all", "new")}
        return Claim(
            name,
            f"{begins} about as much as means of pieces over all text, and much more on words with a new token.",
            f"{pursuit}: table of MMLU",
            {label: more(part, target, "zero", "pieces") for label, (target, part) in parts.items()},
            {label: below(0.02) if part == "all" else above(0.05) for label, (_, part) in parts.items()},
            "bits per byte more, relative",
            "zero rows keep 99.1 % of MMLU",
            over,
        )

    found = [
        Claim(
            "pursuit_beats_all_heuristics",
            "On words with a new token matching pursuit costs fewer bits than the best heuristic.",
            f"{pursuit}: abstract, of benchmarks",
            {target: least(target) - arms[f"{target}/pursuit", "new"] for target in donors},
            above(0),
            "bits per byte less",
            "MMLU 99.1 % kept at k = 64, 73.4 % by FOCUS (third-party note)",
        ),
        Claim(
            "pursuit_beats_ridge",
            "It costs fewer bits than a linear map from the donor's table, which the paper does not compare.",
            OURS,
            {target: more("new", target, "ridge", "pursuit", relative=False) for target in donors},
            above(0),
            "bits per byte more by ridge, words with a new token",
        ),
        hiding("zero_rows_hide", "Rows of zeros cost", targets),
        Claim(
            "local_beats_means_of_pieces",
            "Weighing pieces by meaning and length costs fewer bits than their mean.",
            f"{adapt}: table 1",
            {target: -more("all", target, "local", "pieces") for target in targets},
            above(0).but(1),
            "relative saving, all text",
            "perplexity ratios 64.4 and 71.1, 109.3 and 139.1, 1371 and 1174",
        ),
        Claim(
            "hybrid_beats_local",
            "Adding the nearest known tokens saves more.",
            f"{adapt}: table 1",
            {target: -more("all", target, "hybrid", "local") for target in targets},
            above(0),
            "relative saving, all text",
            "perplexity ratios 48.2 and 64.4, 85.8 and 109.3, 577 and 1371",
        ),
        Claim(
            "length_is_enough",
            "Without the encoder of texts local weights cost the same.",
            OURS,
            {target: more("all", target, "length", "local") for target in targets},
            between(-0.005, 0.005),
            "bits per byte more, relative",
        ),
        Claim(
            "means_overstate",
            "The hybrid's gain over means of pieces is larger by the mean of the passages' perplexities than by their median.",
            OURS,
            {target: gain("mean", target) - gain("median", target) for target in targets},
            above(0),
            "ratio by means less ratio by medians",
            "Qwen2.5-3B: 1.62 by means, 1.08 by the medians of the authors' repository",
        ),
        Claim(
            "published_gain",
            "The paper's table holds the gain over ReTok that its abstract claims: at least 2 times.",
            f"{adapt}: abstract",
            {swap: retok / hybrid for swap, (retok, hybrid) in PRINTED.items()},
            above(2),
            "perplexity ratio of ReTok over that of the hybrid, from the printed table",
            "at least 2-fold",
            "printed numbers",
        ),
        Claim(
            "zeros_out_beat_pieces_out",
            "With two tables, means of pieces to read and zeros to predict from cost fewer bits than means of pieces in both.",
            OURS,
            {target: -more("all", target, "pieces+zero", "pieces+pieces") for target in targets},
            above(0),
            "relative saving, all text",
        ),
    ]
    real = list(results["real"])
    if not real:
        return found
    groups, original = "groups of passages", results["original"]
    best = {
        target: np.min(
            [arms[f"{target}/{method}", "others"] for method in REAL if f"{target}/{method}" in arms], axis=0
        )
        for target in real
    }
    return [
        *found,
        hiding("real_zero_rows_hide", "In SmolLM2 they cost", real, groups),
        Claim(
            "real_best_within_a_tenth",
            "With the best method, words of shared tokens cost SmolLM2 at most a tenth more than all text does with its own tokenizer.",
            OURS,
            {target: best[target] / arms[original, "all"] - 1 for target in real},
            below(0.1),
            "bits per byte more, relative",
            over=groups,
        ),
    ]


def figure(results: Mapping[str, Any]) -> Figure:
    """Bits per byte by method and target, of all text and of words with a new token; dashed, the model with its own tokenizer."""
    arms = Arms(results)
    worlds = [(results["targets"], f"{results['source']}/itself")]
    worlds += [(list(results["real"]), results["original"])] if results["real"] else []
    titles = [
        f"{name}: {part}"
        for name in ("trained here", "published")[: len(worlds)]
        for part in ("all text", "words with a new token")
    ]
    drawn, axes = panels(rows=len(worlds), columns=2, width=5.0, height=3.6, titles=titles)
    for row, (targets, own) in enumerate(worlds):
        for column, part in enumerate(("all", "new")):
            panel = axes[2 * row + column]
            for place, (target, color) in enumerate(zip(targets, PALETTE, strict=False)):
                for height, method in enumerate(LABELS):
                    if f"{target}/{method}" in arms:
                        found = interval(arms[f"{target}/{method}", part].tolist())
                        y = height + 0.16 * (place - (len(targets) - 1) / 2)
                        panel.plot(found.mean, y, "D", color=color, markersize=4, label=target if height == 0 else None)
                        panel.plot([found.low, found.high], [y, y], color=color, linewidth=1.4)
            panel.axvline(arms[own, "all"].mean(), color=GREY, linestyle="--", linewidth=1.0)
            panel.set_yticks(range(len(LABELS)), list(LABELS.values()) if column == 0 else [""] * len(LABELS))
            panel.invert_yaxis()
            panel.set_xlabel("bits per byte")
        legend_beside(axes[2 * row + 1])
    return drawn
