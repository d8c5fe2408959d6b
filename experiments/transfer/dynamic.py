"""Tokens chosen per batch: how much shorter texts get, and what it costs to read them with rows that nobody trained.

Feher et al. 2025 (arXiv 2411.18553); method card dynamic-tokenization. First halves of held-out passages are read in dynamic tokens, second
halves are scored in the model's own. The released results lack the static tokenizer of equal mean length, and what the first half is worth
to a model at all. Fairness: the same messages of a program in twelve languages.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, by_metric, measured
from experiments.harness.figures import legend_beside, lines
from experiments.harness.presets import presets
from experiments.harness.style import PALETTE, panels
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects import hypernetworks, tokenized_models
from experiments.subjects.halved_passages import NEXT, Reader, Rows, length, read_halves, rows_by, static_merges
from experiments.subjects.hypernetworks import HypernetworksConfig
from experiments.subjects.parallel_messages import load_with_split, parallel_messages, token_counts
from experiments.subjects.text import PUBLISHED_MODEL
from experiments.subjects.tokenized_models import TokenizedConfig
from experiments.subjects.vocabulary_transfers import passages
from lexinv.data.bpe import Merges
from lexinv.data.corpora import load_corpus
from lexinv.data.published import PUBLISHED
from lexinv.data.tokenizers import Tokenizer, load_tokenizer
from lexinv.transfer.dynamic import DynamicBatch, recall
from lexinv.validation import Checked, Count, Counts, Distinct

PAPERS = ("feher2025retrofitting",)
ARMS = {
    "batch/hypernetwork": "hypernetwork",
    "batch/pieces": "means of pieces",
    "batch/drawn": "random rows",
    "drawn/pieces": "random merges, means",
    "static/pieces": "static tokenizer, means",
    "static/hypernetwork": "static, hypernetwork",
}
"""What decides the merges, and the rows of new tokens."""
MADE = {"hypernetwork": "hypernetwork", "means of pieces": "pieces"}
SCORED = {"second halves": "bits", "next tokens": "next"}
ENGLISH = "en_GB"


@dataclass(frozen=True)
class Config(Checked):
    """models: of one tokenizer, with a hypernetwork for each, all trained on one text. merges: settings, beside none and whole words.

    batch: passages, or messages, whose merges are learned together; `batches` are others, of `compared` merges. passages: of `size`
    characters, that each seed's model reads. static: merges learned from the training text, at most. candidates: of `large`, a tokenizer
    of the same text whose rows are made, after `states`. tokenizers, languages, messages: drawn by each seed for the comparison of
    languages.
    """

    models: TokenizedConfig = TokenizedConfig(tokenizers=("bpe:1024",))
    hypernetwork: HypernetworksConfig = HypernetworksConfig()
    merges: Counts = (5, 10, 20, 50, 100, 200, 400)
    batch: Count = 32
    batches: Counts = (1, 4, 16, 32, 64, 256)
    compared: Count = 100
    passages: Count = 256
    size: Count = 256
    static: Count = 6000
    large: str = "bpe:8192"
    candidates: Count = 20
    states: Count = 2000
    tokenizers: Distinct[str] = ("bpe:4096", "tekken", "cl100k")
    languages: tuple[str, ...] = (ENGLISH, *"de fr es pt pl cs fi tr ru ko ta".split())
    messages: Count = 256

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield len(self.models.tokenizers) == 1, "models.tokenizers", "one"
        yield self.compared in self.merges, "compared", f"one of merges = {self.merges}"
        yield not self.languages or ENGLISH in self.languages, "languages", f"none, or {ENGLISH} among them"


PRESETS = presets(
    Config(),
    smoke={
        **tokenized_models.TINY,
        **{f"hypernetwork.{name}": value for name, value in hypernetworks.TINY.items()},
        "models.tokenizers": ("bpe:300",),
        "merges": (5, 20),
        "batch": 4,
        "batches": (2,),
        "compared": 20,
        "passages": 8,
        "size": 80,
        "static": 60,
        "large": "bpe:310",
        "candidates": 5,
        "states": 20,
        "tokenizers": ("bpe:300",),
        "languages": (),
        "messages": 8,
    },
    paper={
        "models.model": PUBLISHED_MODEL,
        "models.context_bytes": 512,
        "models.training.steps": 20_000,
        "passages": 4096,
        "size": 512,
        "messages": 1900,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By arm and seed, for no merges, each number of them and whole words: tokens of first halves, and bits per byte of second halves.

    By tokenizer and language, for the same settings: tokens of all messages.
    """
    corpus, seeds = load_corpus(config.models.corpus), config.models.training.seeds
    [models] = tokenized_models.tokenized_models(config.models, workspace).values()
    networks = hypernetworks.hypernetworks(config.hypernetwork, models, seeds, corpus, workspace)
    settings = (0, *config.merges, None)
    large = load_tokenizer(config.large, corpus)
    names = {name.replace(":", "-"): name for name in config.tokenizers} if config.languages else {}
    said = parallel_messages(config.languages, workspace) if names else {}

    @cache
    def read(seed: int) -> Reader:
        texts = passages(corpus, "test", config.passages, config.size, seed)
        return read_halves(models.model, models.params[seeds.index(seed)], models.tokenizer, texts)

    @cache
    def rows(method: str, seed: int) -> Rows:
        if method == "hypernetwork":
            return partial(networks.rows, seeds.index(seed))
        return rows_by(method, read(seed).params["table"], models.tokenizer)

    @cache
    def static() -> Merges:
        return static_merges(corpus, models.tokenizer, config.static)

    @cache
    def merged(kind: str, seed: int, setting: int | None) -> list[DynamicBatch]:
        if kind == "static":
            return read(seed).as_short(merged("batch", seed, setting), static())
        return read(seed).merged(setting, config.batch, np.random.default_rng(seed) if kind == "drawn" else None)

    @cache
    def cutting(name: str) -> tuple[Tokenizer, str]:
        return load_with_split(names[name], corpus, workspace)

    def measure(arm: str, seed: int) -> dict[str, Any]:
        kind, _, method = arm.partition("/")
        if kind in names:
            chosen = np.random.default_rng(seed).permutation(len(said[method]))[: config.messages].tolist()
            texts = [said[method][number] for number in chosen]
            return {"tokens": token_counts(texts, *cutting(kind), config.batch, settings)}
        if kind == "candidates":
            states = read(seed).states(merged("batch", seed, 0), rows("pieces", seed), config.states)
            table = read(seed).params["table"] if method == "own" else rows(method, seed)(large.pieces)
            held = recall(jnp.asarray(states), jnp.asarray(table), config.candidates)
            return {name: float(found.mean()) for name, found in held._asdict().items()}
        if kind == "nothing":
            found = [[batch._replace(lengths=0 * batch.lengths) for batch in merged("batch", seed, 0)]]
        elif kind == "batches":
            found = [read(seed).merged(config.compared, size) for size in config.batches]
        else:
            found = [merged(kind, seed, setting) for setting in settings]
        bits = by_metric([read(seed).bits(batches, rows(method or "pieces", seed)) for batches in found])
        return {"tokens": list(map(length, found)), **bits}

    arms = [*ARMS, "nothing", "batches", *(f"candidates/{name}" for name in ("own", "pieces", "hypernetwork"))]
    arms += [f"{name}/{language}" for name in names for language in said]
    return {
        "corpora": {corpus.name: corpus.fingerprint},
        "seeds": seeds,
        "models": models.described(),
        "settings": settings,
        "batches": config.batches,
        "compared": config.compared,
        "tokenizers": list(names),
        "languages": config.languages,
        "arms": measured(workspace, arms, seeds, measure),
    }


