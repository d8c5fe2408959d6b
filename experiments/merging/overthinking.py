"""Claim C4: fewer thinking tokens give righter answers (method card token-reduction-beyond-efficiency).

Sums modulo m with the steps written out: each step copies the next number and gives the running sum, and as many filler steps, a mark and
a random number, stand between them anywhere. Models learn from whole thoughts, or from thoughts without as many steps as there are fillers:
the fillers themselves, the steps of highest perplexity under the model that learned from whole thoughts, or random steps. All read the same
number of training tokens, so that shorter thoughts are more of them. Then each thinks for itself, greedily, and its answer is compared.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key
from matplotlib.axes import Axes

from experiments.harness.arms import train_arms
from experiments.harness.claims import Claim, interval
from experiments.harness.style import BLACK, BLUE, GREEN, GREY
from experiments.harness.training import Training, initial, stacked
from experiments.harness.workspace import Workspace
from experiments.merging.verdicts import judged
from lexinv.merging.selective_loss import selective_cross_entropy
from lexinv.nn.language_model import initialize, make_logits, make_nll
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.streams import stream
from lexinv.validation import require

ARMS = {
    "full": ("whole thoughts", BLACK),
    "perplexity": ("without the most perplexing steps", BLUE),
    "oracle": ("without fillers", GREEN),
    "random": ("without random steps", GREY),
}
PRUNED = ("perplexity", "oracle", "random")
SMALLEST = 0.02
ROWS = 100
"""Problems thought through at a time."""


@dataclass(frozen=True)
class OverthinkingConfig:
    """numbers: to be added modulo `modulus`. fillers: steps beside those of the sum. problems: to answer, by seed."""

    modulus: int = 5
    numbers: int = 4
    fillers: int = 4
    problems: int = 300
    batch_size: int = 32
    steps: int = 400
    depth: int = 2
    width: int = 64
    learning_rate: float = 3e-3

    def __post_init__(self):
        prefix = "overthinking"
        require(self.modulus >= 2, f"{prefix}.modulus", self.modulus, "at least 2")
        require(self.numbers >= 2, f"{prefix}.numbers", self.numbers, "at least 2")
        require(self.fillers >= 1, f"{prefix}.fillers", self.fillers, "at least 1")
        require(self.problems % ROWS == 0, f"{prefix}.problems", self.problems, f"a multiple of {ROWS}")
        require(self.steps % 20 == 0, f"{prefix}.steps", self.steps, "a multiple of 20")

    @property
    def filler(self) -> int:
        return self.modulus

    @property
    def think(self) -> int:
        return self.modulus + 1

    @property
    def answer(self) -> int:
        return self.modulus + 2

    @property
    def vocab(self) -> int:
        return self.modulus + 3

    def length(self, steps: int) -> int:
        """Tokens of the numbers, the mark that thinking begins, its steps, the mark that it ends, and the answer."""
        return self.numbers + 1 + 2 * steps + 2

    @property
    def whole(self) -> int:
        return self.length(self.numbers + self.fillers)

    def model(self) -> TransformerConfig:
        width = self.width
        return TransformerConfig(
            depth=self.depth, width=width, heads=4, mlp_width=2 * width, max_length=self.whole, unroll=self.depth
        )


class Thought(NamedTuple):
    """numbers: of the problem. steps: two tokens each. filler: which steps are. answer: the sum."""

    numbers: Int[Array, " numbers"]
    steps: Int[Array, "steps 2"]
    filler: Bool[Array, " steps"]
    answer: Int[Array, ""]


def draw_thought(key: Key[Array, ""], config: OverthinkingConfig) -> Thought:
    """A problem and a whole thought about it, fillers anywhere between the steps of the sum."""
    numbers_key, order_key, filler_key = jax.random.split(key, 3)
    numbers = jax.random.randint(numbers_key, (config.numbers,), 0, config.modulus)
    sums = jnp.cumsum(numbers) % config.modulus
    filler = jax.random.permutation(order_key, jnp.arange(config.numbers + config.fillers) >= config.numbers)
    place = jnp.maximum(jnp.cumsum(~filler) - 1, 0)
    noise = jax.random.randint(filler_key, filler.shape, 0, config.modulus)
    first = jnp.where(filler, config.filler, numbers[place])
    return Thought(numbers, jnp.stack([first, jnp.where(filler, noise, sums[place])], axis=1), filler, sums[-1])


def written(thought: Thought, kept: Int[Array, " kept"], config: OverthinkingConfig) -> Int[Array, " time"]:
    """The text of a thought with these steps of it, by their indices in order."""
    marks = jnp.array([config.think, config.answer])
    steps = thought.steps[kept].reshape(-1)
    return jnp.concatenate([thought.numbers, marks[:1], steps, marks[1:], thought.answer[None]])


def step_perplexity(losses: Float[Array, " time"], config: OverthinkingConfig) -> Float[Array, " steps"]:
    """Mean loss of the two tokens of every step of a whole thought, in nats."""
    return jnp.mean(losses[config.numbers + 1 : -2].reshape(-1, 2), axis=1)


def measure(config: OverthinkingConfig, seeds: tuple[int, ...], workspace: Workspace) -> dict[str, Any]:
    """By arm and seed: the share of problems answered rightly, and how many tokens the thoughts take."""
    model, lexicon = config.model(), LexiconConfig()
    nll = make_nll(model, lexicon, config.vocab)
    names = ("full", *PRUNED)
    optimizer = OptimizerConfig(learning_rate=config.learning_rate, warmup_steps=config.steps // 10)

    def losses(params: Any, texts: jax.Array, key: jax.Array) -> jax.Array:
        return nll(params, {"tokens": texts, "row": jnp.arange(len(texts))}, key)

    def loss(learned: Any, given: Any, key: jax.Array, rows: int) -> tuple[jax.Array, dict[str, jax.Array]]:
        thoughts = jax.vmap(partial(draw_thought, config=config))(jax.random.split(stream(key, "problems"), rows))
        every = jnp.arange(config.numbers + config.fillers)
        kept, pure = jnp.broadcast_to(every[None], thoughts.filler.shape), jnp.ones(())
        if "reference" in given:
            whole = jax.vmap(partial(written, kept=every, config=config))(thoughts)
            perplexing = jax.vmap(partial(step_perplexity, config=config))(losses(given["reference"], whole, key))
            score = jnp.where(given["arm"] == names.index("oracle"), thoughts.filler.astype(jnp.float32), perplexing)
            chance = jax.random.uniform(stream(key, "random"), score.shape)
            score = jnp.where(given["arm"] == names.index("random"), chance, score)
            kept = jnp.sort(jnp.argsort(score, axis=1)[:, : config.numbers], axis=1)
            pure = 1 - jnp.mean(jnp.take_along_axis(thoughts.filler, kept, axis=1).astype(jnp.float32))
        texts = jax.vmap(partial(written, config=config))(thoughts, kept)
        read = (jnp.arange(texts.shape[1]) > config.numbers).astype(jnp.float32)
        found = losses(learned, texts, key)
        return selective_cross_entropy(found, jnp.broadcast_to(read[None], found.shape)), {"pure": pure}

    def train(name: str, starts: dict[str, Any], rows: int) -> dict[str, list[Any]]:
        training = Training(config.steps, rows, seeds, optimizer, steps_per_dispatch=20)
        folder = f"overthinking/{name}"
        return train_arms(folder, names, starts, partial(loss, rows=rows), training, workspace, config.whole)

    learned = initial(lambda key: initialize(model, lexicon, config.vocab, key), seeds)
    models = train("full", {"full": (learned, {})}, config.batch_size)
    given = {"reference": stacked(models["full"])}
    # As many training tokens in all, up to rounding to whole thoughts.
    rows = round(config.batch_size * config.whole / config.length(config.numbers))
    models |= train("pruned", dict.fromkeys(PRUNED, (learned, given)), rows)
    solve = jax.jit(partial(answered, config))
    keys = [stream(jax.random.key(seed), "test") for seed in seeds]
    found: dict[str, Any] = {}
    for arm in ARMS:
        scores = [solve(params, key) for params, key in zip(models[arm], keys, strict=True)]
        right, length = (np.array([float(score[part]) for score in scores]).round(4).tolist() for part in (0, 1))
        found[arm] = {"right": right, "tokens": length}
    return {"chance": 1 / config.modulus, "needed": 2 * config.numbers, "arms_by_name": found}


def answered(config: OverthinkingConfig, params: Any, key: Key[Array, ""]) -> tuple[Array, Array]:
    """The share of problems answered rightly after greedy thinking, and the mean number of tokens thought.

    A thought that is longer than any in training ends without an answer.
    """

    def greedy(logits: Array, place: Array) -> Array:
        del place
        return jnp.argmax(logits, axis=-1)

    def some(key: Key[Array, ""]) -> tuple[Array, Array]:
        problems = jax.vmap(partial(draw_thought, config=config))(jax.random.split(key, ROWS))
        return judge_text(think_through(config, params, problems.numbers, greedy), problems.answer, config)

    right, length = jax.lax.map(some, jax.random.split(key, config.problems // ROWS))
    return jnp.mean(right), jnp.mean(length)


def think_through(
    config: OverthinkingConfig,
    params: Any,
    numbers: Int[Array, "problems numbers"],
    say: Callable[[Array, Array], Array],
) -> Int[Array, "problems time"]:
    """Texts that a model goes on with after the mark that thinking begins, up to the length of a whole thought and its answer.

    say(logits[problems, vocab], place) -> tokens[problems]: the choice of the token at `place`.
    """
    logits_of, rows = make_logits(config.model(), LexiconConfig(), config.vocab), len(numbers)
    text = jnp.zeros((rows, config.whole), jnp.int32)
    text = text.at[:, : config.numbers].set(numbers).at[:, config.numbers].set(config.think)

    def write(text: Array, place: Array) -> tuple[Array, None]:
        logits = logits_of(params, {"tokens": text, "row": jnp.arange(rows)}, jax.random.key(0))  # a learned lexicon
        return text.at[:, place].set(say(jnp.take(logits, place, axis=1), place).astype(jnp.int32)), None

    return jax.lax.scan(write, text, jnp.arange(config.numbers + 1, config.whole))[0]


def judge_text(
    text: Int[Array, "problems time"], answer: Int[Array, " problems"], config: OverthinkingConfig
) -> tuple[Float[Array, " problems"], Float[Array, " problems"]]:
    """Whether the token after the first answer mark is right, and how many tokens stand between the two marks."""
    thought = text[:, config.numbers + 1 :]
    ends = thought == config.answer
    place = jnp.where(jnp.any(ends, axis=1), jnp.argmax(ends, axis=1), thought.shape[1])
    said = jnp.take_along_axis(thought, jnp.minimum(place + 1, thought.shape[1] - 1)[:, None], axis=1)[:, 0]
    right = (place + 1 < thought.shape[1]) & (said == answer)
    return right.astype(jnp.float32), place.astype(jnp.float32)


def judge(measured: dict[str, Any]) -> list[Claim]:
    """C4 with steps chosen by perplexity, and with fillers known."""
    right = {arm: np.array(found["right"]) for arm, found in measured["arms_by_name"].items()}
    tokens = {arm: interval(found["tokens"]) for arm, found in measured["arms_by_name"].items()}
    rule = "gain in exact match over whole thoughts and over pruning random steps, at equal training tokens"

    def gains(arm: str) -> dict[str, Any]:
        return {
            "over whole thoughts": interval(right[arm] - right["full"]),
            "over random": interval(right[arm] - right["random"]),
        }

    return [
        judged(
            4,
            "pruned_thoughts_answer_better",
            "Models that learn from thoughts without their most perplexing steps answer more problems rightly (measured: exact match after "
            "greedy thinking; accuracies and tokens thought beside).",
            rule,
            gains("perplexity"),
            SMALLEST,
            {"right": {arm: interval(values) for arm, values in right.items()}, "tokens": tokens},
        ),
        judged(
            4,
            "thoughts_without_fillers_answer_better",
            "So do models that learn from thoughts without their fillers, which are known (measured: the same).",
            rule,
            gains("oracle"),
            SMALLEST,
        ),
    ]


def draw(measured: dict[str, Any], axes: Axes) -> None:
    """Exact match against tokens thought."""
    for arm, (label, color) in ARMS.items():
        found = measured["arms_by_name"][arm]
        right, tokens = interval(found["right"]), interval(found["tokens"])
        axes.plot(found["tokens"], found["right"], "o", color=color, markersize=3, alpha=0.5)
        axes.plot([tokens.mean], [right.mean], "D", color=color, markersize=6, label=label)
    axes.axhline(measured["chance"], color=GREY, linestyle="--", linewidth=1, label="chance")
    axes.set(title="C4: overthinking", xlabel="tokens thought", ylabel="exact match", ylim=(0, 1.05))
    axes.legend(fontsize=7)
