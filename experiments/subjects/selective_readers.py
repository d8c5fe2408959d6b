"""A pretrained language model that answers questions on haystacks from a cache of which it attends to selected tokens.

The haystacks are threads of two links among random UUIDs: the value beside a key is a needle, the one beside that the end of a thread.
A haystack and the beginning of an answer (`experiments.subjects.haystack_readers`) are read with full attention, once for all ways of
going on; the answer is then read token by token, as greedy decoding would if it were right. `throughout` also selects while it reads.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.harness.workspace import Workspace
from experiments.subjects.haystack_readers import beside, question
from experiments.subjects.pretrained_language_model import PretrainedWorld
from lexinv.lexinvariance import haystacks
from lexinv.merging.cache_selection import POLICIES, Selection
from lexinv.merging.selective_cache import SelectiveCache, empty_selective_cache, make_read
from lexinv.nn.cache import unstacked
from lexinv.nn.language_model import BOS, Params
from lexinv.nn.lexicon import embed, readout, token_nll
from lexinv.validation import Checked, Count, Counts, NonNegatives, require, some_of

FULL, SOFT, THROUGHOUT = "full", "soft", "throughout"
ASKED = ("needles", "threads")
OTHERS = tuple(name for name in POLICIES if name not in (SOFT, "per_head"))
"""Policies with one choice for all heads, so that all go on from the same cache."""
STEP = 8
"""Answers are padded to multiples of so many tokens."""


@dataclass(frozen=True)
class SelectiveReaderConfig(Checked):
    """haystacks: of each size, with `threads` of two links, asked for both. selection: by soft votes; `others` differ by policy.

    thetas: of soft votes that keep their choice. chunk: tokens that vote together while a haystack is read, `piece` tokens at a time.
    """

    model: str = "smollm2"
    pairs: Counts = (12, 25, 50)
    haystacks: tuple[int, ...] = (1, 1, 1)
    threads: Count = 3
    selection: Selection = Selection("soft", k=512, first=16, local=128)
    others: Annotated[tuple[str, ...], some_of(OTHERS)] = ("block_mean", "window")
    thetas: NonNegatives = (0.9,)
    chunk: Count = 64
    piece: Count = 512

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        counts = len(self.haystacks) == len(self.pairs) and min(self.haystacks) >= 1
        yield counts, "haystacks", f"one positive number for each of the {len(self.pairs)} of pairs"
        yield 2 * self.threads <= min(self.pairs), "threads", f"at most half of the {min(self.pairs)} pairs"
        yield self.piece % self.chunk == 0, "piece", f"a multiple of chunk = {self.chunk}"
        yield self.chunk <= self.selection.local, "chunk", f"at most selection.local = {self.selection.local}"

    def arms(self) -> dict[str, Selection]:
        """How an answer is decoded, by name."""
        soft = self.selection
        policies = {name: replace(soft, policy=name) for name in (FULL, SOFT, *self.others)}
        return (
            policies | {f"reuse at {theta:g}": replace(soft, theta=theta) for theta in self.thetas} | {THROUGHOUT: soft}
        )


class Case(NamedTuple):
    haystack: list[int]
    question: list[int]
    answer: list[int]


def asked(config: SelectiveReaderConfig, pairs: int, number: int) -> list[tuple[str, Any]]:
    """(what is asked for, `haystack_readers.Question`) for each value of one haystack."""
    item = haystacks.threads(np.random.default_rng((pairs, number)), pairs, 2, config.threads, "forward")
    stem, found = item.question.partition(': "')[0], []
    for task, values, text in zip(
        ASKED, (beside(item), item.values), (haystacks.NEEDLES, haystacks.THREADS), strict=True
    ):
        for key, value in zip(item.keys, values, strict=True):
            words = stem.replace(haystacks.THREADS, text)
            one = replace(item, keys=(key,), values=(value,), question=f'{words}: "{key}"')
            found.append((task, question(one)))
    return found


def encoded(world: PretrainedWorld, text: str, haystack: int, span: tuple[int, int]) -> Case:
    """Tokens of the haystack, which has so many characters; from there to the answer; and of the answer. No token crosses these places."""
    begin, stop = span
    parts = text[:haystack], text[haystack:begin], text[begin:stop]
    return Case(*(world.tokenizer.encode(part).tolist() for part in parts))


def measure(config: SelectiveReaderConfig, world: PretrainedWorld, workspace: Workspace) -> dict[str, Any]:
    """By pairs and task, of every question: {arm: {"right", the share of its tokens that are the likeliest, "found", "nats", "reused"}}."""
    cases = {
        (pairs, number): [
            (task, encoded(world, one.text, pairs * haystacks.PAIR_CHARACTERS, one.spans[0]))
            for task, one in asked(config, pairs, number)
        ]
        for pairs, count in zip(config.pairs, config.haystacks, strict=True)
        for number in range(count)
    }
    parts = [ids for ones in cases.values() for _, ids in ones]
    longest = [max(len(ids[i]) for ids in parts) for i in range(3)]
    asking, answering = (-(-n // by) * by for n, by in zip(longest[1:], (config.chunk, STEP), strict=True))
    slots = min(sum(longest) + 1, world.model.config.max_length)
    require(sum(longest) < slots, "pairs", config.pairs, f"questions of less than the model's {slots} tokens")
    reader = Reader(config, world, slots, asking, answering)

    found: dict[str, Any] = {}
    for (pairs, number), ones in cases.items():
        rows = workspace.cached(f"reader/{pairs}/{number}", partial(reader.answers, [ids for _, ids in ones]))
        for (task, _), row in zip(ones, rows, strict=True):
            found.setdefault(str(pairs), {}).setdefault(task, []).append(row)
    tokens = {str(pairs): len(cases[pairs, 0][0][1][0]) + 1 for pairs in config.pairs}
    return {
        "tokens": tokens,
        "answers": found,
        "shape": [world.model.config.keys_and_values, world.model.config.head_dim],
    }


class Reader:
    """The model with its programs, one for each way of reading; room for `slots` tokens, so many of a question and of an answer."""

    def __init__(self, config: SelectiveReaderConfig, world: PretrainedWorld, slots: int, asking: int, answering: int):
        self.config, self.world, self.slots = config, world, slots
        self.asking, self.answering = asking, answering
        self.params: Params = unstacked(world.model.params)

    def read(self, selection: Selection, cache: SelectiveCache, ids: list[int], room: int, chunk: int) -> Any:
        """(features of the tokens, the cache with them), padded to `room` tokens."""
        tokens = jnp.asarray(np.pad(np.array(ids, np.int32), (0, room - len(ids))))
        vectors = embed(self.params["table"], tokens[None])[0].astype(self.world.model.config.dtype)
        return make_read(self.world.model.config, selection, chunk)(self.params, cache, vectors, tokens, len(ids))

    def chunk(self, selection: Selection, room: int) -> int:
        """Tokens that select together; all of them where nothing is selected."""
        return room if selection.policy == FULL else self.config.chunk

    def prefilled(self, selection: Selection, ids: list[int]) -> SelectiveCache:
        cache, piece = empty_selective_cache(self.world.model.config, selection, self.slots), self.config.piece
        for start in range(0, len(ids), piece):
            cache = self.read(selection, cache, ids[start : start + piece], piece, self.chunk(selection, piece))[1]
        return cache

    def answers(self, ones: list[Case]) -> list[dict[str, Any]]:
        """Of each question on one haystack."""
        arms = self.config.arms()
        begun = {way: self.prefilled(arms[way], [BOS, *ones[0].haystack]) for way in (FULL, THROUGHOUT)}
        rows = []
        for _, asked, answer in ones:
            # The last token of the question is the first that a way of decoding reads.
            read = {
                way: self.read(arms[way], cache, asked[:-1], self.asking, self.chunk(arms[way], self.asking))[1]
                for way, cache in begun.items()
            }
            row = {}
            for arm, selection in arms.items():
                before = read[THROUGHOUT if arm == THROUGHOUT else FULL]
                chunk = self.answering if arm == FULL else 1
                features, after = self.read(selection, before, [asked[-1], *answer[:-1]], self.answering, chunk)
                best, nats = (
                    np.asarray(x)[: len(answer)] for x in judge(self.params, features, targets(answer, self.answering))
                )
                right = best == np.array(answer)
                row[arm] = {"right": float(right.mean()), "found": bool(right.all()), "nats": float(nats.mean())}
                if arm.startswith("reuse"):
                    row[arm]["reused"] = float(after.reused)
            rows.append(row)
        return rows


def targets(answer: list[int], room: int) -> Int[Array, " room"]:
    return jnp.asarray(np.pad(np.array(answer, np.int32), (0, room - len(answer))))


@jax.jit
def judge(
    params: Params, features: Float[Array, "n width"], targets: Int[Array, " n"]
) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """The likeliest token after each, and the nats of the one that there is."""
    logits = readout(features[None], params.get("output_table", params["table"]))
    return logits[0].argmax(-1), token_nll(logits, targets[None])[0]
