"""A one-layer Transformer with tied tables can stay at the stationary distribution of a fast-switching first-order Markov source.

Makkuva et al. 2024 (arXiv 2402.04161), weight tying and p + q against 1; method card theory-of-tokenization. P(1|0) = p, P(0|1) = q. With
p + q < 1 a tied model finds the kernel; with p + q > 1 it is said to stay at a local minimum that gives the stationary distribution pi
whatever the last symbol was; untied it escapes. The result is one on small initial parameters: we train from GPT-2's scale, also with half
the width, and from tables of unit variance. Ours differs from the paper's model by root-mean-square norms instead of LayerNorm, a learned
vector before the first symbol, a learned scale of the logits, float32, a last learning rate of a tenth, and a shorter context. No symbol
is seen twice by a seed. In a pilot (p = q = 0.8, 8 seeds each) 2 tied runs stayed, 1 with centred norms, 1 from a fifth of the scale, and 5
at half the width: width decides more than these differences.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from scipy.special import entr

from experiments.harness.claims import Claim, Interval, above, below, every, interval
from experiments.harness.curves import bins, by_tens, crossing, rounded
from experiments.harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, SKY, VERMILION, panels, reference, styled
from experiments.harness.training import Training, training_losses
from experiments.harness.workspace import Workspace
from experiments.subjects.language_models import train_seeds, training_mesh
from lexinv.data.windows import Windows, array_windows
from lexinv.nn.language_model import Params, make_logits
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.tokenization.sources import (
    entropy_rate,
    stationary_text,
    switching_kernel,
    symbol_distribution,
)
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.streams import stream
from lexinv.validation import require

PAPER = """@inproceedings{makkuva2025attention,
  title = {Attention with {Markov}: A Curious Case of Single-Layer Transformers},
  author = {Makkuva, Ashok Vardhan and Bondaschi, Marco and Girish, Adway and Nagle, Alliot and Jaggi, Martin and Kim, Hyeji and
    Gastpar, Michael},
  booktitle = {International Conference on Learning Representations},
  year = {2025},
  eprint = {2402.04161},
  archiveprefix = {arXiv}
}"""
SOURCE = "Makkuva et al. 2024, weight tying and p + q [recalled, unverified]"
CARD = "method card theory-of-tokenization"
ARMS = {
    "tied": "tied",
    "untied": "untied",
    "tied_narrow": "tied, narrow",
    "untied_narrow": "untied, narrow",
    "tied_unit": "tied, unit scale",
}
LEXICON = LexiconConfig("standard")


@dataclass(frozen=True)
class Config:
    """sources: pairs (p, q) of first-order sources. windows: held-out windows per source. narrow: the width of the narrow arms.

    model: its `output` and `initialization` are those of each arm. seed: of the data; those of `training` decide the rest.
    """

    sources: tuple[tuple[float, float], ...]
    model: TransformerConfig
    training: Training
    context: int = 64
    windows: int = 256
    narrow: int = 4
    seed: int = 0

    def __post_init__(self):
        for p, q in self.sources:
            switching_kernel(1, p, q)
            require(
                abs(p + q - 1) > 0.05,
                "sources",
                (p, q),
                "p + q well below or above 1, where the symbols are independent",
            )
        sums = [p + q for p, q in self.sources]
        both = len(set(self.sources)) == len(sums) and any(s < 1 for s in sums) and any(s > 1 for s in sums)
        require(both, "sources", self.sources, "different pairs, some with p + q below and some above 1")
        require(self.model.causal, "model.causal", self.model.causal, "True: the model predicts the next symbol")
        require(self.windows >= 2, "windows", self.windows, "at least 2, for a standard error")
        require(0 < self.narrow < self.model.width, "narrow", self.narrow, f"below model.width = {self.model.width}")
        variants(self)
        longest = self.model.max_length
        require(2 <= self.context <= longest, "context", self.context, f"from 2 to model.max_length = {longest}")


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


MODEL = TransformerConfig(depth=1, width=8, heads=1, mlp_width=32, positions="learned", max_length=1024)
ADAMW = OptimizerConfig(learning_rate=2e-3, warmup_steps=12, weight_decay=1e-3, b1=0.9, b2=0.95)
SOURCES = ((0.2, 0.2), (0.8, 0.8), (0.5, 0.8))
PRESETS = {
    "smoke": Config(
        SOURCES[:2],
        MODEL,
        Training(steps=20, seeds=(0, 1), optimizer=replace(ADAMW, warmup_steps=1), steps_per_dispatch=20),
        context=16,
        windows=8,
    ),
    "cpu": Config(SOURCES, MODEL, Training(steps=600, seeds=tuple(range(8)), optimizer=ADAMW, steps_per_dispatch=50)),
    "paper": Config(
        SOURCES,
        MODEL,
        Training(steps=1000, seeds=tuple(range(8)), optimizer=replace(ADAMW, warmup_steps=20), steps_per_dispatch=50),
        context=1024,
    ),
}


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """For every source and arm: excess loss in nats per symbol, final state and next-symbol map, a row per seed."""
    training_mesh(config.training, config.model)  # refuses one that does not fit before anything is compiled
    sources, arms = {}, {}
    for p, q in config.sources:
        name = f"p={p}+q={q}"
        kernel = switching_kernel(1, p, q)
        pi = symbol_distribution(kernel)
        sources[name] = {"p": p, "q": q, "entropy": float(entr(pi).sum()), "entropy_rate": entropy_rate(kernel)}
        train = windows_of(kernel, config, f"{name}/train", config.training.steps * config.training.batch_size)
        held_out = windows_of(kernel, config, f"{name}/held-out", config.windows).gather(np.arange(config.windows))

        def measure(arm: str, name=name, kernel=kernel, train=train, held_out=held_out) -> dict[str, Any]:
            model, folder = variants(config)[arm], f"{name}/{arm}"
            params = train_seeds(folder, model, LEXICON, 2, train, config.training, workspace)
            losses = by_tens(training_losses(folder, config.training, workspace))
            return {"training_loss": losses, **evaluate(model, params, kernel, held_out)}

        arms[name] = {
            arm: workspace.cached(f"arms/{name}/{arm}", lambda arm=arm, measure=measure: measure(arm)) for arm in ARMS
        }
    return {
        "corpora": {},
        "seeds": list(config.training.seeds),
        "steps": config.training.steps,
        "width": config.model.width,
        "narrow": config.narrow,
        "sources": sources,
        "arms": arms,
    }


def windows_of(kernel: np.ndarray, config: Config, name: str, count: int) -> Windows:
    """`count` windows that follow each other in one long stream of the source."""
    tokens = stationary_text(stream(jax.random.key(config.seed), name), kernel, count * config.context)
    return array_windows(tokens, config.context)


def evaluate(model: TransformerConfig, params: list[Params], kernel: np.ndarray, windows: np.ndarray) -> dict[str, Any]:
    """By seed, over all symbols but the first of each window: excess, its standard error, state, and map.

    excess: mean nats above those of the kernel itself on the same symbols, so that the luck of the sample cancels; its expectation is the
    loss minus H_inf. map: mean P(1 | last symbol) for each last symbol and bin of positions.
    """
    logits = jax.jit(make_logits(model, LEXICON, 2))
    batch = {"tokens": jnp.asarray(windows), "row": jnp.arange(len(windows))}
    last, following = windows[:, :-1], windows[:, 1:]
    truth, pi = kernel[:, 1][last], symbol_distribution(kernel)[1]
    binned = bins(last.shape[1], max(last.shape[1] // 16, 1))[1]
    found: dict[str, Any] = {"excess": [], "error": [], "state": [], "map": []}
    for tree in params:
        log_probs = np.asarray(jax.nn.log_softmax(logits(tree, batch, jax.random.key(0))), np.float64)[:, 1:]
        excess = np.log(kernel[last, following]) - np.take_along_axis(log_probs, following[..., None], axis=2)[..., 0]
        by_window = excess.mean(axis=1)
        predicted = np.exp(log_probs[..., 1])
        found["excess"].append(round(float(by_window.mean()), 6))
        found["error"].append(round(float(by_window.std(ddof=1) / np.sqrt(len(windows))), 6))
        found["state"].append(state(predicted, truth, pi))
        found["map"].append(
            [rounded(binned(np.ma.array(predicted, mask=last != x).mean(axis=0).filled(pi)[None])[0]) for x in (0, 1)]
        )
    return found


def state(predicted: np.ndarray, truth: np.ndarray, pi: float) -> str:
    """Which of kernel and stationary distribution P(1) is within a tenth of the range of the kernel of, on average; "between" if none."""
    span = truth.max() - truth.min()
    distances = {"kernel": np.abs(predicted - truth).mean(), "stationary": np.abs(predicted - pi).mean()}
    return next((name for name, distance in distances.items() if distance < 0.1 * span), "between")


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
    """The paper's statements on tied and untied tables, what the initial scale has to do with it, and the floor."""
    fast = [name for name, levels in results["sources"].items() if levels["p"] + levels["q"] > 1]
    slow = [name for name in results["sources"] if name not in fast]

    def shares(names: list[str], arm: str) -> dict[str, Interval]:
        return {name: interval(share_left(results, name, arm)) for name in names}

    stuck, escaped = shares(fast, "tied"), shares(fast, "untied")
    found, from_unit = shares(slow, "tied"), shares(fast, "tied_unit")
    later = {
        name: interval(np.log(steps_to_half(results, name, "tied") / steps_to_half(results, name, "untied")))
        for name in fast
    }
    at_pi = {arm: sum(results["arms"][name][arm]["state"].count("stationary") for name in fast) for arm in ARMS}
    only_tied = at_pi["tied"] + at_pi["tied_narrow"] > 0 and at_pi["untied"] + at_pi["untied_narrow"] == 0
    lowest = min(
        min(np.array(arm["excess"]) + 3 * np.array(arm["error"]))
        for arms in results["arms"].values()
        for arm in arms.values()
    )
    left = "(measured: share of H(pi) - H_inf left at the end, by source)"
    return [
        Claim(
            "tied_above_one_stays_at_stationary",
            f"With p + q > 1 the tied model ends at the stationary distribution, from GPT-2's initial scale {left}.",
            SOURCE,
            "ends at H(pi)",
            stuck,
            "every whole interval above 0.9",
            every([above(value, 0.9) for value in stuck.values()]),
        ),
        Claim(
            "untied_escapes",
            f"With p + q > 1 the untied model finds the kernel, from GPT-2's initial scale {left}.",
            SOURCE,
            "ends at H_inf",
            escaped,
            "every whole interval below 0.1",
            every([below(value, 0.1) for value in escaped.values()]),
        ),
        Claim(
            "tied_below_one_finds_kernel",
            f"With p + q < 1 the tied model finds the kernel, from GPT-2's initial scale {left}.",
            SOURCE,
            "ends at H_inf",
            found,
            "every whole interval below 0.1",
            every([below(value, 0.1) for value in found.values()]),
        ),
        Claim(
            "tied_above_one_is_slower",
            "With p + q > 1 tying delays the descent, from GPT-2's initial scale (measured: log of the ratio of the steps after which half "
            "of H(pi) - H_inf is gone, tied to untied, paired by seed; a run that never gets there counts all its steps).",
            SOURCE,
            None,
            later,
            "every whole interval above 0",
            every([above(value, 0.0) for value in later.values()]),
        ),
        Claim(
            "only_tied_models_ever_stay",
            "With p + q > 1 and GPT-2's initial scale some tied runs end at the stationary distribution, and no untied one (measured: runs "
            f"there by arm, of {len(fast) * len(results['seeds'])} each; narrow: width {results['narrow']} instead of {results['width']}).",
            SOURCE,
            "tied: a local minimum; untied: a saddle",
            at_pi,
            "tied above 0, untied 0, both widths together",
            only_tied if len(results["seeds"]) > 1 else None,
        ),
        Claim(
            "unit_scale_escapes",
            f"With p + q > 1 the tied model finds the kernel where its tables start with unit variance {left}.",
            "ours; the published analysis is one of small parameters",
            None,
            from_unit,
            "every whole interval below 0.1",
            every([below(value, 0.1) for value in from_unit.values()]),
        ),
        Claim(
            "never_below_entropy_rate",
            "No model is below the entropy rate (measured: the least excess over the kernel plus 3 standard errors, over all models).",
            CARD,
            None,
            round(float(lowest), 6),
            "at least 0",
            bool(lowest >= 0),
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Training loss of every seed against both entropies; below, the next-symbol map of every seed by position; a column per source."""
    names = list(results["sources"])
    drawn, axes = panels(2, len(names), width=3.7, height=2.9)
    colors = dict(zip(ARMS, (VERMILION, BLUE, ORANGE, SKY, GREEN), strict=True))
    with styled():
        for column, (name, levels) in enumerate(results["sources"].items()):
            losses, heat = axes[column], axes[len(names) + column]
            p, q, rows, labels = levels["p"], levels["q"], [], []
            for arm, label in ARMS.items():
                found = results["arms"][name][arm]
                for seed, row in enumerate(found["training_loss"]):
                    x = 10 * (1 + np.arange(len(row)))
                    name_once = label if seed == 0 else None
                    order = 1.5 if arm == "tied_unit" else 2.0  # behind those that the claims compare
                    losses.plot(x, row, color=colors[arm], label=name_once, linewidth=0.8, zorder=order)
                rows += [np.concatenate(member) for member in found["map"]]
                labels.append(f"{label}\n{found['state'].count('stationary')} of {len(found['state'])} at pi")
            reference(losses, levels["entropy"], "H(pi)", BLACK)
            reference(losses, levels["entropy_rate"], "H_inf", GREY)
            title = f"p = {p}, q = {q}: p + q {'<' if p + q < 1 else '>'} 1"
            losses.set(title=title, xlabel="step", ylabel="training loss, nats per symbol", xscale="log")
            gap = levels["entropy"] - levels["entropy_rate"]
            losses.set_ylim(levels["entropy_rate"] - 0.2 * gap, levels["entropy"] + 0.5 * gap)
            size, half = len(rows) // len(labels), len(rows[0]) // 2
            image = heat.imshow(rows, aspect="auto", vmin=0, vmax=1, cmap="cividis", interpolation="nearest")
            heat.set_yticks([size * (i + 0.5) - 0.5 for i in range(len(labels))], labels, fontsize=7)
            sides = [f"last = 0: kernel {p:.2g}", f"last = 1: kernel {1 - q:.2g}"]
            heat.set_xticks([half / 2 - 0.5, 1.5 * half - 0.5], sides)
            heat.axvline(half - 0.5, color="white", linewidth=1.5)
            for i in range(1, len(labels)):
                heat.axhline(size * i - 0.5, color="white", linewidth=0.8)
            heat.grid(False)
            heat.set(title=f"P(next = 1) by position; pi: {p / (p + q):.2f}")
        drawn.colorbar(image, ax=axes[-1], shrink=0.8)
        axes[0].legend(fontsize=7, loc="center right")
    return drawn
