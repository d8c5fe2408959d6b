"""Where a machine is held against human authors: talk, of which all laws are known, and Python, where every module is an author."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from experiments.harness.workspace import Workspace
from experiments.subjects.style_detectors import Detectors, Sizes, Source, StyleConfig, World, train_encoders
from experiments.subjects.text_pair import PairConfig, text_pair
from experiments.subjects.tuned_talkers import ASSISTANT, FLOOR, Talkers
from experiments.subjects.writers import Words, Writer
from lexinv.data.corpora import Corpus
from lexinv.data.dialogues import World as Dialogues
from lexinv.data.dialogues import draw_texts, make_world
from lexinv.data.windows import token_stream, window_source
from lexinv.training.streams import stream
from lexinv.validation import require

READ = 32
"""Texts of a module from which the style encoder learns."""


def talk_world(config: StyleConfig, talkers: Talkers, workspace: Workspace) -> World:
    """The encoder learns from the human authors of other worlds. Fast-DetectGPT draws from what all machines come from."""
    dialogues, seeds = talkers.dialogues, talkers.dialogues.training.seeds
    authors = [author for author in range(dialogues.world.authors) if author != ASSISTANT]
    worlds = [make_world(replace(dialogues.world, seed=seed)) for seed in range(1, config.worlds + 1)]
    parts = ("initial", "chain", "opening", "closing", "stop", "author")
    many: Dialogues = replace(
        talkers.talk, **{part: jnp.concatenate([getattr(world, part) for world in worlds]) for part in parts}
    )

    def draw(key: Key[Array, ""], authors: int, texts: int) -> Int[Array, "authors texts said"]:
        rows = jnp.repeat(jax.random.permutation(stream(key, "authors"), len(many.author))[:authors], texts)
        return draw_texts(stream(key, "texts"), many, rows)[:, 1:-1].reshape(authors, texts, -1)

    def human(seed: int, part: str, author: int, count: int) -> Words:
        key = stream(stream(jax.random.key(seed), "told"), f"{part} {author}")
        return talkers.human(key, jnp.full(count, author))

    def exemplar(seed: int, author: int) -> Sequence[int]:
        key, everybody = stream(jax.random.key(seed), "exemplars"), jnp.arange(dialogues.world.authors)
        return talkers.whole(talkers.human(key, everybody))[author].tolist()

    def validation(seed: int, count: int) -> Words:
        everybody = jnp.tile(jnp.asarray(authors, jnp.int32), -(-count // len(authors)))
        return talkers.human(stream(jax.random.key(seed), "validation"), everybody)

    def nats(place: int, words: Words) -> float:
        """By Bayes' rule, whoever the author is."""
        probs = jnp.take_along_axis(talkers.bayes(words), words[..., None], axis=2)
        return float(-jnp.maximum(jnp.log(probs), FLOOR).mean())

    encoders = train_encoders(config, draw, dialogues.world.vocab, "style", workspace)
    younger = talkers.base_world.ages[dialogues.ages[-1]]
    detectors = [
        Detectors(partial(talkers.writer.logits, p), partial(talkers.writer.logits, q), encoder)
        for p, q, encoder in zip(talkers.base, younger, encoders, strict=True)
    ]
    parts = (detectors, authors, human, exemplar, validation, nats)
    world = World(talkers.writer, seeds, talkers.base, talkers.supervised, *parts)

    def exact(source: Source, seed: int, author: int, words: Words) -> np.ndarray:
        before = world.before(source, seed, author)
        machine = talkers.writer.log_probs(source.params, words, before, source.temperature)
        return np.asarray(machine - talkers.by_author(words)[:, author], np.float64)

    return replace(world, exact=exact)


def text_world(
    config: StyleConfig, pair: PairConfig, corpus: Corpus, authors: int, said: int, sizes: Sizes, workspace: Workspace
) -> World:
    """Authors are the longest modules held out, their texts windows of these; the encoder learns from modules that the models read, too.

    The assistant is the small model itself, decoded colder. Binoculars observe with the next seed's, which gives the nats, too.
    """
    models, seeds = text_pair(pair, workspace), pair.training.seeds
    writer = Writer(pair.small, models.text.vocab, said, (), workspace)

    def documents(split: str, least: int) -> list[Int[np.ndarray, "windows said"]]:
        """Windows of all documents that hold so many, the longest first."""
        tokens = token_stream(corpus, split, models.text.tokenizer)
        windows = window_source(tokens, said, "documents")
        whole = windows.stops - windows.starts == said
        of = np.searchsorted(tokens.offsets, windows.starts, "right")
        found = [windows.gather(np.flatnonzero(whole & (of == document))) for document in np.unique(of)]
        return sorted((rows for rows in found if len(rows) >= least), key=len, reverse=True)

    held_out = documents("test", 2 * sizes.texts + sizes.support + 1)[:authors]
    require(len(held_out) == authors, "modules", authors, f"at most {len(held_out)}, which are long enough")
    read = jnp.asarray([np.random.default_rng(0).permutation(rows)[:READ] for rows in documents("train", READ)])
    other = np.concatenate(documents("validation", 1))

    def draw(key: Key[Array, ""], authors: int, texts: int) -> Int[Array, "authors texts said"]:
        rows = jax.random.permutation(stream(key, "authors"), len(read))[:authors]
        order = jnp.argsort(jax.random.uniform(stream(key, "texts"), (authors, READ)), axis=1)
        return read[rows[:, None], order[:, :texts]]

    def human(seed: int, part: str, author: int, count: int) -> Words:
        start = {"texts": 0, "again texts": sizes.texts, "again support": 2 * sizes.texts, "exemplar": -1}[part]
        rows = np.random.default_rng((seed, author)).permutation(held_out[author])
        return jnp.asarray(rows[start:][:count])

    def nats(place: int, words: Words) -> float:
        return -float(detectors[(place + 1) % len(seeds)].statistics(words)["likelihood"].mean())

    encoders = train_encoders(config, draw, models.text.vocab, "style-modules", workspace)
    logits = [partial(writer.logits, params) for params in models.small]
    detectors = [Detectors(*each) for each in zip(logits, logits[1:] + logits[:1], encoders, strict=True)]
    return World(
        writer,
        seeds,
        models.small,
        models.small,
        detectors,
        range(authors),
        human,
        lambda seed, author: human(seed, "exemplar", author, 1)[0].tolist(),
        lambda seed, count: jnp.asarray(np.random.default_rng(seed).permutation(other)[:count]),
        nats,
    )
