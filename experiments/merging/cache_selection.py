"""Attending to cached tokens chosen one by one, by the votes of all heads: what is kept of attention, of length, of answers.

TokenSelect (Wu et al. 2025, arXiv 2411.02886); method card tokenselect. Planted heads say which votes find what each head needs. Two layers
that recall pairs (`experiments.subjects.pair_recall`) are asked in contexts of up to 16 trained lengths, read in chunks from a cache of
which they attend to less than a trained length. SmolLM2 answers from haystacks of 1,000 to 4,000 tokens, 656 attended to. The released code
never keeps a choice from one token to the next; here `reuse` arms do, and all others choose for each token. Bytes are counted, not timed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.figures import bars, lines, whiskers
from experiments.harness.intervals import Interval, bootstrap_interval
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, PALETTE, SKY, VERMILION, band, panels, reference
from experiments.harness.verdicts import OURS, Claim, above, below, between
from experiments.harness.workspace import Workspace
from experiments.subjects.pair_recall import QUERIES, draw_question, recall_model, train_recall
from experiments.subjects.planted_heads import PlantedConfig, found_by_grouping, judge, plant
from experiments.subjects.pretrained_language_model import UNTRAINED, open_pretrained
from experiments.subjects.selective_readers import ASKED, FULL, SOFT, THROUGHOUT, SelectiveReaderConfig, measure
from lexinv.merging.cache_selection import POLICIES, WHOLE, Selection, bytes_read
from lexinv.merging.selective_cache import empty_selective_cache, make_read
from lexinv.nn.cache import unstacked
from lexinv.nn.language_model import BOS, Params
from lexinv.nn.lexicon import embed, readout
from lexinv.nn.transformer import TransformerConfig
from lexinv.randomness import threefry
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Counts, Positive, Seeds

PAPERS = ("wu2025tokenselect",)
KEPT_PLACES = "soft_at_true_positions"
LINES = {
    "full": ("full", BLACK),
    "interpolated": ("full, interpolated", VERMILION),
    "soft": ("soft votes", BLUE),
    KEPT_PLACES: ("soft, true positions", SKY),
    "block_mean": ("blocks by soft votes", ORANGE),
    "raw_sum": ("sum of scores", GREEN),
    "window": ("first and last", GREY),
}
CHUNK = 20
"""Questions asked at a time."""
NEAR = 0.05
"""How much accuracy of a real model may be lost."""


@dataclass(frozen=True)
class Config(Checked):
    """length: of training texts in tokens. factors: test lengths in multiples of it. items: questions for each length and seed.

    selection: of the models of pairs, which read `chunk` tokens at a time. key_heads: of the planted heads that share them.
    """

    planted: PlantedConfig = PlantedConfig()
    key_heads: Count = 2
    length: Count = 64
    factors: Counts = (1, 2, 4, 8, 16)
    keys: Count = 512
    values: Count = 16
    items: Count = 100
    batch_size: Count = 32
    steps: Count = 200
    depth: Count = 2
    width: Count = 64
    learning_rate: Positive = 3e-3
    selection: Selection = Selection("soft", k=32, first=4, local=24, block=8)
    chunk: Count = 8
    seeds: Seeds = (0, 1, 2, 3, 4)
    reader: SelectiveReaderConfig = SelectiveReaderConfig()

    def checks(self):
        yield self.length % 2 == 0 and self.length >= 4 * QUERIES, "length", f"even, at least {4 * QUERIES}"
        yield self.length % self.chunk == 0, "chunk", f"a divisor of length = {self.length}"
        rising = list(self.factors) == sorted(self.factors) and self.factors[0] == 1
        yield rising, "factors", "rising from 1 on"
        most, s = self.length * self.factors[-1] // 2, self.selection
        yield self.keys >= most, "keys", f"at least {most}: no key comes twice"
        yield self.values >= 2, "values", "at least 2"
        yield s.first + s.k + s.local <= self.length, "selection", f"at most {self.length} tokens in all"
        yield self.items % CHUNK == 0, "items", f"a multiple of {CHUNK}"
        yield self.steps % 20 == 0, "steps", "a multiple of 20"
        yield self.planted.heads % self.key_heads == 0, "key_heads", f"a divisor of {self.planted.heads} heads"

    def model(self) -> TransformerConfig:
        return recall_model(self.depth, self.width, self.length * self.factors[-1])

    def arm(self, name: str, factor: int) -> Selection:
        """How an arm selects in a context of so many trained lengths."""
        changed: dict[str, Any] = {"compact": False} if name == KEPT_PLACES else {"policy": name}
        return replace(self.selection, stretch=float(factor), **changed)


PRESETS = presets(
    Config(),
    smoke={
        "planted": PlantedConfig(heads=4, dim=16, slots=128, k=16, critical=2, run=4, draws=2),
        "length": 32,
        "factors": (1, 2),
        "keys": 32,
        "values": 4,
        "items": 20,
        "batch_size": 4,
        "steps": 20,
        "depth": 1,
        "width": 16,
        "selection": Selection("soft", k=12, first=4, local=16, block=4),
        "seeds": (0, 1),
        "reader": SelectiveReaderConfig(
            UNTRAINED, (2,), (1,), 1, Selection("soft", k=32, first=4, local=16), ("window",), (0.9,), 16, 64
        ),
    },
    paper={
        "length": 256,
        "keys": 2048,
        "values": 256,
        "items": 2000,
        "batch_size": 128,
        "steps": 5000,
        "width": 256,
        "learning_rate": 1e-3,
        "selection": Selection("soft", k=128, first=16, local=64, block=16),
        "chunk": 32,
        "seeds": tuple(range(10)),
        "reader.pairs": (12, 25, 50, 100),
        "reader.haystacks": (20, 20, 20, 20),
        "reader.selection": Selection("soft", k=2048, first=128, local=512),
        "reader.chunk": 512,
    },
)
"""The paper's own sizes of a selection in `paper`, on models that fit one accelerator; its 8B models and benchmarks are not run."""


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Planted heads [draws], accuracies of recall by arm [seeds][factors], answers of the published model by question."""
    c, draws = config, range(config.planted.draws)
    planted = {
        name: workspace.cached(
            f"planted/{name}", lambda run=run: [judge(c.planted, plant(c.planted, d, run)) for d in draws]
        )
        for name, run in (("scattered", False), ("runs", True))
    }
    grouping = workspace.cached("grouping", lambda: [found_by_grouping(c.planted, c.key_heads, d) for d in draws])
    model = config.model()
    trained = dict(zip(c.seeds, train_recall("cache_selection/models", model, c, workspace), strict=True))
    asks: dict[str, Any] = {}

    def accuracy(arm: str, seed: int) -> dict[str, list[float]]:
        if arm not in asks:
            asks[arm] = [jax.jit(partial(ask_all, c, model, c.arm(arm, f), f)) for f in c.factors]
        params, key = unstacked(trained[seed]), jax.random.key(seed)
        found = [ask(params, stream(key, f"questions-{f}")) for ask, f in zip(asks[arm], c.factors, strict=True)]
        return {"accuracy": [round(float(share), 4) for share in found]}

    world = open_pretrained(c.reader.model, workspace)
    return {
        "corpora": {},
        "seeds": c.seeds,
        "planted": planted,
        "grouping": grouping,
        "chance": 1 / c.values,
        "lengths": [f * c.length for f in c.factors],
        "arms": measured(workspace, LINES, c.seeds, accuracy),
        "reader": measure(c.reader, world, workspace),
        "kept": c.reader.selection.first + c.reader.selection.k + c.reader.selection.local,
        "theta": max(c.reader.thetas),
    }


def ask_all(
    config: Config, model: TransformerConfig, selection: Selection, factor: int, params: Params, key: Key[Array, ""]
) -> Float[Array, ""]:
    """The share of questions answered rightly; needles stand at even depths, and the last token decodes by itself."""
    slots, count = factor * config.length, factor * config.length // 2 - 1
    chunk, step = (make_read(model, selection, size) for size in (config.chunk, 1))
    table, empty = params["table"], empty_selective_cache(model, selection, slots)

    def one(key: Key[Array, ""], depth: Float[Array, ""]) -> Array:
        question = draw_question(key, count, config.keys, config.values, depth)
        context = jnp.concatenate([jnp.full(1, BOS), question.pairs.reshape(-1), jnp.zeros(1, jnp.int32)])
        cache = chunk(params, empty, embed(table, context[None])[0], context, slots - 1)[1]
        asked = question.query[None]
        features = step(params, cache, embed(table, asked[None])[0], asked, 1)[0]
        logits = readout(features[None], table)[0, 0]
        return jnp.argmax(logits[config.keys :]) + config.keys == question.answer

    depths = (jnp.arange(config.items, dtype=jnp.float32) + 0.5) / config.items
    keys = jax.random.split(threefry(key), config.items)
    parts = keys.reshape(-1, CHUNK), depths.reshape(-1, CHUNK)
    return jnp.mean(jax.lax.map(lambda part: jax.vmap(one)(*part), parts).astype(jnp.float32))


def errors(results: dict[str, Any], policy: str, places: str = "scattered") -> np.ndarray:
    return np.array([row[policy]["error"] for row in results["planted"][places]])


def answers(
    results: dict[str, Any], arm: str, metric: str, tasks: Sequence[str] = ASKED, pairs: str = ""
) -> np.ndarray:
    """Of each question of these tasks, in haystacks of all sizes or of one."""
    sizes = results["reader"]["answers"]
    chosen = [sizes[pairs]] if pairs else sizes.values()
    return np.array([row[arm][metric] for one in chosen for task in tasks for row in one[task]], np.float64)


def lost(results: dict[str, Any], arm: str, other: str, metric: str, tasks: Sequence[str] = ASKED) -> Interval:
    """The difference over questions, paired."""
    return bootstrap_interval(answers(results, arm, metric, tasks) - answers(results, other, metric, tasks))


def claims(results: dict[str, Any]) -> list[Claim]:
    """What finds planted tokens; what is kept of recall in longer contexts, and of a published model's answers."""
    arms, times = Arms(results), results["lengths"][-1] // results["lengths"][0]
    first, last = ({arm: arms[arm, "accuracy"][:, at] for arm in arms} for at in (0, -1))
    soft, theta, paper = errors(results, "soft"), f"reuse at {results['theta']:g}", "wu2025tokenselect: abstract"
    runs = {
        name: errors(results, name, "runs") / errors(results, "soft", "runs") for name in ("block_mean", "block_bounds")
    }
    heads, dim = results["reader"]["shape"]
    read = {
        f"{tokens} tokens": np.divide(*bytes_read(tokens, min(tokens, results["kept"]), heads, dim))
        for tokens in results["reader"]["tokens"].values()
    }
    grouping = {name: np.array([row[name] for row in results["grouping"]]) for name in results["grouping"][0]}
    found, mod = grouping
    of_heads = partial(Claim, unit="ratio of relative errors of the outputs", over="draws")
    of_recall = partial(Claim, unit="accuracy")
    of_answers = partial(Claim, unit="share of the answer's tokens that are the likeliest", over="questions")
    return [
        of_heads(
            "near_per_head",
            "One choice for all heads by soft votes errs hardly more than a choice for each head.",
            paper,
            {"soft over per head": soft / errors(results, "per_head")},
            below(1.1),
        ),
        of_heads(
            "beats_hard_and_raw",
            "It errs a fifth as much as counting heads that have a token among their best, and as summing scores.",
            paper,
            {f"soft over {name}": soft / errors(results, name) for name in ("hard", "raw_sum")},
            below(0.2),
        ),
        of_heads(
            "blocks_catch_up",
            "Where what matters stands in whole blocks, choosing blocks of the same number of tokens errs hardly more. Beside it the same "
            "where it is scattered, and the bound of a block's scores.",
            OURS,
            {
                "blocks over tokens, in blocks": runs["block_mean"],
                "blocks over tokens, scattered": errors(results, "block_mean") / soft,
                "bounds over tokens, in blocks": runs["block_bounds"],
            },
            {"blocks over tokens, in blocks": below(1.5)},
        ),
        of_heads(
            "grouping_bug",
            "With heads of keys taken as h mod Hkv, as released, planted tokens are missed that h // (H / Hkv) finds.",
            OURS,
            grouping,
            {found: above(0.9), mod: below(0.75)},
            unit="share of planted tokens that are selected",
        ),
        of_recall(
            "extrapolates",
            f"In contexts of {times} trained lengths a model that attends to less than one answers, and with full attention does not.",
            paper,
            {"soft": last["soft"], "full": last["full"], "first and last tokens": last["window"]},
            {"soft": above(0.9), "full": below(0.5)},
        ),
        of_recall(
            "beats_interpolation",
            "It answers more than the whole context at positions interpolated to the trained ones.",
            OURS,
            {"soft less interpolated": last["soft"] - last["interpolated"]},
            above(0),
        ),
        of_recall(
            "compact_positions_carry_it",
            "The same tokens at their true positions answer much less.",
            OURS,
            {"compact less true": last["soft"] - last[KEPT_PLACES]},
            above(0.2),
        ),
        of_recall(
            "equal_in_length",
            "At the trained length selection changes nothing.",
            OURS,
            {"soft less full": first["soft"] - first["full"]},
            between(-0.01, 0.01),
        ),
        of_answers(
            "real_needles_kept",
            "A published model's answers are kept where it attends to selected tokens while it answers. Beside it where it did so while "
            "it read, too, and the first and last tokens alone.",
            paper,
            {
                **{f"{task}, tokens": lost(results, SOFT, FULL, "right", (task,)) for task in ASKED},
                "needles, whole values": lost(results, SOFT, FULL, "found", ("needles",)),
                "throughout, tokens": lost(results, THROUGHOUT, FULL, "right"),
                "first and last, tokens": lost(results, "window", FULL, "right"),
            },
            {f"{task}, tokens": above(-NEAR) for task in ASKED},
        ),
        of_answers(
            "reuse_is_free",
            f"Choices that are kept while queries' cosine is {results['theta']:g} are more than half of all, and cost nothing.",
            paper,
            {
                "reused": bootstrap_interval(answers(results, theta, "reused")),
                "reuse less none": lost(results, theta, SOFT, "right"),
            },
            {"reused": above(0.5), "reuse less none": between(-0.02, 0.02)},
        ),
        Claim(
            "two_is_the_bound",
            "Without reuse a step reads more than half of the bytes of full attention, since it scores all keys.",
            OURS,
            read,
            below(2),
            "bytes of full attention over those of selection",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Accuracy over length by what is attended to; errors of planted heads; answers of the published model."""
    arms, lengths, reader = Arms(results), results["lengths"], results["reader"]
    titles = ("Recall in long contexts", "Close up, range of seeds", "Planted heads", "SmolLM2: tokens of answers")
    drawn, axes = panels(2, 2, width=5.2, height=3.4, titles=titles)
    steps = range(len(lengths))
    for arm in ("full", "interpolated", SOFT, KEPT_PLACES, "window"):
        style = "--" if arm in WHOLE else "-"
        band(axes[0], steps, arms[arm, "accuracy"], *LINES[arm], marker="o", markersize=3, linestyle=style)
    reference(axes[0], results["chance"], "chance")
    near = (SOFT, "interpolated", "raw_sum", "block_mean")
    lines(axes[1], steps, {LINES[arm][0]: arms[arm, "accuracy"] for arm in near})
    axes[0].set_ylim(0, 1.05)
    for panel in axes[:2]:
        panel.set(xlabel="tokens of context", ylabel="accuracy")
        panel.set_xticks(steps, lengths)
        panel.legend(fontsize=7, loc=(0.02, 0.12))
    by_place = {
        place: (label, np.stack([errors(results, policy, place) for policy in POLICIES], axis=1))
        for place, label in (("scattered", "scattered"), ("runs", "in whole blocks"))
    }
    bars(axes[2], [name.replace("_", "\n") for name in POLICIES], by_place)
    axes[2].set_ylabel("relative error of the outputs")
    axes[2].tick_params(axis="x", labelsize=7)
    axes[2].set_ylim(top=1.2 * axes[2].get_ylim()[1])
    axes[2].legend(ncols=2)
    shown = list(next(iter(reader["answers"].values()))[ASKED[0]][0])
    for number, (pairs, tokens) in enumerate(reader["tokens"].items()):
        found = [bootstrap_interval(answers(results, arm, "right", pairs=pairs)) for arm in shown]
        places = np.arange(len(shown)) + 0.2 * (number - (len(reader["tokens"]) - 1) / 2)
        whiskers(axes[3], places, found, PALETTE[number], f"{tokens} tokens", linestyle="none")
    axes[3].set_xticks(range(len(shown)), [arm.replace(" at", "\nat").replace("_", "\n") for arm in shown], fontsize=7)
    axes[3].set_ylabel("share that is the likeliest")
    axes[3].legend(fontsize=7)
    return drawn
