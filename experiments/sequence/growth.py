"""A model whose parameters are tokens grows by more of them: is that cheaper than to begin anew, and than any other way to go on?

Wang et al. 2025 (TokenFormer, arXiv 2410.23168); method card tokenformer. Language models of the King James Bible: a small one is trained
and grown threefold, beside large ones from scratch and a small Transformer that is widened (Net2Net). Arms of equal parameters are of equal
width, context and operations.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms
from experiments.harness.presets import presets
from experiments.harness.style import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, panels, reference
from experiments.harness.training import Training, initial, stacked, train
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.work import Params
from experiments.harness.workspace import Workspace
from experiments.subjects.text import STANDARD, DataConfig, Text, held_out_nats, prepare
from lexinv.nn.flops import train_flops
from lexinv.nn.language_model import initialize, make_logits, make_loss, make_nll
from lexinv.nn.transformer import TransformerConfig
from lexinv.sequence.growth import grow, grown_config, widen, widened_config
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.population import member
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Positive

PAPERS = ("wang2025tokenformer",)
TENTH, FIFTH, WHOLE = 0.1, 0.2, 1.0
"""Shares of the steps of a training from scratch."""
KINDS = {"pairs": "TokenFormer", "matrices": "Transformer"}


@dataclass(frozen=True)
class Config(Checked):
    """model: the small one. times: as many parameter pairs after growth. matrices_rate: learning rate of the Transformers, that of
    `training` is TokenFormer's. after: the share of it with which models go on. windows: held-out ones of each seed. Every
    training warms up over a tenth of its steps."""

    data: DataConfig = DataConfig(("kjv",), "bpe:512", context=128)
    model: TransformerConfig = TransformerConfig(
        depth=2, width=64, heads=4, parameter_pairs=32, rotary_share=0.25, output="tied", max_length=128, unroll=2
    )
    times: Count = 3
    training: Training = Training(2000, 16, (0, 1, 2), OptimizerConfig(learning_rate=1e-2), steps_per_dispatch=20)
    matrices_rate: Positive = 1e-2
    after: Positive = 0.3
    windows: Count = 128

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        least, model = round(1 / TENTH) * self.training.steps_per_dispatch, self.model
        yield self.training.steps % least == 0, "training.steps", f"a multiple of {least}: a tenth is trained, too"
        yield self.times >= 2, "times", "2 or more"
        yield model.parameter_pairs > 0, "model.parameter_pairs", "a positive number"
        whole = model.parameter_pairs > 0 and 2 * model.parameter_pairs % model.head_dim == 0
        yield whole, "model.parameter_pairs", f"twice it a multiple of {model.head_dim}, the width of a head"
        yield self.data.context <= model.max_length, "data.context", f"at most model.max_length = {model.max_length}"


PRESETS = presets(
    Config(),
    smoke={
        "data": DataConfig(("python-docs",), "byte", context=32),
        "model.width": 16,
        "model.heads": 2,
        "model.rotary_share": 0.5,
        "model.parameter_pairs": 8,
        "training.steps": 20,
        "training.batch_size": 4,
        "training.seeds": (0, 1),
        "training.optimizer.warmup_steps": 2,
        "training.steps_per_dispatch": 2,
        "windows": 8,
    },
    quick={"training.steps": 600, "training.seeds": (0, 1)},
    paper={
        "data": DataConfig(("tfds:wiki40b/en",), "bpe:50304", context=1024),
        "model.depth": 12,
        "model.width": 768,
        "model.heads": 12,
        "model.parameter_pairs": 576,
        "model.max_length": 1024,
        "model.dtype": "bfloat16",
        "training.steps": 600_000,
        "training.batch_size": 512,
        "training.optimizer.learning_rate": 6e-4,
        "training.optimizer.warmup_steps": 6000,
        "matrices_rate": 6e-4,
        "windows": 1024,
    },
)


def as_matrices(config: TransformerConfig) -> TransformerConfig:
    """The Transformer of as many parameters, 16 n d a layer: heads of the same width, 2 n wide together, and 4 n hidden units."""
    n = config.parameter_pairs
    heads = 2 * n // config.head_dim
    return replace(config, parameter_pairs=0, scale_pairs=0, heads=heads, head_width=config.head_dim, mlp_width=4 * n)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """arms[arm]: held-out "nats" per token [seeds], "flops" of this training and of the one that it goes on from, "before".

    preserved: by way of growth the largest change of a logit over the largest logit, and nats right after it.
    """
    training, seeds, small = config.training, config.training.seeds, config.model
    text = prepare(config.data.corpora[0], config.data, len(seeds), config.windows, workspace)
    large = {"pairs": replace(small, parameter_pairs=config.times * small.parameter_pairs)}
    large["matrices"], lesser = as_matrices(large["pairs"]), {"pairs": small, "matrices": as_matrices(small)}
    arms: dict[str, dict[str, Any]] = {}
    models: dict[str, Params] = {}

    def trained(arm: str, model: TransformerConfig, share: float, start: Any = None, after: str = "") -> None:
        models[arm] = fit(arm, model, config, text, share, start, workspace)
        arms[arm] = {"nats": nats(model, text, models[arm]), "before": after} | {
            "flops": share * training.steps * training.batch_size * text.train.length * flops(model, text)
        }

    for kind, model in lesser.items():
        trained(f"small {kind}", model, WHOLE)
        for name, share in (("tenth", TENTH), ("fifth", FIFTH), ("whole", WHOLE)):
            trained(f"{kind}, {name}", large[kind], share)
    from_small, from_matrices = (stacked(models[f"small {kind}"]) for kind in KINDS)
    keys = jnp.stack([stream(jax.random.key(seed), "growth") for seed in seeds])
    pairs = large["pairs"].parameter_pairs
    released = jax.vmap(partial(grow, config=small, pairs=pairs, keys="random"))(keys, from_small)
    grown = jax.vmap(partial(grow, config=small, pairs=pairs))(keys, from_small)
    wide = jax.vmap(partial(widen, config=lesser["matrices"], times=config.times))(keys, from_matrices)
    ways = {
        "grown": (grown, grown_config(small, pairs), "pairs"),
        "released": (released, grown_config(small, pairs, "pairs"), "pairs"),
        "widened": (wide, widened_config(lesser["matrices"], config.times), "matrices"),
    }
    preserved = {}
    for way, (start, model, kind) in ways.items():
        begun, before = unstacked(start, len(seeds)), f"small {kind}"
        change = changes((lesser[kind], models[before]), (model, begun), text)
        preserved[way] = {"change": change, "nats": nats(model, text, begun)}
        trained(f"{way}, tenth", model, TENTH, start, before)
    trained("grown, fifth", ways["grown"][1], FIFTH, grown, "small pairs")
    cheaper = flops(large["pairs"], text) / flops(small, text)
    rounded = training.steps_per_dispatch / training.steps
    trained("longer", small, round(TENTH * cheaper / rounded) * rounded, from_small, "small pairs")
    untrained = initial(partial(initialize, small, STANDARD, text.vocab), seeds)
    return {
        "corpus": text.fingerprint,
        "seeds": seeds,
        "arms": arms,
        "preserved": preserved,
        "controls": {"bigrams": bigrams(text), "untrained": nats(small, text, unstacked(untrained, len(seeds)))},
    }


def fit(
    arm: str, model: TransformerConfig, config: Config, text: Text, share: float, start: Any, workspace: Workspace
) -> list[Params]:
    """Trained for a share of the steps, with warm-up and cosine of its own, from the start or from `start` with an axis of seeds."""
    steps = round(share * config.training.steps)
    rate = config.training.optimizer.learning_rate if model.parameter_pairs else config.matrices_rate
    rate *= 1.0 if start is None else config.after
    optimizer = replace(config.training.optimizer, learning_rate=rate, warmup_steps=steps // 10)
    return train(
        arm.replace(", ", "-").replace(" ", "-"),
        partial(initialize, model, STANDARD, text.vocab) if start is None else start,
        make_loss(model, STANDARD, text.vocab),
        text.train,
        replace(config.training, steps=steps, optimizer=optimizer),
        workspace,
        tokens=text.train.length,
        flops_per_token=flops(model, text),
    )


def unstacked(params: Params, count: int) -> list[Params]:
    return [member(params, place) for place in range(count)]


def flops(model: TransformerConfig, text: Text) -> float:
    return train_flops(model, text.vocab, text.train.length)


def nats(model: TransformerConfig, text: Text, params: list[Params]) -> list[float]:
    """Per held-out token, of each seed."""
    found = held_out_nats(make_nll(model, STANDARD, text.vocab), params, text.held_out, 32)
    return [float(each.mean()) for each in found]


def changes(
    before: tuple[TransformerConfig, list[Params]], after: tuple[TransformerConfig, list[Params]], text: Text
) -> list[float]:
    """Of each seed the largest change of a logit, over the largest one, in four held-out windows."""
    batch = {"tokens": jnp.asarray(text.held_out[0][:4], jnp.int32), "row": jnp.arange(4, dtype=jnp.int32)}
    key, found = jax.random.key(0), []
    for model, each in (before, after):
        logits = jax.jit(make_logits(model, STANDARD, text.vocab))
        found.append(np.stack([logits(params, batch, key) for params in each]))
    moved, size = (np.abs(each).max(axis=(1, 2, 3)) for each in (found[1] - found[0], found[0]))
    return (moved / size).tolist()


def bigrams(text: Text) -> list[float]:
    """Nats of held-out tokens, but the first of a window, by counts of pairs in the training text, mixed with those of single tokens."""
    tokens = np.asarray(text.train.tokens, np.int64)
    single = (np.bincount(tokens, minlength=text.vocab) + 1) / (len(tokens) + text.vocab)
    pairs = np.bincount(tokens[:-1] * text.vocab + tokens[1:], minlength=text.vocab**2).reshape(text.vocab, -1)
    chances = (pairs + 5 * single) / (pairs.sum(axis=1, keepdims=True) + 5)
    return [float(-np.log(chances[each[:, :-1], each[:, 1:]]).mean()) for each in text.held_out]


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """What the paper says of growth, and the rivals that a sceptic asks for."""
    paper, arms, preserved = "wang2025tokenformer", Arms(results), results["preserved"]

    def over(arm: str, grown: str = "grown, tenth") -> np.ndarray:
        return arms[arm, "nats"] - arms[grown, "nats"]

    before = arms["small pairs", "nats"]
    return [
        Claim(
            "growth_preserves_function",
            "New pairs with keys of zero, at the scale of before, leave every logit as it was.",
            f"{paper}: section 3.3",
            {"largest change over the largest logit": np.array(preserved["grown"]["change"])},
            below(1e-6).every_seed,
            "logits",
        ),
        Claim(
            "grown_below_scratch_at_a_tenth",
            "After a tenth of the steps the grown model is at least a tenth of a nat below large ones from scratch.",
            f"{paper}: README of the code, perplexities 10.9 and 12.0",
            {label: over(f"{kind}, tenth") for kind, label in KINDS.items()},
            above(0.1),
            "nats per token",
        ),
        Claim(
            "grown_below_longer_small",
            "It is below the small model that is trained on with as many operations: it is the growth, not the steps.",
            OURS,
            {"small, longer": over("longer")},
            above(0),
            "nats per token",
        ),
        Claim(
            "released_growth_spikes",
            "With drawn keys at the scale of their new number, as in the released code, the loss leaps by over a tenth of a nat.",
            OURS,
            {
                "right after growth": np.array(preserved["released"]["nats"]) - before,
                "after a tenth of the steps, above zero keys": over("released, tenth"),
            },
            {"right after growth": above(0.1)},
            "nats per token",
        ),
        Claim(
            "grown_reaches_full_at_a_fifth",
            "After a fifth of the steps it is within .05 nats of a large model that was trained from scratch with all of them.",
            f"{paper}: README of the code, perplexities 10.7 and 10.5",
            {label: -over(f"{kind}, whole", "grown, fifth") for kind, label in KINDS.items()},
            {KINDS["matrices"]: below(0.05)},
            "nats per token above it",
        ),
        Claim(
            "net2net_behind",
            "A Transformer that is widened by copies (Net2Net) and trained for a tenth of the steps is above it.",
            f"{paper}: abstract",
            {
                "widened Transformer": over("widened, tenth"),
                "gained by growth": before - arms["grown, tenth", "nats"],
                "gained by widening": arms["small matrices", "nats"] - arms["widened, tenth", "nats"],
            },
            {"widened Transformer": above(0)},
            "nats per token",
        ),
        Claim(
            "reads_its_context",
            "The small models know more than pairs of tokens do.",
            OURS,
            {
                label: np.array(results["controls"]["bigrams"]) - arms[f"small {kind}", "nats"]
                for kind, label in KINDS.items()
            },
            above(0),
            "nats per token",
        ),
    ]


def figure(results: Mapping[str, Any]) -> Figure:
    """Held-out nats against operations: of all of a model's training, and of the training after the small model."""
    arms, preserved = Arms(results), results["preserved"]
    small = arms["small pairs", "nats"]
    shown = {
        "TokenFormer from scratch": (["pairs, tenth", "pairs, fifth", "pairs, whole"], None, BLUE),
        "Transformer from scratch": (["matrices, tenth", "matrices, fifth", "matrices, whole"], None, GREY),
        "grown, zero keys": (["grown, tenth", "grown, fifth"], small, VERMILION),
        "grown as released": (["released, tenth"], np.array(preserved["released"]["nats"]), ORANGE),
        "small one, longer": (["longer"], small, GREEN),
        "Transformer, widened": (["widened, tenth"], np.array(preserved["widened"]["nats"]), PURPLE),
    }
    drawn, axes = panels(1, 2, width=4.6, height=3.6, titles=("All of the training", "After the small model"))
    for label, (names, begun, color) in shown.items():
        first = results["arms"][names[0]]["before"]
        spent = results["arms"][first]["flops"] if first else 0.0
        x = np.array([results["arms"][name]["flops"] for name in names])
        y = np.stack([arms[name, "nats"] for name in names])
        if begun is not None:
            x, y = np.array([0.0, *x]), np.concatenate([begun[None], y])
        for panel, places in zip(axes, (x + spent, x), strict=True):
            panel.plot(places / 1e12, y.mean(axis=1), "o-", color=color, label=label, markersize=3)
            panel.vlines(places / 1e12, y.min(axis=1), y.max(axis=1), color=color, linewidth=1)
    for panel in axes:
        panel.set(xlabel="10$^{12}$ operations of training", ylabel="held-out nats per token")
        panel.set_ylim(top=float(small.mean()) + 1.0)
    reference(axes[1], float(arms["matrices, whole", "nats"].mean()), "Transformer, all steps")
    drawn.legend(*axes[1].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return drawn
