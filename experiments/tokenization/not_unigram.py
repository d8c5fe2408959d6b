"""A Transformer on tokens of a Markov source is better than every unigram model of the same tokens: how much of the context does it use?

Rajaraman et al. 2024 (arXiv 2404.08335) read near-constant rows of next-token probabilities as unigram behaviour [recalled, unverified];
method card theory-of-tokenization, experiment D. The unigram model is fitted to the tokens that the Transformer is trained on, and both
are measured on the same targets. The maps show the next-token probabilities by position in one held-out window.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.harness.presets import presets
from experiments.harness.style import BLACK, BLUE, GREY, ORANGE, VERMILION, band, panels, reference
from experiments.harness.verdicts import OURS, Claim, below
from experiments.harness.workspace import Workspace
from experiments.subjects.markov_models import (
    LEXICON,
    MODEL,
    PUBLISHED,
    SMOKE,
    PopulationConfig,
    Tokens,
    by_rate,
    size_of,
    sized,
    tokens_of,
    train_population,
)
from experiments.subjects.markov_sources import SourceConfig
from lexinv.nn.language_model import Params, make_logits
from lexinv.nn.transformer import TransformerConfig
from lexinv.tokenization.unigram import add_constant, cross_entropy, token_counts
from lexinv.training.population import member
from lexinv.validation import Checked, Count, Counts

PAPERS = ("rajaraman2024analysis",)
MAPPED = 16
"""How many of the most frequent tokens a map shows."""
FAST, SLOW = SourceConfig(2, 0.9, 0.9), SourceConfig(2, 0.2, 0.2)


@dataclass(frozen=True)
class Config(Checked):
    """dictionaries: sizes of the BPE, from the smallest to the largest. time: tokens in a window. rows: windows whose next-token
    distributions are compared with the marginal."""

    sources: tuple[SourceConfig, ...] = (FAST, SLOW)
    training: PopulationConfig = PopulationConfig(
        steps=800, learning_rates=(8e-3, 1.6e-2), evaluate_every=40, held_out=65_536
    )
    model: TransformerConfig = MODEL
    dictionaries: Counts = (4, 16, 64, 256)
    time: Count = 32
    rows: Count = 64

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        names = [source.name for source in self.sources]
        yield 0 < len(set(names)) == len(names), "sources", "at least one, each once"
        yield all(source.symbols == 2 for source in self.sources), "sources", "switching processes, of two symbols"
        sizes = self.dictionaries
        rising = len(sizes) >= 2 and list(sizes) == sorted(sizes) and sizes[0] > 2 and sizes[-1] <= 2**12
        yield rising, "dictionaries", "at least two, rising, from 3 to 4096 tokens"
        yield self.time >= 2, "time", "at least 2: the first token does not count"


PRESETS = presets(
    Config(),
    smoke={
        **SMOKE,
        "sources": (FAST,),
        "training.learning_rates": (8e-3,),
        "dictionaries": (4, 8),
        "time": 16,
        "rows": 4,
    },
    paper={**PUBLISHED, "dictionaries": (4, 16, 64, 256, 1024), "time": 128, "rows": 256},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By source and size of the dictionary: losses in nats per character and distances of the rows from the marginal, by seed."""
    sizes = list(map(str, config.dictionaries))

    def measured(source: SourceConfig) -> dict[str, Any]:
        one = partial(measure, source, config=config, workspace=workspace)
        return workspace.stages(f"arms/{source.name}", sizes, lambda size: one(int(size)))

    return {
        "corpora": {},
        "seeds": config.training.seeds,
        "learning_rates": config.training.learning_rates,
        "sources": {source.name: {**source.entropies, "dictionaries": measured(source)} for source in config.sources},
    }


def measure(source: SourceConfig, size: int, config: Config, workspace: Workspace) -> dict[str, Any]:
    """What is kept of one population: the learning rate with the lowest mean final loss, its losses, and its rows."""
    tokens = tokens_of(source, size, config.time, config.training)
    text, training = tokens.text, config.training
    model = sized(config.model, config.model.width, config.time)
    params, curves = train_population(f"{source.name}/{size}", model, text, training, workspace)
    finals, excess, error = (by_rate(curves[kind][:, -1], training) for kind in ("loss", "excess", "error"))
    best = int(finals.mean(axis=1).argmin())
    trees = [member(params, best * len(training.seeds) + index) for index in range(len(training.seeds))]
    rows = [next_token_rows(model, tokens, tree, config.rows) for tree in trees]
    marginal = add_constant(token_counts(tokens.train, tokens.tokenizer))
    distances = [0.5 * np.abs(each - marginal).sum(axis=2).reshape(-1) for each in rows]
    frequent = np.argsort(-marginal)[:MAPPED]
    targets = text.held_out[:, text.skipped :].reshape(-1)
    return {
        "parameters": size_of(model, text.vocab),
        "mean_length": round(text.mean_length, 3),
        "best": best,
        "loss": np.round(finals[best], 5).tolist(),
        "excess": np.round(excess[best], 5).tolist(),
        "error": np.round(error[best], 5).tolist(),
        "unigram": round(cross_entropy(tokens.train, targets, tokens.tokenizer), 5),
        "distance": [round(float(each.mean()), 4) for each in distances],
        "quartiles": np.round(np.quantile(np.concatenate(distances), (0.25, 0.5, 0.75)), 4).tolist(),
        "map": {
            "tokens": [tokens.tokenizer.vocabulary[token] for token in frequent],
            "marginal": np.round(marginal[frequent], 3).tolist(),
            "rows": np.round(rows[0][0][:, frequent], 3).tolist(),
        },
    }


