"""What a token costs when the context is up to 16 times as long as in training: softmax, its scales and positions, softplus, re-weighting.

Gao and Spratling 2025 (LSSAR, arXiv 2501.13428); method card softplus-attention. Models of one text read 128 tokens in training. Then
the same last tokens of each held-out window are scored after contexts of other lengths. Going on from there, they learn to name a key of
four digits that stood somewhere in such a text, and are asked in longer ones. Without a model: how much weight a planted key keeps.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.curves import rounded, significant
from experiments.harness.figures import curves
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, band, panels, styled
from experiments.harness.training import Training
from experiments.harness.verdicts import OURS, Claim, above, below, between
from experiments.harness.workspace import Workspace
from experiments.subjects.language_models import train_seeds
from experiments.subjects.passkeys import TOKENS, make_answers, train_to_answer
from experiments.subjects.text import STANDARD
from lexinv.data.corpora import load_corpus
from lexinv.data.tokenizers import load_tokenizer
from lexinv.data.windows import token_stream, window_source
from lexinv.nn.language_model import make_nll
from lexinv.nn.reweighting import Kind, row_weights
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.evaluation import evaluate_by_position
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Counts, require

PAPERS = ("gao2025softplus",)
PAPER = "gao2025softplus"


def arm(kind: Kind = "softmax", sharpness: float = 0.0, positions: str = "rope") -> dict[str, Any]:
    return {"attention_kind": kind, "sharpness": sharpness, "positions": positions}


MODELS = {
    "softmax": arm(),
    "scaled_softmax": arm("scaled_softmax"),
    "softplus": arm("softplus"),
    "reweighted": arm("softplus", 15.0),
    "scaled_softmax_15": arm("scaled_softmax", 15.0),
    "alibi": arm(positions="alibi"),
    "none": arm(positions="none"),
}
AFTERWARDS = "sharpened_afterwards"
"""The models `softplus`, read with p = 15."""
ASKED = ("softmax", "scaled_softmax", "softplus", "reweighted")
WEIGHTS: dict[str, tuple[Kind, float]] = {
    "softmax": ("softmax", 0.0),
    "softplus": ("softplus", 0.0),
    "softplus_3": ("softplus", 3.0),
    "reweighted": ("softplus", 15.0),
}
NEEDLES = {16: (0.835, 0.340, 0.977, 1.0), 256: (0.231, 0.040, 0.531, 0.999)}
NEEDLES |= {4096: (0.018, 0.003, 0.059, 0.981), 16384: (0.004, 0.001, 0.015, 0.927)}
"""The card's table: by number of keys the mean weight on one of cosine 0.6, by `WEIGHTS`; softmax's scores are 8 cosines."""
COSINE, WIDTH = 0.6, 64
LABELS = {
    "softmax": ("softmax", BLACK),
    "scaled_softmax": ("cosines, ln N", ORANGE),
    "softplus": ("softplus", GREEN),
    "softplus_3": ("softplus, p = 3", SKY),
    "reweighted": ("softplus, p = 15", BLUE),
    AFTERWARDS: ("p = 15 afterwards", PURPLE),
    "scaled_softmax_15": ("cosines, ln N, p = 15", VERMILION),
}
POSITIONS = {
    "softmax": ("RoPE", BLACK),
    "alibi": ("ALiBi", ORANGE),
    "none": ("no positions", GREEN),
    "reweighted": ("RoPE, softplus, p = 15", BLUE),
}


@dataclass(frozen=True)
class Config(Checked):
    """context: of training. lengths: of contexts, the first a cut of the trained one, which comes second. scored: last tokens of a window.

    windows: for each seed, `together` read at a time. answering: how the models learn to name keys. asked: contexts of keys, the ends of
    the same windows. draws: of planted keys among up to 16,384, for each seed; ten times as many among 256 and fewer.
    """

    corpus: str = "kjv"
    tokenizer: str = "bpe:512"
    model: TransformerConfig = TransformerConfig(2, 64, 2, 256, max_length=2048, unroll=2, output="tied", head_width=64)
    context: Count = 128
    lengths: Counts = (36, 128, 256, 512, 1024, 2048)
    training: Training = Training(1000, 16, (0, 1, 2), OptimizerConfig("muon", 4e-2, 50), steps_per_dispatch=10)
    answering: Training = Training(200, 16, (0, 1, 2), OptimizerConfig("muon", 2e-2, 20), steps_per_dispatch=10)
    windows: Count = 48
    together: Count = 4
    scored: Count = 32
    asked: Counts = (128, 192, 256, 512, 1024)
    draws: Count = 200

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        rising = len(self.lengths) >= 3 and list(self.lengths) == sorted(self.lengths)
        yield (
            rising and sorted(self.lengths)[1] == self.context,
            "lengths",
            f"rising, three or more, the second context = {self.context}",
        )
        yield min(self.lengths) >= self.scored, "lengths", f"from scored = {self.scored} on"
        yield list(self.asked) == sorted(self.asked) and len(self.asked) >= 2, "asked", "two or more, rising"
        yield min(self.asked) == self.context, "asked", f"from context = {self.context} on"
        yield max(self.asked) <= max(self.lengths), "asked", "at most the longest of lengths"
        longest = max(self.lengths)
        yield self.model.max_length >= longest, "model.max_length", f"at least {longest}"
        yield self.answering.seeds == self.training.seeds, "answering.seeds", "those of training"
        for one in MODELS:
            _ = self.of(one)  # refuses what cannot be meant

    def of(self, name: str) -> TransformerConfig:
        return replace(self.model, **(arm("softplus", 15.0) if name == AFTERWARDS else MODELS[name]))


PRESETS = presets(
    Config(),
    smoke={
        "corpus": "python-docs",
        "tokenizer": "byte",
        "model": TransformerConfig(1, 16, 2, 16, max_length=64, output="tied"),
        "context": 16,
        "lengths": (8, 16, 64),
        "training": Training(4, 4, (0, 1), OptimizerConfig(warmup_steps=1), steps_per_dispatch=4),
        "answering": Training(4, 4, (0, 1), OptimizerConfig(warmup_steps=1), steps_per_dispatch=4),
        "windows": 2,
        "scored": 8,
        "asked": (16, 64),
        "draws": 2,
    },
    quick={
        "training.steps": 400,
        "training.seeds": (0, 1),
        "answering.seeds": (0, 1),
        "answering.steps": 50,
        "windows": 24,
        "draws": 50,
    },
    paper={
        "model": TransformerConfig(12, 768, 12, 3072, max_length=16384, dtype="bfloat16", remat=True),
        "context": 1024,
        "lengths": (512, 1024, 2048, 4096, 8192, 16384),
        "training.steps": 18_860,
        "training.batch_size": 512,
        "answering.steps": 1000,
        "asked": (1024, 1536, 2048, 4096, 8192),
        "windows": 500,
        "draws": 2000,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By arm nats of the scored tokens [seeds][lengths], and of arms that were asked shares of keys [seeds][asked]; weights of needles."""
    corpus, seeds = load_corpus(config.corpus), config.training.seeds
    tokenizer = load_tokenizer(config.tokenizer, corpus)
    corpora = workspace.pinned("corpora", {corpus.name: corpus.fingerprint})
    train, test = (token_stream(corpus, split, tokenizer) for split in ("train", "test"))
    texts, vocab = window_source(train, config.context), tokenizer.vocab_size  # of the text alone
    windows = held_out(
        np.asarray(test.tokens, np.int32), max(config.lengths), len(seeds) * config.windows, config.scored
    )

    models = {
        name: train_seeds(name, config.of(name), STANDARD, vocab + TOKENS, texts, config.training, workspace)
        for name in MODELS
    }
    answering = {
        name: train_to_answer(f"keys/{name}", config.of(name), vocab, models[name], texts, config.answering, workspace)
        for name in ASKED
    }
    models[AFTERWARDS] = models["softplus"]
    nlls = {name: make_nll(config.of(name), STANDARD, vocab + TOKENS) for name in models}
    answers = {name: make_answers(config.of(name), vocab, config.together) for name in ASKED}

    def measure(name: str, seed: int) -> dict[str, Any]:
        place = seeds.index(seed)
        own = windows[place :: len(seeds)]
        nats = [
            evaluate_by_position(nlls[name], models[name][place], own[:, -n:], jax.random.key(0), config.together)
            for n in config.lengths
        ]
        found = {"nats": rounded(np.array([each[:, -config.scored :].mean() for each in nats]))}
        if name in ASKED:
            key = jax.random.key(seed)
            params = answering[name][place]
            found["right"] = [answers[name](params, own[:, -n:], stream(key, f"keys-{n}")) for n in config.asked]
        return found

    def needles(seed: int) -> list[list[float]]:
        key = stream(jax.random.key(seed), "needles")
        return [significant(weights_on_needle(n, config.draws * (1 if n > 256 else 10), key)) for n in NEEDLES]

    return {
        "corpora": corpora,
        "seeds": seeds,
        "lengths": config.lengths,
        "asked": config.asked,
        "needles": [workspace.cached(f"needles/{seed}", partial(needles, seed)) for seed in seeds],
        "arms": measured(workspace, models, seeds, measure),
    }


