"""Photographs and texts as sequences of equally many tokens of equally many types; and glyphs of which it is known what a patch shows.

A photograph is cut into squares of 16 by 16 patches, each read row by row: what a sentence is to a text. Seeds divide squares, or the
documents of a text, anew; the codebook is learned from those that are not held out.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.subjects.pretrained_vision import fingerprint, photographs
from lexinv.data.corpora import SPLITS, Corpus, load_corpus
from lexinv.data.glyphs import CELLS, GlyphConfig, sample_images
from lexinv.data.images import decode, open_images
from lexinv.data.kgram import cross_entropies, fit_kgram, tune_strengths
from lexinv.data.tokenizers import load_tokenizer
from lexinv.tokenization import sequence_statistics as statistics
from lexinv.tokenization.codebook import association, k_means, nearest, patches, scan_order
from lexinv.validation import Checked, Count, require

SIDE = 16
"""Patches along a side of a square."""
LEARNED_FROM = 20_000
"""Patches of which a codebook is learned, at most."""
WORDS = re.compile(r"\w+|[^\w\s]")
LEAST = 300
"""The smallest BPE."""
CODES = ("codes", "columns", "hilbert", "random codebook", "shuffled", "new photographs", "in order of photographs")
"""Visual tokens, read by rows and of a codebook by k-means unless they are called otherwise."""
LEVELS = ("object", "part", "sub-part")
GLYPHS = GlyphConfig(size=48, patch=4, cell=2, noise=0.0, aligned=False, distractor=False, plate=True)
"""A glyph is an object, of 24 pixels, its cells are parts, of 8 pixels, and their quarters are sub-parts. It lies on no grid."""
NOISE, ITERATIONS = 0.1, 15
"""Standard deviation on every pixel and channel, of the pictures that a codebook is learned from; Lloyd's iterations."""


@dataclass(frozen=True)
class StreamConfig(Checked):
    """images: "photographs", or a data set of TFDS. codes: types. tokens, held_out: of every stream; patch: in pixels."""

    images: str = "photographs"
    most_images: Count = 1000
    patch: Count = 8
    codes: Count = 1024
    iterations: Count = 15
    tokens: Count = 32_000
    held_out: Count = 8_192

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield self.codes >= 2, "codes", "at least 2"
        for field in ("tokens", "held_out"):
            yield getattr(self, field) % SIDE**2 == 0, field, f"whole squares of {SIDE**2} patches"


