"""Bytes, tokens, superwords, words: language models that cost the same, asked for the next word, and what makes a headline of it.

Neitemeier et al. 2025 (hierarchical autoregressive transformers, HAT, arXiv 2501.10322), Thawani et al. 2023 (words pooled into four
vectors, arXiv 2310.11628) and the models of SuperBPE (Liu et al. 2025, arXiv 2503.13423); method cards hierarchical-autoregressive-
transformers, learn-your-tokens and superbpe. All read 256 bytes of context and cost as many operations by the byte; each is trained by the
better of two optimisers at the best of their rates. HAT is the pooled model with one vector a word. The released protocol of pooled words
gives bytes as many positions as words, asks in the text that was trained on, and samples; each is switched alone.
"""

from collections.abc import Mapping, Sequence
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
from experiments.subjects import tokenized_models
from experiments.subjects.continued_models import continued
from experiments.subjects.next_words import asked, by_frequency, protocols, seen_share, word_counts
from experiments.subjects.text import PUBLISHED_MODEL
from experiments.subjects.tokenized_models import TokenizedConfig
from experiments.subjects.unit_models import (
    SpelledConfig,
    Tuning,
    UnitModels,
    closed_models,
    spelled_models,
    token_models,
)
from experiments.subjects.vocabulary_transfers import passages
from experiments.subjects.word_scores import Case, bits, exact_scores, perturbed, reader, score
from lexinv.data.corpora import load_corpus
from lexinv.validation import Checked, Count, CountOrZero, Distinct, Share

PAPERS = ("neitemeier2025hierarchical", "thawani2023learn", "liu2025superbpe")
LABELS = {
    "byte": "bytes",
    "bpe": "BPE",
    "patches": "HAT, 5 bytes",
    "hat": "HAT, words",
    "pooled": "4 vectors a word",
    "superbpe": "SuperBPE",
    "closed": "closed words",
}
PROTOCOLS = {
    "positions/train/sampled": "as released",
    "bytes/train/sampled": "equal bytes",
    "positions/test/sampled": "held-out text",
    "positions/train/likeliest": "likeliest word",
    "bytes/test/sampled": "equal bytes,\nheld-out text",
}
RELEASED, *_, FAIR = PROTOCOLS
NOISE = ("caps", "permuted", "replaced", "deleted")
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
        few = self.models.training.steps_per_dispatch
        known = {"adamw", "muon"}
        yield known.issuperset(self.optimizers), "optimizers", f"of {sorted(known)}"
        yield self.continued % few == 0, "continued", f"a multiple of models.training.steps_per_dispatch = {few}"


