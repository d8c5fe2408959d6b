"""The order of its merges tells what languages a BPE tokenizer was trained on, to a few thousandths; kinds of English far less well.

Hayase et al. 2024 (arXiv 2407.16607); method card data-mixture-inference. Every seed draws a mixture at random and divides the documents of
every category anew: a tokenizer is trained on one half, with all text of a category counted as often as its share asks for, and the other
half is what the linear programme sees. Published tokenizers are held against our text, which is not theirs: their shares are no estimates.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.assets import asset
from experiments.harness.figures import bars, dots
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, PALETTE, panels
from experiments.harness.verdicts import OURS, Claim, above
from experiments.harness.workspace import Workspace
from experiments.subjects.tokenizer_mixtures import documents_of, halved, inferred, measure_mixture
from lexinv.data.corpora import load_corpus
from lexinv.data.published import PUBLISHED, load_published
from lexinv.tokenization.mixture import from_lengths
from lexinv.validation import Checked, Count, Distinct, Seeds

PAPERS = ("hayase2024data",)
TABLE = "hayase2024data: results notebook, table by categories"
# Of the tokenizers that we train: GPT-2's expression, and digits alone, as in the paper.
SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
MANY = "ta bg uk ru el he ga ja de fr hu pt es pl sq cs it nl tr hr fi ko id cy da ro zh_Hans sv"
ENGLISH = ("python-stdlib", "python-docs", "kjv", "licences")
WORLDS = {"languages": "5 languages", "many": "28 languages", "domains": "5 kinds of English"}


def messages(languages: str) -> tuple[str, ...]:
    return tuple(f"messages:{language}" for language in languages.split())


@dataclass(frozen=True)
class Config(Checked):
    """languages, many, domains: corpora, each a category; the first of `texts` is the code. merges: of a tokenizer that we train.

    most_bytes: of each corpus. seeds: mixtures and divisions. many_seeds, list_seeds: how many of them for `many` and for published lists.
    """

    languages: Distinct[str] = messages("de fr ru ja tr")
    many: Distinct[str] = messages(MANY)
    domains: Distinct[str] = (*ENGLISH, "messages:en_GB")
    texts: Distinct[str] = (*ENGLISH, *messages("de es fr pt ru ja ko zh_Hans"))
    published: tuple[str, ...] = ("cl100k", "tekken", "qwen", "smollm2")
    merges: Count = 400
    list_merges: Count = 300
    most_bytes: Count = 1_000_000
    seeds: Seeds = tuple(range(20))
    many_seeds: Count = 6
    list_seeds: Count = 3

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        for field in ("languages", "many", "domains", "texts"):
            yield len(getattr(self, field)) >= 3, field, "at least three: one of them is left out once"
        yield set(self.published) <= set(PUBLISHED), "published", f"some of {', '.join(PUBLISHED)}"
        yield len(self.seeds) >= 4, "seeds", "at least four: a baseline is fitted to the others"
        yield 4 <= self.many_seeds <= len(self.seeds), "many_seeds", "at least four, at most as many as seeds"
        yield self.list_seeds <= len(self.seeds), "list_seeds", "at most as many as seeds"


WIKIPEDIA = "de en es fr it ja ko nl pl pt ru tr zh-cn zh-tw ar bg ca cs da el et fa fi he hi hr hu id lt lv"
PRESETS = presets(
    Config(),
    smoke={
        **dict.fromkeys(("languages", "many", "domains", "texts"), ENGLISH[:3]),
        "published": (),
        "merges": 40,
        "most_bytes": 60_000,
        "seeds": (0, 1, 2, 3),
        "many_seeds": 4,
    },
    paper={
        "languages": tuple(f"tfds:wiki40b/{language}" for language in WIKIPEDIA.split()[:5]),
        "many": tuple(f"tfds:wiki40b/{language}" for language in WIKIPEDIA.split()),
        "merges": 5000,
        "list_merges": 10_000,
        "most_bytes": 50_000_000,
        "seeds": tuple(range(100)),
        "many_seeds": 100,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By world and metric [seeds, categories], shares of bytes: true, inferred, unconverted (pairs taken for bytes), classified; of
    languages also those inferred without the last category. bytes_per_token, slack, rounds and missing merges. By published list
    inferred [seeds, texts] and the same."""
    worlds = {world: getattr(config, world) for world in WORLDS}
    names = dict.fromkeys(
        name for each in (*worlds.values(), config.texts if config.published else ()) for name in each
    )
    needed = {name.partition(":")[0] for name in names} & {"messages", "licences"}
    for name in sorted(needed | {PUBLISHED[name] for name in config.published}):
        asset(name, workspace)
    corpora = workspace.pinned("corpora", {name: load_corpus(name).fingerprint for name in names})

    @cache
    def documents(name: str, split: str) -> list[Counter[str]]:
        return documents_of(name, split, config.most_bytes)

    def measure(world: str, seed: int) -> dict[str, Any]:
        found = [documents(name, SPLIT) for name in worlds[world]]
        return measure_mixture(found, config.merges, seed, world == "languages")

    def measure_list(name: str, seed: int) -> dict[str, Any]:
        real = load_published(name, config.list_merges)
        halves = [halved(documents(text, real.split), np.random.default_rng(seed))[0] for text in config.texts]
        return inferred(halves, real.merges)[0]

    arms: dict[str, Any] = {}
    for world in WORLDS:
        seeds = config.seeds[: config.many_seeds if world == "many" else None]
        arms |= measured(workspace, (world,), seeds, measure)
    lists = measured(workspace, config.published, config.seeds[: config.list_seeds], measure_list)
    found = {"corpora": corpora, "seeds": config.seeds, "worlds": worlds, "texts": config.texts}
    return found | {"arms": arms, "lists": lists}


