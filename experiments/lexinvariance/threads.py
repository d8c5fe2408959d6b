"""Threads through haystacks: planted faults are found, token counts mislead, and small models follow links in context.

Roberts, Han and Albanie 2024 (arXiv 2411.05000); method card needle-threading. Standard and lexinvariant models are trained on the symbolic
task, where which symbol it is says nothing: to answer with every link of a thread (chain), and with its last value only (direct).
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.harness.claims import Claim, Interval, above, below, every, interval
from experiments.harness.style import BLUE, GREY, PALETTE, VERMILION, band, panels, reference, styled
from experiments.harness.training import Training
from experiments.harness.workspace import Workspace
from experiments.lexinvariance import perplexity
from experiments.lexinvariance.haystack_checks import SolverConfig, TokenizerConfig, fertilities, planted
from experiments.subjects.thread_followers import DEPTHS, ModelsConfig, TaskConfig, trained, untrained
from lexinv.data.corpora import load_corpus
from lexinv.lexinvariance import haystack_scores, haystacks
from lexinv.lexinvariance.threads import Limits

PAPER = """\
@inproceedings{roberts2025needle,
  title     = {Needle Threading: Can {LLM}s Follow Threads through Near-Million-Scale Haystacks?},
  author    = {Roberts, Jonathan and Han, Kai and Albanie, Samuel},
  booktitle = {International Conference on Learning Representations},
  year      = {2025},
  note      = {arXiv:2411.05000}
}"""
SOURCE = "Roberts et al. 2024, abstract"
CARD = "method card needle-threading"
LEVEL = 0.75
"""Accuracy up to which a context counts as effective (the paper's)."""
TOLERANCE = 0.05
"""Five points of accuracy, within which the card calls two settings as good as each other."""
KINDS = ("standard", "lexinvariant")


@dataclass(frozen=True)
class Config:
    models: ModelsConfig
    solvers: SolverConfig = SolverConfig()
    tokenizers: TokenizerConfig = TokenizerConfig()


MODEL = replace(perplexity.SUFFIX_MATCH, width=128, mlp_width=128, max_length=1024)
SEEDS = (0, 1, 2)
PRESETS = {
    "smoke": Config(
        ModelsConfig(
            replace(MODEL, width=32, mlp_width=32),
            Training(steps=4, batch_size=4, seeds=SEEDS, optimizer=replace(perplexity.MUON, warmup_steps=2)),
            TaskConfig(
                Limits(symbols=32, pairs=8, threads=2, length=2),
                fewest_pairs=4,
                pairs=(8, 16),
                compared=8,
                threads=(1, 4),
                items=8,
            ),
        ),
        SolverConfig(window=4000, lengths=4, depths=11, hops=(1, 4), repeats=20),
        TokenizerConfig(
            code="python-docs",
            tokenizers=(("byte", "python-docs"), ("bpe:300", "python-docs"), ("bpe:1024", "python-docs")),
            characters=20_000,
        ),
    ),
    "cpu": Config(ModelsConfig(MODEL, Training(steps=300, batch_size=32, seeds=SEEDS, optimizer=perplexity.MUON))),
    "paper": Config(
        ModelsConfig(
            replace(MODEL, depth=4, width=512, mlp_width=2048, unroll=4, max_length=8192),
            Training(steps=6000, batch_size=128, seeds=SEEDS, optimizer=perplexity.MUON, steps_per_dispatch=10),
            TaskConfig(
                Limits(symbols=3072, pairs=24, threads=4, length=4), pairs=(8, 16, 24, 48, 96, 192, 384, 768, 1536)
            ),
        ),
        SolverConfig(lengths=400, depths=11),
    ),
}


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


def recovered(results: dict[str, Any]) -> dict[str, Any]:
    """What the harness finds in the solvers, per seed: accuracy of the perfect one, window, error per hop, blind share."""
    from scipy.optimize import curve_fit

    found: dict[str, list[float]] = {"perfect": [], "window": [], "error": [], "blind": []}
    for solvers in results["solvers"]:
        lengths = np.array(solvers["characters"], np.float64)
        found["perfect"].append(float(np.mean(solvers["perfect"])))
        # A needle at the very beginning is seen as long as the whole haystack is.
        found["window"].append(haystack_scores.effective_length(lengths, np.array(solvers["window"][0]), LEVEL))
        (error,), _ = curve_fit(lambda hops, e: (1 - e) ** hops, results["planted"]["hops"], solvers["chains"], 0.5)
        found["error"].append(float(error))
        found["blind"].append(1 - float(np.mean(solvers["middle"])))
    return {name: interval(values) for name, values in found.items()}


def within(measured: Interval, value: float, tolerance: float) -> bool | None:
    """Whether the whole interval lies within `tolerance` of `value`; None for a single run."""
    return None if measured.low is None else above(measured, value - tolerance) and below(measured, value + tolerance)


def inversions(results: dict[str, Any]) -> list[list[str]]:
    """Pairs of tokenizers of which the first needs fewer tokens for prose and more for UUIDs, with every seed."""
    names = list(results["fertility"][0])
    return [
        [a, b]
        for a in names
        for b in names
        if all(
            seed[a]["prose"] < seed[b]["prose"] and seed[a]["UUIDs"] > seed[b]["UUIDs"] for seed in results["fertility"]
        )
    ]


def spread(results: dict[str, Any], text: str) -> Interval:
    """The most over the fewest tokens of a subword tokenizer for the same text."""
    rows = [[costs[text] for name, costs in seed.items() if name != "byte"] for seed in results["fertility"]]
    return interval([max(row) / min(row) for row in rows])


def accuracy(results: dict[str, Any], kind: str, name: str) -> np.ndarray:
    """One measure of a model, seeds first."""
    return np.array(results["models"][kind][name])


def claims(results: dict[str, Any]) -> list[Claim]:
    """The harness, the tokenizers, the four expectations of the card about models, and the comparison of the lexica."""
    planted, found, task = results["planted"], recovered(results), results["task"]
    step = planted["step"] * haystacks.PAIR_CHARACTERS
    scored = [
        None if found["perfect"].low is None else found["perfect"].low == found["perfect"].high == 1,
        within(found["window"], planted["window"], step),
        within(found["error"], planted["error"], 0.02),
        within(found["blind"], planted["blind"], TOLERANCE),
    ]
    varies = {text: spread(results, text) for text in ("UUIDs", "prose")}
    swapped = inversions(results)
    longest, boundary = -1, task["pairs"].index(results["trained_pairs"])
    chains = {kind: accuracy(results, kind, "chains") for kind in KINDS}  # [seeds, lengths, haystacks]
    falls = {kind: interval((c[:, :, longest] - c[:, :, boundary]).mean(axis=1)) for kind, c in chains.items()}
    limits = {kind: interval(effective_pairs(results, kind)[:, -1] / results["trained_pairs"]) for kind in KINDS}
    drops, safe, forward = {}, {}, {}
    for kind in KINDS:
        forms = {
            form: np.array([accuracy(results, kind, f"{form} {way}") for way in ("forward", "backward")])
            for form in ("chain", "direct")
        }
        lost = {form: (rows[:, :, 0] - rows[:, :, -1]).mean(axis=0) for form, rows in forms.items()}
        drops[kind] = interval(lost["direct"] - lost["chain"])
        forward[kind] = interval((forms["direct"][0] - forms["direct"][1])[:, 1:].mean(axis=1))
        several = accuracy(results, kind, "threads")
        safe[kind] = interval(several[:, -1] - several[:, task["threads"].index(1)])
    gained = {"chain": interval((chains["lexinvariant"] - chains["standard"]).mean(axis=(1, 2)))}
    direct = {kind: accuracy(results, kind, "direct forward").mean(axis=1) for kind in KINDS}
    gained["direct forward"] = interval(direct["lexinvariant"] - direct["standard"])
    plain = interval(accuracy(results, "plain", "single")[:, task["pairs"].index(task["compared"])])
    return [
        Claim(
            "solvers_scored_right",
            "The harness finds in the synthetic solvers what was planted: no error, window in characters, error per hop, blind share.",
            f"{CARD}, small reproduction 1",
            {"perfect": 1.0, **{name: planted[name] for name in ("window", "error", "blind")}},
            found,
            f"1 exactly; whole intervals within {step} characters, 0.02, {TOLERANCE}",
            every(scored),
        ),
        Claim(
            "ranking_by_tokens_inverts",
            "Which of two tokenizers needs fewer tokens depends on the text (measured: pairs that swap between prose and UUIDs).",
            SOURCE,
            None,
            swapped,
            "at least one pair, with every seed",
            len(swapped) > 0,
        ),
        Claim(
            "uuid_fertility_varies",
            "The same UUIDs cost one subword tokenizer more than 1.3 times the tokens of another (measured: most over fewest tokens).",
            f"Roberts et al. 2024, tokens per pair; threshold of the {CARD}",
            "75 tokens (Gemini 1.5) against 50 (GPT-4o): 1.5",
            varies,
            "whole interval for UUIDs above 1.3",
            above(varies["UUIDs"], 1.3),
        ),
        Claim(
            "accuracy_falls_with_context",
            f"From {results['trained_pairs']} pairs, the most in training, to {task['pairs'][-1]} accuracy falls (measured: change).",
            f"{SOURCE}; {CARD} (a)",
            None,
            falls,
            "whole interval below 0 for both models",
            every([below(value, 0.0) for value in falls.values()]),
        ),
        Claim(
            "effective_context_near_trained",
            f"The effective context at {LEVEL:.0%} of the longest threads is close to the trained one (measured: ratio; at most "
            f"{task['pairs'][-1] / results['trained_pairs']:g} can be seen).",
            f"{CARD} (a)",
            None,
            limits,
            "whole interval between 0.5 and 2 for both models",
            every([within(value, 1.25, 0.75) for value in limits.values()]),
        ),
        Claim(
            "direct_falls_faster_than_chain",
            "Accuracy falls faster with the length of the thread where only the last value is said (measured: difference of the losses "
            "from one link to the most).",
            f"{CARD} (b)",
            None,
            drops,
            "whole interval above 0 for both models",
            every([above(value, 0.0) for value in drops.values()]),
        ),
        Claim(
            "thread_safe",
            f"With {task['threads'][-1]} threads in a haystack of the same size each is followed as well as one alone (measured: "
            "difference).",
            f"{SOURCE}; {CARD} (c)",
            "thread-safe up to 25 threads",
            safe,
            f"whole interval above -{TOLERANCE} for both models",
            every([above(value, -TOLERANCE) for value in safe.values()]),
        ),
        *(
            Claim(
                f"{kind}_direct_forward_above_backward",
                f"The {kind} model answers forward threads of several links directly more often than backward ones (measured: difference).",
                f"Roberts et al. 2024, thread direction; {CARD} (d)",
                "forward easier for most models",
                forward[kind],
                "whole interval above 0",
                above(forward[kind], 0.0),
            )
            for kind in KINDS
        ),
        Claim(
            "lexinvariant_at_least_standard",
            "The lexinvariant model is as good as the standard one on this purely structural task (measured: differences of mean "
            "accuracies).",
            f"{CARD}, small reproduction 3",
            None,
            gained,
            f"both whole intervals above -{TOLERANCE}",
            every([above(value, -TOLERANCE) for value in gained.values()]),
        ),
        Claim(
            "untrained_at_chance",
            f"Without training and without its initial circuit the model finds one of {task['compared']} values by chance.",
            f"{CARD}, controls",
            1 / task["compared"],
            plain,
            f"whole interval below chance + {TOLERANCE}",
            below(plain, 1 / task["compared"] + TOLERANCE),
        ),
    ]


def effective_pairs(results: dict[str, Any], kind: str) -> np.ndarray:
    """Effective context in pairs, by seed and length of the thread."""
    pairs = np.array(results["task"]["pairs"], np.float64)
    return np.array([haystack_scores.contour(pairs, rows, LEVEL) for rows in accuracy(results, kind, "chains")])


def figure(results: dict[str, Any]) -> Figure:
    """Heat maps of solvers and models by depth and length; tokens per pair; accuracy by haystack, form of the answer and threads."""
    drawn, axes = panels(2, 4, width=3.6, height=3.2)
    task, solvers = results["task"], results["solvers"]
    colors = {"standard": BLUE, "lexinvariant": VERMILION}
    thousands = [characters // 1000 for characters in solvers[0]["characters"]]
    depths = solvers[0]["depths"]
    with styled():
        for panel, name, title in (
            (axes[0], "window", "Solver with a window"),
            (axes[1], "middle", "Solver blind in the middle"),
        ):
            image = heat(
                panel, np.mean([seed[name] for seed in solvers], axis=0), thousands, [f"{d:.0f}" for d in depths]
            )
            panel.set(title=title, xlabel="thousand characters", ylabel="depth of the needle, %")
        for panel, kind in zip(axes[2:4], KINDS, strict=True):
            right, items = np.moveaxis(accuracy(results, kind, "depths").sum(axis=0), 1, 0)  # each [haystacks, depths]
            labels = [f"{100 * (b + 0.5) / DEPTHS:.0f}" for b in range(DEPTHS)]
            image = heat(panel, (right / np.maximum(items, 1)).T, task["pairs"], labels)
            panel.set(title=f"One link, {kind}", xlabel="pairs", ylabel="depth of the needle, %")
        drawn.colorbar(image, ax=axes[3], label="accuracy")

        costs = results["fertility"]
        texts = list(next(iter(costs[0].values())))
        names = list(costs[0])
        for text, color in zip(texts, PALETTE, strict=False):
            mean = [np.mean([seed[name][text] for seed in costs]) for name in names]
            axes[4].plot(mean, range(len(names)), "o", color=color, markersize=4, label=text)
        axes[4].set_yticks(range(len(names)), names, fontsize=7)
        axes[4].invert_yaxis()
        axes[4].set(title="Tokens by text", xlabel="tokens per 80 characters", xlim=(0, 85))
        axes[4].legend(loc="center left", fontsize=7, handletextpad=0.0, borderaxespad=0.0, frameon=True)

        lengths = range(1, accuracy(results, "standard", "chains").shape[1] + 1)
        for kind, color in colors.items():
            for length, style in ((0, "-"), (-1, "--")):
                name = f"{kind}, {lengths[length]} links".replace(" 1 links", " 1 link")
                band(axes[5], task["pairs"], accuracy(results, kind, "chains")[:, length], name, color, linestyle=style)
            for form, style in (("forward", "-"), ("backward", "--")):
                rows = accuracy(results, kind, f"direct {form}")
                band(axes[6], lengths, rows, f"{kind}, {form}", color, linestyle=style, marker="o", markersize=3)
            band(axes[7], task["threads"], accuracy(results, kind, "threads"), kind, color, marker="o", markersize=3)
        band(
            axes[5],
            task["pairs"],
            accuracy(results, "circuit", "single"),
            "untrained circuit, 1 link",
            GREY,
            linestyle=":",
        )
        axes[5].axvline(results["trained_pairs"], color=GREY, linewidth=0.8)
        reference(axes[5], LEVEL, "effective")
        axes[5].set(title="Every link said", xlabel="pairs (line: most in training)", xscale="log", ylabel="accuracy")
        axes[5].set_xticks(task["pairs"], task["pairs"], minor=False)
        axes[5].minorticks_off()
        reference(axes[6], 1 / task["compared"], "chance")
        axes[6].set(title=f"Only the last value said, {task['compared']} pairs", xlabel="links", ylabel="accuracy")
        axes[6].set_xticks(lengths)
        axes[7].set(title=f"Threads at once, {task['compared']} pairs", xlabel="threads", ylabel="accuracy of each")
        axes[7].set_xticks(task["threads"])
        for panel in axes[5:]:
            panel.set_ylim(-0.02, 1.05)
            panel.legend(fontsize=7, loc="lower left" if panel is not axes[6] else "upper right")
    return drawn


def heat(axes, values: np.ndarray, columns, rows):
    """A heat map of accuracies [rows, columns] with at most seven labels on either side."""
    image = axes.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto", interpolation="nearest")
    axes.grid(visible=False)
    for set_ticks, labels in ((axes.set_xticks, columns), (axes.set_yticks, rows)):
        shown = range(0, len(labels), -(-len(labels) // 7))
        set_ticks(shown, [str(labels[index]) for index in shown])
    return image
