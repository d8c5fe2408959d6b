"""What a vocabulary is worth in bytes per token: superwords pass the ceiling that words set, a domain's needs half the size.

Liu et al. 2025 (SuperBPE, arXiv 2503.13423), Yang 2024 (Less is Better, arXiv 2403.00417), Bommarito et al. 2025 (KL3M, arXiv 2503.17247);
method cards superbpe, less-is-better-tokenizer, kl3m-tokenizers. Every seed divides the documents of a corpus anew, those of licences by
whole families. Ordinary BPE at all sizes is the curve that every other vocabulary is held against, whatever else it was made for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.assets import asset
from experiments.harness.figures import bars, lines, whiskers
from experiments.harness.intervals import interval
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, band, panels
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.vocabularies import (
    BINS,
    Vocabularies,
    measure_corpus,
    measure_domain,
    measure_published,
    superword_shares,
)
from lexinv.data.corpora import load_corpus
from lexinv.data.published_tokenizers import PUBLISHED_TOKENIZERS, load_published_tokenizer
from lexinv.tokenization.domain import abbreviations
from lexinv.validation import Checked, Distinct, Seeds

PAPERS = ("liu2025superbpe", "yang2024rethinking", "bommarito2025kl3m")
EFFICIENCY = "liu2025superbpe: encoding efficiency notebook"
LEAST = "yang2024rethinking: abstract"
FORCED = "case_name_abbreviations"
CODE = "python-stdlib"
PRINTED = {
    "US Code": (0.3181, 0.3716, 17),
    "mean of five data sets": (0.2417, 0.2636, 9),
    "legal terms": (4.20, 7.70, 83),
    "financial terms": (3.10, 4.30, 39),
}
"""KL3M's tables: tokens per character of its cased vocabulary and GPT-4o's, per term of its own and Llama 3's; and what is claimed."""


@dataclass(frozen=True)
class Config(Checked):
    """corpora: that vocabularies are trained on. lexicons: those that Less is Better reads, too. domain: and the general text beside it.

    forced: whether the domain's vocabulary is also trained with abbreviations of law forced into it. seeds: divisions of the documents.
    """

    vocabularies: Vocabularies = Vocabularies()
    corpora: Distinct[str] = ("kjv", "python-docs", CODE)
    lexicons: tuple[str, ...] = ("kjv", "python-docs")
    domain: Distinct[str] = ("licences", "python-docs")
    forced: bool = True
    seeds: Seeds = (0, 1, 2)

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        known = set(self.lexicons) <= set(self.corpora) and len(self.lexicons) > 0
        yield known, "lexicons", "some of the corpora"
        yield len(self.domain) == 2, "domain", "two: the domain and general text"
        known = set(self.vocabularies.published) <= set(PUBLISHED_TOKENIZERS)
        yield known, "vocabularies.published", f"some of {', '.join(PUBLISHED_TOKENIZERS)}"


