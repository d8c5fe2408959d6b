"""Of equally many tokens those that are words or morphemes make better models of Turkish words; where LiB cuts, and what caps keep.

Bayram et al. 2025 (arXiv 2502.07057), Yang 2024 (arXiv 2403.00417), Bommarito et al. 2025 (arXiv 2503.17247); method cards
turkish-tokenization-standards, less-is-better-tokenizer, kl3m-tokenizers. The first correlates %TR with the MMLU score of four published
models, whose size and data differ; here models differ in nothing but the tokenizer. Every seed divides words or documents anew.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.assets import asset
from experiments.harness.figures import bars, labelled
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, GREY, PALETTE, panels
from experiments.harness.training import Training
from experiments.harness.verdicts import OURS, Claim, Rule, above, below, between
from experiments.harness.workspace import Workspace
from experiments.subjects.turkish_words import BENCHMARK, CORRELATED, KINDS, load_words, published_agreement
from experiments.subjects.word_boundaries import METHODS, find_words, keep_boundaries
from experiments.subjects.word_models import measure_tokenizers
from lexinv.data.corpora import load_corpus
from lexinv.data.published_tokenizers import PUBLISHED_TOKENIZERS
from lexinv.nn.transformer import TransformerConfig
from lexinv.tokenization.less_is_better import LessIsBetter
from lexinv.tokenization.linguistic import permutation_test
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import Checked, Count, Counts, Distinct, Fraction, Share

PAPERS = ("bayram2025tokenization", "yang2024rethinking", "bommarito2025kl3m")
SIZE = 2048
"""At which all kinds of tokenizers are compared."""


@dataclass(frozen=True)
class Config(Checked):
    """words: most frequent Turkish ones, of which each seed holds out a share. tokenizers: KIND:SIZE. together: words in a window.

    published: whole tokenizers that are scored on the same words. lib, unspaced_lib: for words, and for the unspaced corpus, of which
    `clauses` are learned from. caps: on the length of tokens, before none at all; `lines` of a corpus get errors.
    """

    words: Count = 20_000
    held_out: Fraction = 0.1
    tokenizers: Distinct[str] = (
        "bytes",
        *(f"bpe:{size}" for size in (512, 1024, SIZE, 4096)),
        *(f"{kind}:{SIZE}" for kind in KINDS[2:]),
    )
    together: Count = 8
    model: TransformerConfig = TransformerConfig(depth=2, width=64, heads=4, mlp_width=128)
    training: Training = Training(
        steps=200,
        batch_size=32,
        seeds=(0, 1, 2),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=20),
        steps_per_dispatch=10,
    )
    lib: LessIsBetter = LessIsBetter(documents=300, sentences=1000)
    published: tuple[str, ...] = ("o200k", "cl100k", "qwen", "tekken", "deepseek", "llama2", "rwkv")
    unspaced: str = "kjv"
    clauses: Count = 20_000
    unspaced_lib: LessIsBetter = LessIsBetter()
    noisy: str = "licences"
    caps: Counts = (2, 3, 4, 6)
    size: Count = 3072
    lines: Count = 400
    rate: Share = 0.02

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        named = all(re.fullmatch(rf"bytes|({'|'.join(KINDS[1:])}):\d+", name) for name in self.tokenizers)
        yield named and len(self.tokenizers) >= 3, "tokenizers", f"three or more, bytes or KIND:SIZE of {KINDS[1:]}"
        yield set(self.published) <= set(PUBLISHED_TOKENIZERS), "published", f"some of {[*PUBLISHED_TOKENIZERS]}"
        yield self.caps == tuple(sorted(self.caps)), "caps", "rising"


PRESETS = presets(
    Config(),
    smoke={
        "words": 500,
        "tokenizers": ("bpe:110", "bpe:128", "root-suffix:128"),
        "training.steps": 10,
        "training.optimizer.warmup_steps": 5,
        "training.seeds": (0, 1),
        "lib.documents": 3,
        "published": (),
        "unspaced": "python-docs",
        "clauses": 150,
        "unspaced_lib.documents": 4,
        "noisy": "python-docs",
        "caps": (2,),
        "size": 300,
        "lines": 5,
    },
    paper={
        "words": 60_000,
        "model.depth": 6,
        "model.width": 512,
        "model.heads": 8,
        "model.mlp_width": 2048,
        "training.steps": 20_000,
        "training.batch_size": 256,
        "training.seeds": tuple(range(5)),
        "published": tuple(PUBLISHED_TOKENIZERS),
        "lib.documents": 5000,
        "unspaced_lib.documents": 5000,
        "clauses": 70_000,
        "lines": 2000,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By tokenizer and metric [seeds]: agreement with morphemes, and what its models say; by published tokenizer its agreement. By method
    F1 of words found in a text without spaces, and by cap stability and amplification [seeds]."""
    seeds = config.training.seeds
    needed = {PUBLISHED_TOKENIZERS[name][0] for name in config.published} | {"word_frequencies"}
    for name in sorted(needed | ({"licences"} & {config.unspaced, config.noisy})):
        asset(name, workspace)
    corpora = workspace.pinned(
        "corpora", {name: load_corpus(name).fingerprint for name in (config.unspaced, config.noisy)}
    )
    words = load_words(config.words, workspace)

    def measure(arm: str, seed: int) -> dict[str, float]:
        return find_words(config.unspaced, config.clauses, config.unspaced_lib, seed)

    def measure_cap(arm: str, seed: int) -> dict[str, float]:
        cap = None if arm == "none" else int(arm)
        return keep_boundaries(config.noisy, cap, config.size, config.lines, config.rate, seed)

    setting = config.held_out, config.together, config.model, config.training, config.lib
    return {
        "seeds": seeds,
        "corpora": corpora,
        "words": {"all": len(words.parts), "analysed": len(words.lexicon.words), "agreed": len(words.agreed)},
        "published": workspace.stages("published", config.published, lambda name: published_agreement(name, words)),
        "unspaced": measured(workspace, ("unspaced",), seeds, measure)["unspaced"],
        "caps": measured(workspace, [*map(str, config.caps), "none"], seeds, measure_cap),
        "arms": measure_tokenizers(config.tokenizers, words, *setting, workspace),
    }


