"""Are visual tokens a language? Compression, Zipf's law, grammar and geometry, at as many types as the subwords of texts.

Chan et al. 2024 (arXiv 2411.05001); method card language-of-visual-tokens. Tokens of photographs are made by k-means of patches. What the
paper lacks: equal vocabularies, order, held-out bits, and the controls: shuffled tokens, a codebook of random patches, columns instead
of rows, photographs of which nothing was seen.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, by_metric, measured
from experiments.harness.assets import asset
from experiments.harness.figures import bars, dots, lines
from experiments.harness.presets import presets
from experiments.harness.style import panels, reference
from experiments.harness.training import Training
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.span_grammars import grammar_nats
from experiments.subjects.visual_streams import CODES, LEVELS, StreamConfig, measure, open_streams, part_shares
from lexinv.tokenization.grammar import GrammarConfig
from lexinv.tokenization.spaces import cooccurrence_distances, space_distance
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import Checked, Count, Counts, Distinct

PAPERS = ("chan2024analyzing",)
ABSTRACT = "chan2024analyzing: abstract"
GRAMMARS = ("neural", "compound")
CELL = 8
"""Pixels along a side of a part of a glyph."""


@dataclass(frozen=True)
class Config(Checked):
    """texts: corpora; grammars are learned of the first, too. languages: of the messages of one program.

    draws: samples for a test of a law, whose p is at least 1 / (draws + 1). points, window, width: of spaces. grammar: its latent width
    is that of the compound one, its words are those that there are. part_patches: in pixels; glyphs, glyph_codes: pictures and types.
    """

    streams: StreamConfig = StreamConfig()
    texts: Distinct[str] = ("kjv", "bible:wyc", "python-docs", "python-stdlib")
    languages: tuple[str, ...] = tuple("de fr es it pt nl pl cs ru tr hu fi".split())
    draws: Count = 20
    points: Count = 100
    window: Count = 4
    width: Count = 50
    grammar: GrammarConfig = GrammarConfig(latent=16)
    training: Training = Training(1000, 16, (0, 1, 2), OptimizerConfig(learning_rate=5e-3), steps_per_dispatch=20)
    part_patches: Counts = (4, 8, 12, 16)
    glyphs: Count = 400
    glyph_codes: Count = 64

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield self.width <= self.points < self.streams.codes, "points", "from width to below the number of codes"
        yield CELL in self.part_patches, "part_patches", f"{CELL}, a cell, among them"
        yield max(self.part_patches) <= 2 * CELL, "part_patches", f"at most {2 * CELL}"
        yield self.grammar.latent > 0, "grammar.latent", "above 0: the neural grammar is learned beside"

    @property
    def messages(self) -> tuple[str, ...]:
        return tuple(f"messages:{language}" for language in self.languages)


PRESETS = presets(
    Config(),
    quick={"languages": ("de", "ru"), "training.steps": 300},
    smoke={
        "streams": StreamConfig(codes=64, iterations=2, tokens=2560, held_out=512),
        "texts": ("python-docs",),
        "draws": 1,
        "languages": (),
        "points": 20,
        "width": 8,
        "grammar": GrammarConfig(nonterminals=3, preterminals=4, width=8, latent=2),
        "training.steps": 20,
        "training.optimizer.warmup_steps": 5,
        "training.seeds": (0, 1),
        "part_patches": (CELL,),
        "glyphs": 20,
        "glyph_codes": 8,
    },
    paper={
        "streams": StreamConfig("imagenet2012", 50_000, codes=8192, tokens=2_560_000, held_out=256_000),
        "texts": tuple(f"tfds:wiki40b/{language}" for language in "en de fr es it pt nl pl cs ru tr hu fi".split()),
        "languages": (),
        "points": 500,
        "grammar": GrammarConfig(nonterminals=30, preterminals=60, width=256, latent=64),
        "training.steps": 20_000,
        "training.seeds": tuple(range(5)),
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By stream, of codes and of words and subwords of each text, what `measure` finds; by space its distances from those of texts; of
    each grammar held-out nats by stream; by codebook the shares of levels [seeds, patch sizes, levels]."""
    seeds = config.training.seeds
    for name in {name.partition(":")[0] for name in (*config.texts, *config.messages)} & {"messages", "licences"}:
        asset(name, workspace)
    find, names, told = open_streams(config.streams, (*config.texts, *config.messages))
    corpora, first = workspace.pinned("corpora", told), f"subwords of {config.texts[0]}"

    @cache
    def distances(arm: str, seed: int) -> np.ndarray:
        uniform = np.random.default_rng(seed).integers(0, config.streams.codes, config.streams.tokens)
        tokens = uniform if arm == "uniform" else find(arm, seed).train
        return cooccurrence_distances(tokens, config.points, config.window, config.width)

    def space(arm: str, seed: int) -> dict[str, float]:
        rng, own = np.random.default_rng(seed), distances(arm, seed)
        others = [name for name in names if name.startswith("subwords") and (name != arm or len(config.texts) == 1)]
        return {name: space_distance(own, distances(name, seed), rng, starts=1) for name in others}

    def parts(_: str, seed: int) -> dict[str, Any]:
        glyphs = config.glyph_codes, config.glyphs, seed
        return by_metric([part_shares(size, *glyphs) for size in config.part_patches])

    def every(names: tuple[str, ...], prefix: str, find: Callable[[str, int], Any]) -> dict[str, Any]:
        stages = {prefix + name.replace(" ", "-").replace(":", "+"): name for name in names}
        found = measured(workspace, stages, seeds, lambda stage, seed: find(stages[stage], seed))
        return {name: found[stage] for stage, name in stages.items()}

    streams = {arm: [find(arm, seed) for seed in seeds] for arm in ("codes", first)}
    grammars = {"neural": replace(config.grammar, latent=0), "compound": config.grammar}
    return {
        "corpora": corpora,
        "seeds": seeds,
        "texts": config.texts,
        "messages": config.messages,
        "part_patches": config.part_patches,
        "arms": every(names, "", lambda arm, seed: measure(find(arm, seed), config.draws)),
        "spaces": every(("codes", "shuffled", "uniform", first), "space/", space),
        "parts": every(("parts",), "", parts)["parts"],
        "grammars": {
            kind: grammar_nats(f"grammar/{kind}", streams, grammar, config.training, workspace)
            for kind, grammar in grammars.items()
        },
    }


