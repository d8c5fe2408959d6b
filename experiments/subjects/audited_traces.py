"""Worked traces that are billed by the token, honest or padded, and the fingerprints of the blocks that an auditor opens.

Every trace is billed for the same number of tokens, so that length gives nothing away: a padded one has fewer sentences of its own. The
embedding is the residual stream of a large model of dialogues, which reads each block for itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int8

from experiments.subjects.dialogue_models import LEXICON, DialogueModels
from experiments.subjects.dialogue_pair import kinds
from lexinv.data.dialogues import SENTENCE, draw_texts, make_world
from lexinv.decoding.commitments import quantise
from lexinv.decoding.token_audit import ATTACKS, Material, pad
from lexinv.nn.language_model import Params, make_hidden_states
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Counts

SCALE = 32.0
"""Steps of a fingerprint in a standard deviation of the embedding's channel."""
ROWS = 4096
"""Blocks that are read at once."""


@dataclass(frozen=True)
class Billing(Checked):
    """sentences: that every trace is billed for. own: sentences of padded traces. blocks: tokens of a block, all divisors of the last one.

    looks: how much is opened, in blocks of the last, largest kind.
    """

    sentences: Count = 24
    own: Counts = (20, 16, 12, 8)
    blocks: Counts = (8, 12, 24)
    looks: Counts = (1, 2, 3)

    def checks(self):
        largest = self.blocks[-1]
        yield self.tokens % largest == 0, "blocks", f"the last a divisor of the {self.tokens} billed tokens"
        yield all(largest % block == 0 for block in self.blocks), "blocks", f"divisors of the last, {largest}"
        yield list(self.blocks) == sorted(self.blocks), "blocks", "ascending"
        most = self.tokens // largest
        yield list(self.looks) == sorted(self.looks) and self.looks[-1] <= most, "looks", f"ascending, up to {most}"
        fits = max(self.own) < self.sentences and min(self.own) * SENTENCE >= largest
        yield fits, "own", f"below sentences = {self.sentences}, and no fewer than fill a block of {largest} tokens"

    @property
    def tokens(self) -> int:
        return SENTENCE * self.sentences

    @property
    def parts(self) -> int:
        """Largest blocks of what is billed."""
        return self.tokens // self.blocks[-1]

    @property
    def rates(self) -> list[float]:
        """Inflation: tokens of padding over own tokens."""
        return [(self.sentences - own) / own for own in self.own]

    @property
    def exposures(self) -> list[float]:
        """The share of billed tokens that is opened at each look."""
        return [look * self.blocks[-1] / self.tokens for look in self.looks]


class Sessions(NamedTuple):
    """What is billed; and what the auditor knows: the beginning of the question, as long for all, and the answer."""

    billed: Int[np.ndarray, "sessions tokens"]
    known: Int[np.ndarray, "sessions known"]


class Opened(NamedTuple):
    """Of blocks in a random order: fingerprints of their tokens, and the embedding of question and answer."""

    tokens: Int[np.ndarray, "sessions blocks block"]
    fingerprints: Int8[np.ndarray, "sessions blocks block width"]
    known: Float[np.ndarray, "sessions width"]

    @property
    def embeddings(self) -> Float[np.ndarray, "sessions blocks block width"]:
        return self.fingerprints.astype(np.float32) / SCALE


