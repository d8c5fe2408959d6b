"""Merging and pruning in the first layers of MiniLM on real text: how far embeddings move, and whether passages find their neighbours.

The text experiments of Tran et al. 2024 (BERT, the first three layers). Nothing is trained. Passages are neighbouring windows of documents,
all of one length, so that the cosine transform, which knows no padding, is compared on the same; every window looks for its neighbour among
all others of its corpus and draw. All methods keep the same numbers of tokens, and but for two controls sizes restart at 1 in every layer,
as in that paper's code. [CLS] is protected, [SEP] is not: in a pilot that changed what is measured here by a tenth at most. Methods are
compared document by document: intervals are over text, given one encoder.
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
from experiments.harness.curves import rounded
from experiments.harness.figures import lines
from experiments.harness.intervals import Interval, bootstrap_interval, ratio_interval
from experiments.harness.presets import presets
from experiments.harness.style import GREY, panels, styled
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.passages import compare_embeddings, neighbouring_windows
from experiments.subjects.reduced_vision import LABELS
from experiments.subjects.untrained_encoder import untrained
from lexinv.data.corpora import load_corpus
from lexinv.merging.costs import relative_flops
from lexinv.merging.methods import reductions
from lexinv.merging.schedules import ratio_schedule, token_counts
from lexinv.nn.reduced import Reduction
from lexinv.nn.text_encoder import TextEncoder, load_text_encoder, sentence_embeddings
from lexinv.validation import Checked, Count, Distinct, Seeds, require

PAPERS = ("tran2024accelerating",)
TEXT = "tran2024accelerating: text experiments"
OTHER_NAMES = {
    "pitome": "pitome_text",
    "pitome_protect": "pitome_text_protect",
    "pitome_ordered": "pitome_text_ordered",
    "pitome_inverted": "pitome_text_inverted",
    "pitome_sized": "pitome_text",
    "tome_sized": "tome",
}
"""Arms whose method has another name among all; in those that end in `_sized` sizes are kept, and count in attention and means."""
SHOWN = LABELS | {
    "pitome": "PiToMe for text",
    "pitome_protect": "PiToMe, alternating",
    "pitome_sized": "PiToMe, sizes kept",
    "tome_sized": "ToMe, sizes kept",
    "prune_even": "every so many kept",
}
PANELS = {
    "methods of the paper": ("pitome", "tome", "tofu", "diffrate", "dct"),
    "kinds of PiToMe and ToMe": ("pitome", *(name for name in OTHER_NAMES if name != "pitome")),
    "controls": ("pitome", "random_bipartite", "prune_cls", "prune_random", "prune_even"),
}
METHODS = tuple(dict.fromkeys(name for panel in PANELS.values() for name in panel))
JUDGED = 0.8
"""The ratio of the paper's text experiments."""


@dataclass(frozen=True)
class Config(Checked):
    """model: `minilm` (the asset), the folder of a BERT checkpoint with its tokenizer, or `untrained`.

    window: tokens of a passage, [CLS] and [SEP] among them. pairs: of neighbouring windows by draw and corpus, each from a document of its
    own. ratios: of its tokens that each of the first `layers` keeps. seeds: of the draws of passages.
    """

    model: str = "minilm"
    corpora: Distinct[str] = ("python-docs", "kjv", "python-stdlib")
    window: Count = 40
    pairs: Count = 67
    layers: Count = 3
    ratios: tuple[float, ...] = (0.8, 0.6)
    seeds: Seeds = (0, 1, 2, 3, 4)

    def checks(self):
        yield self.window >= 16, "window", "at least 16 tokens"
        yield self.pairs >= 2, "pairs", "at least 2: a neighbour is told from others"
        falling = all(a > b for a, b in pairwise(self.ratios)) and all(0.5 <= ratio < 1 for ratio in self.ratios)
        yield falling, "ratios", "falling, from below 1 to 0.5: methods merge half at most"
        yield JUDGED in self.ratios, "ratios", f"{JUDGED} among them, at which claims are judged"


