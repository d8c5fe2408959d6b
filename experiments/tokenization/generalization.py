"""Dictionaries that learn their text by heart fail on other text, and the encoder decides what a dictionary is worth.

Rajaraman et al. 2024 (arXiv 2404.08335), section on generalization and on the interaction of dictionary and encoder. Its text could not
be read here: both constructions are ours. Method card theory-of-tokenization, experiment E. Losses of the best unigram model in nats per
character.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILION, band, panels, reference
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.markov_sources import ALPHABET, SourceConfig, describe, texts
from lexinv.data.markov import cyclic_kernel
from lexinv.tokenization.tokenizers import Tokenizer, long_substrings, train_bpe, train_lzw, trap, with_encoder
from lexinv.tokenization.unigram import asymptotic_cross_entropy, best_cross_entropy, token_counts
from lexinv.validation import Checked, Count, Counts, Fractions, Seeds

PAPERS = ("rajaraman2024analysis",)
GENERALIZATION = "rajaraman2024analysis: generalization [recalled]"
INTERACTION = "rajaraman2024analysis: interaction of dictionary and encoder [recalled]"
ENCODERS = {
    "lzw": ("greedy", "minimum_length"),
    "bpe": ("greedy", "minimum_length", "merges"),
}


@dataclass(frozen=True)
class Config(Checked):
    """source, size, lengths: dictionaries of `size` tokens, substrings of these lengths, on this source.

    cycle, slips: the trap of `tokenizers.trap` on cyclic sources of so many symbols, for each probability of a slip.
    sizes: LZW and BPE dictionaries that are encoded with every encoder.
    """

    source: SourceConfig = SourceConfig(1, 0.9, 0.9)
    size: Count = 256
    lengths: Counts = (16, 32, 64, 128, 256)
    cycle: Count = 8
    slips: Fractions = (0.1, 0.03, 0.01, 0.003, 0.001)
    sizes: Counts = (16, 64, 256)
    characters: Count = 200_000
    seeds: Seeds = (0, 1, 2)

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield self.source.symbols == 2, "source.symbols", "2"
        yield self.size > 2, "size", "more than the 2 characters"
        yield 3 <= self.cycle <= len(ALPHABET), "cycle", f"3 to {len(ALPHABET)}"
        longest = self.characters // self.size
        yield min(self.lengths) >= 2 and max(self.lengths) <= longest, "lengths", f"2 to characters / size = {longest}"
        yield min(self.sizes) >= 2, "sizes", "at least the 2 characters"


PRESETS = presets(
    Config(),
    smoke={
        "size": 64,
        "lengths": (16, 64),
        "slips": (0.1, 0.01),
        "sizes": (16,),
        "characters": 20_000,
        "seeds": (0, 1),
    },
    paper={
        "size": 4096,
        "lengths": (32, 64, 128, 256, 1024),
        "sizes": (16, 256, 4096),
        "characters": 10_000_000,
        "seeds": (0, 1, 2, 3, 4),
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By seed, losses of memorised dictionaries by length, of the trap by slip, and of trained ones by size, each by text or encoder."""
    cyclic = [cyclic_kernel(config.cycle, slip) for slip in config.slips]
    alphabet = ALPHABET[: config.cycle]

    def measure(arm: str, seed: int) -> dict[str, list[float]]:
        key, characters = jax.random.key(seed), config.characters
        if arm == "trap":
            drawn = [
                texts(kernel, jax.random.fold_in(key, number), {"cyclic": characters})["cyclic"]
                for number, kernel in enumerate(cyclic)
            ]
            return {
                name: [best_loss(trap(alphabet, name), text) for text in drawn] for name in ("greedy", "minimum_length")
            }
        found = texts(config.source.kernel, key, {"train": characters, "test": characters})
        if arm == "memorised":
            learnt = {length: long_substrings(found["train"], config.size, length, "01") for length in config.lengths}
            # So much of the text, or more, is in the dictionary.
            by_heart = {length: found["train"][: (config.size - 2) * length] for length in config.lengths}
            return {
                "train": [best_loss(tokenizer, by_heart[length]) for length, tokenizer in learnt.items()],
                "test": [best_loss(tokenizer, found["test"]) for tokenizer in learnt.values()],
            }
        train = {"lzw": train_lzw, "bpe": train_bpe}[arm]
        trained, result = [train(found["train"], size, "01") for size in config.sizes], {}
        for name in ENCODERS[arm]:
            encoders = [with_encoder(tokenizer, name) for tokenizer in trained]
            result[name] = [best_loss(tokenizer, found["test"]) for tokenizer in encoders]
            lengths = [characters / len(tokenizer.encode(found["test"])) for tokenizer in encoders]
            result[f"{name}_characters_per_token"] = lengths
        return result

    return {
        "seeds": config.seeds,
        "corpora": {},
        "source": describe(config.source.kernel),
        "lengths": config.lengths,
        "slips": config.slips,
        "sizes": config.sizes,
        "cyclic": [describe(kernel) for kernel in cyclic],
        "trap_greedy_exact": [asymptotic_cross_entropy(trap(alphabet, "greedy"), kernel) for kernel in cyclic],
        "arms": measured(workspace, ("memorised", "trap", *ENCODERS), config.seeds, measure),
    }


