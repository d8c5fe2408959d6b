"""Detectors of machines' texts, and how well they tell sets of them from one human author's."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from experiments.harness.arms import by_metric
from experiments.harness.training import Training, train
from experiments.harness.workspace import Workspace
from experiments.subjects.writers import Tuning, Words, Writer
from lexinv.decoding.detection import (
    Score,
    auroc,
    auroc_by_count,
    contrastive_loss,
    document_styles,
    initialize_style_encoder,
    lm_statistics,
    mean_score,
    style_encoder,
    unit,
)
from lexinv.nn.language_model import Params
from lexinv.nn.sampling import Sampling
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Counts

OF_MACHINES = {"likelihood": 1, "rank": -1, "lrr": 1, "fast_detect": 1, "binoculars": -1}
"""The sign by which a machine's texts have higher statistics."""
DETECTORS = (*OF_MACHINES, "style")


@dataclass(frozen=True)
class StyleConfig(Checked):
    """worlds: of dialogues, of eight authors each, from which an encoder learns. documents: of a set."""

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


Draw = Callable[[Key[Array, ""], int, int], Int[Array, "authors texts said"]]
"""So many texts of so many random authors."""


def train_encoders(config: StyleConfig, draw: Draw, vocab: int, name: str, workspace: Workspace) -> list[Params]:
    """A style encoder for each seed, which has read nothing but what is drawn."""

    def loss(params: Params, batch: Any, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        texts = draw(key, config.training.batch_size, 2 * config.documents)
        sets = texts.reshape(len(texts), 2, config.documents, -1)
        return contrastive_loss(style_encoder(params, sets[:, 0]), style_encoder(params, sets[:, 1])), {}

    start = partial(initialize_style_encoder, vocab=vocab, hidden=config.hidden, width=config.width)
    return train(name, start, loss, None, config.training, workspace)


@dataclass(frozen=True)
class Detectors:
    """Those of one seed. scoring, observer: logits of two language models, of which the second knows less."""

    scoring: Callable[[Words], Float[Array, "texts said vocab"]]
    observer: Callable[[Words], Float[Array, "texts said vocab"]]
    encoder: Params

    def statistics(self, words: Words) -> dict[str, Float[np.ndarray, " texts"]]:
        """By detector but the style's, higher for machines. Fast-DetectGPT draws from the scoring model itself."""
        p, q = self.scoring(words), self.observer(words)
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
    """A machine. imitates: it goes on from a text of the author in whose place it stands; otherwise it writes as it likes."""

    params: Params
    temperature: float
    imitates: bool = False


@dataclass(frozen=True)
class World:
    """Human authors, and machines by seed. base: what they all come from. assistant: what is tuned further.

    human(seed, part, author, count): texts of his, others in every part. exemplar(seed, author): one more, whole. validation(seed, count):
    of all authors, or of others. nats(place, texts): per token, by a judge that nothing is tuned against. exact(source, seed, author,
    texts): ln p(text | machine) - ln p(text | author), where the laws are known.
    """

    writer: Writer
    seeds: Sequence[int]
    base: list[Params]
    assistant: list[Params]
    detectors: list[Detectors]
    authors: Sequence[int]
    human: Callable[[int, str, int, int], Words]
    exemplar: Callable[[int, int], Sequence[int]]
    validation: Callable[[int, int], Words]
    nats: Callable[[int, Words], float]
    exact: Callable[[Source, int, int, Words], Float[np.ndarray, " texts"]] | None = None

    def before(self, source: Source, seed: int, author: int) -> Sequence[int]:
        return self.exemplar(seed, author) if source.imitates else ()


@dataclass(frozen=True)
class Sizes(Checked):
    """texts: of every author, and of every machine in his place. counts: n of A(n). trials: random sets of each side.

    support: texts of a suspect that the style encoder compares with.
    """

    texts: Count = 512
    support: Count = 32
    counts: Counts = (1, 2, 4, 8, 16, 32)
    trials: Count = 512

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield len(self.counts) > 1 and self.counts[0] == 1, "counts", "ascending from 1"
        yield max(self.counts) <= self.texts, "counts", f"at most texts = {self.texts}"


def told(world: World, place: int, machine: str, source: Source | None, sizes: Sizes) -> dict[str, Any]:
    """A(n) by detector, the mean over authors: sets of his texts against as many by a machine that stands for him; "nats" of its texts.

    exact: the likelihood ratio of `source` and author, which no detector is above. Without a source both sides are the author's own.
    """
    seed, detectors = world.seeds[place], world.detectors[place]

    def machines(part: str, author: int, count: int) -> Words:
        if source is None:
            return world.human(seed, f"again {part}", author, count)
        key = stream(stream(jax.random.key(seed), "told"), f"{machine} {part} {author}")
        before = world.before(source, seed, author)
        return world.writer.write(source.params, key, count, Sampling(source.temperature), before).tokens

    rows, nats = [], []
    for author in world.authors:
        rng, curves = np.random.default_rng(author), {}
        sides = world.human(seed, "texts", author, sizes.texts), machines("texts", author, sizes.texts)
        known = [detectors.statistics(words) for words in sides]
        pairs: dict[str, tuple[Any, Any, Score]]
        pairs = {name: (known[0][name], known[1][name], mean_score) for name in OF_MACHINES}
        alike = detectors.alike(machines("support", author, sizes.support))
        pairs["style"] = detectors.styles(sides[0]), detectors.styles(sides[1]), alike
        if source is not None and world.exact:
            ours, theirs = (world.exact(source, seed, author, words) for words in sides)
            pairs["exact"] = ours, theirs, mean_score
        for name, (ours, theirs, score) in pairs.items():
            curves[name] = auroc_by_count(rng, ours, theirs, sizes.counts, sizes.trials, score)
        rows.append(curves)
        nats.append(world.nats(place, sides[1]))
    return {name: np.mean([row[name] for row in rows], axis=0) for name in rows[0]} | {"nats": float(np.mean(nats))}


def judge(
    prefix: str,
    world: World,
    machines: Sequence[str],
    tuning: Tuning,
    temperature: float,
    sizes: Sizes,
    workspace: Workspace,
) -> dict[str, Any]:
    """arms[machine][detector]: A(n) [seed][n], and "nats" [seed]; rounds: A(1) of what was fooled [seed][round].

    Machines that are detectors are tuned against these, and the round counts that is nearest to telling nothing. prefix: of stages.
    """
    cold, places = Sampling(temperature), {str(seed): place for place, seed in enumerate(world.seeds)}
    targets = [machine for machine in machines if machine in DETECTORS]

    def target(arm: str, place: int) -> Callable[[Words], np.ndarray]:
        """The detector that is tuned against, which knows the style of the assistant as it was."""
        detectors = world.detectors[place]
        if arm != "style":
            return lambda words: detectors.statistics(words)[arm]
        key = stream(jax.random.key(world.seeds[place]), "suspect")
        alike = detectors.alike(world.writer.write(world.assistant[place], key, sizes.support, cold).tokens)
        return lambda words: alike(detectors.styles(words)[:, None])

    fooled = {arm: [target(arm, place) for place in places.values()] for arm in targets}

    def preferred(arm: str, place: int, words: Words) -> Array:
        return -jnp.asarray(fooled[arm][place](words), jnp.float32)

    starts = dict.fromkeys(targets, world.assistant)
    course = world.writer.prefer(f"{prefix}tuned", starts, preferred, tuning, temperature)

    def fools(arm_seed: str) -> list[float]:
        """A(1) at the start and after every round, on the texts by which a round is chosen."""
        arm, seed = arm_seed.split("-")
        place, found = places[seed], []
        for models in course:
            key = stream(jax.random.key(int(seed)), f"validation {arm}")
            machine = world.writer.write(models[arm][place], key, sizes.texts, cold).tokens
            sides = world.validation(int(seed), sizes.texts), machine
            found.append(float(auroc(*map(fooled[arm][place], sides))))
        return found

    rounds = workspace.stages(f"{prefix}rounds", [f"{arm}-{seed}" for arm in targets for seed in places], fools)

    def source(machine: str, place: int) -> Source | None:
        if machine == "human":
            return None
        if machine == "imitation":
            return Source(world.base[place], 1.0, True)
        models = world.assistant
        if machine in targets:
            nearest = int(np.argmin(np.abs(np.array(rounds[f"{machine}-{world.seeds[place]}"]) - 0.5)))
            models = course[nearest][machine]
        return Source(models[place], temperature)

    def measure(machine_seed: str) -> dict[str, Any]:
        machine, seed = machine_seed.split("-")
        return told(world, places[seed], machine, source(machine, places[seed]), sizes)

    every = ("human", *machines)
    rows = workspace.stages(f"{prefix}told", [f"{machine}-{seed}" for machine in every for seed in places], measure)
    return {
        "counts": sizes.counts,
        "arms": {machine: by_metric([rows[f"{machine}-{seed}"] for seed in places]) for machine in every},
        "rounds": {arm: [rounds[f"{arm}-{seed}"] for seed in places] for arm in targets},
    }
