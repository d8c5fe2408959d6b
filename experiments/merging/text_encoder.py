"""Merging and pruning in the first layers of MiniLM on real text: how far embeddings move, and whether passages find their neighbours.

The text experiments of Tran et al. 2024 (BERT, the first three layers). Nothing is trained. Passages are neighbouring windows of documents,
all of one length, so that the cosine transform, which knows no padding, is compared on the same; every window looks for its neighbour among
all others of its corpus. All methods keep the same numbers of tokens. [CLS] is protected, [SEP] is not: in a pilot that changed what is
measured here by a tenth at most. Seeds are draws of passages from different documents: intervals are over text, given one encoder.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key
from matplotlib.figure import Figure

from experiments.harness.assets import asset
from experiments.harness.figures import lines
from experiments.harness.intervals import ratio_interval
from experiments.harness.presets import presets
from experiments.harness.style import GREY, panels, styled
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.passages import compare_embeddings, neighbouring_windows
from experiments.subjects.reduced_vision import LABELS
from experiments.subjects.untrained_encoder import untrained
from lexinv.data.corpora import load_corpus
from lexinv.merging.costs import relative_flops
from lexinv.merging.methods import merge_restarting, reductions
from lexinv.merging.schedules import ratio_schedule, token_counts
from lexinv.nn.reduced import Reduction
from lexinv.nn.text_encoder import TextEncoder, load_text_encoder, sentence_embeddings
from lexinv.validation import Checked, Count, Distinct, Seeds, require

PAPERS = ("tran2024accelerating",)
TEXT = "tran2024accelerating: text experiments"
PITOME = {
    "pitome": "pitome_text",
    "pitome_protect": "pitome_text_protect",
    "pitome_ordered": "pitome_text_ordered",
    "pitome_inverted": "pitome_text_inverted",
    "pitome_uncounted": "pitome_text",
    "pitome_restarted": "pitome_text",
}
"""Arms whose method has another name among all."""
LABELS = LABELS | {
    "pitome": "PiToMe for text",
    "pitome_protect": "PiToMe, alternating",
    "pitome_uncounted": "PiToMe, sizes not in attention",
    "pitome_restarted": "PiToMe, sizes restart",
    "prune_even": "every so many kept",
}
PANELS = {
    "methods of the paper": ("pitome", "tome", "tofu", "diffrate", "dct"),
    "kinds of PiToMe": ("pitome", *(name for name in PITOME if name != "pitome")),
    "controls": ("pitome", "random_bipartite", "prune_cls", "prune_random", "prune_even"),
}
METHODS = tuple(dict.fromkeys(name for panel in PANELS.values() for name in panel))
JUDGED = 0.8
"""The ratio of the paper's text experiments."""


@dataclass(frozen=True)
class Config(Checked):
    """model: `minilm` (the asset), the folder of a BERT checkpoint with its tokenizer, or `untrained`.

    window: tokens of a passage, [CLS] and [SEP] among them. pairs: of neighbouring windows by draw and corpus, each from a document of its
    own. ratios: of its tokens that each of the first `layers` keeps. seeds: draws of passages.
    """

    model: str = "minilm"
    corpora: Distinct[str] = ("python-docs", "kjv")
    window: Count = 64
    pairs: Count = 20
    layers: Count = 3
    ratios: tuple[float, ...] = (0.9, 0.8, 0.6)
    seeds: Seeds = (0, 1, 2, 3, 4)

    def checks(self):
        yield self.window >= 16, "window", "at least 16 tokens"
        yield self.pairs >= 2, "pairs", "at least 2: a neighbour is told from others"
        falling = all(a > b for a, b in pairwise(self.ratios)) and all(0.5 <= ratio < 1 for ratio in self.ratios)
        yield falling, "ratios", "falling, from below 1 to 0.5: methods merge half at most"
        yield JUDGED in self.ratios, "ratios", f"{JUDGED} among them, at which claims are judged"