class Stream(NamedTuple):
    """Token ids to learn from and held out."""

    train: np.ndarray
    test: np.ndarray

    def shuffled(self, seed: int) -> "Stream":
        """The same tokens in any order."""
        both = np.random.default_rng(seed).permutation(np.concatenate(self))
        return Stream(both[: len(self.train)], both[len(self.train) :])

    def spans(self, shuffle: int | None = None) -> "Stream":
        """Rows of `SIDE` tokens; shuffle: a seed by which each row is shuffled in itself."""
        rows = (part[: len(part) // SIDE * SIDE].reshape(-1, SIDE).astype(np.int32) for part in self)
        if shuffle is None:
            return Stream(*rows)
        return Stream(*(np.random.default_rng(shuffle).permuted(part, axis=1) for part in rows))


class Squares(NamedTuple):
    """patches: float32[squares, cells, values] from 0 to 1, row by row. image: the number of the one that each square is from."""

    patches: np.ndarray
    image: np.ndarray


def open_squares(config: StreamConfig) -> tuple[Squares, dict[str, str]]:
    """All squares of the images, and what tells these images from others. Raises `InvalidConfig` where they are too few."""
    if config.images == "photographs":
        named = photographs()
        images, told = list(named.values()), fingerprint(named)
    else:
        source = open_images(config.images, "validation")
        images = [decode(source.examples[row]["image"]) for row in range(min(config.most_images, len(source)))]
        told = {config.images: source.identity}
    cut, side = [], SIDE * config.patch
    for number, image in enumerate(images):
        rows, columns = (size // side * side for size in image.shape[:2])
        if min(rows, columns):
            whole = patches(image[:rows, :columns].astype(np.float32) / 255, config.patch)
            grid = whole.reshape(rows // side, SIDE, columns // side, SIDE, -1).swapaxes(1, 2)
            cut.append((grid.reshape(-1, SIDE**2, grid.shape[-1]), number))
    squares = Squares(
        np.concatenate([some for some, _ in cut]), np.repeat([n for _, n in cut], [len(s) for s, _ in cut])
    )
    needed = (config.tokens + config.held_out) // SIDE**2
    require(
        len(squares.image) >= needed,
        "tokens",
        config.tokens,
        f"at most {len(squares.image) * SIDE**2} with those held out",
    )
    return squares, told


def code_streams(squares: Squares, config: StreamConfig, seed: int) -> dict[str, Stream]:
    """The division of a seed: read by rows, by columns, along Hilbert's curve and shuffled; with random patches for a codebook; one
    photograph after another; and, from another division, with squares of new photographs held out."""
    rng = np.random.default_rng(seed)
    count, held = config.tokens // SIDE**2, config.held_out // SIDE**2
    order = rng.permutation(len(squares.image))
    train, test = order[:count], order[count : count + held]
    drawn = rng.permutation(train.size * SIDE**2)[:LEARNED_FROM]
    some = jnp.asarray(squares.patches[train].reshape(-1, squares.patches.shape[-1])[drawn])

    def codes(iterations: int) -> np.ndarray:
        centres = k_means(some, config.codes, iterations, jax.random.key(seed))
        every = squares.patches.reshape(-1, squares.patches.shape[-1])
        return np.asarray(nearest(jnp.asarray(every), centres)[0]).reshape(-1, SIDE**2)

    def read(found: np.ndarray, kind: str = "row", train: np.ndarray = train, test: np.ndarray = test) -> Stream:
        way = scan_order(SIDE, SIDE, kind)
        return Stream(found[train][:, way].ravel(), found[test][:, way].ravel())

    learned = codes(config.iterations)
    shown = rng.permutation(squares.image.max() + 1)[squares.image]
    by_image = np.argsort(shown, kind="stable")
    found = {
        "codes": read(learned),
        "columns": read(learned, "column"),
        "hilbert": read(learned, "hilbert"),
        "random codebook": read(codes(0)),
        "in order of photographs": read(learned, train=np.sort(train)),
        "new photographs": read(learned, train=by_image[:count], test=by_image[-held:]),
    }
    return found | {"shuffled": found["codes"].shuffled(seed)}


def open_streams(
    config: StreamConfig, texts: Sequence[str]
) -> tuple[Callable[[str, int], Stream], tuple[str, ...], dict[str, str]]:
    """(find, names, told): `find(name, seed)` of the names, and what tells images and texts from others.

    Names: `CODES`, and "words of X" and "subwords of X" of each corpus X, a BPE of such a size that about as many subwords occur as there
    are codes.
    """
    squares, told = open_squares(config)
    corpora, sizes = {name: load_corpus(name) for name in texts}, {}
    for name, corpus in corpora.items():
        ids = _tokens(corpus, range(_documents(corpus)), f"bpe:{max(config.codes, LEAST)}", config.tokens)
        sizes[name] = f"bpe:{max(LEAST, 2 * config.codes - len(np.unique(ids)))}"
    codes = cache(lambda seed: code_streams(squares, config, seed))

    @cache
    def find(arm: str, seed: int) -> Stream:
        if arm in CODES:
            return codes(seed)[arm]
        kind, _, name = arm.partition(" of ")
        return text_stream(corpora[name], sizes[name] if kind == "subwords" else kind, config, seed)

    names = (*CODES, *(f"{kind} of {name}" for name in texts for kind in ("subwords", "words")))
    return find, names, told | {name: corpus.fingerprint for name, corpus in corpora.items()}


def text_stream(corpus: Corpus, kind: str, config: StreamConfig, seed: int) -> Stream:
    """Documents in an order by seed, as `words` or by a tokenizer. Where a text is too short, both parts are shorter alike."""
    order = np.random.default_rng(seed).permutation(_documents(corpus)).tolist()
    ids = np.unique(_tokens(corpus, order, kind, config.tokens + config.held_out), return_inverse=True)[1]
    count = len(ids) * config.tokens // (config.tokens + config.held_out)
    return Stream(ids[:count], ids[count:])


def _documents(corpus: Corpus) -> int:
    return sum(map(len, corpus.splits.values()))


def _tokens(corpus: Corpus, order: Iterable[int], kind: str, most: int) -> np.ndarray:
    documents = [document for split in SPLITS for document in corpus.splits[split]]
    encode = WORDS.findall if kind == "words" else load_tokenizer(kind, corpus).encode
    found, size = [], 0
    for number in order:
        if size >= most:
            break
        found.append(np.asarray(encode(documents[number])))
        size += len(found[-1])
    return np.concatenate([part for part in found if len(part)])[:most]


def measure(stream: Stream, draws: int) -> dict[str, Any]:
    """Statistics of one stream; `bits` held out, of a token by its frequency and given the one before it."""
    train, counts = stream.train, statistics.ngram_counts(stream.train)
    symbols, tuned = int(max(map(np.max, stream))) + 1, len(train) * 7 // 8
    strengths = tune_strengths(fit_kgram(train[:tuned], 1, symbols), train[tuned:])
    bits = cross_entropies(fit_kgram(train, 1, symbols), stream.test, strengths) / np.log(2)
    law = statistics.fit_zipf_mandelbrot(counts)
    distance, p = statistics.zipf_test(counts, np.random.default_rng(0), draws)
    grams = [statistics.ngram_counts(train, n) for n in (1, 2, 3, 4)]
    zipf = [statistics.rank_distance(each, statistics.fit_zipf_mandelbrot(each, shifted=False)) for each in grams]
    return {
        "types": len(counts),
        "in_sample": statistics.conditional_entropy(train),
        "saving": statistics.huffman_saving(counts),
        "bits": bits.tolist(),
        "mandelbrot": [law.exponent, law.shift, distance, p],
        "zipf": zipf,
        "yule": statistics.fit_yule_simon(counts),
        "benford": statistics.benford_distance(counts),
        "half_seen": statistics.share_until(train),
    }


def part_shares(patch: int, codes: int, images: int, seed: int) -> dict[str, list[float]]:
    """By codebook the shares of `LEVELS` among the tokens that lie on glyphs above chance: of the class that a token agrees with most.

    A patch is what its middle shows: a glyph of a class; a cell by its place, painted or not; a quarter of such a cell. learned: by k-means
    of patches of this size; random: of random patches; shuffled: what is learned, with its tokens anywhere.
    """
    key, rng = jax.random.key(seed), np.random.default_rng(seed)
    pixels, labels, _ = sample_images(GLYPHS, images, key)
    pixels, labels = np.asarray(pixels), np.asarray(labels)
    coloured = np.ptp(pixels, axis=-1) > 0.5  # the background is grey, and a glyph's square red and green
    middle = np.arange(GLYPHS.size // patch) * patch + patch // 2
    down, right = (middle - coloured.any(axis=axis).argmax(axis=1)[:, None] for axis in (2, 1))
    down, right = np.broadcast_arrays(down[:, :, None], right[:, None, :])
    cell = GLYPHS.cell * GLYPHS.patch
    on = (np.minimum(down, right) >= 0) & (np.maximum(down, right) < CELLS * cell)
    painted = pixels[:, middle][:, :, middle, 0] > 0.5
    place = (np.clip(down // cell, 0, CELLS - 1) * CELLS + np.clip(right // cell, 0, CELLS - 1)) * 2 + painted
    quarter = (place * 2 + down % cell * 2 // cell) * 2 + right % cell * 2 // cell
    classes = [np.where(on, each, -1).ravel() for each in (labels[:, None, None], place, quarter)]
    noisy = pixels + NOISE * rng.standard_normal(pixels.shape).astype(np.float32)
    points = jnp.asarray(np.concatenate([patches(image, patch).reshape(on[0].size, -1) for image in noisy]))

    def shares(tokens: np.ndarray) -> list[float]:
        there = np.unique(tokens)
        glyph = np.bincount(tokens, on.ravel())[there] > on.mean() * np.bincount(tokens)[there]
        chosen = np.argmax([association(tokens, each).max(axis=1)[there] for each in classes], axis=0)[glyph]
        return (np.bincount(chosen, minlength=len(LEVELS)) / max(len(chosen), 1)).tolist()

    learned, untrained = (
        np.asarray(nearest(points, k_means(points, codes, iterations, key))[0]) for iterations in (ITERATIONS, 0)
    )
    return {"learned": shares(learned), "random": shares(untrained), "shuffled": shares(rng.permutation(learned))}