def more(arms: Arms, arm: str, metric: str = "bits") -> np.ndarray:
    """Relative to what the model's own tokens cost, [seeds, settings]."""
    return arms[arm, metric] / arms["batch/pieces", metric][:, :1] - 1


def gone(arms: Arms, arm: str) -> np.ndarray:
    """Share of the tokens that there are without merges which are no more, [seeds, settings]."""
    tokens = arms[arm, "tokens"]
    return 1 - tokens / tokens[:, :1]


def half_way(arms: Arms, arm: str) -> dict[str, np.ndarray]:
    """By `SCORED` `more` where an arm has saved half of what whole words save, [seeds]; linear between settings."""
    saved, half = gone(arms, arm), gone(arms, "batch/pieces")[:, -1] / 2
    bits = {text: more(arms, arm, metric) for text, metric in SCORED.items()}
    return {text: np.array(list(map(np.interp, half, saved, each))) for text, each in bits.items()}


def unevenness(results: Mapping[str, Any], name: str) -> np.ndarray:
    """Tokens of a message in the language that has most over those in the one that has fewest, [seeds, settings]."""
    tokens = np.stack([Arms(results)[f"{name}/{language}", "tokens"] for language in results["languages"]])
    return tokens.max(axis=0) / tokens.min(axis=0)


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """What the paper says, and the controls that it lacks."""
    arms, settings, names = Arms(results), results["settings"], results["tokenizers"]
    paper, most = "feher2025retrofitting", len(settings) - 2  # the largest number of merges
    half = {arm: half_way(arms, arm) for arm in ARMS}
    saved, by_chance = gone(arms, "batch/pieces"), gone(arms, "drawn/pieces")
    at = {f"{settings[place]} merges": place for place in (len(settings) // 2, settings.index(results["compared"]))}
    english = {f"messages, {name}": gone(arms, f"{name}/{ENGLISH}")[:, -1] for name in names}
    read = [f"messages, {name}" for name in names if name in PUBLISHED]
    kinds = {"cosine": below(0.99), "augmented": above(0.9999)}

    def by_rows(of: Callable[[str, str], np.ndarray]) -> dict[str, np.ndarray]:
        return {f"{each}, {text}": of(rows, text) for each, rows in MADE.items() for text in SCORED}

    costs = by_rows(lambda rows, text: half[f"batch/{rows}"][text])
    dearer = by_rows(lambda rows, text: half[f"static/{rows}"][text] - half[f"batch/{rows}"][text])
    without = {f"no first half, {text}": more(arms, "nothing", metric)[:, 0] for text, metric in SCORED.items()}
    means, network = half["batch/pieces"], half["batch/hypernetwork"]
    found = [
        Claim(
            "half_way_costs_two_percent",
            "Half of the way to whole words costs less than 2 % more bits per byte of what comes next.",
            f"{paper}: abstract, of accuracy",
            costs | without | {"tokens gone": saved[:, -1] / 2},
            dict.fromkeys(costs, below(0.02)),
            "relative",
            "less than 2 % of accuracy for 20 % fewer tokens",
        ),
        Claim(
            "hypernetwork_beats_means_while_merging",
            "Half of the way rows of the hypernetwork cost fewer bits than means of pieces.",
            paper,
            {text: means[text] - network[text] for text in SCORED}
            | {"whole words": (more(arms, "batch/pieces") - more(arms, "batch/hypernetwork"))[:, -1]},
            dict.fromkeys(("second halves", "whole words"), above(0)),
            "relative bits more by means",
        ),
        Claim(
            "random_rows_fail",
            f"Half of the way the next {NEXT} tokens cost over 2 % more with random rows.",
            OURS,
            half["batch/drawn"],
            {"next tokens": above(0.02)},
            "relative",
        ),
        Claim(
            "frequent_merges_beat_random",
            "Merges of frequent pairs save more tokens than as many merges of pairs drawn at random.",
            OURS,
            {name: saved[:, place] - by_chance[:, place] for name, place in at.items()}
            | {f"more bits half way, {text}": half["drawn/pieces"][text] - means[text] for text in SCORED},
            dict.fromkeys(at, above(0)),
            "share of tokens",
        ),
        Claim(
            "beats_equal_static",
            "Merges of the batch cost fewer bits than merges of the training text that leave as many tokens, with rows made alike.",
            OURS,
            dearer,
            {f"{each}, second halves": above(0) for each in MADE},
            "relative bits more by the static tokenizer, half way",
        ),
        Claim(
            "forty_percent_is_relative",
            "At 40 % of the way to whole words fewer than 17 % of English tokens are gone.",
            f"{paper}: abstract of the first and of the last version",
            {"kjv": 0.4 * saved[:, -1], "kjv, whole words": saved[:, -1]}
            | {name: 0.4 * each for name, each in english.items()},
            dict.fromkeys(["kjv", *read], below(0.17)),
            "share of tokens",
            "40 %, relative to word level; later 17 % and 6 %",
        ),
        Claim(
            "cosine_misses_the_best",
            "The nearest rows by cosine hold that of the largest logit in fewer than 99 % of cases, augmented rows in all.",
            OURS,
            {
                f"{kind}, {each}": arms[f"candidates/{rows}", kind]
                for kind in kinds
                for each, rows in (MADE | {"trained": "own"}).items()
            },
            {f"{kind}, {each}": rule for kind, rule in kinds.items() for each in MADE},
            "share of states",
        ),
        Claim(
            "fairness_improves",
            f"{settings[most]} merges a batch bring the languages with most and with fewest tokens a message nearer by 20 %.",
            f"{paper}: abstract, without a number",
            {name: 1 - unevenness(results, name)[:, most] / unevenness(results, name)[:, 0] for name in names},
            above(0.2),
            "relative",
        )
        if names
        else None,
    ]
    return [claim for claim in found if claim]


def figure(results: Mapping[str, Any]) -> Figure:
    """Tokens saved against bits, with what no first half costs; batches of other sizes; languages."""
    arms, settings, names = Arms(results), results["settings"], results["tokenizers"]
    titles = ("Second halves", f"The next {NEXT} tokens", f"{results['compared']} merges", "The same messages")
    drawn, axes = panels(rows=2, columns=2, width=5.0, titles=titles)
    for panel, metric in zip(axes, SCORED.values(), strict=False):
        for (arm, label), color in zip(ARMS.items(), PALETTE, strict=False):
            across, cost = 100 * gone(arms, arm).mean(axis=0), 100 * more(arms, arm, metric)
            panel.plot(across, cost.mean(axis=0), "o-", color=color, markersize=3, linewidth=1.2, label=label)
            panel.vlines(across, cost.min(axis=0), cost.max(axis=0), color=color, linewidth=0.8, alpha=0.6)
        worth = f"without the first half: {100 * more(arms, 'nothing', metric).mean():.1f} %"
        panel.annotate(worth, (0.03, 0.93), xycoords="axes fraction", fontsize=8)
        panel.set(xlabel="% of tokens gone", ylabel="% more bits per byte")
    legend_beside(axes[1])
    sizes, without = results["batches"], arms["batch/pieces", "tokens"][:, :1]
    lines(axes[2], range(len(sizes)), {"": 100 * (1 - arms["batches", "tokens"] / without)})
    axes[2].set_xticks(range(len(sizes)), sizes)
    axes[2].set(xlabel="passages in a batch", ylabel="% of tokens gone")
    axes[3].set_visible(bool(names))
    lines(axes[3], range(len(settings)), {name: unevenness(results, name) for name in names})
    axes[3].set_xticks(range(len(settings)), ["words" if each is None else each for each in settings])
    axes[3].set(xlabel="merges in a batch of 32", ylabel="tokens, most over fewest")
    legend_beside(axes[3])
    return drawn
