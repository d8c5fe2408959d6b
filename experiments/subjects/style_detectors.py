"""Detectors of machines' talk, and how well they tell sets of it from one human author's texts, beside the exact likelihood ratio."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from experiments.harness.training import Training, train
from experiments.harness.workspace import Workspace
from experiments.subjects.tuned_talkers import ASSISTANT, FLOOR, Talkers, Words
from lexinv.data.dialogues import World, draw_texts, make_world
from lexinv.decoding.detection import (
    auroc_by_count,
    contrastive_loss,
    document_styles,
    initialize_style_encoder,
    lm_statistics,
    style_encoder,
    unit,
)
from lexinv.nn.language_model import Params
from lexinv.nn.sampling import Sampling
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count

OF_MACHINES = {"likelihood": 1, "rank": -1, "lrr": 1, "fast_detect": 1, "binoculars": -1}
"""The sign by which a machine's texts have higher statistics."""
DETECTORS = (*OF_MACHINES, "style")


@dataclass(frozen=True)
class StyleConfig(Checked):
    """worlds: of eight authors each, from which the encoder learns; none of them is the one where it is used. documents: of a set."""

    worlds: Count = 32
    documents: Count = 2
    hidden: Count = 256
    width: Count = 64
    training: Training = Training(
        steps=400,
        batch_size=32,
        seeds=(0, 1, 2),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=20),
        steps_per_dispatch=50,
    )


