"""Selecting context keeps retrieval right in inputs longer than the trained ones, at every depth.

Kong et al. 2026 (arXiv 2505.18227); claims C1 and C2 of method card token-reduction-beyond-efficiency. Pairs of a key and a value, no key
twice, then one of the keys: what is its value? Two layers, whose keys see the token before (Olsson et al. 2022), learn it in contexts of
`length` tokens and are tested in contexts several times as long, whole or cut down to the trained length by keeping the pairs that are most
similar to the query, most attended by it, known to hold the answer, or random. Kept pairs are numbered anew or keep their positions, since
part of a gain is mere staying inside trained positions; interpolated positions are the control for the whole context. One answer of
`values` is right: chance is 1 / values.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from matplotlib.figure import Figure

from experiments.harness.arms import Arms
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, SKY, VERMILION, band, panels, reference
from experiments.harness.verdicts import OURS, Claim, above
from experiments.harness.workspace import Workspace
from experiments.subjects.pair_recall import QUERIES, Question, draw_question, read, recall_model, train_recall
from lexinv.merging.criteria import random, relevance
from lexinv.nn.language_model import BOS, Params
from lexinv.nn.transformer import TransformerConfig
from lexinv.randomness import threefry
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Counts, Positive, Seeds

PAPERS = ("kong2025token",)
CRITERIA = ("oracle", "similarity", "attention", "random")
ARMS = {
    "full": ("whole context", BLACK),
    "interpolated": ("whole, interpolated positions", VERMILION),
    "oracle": ("oracle", GREEN),
    "similarity": ("similar to the query", BLUE),
    "similarity, kept": ("similar, positions kept", SKY),
    "attention": ("attended by the query", ORANGE),
    "random": ("random pairs", GREY),
}
DEPTHS = 5
CHUNK = 20
"""Questions answered at a time."""
LONG = 4
"""From how many trained lengths on C1 is judged."""
SMALLEST = 0.02
"""The least difference of accuracy that matters."""


@dataclass(frozen=True)
class Config(Checked):
    """length: of training texts in tokens. factors: test lengths as multiples of it. items: questions for each length and seed."""

    length: Count = 64
    factors: Counts = (1, 2, 4, 8)
    keys: Count = 320
    values: Count = 16
    items: Count = 200
    batch_size: Count = 32
    steps: Count = 120
    depth: Count = 2
    width: Count = 64
    learning_rate: Positive = 3e-3
    seeds: Seeds = (0, 1, 2, 3, 4)

    def checks(self):
        yield self.length % 2 == 0 and self.length >= 4 * QUERIES, "length", f"even, at least {4 * QUERIES}"
        rising = list(self.factors) == sorted(self.factors) and self.factors[0] == 1 and self.factors[-1] >= LONG
        yield rising, "factors", f"rising from 1 to {LONG} or more"
        most = self.length * self.factors[-1] // 2
        yield self.keys >= most, "keys", f"at least {most}: no key comes twice"
        yield self.values >= 2, "values", "at least 2"
        yield self.items % CHUNK == 0 and self.items % DEPTHS == 0, "items", f"a multiple of {CHUNK} and of {DEPTHS}"
        yield self.steps % 20 == 0, "steps", "a multiple of 20"

    def model(self) -> TransformerConfig:
        return recall_model(self.depth, self.width, self.length * self.factors[-1])


PRESETS = presets(
    Config(),
    smoke={
        "length": 32,
        "factors": (1, 4),
        "keys": 64,
        "values": 4,
        "items": 20,
        "batch_size": 4,
        "steps": 20,
        "depth": 1,
        "width": 16,
        "seeds": (0, 1),
    },
    quick={"seeds": (0, 1, 2)},
    paper={
        "length": 512,
        "keys": 4096,
        "values": 256,
        "items": 2000,
        "batch_size": 128,
        "steps": 5000,
        "width": 256,
        "learning_rate": 1e-3,
        "seeds": tuple(range(10)),
    },
)
"""The position paper has no size of its own: `paper` is the card's experiment at a size for an accelerator."""


