"""A one-layer Transformer with tied tables can stay at the stationary distribution of a fast-switching first-order Markov source.

Makkuva et al. 2024 (arXiv 2402.04161), weight tying and p + q against 1; method card theory-of-tokenization. P(1|0) = p, P(0|1) = q. The
result is one on small initial parameters: we train from GPT-2's scale, also with half the width, and from tables of unit variance. Ours
differs by root-mean-square norms, a learned vector before the first symbol, a learned scale of the logits, float32, a last learning rate
of a tenth, and a shorter context. In a pilot (p = q = 0.8, 8 seeds each) 2 tied runs stayed, 1 with centred norms, and 5 at half the width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from scipy.special import entr

from experiments.harness.curves import by_tens, crossing
from experiments.harness.figures import medians
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, SKY, VERMILION, panels, reference
from experiments.harness.training import Training, training_losses
from experiments.harness.verdicts import OURS, Claim, Rule, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.first_order_models import LEXICON, evaluate, windows_of
from experiments.subjects.language_models import train_seeds, training_mesh
from lexinv.data.markov import entropy_rate, switching_kernel, symbol_distribution
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, CountOrZero, Distinct

PAPERS = ("makkuva2025attention",)
TYING = "makkuva2025attention: weight tying and p + q [recalled]"
ARMS = {
    "tied": ("tied", VERMILION),
    "untied": ("untied", BLUE),
    "tied_narrow": ("tied, narrow", ORANGE),
    "untied_narrow": ("untied, narrow", SKY),
    "tied_unit": ("tied, unit scale", GREEN),
}


@dataclass(frozen=True)
class Config(Checked):
    """sources: pairs (p, q) of first-order sources. windows: held-out windows per source. narrow: the width of the narrow arms.

    model: its `output` and `initialization` are those of each arm. seed: of the data; those of `training` decide the rest.
    """

    sources: Distinct[tuple[float, float]] = ((0.2, 0.2), (0.8, 0.8), (0.5, 0.8))
    model: TransformerConfig = TransformerConfig(
        depth=1, width=8, heads=1, mlp_width=32, positions="learned", max_length=1024
    )
    training: Training = Training(
        steps=600,
        seeds=tuple(range(8)),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=12, weight_decay=1e-3, b1=0.9, b2=0.95),
        steps_per_dispatch=50,
    )
    context: Count = 64
    windows: Count = 256
    narrow: Count = 4
    seed: CountOrZero = 0

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield all(0 < p < 1 and 0 < q < 1 for p, q in self.sources), "sources", "p and q between 0 and 1"
        sums = [p + q for p, q in self.sources]
        far = min(abs(total - 1) for total in sums) > 0.05
        yield far, "sources", "p + q well below or above 1, where the symbols are independent"
        yield min(sums) < 1 < max(sums), "sources", "some with p + q below and some above 1"
        yield self.model.causal, "model.causal", "True: the model predicts the next symbol"
        yield self.windows >= 2, "windows", "at least 2, for a standard error"
        yield self.narrow < self.model.width, "narrow", f"below model.width = {self.model.width}"
        variants(self)  # refuses what no model can be
        longest = self.model.max_length
        yield 2 <= self.context <= longest, "context", f"from 2 to model.max_length = {longest}"


def variants(config: Config) -> dict[str, TransformerConfig]:
    """The model of every arm: tied and untied from GPT-2's initial scale, the same with fewer dimensions, and tied with unit variance."""
    small = replace(config.model, initialization="gpt2")
    narrow = replace(
        small, width=config.narrow, mlp_width=max(config.model.mlp_width * config.narrow // config.model.width, 1)
    )
    return {
        "tied": replace(small, output="tied"),
        "untied": replace(small, output="untied"),
        "tied_narrow": replace(narrow, output="tied"),
        "untied_narrow": replace(narrow, output="untied"),
        "tied_unit": replace(config.model, initialization="normal", output="tied"),
    }


PRESETS = presets(
    Config(),
    smoke={
        "sources": ((0.2, 0.2), (0.8, 0.8)),
        "training.steps": 20,
        "training.seeds": (0, 1),
        "training.optimizer.warmup_steps": 1,
        "training.steps_per_dispatch": 20,
        "context": 16,
        "windows": 8,
    },
    paper={"training.steps": 1000, "training.optimizer.warmup_steps": 20, "context": 1024},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """For every source and arm: excess loss in nats per symbol, final state and next-symbol map, a row per seed."""
    training_mesh(config.training, config.model)  # refuses one that does not fit before anything is compiled
    sources, arms = {}, {}
    for p, q in config.sources:
        name = f"p={p}+q={q}"
        kernel = switching_kernel(1, p, q)
        pi = symbol_distribution(kernel)
        sources[name] = {"p": p, "q": q, "entropy": float(entr(pi).sum()), "entropy_rate": entropy_rate(kernel)}
        key, needed = jax.random.key(config.seed), config.training.steps * config.training.batch_size
        train = windows_of(kernel, stream(key, f"{name}/train"), needed, config.context)
        held_out = windows_of(kernel, stream(key, f"{name}/held-out"), config.windows, config.context)
        windows = held_out.gather(np.arange(config.windows))

        def measure(arm: str, name=name, kernel=kernel, train=train, windows=windows) -> dict[str, Any]:
            model, folder = variants(config)[arm], f"{name}/{arm}"
            params = train_seeds(folder, model, LEXICON, 2, train, config.training, workspace)
            losses = by_tens(training_losses(folder, config.training, workspace))
            return {"training_loss": losses, **evaluate(model, params, kernel, windows)}

        arms[name] = workspace.stages(f"arms/{name}", ARMS, measure)
    return {
        "corpora": {},
        "seeds": config.training.seeds,
        "steps": config.training.steps,
        "width": config.model.width,
        "narrow": config.narrow,
        "sources": sources,
        "arms": arms,
    }


def share_left(results: dict[str, Any], source: str, arm: str) -> np.ndarray:
    """How much of H(pi) - H_inf the final model leaves on the table, per seed: 0 at the kernel, 1 at the stationary distribution."""
    levels = results["sources"][source]
    return np.array(results["arms"][source][arm]["excess"]) / (levels["entropy"] - levels["entropy_rate"])


def steps_to_half(results: dict[str, Any], source: str, arm: str) -> np.ndarray:
    """Steps until half of H(pi) - H_inf is gone from the training loss; all steps where it never is."""
    levels, steps = results["sources"][source], results["steps"]
    half = (levels["entropy"] + levels["entropy_rate"]) / 2
    return np.array([crossing(row, half) or steps for row in results["arms"][source][arm]["training_loss"]])


def claims(results: dict[str, Any]) -> list[Claim]:
    """The paper's statements on tied and untied tables, and what the initial scale has to do with it."""
    fast = [name for name, levels in results["sources"].items() if levels["p"] + levels["q"] > 1]
    slow = [name for name in results["sources"] if name not in fast]

    def shares(names: list[str], arm: str) -> dict[str, np.ndarray]:
        return {name: share_left(results, name, arm) for name in names}

    def ends(name: str, statement: str, names: list[str], arm: str, rule: Rule, published: str) -> Claim:
        said = f"{statement}, from GPT-2's initial scale."
        return Claim(name, said, TYING, shares(names, arm), rule, left, f"ends at {published}")

    def later(name: str) -> np.ndarray:
        return np.log(steps_to_half(results, name, "tied") / steps_to_half(results, name, "untied"))

    def staying(*arms: str) -> int:
        return sum(results["arms"][name][arm]["state"].count("stationary") for name in fast for arm in arms)

    left, runs = "share of H(pi) - H_inf left at the end", len(fast) * len(results["seeds"])
    return [
        ends(
            "tied_above_one_stays_at_stationary",
            "With p + q > 1 the tied model ends at the stationary distribution",
            fast,
            "tied",
            above(0.9),
            "H(pi)",
        ),
        ends("untied_escapes", "With p + q > 1 the untied model finds the kernel", fast, "untied", below(0.1), "H_inf"),
        ends(
            "tied_below_one_finds_kernel",
            "With p + q < 1 the tied model finds the kernel",
            slow,
            "tied",
            below(0.1),
            "H_inf",
        ),
        Claim(
            "only_tied_models_ever_stay",
            "With p + q > 1 and GPT-2's initial scale some tied runs end at the stationary distribution, and no untied one.",
            TYING,
            {
                "tied": staying("tied", "tied_narrow"),
                "untied": staying("untied", "untied_narrow"),
                "tied, narrow alone": staying("tied_narrow"),
                "tied, unit scale": staying("tied_unit"),
            },
            {"tied": above(0), "untied": below(1)},
            f"runs that end there; widths {results['width']} and {results['narrow']}, {runs} runs of each",
            "tied: a local minimum; untied: a saddle",
            over="runs",
        ),
        Claim(
            "tied_above_one_is_slower",
            "With p + q > 1 tying delays the descent, from GPT-2's initial scale.",
            OURS,
            {name: later(name) for name in fast},
            above(0),
            "ln of the steps after which half of H(pi) - H_inf is gone, tied over untied; all steps where it never is",
        ),
        Claim(
            "unit_scale_escapes",
            "With p + q > 1 the tied model finds the kernel where its tables start with unit variance: the published analysis is one of "
            "small parameters.",
            OURS,
            shares(fast, "tied_unit"),
            below(0.1),
            left,
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Training loss against both entropies, median and range of the seeds; below, the next-symbol map of every seed by position.

    A column per source.
    """
    names = list(results["sources"])
    drawn, axes = panels(2, len(names), width=3.7, height=2.9)
    for column, (name, levels) in enumerate(results["sources"].items()):
        draw_losses(axes[column], levels, results["arms"][name])
        image = draw_maps(axes[len(names) + column], levels, results["arms"][name])
    drawn.colorbar(image, ax=axes[-1], shrink=0.8)
    drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=7)
    return drawn


def draw_losses(axes: Axes, levels: dict[str, float], arms: dict[str, Any]) -> None:
    """Median over the seeds with their range, and both entropies."""
    for arm, (label, color) in ARMS.items():
        losses = arms[arm]["training_loss"]
        medians(axes, 10 * (1 + np.arange(len(losses[0]))), losses, label, color)
    reference(axes, levels["entropy"], "H(π)", BLACK)
    reference(axes, levels["entropy_rate"], "H∞", GREY)
    p, q, gap = levels["p"], levels["q"], levels["entropy"] - levels["entropy_rate"]
    axes.set(title=f"p = {p}, q = {q}: p + q {'<' if p + q < 1 else '>'} 1", xscale="log")
    axes.set(xlabel="step", ylabel="training loss, nats per symbol")
    axes.set_ylim(levels["entropy_rate"] - 0.2 * gap, levels["entropy"] + 0.5 * gap)


def draw_maps(axes: Axes, levels: dict[str, float], arms: dict[str, Any]) -> AxesImage:
    """A row for each seed of each arm: P(1) by position, after a 0 at the left and after a 1 at the right."""
    p, q = levels["p"], levels["q"]
    rows = [np.concatenate(member) for arm in ARMS for member in arms[arm]["map"]]
    size, half = len(rows) // len(ARMS), len(rows[0]) // 2
    image = axes.imshow(rows, aspect="auto", vmin=0, vmax=1, cmap="cividis", interpolation="nearest")
    staying = {arm: arms[arm]["state"].count("stationary") for arm in ARMS}
    labels = [f"{label}\n{staying[arm]} of {size} at π" for arm, (label, _) in ARMS.items()]
    axes.set_yticks([size * (i + 0.5) - 0.5 for i in range(len(labels))], labels, fontsize=7)
    sides = [f"last = 0: kernel {p:.2g}", f"last = 1: kernel {1 - q:.2g}"]
    axes.set_xticks([half / 2 - 0.5, 1.5 * half - 0.5], sides)
    axes.axvline(half - 0.5, color="white", linewidth=1.5)
    for i in range(1, len(labels)):
        axes.axhline(size * i - 0.5, color="white", linewidth=0.8)
    axes.grid(False)
    axes.set(title=f"P(next = 1) by position; π: {p / (p + q):.2f}")
    return image
