"""Threads through haystacks: planted faults are found, token counts mislead, and small models follow links in context.

Roberts, Han and Albanie 2024 (arXiv 2411.05000); method card needle-threading. Standard and lexinvariant models are trained on the symbolic
task, where which symbol it is says nothing: to answer with every link of a thread (chain), and with its last value only (direct).
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from experiments.harness.presets import presets
from experiments.harness.style import BLUE, GREY, PALETTE, VERMILION, band, panels, reference, styled
from experiments.harness.verdicts import OURS, Claim, above, below, between
from experiments.harness.workspace import Workspace
from experiments.subjects.haystacks import SolverConfig, TokenizerConfig, fertilities, planted
from experiments.subjects.thread_followers import DEPTHS, ModelsConfig, TaskConfig, trained, untrained
from lexinv.data.corpora import load_corpus
from lexinv.lexinvariance import haystack_scores, haystacks
from lexinv.lexinvariance.threads import Limits
from lexinv.validation import Checked

PAPERS = ("roberts2025needle",)
LEVEL = 0.75
"""Accuracy up to which a context counts as effective (the paper's)."""
TOLERANCE = 0.05
"""Five points of accuracy, within which the card calls two settings as good as each other."""
KINDS = {"standard": BLUE, "lexinvariant": VERMILION}


@dataclass(frozen=True)
class Config(Checked):
    models: ModelsConfig = ModelsConfig()
    solvers: SolverConfig = SolverConfig()
    tokenizers: TokenizerConfig = TokenizerConfig()


PRESETS = presets(
    Config(),
    smoke={
        "models.model.width": 32,
        "models.model.mlp_width": 32,
        "models.training.steps": 4,
        "models.training.seeds": (0, 1),
        "models.training.batch_size": 4,
        "models.training.optimizer.warmup_steps": 2,
        "models.task": TaskConfig(
            Limits(symbols=32, pairs=8, threads=2, length=2),
            fewest_pairs=4,
            pairs=(8, 16),
            compared=8,
            threads=(1, 4),
            items=8,
        ),
        "solvers": SolverConfig(window=4000, lengths=4, depths=11, hops=(1, 4), repeats=20),
        "tokenizers": TokenizerConfig(
            code="python-docs",
            tokenizers=(("byte", "python-docs"), ("bpe:300", "python-docs"), ("bpe:1024", "python-docs")),
            characters=20_000,
        ),
    },
    paper={
        "models.model": replace(ModelsConfig().model, depth=4, width=512, mlp_width=2048, unroll=4, max_length=8192),
        "models.training.steps": 6000,
        "models.training.batch_size": 128,
        "models.training.steps_per_dispatch": 10,
        "models.task": TaskConfig(
            Limits(symbols=3072, pairs=24, threads=4, length=4), pairs=(8, 16, 24, 48, 96, 192, 384, 768, 1536)
        ),
        "solvers": SolverConfig(lengths=400, depths=11),
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Solvers, tokenizers and models, one after another; every list with one entry per seed has the seeds outermost."""
    chosen = config.tokenizers
    names = dict.fromkeys([chosen.prose, chosen.code, *(corpus for _, corpus in chosen.tokenizers)])
    corpora = {name: load_corpus(name) for name in names}
    fingerprints = workspace.pinned("corpora", {name: corpus.fingerprint for name, corpus in corpora.items()})
    models = config.models
    seeds, task = models.training.seeds, models.task
    # First what takes seconds: its configuration is refused before anything is trained.
    solvers = workspace.cached("solvers", lambda: [planted(config.solvers, seed) for seed in seeds])
    costs = workspace.cached("fertility", lambda: [fertilities(chosen, corpora, seed) for seed in seeds])
    arms = {kind: workspace.cached(f"models/{kind}", partial(trained, kind, models, workspace)) for kind in KINDS}
    for name in ("circuit", "plain"):
        arms[name] = workspace.cached(f"models/{name}", partial(untrained, name, models))
    return {
        "seeds": list(seeds),
        "corpora": fingerprints,
        "solvers": solvers,
        "planted": {name: getattr(config.solvers, name) for name in ("window", "error", "blind", "step", "hops")},
        "fertility": costs,
        "task": {name: getattr(task, name) for name in ("pairs", "compared", "threads", "thread_length")},
        "trained_pairs": task.trained.pairs,
        "models": arms,
    }


def recovered(results: dict[str, Any]) -> dict[str, np.ndarray]:
    """What the harness finds in the solvers, per seed: accuracy of the perfect one, window, error per hop, blind share."""
    from scipy.optimize import curve_fit

    def error(solvers: dict[str, Any]) -> float:
        return curve_fit(lambda hops, e: (1 - e) ** hops, results["planted"]["hops"], solvers["chains"], 0.5)[0][0]

    def window(solvers: dict[str, Any]) -> float:
        # A needle at the very beginning is seen as long as the whole haystack is.
        lengths = np.array(solvers["characters"], np.float64)
        return haystack_scores.effective_length(lengths, np.array(solvers["window"][0]), LEVEL)

    found = {
        "perfect": lambda solvers: np.mean(solvers["perfect"]),
        "window": window,
        "error": error,
        "blind": lambda solvers: 1 - np.mean(solvers["middle"]),
    }
    return {name: np.array([of(solvers) for solvers in results["solvers"]]) for name, of in found.items()}


def inversions(costs: dict[str, dict[str, float]]) -> int:
    """Pairs of tokenizers of which the first needs fewer tokens for prose and more for UUIDs."""
    rows = list(costs.values())
    return sum(a["prose"] < b["prose"] and a["UUIDs"] > b["UUIDs"] for a in rows for b in rows)


def spread(results: dict[str, Any], text: str) -> np.ndarray:
    """The most over the fewest tokens of a subword tokenizer for the same text, per seed."""
    rows = [[costs[text] for name, costs in seed.items() if name != "byte"] for seed in results["fertility"]]
    return np.array([max(row) / min(row) for row in rows])


def accuracy(results: dict[str, Any], kind: str, name: str) -> np.ndarray:
    """One measure of a model, seeds first."""
    return np.array(results["models"][kind][name])


def effective_pairs(results: dict[str, Any], kind: str) -> np.ndarray:
    """Effective context in pairs, by seed and length of the thread."""
    pairs = np.array(results["task"]["pairs"], np.float64)
    return np.array([haystack_scores.contour(pairs, rows, LEVEL) for rows in accuracy(results, kind, "chains")])


def claims(results: dict[str, Any]) -> list[Claim]:
    """The harness, the tokenizers, the four expectations of the card about models, and the comparison of the lexica."""
    planted, task, most = results["planted"], results["task"], results["trained_pairs"]
    step = planted["step"] * haystacks.PAIR_CHARACTERS

    def near(name: str, tolerance: float):
        return between(planted[name] - tolerance, planted[name] + tolerance)

    chains = {kind: accuracy(results, kind, "chains") for kind in KINDS}  # [seeds, lengths, haystacks]
    direct = {
        kind: {way: accuracy(results, kind, f"direct {way}") for way in ("forward", "backward")} for kind in KINDS
    }

    def lost(kind: str, form: str) -> np.ndarray:
        rows = np.mean([accuracy(results, kind, f"{form} {way}") for way in ("forward", "backward")], axis=0)
        return rows[:, 0] - rows[:, -1]

    def several(kind: str) -> np.ndarray:
        rows = accuracy(results, kind, "threads")
        return rows[:, -1] - rows[:, task["threads"].index(1)]

    beyond = {kind: c[:, :, -1] - c[:, :, task["pairs"].index(most)] for kind, c in chains.items()}
    gained = {
        "chain": (chains["lexinvariant"] - chains["standard"]).mean(axis=(1, 2)),
        "direct forward": (direct["lexinvariant"]["forward"] - direct["standard"]["forward"]).mean(axis=1),
    }
    plain = accuracy(results, "plain", "single")[:, task["pairs"].index(task["compared"])]
    return [
        Claim(
            "solvers_scored_right",
            "The harness finds in the synthetic solvers what was planted: no error, window in characters, error per hop, blind share.",
            OURS,
            recovered(results),
            {
                "perfect": above(1 - 1e-9),
                "window": near("window", step),
                "error": near("error", 0.02),
                "blind": near("blind", TOLERANCE),
            },
        ),
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
        Claim(
            "accuracy_falls_with_context",
            f"From {most} pairs, the most in training, to {task['pairs'][-1]} accuracy falls.",
            "roberts2025needle: abstract",
            {kind: change.mean(axis=1) for kind, change in beyond.items()},
            below(0),
            "change of accuracy",
        ),
        Claim(
            "effective_context_near_trained",
            f"The effective context at {LEVEL:.0%} of the longest threads is close to the trained one.",
            OURS,
            {kind: effective_pairs(results, kind)[:, -1] / most for kind in KINDS},
            between(0.5, 2),
            f"ratio, of which at most {task['pairs'][-1] / most:g} can be seen",
        ),
        Claim(
            "direct_falls_faster_than_chain",
            "Accuracy falls faster with the length of the thread where only the last value is said.",
            OURS,
            {kind: lost(kind, "direct") - lost(kind, "chain") for kind in KINDS},
            above(0),
            "difference of the losses from one link to the most",
        ),
        Claim(
            "thread_safe",
            f"With {task['threads'][-1]} threads in a haystack of the same size each is followed as well as one alone. Every link is said "
            "there, which is easy for these models.",
            "roberts2025needle: abstract",
            {kind: several(kind) for kind in KINDS},
            above(-TOLERANCE),
            "difference of accuracies",
            "thread-safe up to 25 threads",
        ),
        *(
            Claim(
                f"{kind}_direct_forward_above_backward",
                f"The {kind} model answers forward threads of several links directly more often than backward ones.",
                "roberts2025needle",
                {kind: (direct[kind]["forward"] - direct[kind]["backward"])[:, 1:].mean(axis=1)},
                above(0),
                "difference of accuracies",
                "forward easier for most models",
            )
            for kind in KINDS
        ),
        Claim(
            "lexinvariant_at_least_standard",
            "The lexinvariant model is as good as the standard one on this purely structural task.",
            OURS,
            gained,
            above(-TOLERANCE),
            "differences of mean accuracies",
        ),
        Claim(
            "untrained_at_chance",
            f"Without training and without its initial circuit the model finds one of {task['compared']} values by chance.",
            OURS,
            {"untrained": plain},
            below(1 / task["compared"] + TOLERANCE),
            "accuracy",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Heat maps of solvers and models by depth and length; tokens per pair; accuracy by haystack, form of the answer and threads."""
    task, solvers = results["task"], results["solvers"]
    titles = (
        *("Solver with a window", "Solver blind in the middle", "One link, standard", "One link, lexinvariant"),
        *("Tokens by text", "Every link said", f"Only the last value said, {task['compared']} pairs"),
        f"Threads at once, {task['compared']} pairs",
    )
    drawn, axes = panels(2, 4, width=3.6, height=3.2, titles=titles)
    thousands = [characters // 1000 for characters in solvers[0]["characters"]]
    depths = [f"{depth:.0f}" for depth in solvers[0]["depths"]]
    with styled():
        for panel, name in zip(axes, ("window", "middle"), strict=False):
            heat(panel, np.mean([seed[name] for seed in solvers], axis=0), thousands, depths)
            panel.set(xlabel="thousand characters", ylabel="depth of the needle, %")
        for panel, kind in zip(axes[2:4], KINDS, strict=True):
            right, items = np.moveaxis(accuracy(results, kind, "depths").sum(axis=0), 1, 0)  # each [haystacks, depths]
            labels = [f"{100 * (b + 0.5) / DEPTHS:.0f}" for b in range(DEPTHS)]
            image = heat(panel, (right / np.maximum(items, 1)).T, task["pairs"], labels)
            panel.set(xlabel="pairs", ylabel="depth of the needle, %")
        drawn.colorbar(image, ax=axes[3], label="accuracy")
        draw_costs(axes[4], results["fertility"])
        lengths = range(1, accuracy(results, "standard", "chains").shape[1] + 1)
        for kind, color in KINDS.items():
            for length, style in ((0, "-"), (-1, "--")):
                name = f"{kind}, {lengths[length]} link{'s' if lengths[length] > 1 else ''}"
                band(axes[5], task["pairs"], accuracy(results, kind, "chains")[:, length], name, color, linestyle=style)
            for form, style in (("forward", "-"), ("backward", "--")):
                rows = accuracy(results, kind, f"direct {form}")
                band(axes[6], lengths, rows, f"{kind}, {form}", color, linestyle=style, marker="o", markersize=3)
            band(axes[7], task["threads"], accuracy(results, kind, "threads"), kind, color, marker="o", markersize=3)
        circuit = accuracy(results, "circuit", "single")
        band(axes[5], task["pairs"], circuit, "untrained circuit, 1 link", GREY, linestyle=":")
        axes[5].axvline(results["trained_pairs"], color=GREY, linewidth=0.8)
        reference(axes[5], LEVEL, "effective")
        axes[5].set(xlabel="pairs (line: most in training)", xscale="log", ylabel="accuracy")
        axes[5].set_xticks(task["pairs"], task["pairs"], minor=False)
        axes[5].minorticks_off()
        reference(axes[6], 1 / task["compared"], "chance")
        axes[6].set(xlabel="links", ylabel="accuracy", xticks=lengths)
        axes[7].set(xlabel="threads", ylabel="accuracy of each", xticks=task["threads"])
        for panel in axes[5:]:
            panel.set_ylim(-0.02, 1.05)
            panel.legend(fontsize=7, loc="lower left" if panel is not axes[6] else "upper right")
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


def heat(axes: Axes, values: np.ndarray, columns: list[Any], rows: list[Any]) -> AxesImage:
    """A heat map of accuracies [rows, columns] with at most seven labels on either side."""
    image = axes.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto", interpolation="nearest")
    axes.grid(visible=False)
    for set_ticks, labels in ((axes.set_xticks, columns), (axes.set_yticks, rows)):
        shown = range(0, len(labels), -(-len(labels) // 7))
        set_ticks(shown, [str(labels[index]) for index in shown])
    return image
