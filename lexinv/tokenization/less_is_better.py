"""Less is Better (Yang et al. 2020, Yang 2024): a lexicon of parts of words, words and phrases that is learned by reading.

The lexicon is ranked. Text is read by longest match. Neighbours that are seen together twice in a document become an entry at the tail;
an entry that reads a text in fewer tokens than the next shorter one moves towards the head, another one towards the tail, where it falls
out. This is the algorithm of the released code without skip-grams; other than there, what is compared until a sentence ends is compared,
too.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lexinv.data.pieces import Pieces, sort_pieces
from lexinv.validation import Checked, Count, CountOrZero, Positive, Share, require


@dataclass(frozen=True)
class LessIsBetter(Checked):
    """documents: that are read, of `sentences` drawn from all. most_characters: of an entry. memorise: how often neighbours are noted.

    gap: the longest run of unknown characters that may become an entry. rate: the share of its rank by which an entry moves. forget: the
    share of the lexicon, at its tail, that is put on probation after a document, and lost after `life` ones in which it is of no use.
    """

    documents: Count = 1000
    sentences: Count = 200
    most_characters: Count = 12
    memorise: Share = 0.25
    gap: CountOrZero = 2
    rate: Positive = 0.2
    forget: Share = 1e-4
    life: Count = 10


def learn(sentences: Sequence[str], rng: np.random.Generator, config: LessIsBetter = LessIsBetter()) -> tuple[str, ...]:
    """The lexicon after all documents, the best entry first. Raises `InvalidConfig` where there is no text."""
    return deque(course(sentences, rng, config), maxlen=1).pop()


def course(sentences: Sequence[str], rng: np.random.Generator, config: LessIsBetter) -> Iterator[tuple[str, ...]]:
    """The lexicon after each document. It begins with the characters of a document, all on probation."""
    require(any(sentences), "sentences", len(sentences), "some that are not empty")

    def document() -> list[str]:
        return [sentences[int(number)] for number in rng.integers(len(sentences), size=config.sentences)]

    order = sorted(set("".join(document())))
    life = dict.fromkeys(order, config.life)
    for _ in range(config.documents):
        moves = read(document(), order, life, rng, config)
        order = update(order, moves, life, config)
        yield tuple(order)


def read(
    document: Sequence[str], order: list[str], life: dict[str, int], rng: np.random.Generator, config: LessIsBetter
) -> list[tuple[str, int]]:
    """Read a document: new entries are appended to `order`, useful ones leave probation (`life`). Returns entries and where they are to
    move: -1 towards the head, 1 towards the tail."""
    rank = {entry: place for place, entry in enumerate(order)}
    most, waiting, moves = config.most_characters, set[str](), []
    for sentence in document:
        noted = (rng.random(len(sentence)) < config.memorise).tolist()
        places, path, seconds, at, unknown = [], [], [], 0, ""
        while at < len(sentence):
            found = longest(sentence, at, rank, most)
            second = longest(sentence, at, rank, len(found) - 1)
            places.append(at)
            path.append(found)
            seconds.append(second)
            if not found:
                unknown += sentence[at]
                at += 1
                continue
            if noted[at]:
                before = path[-2] if len(path) > 1 else ""
                new = before + found if before else unknown
                if 0 < len(new) <= (most if before else config.gap) and new not in rank:
                    if new in waiting:
                        rank[new] = len(order)
                        order.append(new)
                    waiting ^= {new}
            if not second:
                life.pop(found, None)
            at, unknown = at + len(found), ""
        places.append(len(sentence))
        for number, second in enumerate(seconds):
            if second and is_better(second, number, sentence, places, path, rank, most):
                moves += [(path[number], 1), (second, -1)]
            elif second:
                moves.append((path[number], -1))
                life.pop(path[number], None)
    return moves


def longest(sentence: str, at: int, lexicon: dict[str, int], most: int) -> str:
    """The longest entry of at most `most` characters that the sentence has there, "" for none."""
    for end in range(min(at + most, len(sentence)), at, -1):
        if sentence[at:end] in lexicon:
            return sentence[at:end]
    return ""


def is_better(
    second: str, number: int, sentence: str, places: list[int], path: list[str], rank: dict[str, int], most: int
) -> bool:
    """Whether going on from the shorter entry `second` instead of `path[number]` reads better up to where both paths meet: with fewer
    unknown characters, then fewer tokens, then of better ranks."""
    other, end, until = [second], places[number] + len(second), number + 1
    while end != places[until]:
        if end > places[until]:
            until += 1
            continue
        other.append(longest(sentence, end, rank, most))
        end += len(other[-1]) or 1
    return cost(other, rank) < cost(path[number:until], rank)


def cost(tokens: list[str], rank: dict[str, int]) -> tuple[int, int, int]:
    """What the better of two readings has less of: unknown characters, then tokens, then ranks."""
    return tokens.count(""), len(tokens), sum(rank[token] for token in tokens if token)


def update(order: list[str], moves: list[tuple[str, int]], life: dict[str, int], config: LessIsBetter) -> list[str]:
    """The order after a document: what was on probation for too long is lost, the others move one after another."""
    for entry in list(life):
        life[entry] -= 1
    lost = {entry for entry, left in life.items() if left <= 0}
    order = [entry for entry in order if entry not in lost]
    kept = set(order)
    for entry, way in moves:
        place = order.index(entry) if entry in kept else 0
        if place > 0:  # the head stays
            del order[place]
            target = place + way * (int(config.rate * place) + 1)
            if target <= len(order):
                order.insert(max(target, 0), entry)
            else:
                kept.remove(entry)
    for entry in [entry for entry in life if entry not in kept]:
        del life[entry]
    for entry in order[int((1 - config.forget) * len(order)) :]:
        life.setdefault(entry, config.life)
    return order


def pieces(lexicon: Sequence[str]) -> Pieces:
    """A tokenizer for any text: greedy longest match of the lexicon's entries and all bytes."""
    return sort_pieces([bytes([byte]) for byte in range(256)] + [entry.encode() for entry in lexicon])
