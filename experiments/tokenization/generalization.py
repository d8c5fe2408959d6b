"""Dictionaries that learn their text by heart fail on other text, and the encoder decides what a dictionary is worth.

Rajaraman et al. 2024 (arXiv 2404.08335), section on generalization and on the interaction of dictionary and encoder. Its text could not
be read here: both constructions are ours. Method card theory-of-tokenization, experiment E. Losses of the best unigram model in nats per
character.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.claims import Claim, above, below, every, interval
from experiments.harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILION, band, panels, reference, styled
from experiments.harness.workspace import Workspace
from experiments.subjects import markov_sources
from experiments.subjects.markov_sources import ALPHABET, SourceConfig, describe, texts
from lexinv.tokenization.sources import Kernel, cyclic_kernel
from lexinv.tokenization.tokenizers import Tokenizer, long_substrings, train_bpe, train_lzw, trap, with_encoder
from lexinv.tokenization.unigram import asymptotic_cross_entropy, best_cross_entropy, token_counts
from lexinv.validation import require

PAPER = markov_sources.PAPER
SOURCE = "Rajaraman et al. 2024, generalization [recalled, unverified]"
CARD = "method card theory-of-tokenization, experiment E (ours)"
ENCODERS = ("greedy", "minimum_length", "merges")


@dataclass(frozen=True)
class Config:
    """source, size, lengths: dictionaries of `size` tokens, substrings of these lengths, on this source.

    cycle, slips: the trap of `tokenizers.trap` on cyclic sources of so many symbols, for each probability of a slip.
    sizes: LZW and BPE dictionaries that are encoded with every encoder.
    """

    source: SourceConfig = SourceConfig(1, 0.9, 0.9)
    size: int = 256
    lengths: tuple[int, ...] = (16, 32, 64, 128, 256)
    cycle: int = 8
    slips: tuple[float, ...] = (0.1, 0.03, 0.01, 0.003, 0.001)
    sizes: tuple[int, ...] = (16, 64, 256)
    characters: int = 200_000
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self):
        require(len(set(self.seeds)) == len(self.seeds) > 0, "seeds", self.seeds, "at least one, each once")
        require(self.source.symbols == 2, "source.symbols", self.source.symbols, "2")
        require(3 <= self.cycle <= len(ALPHABET), "cycle", self.cycle, f"3 to {len(ALPHABET)}")
        require(
            len(self.lengths) > 0 and len(self.slips) > 0 and len(self.sizes) > 0,
            "lengths, slips, sizes",
            "empty",
            "some",
        )
        longest = self.characters // self.size
        within = all(2 <= length <= longest for length in self.lengths)
        require(within, "lengths", self.lengths, f"2 to characters / size = {longest}")
        for slip in self.slips:
            cyclic_kernel(self.cycle, slip)


PRESETS = {
    "smoke": Config(size=64, lengths=(16, 64), slips=(0.1, 0.01), sizes=(16,), characters=20_000, seeds=(0, 1)),
    "cpu": Config(),
    "paper": Config(
        size=4096,
        lengths=(32, 64, 128, 256, 1024),
        sizes=(16, 256, 4096),
        characters=10_000_000,
        seeds=(0, 1, 2, 3, 4),
    ),
}


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """One list entry per seed: memorised dictionaries by length, the trap by slip, trained dictionaries by encoder."""
    kernel = config.source.kernel
    cyclic = [cyclic_kernel(config.cycle, slip) for slip in config.slips]
    return {
        "seeds": list(config.seeds),
        "corpora": {},
        "source": describe(kernel),
        "lengths": list(config.lengths),
        "slips": list(config.slips),
        "sizes": list(config.sizes),
        "cyclic": [describe(kernel) for kernel in cyclic],
        "trap_greedy_exact": [
            asymptotic_cross_entropy(trap(ALPHABET[: config.cycle], "greedy"), kernel) for kernel in cyclic
        ],
        "by_seed": [
            workspace.cached(f"seed-{seed}", lambda seed=seed: measure(kernel, cyclic, seed, config))
            for seed in config.seeds
        ],
    }


def measure(kernel: Kernel, cyclic: list[Kernel], seed: int, config: Config) -> dict[str, Any]:
    """All three parts for one seed."""
    key = jax.random.key(seed)
    found = texts(kernel, key, {"train": config.characters, "test": config.characters})
    memorised = [long_substrings(found["train"], config.size, length, "01") for length in config.lengths]
    by_heart = [
        (config.size - 2) * length for length in config.lengths
    ]  # so much of the text, or more, is in the dictionary
    alphabet = ALPHABET[: config.cycle]
    trapped = []
    for number, source in enumerate(cyclic):
        text = texts(source, jax.random.fold_in(key, number), {"cyclic": config.characters})["cyclic"]
        trapped.append({name: best_loss(trap(alphabet, name), text)["loss"] for name in ("greedy", "minimum_length")})
    trained = {
        "lzw": [train_lzw(found["train"], size, "01") for size in config.sizes],
        "bpe": [train_bpe(found["train"], size, "01") for size in config.sizes],
    }
    return {
        "memorised_train": [
            best_loss(tokenizer, found["train"][:length])["loss"]
            for tokenizer, length in zip(memorised, by_heart, strict=True)
        ],
        "memorised_test": [best_loss(tokenizer, found["test"])["loss"] for tokenizer in memorised],
        "trap": trapped,
        "trained": {
            kind: {
                name: [best_loss(with_encoder(tokenizer, name), found["test"]) for tokenizer in tokenizers]
                for name in ENCODERS
                if name != "merges" or kind == "bpe"
            }
            for kind, tokenizers in trained.items()
        },
    }


def best_loss(tokenizer: Tokenizer, text: str) -> dict[str, float]:
    """Loss of the best unigram model for this very text, and characters per token."""
    ids = tokenizer.encode(text)
    return {
        "loss": best_cross_entropy(token_counts(ids, tokenizer).astype(np.float64), tokenizer.lengths),
        "characters_per_token": len(text) / len(ids),
    }


def claims(results: dict[str, Any]) -> list[Claim]:
    """That memorised dictionaries do not generalise, and that the encoder decides."""
    seeds, rate, single = results["by_seed"], results["source"]["entropy_rate"], results["source"]["stationary_entropy"]
    train = max(seed["memorised_train"][-1] / rate for seed in seeds)
    test = interval([seed["memorised_test"][-1] / single for seed in seeds])
    rarest = results["cyclic"][-1]
    gap = rarest["stationary_entropy"] - rarest["entropy_rate"]
    left = {
        name: interval([(seed["trap"][-1][name] - rarest["entropy_rate"]) / gap for seed in seeds])
        for name in ("greedy", "minimum_length")
    }
    verdicts = above(left["greedy"], 0.45), below(left["minimum_length"], 0.05)
    exact = np.array(results["trap_greedy_exact"])
    deviation = float(
        max(np.abs(np.array([point["greedy"] for point in seed["trap"]]) / exact - 1).max() for seed in seeds)
    )
    differences = {
        kind: [
            interval(
                [
                    seed["trained"][kind]["minimum_length"][i]["loss"] - seed["trained"][kind][own][i]["loss"]
                    for seed in seeds
                ]
            )
            for i in range(len(results["sizes"]))
        ]
        for kind, own in (("lzw", "greedy"), ("bpe", "merges"))
    }
    less = [below(value, 0.0) for values in differences.values() for value in values]
    return [
        Claim(
            "memorised_dictionary_fails_at_test",
            f"A dictionary of substrings of {results['lengths'][-1]} characters, which on the text that it holds is below the entropy "
            "rate by construction, is back at H(pi) on fresh text of the same source, with the best unigram model for that text "
            "(measured: train loss over the entropy rate, test loss over H(pi)).",
            SOURCE,
            "near 0 in training, about H(pi) at test",
            {"train": train, "test": test},
            "train below 1; test: whole interval above 0.95",
            every([train < 1, above(test, 0.95)]),
        ),
        Claim(
            "encoder_decides",
            f"With the rarest slips of the cycle ({results['slips'][-1]:g}) the fewest tokens of a dictionary come near the entropy "
            "rate and its greedy encoding stays half-way to H(pi) (measured: share of the gap between them that is left).",
            SOURCE,
            "near-optimal with one encoder, close to H(pi) with the other",
            left,
            "greedy: whole interval above 0.45; fewest tokens: whole interval below 0.05",
            every(verdicts),
        ),
        Claim(
            "greedy_matches_exact_value",
            "The measured loss of greedy encoding is that of the parser's chain (measured: largest relative deviation).",
            CARD,
            0.0,
            deviation,
            "below 0.01",
            deviation < 0.01,
        ),
        Claim(
            "fewest_tokens_cost_least",
            f"For trained dictionaries of {', '.join(map(str, results['sizes']))} tokens the fewest tokens also cost the fewest nats "
            "(measured: loss minus that of the dictionary's own encoder, greedy for LZW and merges for BPE).",
            CARD,
            None,
            differences,
            "every whole interval below 0",
            every(less),
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Train and test loss by length of the substrings; the trap by slips; trained dictionaries by encoder."""
    seeds = results["by_seed"]
    drawn, (memorised, trapped, trained) = panels(1, 3, width=4.2, height=3.6)
    with styled():
        for field, label, color in (
            ("memorised_train", "on the text it holds", BLUE),
            ("memorised_test", "on fresh text", VERMILION),
        ):
            band(memorised, results["lengths"], [seed[field] for seed in seeds], label, color, marker="o", markersize=3)
        reference(memorised, results["source"]["stationary_entropy"], "H(π)", GREY)
        reference(memorised, results["source"]["entropy_rate"], "entropy rate", BLACK)
        memorised.set(title="Dictionary of substrings", xlabel="length of the substrings")
        for name, label, color in (("greedy", "greedy", VERMILION), ("minimum_length", "fewest tokens", BLUE)):
            values = [[point[name] for point in seed["trap"]] for seed in seeds]
            band(trapped, results["slips"], values, label, color, marker="o", markersize=3)
        trapped.plot(results["slips"], results["trap_greedy_exact"], "x", color=BLACK, label="greedy, exact")
        rates = [source["entropy_rate"] for source in results["cyclic"]]
        trapped.plot(results["slips"], rates, color=BLACK, linestyle="--", linewidth=1, label="entropy rate")
        reference(trapped, results["cyclic"][0]["stationary_entropy"], "H(π)", GREY)
        trapped.set(
            title="One dictionary, two encoders",
            xlabel="probability of a slip of the cycle",
            xscale="log",
            yscale="log",
        )
        styles = {"greedy": "-", "minimum_length": "--", "merges": ":"}
        for kind, color in (("lzw", GREEN), ("bpe", ORANGE)):
            for name in seeds[0]["trained"][kind]:
                values = [[point["loss"] for point in seed["trained"][kind][name]] for seed in seeds]
                label = f"{kind.upper()}, {name.replace('_', ' ')}"
                band(trained, results["sizes"], values, label, color, linestyle=styles[name], marker="o", markersize=3)
        trained.set(title="Trained dictionaries", xlabel="dictionary size")
        reference(trained, results["source"]["entropy_rate"], "entropy rate", BLACK)
        for panel in (memorised, trained):
            panel.set_xscale("log", base=2)
        for panel in (memorised, trapped, trained):
            panel.set_ylabel("nats per character")
            panel.legend(fontsize=7)
    return drawn