def next_token_rows(
    model: TransformerConfig, tokens: Tokens, params: Params, count: int
) -> Float[np.ndarray, "windows time vocab"]:
    """The next-token distribution at every counted target of `count` held-out windows."""
    text = tokens.text
    windows = jnp.asarray(text.held_out[:count])
    batch = {"tokens": windows, "row": jnp.arange(len(windows), dtype=jnp.int32)}
    logits = jax.jit(make_logits(model, LEXICON, text.vocab))(params, batch, jax.random.key(0))
    return np.asarray(jax.nn.softmax(logits[:, text.skipped :]))


def claims(results: dict[str, Any]) -> list[Claim]:
    """Better than unigram, and closer to it with more tokens."""
    sources = {name: found["dictionaries"] for name, found in results["sources"].items()}
    by_size = {f"{name}, d={size}": arm for name, arms in sources.items() for size, arm in arms.items()}
    ends = {name: [np.array(arm["distance"]) for arm in arms.values()] for name, arms in sources.items()}
    return [
        Claim(
            "distance_to_marginal_shrinks_with_size",
            "The Transformer's next-token distributions are closer to the token frequencies with the largest dictionary than with the "
            "smallest.",
            "rajaraman2024analysis: next-token distributions by position [recalled]",
            {name: distances[-1] - distances[0] for name, distances in ends.items()},
            below(0),
            "difference of the mean total variation distances",
            "near-constant rows, read as unigram behaviour [recalled]",
        ),
        Claim(
            "token_model_beats_unigram",
            "With every tokenizer the Transformer's loss is below that of the best unigram model of the same tokens: it uses the context.",
            OURS,
            {at: np.array(arm["loss"]) - arm["unigram"] for at, arm in by_size.items()},
            below(0),
            "difference in nats per character",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Losses against the size of the dictionary, a panel per source, the distance of the rows from the marginal, and maps of such rows.

    Both losses are drawn as H_inf and what they are above the source's own loss on the same characters, without the text's luck.
    """
    sources = results["sources"]
    columns = len(sources) + 1
    drawn, every_axes = panels(2, columns, width=4.2, height=3.2)
    axes, maps = every_axes[:columns], every_axes[columns:]
    distance = axes[-1]
    for panel, (name, found), color in zip(axes, sources.items(), (BLUE, VERMILION, GREY), strict=False):
        arms, rate = found["dictionaries"], found["entropy_rate"]
        sizes = [int(size) for size in arms]
        per_seed = {kind: np.array([arm[kind] for arm in arms.values()]).T for kind in ("excess", "loss", "distance")}
        unigram = np.array([arm["unigram"] for arm in arms.values()]) - (per_seed["loss"] - per_seed["excess"])[0]
        panel.plot(sizes, rate + unigram, "o-", color=ORANGE, label="unigram model of tokens")
        band(panel, sizes, rate + per_seed["excess"], "Transformer on tokens", BLUE, marker="o")
        reference(panel, found["stationary_entropy"], "H(π)")
        reference(panel, rate, "H∞", BLACK)
        panel.set(title=name, ylabel="held-out nats per character")
        band(distance, sizes, per_seed["distance"], f"{name}, mean", color, marker="o")
        low, _, high = np.array([arm["quartiles"] for arm in arms.values()]).T
        distance.plot(sizes, low, ":", color=color, linewidth=0.9, label=f"{name}, quartiles of rows")
        distance.plot(sizes, high, ":", color=color, linewidth=0.9)
    distance.set(title="Rows against the marginal", ylabel="total variation distance", ylim=(0, 1))
    for panel in axes:
        panel.set(xlabel="tokens d", xscale="log")
        panel.set_xticks(sizes, [str(size) for size in sizes], minor=False)
        panel.set_xticks([], minor=True)
        panel.legend(fontsize=7)
    name, found = next(iter(sources.items()))
    shown = np.unique(np.linspace(0, len(sizes) - 1, columns).round().astype(int))
    for panel, place in zip(maps, shown, strict=False):
        draw_map(panel, f"{name}, d = {sizes[place]}", found["dictionaries"][str(sizes[place])]["map"])
    for panel in maps[len(shown) :]:
        panel.set_axis_off()
    return drawn


def draw_map(axes: Axes, title: str, drawn: dict[str, Any]) -> None:
    """Next-token probabilities of the most frequent tokens by position, with their frequencies as the last column."""
    rows = np.array(drawn["rows"])
    shown = np.concatenate([rows, np.full((1, rows.shape[1]), np.nan), np.repeat([drawn["marginal"]], 2, axis=0)]).T
    axes.imshow(np.sqrt(shown), aspect="auto", cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
    names = [token if len(token) <= 12 else f"{token[:8]}… ({len(token)})" for token in drawn["tokens"]]
    axes.set_yticks(range(len(names)), names, fontsize=5.5)
    axes.set(title=f"Next token, {title}", xlabel="position; last columns: the marginal")
    axes.grid(visible=False)