PRESETS = presets(
    Config(),
    smoke={
        "model": "untrained",
        "corpora": ("python-docs",),
        "window": 24,
        "pairs": 8,
        "layers": 1,
        "ratios": (JUDGED,),
        "seeds": (0, 1, 2),
    },
    paper={
        "model": "bert-base-uncased",
        "corpora": ("tfds:imdb_reviews",),
        "window": 128,
        "pairs": 500,
        "ratios": (0.95, 0.9, 0.8, 0.7, 0.6),
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By ratio and method: lists over draws of `compare_embeddings`, and seconds of a forward pass over a draw's passages."""
    encoder = open_encoder(config.model, workspace)
    require(config.layers <= encoder.config.depth, "layers", config.layers, f"at most {encoder.config.depth}")
    corpora = [load_corpus(name) for name in config.corpora]
    fingerprints = workspace.pinned("corpora", {corpus.name: corpus.fingerprint for corpus in corpora})
    count = len(config.seeds) * config.pairs
    found = [neighbouring_windows(encoder, corpus, "train", config.window, count, 0) for corpus in corpora]
    windows = np.stack([each.reshape(len(config.seeds), -1, config.window) for each in found], axis=1)
    measured = {f"{ratio:g}": partial(measure, config, encoder, windows, ratio) for ratio in config.ratios}
    ratios = {ratio: workspace.cached(f"ratios/{ratio}", one) for ratio, one in measured.items()}
    return {"corpora": fingerprints, "seeds": list(config.seeds), "window": config.window, "ratios": ratios}


def open_encoder(model: str, workspace: Workspace) -> TextEncoder:
    """See `Config.model`."""
    if model == "untrained":
        return untrained()
    return load_text_encoder(asset("minilm", workspace) if model == "minilm" else Path(model).expanduser())


def measure(config: Config, encoder: TextEncoder, windows: np.ndarray, ratio: float) -> dict[str, Any]:
    """Of all methods at one ratio, and of the unreduced encoder under the name `none`. windows: [draws, corpora, 2 pairs, window]."""
    model, schedule = encoder.config, ratio_schedule(config.window, config.layers, ratio)
    counts = token_counts(config.window, (*schedule, *[0] * (model.depth - config.layers)))
    programs = {name: compiled(encoder, name, schedule, windows.shape[-2:]) for name in ("none", *METHODS)}
    embeddings, seconds = encode_timed(programs, encoder, windows)
    return {
        "counts": list(counts),
        "flops": round(float(relative_flops(counts, model.width, model.mlp_width)), 4),
        "methods": {
            name: compare_embeddings(embeddings["none"], embeddings[name]) | {"seconds": seconds[name]}
            for name in programs
        },
    }


def compiled(
    encoder: TextEncoder, method: str, schedule: Sequence[int], shape: tuple[int, ...]
) -> Callable[..., Array]:
    """`embed(params, tokens, mask, key)` with the method; `none` reduces nothing.

    ToFu prunes in the first half of the layers that reduce, not of all; PiToMe's margins are of all.
    """
    depth, restarting = encoder.config.depth, merge_restarting if method == "pitome_restarted" else None

    def embed(params: Any, tokens: Array, mask: Array, key: Key[Array, ""]) -> Array:
        chosen: list[Reduction | None] = []
        if method != "none":
            of = depth if method in PITOME else len(schedule)
            chosen = reductions(PITOME.get(method, method), schedule, of, 1, key, combine=restarting)
            chosen += [None] * (depth - len(chosen))
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
    for draw, corpus in np.ndindex(draws, corpora):
        tokens, key = jnp.asarray(windows[draw, corpus]), jax.random.key(draw * corpora + corpus)
        for name, program in programs.items():
            start = time.perf_counter()
            found = program(encoder.params, tokens, mask, key).block_until_ready()
            seconds[name][draw] += time.perf_counter() - start
            embeddings[name][draw, corpus] = np.asarray(found)
    return embeddings, {name: [round(float(s), 4) for s in each] for name, each in seconds.items()}


def claims(results: dict[str, Any]) -> list[Claim]:
    """At all ratios, but for what the paper's alone is asked. All is paired: methods saw the same passages."""
    ratios, judged = list(results["ratios"]), f"{JUDGED:g}"

    def of(ratio: str, method: str, what: str) -> np.ndarray:
        return np.array(results["ratios"][ratio]["methods"][method][what])

    def less(method: str, other: str, what: str = "error") -> dict[str, np.ndarray]:
        """`method` less `other`, by ratio."""
        return {ratio: of(ratio, method, what) - of(ratio, other, what) for ratio in ratios}

    def farther(method: str, others: Sequence[str]) -> dict[str, np.ndarray]:
        return {f"{other}, {ratio}": value for other in others for ratio, value in less(method, other).items()}

    pruned = {
        f"{prune} less {method}, {ratio}": value
        for method in ("tome", "pitome")
        for prune in ("prune_cls", "prune_random")
        for ratio, value in less(prune, method).items()
    }
    whole = of(judged, "none", "accuracy")
    kept = 1 - (whole - of(judged, "pitome", "accuracy")) / max(float(whole.mean()), 1e-3)
    times = {m: ratio_interval(of(judged, m, "seconds") / of(judged, "none", "seconds")) for m in ("tome", "pitome")}
    claim, moved = partial(Claim, over="draws of passages"), "1 - cosine to the unreduced embedding"
    return [
        claim(
            "pitome_not_below_tome",
            "With PiToMe passages find their neighbours as often as with ToMe.",
            TEXT,
            less("pitome", "tome", "accuracy"),
            above(-0.005).mean,
            "difference of accuracy, by ratio",
        ),
        claim(
            "pitome_closer_than_tome",
            "PiToMe moves embeddings less than ToMe.",
            TEXT,
            less("pitome", "tome"),
            below(0),
            f"{moved}, PiToMe less ToMe, by ratio",
            "better than ToMe at the same FLOPs",
        ),
        claim(
            "merging_above_pruning",
            "ToMe and PiToMe move embeddings less than pruning by CLS attention or at random does.",
            OURS,
            pruned,
            above(0),
            f"{moved}, by ratio",
        ),
        claim(
            "inverted_energy_worst",
            "With the sign of the energy inverted PiToMe moves embeddings more than every other way of merging.",
            OURS,
            farther("pitome_inverted", ("tome", "random_bipartite", "pitome", "pitome_protect", "pitome_ordered")),
            above(0),
            f"{moved}, inverted less each",
        ),
        claim(
            "dct_last",
            "The cosine transform moves embeddings more than the methods that merge.",
            TEXT,
            farther("dct", ("tome", "pitome", "tofu", "diffrate")),
            above(0),
            f"{moved}, DCT less each",
        ),
        claim(
            "proportional_attention_helps",
            "Attention that counts sizes moves embeddings less; sizes count in both means.",
            OURS,
            less("pitome", "pitome_uncounted"),
            below(0),
            f"{moved}, PiToMe with less without, by ratio",
        ),
        claim(
            "sizes_should_be_kept",
            "Sizes that restart at 1 in every layer, as in the paper's code for BERT, move embeddings more.",
            OURS,
            less("pitome", "pitome_restarted"),
            below(0),
            f"{moved}, PiToMe with sizes kept less restarted, by ratio",
        ),
        claim(
            "pitome_keeps_98_percent",
            f"At the paper's ratio {judged} PiToMe keeps nearly all accuracy.",
            OURS,
            {"pitome": kept},
            above(0.98).mean,
            "accuracy over that of the unreduced encoder",
        ),
        claim(
            "merging_speedup",
            f"At {judged} merging takes less time than it saves (FLOPs are {results['ratios'][judged]['flops']:.2f} of the whole).",
            OURS,
            times,
            below(1),
            "seconds over those of the unreduced encoder, which took turns with it",
        ),
    ]


DRAWN = {"error": "1 - cosine to unreduced", "accuracy": "neighbours found", "seconds": "relative time"}


def figure(results: dict[str, Any]) -> Figure:
    """What becomes of the embeddings, and what of the time, against FLOPs; a column for each group of methods."""
    ratios = list(results["ratios"].values())
    flops = [each["flops"] for each in ratios]

    def of(method: str, what: str) -> np.ndarray:
        found = np.array([each["methods"][method][what] for each in ratios]).T
        return found / np.array([each["methods"]["none"][what] for each in ratios]).T if what == "seconds" else found

    drawn, axes = panels(len(DRAWN), len(PANELS), width=4.0, height=2.5)
    with styled():
        for place, panel in enumerate(axes):
            what, methods = list(DRAWN)[place // len(PANELS)], list(PANELS.values())[place % len(PANELS)]
            lines(panel, flops, {LABELS[name]: of(name, what) for name in methods})
            if what == "error":
                panel.set(yscale="log", title=list(PANELS)[place])
            if what == "accuracy":
                panel.axhline(of("none", what).mean(), color=GREY, linestyle=":", linewidth=1.2)
            if what == "seconds":
                panel.axline((min(flops), min(flops)), slope=1, color=GREY, linestyle=":", linewidth=1.2)
                panel.set_xlabel("FLOPs over those without reduction")
                panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), fontsize=8)
            if place % len(PANELS) == 0:
                panel.set_ylabel(DRAWN[what])
    return drawn