_TINY = {name: value for name, value in tokenized_models.TINY.items() if name != "models.tokenizers"}
_SMALL = {"spelling.width": 16, "spelling.mlp_width": 32, "spelling.heads": 2, "backbone.depth": 1, "backbone.heads": 2}
PRESETS = presets(
    Config(),
    smoke={
        **_TINY,
        **{f"{name}.{field}": value for name in ("hat", "patches", "pooled") for field, value in _SMALL.items()},
        "hat.rule": "whitespace",
        "pooled.rule": "whitespace",
        "models.tokenizers": ("byte", "bpe:300", "superbpe:320"),
        "models.training.steps": 20,
        "models.training.seeds": (0,),
        "optimizers": ("muon",),
        "closed": 300,
        "passages": 2,
        "cases": 2,
        "exact": 1,
        "strings": 2,
        "second": "python-docs",
        "continued": 0,
    },
    quick={
        "models.training.steps": 200,
        "models.rates": (1e-2,),
        "optimizers": ("muon",),
        "passages": 64,
        "cases": 96,
        "exact": 16,
        "strings": 500,
        "continued": 50,
    },
    paper={
        "models.model": PUBLISHED_MODEL,
        "models.context_bytes": 512,
        "models.training.steps": 20_000,
        "hat.spelling.width": 256,
        "hat.spelling.mlp_width": 1024,
        "pooled.spelling.width": 256,
        "pooled.spelling.mlp_width": 1024,
        "passages": 4000,
        "cases": 4000,
        "continued": 2000,
        "judged": 400,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """arms[arm][metric][seed]: bits per byte, by kind of noise bits of clean text after it, and mean probabilities of next words."""
    like, seeds, size = config.models, config.models.training.seeds, config.models.context_bytes
    corpus, second = load_corpus(like.corpus), load_corpus(config.second)
    corpora = workspace.pinned("corpora", {each.name: each.fingerprint for each in (corpus, second)})
    tuning = Tuning(like, config.optimizers, corpus, workspace)
    found: dict[str, UnitModels] = {name.partition(":")[0]: token_models(name, tuning) for name in like.tokenizers}
    for name in ("hat", "patches", "pooled"):
        found[name] = spelled_models(getattr(config, name), tuning)
    found["closed"] = closed_models(config.closed, config.hat, tuning)
    readers = {name: reader(models) for name, models in found.items()}
    counts, cores = word_counts(corpus)
    texts = cache(lambda seed: passages(corpus, "test", config.passages, size, seed))
    sets = cache(lambda seed: asked(corpus, config.cases, size, seed, cores))

    def plain(name: str, seed: int) -> dict[str, Any]:
        params, held = found[name].params[seeds.index(seed)], [text.encode() for text in texts(seed)]
        read = readers[name](params, held)
        each = np.concatenate([symbols.nats for symbols in read]) / np.log(2)
        metrics = {"bits": bits(read, held), "evenness": each.std() / each.mean(), "trivial": np.mean(each < 0.1)}
        for kind in ("clean", *NOISE):
            spoilt, begins = [], []
            for number, text in enumerate(texts(seed)):
                half = text.find(" ", len(text) // 2)
                before = text[:half] if kind == "clean" else perturbed(text[:half], kind, config.noise, number)
                spoilt.append((before + text[half:]).encode())
                begins.append(len(before.encode()))
            metrics[kind] = bits(readers[name](params, spoilt), spoilt, begins)
        return {metric: float(value) for metric, value in metrics.items()}

    def measure(name: str, seed: int) -> dict[str, Any]:
        reach, given = {"bytes": size, "positions": size}, sets(seed)
        if name == "frequency":
            return protocols(given, reach, by_frequency(counts))
        models, params = found[name], found[name].params[seeds.index(seed)]
        reach["positions"] = round(found["hat"].context * models.bytes_per_unit)

        def answers(cases: Sequence[Case]) -> Sequence[tuple[float, bool]]:
            if name == "superbpe":
                return exact_scores(models, params, cases[: config.exact])
            read = readers[name](params, [case.text for case in cases])
            return [score(*pair) for pair in zip(read, cases, strict=True)]

        return (plain(name, seed) if name in SPELLED else {}) | protocols(given, reach, answers)

    judged = {
        part: passages(each, "test", min(config.judged, len(each.splits["test"])), size, 0)
        for part, each in (("first", corpus), ("second", second))
    }
    learning = {
        name: workspace.cached(
            f"learning/{name}",
            lambda name=name: continued(
                f"continued/{name}",
                found[name],
                second,
                judged,
                like,
                config.continued,
                1 / 3,
                workspace,
            ),
        )
        for name in ("bpe", "hat")
        if config.continued
    }
    return {
        "corpora": corpora,
        "seeds": seeds,
        "models": {name: models.described() for name, models in found.items()},
        "seen": seen_share(corpus, config.strings),
        "arms": measured(workspace, [*found, "frequency"], seeds, measure),
        "learning": learning,
    }


def reached(learning: Mapping[str, Any]) -> np.ndarray:
    """Of each seed, the operations with which HAT has BPE's last bits, as a share of BPE's; where it has not, all of HAT's."""
    found = []
    for own, other in zip(learning["hat"]["second"], learning["bpe"]["second"], strict=True):
        spent, best = np.array(learning["hat"]["flops"]), np.minimum.accumulate(own)
        place = int(np.argmax(best <= other[-1])) if best[-1] <= other[-1] else len(best) - 1
        if place > 0 and best[-1] <= other[-1]:
            share = (best[place - 1] - other[-1]) / max(best[place - 1] - best[place], 1e-12)
            found.append(spent[place - 1] + share * (spent[place] - spent[place - 1]))
        else:
            found.append(spent[place])
    return np.array(found) / learning["bpe"]["flops"][-1]


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

    def forgotten(name: str) -> np.ndarray:
        first = np.array(learning[name]["first"])
        return first[:, -1] - first[:, 0]

    of_learning = (
        []
        if not learning
        else [
            Claim(
                "hat_learns_faster",
                "It has what BPE has learned of another language with fewer operations.",
                f"{hat}: abstract, continued pretraining",
                {"share": reached(learning)},
                below(0.6),
                "operations, of BPE's; all of its own where it never has them",
                "almost twice as fast",
            ),
            Claim(
                "hat_forgets_less",
                "Meanwhile it forgets less of the first one.",
                f"{hat}: abstract, continued pretraining",
                {"less": forgotten("bpe") - forgotten("hat")},
                above(0),
                "bits per byte",
            ),
        ]
    )
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
        *of_learning,
    ]


def figure(results: Mapping[str, Any]) -> Figure:
    """Next words by protocol, bits per byte, what a spoilt context adds, and another language's bits by operations spent."""
    arms, learning = Arms(results), results["learning"]
    titles = ("next words", "held-out text", "after a spoilt context", f"going on with {list(results['corpora'])[-1]}")
    drawn, axes = panels(rows=2, columns=2, width=5.4, height=3.4, titles=titles)
    shown = LABELS | {"frequency": "words' frequencies"}
    values = {
        name: (label, np.stack([arms[name, f"any/{protocol}"] for protocol in PROTOCOLS], axis=1))
        for name, label in shown.items()
    }
    bars(axes[0], list(PROTOCOLS.values()), values)
    axes[0].tick_params(axis="x", labelsize=7)
    axes[0].set_ylabel("accuracy")
    axes[0].set_ylim(0, 1.9 * max(means.mean(axis=0).max() for _, means in values.values()))
    axes[0].legend(ncols=2, fontsize=7)
    values = np.stack([arms[name, "bits"] for name in SPELLED], axis=1)
    bars(axes[1], [LABELS[name].replace(", ", ",\n") for name in SPELLED], {"bits": ("", values)})
    axes[1].tick_params(axis="x", labelsize=7)
    axes[1].set_ylabel("bits per byte")
    added = {
        name: (LABELS[name], np.stack([arms[name, kind] - arms[name, "clean"] for kind in NOISE], axis=1))
        for name in SPELLED
    }
    bars(axes[2], NOISE, added)
    axes[2].set_ylabel("bits per byte more")
    axes[2].legend(fontsize=7)
    for name in learning:
        spent, color = [flops / 1e12 for flops in learning[name]["flops"]], PALETTE[list(LABELS).index(name)]
        band(axes[3], spent, learning[name]["second"], LABELS[name], color)
    axes[3].set_xlabel("10¹² forward operations")
    axes[3].set_ylabel("bits per byte")
    if learning:
        axes[3].legend()
    return drawn