PRESETS = presets(
    Config(),
    smoke={"model": "untrained", "corpora": ("python-docs",), "pairs": 8, "layers": 1, "ratios": (JUDGED,)},
    paper={"model": "bert-base-uncased", "corpora": ("tfds:imdb_reviews",), "window": 128, "pairs": 500},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By ratio and method: `compare_embeddings` by document, draw after draw, and by draw seconds of forward passes over its passages."""
    known = {"untrained": untrained, "minilm": lambda: load_text_encoder(asset("minilm", workspace))}
    encoder = known.get(config.model, lambda: load_text_encoder(Path(config.model).expanduser()))()
    require(config.layers <= encoder.config.depth, "layers", config.layers, f"at most {encoder.config.depth}")
    corpora = [load_corpus(name) for name in config.corpora]
    fingerprints = workspace.pinned("corpora", {corpus.name: corpus.fingerprint for corpus in corpora})
    count, order = len(config.seeds) * config.pairs, config.seeds[0]
    found = [neighbouring_windows(encoder, corpus, "train", config.window, count, order) for corpus in corpora]
    windows = np.stack([each.reshape(len(config.seeds), -1, config.window) for each in found], axis=1)
    names = [f"{ratio:g}" for ratio in config.ratios]
    ratios = workspace.stages("ratios", names, lambda ratio: measure(config, encoder, windows, float(ratio)))
    return {"corpora": fingerprints, "seeds": list(config.seeds), "window": config.window, "ratios": ratios}


def measure(config: Config, encoder: TextEncoder, windows: np.ndarray, ratio: float) -> dict[str, Any]:
    """Of all methods at one ratio, and of the unreduced encoder under the name `none`; they take turns on each block of passages.

    windows: [draws, corpora, 2 pairs, window].
    """
    model, schedule = encoder.config, ratio_schedule(config.window, config.layers, ratio)
    counts = token_counts(config.window, (*schedule, *[0] * (model.depth - config.layers)))
    programs = {name: program(encoder, name, schedule) for name in ("none", *METHODS)}
    embeddings = {name: np.zeros((*windows.shape[:3], model.width), np.float32) for name in programs}
    seconds, mask = {name: np.zeros(len(windows)) for name in programs}, jnp.ones(windows.shape[-2:], bool)
    for embed in programs.values():
        embed(encoder.params, jnp.asarray(windows[0, 0]), mask, jax.random.key(0)).block_until_ready()  # compiles
    for draw, corpus in np.ndindex(windows.shape[:2]):
        key = jax.random.fold_in(jax.random.key(config.seeds[draw]), corpus)
        tokens = jnp.asarray(windows[draw, corpus])
        for name, embed in programs.items():
            start = time.perf_counter()
            found = embed(encoder.params, tokens, mask, key).block_until_ready()
            seconds[name][draw] += time.perf_counter() - start
            embeddings[name][draw, corpus] = np.asarray(found)
    return {
        "counts": list(counts),
        "flops": round(float(relative_flops(counts, model.width, model.mlp_width)), 4),
        "methods": {
            name: compare_embeddings(embeddings["none"], embeddings[name]) | {"seconds": rounded(seconds[name])}
            for name in programs
        },
    }


def program(encoder: TextEncoder, arm: str, schedule: Sequence[int]) -> Callable[..., Array]:
    """Compiled at its first call: embed(params, tokens, mask, key) of an arm; `none` reduces nothing.

    ToFu prunes in the first half of the layers that reduce, not of all; PiToMe's margins are of all.
    """
    depth, sized, method = encoder.config.depth, arm.endswith("_sized"), OTHER_NAMES.get(arm, arm)

    def embed(params: Any, tokens: Array, mask: Array, key: Key[Array, ""]) -> Array:
        chosen: list[Reduction | None] = []
        if arm != "none":
            of = len(schedule) if method == "tofu" else depth
            chosen = reductions(method, schedule, of, 1, key, restart=not sized)
            chosen += [None] * (depth - len(chosen))
        return sentence_embeddings(encoder.config, params, tokens, mask, chosen, sized)

    return jax.jit(embed)


def claims(results: dict[str, Any]) -> list[Claim]:
    """At all ratios, but for what the paper's alone is asked. All is paired: methods saw the same passages."""
    ratios, judged = list(results["ratios"]), f"{JUDGED:g}"

    def of(ratio: str, method: str, what: str) -> np.ndarray:
        return np.array(results["ratios"][ratio]["methods"][method][what]) / (2 if what == "found" else 1)

    def less(method: str, other: str, what: str = "error", form: str = "{}") -> dict[str, Interval]:
        """`method` less `other`, by ratio."""
        differences = {ratio: of(ratio, method, what) - of(ratio, other, what) for ratio in ratios}
        return {form.format(ratio): bootstrap_interval(each) for ratio, each in differences.items()}

    def farther(method: str, *others: str) -> dict[str, Interval]:
        return {name: one for other in others for name, one in less(method, other, form=f"{other}, {{}}").items()}

    pruned, sizes = dict[str, Interval](), dict[str, Interval]()
    for method in ("tome", "pitome"):
        sizes |= less(f"{method}_sized", method, form=f"{method}, {{}}")
        for prune in ("prune_cls", "prune_random", "prune_even"):
            pruned |= less(prune, method, form=f"{prune} less {method}, {{}}")
    found = np.stack([of(judged, method, "found") for method in ("pitome", "none")], axis=1)
    times = {m: ratio_interval(of(judged, m, "seconds") / of(judged, "none", "seconds")) for m in ("tome", "pitome")}
    claim, moved = partial(Claim, over="documents"), "1 - cosine to the unreduced embedding"
    return [
        claim(
            "pitome_not_below_tome",
            "With PiToMe as many passages find their neighbours as with ToMe, up to one in fifty.",
            TEXT,
            less("pitome", "tome", "found"),
            above(-0.02),
            "share of passages, PiToMe less ToMe, by ratio",
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
            "ToMe and PiToMe move embeddings less than pruning by CLS attention, at random or evenly does.",
            OURS,
            pruned,
            above(0),
            f"{moved}, by ratio",
        ),
        claim(
            "inverted_energy_worst",
            "With the sign of the energy inverted PiToMe moves embeddings more than every other way of merging.",
            OURS,
            farther("pitome_inverted", "tome", "random_bipartite", "pitome", "pitome_protect", "pitome_ordered"),
            above(0),
            f"{moved}, inverted less each",
        ),
        claim(
            "dct_last",
            "The cosine transform moves embeddings more than the methods that merge.",
            TEXT,
            farther("dct", "tome", "pitome", "tofu", "diffrate"),
            above(0),
            f"{moved}, DCT less each",
        ),
        claim(
            "sizes_should_be_kept",
            "Sizes that are kept, and count in attention and means, move embeddings less than those that restart as in the paper's code.",
            OURS,
            sizes,
            below(0),
            f"{moved}, kept less restarted, by ratio",
        ),
        claim(
            "pitome_keeps_98_percent",
            f"At the paper's ratio {judged} PiToMe keeps nearly all accuracy.",
            OURS,
            {"pitome": bootstrap_interval(found, lambda means: means[:, 0] / np.maximum(means[:, 1], 1e-3))},
            above(0.98),
            "neighbours found over those that the unreduced encoder finds",
        ),
        claim(
            "merging_speedup",
            f"At {judged} merging takes less time than it saves (FLOPs are {results['ratios'][judged]['flops']:.2f} of the whole).",
            OURS,
            times,
            below(1),
            "seconds over those of the unreduced encoder, which took turns with it",
            over="draws of passages",
        ),
    ]


DRAWN = {"error": "1 - cosine to unreduced", "found": "neighbours found", "seconds": "relative time"}


def figure(results: dict[str, Any]) -> Figure:
    """What becomes of the embeddings, and what of the time, against FLOPs, by draw; a column for each group of methods."""
    ratios, draws = list(results["ratios"].values()), len(results["seeds"])
    flops = [each["flops"] for each in ratios]

    def of(method: str, what: str) -> np.ndarray:
        """[draws, ratios]."""
        found, whole = (np.array([each["methods"][name][what] for each in ratios]) for name in (method, "none"))
        if what == "seconds":
            return (found / whole).T
        return found.reshape(len(ratios), draws, -1).mean(axis=-1).T / (2 if what == "found" else 1)

    drawn, axes = panels(len(DRAWN), len(PANELS), width=4.0, height=2.5)
    with styled():
        for place, panel in enumerate(axes):
            what, title = list(DRAWN)[place // len(PANELS)], list(PANELS)[place % len(PANELS)]
            lines(panel, flops, {SHOWN[name]: of(name, what) for name in PANELS[title]})
            if what == "error":
                panel.set(yscale="log", title=title)
            if what == "found":
                panel.axhline(of("none", what).mean(), color=GREY, linestyle=":", linewidth=1.2)
            if what == "seconds":
                panel.axline((min(flops), min(flops)), slope=1, color=GREY, linestyle=":", linewidth=1.2)
                panel.set_xlabel("FLOPs over those without reduction")
                panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), fontsize=8)
            if place % len(PANELS) == 0:
                panel.set_ylabel(DRAWN[what])
    return drawn