PRESETS = presets(
    Config(),
    smoke={
        "vocabularies.sizes": (320, 400),
        "vocabularies.size": 400,
        "vocabularies.transitions": (0.7, 0.9),
        "vocabularies.most_bytes": 60_000,
        "vocabularies.others": 400,
        "vocabularies.domain_sizes": (300, 400),
        "vocabularies.published": (),
        "vocabularies.reads.documents": 16,
        "vocabularies.reads.sentences": 20,
        "corpora": ("python-docs", CODE),
        "lexicons": ("python-docs",),
        "domain": (CODE, "python-docs"),
        "forced": False,
        "seeds": (0, 1),
    },
    quick={"corpora": ("kjv",), "lexicons": ("kjv",), "vocabularies.published": ()},
    paper={
        "vocabularies.sizes": (10_000, 20_000, 50_000, 100_000, 200_000),
        "vocabularies.size": 200_000,
        "vocabularies.transitions": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        "vocabularies.most_bytes": 1_000_000_000,
        "vocabularies.others": 100_000,
        "vocabularies.domain_sizes": (65_536, 131_072),
        "vocabularies.reads.documents": 100_000,
        "corpora": ("tfds:c4", "tfds:wiki40b/en", "licences"),
        "lexicons": ("tfds:wiki40b/en",),
        "domain": ("licences", "tfds:c4"),
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By corpus and metric what `measure_corpus` finds; under `domain` what `measure_domain` does. ranks: shares of superwords."""
    names, made = dict.fromkeys((*config.corpora, *config.domain)), config.vocabularies
    needed = [PUBLISHED_TOKENIZERS[name][0] for name in made.published] + ["reporters"] * config.forced
    for name in sorted({*needed, *({"licences"} & set(names))}):
        asset(name, workspace)
    corpora = workspace.pinned("corpora", {name: load_corpus(name).fingerprint for name in names})
    forced = abbreviations(FORCED) if config.forced else ()

    def measure(name: str, seed: int) -> dict[str, Any]:
        return measure_corpus(name, seed, made, name in config.lexicons)

    def measure_others(name: str, seed: int) -> dict[str, Any]:
        if name == "domain":
            return measure_domain(config.domain, seed, made, forced)
        return measure_published(name.removeprefix("published/"), seed, made)

    texts = [name for name in names if name != CODE and made.published]
    others = measured(workspace, ("domain", *(f"published/{name}" for name in texts)), config.seeds, measure_others)
    return {
        "corpora": corpora,
        "seeds": config.seeds,
        "sizes": made.sizes,
        "size": made.size,
        "transitions": (0.0, *made.transitions, 1.0),
        "others": made.others,
        "lexicons": config.lexicons,
        "documents": made.reads.documents,
        "domain_sizes": made.domain_sizes,
        "published": {name: len(load_published_tokenizer(name).pieces) for name in made.published},
        "ranks": {name: superword_shares(load_published_tokenizer(name).pieces) for name in made.published[:1]},
        "arms": measured(workspace, config.corpora, config.seeds, measure),
        "published_rates": {name: others[f"published/{name}"] for name in texts},
        "domain": others["domain"],
    }


def savings(results: dict[str, Any], text: str) -> dict[str, np.ndarray]:
    """Per cent fewer tokens than the general vocabulary takes, by vocabulary; negative where it takes more."""
    tokens, names = np.array(results["domain"][text]), results["domain"]["names"][0]
    return {name: 100 * (1 - column / tokens[:, 0]) for name, column in zip(names, tokens.T, strict=True)}


def claims(results: dict[str, Any]) -> list[Claim]:
    """What the three papers say, and what a superword vocabulary in production does."""
    arms, lexicons, over = Arms(results), results["lexicons"], "divisions"
    size, transitions, times = results["size"], results["transitions"], "times the bytes per token"
    half, whole = results["domain_sizes"]
    by_transition = {name: arms[name, "transitions"] for name in arms}
    ends = {name: rates[:, [0, -1]].max(axis=1) for name, rates in by_transition.items()}
    ceiling = {name: arms[name, "ceiling"] for name in arms}

    def of_lexicons(metric: str, against: str, label: str = "{}") -> dict[str, np.ndarray]:
        return {label.format(name): arms[name, metric] / arms[name, against] for name in lexicons}

    both = of_lexicons("lib_types", "word_types", "types, {}") | of_lexicons("lib_tokens", "word_tokens", "tokens, {}")
    equal, across = of_lexicons("lib_tokens", "bpe_tokens"), of_lexicons("lib_tokens", "free_tokens")
    free = "takes fewer tokens than BPE of as many types that may cross spaces, too, which minimises just that"
    lexicon = {
        "lib_below_words_in_both": (
            "has fewer types than there are words, and takes fewer held-out tokens",
            LEAST,
            both,
        ),
        "lib_below_bpe_at_equal_types": ("takes fewer held-out tokens than BPE of as many types", LEAST, equal),
        "lib_below_bpe_across_words": (free, OURS, across),
    }
    bounds = {f"BPE, {name}": arms[name, "bpe"][:, -1] / ceiling[name] for name in arms}
    passed = {f"SuperBPE, {name}": arms[name, "superbpe"][:, -1] / ceiling[name] for name in arms}
    growth = {name: arms[name, "growth"] for name in lexicons}
    claimed = [
        Claim(
            "superwords_compress",
            f"At {size} tokens, the last {1 - transitions[-2]:.0%} of which may cross spaces, SuperBPE has 1.05 times BPE's bytes a token.",
            EFFICIENCY,
            {name: rates[:, -2] / rates[:, -1] for name, rates in by_transition.items()},
            above(1.05),
            times,
            "6.09 against 4.46 bytes (200,000 tokens)",
            over,
        ),
        Claim(
            "best_transition_is_inside",
            f"At {size} tokens some transition gives more bytes per token than both ends: no words at all, and nothing but words.",
            EFFICIENCY,
            {name: rates[:, 1:-1].max(axis=1) / ends[name] for name, rates in by_transition.items()},
            above(1),
            times,
            "6.63 against 6.24 and 4.46 bytes",
            over,
        ),
        Claim(
            "bpe_stays_below_its_bound",
            f"BPE stays below the bytes per word, its ceiling whatever its size; SuperBPE passes it (at {results['sizes'][-1]} tokens).",
            EFFICIENCY,
            bounds | passed,
            dict.fromkeys(bounds, below(1)) | dict.fromkeys(passed, above(1)),
            "bytes per token over bytes per word",
            "4.46 and 6.63 against 4.69 bytes",
            over,
        ),
        *(
            Claim(name, f"The lexicon of Less is Better {rest}.", source, ratios, below(1), "ratio", over=over)
            for name, (rest, source, ratios) in lexicon.items()
        ),
        Claim(
            "lexicon_saturates",
            f"The lexicon grows by less than 15 % in the last half of {results['documents']} documents.",
            "yang2024rethinking: demo of the released code",
            {name: 100 * (grown[:, -1] / grown[:, BINS // 2 - 1] - 1) for name, grown in growth.items()},
            below(15),
            "per cent",
            "710 entries after 100 documents, 1365 after 1000, 1807 after 4200",
            over,
        ),
        Claim(
            "half_the_vocabulary_suffices",
            f"On held-out text of the domain its BPE of {half} tokens takes 15 % fewer tokens than general BPE of {whole}.",
            "bommarito2025kl3m: abstract",
            {"fewer tokens": savings(results, "home")["half"]},
            above(15),
            "per cent",
            "9 to 17 % with 131,072 against 200,000 tokens",
            over,
        ),
        Claim(
            "general_wins_at_home",
            f"On general text the domain's BPE takes more tokens than general BPE of the same size, {whole}.",
            "bommarito2025kl3m: table of tokens per character, general content",
            {"more tokens": -savings(results, "away")["domain"]},
            above(0),
            "per cent",
            "1.2 %",
            over,
        ),
        Claim(
            "published_savings",
            "The paper's tables hold the savings of tokens that its abstract claims: 17 and 9 % on text, up to 83 % of legal and 39 % of "
            "financial terms. (They are how many more the others take.)",
            "bommarito2025kl3m: abstract",
            {name: 100 * (1 - ours / theirs) for name, (ours, theirs, _) in PRINTED.items()},
            {name: above(percent - 0.5) for name, (*_, percent) in PRINTED.items()},
            "per cent fewer tokens, from the printed tables",
            "17, 9, 83 and 39 %",
            "printed numbers",
        ),
    ]
    if results["published"]:
        (one, others), (large, fewer) = results["published"].keys(), results["published"].values()
        rates = {name: np.divide(found[one], found[others]) for name, found in results["published_rates"].items()}
        claimed.append(
            Claim(
                "production_superwords_compress",
                f"AI21's {one}, {large:,} pieces of which many are several words, has more bytes per token of English than {others}, "
                f"{fewer:,} tokens within words.",
                OURS,
                rates,
                above(1),
                times,
                over=over,
            )
        )
    return claimed


def draw_sizes(axes: Axes, results: dict[str, Any], name: str) -> None:
    """Bytes per token against the size of the vocabulary, on a corpus."""
    arms, sizes, at = Arms(results), results["sizes"], list(results["sizes"]).index(results["size"])
    band(axes, sizes, arms[name, "bpe"], "BPE", BLUE, marker="o", markersize=3)
    band(axes, sizes, arms[name, "free"], "BPE without words", SKY, marker="o", markersize=3)
    band(axes, sizes, arms[name, "chunks"], "random chunks", PURPLE, marker="o", markersize=3)
    label = f"SuperBPE, transition {results['transitions'][-2]:g} of {results['size']}"
    band(axes, sizes[at:], arms[name, "superbpe"][:, at:], label, VERMILION, marker="o", markersize=3)

    def point(x: float, rates: np.ndarray, label: str, color: str, marker: str) -> None:
        whiskers(axes, [x], [interval(rates.tolist())], color, label, marker=marker, markersize=5, linestyle="none")

    point(results["others"], arms[name, "unigram"], "Unigram", GREEN, "^")
    point(results["others"], arms[name, "wordpiece"], "WordPiece", GREEN, "v")
    if name in results["lexicons"]:
        bytes_held = arms[name, "bytes"]
        point(arms[name, "lib_types"].mean(), bytes_held / arms[name, "lib_tokens"], "Less is Better", ORANGE, "D")
        point(arms[name, "word_types"].mean(), arms[name, "ceiling"], "words", BLACK, "s")
    for (other, rates), marker in zip(results["published_rates"].get(name, {}).items(), "Pp", strict=False):
        point(results["published"][other], np.array(rates), other, GREY, marker)
    axes.axhline(arms[name, "ceiling"].mean(), color=BLACK, linestyle="--", linewidth=1, label="bytes per word")
    axes.set(xscale="log", title=name, xlabel="types", ylabel="bytes per held-out token")
    ticks = [*sizes[::2], *(list(results["published"].values())[:1] if name in results["published_rates"] else [])]
    axes.set_xticks(ticks, [f"{tick / 1024:.0f}k" for tick in ticks])
    axes.minorticks_off()


def figure(results: dict[str, Any]) -> Figure:
    """Bytes per token by size on each corpus and by transition, the lexicon's growth, the domain's savings, superwords by rank."""
    arms, names = Arms(results), list(results["arms"])
    drawn, axes = panels((len(names) + 7) // 4, 4, width=3.9, height=3.5)
    for panel, name in zip(axes, names, strict=False):
        draw_sizes(panel, results, name)
    for panel in axes[len(names) + 4 :]:
        panel.set_axis_off()
    fullest = axes[names.index(results["lexicons"][0])]
    drawn.legend(*fullest.get_legend_handles_labels(), loc="outside upper center", ncols=6)
    moving, growing, saving, ranked = axes[len(names) : len(names) + 4]
    gains = {name: arms[name, "transitions"] / arms[name, "transitions"][:, -1:] for name in names}
    lines(moving, results["transitions"], gains)
    moving.set(title=f"where superwords begin, {results['size']} tokens", ylabel="times BPE's bytes per token")
    moving.set(xlabel="transition (1: ordinary BPE)")
    moving.legend()
    read = [number * results["documents"] / BINS for number in range(1, BINS + 1)]
    for name, color in zip(results["lexicons"], (BLUE, VERMILION), strict=False):
        band(growing, read, arms[name, "growth"], name, color)
    growing.set(title="the lexicon of Less is Better", xlabel="documents", ylabel="entries", ylim=(0, None))
    growing.legend()
    half, whole = results["domain_sizes"]
    labels = {"half": f"{half}", "domain": f"{whole}", "forced": f"{whole},\nforced", "short": f"{whole},\nshort"}
    texts = {"home": "the domain", "away": "general text"}
    found = {
        text: (label, np.stack([savings(results, text)[kind] for kind in labels], 1)) for text, label in texts.items()
    }
    bars(saving, list(labels.values()), found)
    saving.axhline(0, color=BLACK, linewidth=0.7)
    saving.set(title="a domain's vocabulary", ylabel=f"% fewer tokens than general {whole}")
    saving.margins(y=0.3)
    saving.legend(loc="upper center", ncols=2)
    places = [(number + 0.5) / BINS for number in range(BINS)]
    for name, color in zip(names, (BLUE, VERMILION, GREEN, ORANGE), strict=False):
        band(ranked, places, arms[name, "superwords"], name, color)
    for name, shares in results["ranks"].items():
        ranked.plot(places, shares, color=BLACK, label=name)
    ranked.set(
        title="superwords by rank, SuperBPE and J2",
        xlabel="rank over size",
        ylabel="share of several words",
        ylim=(0, 1),
    )
    ranked.legend(loc="upper left")
    return drawn
