"""Unigram models over tokens come near the entropy rate of Markov sources, where over characters they stay at H(pi).

Rajaraman et al. 2024 (arXiv 2404.08335), theorems 1 to 4; method card theory-of-tokenization, experiment A. For each source and dictionary
size: blocks against the exact formula, LZW and BPE against their bounds, all of them against H(pi) and the entropy rate, in nats per
character. Greedy dictionaries are also evaluated exactly, by the stationary law of their parser.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key
from matplotlib.figure import Figure

from experiments.harness.claims import Claim, Interval, above, below, every, interval
from experiments.harness.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILION,
    band,
    panels,
    reference,
    styled,
)
from experiments.harness.workspace import Workspace
from experiments.subjects import markov_sources
from experiments.subjects.markov_sources import ALPHABET, SourceConfig
from lexinv.tokenization.bounds import block_cross_entropy, lzw_bound
from lexinv.tokenization.library import train_unigram
from lexinv.tokenization.sources import (
    Kernel,
    check_kernel,
    entropy_rate,
    mixing_time,
    negative_log_likelihood,
    order,
    random_kernel,
    smallest_probability,
    stationary_text,
)
from lexinv.tokenization.tokenizers import (
    Tokenizer,
    blocks,
    shortened,
    to_symbols,
    to_text,
    train_bpe,
    train_lzw,
    train_sequential_bpe,
)
from lexinv.tokenization.unigram import asymptotic_cross_entropy, cross_entropy
from lexinv.training.streams import stream
from lexinv.validation import require

PAPER = markov_sources.PAPER
SOURCE = "Rajaraman et al. 2024"
CARD = "method card theory-of-tokenization, experiment A (ours)"
NAMES = {"blocks": "blocks", "lzw": "LZW", "bpe": "BPE", "sequential_bpe": "sequential BPE", "unigram": "Unigram"}


@dataclass(frozen=True)
class Config:
    """sizes: dictionary sizes d. characters: of the text that trains dictionaries, of the one that trains unigram models, and of the test.

    unigram_sizes, unigram_characters: for the Unigram tokenizer, whose training is slow on texts without words.
    first_order_sources: random first-order binary sources on which tokenizers are compared with their bounds, for each seed.
    """

    sources: tuple[SourceConfig, ...] = (
        SourceConfig(1, 0.9, 0.9),
        SourceConfig(2, 0.9, 0.9),
        SourceConfig(4, 0.9, 0.9),
        SourceConfig(2, 0.2, 0.2),
        SourceConfig(2, 0.5, 0.8),
        SourceConfig(2, symbols=3),
    )
    sizes: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
    characters: int = 400_000
    unigram_sizes: tuple[int, ...] = (16, 256)
    unigram_characters: int = 10_000
    first_order_sources: int = 7
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self):
        require(len(set(self.seeds)) == len(self.seeds) > 0, "seeds", self.seeds, "at least one, each once")
        most = max((source.symbols for source in self.sources), default=0)
        names = [source.name for source in self.sources]
        require(0 < len(set(names)) == len(names), "sources", names, "at least one, each once")
        ascending = len(self.sizes) > 0 and list(self.sizes) == sorted(set(self.sizes)) and self.sizes[0] >= most
        require(ascending, "sizes", self.sizes, f"rising, from the {most} characters of the largest alphabet")
        require(
            set(self.unigram_sizes) <= set(self.sizes),
            "unigram_sizes",
            self.unigram_sizes,
            f"among sizes = {self.sizes}",
        )
        for field in ("characters", "unigram_characters", "first_order_sources"):
            require(getattr(self, field) >= 1, field, getattr(self, field), "at least 1")


PRESETS = {
    "smoke": Config(
        sources=(SourceConfig(1, 0.9, 0.9), SourceConfig(2, 0.9, 0.9)),
        sizes=(4, 16),
        characters=20_000,
        unigram_sizes=(16,),
        unigram_characters=1000,
        first_order_sources=1,
        seeds=(0, 1),
    ),
    "cpu": Config(),
    "paper": Config(
        sizes=tuple(2**n for n in range(2, 16)),
        characters=10_000_000,
        unigram_characters=100_000,
        seeds=(0, 1, 2, 3, 4),
    ),
}


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Losses of every tokenizer by source, size and seed, with the exact values and bounds."""
    return {
        "seeds": list(config.seeds),
        "corpora": {},
        "sizes": list(config.sizes),
        "sources": {
            source.title: workspace.cached(
                f"sources/{source.name}", lambda source=source: measure_source(source, config)
            )
            for source in config.sources
        },
        "first_order": workspace.cached("first_order", lambda: measure_first_order(config)),
    }


def texts(kernel: Kernel, key: Key[Array, ""], lengths: dict[str, int]) -> dict[str, str]:
    """Independent stationary texts of a source, one for each name."""
    return {
        name: to_text(stationary_text(stream(key, name), kernel, length), ALPHABET) for name, length in lengths.items()
    }