def held_out(
    tokens: Int[np.ndarray, " tokens"], length: int, count: int, scored: int
) -> Int[np.ndarray, "windows length"]:
    """`count` windows at even distances that may overlap, but not in the last tokens that are scored."""
    room = len(tokens) - length
    require(room >= (count - 1) * scored, "windows", count, f"at most {room // scored + 1} in the test split")
    starts = np.linspace(0, room, count).astype(np.int64)
    return tokens[starts[:, None] + np.arange(length)[None]]


def weights_on_needle(n: int, draws: int, key: Key[Array, ""]) -> Float[np.ndarray, " weights"]:
    """The mean weight on one of n keys that has the cosine 0.6 with the query while the others are random, by `WEIGHTS`."""

    def one(key: Key[Array, ""]) -> Array:
        vectors = jax.random.normal(key, (n, WIDTH))  # the query is the first axis
        cosines = (vectors[:, 0] / jnp.linalg.norm(vectors, axis=1)).at[0].set(COSINE)[None]
        scale = {"softmax": WIDTH**0.5, "softplus": float(np.log(WIDTH) * np.log(n))}
        seen, counts = jnp.ones((1, 1), bool), jnp.full((1, 1), float(n))
        return jnp.stack(
            [row_weights(scale[kind] * cosines, seen, counts, kind, p)[0, 0] for kind, p in WEIGHTS.values()]
        )

    return np.asarray(jax.jit(partial(jax.lax.map, one))(jax.random.split(key, draws))).mean(axis=0)


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """With the issue's thresholds."""
    arms, lengths, asked = Arms(results), results["lengths"], results["asked"]
    nats = {name: arms[name, "nats"] for name in arms}
    times, unit = lengths[-1] / lengths[1], "nats per token"
    rise = {name: found[:, -1] - found[:, 1] for name, found in nats.items()}
    trained = {
        f"{name} over softmax": found[:, 1] - nats["softmax"][:, 1] for name, found in nats.items() if name != "softmax"
    }
    table, found = np.array(list(NEEDLES.values())), np.array(results["needles"])
    apart = np.maximum(np.abs(found - table) - 0.0005, 0) / table
    right = {name: arms[name, "right"] for name in ASKED}
    learned = max(found[:, 0].mean() for found in right.values()) > 0.5
    at = min(range(len(asked)), key=lambda i: abs(asked[i] - 4 * asked[0]))
    return [
        Claim(
            "equal_at_training_length",
            "At the trained length softplus and its re-weighting cost as much as softmax.",
            f"{PAPER}: main table",
            trained,
            {f"{name} over softmax": between(-0.03, 0.03) for name in ("softplus", "reweighted")},
            unit,
            "3.18 to 3.21 for all kinds",
        ),
        Claim(
            "softmax_rises",
            f"After {times:g} trained lengths the same tokens cost a softmax with RoPE more than after one. Beside it other positions.",
            f"{PAPER}: main table",
            {name: rise[name] for name in ("softmax", "alibi", "none")},
            {"softmax": above(0.5)},
            unit,
            "3.19 -> 6.28 at 8 lengths",
        ),
        Claim(
            "reweighted_flat",
            "Softplus with re-weighting at p = 15 costs hardly more. Beside it weaker or later re-weighting, and none.",
            f"{PAPER}: main table",
            {name: rise[name] for name in ("reweighted", "softplus", AFTERWARDS)},
            {"reweighted": below(0.2)},
            unit,
            "3.19 -> 3.32 at 8 lengths",
        ),
        Claim(
            "beats_qk_norm_baseline",
            f"After {times:g} trained lengths a softmax of the same scores, cosines times ln d ln N, costs more than softplus with "
            "re-weighting. Beside it the re-weighting of that softmax, and what it costs with ALiBi.",
            OURS,
            {
                f"{name} over reweighted": nats[name][:, -1] - nats["reweighted"][:, -1]
                for name in ("scaled_softmax", "scaled_softmax_15", "alibi")
            },
            {"scaled_softmax over reweighted": above(0)},
            unit,
        ),
        Claim(
            "needle_weight_kept",
            "The mean weight on a key of cosine 0.6 among random ones is that of the card's table, which NumPy gave, beyond its rounding.",
            OURS,
            {
                "largest relative deviation": apart.max(axis=(1, 2)),
                f"weight at p = 15 among {max(NEEDLES)}": found[:, -1, -1],
                f"softmax's among {max(NEEDLES)}": found[:, -1, 0],
            },
            {"largest relative deviation": below(0.02)},
        ),
        Claim(
            "keys_found_further_off",
            f"In texts of {asked[at] / asked[0]:g} trained lengths re-weighting names more hidden keys than softmax, if half of them were "
            "learned at the trained length by either.",
            f"{PAPER}: passkey",
            {
                "reweighted less softmax": right["reweighted"][:, at] - right["softmax"][:, at] if learned else np.nan,
                **{f"{name}, trained length": right[name][:, 0] for name in ASKED},
            },
            {"reweighted less softmax": above(0.1)},
            "share of keys",
            "0.20 and 0 at 4 lengths",
        ),
        Claim(
            "context_is_read",
            f"Models use more than the last {lengths[0]} tokens: with these alone the same tokens cost more than after {lengths[1]}.",
            OURS,
            {name: nats[name][:, 0] - nats[name][:, 1] for name in ("softmax", "scaled_softmax", "reweighted")},
            above(0.01),
            unit,
        ),
    ]