def correlations(results: dict[str, Any], of: str, to: str = "bits", equal: bool = False) -> dict[str, np.ndarray]:
    """Of a property of tokenizers to what each seed's models say: r, its size and p [seeds]. equal: over those of one size alone."""
    arms = {arm: rows for arm, rows in results["arms"].items() if not equal or arm.endswith(f":{SIZE}")}
    y, x = (np.array([rows[name] for rows in arms.values()], np.float64) for name in (to, of))
    x = np.log2(x) if of == "vocabulary" else x
    found = np.array([permutation_test(one, other) for one, other in zip(x.T, y.T, strict=True)])
    return {"|r|": np.abs(found[:, 0]), "p": found[:, 1], "r": found[:, 0]}


def claims(results: dict[str, Any]) -> list[Claim]:
    """What the papers say, and the controls that they lack."""
    arms, caps, found = Arms(results), list(results["caps"]), results["unspaced"]
    mmlu, valid = np.array(list(BENCHMARK.values())).T
    few, all_of = permutation_test(mmlu[:CORRELATED], valid[:CORRELATED]), permutation_test(mmlu, valid)
    predicts: dict[str, Rule] = {"|r|": above(0.6), "p": below(0.05)}
    f1 = {name: np.array(found[name]) for name in METHODS}
    kept = {cap: {name: np.array(values) for name, values in rows.items()} for cap, rows in results["caps"].items()}
    bpe = [arm for arm in results["arms"] if arm.startswith("bpe:")]
    steps = list(pairwise(caps))
    source = "bayram2025tokenization: table of models"
    claimed = [
        Claim(
            "published_correlation_rests_on_four",
            "The published correlation of %TR with MMLU is over four models, too few for it to be rare, and is not there over all eight.",
            f"{source}, and the notebook's correlation",
            {"r, four models": few[0], "p, four models": few[1], "r, eight models": all_of[0], "p, eight": all_of[1]},
            {
                "r, four models": between(0.9, 0.9002),
                "p, four models": above(0.05),
                "r, eight models": between(0.1014, 0.1016),
                "p, eight": above(0.05),
            },
            "Pearson's r, two-sided p over all orders",
            "0.90",
        ),
        Claim(
            "purity_falls_as_bpe_grows",
            "Each doubling of a BPE vocabulary lowers the share of its tokens that are one morpheme: whole inflected words enter.",
            OURS,
            {f"{one} to {other}": arms[other, "pure_types"] - arms[one, "pure_types"] for one, other in pairwise(bpe)},
            below(0),
            "points of %Pure",
        ),
        Claim(
            "validity_predicts_bits",
            "Over the tokenizers, %TR goes with the bits per byte that equal models need for unseen words.",
            "bayram2025tokenization: abstract",
            correlations(results, "valid_types")
            | {"r to right harmony": correlations(results, "valid_types", "harmony")["r"]},
            predicts,
            "correlation over tokenizers, p over orders",
            "r = 0.90 with MMLU",
        ),
        Claim(
            "size_predicts_bits",
            "So does the size of the vocabulary.",
            OURS,
            correlations(results, "vocabulary")
            | {"r to right harmony": correlations(results, "vocabulary", "harmony")["r"]},
            predicts,
            "correlation over tokenizers with log2 of the size, p over orders",
        ),
        Claim(
            "lib_finds_words",
            "In a text without spaces LiB cuts at the ends of words more often than BPE and Unigram of as many types.",
            "yang2024rethinking: abstract; demo of the released code",
            {f"above {name}": f1["lib"] - f1[name] for name in METHODS[1:]}
            | {f"F1, {name}": f1[name] for name in METHODS},
            {f"above {name}": above(0) for name in METHODS[1:]},
            "F1 of boundaries inside of clauses",
            "F1 0.84 on child-directed speech",
        ),
        Claim(
            "caps_keep_boundaries",
            "The shorter the longest token may be, the more boundaries an error leaves in place, and the fewer tokens it changes.",
            "bommarito2025kl3m: abstract",
            {
                f"stability, {one} over {other}": kept[one]["stability"] - kept[other]["stability"]
                for one, other in steps
            }
            | {
                f"amplification, {other} over {one}": kept[other]["amplification"] - kept[one]["amplification"]
                for one, other in steps
            },
            above(0),
            "difference",
        ),
    ]
    roots = [arm for arm in results["arms"] if arm.startswith("root-suffix:")]
    if roots:
        claimed.insert(
            2,
            Claim(
                "root_suffix_reaches_95",
                "Longest match of roots and suffixes gives tokens of which 95 % are valid and pure.",
                "bayram2025tokenization: score maps, morphological tokenizer",
                {name: arms[roots[0], metric] for name, metric in (("%TR", "valid_types"), ("%Pure", "pure_types"))},
                above(95),
                "% of types",
                "98 and 96",
            ),
        )
    if sum(arm.endswith(f":{SIZE}") for arm in results["arms"]) >= 4:
        one_size = correlations(results, "valid_types", equal=True)
        claimed.append(
            Claim(
                "validity_predicts_bits_at_one_size",
                f"Among tokenizers that may have {SIZE} tokens, too, %TR goes with fewer bits per byte.",
                OURS,
                one_size,
                {"r": below(-0.6)},
                "correlation over tokenizers of equal size",
            )
        )
    return claimed