def measure_source(source: SourceConfig, config: Config) -> dict[str, Any]:
    """Facts of the source, the block formula, and per seed what every tokenizer costs, in nats per character."""
    kernel = source.kernel
    rate, delta = entropy_rate(kernel), smallest_probability(kernel)
    by_seed = [measure_seed(kernel, jax.random.key(seed), config) for seed in config.seeds]
    lengths = {size: int(log(size) / log(source.symbols) + 1e-9) for size in config.sizes}
    return {
        **source.entropies,
        "delta": delta,
        "mixing_time": mixing_time(kernel),
        "order": order(kernel),
        "block_formula": [block_cross_entropy(kernel, lengths[size]) for size in config.sizes],
        "lzw_bound": [lzw_bound(rate, delta, size) for size in config.sizes],
        **{field: [seed[field] for seed in by_seed] for field in ("loss", "exact", "characters_per_token", "own_loss")},
    }


def measure_seed(kernel: Kernel, key: Key[Array, ""], config: Config) -> dict[str, Any]:
    """By tokenizer and size (None where there is none): loss on held-out text, exact loss of greedy ones, characters per token.

    own_loss: of the source itself on the held-out text; what lies below it is an error or luck.
    """
    symbols = kernel.shape[1]
    alphabet, largest = ALPHABET[:symbols], config.sizes[-1]
    found = texts(kernel, key, dict.fromkeys(("dictionary", "train", "test"), config.characters))
    trained = {
        "lzw": train_lzw(found["dictionary"], largest, alphabet),
        "bpe": train_bpe(found["dictionary"], largest, alphabet),
    }
    makers: dict[str, Callable[[int], Tokenizer | None]] = {
        "blocks": lambda size: blocks(alphabet, int(log(size) / log(symbols) + 1e-9)),
        "lzw": lambda size: shortened(trained["lzw"], size),
        "bpe": lambda size: shortened(trained["bpe"], size),
        "sequential_bpe": lambda size: train_sequential_bpe(found["dictionary"], size, alphabet),
        "unigram": lambda size: (
            train_unigram(found["dictionary"][: config.unigram_characters], size, alphabet, False, at_most=True)
            if size in config.unigram_sizes
            else None
        ),
    }
    result: dict[str, Any] = {"loss": {}, "exact": {}, "characters_per_token": {}}
    for kind, make in makers.items():
        rows = [evaluate(make(size), kernel, found) for size in config.sizes]
        for field in result:
            result[field][kind] = [None if row is None else row[field] for row in rows]
    own = negative_log_likelihood(kernel, to_symbols(found["test"], alphabet))[order(kernel) :]
    return result | {"own_loss": float(own.mean())}


def evaluate(tokenizer: Tokenizer | None, kernel: Kernel, found: dict[str, str]) -> dict[str, Any] | None:
    """One point: the unigram model of the training text's tokens on the test text."""
    if tokenizer is None:
        return None
    train, test = tokenizer.encode(found["train"]), tokenizer.encode(found["test"])
    return {
        "loss": cross_entropy(train, test, tokenizer),
        "exact": asymptotic_cross_entropy(tokenizer, kernel) if tokenizer.encoder == "greedy" else None,
        "characters_per_token": len(found["test"]) / len(test),
    }


def measure_first_order(config: Config) -> list[list[dict[str, Any]]]:
    """By seed: random first-order binary sources, for which the theorems are stated, with the largest dictionary: exact loss of LZW, loss
    of sequential BPE on held-out text, and the bounds."""

    def one(key: Key[Array, ""]) -> dict[str, Any]:
        kernel = check_kernel(np.asarray(random_kernel(stream(key, "kernel"), 1, 2), np.float64))
        found = texts(kernel, key, dict.fromkeys(("dictionary", "train", "test"), config.characters))
        facts, size = markov_sources.describe(kernel), config.sizes[-1]
        delta = smallest_probability(kernel)
        lzw, bpe = (train(found["dictionary"], size, "01") for train in (train_lzw, train_sequential_bpe))
        return {
            **facts,
            "delta": delta,
            "lzw": asymptotic_cross_entropy(lzw, kernel),
            "lzw_bound": lzw_bound(facts["entropy_rate"], delta, size),
            "sequential_bpe": cross_entropy(bpe.encode(found["train"]), bpe.encode(found["test"]), bpe),
        }

    keys = [stream(jax.random.key(seed), "first-order sources") for seed in config.seeds]
    return [[one(jax.random.fold_in(key, number)) for number in range(config.first_order_sources)] for key in keys]


def losses(source: dict[str, Any], kind: str, field: str = "loss") -> np.ndarray:
    """[seeds, sizes] of one tokenizer; NaN where there is none."""
    return np.array([seed[kind] for seed in source[field]], np.float64)