def figure(results: Mapping[str, Any]) -> Figure:
    """Loss by length, of kinds and of positions; keys named by length; weight of a needle by number of keys."""
    arms = Arms(results)
    titles = ("Loss by length, RoPE", "Positions", "Hidden keys named", "Weight on a planted key")
    drawn, (kinds, positions, keys, needle) = panels(2, 2, titles=titles)
    with styled():
        for axes, labels in ((kinds, {name: LABELS[name] for name in LABELS if name in arms}), (positions, POSITIONS)):
            curves(axes, results["lengths"], arms, "nats", labels, ticks=True)
            axes.set(xlabel="tokens of context, trained on the second", ylabel="nats per token")
            axes.legend(fontsize=6.5)
        curves(keys, results["asked"], arms, "right", {name: LABELS[name] for name in ASKED}, ticks=True)
        keys.set(xlabel="tokens of text", ylabel="share of keys", ylim=(-0.03, 1.03))
        keys.legend()
        for i, name in enumerate(WEIGHTS):
            weights = np.array(results["needles"])[:, :, i]
            band(needle, list(NEEDLES), weights, *LABELS[name], marker="o", markersize=3)
        needle.set(xlabel="keys", ylabel="weight", xscale="log", yscale="log")
        needle.legend(fontsize=7)
    return drawn