def best_loss(tokenizer: Tokenizer, text: str) -> float:
    """Loss of the best unigram model for this very text, in nats per character."""
    counts = token_counts(tokenizer.encode(text), tokenizer)
    return best_cross_entropy(counts.astype(np.float64), tokenizer.lengths)


def claims(results: dict[str, Any]) -> list[Claim]:
    """That memorised dictionaries do not generalise, and that the encoder decides."""
    arms, source, rarest = Arms(results), results["source"], results["cyclic"][-1]
    rate, gap = rarest["entropy_rate"], rarest["stationary_entropy"] - rarest["entropy_rate"]
    exact = np.array(results["trap_greedy_exact"])
    return [
        Claim(
            "memorised_dictionary_fails_at_test",
            f"A dictionary of substrings of {results['lengths'][-1]} characters, which on the text that it holds is below the entropy "
            "rate by construction, is back at H(pi) on fresh text of the same source, with the best unigram model for that text.",
            GENERALIZATION,
            {
                "train, over the entropy rate": arms["memorised", "train"][:, -1] / source["entropy_rate"],
                "test, over H(pi)": arms["memorised", "test"][:, -1] / source["stationary_entropy"],
            },
            {"train, over the entropy rate": below(1).every_seed, "test, over H(pi)": above(0.95)},
            "ratio of the loss",
            "near 0 in training, about H(pi) at test",
        ),
        Claim(
            "encoder_decides",
            f"With the rarest slips of the cycle ({results['slips'][-1]:g}) the fewest tokens of a dictionary come near the entropy "
            "rate and its greedy encoding stays half-way to H(pi).",
            INTERACTION,
            {name: (arms["trap", name][:, -1] - rate) / gap for name in ("greedy", "minimum_length")},
            {"greedy": above(0.45), "minimum_length": below(0.05)},
            "share of the gap between them that is left",
            "near-optimal with one encoder, close to H(pi) with the other",
        ),
        Claim(
            "greedy_matches_exact_value",
            "The measured loss of greedy encoding is that of the parser's chain.",
            OURS,
            {"all slips": np.abs(arms["trap", "greedy"] / exact - 1).max(axis=1)},
            below(0.01).every_seed,
            "largest relative deviation",
            0.0,
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Memorised dictionaries by length, the trap by slip, trained dictionaries by size and encoder."""
    arms, dots = Arms(results), {"marker": "o", "markersize": 3}
    drawn, axes = panels(
        1, 3, titles=("Dictionary of substrings", "One dictionary, two encoders", "Trained dictionaries")
    )
    memorised, trapped, trained = axes
    for text, label, color in (("train", "on the text it holds", BLUE), ("test", "on fresh text", VERMILION)):
        band(memorised, results["lengths"], arms["memorised", text], label, color, **dots)
    for name, label, color in (("greedy", "greedy", VERMILION), ("minimum_length", "fewest tokens", BLUE)):
        band(trapped, results["slips"], arms["trap", name], label, color, **dots)
    trapped.plot(results["slips"], results["trap_greedy_exact"], "x", color=BLACK, label="greedy, exact")
    rates = [source["entropy_rate"] for source in results["cyclic"]]
    trapped.plot(results["slips"], rates, color=BLACK, linestyle="--", linewidth=1, label="entropy rate")
    reference(trapped, results["cyclic"][0]["stationary_entropy"], "H(π)", GREY)
    styles = {"greedy": "-", "minimum_length": "--", "merges": ":"}
    for kind, color in (("lzw", GREEN), ("bpe", ORANGE)):
        for name in ENCODERS[kind]:
            label = f"{kind.upper()}, {name.replace('_', ' ')}"
            band(trained, results["sizes"], arms[kind, name], label, color, linestyle=styles[name], **dots)
    reference(memorised, results["source"]["stationary_entropy"], "H(π)", GREY)
    for panel, label in ((memorised, "length of the substrings"), (trained, "dictionary size")):
        reference(panel, results["source"]["entropy_rate"], "entropy rate", BLACK)
        panel.set_xscale("log", base=2)
        panel.set_xlabel(label)
    trapped.set(xlabel="probability of a slip of the cycle", xscale="log", yscale="log")
    for panel in axes:
        panel.set_ylabel("nats per character")
    memorised.legend(fontsize=7, loc="upper right", bbox_to_anchor=(1.0, 0.85))
    trapped.legend(fontsize=7)
    trained.legend(fontsize=7)
    return drawn
