"""Sums modulo m with the steps written out, among fillers that say nothing, and small language models that think them through.

Each step copies the next number and gives the running sum; a filler, a mark and a random number, may stand anywhere between them. A model
goes on from the numbers with steps of its own until it writes the mark of an answer, which is then compared.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from lexinv.nn.cache import empty_cache, make_extend
from lexinv.nn.generation import generate
from lexinv.nn.language_model import BOS, make_nll
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.sampling import Sampling
from lexinv.nn.transformer import TransformerConfig
from lexinv.randomness import threefry
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Positive

ROWS = 100
"""Problems thought through at a time."""
LEXICON = LexiconConfig()
TINY = {
    "task.modulus": 3,
    "task.numbers": 2,
    "task.problems": 100,
    "task.batch_size": 4,
    "task.steps": 20,
    "task.depth": 1,
    "seeds": (0, 1),
}
"""Of presets of seconds."""
PUBLISHED = {
    "task.modulus": 23,
    "task.numbers": 16,
    "task.fillers": 16,
    "task.problems": 2000,
    "task.batch_size": 128,
    "task.width": 256,
    "task.learning_rate": 1e-3,
}
"""Of presets for an accelerator; the position paper has no size of its own."""


@dataclass(frozen=True)
class Sums(Checked):
    """numbers: to be added modulo `modulus`. fillers: steps beside those of the sum. problems: to answer, by seed."""

    modulus: Count = 5
    numbers: Count = 4
    fillers: Count = 4
    problems: Count = 300
    batch_size: Count = 32
    steps: Count = 400
    depth: Count = 2
    width: Count = 64
    learning_rate: Positive = 3e-3

    def checks(self):
        yield self.modulus >= 2, "modulus", "at least 2"
        yield self.numbers >= 2, "numbers", "at least 2"
        yield self.problems % ROWS == 0, "problems", f"a multiple of {ROWS}"
        yield self.steps % 20 == 0, "steps", "a multiple of 20"

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

    def losses(self) -> Callable[[Any, Array], Array]:
        """losses(params, texts[rows, time]) -> nats of every token."""
        nll = make_nll(self.model(), LEXICON, self.vocab)
        # The key is for lexicons that are drawn; this one is learned.
        return lambda params, texts: nll(params, {"tokens": texts, "row": jnp.arange(len(texts))}, jax.random.key(0))


class Thought(NamedTuple):
    """numbers: of the problem. steps: two tokens each. filler: which steps are. answer: the sum."""

    numbers: Int[Array, " numbers"]
    steps: Int[Array, "steps 2"]
    filler: Bool[Array, " steps"]
    answer: Int[Array, ""]


def draw_thought(key: Key[Array, ""], task: Sums) -> Thought:
    """A problem and a whole thought about it, fillers anywhere between the steps of the sum."""
    numbers_key, order_key, filler_key = jax.random.split(key, 3)
    numbers = jax.random.randint(numbers_key, (task.numbers,), 0, task.modulus)
    sums = jnp.cumsum(numbers) % task.modulus
    filler = jax.random.permutation(order_key, jnp.arange(task.numbers + task.fillers) >= task.numbers)
    place = jnp.maximum(jnp.cumsum(~filler) - 1, 0)
    noise = jax.random.randint(filler_key, filler.shape, 0, task.modulus)
    first = jnp.where(filler, task.filler, numbers[place])
    return Thought(numbers, jnp.stack([first, jnp.where(filler, noise, sums[place])], axis=1), filler, sums[-1])


def draw_thoughts(key: Key[Array, ""], task: Sums, rows: int) -> Thought:
    """`rows` of them."""
    return jax.vmap(partial(draw_thought, task=task))(jax.random.split(threefry(key), rows))


def written(thought: Thought, kept: Int[Array, " kept"], task: Sums) -> Int[Array, " time"]:
    """The text of a thought with these steps of it, by their indices in order."""
    marks = jnp.array([task.think, task.answer])
    steps = thought.steps[kept].reshape(-1)
    return jnp.concatenate([thought.numbers, marks[:1], steps, marks[1:], thought.answer[None]])


def think_through(
    task: Sums, params: Any, numbers: Int[Array, "problems numbers"], keys: Key[Array, " problems"], temperature: float
) -> Int[Array, "problems time"]:
    """Texts that a model goes on with after the mark that thinking begins, up to the length of a whole thought and its answer."""
    rows, model = len(numbers), task.model()
    bos, think = (jnp.full((rows, 1), mark, jnp.int32) for mark in (BOS, task.think))
    prompt = jnp.concatenate([bos, numbers, think], axis=1)
    count, steps = jnp.full(rows, prompt.shape[1]), task.whole - prompt.shape[1] + 1
    extend, cache = make_extend(model, task.vocab), empty_cache(model, rows, task.whole)
    found = generate(extend, params, params["table"], cache, prompt, count, keys, steps, Sampling(temperature))
    return jnp.concatenate([prompt[:, 1:], found.tokens], axis=1)


def judge_text(
    text: Int[Array, "problems time"], answer: Int[Array, " problems"], task: Sums
) -> tuple[Float[Array, " problems"], Float[Array, " problems"]]:
    """Whether the token after the first answer mark is right, and how many tokens stand between the two marks."""
    thought = text[:, task.numbers + 1 :]
    ends = thought == task.answer
    place = jnp.where(jnp.any(ends, axis=1), jnp.argmax(ends, axis=1), thought.shape[1])
    said = jnp.take_along_axis(thought, jnp.minimum(place + 1, thought.shape[1] - 1)[:, None], axis=1)[:, 0]
    right = (place + 1 < thought.shape[1]) & (said == answer)
    return right.astype(jnp.float32), place.astype(jnp.float32)


def solve(task: Sums, models: dict[str, list[Any]], seeds: tuple[int, ...]) -> dict[str, dict[str, list[float]]]:
    """By arm and seed: the share of problems answered rightly after greedy thinking, and the mean number of tokens thought.

    A thought that is longer than any in training ends without an answer.
    """

    def some(params: Any, key: Array) -> tuple[Array, Array]:
        problems = draw_thoughts(key, task, ROWS)
        text = think_through(task, params, problems.numbers, jax.random.split(threefry(key), ROWS), temperature=0.0)
        return judge_text(text, problems.answer, task)

    @jax.jit
    def score(params: Any, key: Array) -> tuple[Array, ...]:
        parts = jax.lax.map(partial(some, params), jax.random.split(key, task.problems // ROWS))
        return tuple(jnp.mean(part) for part in parts)

    found: dict[str, dict[str, list[float]]] = {}
    for arm, trained in models.items():
        scores = [score(p, stream(jax.random.key(seed), "test")) for p, seed in zip(trained, seeds, strict=True)]
        right, tokens = np.array(scores, np.float64).round(4).T.tolist()
        found[arm] = {"right": right, "tokens": tokens}
    return found