def answer(
    config: Config, model: TransformerConfig, params: Params, questions: Question, key: Key[Array, ""]
) -> dict[str, Array]:
    """Whether each question of a batch is answered rightly, by arm."""
    batch, count = questions.needle.shape[0], questions.pairs.shape[1]
    kept = min(config.length // 2 - 1, count)
    query, wanted = jax.vmap(lambda one: (one.query, one.answer))(questions)
    whole = jnp.concatenate([jnp.full((batch, 1), BOS), questions.pairs.reshape(batch, -1), query[:, None]], axis=1)
    places = jnp.broadcast_to(jnp.arange(whole.shape[1], dtype=jnp.float32)[None], whole.shape)
    shrunk = places * min(1.0, config.length / whole.shape[1])
    logits, attention = read(model, params, jnp.concatenate([whole, whole]), jnp.concatenate([places, shrunk]))
    read_whole = logits.reshape(2, batch, -1)
    received = jnp.sum(attention[:batch, 1:-1].reshape(batch, count, 2), axis=2)
    table = params["table"]
    vectors = jnp.mean(table[questions.pairs], axis=2)
    chance = jax.vmap(lambda key: random(key, count))(jax.random.split(threefry(key), batch))
    scores = {
        "oracle": chance + jax.nn.one_hot(questions.needle, count),
        "similarity": jax.vmap(relevance)(vectors, table[query]),
        "attention": received,
        "random": chance,
    }
    chosen = jnp.sort(jax.lax.top_k(jnp.stack([scores[name] for name in CRITERIA]), kept)[1], axis=-1)
    pairs = jnp.take_along_axis(questions.pairs[None], chosen[..., None], axis=2)
    rows = len(CRITERIA), batch
    short = jnp.concatenate(
        [
            jnp.full((*rows, 1), BOS),
            pairs.reshape(*rows, -1),
            jnp.broadcast_to(query[None, :, None], (*rows, 1)),
        ],
        axis=2,
    )
    old = jnp.stack([1 + 2 * chosen, 2 + 2 * chosen], axis=-1).reshape(*rows, -1).astype(jnp.float32)
    ends = jnp.zeros((*rows, 1)), jnp.full((*rows, 1), float(whole.shape[1] - 1))
    old = jnp.concatenate([ends[0], old, ends[1]], axis=2)
    new = jnp.broadcast_to(jnp.arange(short.shape[2], dtype=jnp.float32)[None, None], short.shape)
    tokens = jnp.concatenate([short, short]).reshape(-1, short.shape[2])
    found, _ = read(model, params, tokens, jnp.concatenate([new, old]).reshape(-1, short.shape[2]))
    read_short = found.reshape(2 * len(CRITERIA), batch, -1)
    names = ["full", "interpolated", *CRITERIA, *(f"{name}, kept" for name in CRITERIA)]
    said = jnp.argmax(jnp.concatenate([read_whole, read_short])[..., config.keys :], axis=-1) + config.keys
    return {name: said[i] == wanted for i, name in enumerate(names)}


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Accuracy by arm: [seeds][factors][depths of the needle]."""
    seeds = config.seeds
    trained = train_recall("long_context/models", config.model(), config, workspace)
    tests = {factor: jax.jit(partial(ask_all, config, factor * config.length // 2 - 1)) for factor in config.factors}
    found = [
        [ask(params, stream(jax.random.key(seed), f"questions-{factor}")) for factor, ask in tests.items()]
        for params, seed in zip(trained, seeds, strict=True)
    ]
    arms = {arm: {"accuracy": np.array([[by[arm] for by in one] for one in found]).round(4)} for arm in found[0][0]}
    sizes = {"length": config.length, "factors": config.factors, "items": config.items}
    return {"corpora": {}, "seeds": seeds, "chance": 1 / config.values, **sizes, "arms": arms}


def ask_all(config: Config, count: int, params: Params, key: Key[Array, ""]) -> dict[str, Array]:
    """Accuracy by arm and depth [DEPTHS] over all items, whose needles stand at even depths."""
    model = replace(config.model(), attention="dot_product")
    depths = (jnp.arange(config.items, dtype=jnp.float32) + 0.5) / config.items
    keys = jax.random.split(threefry(key), config.items)

    def some(part: tuple[Array, Array]) -> dict[str, Array]:
        keys, depths = part
        draw = partial(draw_question, count=count, keys=config.keys, values=config.values)
        questions = jax.vmap(lambda key, depth: draw(stream(key, "pairs"), depth=depth))(keys, depths)
        return answer(config, model, params, questions, stream(keys[0], "random"))

    right = jax.lax.map(some, (keys.reshape(-1, CHUNK), depths.reshape(-1, CHUNK)))
    return {name: jnp.mean(hits.reshape(DEPTHS, -1).astype(jnp.float32), axis=1) for name, hits in right.items()}


def unevenness(accuracy: Float[np.ndarray, "seeds depths"], items: int) -> Float[np.ndarray, " seeds"]:
    """The standard deviation of accuracy over depths, less what the sampling of items adds to it."""
    sampling = (accuracy * (1 - accuracy)).mean(1) * DEPTHS / items
    return np.sqrt(np.maximum(accuracy.var(1, ddof=1) - sampling, 0.0))


def claims(results: dict[str, Any]) -> list[Claim]:
    """C1 for two criteria, and C2; then both against interpolated positions instead of the whole context as it is."""
    arms, factors = Arms(results), results["factors"]
    accuracy = {arm: arms[arm, "accuracy"].mean(axis=2) for arm in arms}
    last = {arm: arms[arm, "accuracy"][:, -1] for arm in ("full", "interpolated", "similarity", "random")}
    uneven = {arm: unevenness(values, results["items"]) for arm, values in last.items()}
    rule, paper, unit = above(0, matters=SMALLEST), "kong2025token: section", "gain of accuracy"
    by_depth = f"standard deviation over {DEPTHS} depths beyond that of sampling; accuracy"

    def gains(arm: str, baseline: str) -> dict[str, Any]:
        return {
            f"{arm} over {other}, {factor}x": (accuracy[arm] - accuracy[other])[:, i]
            for i, factor in enumerate(factors)
            if factor >= LONG
            for other in (baseline, "random")
        }

    def flattened(baseline: str) -> dict[str, Any]:
        return {
            f"unevenness less than {baseline}": uneven[baseline] - uneven["similarity"],
            "worst depth over random": last["similarity"].min(axis=1) - last["random"].min(axis=1),
        }

    return [
        Claim(
            "selection_keeps_long_context",
            "C1: In contexts longer than trained ones, keeping the pairs most similar to the query, as many as in training, answers more "
            "questions than the whole context.",
            f"{paper} 4",
            gains("similarity", "full"),
            rule,
            unit,
        ),
        Claim(
            "own_attention_selects",
            "C1: So does keeping the pairs that the query attends to most when the model reads the whole context.",
            f"{paper} 4",
            gains("attention", "full"),
            rule,
            unit,
        ),
        Claim(
            "selection_beats_interpolation",
            "C1: The gain is more than that of staying inside trained positions: either selection answers more questions than the whole "
            "context with interpolated positions.",
            OURS,
            gains("similarity", "interpolated") | gains("attention", "interpolated"),
            rule,
            unit,
        ),
        Claim(
            "selection_flattens_depth",
            f"C2: At {factors[-1]} trained lengths accuracy depends less on the depth of the needle after selection, and at the worst "
            "depth it is above that of random pairs.",
            f"{paper} 7",
            flattened("full"),
            rule,
            by_depth,
        ),
        Claim(
            "selection_flattens_beyond_interpolation",
            "C2: Also less than in the whole context with interpolated positions.",
            OURS,
            flattened("interpolated"),
            rule,
            by_depth,
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Accuracy against the length of the context, by criterion and by positions, and against the depth of the needle."""
    arms, lengths = Arms(results), np.multiply(results["factors"], results["length"])
    titles = ("Kept pairs numbered anew", "Positions", f"By depth, {lengths[-1]} tokens")
    drawn, axes = panels(1, 3, width=4, height=3.6, titles=titles)
    shown = (
        ("full", "oracle", "similarity", "attention", "random"),
        ("full", "interpolated", "similarity", "similarity, kept"),
        ("full", "interpolated", "similarity", "random"),
    )
    for panel, names in zip(axes, shown, strict=True):
        for arm in names:
            accuracy = arms[arm, "accuracy"]
            if panel is axes[2]:
                band(panel, (np.arange(DEPTHS) + 0.5) / DEPTHS, accuracy[:, -1], *ARMS[arm], marker="o", markersize=3)
            else:
                band(panel, lengths, accuracy.mean(axis=2), *ARMS[arm], marker="o", markersize=3)
        reference(panel, results["chance"], "chance")
        panel.set(xlabel="tokens of context", ylabel="accuracy", ylim=(0, 1.05))
        panel.legend(fontsize=7, loc=(0.02, 0.12) if panel is axes[0] else (0.02, 0.4))
    for panel in axes[:2]:
        panel.set_xscale("log", base=2)
        panel.set_xticks(lengths, lengths)
    axes[2].set(xlabel="depth of the needle, from the beginning")
    return drawn