def train_encoders(config: StyleConfig, talkers: Talkers, workspace: Workspace) -> list[Params]:
    """A style encoder for each seed, which has read nothing but human authors of other worlds."""
    worlds = [make_world(replace(talkers.dialogues.world, seed=seed)) for seed in range(1, config.worlds + 1)]
    parts = ("initial", "chain", "opening", "closing", "stop", "author")
    every = {part: jnp.concatenate([getattr(world, part) for world in worlds]) for part in parts}
    many: World = replace(talkers.talk, **every)

    def loss(params: Params, batch: Any, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        authors = jax.random.permutation(stream(key, "authors"), len(many.author))[: config.training.batch_size]
        rows = jnp.repeat(authors, 2 * config.documents)
        texts = draw_texts(stream(key, "texts"), many, rows)[:, 1:-1]
        sets = texts.reshape(len(authors), 2, config.documents, -1)
        return contrastive_loss(style_encoder(params, sets[:, 0]), style_encoder(params, sets[:, 1])), {}

    start = partial(
        initialize_style_encoder, vocab=talkers.dialogues.world.vocab, hidden=config.hidden, width=config.width
    )
    return train("style", start, loss, None, config.training, workspace)


@dataclass(frozen=True)
class Detectors:
    """Those of one seed. scoring, observer: language models, of which the second is younger."""

    talkers: Talkers
    scoring: Params
    observer: Params
    encoder: Params

    def statistics(self, words: Words) -> dict[str, Float[np.ndarray, " texts"]]:
        """By detector but the style's, higher for machines. Fast-DetectGPT draws from the scoring model itself."""
        p, q = (self.talkers.logits(params, words) for params in (self.scoring, self.observer))
        there = jnp.ones(words.shape, bool)
        found, alone = _statistics(p, q, words, there), _statistics(p, p, words, there)
        found = found._replace(fast_detect=alone.fast_detect)
        return {name: sign * np.asarray(getattr(found, name), np.float64) for name, sign in OF_MACHINES.items()}

    def styles(self, words: Words) -> Float[np.ndarray, "texts width"]:
        return np.asarray(_styles(self.encoder, words))

    def alike(self, support: Words) -> Callable[[np.ndarray], Float[np.ndarray, " sets"]]:
        """The score of sets of vectors [sets, n, width]: the cosine of their mean with that of texts which a suspect wrote."""
        goal = unit(_styles(self.encoder, support).mean(axis=0))
        return lambda sets: np.asarray(unit(jnp.asarray(sets.mean(axis=1))) @ goal)


_statistics, _styles = jax.jit(lm_statistics), jax.jit(document_styles)


@dataclass(frozen=True)
class Source:
    """A machine. exemplars: the text of each author that it goes on from, if it imitates; otherwise it writes as it likes."""

    params: Params
    temperature: float
    exemplars: Int[Array, "authors length"] | None = None

    def before(self, author: int) -> Sequence[int]:
        return () if self.exemplars is None else np.asarray(self.exemplars[author]).tolist()


def authors_of(talkers: Talkers) -> range:
    """All but the assistant, who is no human."""
    return range(ASSISTANT + 1, talkers.dialogues.world.authors)


def told(
    detectors: Detectors,
    human: dict[int, Words],
    machine: dict[int, Words],
    support: dict[int, Words],
    source: Source | None,
    counts: Sequence[int],
    trials: int,
) -> dict[str, list[float]]:
    """A(n) by detector, the mean over authors: sets of the author's texts against as many that a machine wrote where it stands for him.

    exact: the likelihood ratio of `source` and author, which no detector is above; of none, both are the author's own.
    """
    talkers, rows = detectors.talkers, []
    for author in human:
        rng, curves = np.random.default_rng(author), {}
        ours, theirs = (detectors.statistics(words) for words in (human[author], machine[author]))
        for name in OF_MACHINES:
            curves[name] = auroc_by_count(rng, ours[name], theirs[name], counts, trials)
        ours, theirs = (detectors.styles(words) for words in (human[author], machine[author]))
        curves["style"] = auroc_by_count(rng, ours, theirs, counts, trials, detectors.alike(support[author]))
        if source is not None:
            ours, theirs = (ratio(talkers, source, author, words) for words in (human[author], machine[author]))
            curves["exact"] = auroc_by_count(rng, ours, theirs, counts, trials)
        rows.append(curves)
    return {name: np.mean([row[name] for row in rows], axis=0).tolist() for name in rows[0]}


def ratio(talkers: Talkers, source: Source, author: int, words: Words) -> Float[np.ndarray, " texts"]:
    """ln p(text | machine) - ln p(text | author), in nats."""
    machine = talkers.log_probs(source.params, words, source.before(author), source.temperature)
    return np.asarray(machine - talkers.by_author(words)[:, author], np.float64)


def measure_machine(
    detectors: Detectors, name: str, source: Source | None, seed: int, size: tuple[int, int, Sequence[int], int]
) -> dict[str, Any]:
    """`told` of a machine, or without one of the authors' own texts; and nats per word of its texts where the author is not known.

    size: texts of every author and of the machine in his place, texts of its that the style encoder has read, counts, trials.
    """
    (texts, read, counts, trials), talkers = size, detectors.talkers
    key, authors = stream(jax.random.key(seed), "told"), authors_of(talkers)

    def human(part: str, author: int, count: int) -> Words:
        return talkers.human(stream(key, f"{part} {author}"), jnp.full(count, author))

    def machine(part: str, author: int, count: int) -> Words:
        if source is None:
            return human(f"again {part}", author, count)
        drawing, sampling = stream(key, f"{name} {part} {author}"), Sampling(source.temperature)
        return talkers.write(source.params, drawing, count, sampling, source.before(author)).tokens

    ours = {author: human("texts", author, texts) for author in authors}
    theirs = {author: machine("texts", author, texts) for author in authors}
    support = {author: machine("support", author, read) for author in authors}
    nats = [nats_per_word(talkers, words) for words in theirs.values()]
    return {"told": told(detectors, ours, theirs, support, source, counts, trials), "nats": float(np.mean(nats))}


def nats_per_word(talkers: Talkers, words: Words) -> float:
    """By Bayes' rule, whoever the author is."""
    probs = jnp.take_along_axis(talkers.bayes(words), words[..., None], axis=2)
    return float(-jnp.maximum(jnp.log(probs), FLOOR).mean())