def error(shares: np.ndarray, true: np.ndarray) -> np.ndarray:
    """log10 of the mean squared error of the shares, a number for each seed."""
    return np.log10(np.mean((np.asarray(shares) - true) ** 2, axis=-1))


def errors(results: dict[str, Any], world: str) -> dict[str, np.ndarray]:
    """By method the error of each seed."""
    arms = Arms(results)
    true = arms[world, "true"]
    drawn = np.random.default_rng(len(true)).dirichlet(np.ones(true.shape[1]), len(true))
    shares = {
        "linear programme": arms[world, "inferred"],
        "pairs taken for bytes": arms[world, "unconverted"],
        "classified tokens": arms[world, "classified"],
        "bytes per token": from_lengths(arms[world, "tokens"], true),
        "uniform": np.full_like(true, 1 / true.shape[1]),
        "random": drawn,
    }
    return {method: error(found, true) for method, found in shares.items()}


def claims(results: dict[str, Any]) -> list[Claim]:
    """What the paper says of mixtures that are known, what makes them harder to tell, and code in published lists."""
    found = {world: errors(results, world) for world in WORLDS}
    arms, over, unit = Arms(results), "mixtures", "decades of mean squared error"
    languages = {WORLDS[world]: found[world] for world in ("languages", "many")}
    baselines = ("classified tokens", "bytes per token", "uniform", "random")
    without = (arms["languages", metric][:, :-1] for metric in ("inferred", "true"))
    kept, rest = (each / each.sum(axis=1, keepdims=True) for each in without)
    claimed = [
        Claim(
            "three_decades_below_uniform",
            "The mixture of languages inferred from merges is three decades nearer to the true one than a uniform guess.",
            TABLE,
            {world: each["uniform"] - each["linear programme"] for world, each in languages.items()},
            above(3),
            unit,
            "5 languages: 5.6; 30 languages: 4.7 (30,000 merges, 1 GB a language)",
            over,
        ),
        Claim(
            "a_decade_below_baselines",
            "It is a decade nearer than the best of the baselines: classified tokens, bytes per token, a uniform and a random guess.",
            "hayase2024data: README, baselines [recalled]",
            {
                world: np.min([each[name] for name in baselines], axis=0) - each["linear programme"]
                for world, each in languages.items()
            },
            above(1),
            unit,
            "2 to 5",
            over,
        ),
        Claim(
            "domains_are_harder",
            "Kinds of text in one language are a decade harder to tell than languages, and still a decade better than a uniform guess.",
            TABLE,
            {
                "above languages": found["domains"]["linear programme"] - found["languages"]["linear programme"],
                "below uniform": found["domains"]["uniform"] - found["domains"]["linear programme"],
            },
            above(1),
            unit,
            "3.9 and 1.7",
            over,
        ),
        Claim(
            "omitted_categories_cost",
            "Where a language of the training text is unknown to us, the shares of the others among themselves are less exact.",
            "hayase2024data: results notebook, omitted categories",
            {"the last of 5 languages": error(arms["languages", "omitted"], rest) - error(kept, rest)},
            above(0),
            unit,
            over=over,
        ),
        Claim(
            "bytes_are_not_pairs",
            "The programme's weights are shares of pairs; taken for shares of bytes they are a decade worse.",
            OURS,
            {world: each["pairs taken for bytes"] - each["linear programme"] for world, each in languages.items()},
            above(1),
            unit,
            over=over,
        ),
    ]
    code = {name: np.array(each["inferred"])[:, 0] for name, each in results["lists"].items()}
    if code.keys() >= {"cl100k", "tekken", "qwen"}:
        claimed += [
            Claim(
                "cl100k_has_more_code_than_tekken",
                "The merges of cl100k tell of at least twice as much code as those of Tekken (beside: Qwen's, which hold cl100k's). "
                "Against our text, which is not theirs: the shares themselves are no estimates.",
                "hayase2024data: abstract",
                {
                    "cl100k over Tekken": code["cl100k"] / code["tekken"],
                    "Qwen over cl100k": code["qwen"] / code["cl100k"],
                }
                | {f"share, {name}": shares for name, shares in code.items()},
                {"cl100k over Tekken": above(2).every_seed},
                "ratio of the shares of code, and the shares",
                "60 % code in GPT-3.5's",
                "divisions",
            ),
        ]
    return claimed


