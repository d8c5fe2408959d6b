"""Threads through haystacks: a language model copies where it should follow, long before its window ends, and token counts mislead.

Roberts, Han and Albanie 2024 (arXiv 2411.05000); method card needle-threading. SmolLM2 is asked all tasks in up to 4,000 tokens, beside
solvers that do not read; small models are trained on threads of symbols, to see which direction is learned.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.harness.figures import share_map, whiskers
from experiments.harness.intervals import share_difference
from experiments.harness.presets import presets
from experiments.harness.style import BLUE, GREEN, GREY, ORANGE, PALETTE, VERMILION, band, panels, reference, styled
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.haystack_readers import Reader, ReaderConfig, measure
from experiments.subjects.pretrained_language_model import open_pretrained
from experiments.subjects.thread_followers import WAYS, FollowersConfig, followed
from experiments.subjects.token_costs import TokenizerConfig, fertilities
from lexinv.data.corpora import load_corpus
from lexinv.lexinvariance import haystacks
from lexinv.lexinvariance.threads import Limits
from lexinv.validation import Checked

PAPERS = ("roberts2025needle",)
LEVEL = 0.75
"""Accuracy up to which a context counts as effective (the paper's)."""


@dataclass(frozen=True)
class Config(Checked):
    reader: ReaderConfig = ReaderConfig()
    followers: FollowersConfig = FollowersConfig()
    tokenizers: TokenizerConfig = TokenizerConfig()


PRESETS = presets(
    Config(),
    smoke={
        "reader": ReaderConfig("smollm2", (2,), (1,), depths=(0.0, 50.0, 100.0), needles=2, links=(1,), baselines=10),
        "followers.model.depth": 1,
        "followers.model.width": 32,
        "followers.model.mlp_width": 32,
        "followers.training.steps": 2,
        "followers.training.seeds": (0, 1),
        "followers.training.batch_size": 4,
        "followers.training.optimizer.warmup_steps": 1,
        "followers.limits": Limits(symbols=32, pairs=8, threads=2, length=2),
        "followers.fewest_pairs": 4,
        "followers.items": 8,
        "tokenizers": TokenizerConfig(
            code="python-docs",
            tokenizers=(("byte", "python-docs"), ("bpe:300", "python-docs")),
            characters=2_000,
        ),
    },
    quick={"reader.pairs": (4, 10), "reader.items": (4, 2)},
    paper={
        "reader.pairs": (4, 10, 24, 50, 100),
        "reader.items": (50, 50, 50, 50, 50),
        "reader.depths": tuple(float(depth) for depth in range(0, 101, 10)),
        "followers.model": replace(FollowersConfig().model, depth=4, width=512, mlp_width=2048, unroll=4),
        "followers.training.steps": 6000,
        "followers.training.batch_size": 128,
        "followers.training.steps_per_dispatch": 10,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """A pretrained reader, tokenizers, trained followers; every list with one entry per seed has the seeds outermost."""
    chosen, reader, seeds = config.tokenizers, config.reader, config.followers.training.seeds
    world = open_pretrained(reader.model, workspace)
    names = dict.fromkeys([chosen.prose, chosen.code, *(corpus for _, corpus in chosen.tokenizers)])
    corpora = {name: load_corpus(name) for name in names}
    fingerprints = workspace.pinned("corpora", {name: corpus.fingerprint for name, corpus in corpora.items()})
    published = {reader.model: world.tokenizer}
    costs = workspace.cached("fertility", lambda: [fertilities(chosen, corpora, seed, published) for seed in seeds])
    sizes = [measure(reader, world, number, workspace) for number in range(len(reader.pairs))]
    return {
        "seeds": list(seeds),
        "corpora": fingerprints,
        "fertility": costs,
        "reader": {
            "model": reader.model,
            "nominal": world.model.config.max_length,
            "pairs": list(reader.pairs),
            "links": list(reader.links),
            "depths": list(reader.depths),
            "sizes": sizes,
        },
        "followers": workspace.cached("followed", lambda: followed(config.followers, workspace)),
        "chance": 1 / config.followers.limits.pairs,
    }


def inversions(costs: dict[str, dict[str, float]]) -> int:
    """Pairs of tokenizers of which the first needs fewer tokens for prose and more for UUIDs."""
    rows = list(costs.values())
    return sum(a["prose"] < b["prose"] and a["UUIDs"] > b["UUIDs"] for a in rows for b in rows)


def spread(results: dict[str, Any], text: str) -> np.ndarray:
    """The most over the fewest tokens of a subword tokenizer for the same text, per seed."""
    rows = [[costs[text] for name, costs in seed.items() if name != "byte"] for seed in results["fertility"]]
    return np.array([max(row) / min(row) for row in rows])


def opened(results: dict[str, Any]) -> Reader:
    """The reader's answers; its window in characters is what its tokenizer makes of UUIDs."""
    asked = results["reader"]
    tokens = results["fertility"][0][asked["model"]]["UUIDs"] / haystacks.PAIR_CHARACTERS
    return Reader(asked["sizes"], asked["nominal"] / tokens)


def claims(results: dict[str, Any]) -> list[Claim]:
    """The tokenizers; what the paper says of models, judged on the pretrained one; and the direction that is learned."""
    reader, links, alone = opened(results), results["reader"]["links"], "one needle"
    few, most = f"{links[0]} links", f"{links[-1]} links"
    middle, last = "one needle at 50 %", len(reader.sizes) - 1
    several = {way: np.array(results["followers"]["trained"][way])[:, 1:].mean(axis=1) for way in WAYS}
    begun = np.array(results["followers"]["start"]["forward"])[:, 1:].mean(axis=1)

    of_model = partial(Claim, unit="difference of accuracies", over="values asked for")

    return [
        Claim(
            "ranking_by_tokens_inverts",
            "Which of two tokenizers needs fewer tokens depends on the text.",
            "roberts2025needle: abstract",
            {"pairs": np.array([inversions(seed) for seed in results["fertility"]])},
            above(0).every_seed,
            "pairs of tokenizers that swap between prose and UUIDs",
        ),
        Claim(
            "uuid_fertility_varies",
            "The same UUIDs cost one subword tokenizer more than 1.3 times the tokens of another; beside it the same for prose.",
            "roberts2025needle",
            {text: spread(results, text) for text in ("UUIDs", "prose")},
            {"UUIDs": above(1.3)},
            "most over fewest tokens",
            "75 tokens (Gemini 1.5) against 50 (GPT-4o): 1.5",
        ),
        of_model(
            "reads_what_is_asked",
            "The model finds more values than solvers that do not read and say any value, or the last one. Beside it the ends of threads.",
            OURS,
            {task: reader.share(task) for task in (alone, "needles", "marked", few, most)},
            {task: above(reader.baseline(task)) for task in (alone, "needles", "marked")},
            unit="accuracy",
        ),
        of_model(
            "accuracy_falls_with_context",
            f"One needle is found more often in {reader.characters[0]:,} characters than in {reader.characters[-1]:,}.",
            "roberts2025needle: abstract",
            {alone: share_difference(reader.share(alone, 0), reader.share(alone, last))},
            above(0),
        ),
        of_model(
            "effective_context_below_a_quarter",
            f"The context up to which {LEVEL:.0%} of the answers are right is less than a quarter of the window.",
            "roberts2025needle: abstract",
            {task: reader.effective(task, LEVEL) for task in (alone, "needles", "marked", most)},
            below(0.25),
            unit="share of the window",
            published="0 for threads of 5 links, for all models but two (0.01 and 0.03)",
        ),
        of_model(
            "ends_above_the_middle",
            "One needle is found more often at the beginning and at the end of the haystack than in its middle.",
            "roberts2025needle: README",
            {f"at {depth} %": reader.more(f"one needle at {depth} %", middle) for depth in (0, 100)},
            above(0),
        ),
        of_model(
            "clustering_helps_conditions",
            "Values of all keys with a mark are found more often where these keys stand side by side.",
            "roberts2025needle: README",
            {"marked": reader.more("marked, clustered", "marked, random")},
            above(0),
        ),
        of_model(
            "threads_cost_more_than_needles",
            "Of as many pairs, the values of needles are found more often than the end of a thread.",
            "roberts2025needle",
            {"needles less threads": reader.more("needles", most)},
            above(0),
        ),
        of_model(
            "forward_above_backward",
            f"The end of a thread of {links[0]} links is found more often where the thread goes forward. Beside it the same of a "
            "solver that does not read, since ends of forward threads lie late.",
            "roberts2025needle: README",
            {
                few: reader.more(f"{few} forward", f"{few} backward"),
                "without reading": reader.baseline(f"{few} forward") - reader.baseline(f"{few} backward"),
            },
            {few: above(0)},
            published="forward easier for most models",
        ),
        of_model(
            "copies_where_it_should_follow",
            "Asked for the end of a thread the model says more often the value beside the key.",
            OURS,
            {
                task: share_difference(reader.share(task, what="copied"), reader.share(task))
                for task in dict.fromkeys((few, most))
            },
            above(0),
        ),
        Claim(
            "trained_forward_above_backward",
            "Models trained on threads of symbols in both directions say the end of forward ones more often.",
            "roberts2025needle: README",
            {"forward less backward": several["forward"] - several["backward"]},
            above(0),
            "difference of accuracies",
            "forward easier for most models",
        ),
        Claim(
            "trained_above_their_start",
            "The trained models say the end of forward threads more often than before training.",
            OURS,
            {"trained less start": several["forward"] - begun},
            above(0),
            "difference of accuracies",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """The reader by depth, by task and by length beside solvers that do not read; what it says of threads; tokens; what was learned."""
    reader, asked, model = opened(results), results["reader"], results["reader"]["model"]
    titles = (
        *(f"{model}: one needle", f"{model}: all tasks", "Tokens by text"),
        *(f"{model} against not reading", f"{model}: what it says of a thread", "Trained: the end of a thread"),
    )
    drawn, axes = panels(2, 3, width=4.4, height=3.4, titles=titles)
    sizes, lengths = range(len(reader.sizes)), [f"{characters:,}" for characters in reader.characters]
    depths = {f"{depth:g}": f"one needle at {depth:g} %" for depth in asked["depths"]}
    lines = ("one needle", "needles", "marked", f"{asked['links'][0]} links")
    tasks = {"one needle": "one needle"} | {name: name for name in reader.sizes[0]["found"] if "one" not in name}
    threads = [f"{links} links {way}" for links in asked["links"] for way in WAYS]
    trained, begun = results["followers"]["trained"], np.array(results["followers"]["start"]["forward"])
    links = range(1, begun.shape[1] + 1)
    with styled():
        for panel, rows in zip(axes, (depths, tasks), strict=False):
            shares = [[reader.share(task, size) for size in sizes] for task in rows.values()]
            share_map(panel, shares, lengths, list(rows))
            panel.set_xlabel("characters of the haystack")
        axes[0].set_ylabel("depth of the needle, %")
        draw_costs(axes[2], results["fertility"])
        for number, (task, color) in enumerate(zip(lines, PALETTE, strict=False)):
            beside = np.array(reader.characters) * 1.05 ** (number - 1.5)  # or the whiskers would lie over one another
            whiskers(axes[3], beside, [reader.share(task, size) for size in sizes], color, task)
            axes[3].plot(reader.characters, [reader.baseline(task, size) for size in sizes], ":", color=color)
        axes[3].plot([], [], ":", color=GREY, label="without reading")
        reference(axes[3], LEVEL, "effective")
        axes[3].set(xlabel="characters of the haystack", xscale="log", ylabel="accuracy")
        axes[3].set_xticks(reader.characters, lengths)
        axes[3].minorticks_off()
        for what, label, color, shift in (
            ("copied", "its first link", ORANGE, -0.08),
            ("found", "its end", BLUE, 0.08),
        ):
            shares = [reader.share(name, what=what) for name in threads]
            whiskers(axes[4], np.arange(len(threads)) + shift, shares, color, label, linestyle="none")
        axes[4].set_xticks(range(len(threads)), [name.replace(" links ", " links\n") for name in threads])
        axes[4].set_ylabel("share of threads")
        for way, color in zip(WAYS, (BLUE, VERMILION), strict=True):
            band(axes[5], links, trained[way], way, color, marker="o", markersize=3)
        band(axes[5], links, begun, "forward, before training", GREEN, linestyle=":")
        reference(axes[5], results["chance"], "chance")
        axes[5].set(xlabel="links", ylabel="accuracy", xticks=links)
        for panel in axes[3:]:
            panel.set_ylim(-0.02, 1.05)
            panel.legend(fontsize=7, loc="upper right")
    return drawn


def draw_costs(axes: Axes, costs: list[dict[str, dict[str, float]]]) -> None:
    """Tokens of every tokenizer for 80 characters of each text: the mean over seeds with the range."""
    names = list(costs[0])
    for text, color in zip(costs[0][names[0]], PALETTE, strict=False):
        rows = np.array([[seed[name][text] for name in names] for seed in costs])
        axes.plot(rows.mean(axis=0), range(len(names)), "o", color=color, markersize=4, label=text)
        axes.hlines(range(len(names)), rows.min(axis=0), rows.max(axis=0), color=color, linewidth=1.2)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set(xlabel="tokens per 80 characters", xlim=(0, 85))
    axes.legend(loc="center left", fontsize=7, handletextpad=0.0, borderaxespad=0.0, frameon=True)
