"""Bytes, tokens, superwords, words: language models that cost the same, asked for the next word, and what makes a headline of it.

Neitemeier et al. 2025 (hierarchical autoregressive transformers, HAT, arXiv 2501.10322), Thawani et al. 2023 (words pooled into four
vectors, arXiv 2310.11628) and the models of SuperBPE (Liu et al. 2025, arXiv 2503.13423); method cards hierarchical-autoregressive-
transformers, learn-your-tokens and superbpe. All read 256 bytes of context and cost as many operations by the byte; each is trained by the
better of two optimisers at the best of their rates. HAT is the pooled model with one vector a word. The released protocol of pooled words
gives bytes as many positions as words, asks in the text that was trained on, and samples; each is switched alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.figures import bars
from experiments.harness.presets import presets
from experiments.harness.style import PALETTE, band, panels
from experiments.harness.verdicts import OURS, Claim, above, below, between
from experiments.harness.workspace import Workspace
from experiments.subjects import next_words, tokenized_models
from experiments.subjects.continued_models import continued, reached
from experiments.subjects.next_words import FAIR, PROTOCOLS, RELEASED, asked, by_frequency, protocols
from experiments.subjects.text import PUBLISHED_MODEL
from experiments.subjects.tokenized_models import TokenizedConfig
from experiments.subjects.unit_models import SpelledConfig, Tuning, closed_models, spelled_models, token_models
from experiments.subjects.vocabulary_transfers import passages
from experiments.subjects.word_scores import NOISE, answers, difficulty, reader, spoilt_bits
from lexinv.data.corpora import load_corpus
from lexinv.validation import Checked, Count, CountOrZero, Distinct, Share

PAPERS = ("neitemeier2025hierarchical", "thawani2023learn", "liu2025superbpe")
LABELS = {
    "byte": "bytes",
    "bpe": "BPE",
    "patches": "HAT: 5 bytes",
    "hat": "HAT: 1 vector",
    "pooled": "pooled: 4 vectors",
    "superbpe": "SuperBPE",
    "closed": "closed words",
}
WORDS = ("hat", "patches", "pooled")
SPELLED = tuple(name for name in LABELS if name != "closed")
"""What has bits for any text."""


@dataclass(frozen=True)
class Config(Checked):
    """models: of tokens, one each of bytes, BPE and superwords. hat, patches, pooled: of words. closed: frequent words, split as HAT's.
    optimizers: tried by all. passages: of held-out text, of as many bytes as the context; half of one is perturbed, of which `noise` of the
    letters. cases: next words of each kind, split and seed, of which the superwords' model is asked the first `exact`. strings: of 64
    held-out bytes, looked up in the training text. second: the text that BPE's models and HAT go on with for `continued` steps, at a third
    of their learning rates, judged by `judged` passages; 0 leaves it out.
    """

    models: TokenizedConfig = TokenizedConfig(tokenizers=("byte", "bpe:4096", "superbpe:4096"), rates=(1e-2, 3e-2))
    optimizers: Distinct[str] = ("adamw", "muon")
    hat: SpelledConfig = SpelledConfig()
    patches: SpelledConfig = SpelledConfig("fixed:5", most=5)
    pooled: SpelledConfig = SpelledConfig(positions=4)
    closed: Count = 8000
    passages: Count = 128
    noise: Share = 0.1
    cases: Count = 192
    exact: Count = 32
    strings: Count = 2000
    second: str = "bible:wyc"
    continued: CountOrZero = 80
    judged: Count = 32

    def checks(self):
        kinds = tuple(name.partition(":")[0] for name in self.models.tokenizers)
        yield kinds == ("byte", "bpe", "superbpe"), "models.tokenizers", "byte, bpe:V and superbpe:V"
        yield {"adamw", "muon"}.issuperset(self.optimizers), "optimizers", "of adamw and muon"
        few = self.models.training.steps_per_dispatch
        yield self.continued % few == 0, "continued", f"a multiple of models.training.steps_per_dispatch = {few}"


_TINY = {name: value for name, value in tokenized_models.TINY.items() if name != "models.tokenizers"}
_SMALL = {"spelling.width": 16, "spelling.mlp_width": 32, "spelling.heads": 2, "backbone.depth": 1, "backbone.heads": 2}
_FEW = {"passages": 2, "cases": 2, "exact": 1, "strings": 2, "closed": 300, "optimizers": ("muon",), "continued": 0}
_WIDE = {f"{name}.spelling.{field}": size for name in WORDS for field, size in (("width", 256), ("mlp_width", 1024))}
_LONG = {"models.training.steps": 20_000, "passages": 4000, "cases": 4000, "continued": 2000, "judged": 400}
PRESETS = presets(
    Config(),
    smoke=_TINY
    | {f"{name}.{field}": value for name in WORDS for field, value in _SMALL.items()}
    | {"hat.rule": "whitespace", "pooled.rule": "whitespace", "second": "python-docs"}
    | {"models.tokenizers": ("byte", "bpe:300", "superbpe:320")}
    | {"models.training.steps": 20, "models.training.seeds": (0,)}
    | _FEW,
    quick={"models.training.steps": 200, "models.rates": (3e-2,), "optimizers": ("muon",), "continued": 50}
    | {"passages": 64, "cases": 96, "exact": 16, "strings": 500},
    paper={"models.model": PUBLISHED_MODEL, "models.context_bytes": 512} | _WIDE | _LONG,
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """arms[arm][metric][seed]: bits per byte, by kind of noise bits of clean text after it, and mean probabilities of next words."""
    like, seeds, size = config.models, config.models.training.seeds, config.models.context_bytes
    corpus, second = load_corpus(like.corpus), load_corpus(config.second)
    corpora = workspace.pinned("corpora", {each.name: each.fingerprint for each in (corpus, second)})
    tuning = Tuning(like, config.optimizers, corpus, workspace)
    found = {name.partition(":")[0]: token_models(name, tuning) for name in like.tokenizers}
    found |= {name: spelled_models(getattr(config, name), tuning) for name in WORDS}
    found["closed"] = closed_models(config.closed, config.hat, tuning)
    readers = {name: reader(models) for name, models in found.items()}
    counts, cores = next_words.word_counts(corpus)
    sets = cache(lambda seed: asked(corpus, config.cases, size, seed, cores))

    def measure(name: str, seed: int) -> dict[str, Any]:
        if name == "frequency":
            return protocols(sets(seed), {"bytes": size, "positions": size}, by_frequency(counts))
        models, params, read = found[name], found[name].params[seeds.index(seed)], readers[name]
        reach = {"bytes": size, "positions": round(found["hat"].context * models.bytes_per_unit)}
        metrics = protocols(sets(seed), reach, answers(models, params, read, config.exact))
        if name in SPELLED:
            held = passages(corpus, "test", config.passages, size, seed)
            metrics |= difficulty(read, params, held) | spoilt_bits(read, params, held, config.noise)
        return metrics

    judged = {
        part: passages(each, "test", min(config.judged, len(each.splits["test"])), size, 0)
        for part, each in (("first", corpus), ("second", second))
    }
    learning = {}
    for name in ("bpe", "hat") if config.continued else ():
        given = name, found[name], second, judged, tuning, config.continued, 1 / 3
        learning[name] = workspace.cached(f"learning/{name}", lambda given=given: continued(*given))
    return {
        "corpora": corpora,
        "seeds": seeds,
        "models": {name: models.described() for name, models in found.items()},
        "seen": next_words.seen_share(corpus, config.strings),
        "arms": measured(workspace, [*found, "frequency"], seeds, measure),
        "learning": learning,
    }


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """What the three papers say of models, and what is left of a ratio when each difference is switched off."""
    arms, learning = Arms(results), results["learning"]
    hat, pooled, superbpe = PAPERS

    def over(name: str, other: str, metric: str = "bits") -> np.ndarray:
        return arms[name, metric] / arms[other, metric]

    def growth(name: str, kind: str) -> np.ndarray:
        return arms[name, kind] - arms[name, "clean"]

    def gained(protocol: str, kind: str = "any") -> np.ndarray:
        return over("pooled", "byte", f"{kind}/{protocol}")

    def read(name: str) -> np.ndarray:
        return over(name, "frequency", f"any/{FAIR}")

    return [
        Claim(
            "hat_within_three_percent",
            "A hierarchical model of words costs the bits of a model of BPE's tokens.",
            f"{hat}: word accuracy at 1B to 7B",
            {"relative": over("hat", "bpe") - 1},
            between(-0.03, 0.03),
            "bits per byte more, relative",
            "word accuracy 35.5 and 35.3, 37.8 and 37.7, 39.0 and 39.2 (third-party digest)",
        ),
        Claim(
            "words_beat_patches",
            "Words are better units than patches of as many bytes.",
            f"{hat}: comparison with patches of 8 bytes",
            {"patches": over("patches", "hat") - 1},
            above(0),
            "bits per byte more by patches, relative",
            "2.7 points of HellaSwag (third-party note)",
        ),
        Claim(
            "hat_is_robust",
            "A spoilt context costs it less than it costs BPE: clean words after capitals, and after noise. It has to read the context.",
            f"{hat}: abstract, robustness",
            {kind: growth("hat", kind) / growth("bpe", kind) for kind in NOISE} | {"context": read("hat")},
            {kind: below(0.7 if kind == "caps" else 1.0) for kind in NOISE} | {"context": above(1.5)},
            "loss that is added, of BPE's; context: next words, of those by frequency alone",
            "under capitals the baseline loses 3 times as much (third-party digest)",
        ),
        Claim(
            "superwords_do_not_lower_bits",
            "Superwords cost a model the same bits.",
            f"{superbpe}: notebook, bits per byte of 8B models",
            {"relative": over("superbpe", "bpe") - 1},
            between(-0.02, 0.02),
            "bits per byte more, relative",
            ".7463 and .7480",
        ),
        Claim(
            "superword_difficulty_is_more_even",
            "They are alike in difficulty: less spread, and fewer that are all but certain.",
            f"{superbpe}: loss by token",
            {
                "deviation over mean": arms["superbpe", "evenness"] - arms["bpe", "evenness"],
                "share below 0.1 bit": arms["superbpe", "trivial"] - arms["bpe", "trivial"],
            },
            below(0),
            "difference to BPE",
        ),
        Claim(
            "pooled_triples_words_as_published",
            "Pooled words guess three times as many next words as bytes do, by the protocol of the released code.",
            f"{pooled}: abstract",
            {"ratio": gained(RELEASED)},
            above(3),
            "ratio of next-word accuracies",
            "over 300 %",
        ),
        Claim(
            "rare_words_thirtyfold",
            "Of rare words thirty times as many.",
            f"{pooled}: abstract",
            {"ratio": gained(RELEASED, "rare")},
            above(30),
            "ratio of next-word accuracies",
            "a factor of 30",
        ),
        Claim(
            "words_are_read_in_context",
            "Each model guesses more next words than the frequencies of words do; one that does not has not begun to read.",
            OURS,
            {label: read(name) for name, label in LABELS.items()},
            above(1.5),
            "next words, of those by frequency alone",
        ),
        Claim(
            "fair_protocol_halves_it",
            "With contexts equal in bytes and text held out, less than half of that ratio is left.",
            OURS,
            {"share": gained(FAIR) / gained(RELEASED)},
            below(0.5),
            "ratio, of the released protocol's",
        ),
        *(_of_learning(learning) if learning else []),
    ]


def _of_learning(learning: Mapping[str, Any]) -> list[Claim]:
    source, first = (
        f"{PAPERS[0]}: abstract, continued pretraining",
        {key: np.array(learning[key]["first"]) for key in learning},
    )
    forgotten = {name: bits[:, -1] - bits[:, 0] for name, bits in first.items()}
    return [
        Claim(
            "hat_learns_faster",
            "It has what BPE has learned of another language with fewer operations.",
            source,
            {"share": reached(learning)},
            below(0.6),
            "operations, of BPE's; all of its own where it never has them",
            "almost twice as fast",
        ),
        Claim(
            "hat_forgets_less",
            "Meanwhile it forgets less of the first one.",
            source,
            {"less": forgotten["bpe"] - forgotten["hat"]},
            above(0),
            "bits per byte",
        ),
    ]


def figure(results: Mapping[str, Any]) -> Figure:
    """Next words by protocol, bits per byte, what a spoilt context adds, and another language's bits by operations spent."""
    arms, learning = Arms(results), results["learning"]
    titles = ("next words", "held-out text", "after a spoilt context", f"going on with {list(results['corpora'])[-1]}")
    drawn, axes = panels(rows=2, columns=2, width=5.4, height=3.4, titles=titles)
    for axis, label in zip(axes, ("accuracy", "bits per byte", "bits per byte more", "bits per byte"), strict=True):
        axis.set_ylabel(label)
    probed = [f"any/{protocol}" for protocol in PROTOCOLS]
    names = LABELS | {"frequency": "words' frequencies"}
    values = {name: (label, np.stack([arms[name, each] for each in probed], axis=1)) for name, label in names.items()}
    bars(axes[0], list(PROTOCOLS.values()), values)
    axes[0].set_ylim(0, 1.9 * max(means.mean(axis=0).max() for _, means in values.values()))
    axes[0].legend(ncols=2, fontsize=7)
    values = {"bits": ("", np.stack([arms[name, "bits"] for name in SPELLED], axis=1))}
    bars(axes[1], [LABELS[name].replace(" ", "\n", 1) for name in SPELLED], values)
    for axis in axes[:2]:
        axis.tick_params(axis="x", labelsize=7)
    added = {name: np.stack([arms[name, kind] - arms[name, "clean"] for kind in NOISE], axis=1) for name in SPELLED}
    bars(axes[2], NOISE, {name: (LABELS[name], values) for name, values in added.items()})
    axes[2].legend(fontsize=7)
    for name in learning:
        spent, color = [flops / 1e12 for flops in learning[name]["flops"]], PALETTE[list(LABELS).index(name)]
        band(axes[3], spent, learning[name]["second"], LABELS[name], color)
    axes[3].set_xlabel("10¹² forward operations")
    if learning:
        axes[3].legend()
    return drawn
