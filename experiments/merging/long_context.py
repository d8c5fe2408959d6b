"""Claims C1 and C2: selecting context keeps retrieval right in long inputs, at every depth (method card token-reduction-beyond-efficiency).

Pairs of a key and a value, no key twice, then one of the keys: what is its value? Two layers, whose keys see the token before (Olsson et
al. 2022), learn it in contexts of `length` tokens and are tested in contexts several times as long, whole or cut down to the trained length
by keeping the pairs that are most similar to the query, most attended by it, known to hold the answer, or random. Kept pairs are numbered
anew or keep their positions, since part of a gain is mere staying inside trained positions; interpolated positions are the control for the
whole context. One answer of `values` is right: chance is 1 / values.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key
from matplotlib.axes import Axes

from experiments.harness.claims import Claim, interval
from experiments.harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, SKY, band, reference
from experiments.harness.training import Training, train
from experiments.harness.workspace import Workspace
from experiments.merging.verdicts import judged
from lexinv.merging.criteria import random, relevance
from lexinv.merging.selective_loss import selective_cross_entropy
from lexinv.nn.language_model import BOS, Params, initialize, make_nll
from lexinv.nn.lexicon import LexiconConfig, embed, readout
from lexinv.nn.linear import rms_norm
from lexinv.nn.transformer import Block, TransformerConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.streams import stream
from lexinv.validation import require

CRITERIA = ("oracle", "similarity", "attention", "random")
ARMS = {
    "full": ("whole context", BLACK, "-"),
    "interpolated": ("whole, interpolated positions", GREY, "-"),
    "oracle": ("oracle", GREEN, "-"),
    "similarity": ("similar to the query", BLUE, "-"),
    "similarity, kept": ("similar, positions kept", SKY, "--"),
    "attention": ("attended by the query", ORANGE, "-"),
    "random": ("random pairs", GREY, ":"),
}
QUERIES = 8
"""Of a training text: its last pairs repeat earlier ones."""

DEPTHS = 5
LONG = 4
"""From how many trained lengths on C1 is judged."""

SMALLEST = 0.02


@dataclass(frozen=True)
class LongContextConfig:
    """length: of training texts in tokens. factors: test lengths as multiples of it. items: questions for each length and seed."""

    length: int = 64
    factors: tuple[int, ...] = (1, 2, 4, 8)
    keys: int = 320
    values: int = 16
    items: int = 200
    batch_size: int = 32
    steps: int = 120
    depth: int = 2
    width: int = 64
    learning_rate: float = 3e-3

    def __post_init__(self):
        prefix = "long_context"
        even = self.length % 2 == 0 and self.length >= 4 * QUERIES
        require(even, f"{prefix}.length", self.length, f"even, at least {4 * QUERIES}")
        rising = all(a < b for a, b in zip(self.factors, self.factors[1:], strict=False)) and self.factors[:1] == (1,)
        require(rising, f"{prefix}.factors", self.factors, "rising from 1")
        require(self.factors[-1] >= LONG, f"{prefix}.factors", self.factors, f"{LONG} or more at the end")
        most = self.length * self.factors[-1] // 2
        require(self.keys >= most, f"{prefix}.keys", self.keys, f"at least {most}: no key comes twice")
        require(self.values >= 2, f"{prefix}.values", self.values, "at least 2")
        require(self.items % CHUNK == 0, f"{prefix}.items", self.items, f"a multiple of {CHUNK}")
        require(self.items % DEPTHS == 0, f"{prefix}.items", self.items, f"a multiple of {DEPTHS}")
        require(self.steps % 20 == 0, f"{prefix}.steps", self.steps, "a multiple of 20")

    @property
    def vocab(self) -> int:
        return self.keys + self.values

    def model(self) -> TransformerConfig:
        return TransformerConfig(
            depth=self.depth,
            width=self.width,
            heads=2,
            mlp_width=2 * self.width,
            max_length=self.length * self.factors[-1],
            mixing="smear",
            initialization="mimetic",
            unroll=self.depth,
        )


CHUNK = 20
"""Questions answered at a time."""


class Question(NamedTuple):
    """pairs: keys and values of the context in order. needle: the pair that is asked for."""

    pairs: Int[Array, "pairs 2"]
    needle: Int[Array, ""]

    @property
    def query(self) -> Int[Array, ""]:
        return self.pairs[self.needle, 0]

    @property
    def answer(self) -> Int[Array, ""]:
        return self.pairs[self.needle, 1]


def draw_pairs(key: Key[Array, ""], config: LongContextConfig, count: int) -> Int[Array, "pairs 2"]:
    """Different keys, and values drawn for each."""
    keys_key, values_key = jax.random.split(key)
    keys = jax.random.permutation(keys_key, config.keys)[:count]
    return jnp.stack([keys, config.keys + jax.random.randint(values_key, (count,), 0, config.values)], axis=1)


def draw_question(key: Key[Array, ""], config: LongContextConfig, count: int, depth: Float[Array, ""]) -> Question:
    """depth: where the needle stands, from 0, the beginning, to 1."""
    needle = jnp.clip(jnp.floor(depth * count).astype(jnp.int32), 0, count - 1)
    return Question(draw_pairs(key, config, count), needle)


def draw_text(key: Key[Array, ""], config: LongContextConfig) -> Int[Array, " length"]:
    """A training text: pairs, then `QUERIES` of them once more in random order."""
    pairs_key, asked_key = jax.random.split(key)
    count = config.length // 2 - QUERIES
    pairs = draw_pairs(pairs_key, config, count)
    asked = jax.random.permutation(asked_key, count)[:QUERIES]
    return jnp.concatenate([pairs, pairs[asked]]).reshape(-1)


def read(
    model: TransformerConfig, params: Params, tokens: Int[Array, "batch time"], positions: Float[Array, "batch time"]
) -> tuple[Float[Array, "batch vocab"], Float[Array, "batch time"]]:
    """Logits after the last token, and what attention it pays to every one, the mean of heads and layers, at any positions.

    `lexinv.nn.language_model.LanguageModel` turns queries and keys by 0, 1, 2, ...; each layer here turns them further to `positions`.
    """
    weights = params["model"]
    x = jnp.where((tokens == BOS)[..., None], weights["bos"][None, None], embed(params["table"], tokens))
    extra = positions - jnp.arange(tokens.shape[1], dtype=jnp.float32)[None]
    half = model.head_dim // 2
    angles = extra[:, :, None, None] * (10_000.0 ** (-jnp.arange(half) / half))[None, None, None]
    cosine, sine = jnp.cos(angles), jnp.sin(angles)

    def turn(site: str, z: Array) -> Array:
        if site not in ("queries", "keys"):
            return z
        first, second = z[..., :half], z[..., half:]
        return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)

    def layer(x: Array, layer: Any) -> tuple[Array, Array]:
        x, seen = Block(model, True, parent=None).apply({"params": layer}, x, None, None, turn)
        return x, jnp.mean(seen["attention_weights"][:, :, -1], axis=1)

    x, attention = jax.lax.scan(layer, x, weights["transformer"]["layers"])
    last = rms_norm(x[:, -1:], weights["transformer"]["final_norm"])
    features = jnp.einsum("btd,de->bte", last, weights["logit_scale"] * weights["readout"])
    return readout(features, params["table"])[:, 0], jnp.mean(attention, axis=0)


def answer(
    config: LongContextConfig, model: TransformerConfig, params: Params, questions: Question, key: Key[Array, ""]
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
    chance = jax.vmap(lambda key: random(key, count))(jax.random.split(key, batch))
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


def measure(config: LongContextConfig, seeds: tuple[int, ...], workspace: Workspace) -> dict[str, Any]:
    """Accuracy by length, arm, seed and depth of the needle."""
    model, lexicon = config.model(), LexiconConfig()
    nll = make_nll(model, lexicon, config.vocab)
    asked = jnp.arange(config.length) >= config.length - 2 * QUERIES
    weights = (asked & (jnp.arange(config.length) % 2 == 1)).astype(jnp.float32)

    def loss(params: Params, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        texts = jax.vmap(partial(draw_text, config=config))(jax.random.split(key, config.batch_size))
        losses = nll(params, {"tokens": texts, "row": jnp.arange(config.batch_size)}, key)
        return selective_cross_entropy(losses, jnp.broadcast_to(weights[None], losses.shape)), {}

    optimizer = OptimizerConfig(learning_rate=config.learning_rate, warmup_steps=config.steps // 10)
    training = Training(config.steps, config.batch_size, seeds, optimizer, steps_per_dispatch=20)
    start = partial(initialize, model, lexicon, config.vocab)
    trained = train("long_context/models", start, loss, None, training, workspace, tokens=config.length)
    tested = {}
    for factor in config.factors:
        count = factor * config.length // 2 - 1
        ask = jax.jit(partial(ask_all, config, count))
        found = [
            jax.device_get(ask(params, stream(jax.random.key(seed), f"questions-{factor}")))
            for params, seed in zip(trained, seeds, strict=True)
        ]
        tested[str(factor)] = {name: np.stack([one[name] for one in found]).round(4).tolist() for name in found[0]}
    return {"chance": 1 / config.values, "length": config.length, "items": config.items, "accuracy": tested}


def ask_all(config: LongContextConfig, count: int, params: Params, key: Key[Array, ""]) -> dict[str, Array]:
    """Accuracy by arm and depth [DEPTHS] over all items, whose needles stand at even depths."""
    model = replace(config.model(), attention="dot_product")
    depths = (jnp.arange(config.items, dtype=jnp.float32) + 0.5) / config.items
    keys = jax.random.split(key, config.items)

    def some(part: tuple[Array, Array]) -> dict[str, Array]:
        keys, depths = part
        questions = jax.vmap(lambda key, depth: draw_question(stream(key, "pairs"), config, count, depth))(keys, depths)
        return answer(config, model, params, questions, stream(keys[0], "random"))

    right = jax.lax.map(some, (keys.reshape(-1, CHUNK), depths.reshape(-1, CHUNK)))
    return {name: jnp.mean(hits.reshape(DEPTHS, -1).astype(jnp.float32), axis=1) for name, hits in right.items()}


def accuracy(measured: dict[str, Any], factor: int, arm: str) -> np.ndarray:
    """Per seed."""
    return np.mean(measured["accuracy"][str(factor)][arm], axis=1)


def unevenness(measured: dict[str, Any], factor: int, arm: str) -> np.ndarray:
    """Per seed: the standard deviation of accuracy over depths, less what the sampling of items adds to it."""
    by_depth = np.array(measured["accuracy"][str(factor)][arm])
    sampling = (by_depth * (1 - by_depth)).mean(1) * DEPTHS / measured["items"]
    return np.sqrt(np.maximum(by_depth.var(1, ddof=1) - sampling, 0.0))


def judge(measured: dict[str, Any]) -> list[Claim]:
    """C1 for two criteria and with positions kept, and C2."""
    factors = [int(factor) for factor in measured["accuracy"]]
    long = [factor for factor in reversed(factors) if factor >= LONG]

    def gains(arm: str, control: str, *baselines: str) -> dict[str, Any]:
        found = {}
        for factor in long:
            best = np.max([accuracy(measured, factor, name) for name in baselines], axis=0)
            own = accuracy(measured, factor, arm)
            found[f"over {' and '.join(baselines)}, {factor}x"] = interval(own - best)
            found[f"over {control}, {factor}x"] = interval(own - accuracy(measured, factor, control))
        return found

    last = factors[-1]
    means = {arm: interval(accuracy(measured, last, arm)) for arm in measured["accuracy"]["1"]}
    worst = {arm: np.min(measured["accuracy"][str(last)][arm], axis=1) for arm in ("similarity", "random")}
    uneven = {arm: unevenness(measured, last, arm) for arm in ("full", "similarity", "random")}
    rule = f"gain of accuracy over the whole context and over random pairs at {LONG} or more trained lengths"
    return [
        judged(
            1,
            "selection_keeps_long_context",
            "In contexts longer than trained ones, keeping the pairs most similar to the query answers more questions than the whole "
            f"context (measured: kept pairs numbered anew, as many as in training; accuracies at {last} trained lengths beside).",
            rule,
            gains("similarity", "random", "full"),
            SMALLEST,
            {"accuracy": means, "chance": measured["chance"]},
        ),
        judged(
            1,
            "own_attention_selects",
            "So does keeping the pairs that the query attends to most when the model reads the whole context (measured: the same).",
            rule,
            gains("attention", "random", "full"),
            SMALLEST,
        ),
        judged(
            1,
            "selection_beyond_positions",
            "The gain is more than that of staying inside trained positions (measured: kept pairs at their old positions, against the "
            "better of whole context and whole context with interpolated positions; random pairs at old positions).",
            f"gain over both baselines and over random pairs at {LONG} or more trained lengths",
            gains("similarity, kept", "random, kept", "full", "interpolated"),
            SMALLEST,
        ),
        judged(
            2,
            "selection_flattens_depth",
            f"Accuracy depends less on the depth of the needle after selection (measured: standard deviation over {DEPTHS} depths beyond "
            f"that of sampling, at {last} trained lengths; control: accuracy at the worst depth against random pairs).",
            "less unevenness than the whole context, and the worst depth better than with random pairs",
            {
                "unevenness less than full": interval(uneven["full"] - uneven["similarity"]),
                "worst depth over random": interval(worst["similarity"] - worst["random"]),
            },
            SMALLEST,
            {"unevenness": {arm: interval(values) for arm, values in uneven.items()}},
        ),
    ]


def draw(measured: dict[str, Any], axes: Axes) -> None:
    """Accuracy against the length of the context."""
    factors = [int(factor) for factor in measured["accuracy"]]
    for arm, (label, color, line) in ARMS.items():
        values = np.transpose([accuracy(measured, factor, arm) for factor in factors])
        band(axes, [factor * measured["length"] for factor in factors], values, label, color, linestyle=line)
    reference(axes, measured["chance"], "chance", ORANGE)
    axes.set_xscale("log", base=2)
    axes.set(title="C1: retrieval in long contexts", xlabel="tokens of context", ylabel="accuracy", ylim=(0, 1.05))
    axes.legend(fontsize=6)