def remaining(source: dict[str, Any], kind: str) -> np.ndarray:
    """Share of the gap between H(pi) and the entropy rate that the largest dictionary leaves, per seed."""
    rate, single = source["entropy_rate"], source["stationary_entropy"]
    return (losses(source, kind)[:, -1] - rate) / (single - rate)


def bound_ratios(results: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of LZW and of BPE: [number of points at which the bound is below H(pi), largest ratio there], by what the theorem covers."""
    random = [item for seed in results["first_order"] for item in seed]
    lzw: dict[str, list[float]] = {"first order": [], "higher orders": []}
    bpe: dict[str, list[float]] = {"first order": [], "higher orders": [], "plain BPE": []}
    for item in random:
        if item["lzw_bound"] is not None and item["lzw_bound"] < item["stationary_entropy"]:
            lzw["first order"].append(item["lzw"] / item["lzw_bound"])
        if 2 * item["entropy_rate"] < item["stationary_entropy"]:
            bpe["first order"].append(item["sequential_bpe"] / item["entropy_rate"])
    for source in results["sources"].values():
        covered = "first order" if source["order"] == 1 else "higher orders"
        for row in losses(source, "lzw", "exact"):
            for loss, bound in zip(row, source["lzw_bound"], strict=True):
                if bound is not None and bound < source["stationary_entropy"]:
                    lzw[covered].append(loss / bound)
        if 2 * source["entropy_rate"] < source["stationary_entropy"]:
            bpe[covered] += (losses(source, "sequential_bpe")[:, -1] / source["entropy_rate"]).tolist()
            bpe["plain BPE"] += (losses(source, "bpe")[:, -1] / source["entropy_rate"]).tolist()

    def largest(ratios: dict[str, list[float]]) -> dict[str, Any]:
        return {name: [len(values), max(values, default=None)] for name, values in ratios.items()}

    return largest(lzw), largest(bpe)


def half_of_the_gap(name: str, where: str, left: dict[str, dict[str, Interval]]) -> Claim:
    """The ordering characters >> tokens -> H_inf, for some of the sources."""
    halved = [below(value, 0.5) for kinds in left.values() for value in kinds.values()]
    return Claim(
        name,
        f"{where}, LZW and BPE with the largest dictionary leave less than half of the gap between H(pi), where characters stay, and the "
        "entropy rate (measured: share left, by source).",
        f"{SOURCE}, ordering characters >> tokens -> H_inf [recalled, unverified]",
        "near-optimal",
        left,
        "every whole interval below 0.5",
        every(halved),
    )


def claims(results: dict[str, Any]) -> list[Claim]:
    """Theorems 2 to 4 and the ordering characters >> tokens -> H_inf, with the places where it fails."""
    sources, sizes = results["sources"], np.array(results["sizes"])
    deviation = {
        name: float(np.abs(losses(source, "blocks") / np.array(source["block_formula"]) - 1).max())
        for name, source in sources.items()
    }
    exact = max(
        float(np.abs(losses(source, "blocks", "exact") / np.array(source["block_formula"]) - 1).max())
        for source in sources.values()
    )
    lzw, bpe = bound_ratios(results)
    left = {
        name: {kind: interval(remaining(source, kind)) for kind in ("lzw", "bpe")} for name, source in sources.items()
    }
    costly = [name for name, source in sources.items() if source["stationary_entropy"] > 2 * source["entropy_rate"]]
    against_blocks = {
        name: interval(losses(source, "blocks")[:, -1] - losses(source, "lzw")[:, -1])
        for name, source in sources.items()
    }
    better = [above(value, 0.0) for value in against_blocks.values()]
    falls = {
        name: {kind: float(np.diff(losses(source, kind).mean(axis=0)).max()) for kind in ("lzw", "bpe")}
        for name, source in sources.items()
    }
    tiny = {
        name: {kind: interval(losses(source, kind)[:, 0] - source["stationary_entropy"]) for kind in ("lzw", "bpe")}
        for name, source in sources.items()
    }
    never_worse = [below(value, 0.0) for kinds in tiny.values() for value in kinds.values()]
    above_source = min(
        float(np.nanmin(losses(source, kind) - np.array(source["own_loss"])[:, None]))
        for source in sources.values()
        for kind in NAMES
    )
    return [
        Claim(
            "block_matches_formula",
            "Over blocks of r characters the held-out unigram loss is H(X_1 ... X_r) / r (measured: largest relative deviation, by "
            f"source; the parser's exact value deviates by {exact:.1e}).",
            f"{SOURCE}, theorem 2 [derived in `bounds.block_cross_entropy`]",
            "H_inf + k (H(pi) - H_inf) / r",
            deviation,
            "all below 0.01",
            max(deviation.values()) < 0.01 and exact < 1e-9,
        ),
        Claim(
            "lzw_within_bound",
            "On first-order sources, for which the theorem is stated, the exact unigram loss of LZW is within H_inf / (1 - eps) wherever "
            "that is below H(pi), so that characters are not within it (measured: number of such points, largest ratio of loss to bound, "
            "and the same for sources of higher order, which the theorem does not cover).",
            f"{SOURCE}, theorem 3 [constants recalled, unverified]",
            1.0,
            lzw,
            "at most 1 on first-order sources",
            lzw["first order"][1] <= 1 if lzw["first order"][0] else None,
        ),
        Claim(
            "bpe_within_bound",
            "On first-order sources with 2 H_inf below H(pi) the unigram loss of sequential BPE with the largest dictionary is within "
            "2 H_inf (measured: number of such points, largest ratio of loss to H_inf, and the same for higher orders and for plain BPE, "
            "which the theorem does not cover).",
            f"{SOURCE}, theorem 4 [recalled, unverified]: (2 + eps) H_inf, eps unknown",
            2.0,
            bpe,
            "at most 2 on first-order sources",
            bpe["first order"][1] <= 2 if bpe["first order"][0] else None,
        ),
        half_of_the_gap(
            "tokens_close_half_of_the_gap",
            "Where characters cost more than twice the entropy rate",
            {name: left[name] for name in costly},
        ),
        half_of_the_gap(
            "tokens_close_half_of_the_gap_everywhere",
            "On the other sources, too",
            {name: kinds for name, kinds in left.items() if name not in costly},
        ),
        Claim(
            "lzw_beats_blocks",
            "With the largest dictionary the loss of LZW is below that of blocks (measured: nats per character below, by source).",
            f"{SOURCE}: LZW needs far fewer tokens than blocks [recalled]",
            None,
            against_blocks,
            "every whole interval above 0",
            every(better),
        ),
        Claim(
            "loss_falls_with_every_size",
            "The loss of LZW and of BPE falls from each size to the next (measured: largest change of the mean over seeds, nats per "
            "character, by source).",
            CARD,
            None,
            falls,
            "all below 0",
            all(change < 0 for kinds in falls.values() for change in kinds.values()),
        ),
        Claim(
            "smallest_dictionary_beats_characters",
            f"Even {sizes[0]} tokens have a smaller loss than characters (measured: loss minus H(pi), nats per character, by source).",
            CARD,
            None,
            tiny,
            "every whole interval below 0",
            every(never_worse),
        ),
        Claim(
            "never_below_entropy_rate",
            "No lossless tokenizer's unigram model has a smaller loss on a text than the source itself (measured: smallest difference over "
            "all points, nats per character).",
            f"{SOURCE}, section 2",
            0.0,
            above_source,
            "above 0",
            above_source > 0,
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Loss against dictionary size, a panel for each source, between H(pi) and the entropy rate."""
    sources, sizes = results["sources"], results["sizes"]
    columns = min(3, len(sources))
    drawn, axes = panels(-(-len(sources) // columns), columns, width=4.0, height=3.1)
    kinds = {"lzw": BLUE, "bpe": VERMILION, "sequential_bpe": ORANGE, "unigram": GREEN}
    with styled():
        for panel, (name, source) in zip(axes, sources.items(), strict=False):
            panel.plot(sizes, source["block_formula"], color=PURPLE, label="blocks, exact formula")
            panel.plot(
                sizes,
                losses(source, "blocks").mean(axis=0),
                "o",
                color=PURPLE,
                markersize=3.5,
                label="blocks, measured",
            )
            for kind, color in kinds.items():
                values = losses(source, kind)
                has = ~np.isnan(values[0])
                style = {"marker": "s", "markersize": 4} if kind == "unigram" else {}
                band(panel, np.array(sizes)[has], values[:, has], NAMES[kind], color, **style)
            single, rate = source["stationary_entropy"], source["entropy_rate"]
            top = max(float(np.nanmax(losses(source, kind))) for kind in NAMES)
            bound = [(size, value) for size, value in zip(sizes, source["lzw_bound"], strict=True) if value is not None]
            if bound:
                panel.plot(*zip(*bound, strict=True), color=BLUE, linestyle=":", linewidth=1, label="bound for LZW")
            reference(panel, single, "H(π): unigram over characters", GREY)
            reference(panel, rate, "entropy rate", BLACK)
            panel.set(title=name, xlabel="dictionary size", ylabel="nats per character")
            panel.set_xscale("log", base=2)
            panel.title.set_fontsize(8.5)
            panel.set_ylim(rate - 0.06 * (top - rate), top + 0.06 * (top - rate))
        for panel in axes[len(sources) :]:
            panel.set_axis_off()
        axes[0].legend(fontsize=6.5)
    return drawn