@dataclass(frozen=True)
class Traces:
    """Of one embedding model. The last domain is held out: traces on it are asked for by `held`."""

    config: DialogueModels
    billing: Billing
    params: Params
    seed: int

    def vocabulary(self, held: bool) -> Int[np.ndarray, " some"]:
        """All tokens, but for the operations of the domain that is held out unless `held`."""
        world = self.config.world
        last = world.first["operation"] + world.operations
        return np.delete(np.arange(world.vocab), [] if held else np.arange(last - world.tables, last))

    def near(self, among: Int[np.ndarray, " some"]) -> Int[np.ndarray, " vocab"]:
        """Of each token of the vocabulary the other one among these whose vector is most alike."""
        table = np.asarray(self.params["table"], np.float64)
        table /= np.linalg.norm(table, axis=1, keepdims=True)
        return among[np.argmax((table @ table.T - 2 * np.eye(len(table)))[:, among], axis=1)]

    @cached_property
    def pools(self) -> list[Int[np.ndarray, "traces tokens"]]:
        """Of every domain, honest traces that padding is taken from."""
        whole = self.billing.sentences
        domains = range(self.config.world.domains)
        return [self.sessions(self.drawn("padding", whole, 64, [d]), whole).billed for d in domains]

    def drawn(self, name: str, sentences: int, count: int, domains: Sequence[int]) -> Int[Array, "count length"]:
        """Whole worked texts on these domains."""
        config = replace(self.config.world, steps=sentences)
        share = np.isin(np.arange(config.domains), domains) / len(domains)
        world = replace(_world(config), talk=jnp.zeros(()), domain=jnp.asarray(share, jnp.float32))
        key = stream(stream(jax.random.key(self.seed), name), str(sentences))
        authors = jax.random.randint(key, (count,), 0, config.authors)
        return _draw(stream(key, "texts"), world, authors)

    def domains(self, sessions: Sessions) -> Int[np.ndarray, " sessions"]:
        """From the first operation of the question."""
        world = self.config.world
        return (sessions.known[:, 1] - world.first["operation"]) // world.tables

    def sides(self, held: bool) -> list[int]:
        domains = self.config.world.domains
        return [domains - 1] if held else list(range(domains - 1))

    def sessions(self, texts: Int[Array, "count length"], sentences: int) -> Sessions:
        """Of honest texts: what is billed is the trace."""
        found, prompt, known = np.asarray(texts), sentences + 1, min(self.billing.own) + 1
        return Sessions(found[:, prompt:-3], np.concatenate([found[:, :known], found[:, -3:]], axis=1))

    def honest(self, name: str, count: int, held: bool = False) -> Sessions:
        sentences = self.billing.sentences
        return self.sessions(self.drawn(name, sentences, count, self.sides(held)), sentences)

    def padded(self, name: str, attack: str, own: int, count: int, block: int, held: bool = False) -> Sessions:
        """Traces of so many own sentences, padded to what every trace is billed for."""
        world, whole = self.config.world, self.billing.sentences
        random = np.random.default_rng((self.seed, *name.encode(), list(ATTACKS).index(attack), own, block, held))
        texts = self.drawn(name, own, count, self.sides(held))
        short = self.sessions(texts, own)
        domain = self.domains(short)
        says, anything, rows = np.asarray(kinds(world)), self.vocabulary(held), []
        near, topics = self.near(anything), [d for d in range(world.domains) if held or d in self.sides(held)]
        for trace, known, at in zip(short.billed, short.known, domain, strict=True):
            other = random.choice([d for d in topics if d != at] or [world.domains - 1])
            strange, alike = (self.pools[d][random.integers(len(self.pools[d]))] for d in (other, at))
            material = Material(strange, alike, known, anything, near, says, block)
            rows.append(pad(attack, random, trace, SENTENCE * (whole - own), material).tokens)
        return Sessions(np.stack(rows), short.known)

    def opened(self, sessions: Sessions, block: int, name: str) -> Opened:
        """As many blocks of each as the last look opens."""
        billing = self.billing
        count = billing.looks[-1] * billing.blocks[-1] // block
        blocks = sessions.billed.reshape(len(sessions.billed), -1, block)
        random = np.random.default_rng((self.seed, *name.encode(), block))
        order = random.permuted(np.tile(np.arange(blocks.shape[1]), (len(blocks), 1)), axis=1)[:, :count]
        chosen = np.take_along_axis(blocks, order[:, :, None], axis=1)
        fingerprints = self.fingerprints(chosen.reshape(-1, block))
        known = self.embedded(sessions.known).mean(axis=1).astype(np.float32)
        return Opened(chosen, fingerprints.reshape(*chosen.shape, -1), known)

    def read(self, fingerprints: Int8[np.ndarray, "blocks block width"]) -> Int[np.ndarray, "blocks block"]:
        """What anyone can read of opened blocks, token by token: the one whose fingerprint after those before it is nearest."""
        vocab, (count, block) = self.config.world.vocab, fingerprints.shape[:2]
        found = np.zeros((count, vocab, block), np.int32)
        for place in range(block):
            found[:, :, place] = np.arange(vocab)
            tried = self.fingerprints(found.reshape(-1, block))[:, place].reshape(count, vocab, -1).astype(np.int32)
            best = np.argmin(np.sum(np.abs(tried - fingerprints[:, None, place]), axis=-1), axis=1)
            found[:, :, place] = best[:, None]
        return found[:, 0]

    def fingerprints(self, blocks: Int[np.ndarray, "blocks block"]) -> Int8[np.ndarray, "blocks block width"]:
        """What is committed of each token of a block."""
        return quantise(self.embedded(blocks), SCALE)

    def embedded(self, blocks: Int[np.ndarray, "blocks block"]) -> Float[np.ndarray, "blocks block width"]:
        """Of each token after those before it in its block, every channel less its mean and over its deviation on honest traces."""
        mean, deviation = self.scale
        return (self.states(blocks) - mean) / deviation

    @cached_property
    def scale(self) -> tuple[np.ndarray, np.ndarray]:
        honest = self.honest("scale", 64).billed.reshape(-1, self.billing.blocks[0])
        states = self.states(honest).reshape(-1, self.config.large.width)
        return states.mean(axis=0), states.std(axis=0)

    def states(self, blocks: Int[np.ndarray, "blocks block"]) -> Float[np.ndarray, "blocks block width"]:
        found = []
        for start in range(0, len(blocks), ROWS):
            part = blocks[start : start + ROWS]
            rows = np.zeros((ROWS if len(blocks) > ROWS else len(part), part.shape[1] + 1), np.int32)
            rows[: len(part), :-1] = part
            found.append(np.asarray(_reader(self.config)(self.params, rows))[: len(part)])
        return np.concatenate(found)


_world = lru_cache(make_world)
_draw = jax.jit(draw_texts)


@lru_cache
def _reader(config: DialogueModels) -> Any:
    """States after the last layer, of each token but the last of a row."""
    read = make_hidden_states(config.large, LEXICON, config.world.vocab)

    def states(params: Params, rows: Array) -> Array:
        return read(params, {"tokens": rows, "row": jnp.arange(len(rows))}, jax.random.key(0))[-1]

    return jax.jit(states)
