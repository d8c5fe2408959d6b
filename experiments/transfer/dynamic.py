"""Tokens chosen per batch: how much shorter texts get, and what it costs to read them with rows that nobody trained.

Feher et al. 2025 (arXiv 2411.18553); method card dynamic-tokenization. First halves of held-out passages are read in dynamic tokens, second
halves are scored in the model's own. The released results lack the static tokenizer of equal mean length, and what the first half is worth
to a model at all. Fairness: the same messages of a program in twelve languages.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.figures import lines
from experiments.harness.presets import presets
from experiments.harness.style import PALETTE, panels, reference
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects import tokenized_models
from experiments.subjects.halved_passages import Reader, Rows, read_halves, rows_by, static_merges
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
    "batch/pieces": "means of pieces",
    "batch/drawn": "random rows",
    "drawn/pieces": "random merges",
    "static/pieces": "static tokenizer",
}
"""What decides the merges, and the rows of new tokens, which are means of pieces where nothing else is said."""
ENGLISH = "en_GB"


@dataclass(frozen=True)
class Config(Checked):
    """models: of one tokenizer, which is trained on their text. merges: settings, beside none and whole words.

    batch: passages, or messages, whose merges are learned together; `batches` are others, of `compared` merges. passages: of `size`
    characters, that each seed's model reads. static: merges learned from the training text, at most. candidates: of `large`, a tokenizer
    of the same text whose rows are made, after `states`. tokenizers, languages, messages: drawn by each seed for the comparison of
    languages.
    """

    models: TokenizedConfig = TokenizedConfig(tokenizers=("bpe:1024",))
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
    settings = (0, *config.merges, None)
    large = load_tokenizer(config.large, corpus)

    @cache
    def read(seed: int) -> Reader:
        texts = passages(corpus, "test", config.passages, config.size, seed)
        return read_halves(models.model, models.params[seeds.index(seed)], models.tokenizer, texts)

    @cache
    def rows(method: str, seed: int) -> Rows:
        return rows_by(method, read(seed).params["table"], models.tokenizer)

    @cache
    def static() -> Merges:
        return static_merges(corpus, models.tokenizer, config.static)

    @cache
    def merged(kind: str, seed: int, setting: int | None) -> list[DynamicBatch]:
        if kind != "static":
            rng = np.random.default_rng(seed) if kind == "drawn" else None
            return read(seed).merged(setting, config.batch, rng)

        def by_training(count: int) -> list[DynamicBatch]:
            return read(seed).merged(static()[:count], config.passages)

        wanted = tokens_of(merged("batch", seed, setting))  # as many merges as leave the same number of tokens
        counts = range(len(static()))
        return by_training(bisect_left(counts, -wanted, key=lambda count: -tokens_of(by_training(count))))

    @cache
    def cutting(name: str) -> tuple[Tokenizer, str]:
        return load_with_split(name, corpus, workspace)

    def measure(arm: str, seed: int) -> dict[str, Any]:
        kind, _, method = arm.partition("/")
        if kind in config.tokenizers:
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
        bits = [read(seed).bits(batches, rows(method or "pieces", seed)) for batches in found]
        return {"tokens": list(map(tokens_of, found)), "bits": bits}

    said = parallel_messages(config.languages, workspace) if config.languages else {}
    arms = [*ARMS, "nothing", "batches", "candidates/own", "candidates/pieces"]
    arms += [f"{name}/{language}" for name in config.tokenizers for language in said]
    return {
        "corpora": {corpus.name: corpus.fingerprint},
        "seeds": seeds,
        "models": models.described(),
        "settings": settings,
        "batches": config.batches,
        "compared": config.compared,
        "tokenizers": config.tokenizers if config.languages else (),
        "languages": config.languages,
        "arms": measured(workspace, arms, seeds, measure),
    }


def tokens_of(batches: Sequence[DynamicBatch]) -> int:
    return sum(int(batch.lengths.sum()) for batch in batches)


def half_way(results: Mapping[str, Any], arm: str) -> np.ndarray:
    """Relative bits more than without merges where an arm has saved half of what whole words save, [seeds]; linear between settings."""
    arms = Arms(results)
    bits = arms[arm, "bits"] / arms["batch/pieces", "bits"][:, :1] - 1
    saved, whole = gone(arms, arm), gone(arms, "batch/pieces")[:, -1]
    return np.array([np.interp(most / 2, *row) for most, *row in zip(whole, saved, bits, strict=True)])


def gone(arms: Arms, arm: str) -> np.ndarray:
    """Share of the tokens that there are without merges which are no more, [seeds, settings]."""
    tokens = arms[arm, "tokens"]
    return 1 - tokens / tokens[:, :1]


def unevenness(results: Mapping[str, Any], name: str) -> np.ndarray:
    """Tokens of a message in the language that has most over those in the one that has fewest, [seeds, settings]."""
    tokens = np.stack([Arms(results)[f"{name}/{language}", "tokens"] for language in results["languages"]])
    return tokens.max(axis=0) / tokens.min(axis=0)


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """What the paper says, and the controls that it lacks."""
    arms, settings, names = Arms(results), results["settings"], results["tokenizers"]
    paper, half, most = "feher2025retrofitting", partial(half_way, results), len(settings) - 2
    worth = arms["nothing", "bits"][:, 0] / arms["batch/pieces", "bits"][:, 0] - 1
    saved, by_chance = gone(arms, "batch/pieces"), gone(arms, "drawn/pieces")
    english = {name: gone(arms, f"{name}/{ENGLISH}")[:, -1] for name in names}
    at = {f"{settings[place]} merges": place for place in (len(settings) // 2, most)}
    found = [
        Claim(
            "half_way_costs_two_percent",
            "Half of the way to whole words costs less than 2 % more bits per byte of what comes next.",
            f"{paper}: abstract, of accuracy",
            {
                "means of pieces": half("batch/pieces"),
                "tokens gone": saved[:, -1] / 2,
                "share of what the first half is worth": half("batch/pieces") / worth,
            },
            {"means of pieces": below(0.02)},
            "relative",
            "less than 2 % of accuracy for 20 % fewer tokens",
        ),
        Claim(
            "random_rows_fail",
            "With random rows it costs more than 2 %.",
            OURS,
            {"random rows": half("batch/drawn")},
            above(0.02),
            "relative",
        ),
        Claim(
            "frequent_merges_beat_random",
            "Merges of frequent pairs save more tokens than as many merges of pairs drawn at random.",
            OURS,
            {name: saved[:, place] - by_chance[:, place] for name, place in at.items()}
            | {"more bits by random ones half way": half("drawn/pieces") - half("batch/pieces")},
            dict.fromkeys(at, above(0)),
            "share of tokens",
        ),
        Claim(
            "beats_equal_static",
            "Merges of the batch cost fewer bits than merges of the training text that leave as many tokens, with rows made alike.",
            OURS,
            {"means of pieces": half("static/pieces") - half("batch/pieces")},
            above(0),
            "relative bits more by the static tokenizer, half way",
        ),
        Claim(
            "forty_percent_is_relative",
            "At 40 % of the way to whole words fewer than 17 % of English tokens are gone.",
            f"{paper}: abstract of the first and of the last version",
            {"kjv": 0.4 * saved[:, -1]}
            | {f"messages, {name}": 0.4 * each for name, each in english.items()}
            | {"kjv, whole words": saved[:, -1]},
            dict.fromkeys(("kjv", *(f"messages, {name}" for name in names if name in PUBLISHED)), below(0.17)),
            "share of tokens",
            "40 %, relative to word level; later 17 % and 6 %",
        ),
        Claim(
            "cosine_misses_the_best",
            "The nearest rows by cosine hold that of the largest logit in fewer than 99 % of cases, augmented rows in all.",
            OURS,
            {name: arms["candidates/pieces", name] for name in ("cosine", "augmented")}
            | {f"{name}, trained rows": arms["candidates/own", name] for name in ("cosine", "augmented")},
            {"cosine": below(0.99), "augmented": above(0.9999)},
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
    arms, settings, names = Arms(results), list(results["settings"]), results["tokenizers"]
    titles = ("second halves", f"{results['compared']} merges a batch", f"{len(results['languages'])} languages")
    drawn, axes = panels(columns=3 if names else 2, width=4.2, titles=titles)
    base = arms["batch/pieces", "bits"][:, :1]
    for (arm, label), color in zip(ARMS.items(), PALETTE, strict=False):
        saved, cost = 100 * gone(arms, arm).mean(axis=0), 100 * (arms[arm, "bits"] / base - 1)
        axes[0].plot(saved, cost.mean(axis=0), "o-", color=color, markersize=3, label=label)
        axes[0].vlines(saved, cost.min(axis=0), cost.max(axis=0), color=color, linewidth=0.8)
    reference(axes[0], 100 * (arms["nothing", "bits"] / base - 1).mean(), "without the first half")
    axes[0].set(xlabel="% of tokens gone", ylabel="% more bits per byte")
    axes[0].legend()
    sizes, without = results["batches"], arms["batch/pieces", "tokens"][:, :1]
    lines(axes[1], range(len(sizes)), {"tokens": 100 * (1 - arms["batches", "tokens"] / without)})
    axes[1].set_xticks(range(len(sizes)), sizes)
    axes[1].set(xlabel="passages in a batch", ylabel="% of tokens gone")
    if names:
        lines(axes[2], range(len(settings)), {name: unevenness(results, name) for name in names})
        axes[2].set_xticks(range(len(settings)), ["words" if each is None else each for each in settings])
        axes[2].set(xlabel="merges a batch", ylabel="tokens a message, most over fewest", yscale="log")
        axes[2].legend()
    return drawn
