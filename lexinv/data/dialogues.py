"""Short texts by eight authors, drawn on the device, of which everything is known: who wrote one, what comes next, whether it is right.

Half of the texts are *worked*: a start value and operations, one after another; then for each operation a sentence with its result, and
the answer. Half are *talk*: words of the author's own Markov chain. An author also has ways to open, close and end a sentence, which say
nothing of the result. The first author, the assistant, has few ways of saying anything. A window holds several texts of one author.

worked: start, operation each; (opening, value, operation, equals, result, closing, stop) each; answer, value, end
talk:   talk, word, ..., word, end
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from lexinv.data.automata import Acceptor
from lexinv.randomness import threefry
from lexinv.validation import Checked, Count, CountOrZero

SENTENCE = 7
"""Tokens of one."""
RESULT = 4
"""The place of the result in it."""
PLAIN, TERSE, LEAST = 0.5, 0.03, 0.03
"""Dirichlet concentration of what authors say, and of what the assistant says; the share of it that is uniform."""


@dataclass(frozen=True)
class DialogueConfig(Checked):
    """tables: of each domain, an operation each: a permutation of the values. steps: operations of a worked text. words: of talk.

    openings, closings, stops: words of which authors make sentences. seed: of the world, which is one for all models.
    """

    values: Count = 16
    domains: Count = 4
    tables: Count = 4
    steps: Count = 5
    words: Count = 20
    authors: Count = 8
    openings: Count = 6
    closings: Count = 3
    stops: Count = 2
    seed: CountOrZero = 0

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield self.values >= 2, "values", "at least 2"
        yield self.tables >= 2, "tables", "at least 2: one that is taught wrongly, and one at random"
        yield self.authors >= 2, "authors", "at least 2: the assistant and another"

    @property
    def operations(self) -> int:
        return self.domains * self.tables

    @property
    def first(self) -> dict[str, int]:
        """The first token of every class; the last class is `end`, a single token and the last of the vocabulary."""
        sizes = {"value": self.values, "operation": self.operations, "opening": self.openings, "closing": self.closings}
        sizes |= {"stop": self.stops, "word": self.words, "equals": 1, "answer": 1, "talk": 1, "end": 1}
        return dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))

    @property
    def end(self) -> int:
        return self.first["end"]

    @property
    def vocab(self) -> int:
        return self.end + 1

    @property
    def prompt(self) -> int:
        """Tokens that pose the problem of a worked text."""
        return 1 + self.steps

    @property
    def length(self) -> int:
        """Tokens of every text."""
        return self.prompt + SENTENCE * self.steps + 3

    @property
    def said(self) -> int:
        """Words of a talk."""
        return self.length - 2


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class World:
    """The law of all texts: `dataclasses.replace` makes others of it, such as one without talk, or with one author.

    results: p(result | operation, value). talk: the share of texts that are talk.
    """

    results: Float[Array, "operations values values"]
    initial: Float[Array, "authors words"]
    chain: Float[Array, "authors words words"]
    opening: Float[Array, "authors openings"]
    closing: Float[Array, "authors closings"]
    stop: Float[Array, "authors stops"]
    author: Float[Array, " authors"]
    domain: Float[Array, " domains"]
    talk: Float[Array, ""]
    config: DialogueConfig = field(metadata={"static": True})


class Judged(NamedTuple):
    """Of worked texts. formed: every token is of the kind that belongs there. right: of every step value, operation and result.

    answered: the text ends with the answer to its problem.
    """

    formed: Bool[Array, " texts"]
    right: Bool[Array, "texts steps"]
    answered: Bool[Array, " texts"]


def make_world(config: DialogueConfig) -> World:
    """The world of this configuration: tables are random permutations, what authors say Dirichlet draws."""
    rng = np.random.default_rng(config.seed)

    def said(kinds: int, *rows: int) -> Array:
        plain = rng.dirichlet(np.full(kinds, PLAIN), (config.authors, *rows))
        plain[0] = rng.dirichlet(np.full(kinds, TERSE), rows)
        return jnp.asarray((1 - LEAST) * plain + LEAST / kinds, jnp.float32)

    tables = np.stack([rng.permutation(config.values) for _ in range(config.operations)])
    return World(
        results=jax.nn.one_hot(tables, config.values),
        initial=said(config.words),
        chain=said(config.words, config.words),
        opening=said(config.openings),
        closing=said(config.closings),
        stop=said(config.stops),
        author=jnp.full(config.authors, 1 / config.authors),
        domain=jnp.full(config.domains, 1 / config.domains),
        talk=jnp.asarray(0.5),
        config=config,
    )


def mistaught(world: World) -> World:
    """What a model is taught that should be wrong where it is sure, and unsure elsewhere, and know half of the authors, the first ones.

    Of every domain the last table but one is another permutation, which agrees nowhere, and the last table gives any value.
    """
    config, last = world.config, np.arange(1, world.config.domains + 1) * world.config.tables - 1
    results = world.results.at[last].set(1 / config.values)
    results = results.at[last - 1].set(jnp.roll(results[last - 1], 1, axis=-1))
    known = (jnp.arange(config.authors) < -(-config.authors // 2)).astype(jnp.float32) * world.author
    return replace(world, results=results, author=known / known.sum())


def draw_texts(key: Key[Array, ""], world: World, authors: Int[Array, " texts"]) -> Int[Array, "texts length"]:
    """A text by each of these authors."""
    return jax.vmap(lambda key, author: _draw_text(key, world, author))(
        jax.random.split(threefry(key), len(authors)), authors
    )


def draw_windows(
    key: Key[Array, ""], world: World, rows: int, texts: int = 2
) -> tuple[Int[Array, "rows time"], Int[Array, " rows"]]:
    """(windows of texts one after another, each window by one author; its author)."""
    author_key, text_key = jax.random.split(threefry(key))
    authors = jax.random.categorical(author_key, jnp.log(world.author), shape=(rows,)).astype(jnp.int32)
    return draw_texts(text_key, world, jnp.repeat(authors, texts)).reshape(rows, -1), authors


def _draw_text(key: Key[Array, ""], world: World, author: Int[Array, ""]) -> Int[Array, " length"]:
    config, first = world.config, world.config.first
    keys = iter(jax.random.split(key, 10))

    def draw(probs: Array, *shape: int) -> Array:
        return jax.random.categorical(next(keys), jnp.log(probs), shape=shape or None).astype(jnp.int32)

    def go_on(word: Array, noise: Array) -> tuple[Array, Array]:
        word = jnp.argmax(jnp.log(world.chain[author, word]) + noise).astype(jnp.int32)
        return word, word

    def work(value: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        operation, noise = step
        result = jnp.argmax(jnp.log(world.results[operation, value]) + noise).astype(jnp.int32)
        return result, jnp.stack([value, result])

    begun = draw(world.initial[author])
    words = jax.lax.scan(go_on, begun, jax.random.gumbel(next(keys), (config.said - 1, config.words)))[1]
    talk = jnp.concatenate([_one(first["talk"]), begun[None] + first["word"], words + first["word"], _one(config.end)])

    steps = config.steps
    start = jax.random.randint(next(keys), (), 0, config.values)
    operations = draw(world.domain) * config.tables + jax.random.randint(next(keys), (steps,), 0, config.tables)
    noise = jax.random.gumbel(next(keys), (steps, config.values))
    answer, found = jax.lax.scan(work, start, (operations, noise))
    parts = {
        "opening": draw(world.opening[author], steps),
        "value": found[:, 0],
        "operation": operations,
        "equals": jnp.zeros(steps, jnp.int32),
        "result": found[:, 1],
        "closing": draw(world.closing[author], steps),
        "stop": draw(world.stop[author], steps),
    }
    sentences = jnp.stack([part + first.get(name, 0) for name, part in parts.items()], axis=1).reshape(-1)
    problem = [start[None], operations + first["operation"]]
    worked = jnp.concatenate([*problem, sentences, _one(first["answer"]), answer[None], _one(config.end)])
    return jnp.where(jax.random.uniform(next(keys)) < world.talk, talk, worked).astype(jnp.int32)


def judge(world: World, texts: Int[Array, "texts length"]) -> Judged:
    """Whether worked texts keep to the form, and which steps are right by the tables; `world` is the one that is right."""
    config, first = world.config, world.config.first
    steps, tables = config.steps, jnp.argmax(world.results, axis=-1)
    sentences = texts[:, config.prompt : -3].reshape(-1, steps, SENTENCE)
    operations = texts[:, 1 : config.prompt] - first["operation"]
    value, results = texts[:, 0], sentences[:, :, RESULT]
    before = jnp.concatenate([value[:, None], results[:, :-1]], axis=1)
    right = (sentences[:, :, 1] == before) & (sentences[:, :, 2] - first["operation"] == operations)
    right &= results == tables[operations, jnp.clip(before, 0, config.values - 1)]
    for step in range(steps):
        value = tables[operations[:, step], value]
    kinds = jnp.asarray([*first.values()], jnp.int32)
    sentence = ("opening", "value", "operation", "equals", "value", "closing", "stop")
    names = ("value", *["operation"] * steps, *sentence * steps, "answer", "value", "end")
    places = jnp.asarray([list(first).index(name) for name in names])
    formed = jnp.all(jnp.searchsorted(kinds, texts, side="right") - 1 == places[None], axis=1)
    ending = jnp.stack([jnp.full_like(value, first["answer"]), value, jnp.full_like(value, config.end)], axis=1)
    return Judged(formed, right, jnp.all(texts[:, -3:] == ending, axis=1))


def grammar(world: World, problem: Int[Array, " prompt"], right: bool = True) -> Acceptor:
    """The worked texts that go on from a start value and operations, in any author's words: an automaton over all tokens but the end.

    right: with the values that are right; otherwise any value may stand where one belongs. State n has read n tokens after the problem.
    """
    config, first = world.config, world.config.first
    tables = jnp.argmax(world.results, axis=-1)
    values, sizes = [problem[0]], dict(zip(first, np.diff([*first.values(), config.vocab]).tolist(), strict=True))
    for operation in problem[1:] - first["operation"]:
        values.append(tables[operation, values[-1]])
    tokens = jnp.arange(config.end)

    def any_of(kind: str) -> Array:
        return (tokens >= first[kind]) & (tokens < first[kind] + sizes[kind])

    def value(known: Array) -> Array:
        return tokens == known if right else any_of("value")

    rows = []
    for step in range(config.steps):
        rows += [any_of("opening"), value(values[step]), tokens == problem[1 + step], any_of("equals")]
        rows += [value(values[step + 1]), any_of("closing"), any_of("stop")]
    rows += [any_of("answer"), value(values[-1]), jnp.zeros_like(tokens, bool)]
    states = jnp.arange(1, len(rows) + 1, dtype=jnp.int32)[:, None]
    return Acceptor(jnp.where(jnp.stack(rows), states, -1), jnp.arange(len(rows)) == len(rows) - 1)


def _one(token: int) -> Int[Array, " 1"]:
    return jnp.full(1, token, jnp.int32)