def figure(results: dict[str, Any]) -> Figure:
    """MMLU and our bits against %TR, bits against size, shares by tokenizer, words found, what caps keep."""
    arms, names, caps = Arms(results), list(results["arms"]), results["caps"]
    drawn, axes = panels(2, 3, width=4.8, height=3.6)
    labelled(axes[0], {name: (valid, mmlu) for name, (mmlu, valid) in BENCHMARK.items()})
    for count, style in ((CORRELATED, "-"), (len(BENCHMARK), ":")):
        mmlu, valid = np.array(sorted(list(BENCHMARK.values())[:count], key=lambda pair: pair[1])).T
        r, p = permutation_test(mmlu, valid)
        label = f"{count} models: r = {r:.2f}, p = {p:.2f}"
        axes[0].plot(valid, np.polyval(np.polyfit(valid, mmlu, 1), valid), style, color=GREY, label=label)
    axes[0].set(title="published", xlabel="%TR", ylabel="MMLU", ylim=(5, 90))
    axes[0].legend(loc="lower left")
    for panel, x, label in (
        (axes[1], "valid_types", "%TR, of types"),
        (axes[2], "vocabulary", "log2 of the vocabulary"),
    ):
        across = {name: np.log2(arms[name, x]) if x == "vocabulary" else arms[name, x] for name in names}
        labelled(panel, {name: (across[name], arms[name, "bits"]) for name in names})
        r = correlations(results, x)["r"].mean()
        panel.set(title=f"models of words: r = {r:.2f}", xlabel=label, ylabel="bits per byte, unseen words")
    shares = {
        metric: (label, np.stack([arms[name, metric] for name in names], axis=1) * scale)
        for metric, label, scale in (
            ("valid_types", "%TR", 1),
            ("pure_types", "%Pure", 1),
            ("f1", "F1 at morphemes", 100),
            ("harmony", "right harmony", 100),
        )
    }
    bars(axes[3], names, shares)
    axes[3].set(title="tokenizers", ylabel="%", ylim=(0, 130))
    axes[3].set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    axes[3].legend(loc="upper center", ncols=4, fontsize=7)
    found = results["unspaced"]
    f1 = {
        metric: (metric, np.stack([found[name + end] for name in METHODS], axis=1))
        for metric, end in (("F1", ""), ("precision", "_precision"), ("recall", "_recall"))
    }
    bars(axes[4], ("LiB", "BPE", "Unigram"), f1)
    axes[4].legend(loc="upper center", ncols=3)
    axes[4].set(title="words in a text without spaces", ylabel="boundaries inside of clauses", ylim=(0, 1))
    for metric, color in zip(("stability", "amplification"), PALETTE, strict=False):
        values = np.stack([caps[cap][metric] for cap in caps], axis=1)
        axes[5].plot(list(caps), values.mean(axis=0), "o-", color=color, label=metric, markersize=3)
        axes[5].vlines(range(len(caps)), values.min(axis=0), values.max(axis=0), color=color)
    axes[5].axhline(1, color=BLACK, linewidth=0.7)
    axes[5].set(
        title="one error in fifty characters", xlabel="most characters of a token", ylabel="share; tokens an error"
    )
    axes[5].legend()
    return drawn