def of_texts(results: dict[str, Any], find: Callable[[str], np.ndarray]) -> dict[str, np.ndarray]:
    """`find(name)` of each text, and its mean over the languages of messages."""
    found = {name: find(name) for name in results["texts"]}
    if names := results["messages"]:
        found[f"messages, {len(names)} languages"] = np.mean([find(name) for name in names], axis=0)
    return found


def order_worth(results: dict[str, Any], grammar: str) -> dict[str, np.ndarray]:
    """By stream, for each seed: held-out nats a word that shuffling within spans costs."""
    found = results["grammars"][grammar]
    return {arm: np.subtract(nats["shuffled"], nats["in order"]) for arm, nats in found.items()}


def claims(results: dict[str, Any]) -> list[Claim]:
    """What the paper says of visual tokens, and the controls that it lacks."""
    arms, first = Arms(results), results["texts"][0]
    words, subwords, image = f"words of {first}", f"subwords of {first}", arms["codes", "saving"]

    def closed(name: str) -> np.ndarray:
        saved, subwords = (arms[f"{kind} of {name}", "saving"] for kind in ("words", "subwords"))
        return (saved - subwords) / (saved - image)

    def from_order(arm: str) -> np.ndarray:
        return arms[arm, "bits"][:, 0] - arms[arm, "bits"][:, 1]

    def beyond(arm: str) -> np.ndarray:
        return arms[arm, "bits"][:, 1] - arms["codes", "bits"][:, 1]

    gaps = of_texts(results, lambda name: arms[f"words of {name}", "saving"] - image)
    given = of_texts(results, lambda name: beyond(f"subwords of {name}"))
    gains, at = {kind: order_worth(results, kind) for kind in GRAMMARS}, results["part_patches"].index(CELL)
    spaces = {arm: np.mean(list(found.values()), axis=0) for arm, found in results["spaces"].items()}
    shares = {kind: np.array(found)[:, at] for kind, found in results["parts"].items()}
    p = {f"p, {arm}": arms[arm, "mandelbrot"][:, 3] for arm in ("codes", words)}
    away = {f"{n} of {arm}": arms[arm, "zipf"][:, n - 1] for arm in ("codes", words) for n in (1, 2, 4)}
    seen = {arm: arms[arm, "half_seen"] for arm in ("codes", "in order of photographs", subwords, words)}
    return [
        Claim(
            "unigram_code_saves_less_on_images",
            "Huffman's code saves less of the tokens of images than of the words of every text.",
            "chan2024analyzing: compression [third-party summary]",
            gaps | {"of images": image},
            dict.fromkeys(gaps, above(0)),
            "share of the bits of words of one length",
            "2.9 % of images, 34.9 % of text",
        ),
        Claim(
            "equal_vocabulary_closes_a_third",
            "At least a third of that gap is gone where a text is in as many subwords as there are visual tokens.",
            OURS,
            of_texts(results, closed),
            above(1 / 3),
            "share of the gap",
        ),
        Claim(
            "order_reverses_it",
            "Given the one before it, a visual token takes fewer held-out bits than a subword of text, at equal vocabulary.",
            OURS,
            given | {words: beyond(words), "saved by order, images more": from_order("codes") - from_order(subwords)},
            dict.fromkeys(given, above(0)),
            "bits a token",
        ),
        Claim(
            "order_survives_its_controls",
            "What order saves is there by columns and with a codebook of random patches, and not where visual tokens are shuffled.",
            OURS,
            {arm: from_order(arm) for arm in CODES[:-1]},
            {"codes": above(1), "columns": above(1), "random codebook": above(1), "shuffled": below(0.1)},
            "held-out bits a token less, given the one before it",
        ),
        Claim(
            "zipf_rejected_for_single_tokens",
            "Frequencies of visual tokens are not those of a Zipf-Mandelbrot law. Beside: of words, and how far runs of n lie from Zipf's.",
            "chan2024analyzing: reviews",
            p | away,
            {"p, codes": below(0.05).every_seed},
            "p by samples of the law; Kolmogorov-Smirnov distances",
        ),
        Claim(
            "half_the_codebook_in_five_percent",
            "Half of the visual tokens have been seen after a twentieth of a stream of squares of photographs.",
            "chan2024analyzing: token innovation [third-party summary]",
            seen,
            {"codes": below(0.05)},
            "share of the tokens",
            "almost all within 100 images",
        ),
        Claim(
            "tree_grammar_gains_less_on_images",
            "To the paper's compound grammar order within spans is worth less on rows of images than on text. Beside: the neural grammar.",
            ABSTRACT,
            {kind: gains[kind][subwords] - gains[kind]["codes"] for kind in GRAMMARS}
            | {f"{kind}, {arm}": found for kind in GRAMMARS for arm, found in gains[kind].items()},
            {"compound": above(0)},
            "held-out nats a token",
        ),
        Claim(
            "images_nearer_to_language_than_noise",
            "The space of visual tokens is nearer to those of texts than shuffled and uniform tokens are. Beside: texts among themselves.",
            ABSTRACT,
            {f"{noise} tokens": spaces[noise] - spaces["codes"] for noise in ("shuffled", "uniform")}
            | {"from texts, codes": spaces["codes"], f"from texts, {subwords}": spaces[subwords]},
            {"shuffled tokens": above(0), "uniform tokens": above(0)},
            "1 - correlation of distances in the best matching found",
        ),
        Claim(
            "tokens_fit_parts",
            "Most tokens of patches as large as a cell of a glyph agree best with a cell, not with a glyph or a quarter of a cell.",
            ABSTRACT,
            {level: shares["learned"][:, k] for k, level in enumerate(LEVELS)}
            | {f"part, {kind}": shares[kind][:, 1] for kind in ("random", "shuffled")},
            {"part": above(0.5)},
            "share of the tokens on glyphs",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Compression without and with order at equal vocabulary; Huffman's code; distances from Zipf's law; grammars; spaces; parts."""
    arms, first, texts = Arms(results), results["texts"][0], (*results["texts"], *results["messages"])
    drawn, axes = panels(2, 3, width=5.0, height=3.8)

    def saved(arm: str) -> np.ndarray:
        return 1 - arms[arm, "bits"] / np.log2(arms[arm, "types"])[:, None]

    shown = {arm: saved(arm) for arm in CODES[:-1]} | of_texts(results, lambda name: saved(f"subwords of {name}"))
    by_order = np.moveaxis(list(shown.values()), 0, 1)  # seed, stream, order
    names = ("by frequency", "given the token before")
    bars(axes[0], list(shown), {name: (name, by_order[..., k]) for k, name in enumerate(names)})
    axes[0].set(title="held-out bits, equal vocabulary", ylabel="share saved of log2(types)", ylim=(-0.5, 0.75))
    by_kind = {kind: [arms[f"{kind} of {name}", "saving"] for name in texts] for kind in ("words", "subwords")}
    short = [name.rpartition(":")[2] for name in texts]
    bars(axes[1], short, {kind: (kind, np.transpose(values)) for kind, values in by_kind.items()})
    reference(axes[1], float(np.mean(arms["codes", "saving"])), "visual tokens")
    axes[1].set(title="Huffman's code", ylabel="share saved of log2(types)", ylim=(0, 0.45))
    laws = ("codes", "shuffled", f"subwords of {first}", f"words of {first}")
    lines(axes[2], range(1, 5), {arm: arms[arm, "zipf"] for arm in laws})
    axes[2].set(title="distance from Zipf's law", ylabel="Kolmogorov-Smirnov", xlabel="n of runs of n tokens")
    axes[2].set_xticks(range(1, 5))
    worth = [order_worth(results, kind) for kind in GRAMMARS]
    bars(axes[3], GRAMMARS, {arm: (arm, np.stack([each[arm] for each in worth], axis=1)) for arm in worth[0]})
    axes[3].set(title="tree grammars", ylabel="nats a token that order is worth")
    dots(axes[4], {arm: np.mean(list(found.values()), axis=0) for arm, found in results["spaces"].items()})
    axes[4].set(title="spaces: distance from those of texts", xlabel="1 - correlation of distances")
    parts = np.array(results["parts"]["learned"])  # seed, patch, level
    lines(axes[5], results["part_patches"], {level: parts[..., k] for k, level in enumerate(LEVELS)})
    axes[5].set(title="what tokens stand for", xlabel=f"pixels of a patch (a cell: {CELL})", ylabel="share of tokens")
    for panel in axes[:2]:
        panel.tick_params(axis="x", labelrotation=90, labelsize=7)
    for panel in (*axes[:4], axes[5]):
        panel.legend(fontsize=7.5)
    return drawn