def figure(results: dict[str, Any]) -> Figure:
    """Inferred against true shares, errors of all methods with 5 and 28 languages and 5 kinds of English, published lists."""
    arms, short = Arms(results), [name.removeprefix("messages:") for name in results["texts"]]
    drawn, axes = panels(2, 3, width=4.8, height=3.6)
    for (world, label), color in zip(WORLDS.items(), PALETTE, strict=False):
        true, found = arms[world, "true"].ravel(), np.maximum(arms[world, "inferred"].ravel(), 1e-5)
        axes[0].plot(true, found, ".", color=color, label=label, markersize=4, alpha=0.7)
    axes[0].plot([1e-5, 1], [1e-5, 1], color=BLACK, linewidth=0.7)
    axes[0].set(xscale="log", yscale="log", xlabel="true share of bytes", ylabel="inferred (at least 1e-5)")
    axes[0].set(xlim=(1e-4, 1), ylim=(0.8e-5, 1), title="shares")
    axes[0].legend(loc="lower right")
    for panel, (world, label) in zip(axes[1:], WORLDS.items(), strict=False):
        dots(panel, errors(results, world))
        panel.set(title=label, xlabel="log10 of the mean squared error", xlim=(-6.5, 0))
    if lists := results["lists"]:
        within = {
            name: (f"{name}, slack {np.mean(each['slack']):.0f}", each["inferred"]) for name, each in lists.items()
        }
        bars(axes[4], short, within)
        axes[4].set(title="published lists (no estimates)", ylabel="inferred share of bytes", ylim=(0, 1))
        axes[4].set_xticks(range(len(short)), short, rotation=60, ha="right", rotation_mode="anchor")
        axes[4].legend(title="pairs per million and merge", fontsize=7.5)
    axes[5].set_axis_off()
    return drawn
