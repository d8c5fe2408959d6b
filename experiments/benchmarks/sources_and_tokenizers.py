"""Symbols per second of the Markov samplers, and megabytes per second of the tokenizers, against loops and the `tokenizers` library.

The sides take turns in one process, so that what disturbs the machine disturbs all of them, and medians or ratios within a round are
compared. Ours and the loops do most of their work on one core; XLA and the library use all that they find.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.benchmarks.alternating import exponent, ratio
from experiments.harness.claims import Claim, above, interval
from experiments.harness.papers import bibtex
from experiments.harness.style import BLUE, GREY, ORANGE, PURPLE, SKY, VERMILION, panels, styled
from experiments.harness.turns import significant, take_turns
from experiments.harness.workspace import Workspace
from lexinv.data.corpora import SPLITS, Corpus, load_corpus
from lexinv.data.markov import stationary_distribution, switching_kernel
from lexinv.data.markov_sampling import sample, sample_stream
from lexinv.data.tokenizers import LETTERS, load_tokenizer
from lexinv.tokenization.library import train_library_bpe
from lexinv.tokenization.tokenizers import to_text, train_bpe, train_lzw, with_encoder
from lexinv.tokenization.unigram import cross_entropy
from lexinv.validation import require

PAPER = bibtex("rajaraman2024analysis")
ALPHABET = LETTERS
SOURCE = "our own benchmark, no published counterpart"
TIMES, ENOUGH_ROUNDS = 20.0, 3
PIECE = 256
"""Characters: the library's time is quadratic in a piece, so that without words it needs the text in pieces."""
OURS, LOOPS = ("sample, vmapped", "sample_stream"), ("NumPy, symbol by symbol", "Python lists", "NumPy over sequences")
COLORS = {
    "LZW": PURPLE,
    "BPE": BLUE,
    "library BPE, pieces": VERMILION,
    "library BPE, words": ORANGE,
    "library BPE, whole": SKY,
}


@dataclass(frozen=True)
class Config:
    """order: of the switching source, p = q = 0.9. sequences, length: sampled at once, together as long as the stream.

    loop_symbols: what a loop samples in its turn. size: of every dictionary. texts: characters to train on. whole_texts: those for the
    library without words or pieces. encoded: characters to encode and to measure a unigram model on.
    """

    order: int = 2
    sequences: int = 512
    length: int = 4096
    loop_symbols: int = 131_072
    rounds: int = 9
    corpora: tuple[str, ...] = ("python-docs", "python-stdlib")
    size: int = 512
    texts: tuple[int, ...] = (1_000_000, 3_000_000, 10_000_000)
    whole_texts: tuple[int, ...] = (10_000, 30_000, 100_000)
    trainer_rounds: int = 3
    encoded: int = 1_000_000

    def __post_init__(self):
        require(self.length > self.order, "length", self.length, f"more than the order {self.order}")
        require(self.sequences >= 1, "sequences", self.sequences, "at least 1")
        enough = self.sequences * (self.order + 1)
        require(self.loop_symbols >= enough, "loop_symbols", self.loop_symbols, f"at least {enough}, one a sequence")
        for name in ("rounds", "trainer_rounds"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(len(self.corpora) >= 1, "corpora", self.corpora, "at least one")
        require(self.size > len(ALPHABET), "size", self.size, f"more than the {len(ALPHABET)} characters")
        for name in ("texts", "whole_texts"):
            sizes = getattr(self, name)
            rising = len(sizes) >= 2 and all(a < b for a, b in pairwise(sizes))
            require(rising, name, sizes, "at least two sizes in rising order, for a slope")
            least = 10 * self.size
            require(sizes[0] >= least, name, sizes, f"at least {least} characters, 10 for each token")
        require(
            2 <= self.encoded <= self.texts[-1], "encoded", self.encoded, f"2 to {self.texts[-1]}, the longest text"
        )


PRESETS = {
    "smoke": Config(
        sequences=64,
        length=256,
        loop_symbols=2048,
        rounds=2,
        corpora=("python-docs",),
        size=64,
        texts=(10_000, 30_000),
        whole_texts=(2000, 6000),
        trainer_rounds=1,
        encoded=10_000,
    ),
    "cpu": Config(),
    "paper": Config(
        sequences=4096,
        length=16_384,
        corpora=("tfds:wiki40b/en",),
        size=32_768,
        texts=(10_000_000, 30_000_000, 100_000_000),
        whole_texts=(400_000, 800_000),
        encoded=10_000_000,
    ),
}


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Rates of the samplers and seconds of the rest, one for each round."""
    from rich.progress import track

    corpora = [load_corpus(name) for name in config.corpora]
    fingerprints = workspace.pinned("corpora", {corpus.name: corpus.fingerprint for corpus in corpora})
    text, repeated = read(corpora, config.texts[-1])
    parts: dict[str, Callable[[], Any]] = {
        "samplers": partial(samplers, config),
        "trainers": partial(trainers, config, text),
        "whole": partial(whole, config, text),
        "encoders": partial(encoders, config, text),
    }
    results = {
        "corpora": fingerprints,
        "seeds": list(range(config.rounds)),
        "size": config.size,
        "text_is_repeated": repeated,
    }
    for name, measure in track(parts.items(), "sources_and_tokenizers", disable=not workspace.progress):
        results[name] = workspace.cached(name, measure)
    return results


def read(corpora: Sequence[Corpus], characters: int) -> tuple[str, bool]:
    """The first `characters` letters of the corpora after one another, again from the start where they are shorter; and if they are."""
    pieces, found = [], 0
    for corpus in corpora:
        letters = load_tokenizer("letters", corpus)
        for split in SPLITS:
            for document in corpus.splits[split]:
                if found >= characters:
                    break
                pieces += [letters.encode(document), np.array([letters.separator], np.int32)]
                found += len(pieces[-2]) + 1
    return to_text(np.resize(np.concatenate(pieces), characters), ALPHABET), found < characters


def samplers(config: Config) -> dict[str, Any]:
    """Symbols per second of every sampler of the same source, in each round."""
    import jax
    import jax.numpy as jnp

    kernel = switching_kernel(config.order, 0.9, 0.9)
    law = stationary_distribution(kernel)
    arrays = jnp.asarray(kernel, jnp.float32), jnp.asarray(law, jnp.float32)
    total = config.sequences * config.length

    @jax.jit
    def sequences(key):
        return jax.vmap(lambda k: sample(k, *arrays, config.length))(jax.random.split(key, config.sequences))

    stream = jax.jit(lambda key: sample_stream(key, *arrays, total))
    rng = np.random.default_rng(0)
    steps = config.loop_symbols // config.sequences
    sides = {
        "sample, vmapped": (lambda: sequences(jax.random.key(0)).block_until_ready(), total),
        "sample_stream": (lambda: stream(jax.random.key(0)).block_until_ready(), total),
        "NumPy, symbol by symbol": (
            lambda: numpy_loop(kernel, 0, rng.random(config.loop_symbols)),
            config.loop_symbols,
        ),
        "Python lists": (lambda: list_loop(kernel, 0, rng.random(config.loop_symbols)), config.loop_symbols),
        "NumPy over sequences": (
            lambda: row_loop(kernel, np.zeros(config.sequences, np.int64), rng.random((steps, config.sequences))),
            steps * config.sequences,
        ),
    }
    for call, _ in sides.values():
        call()  # compiles
    seconds = take_turns({label: call for label, (call, _) in sides.items()}, config.rounds)
    rates = {label: [significant(symbols / t) for t in seconds[label]] for label, (_, symbols) in sides.items()}
    return {"contexts": len(kernel), "symbols": total, "rates": rates}


def numpy_loop(kernel: np.ndarray, context: int, uniforms: np.ndarray) -> np.ndarray:
    """The plain loop: each symbol is the inverse of its context's distribution function at a uniform number."""
    contexts, symbols = kernel.shape
    cumulative = np.cumsum(kernel, axis=1)[:, :-1]
    drawn = np.empty(len(uniforms), np.int32)
    for i in range(len(uniforms)):
        symbol = np.searchsorted(cumulative[context], uniforms[i], side="right")
        context = (context * symbols + symbol) % contexts
        drawn[i] = symbol
    return drawn


def list_loop(kernel: np.ndarray, context: int, uniforms: np.ndarray) -> np.ndarray:
    """The same loop as fast as Python goes: lists instead of arrays."""
    from bisect import bisect_right

    contexts, symbols = kernel.shape
    cumulative = np.cumsum(kernel, axis=1)[:, :-1].tolist()
    drawn = []
    for u in uniforms.tolist():
        symbol = bisect_right(cumulative[context], u)
        context = (context * symbols + symbol) % contexts
        drawn.append(symbol)
    return np.array(drawn, np.int32)


def row_loop(kernel: np.ndarray, context: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Many sequences, a symbol of all of them at a time: contexts [sequences], uniforms [steps, sequences]."""
    contexts, symbols = kernel.shape
    cumulative = np.cumsum(kernel, axis=1)[:, :-1]
    drawn = np.empty(uniforms.shape, np.int32)
    for i, row in enumerate(uniforms):
        drawn[i] = (row[:, None] >= cumulative[context]).sum(axis=1)
        context = (context * symbols + drawn[i]) % contexts
    return drawn


def train_in_pieces(text: str, size: int) -> Any:
    """The library's BPE on pieces of 256 characters: as near to no word limits as it comes in reasonable time."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.FixedLength(PIECE)
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=list(ALPHABET), show_progress=False)
    model.train_from_iterator([text], trainer)
    return model


def trainers(config: Config, text: str) -> dict[str, Any]:
    """Seconds of every trainer by length of the text, [lengths][rounds]."""
    makers: dict[str, Callable[[str], Any]] = {
        "LZW": lambda t: train_lzw(t, config.size, ALPHABET),
        "BPE": lambda t: train_bpe(t, config.size, ALPHABET),
        "library BPE, pieces": lambda t: train_in_pieces(t, config.size),
        "library BPE, words": lambda t: train_library_bpe(t, config.size, ALPHABET, split_words=True),
    }
    return by_length(makers, text, config.texts, config.trainer_rounds)


def whole(config: Config, text: str) -> dict[str, Any]:
    """The library's BPE without words or pieces, on texts that are short enough for it."""
    makers = {"library BPE, whole": lambda t: train_library_bpe(t, config.size, ALPHABET, split_words=False)}
    return by_length(makers, text, config.whole_texts, config.trainer_rounds)


def by_length(
    makers: dict[str, Callable[[str], Any]], text: str, lengths: Sequence[int], rounds: int
) -> dict[str, Any]:
    """Seconds by side, [lengths][rounds], and the exponent of a power law fitted to them in each round."""
    for make in makers.values():
        make(text[: lengths[0]])  # imports, first allocations
    by_size = [take_turns({k: partial(make, text[:n]) for k, make in makers.items()}, rounds) for n in lengths]
    seconds = {label: [found[label] for found in by_size] for label in makers}
    exponents = {
        label: [exponent(lengths, times) for times in zip(*rows, strict=True)] for label, rows in seconds.items()
    }
    return {"characters": list(lengths), "seconds": seconds, "exponents": exponents}


def encoders(config: Config, text: str) -> dict[str, Any]:
    """Seconds of encoding a text of `encoded` characters, and of one unigram cross-entropy on its tokens, in each round."""
    text = text[: config.encoded]
    lzw, bpe = train_lzw(text, config.size, ALPHABET), train_bpe(text, config.size, ALPHABET)
    library = train_library_bpe(text, config.size, ALPHABET, split_words=True)
    shortest = with_encoder(bpe, "minimum_length")
    ids = bpe.encode(text)
    sides = {
        "LZW, greedy": partial(lzw.encode, text),
        "BPE, merges": partial(bpe.encode, text),
        "BPE, fewest tokens": partial(shortest.encode, text),
        "library BPE, words": partial(library.encode, text),
    }
    points = take_turns({"unigram": lambda: cross_entropy(ids, ids, bpe)}, config.rounds)
    return {"characters": len(text), "seconds": take_turns(sides, config.trainer_rounds), "unigram": points["unigram"]}


def claims(results: dict[str, Any]) -> list[Claim]:
    """Our own promises about speed; too few rounds cannot tell."""
    rates, found = results["samplers"]["rates"], results["trainers"]
    over = {ours: {loop: ratio(rates[ours], rates[loop])["by_round"] for loop in LOOPS} for ours in OURS}
    plain = [over[ours][LOOPS[0]] for ours in OURS]
    longest = {label: rows[-1] for label, rows in found["seconds"].items()}
    size, megabytes = results["size"], found["characters"][-1] / 1e6

    def against(name: str, label: str, statement: str) -> Claim:
        peers = {peer: ratio(longest[peer], longest[label]) for peer in longest if peer.startswith("library")}
        judged = peers["library BPE, pieces"]
        holds = judged["ratio"] > 1.0 if judged["by_round"].n >= ENOUGH_ROUNDS else None
        limit = "ratio of medians to the library in pieces above 1"
        return Claim(name, statement, SOURCE, None, peers, limit, holds)

    text = f"at {size} tokens on {megabytes:g} MB of text without word limits"
    same = (
        f"the library's BPE on pieces of {PIECE} characters, since its time is quadratic in a piece (measured: its time over ours, there "
        "and with the text split into words, which is less work and another result)"
    )
    stops = "LZW stops reading when its dictionary is full, so that its time is that of checking the text."
    return [
        Claim(
            "samplers_twenty_times_a_loop",
            f"`sample` under vmap and `sample_stream` each draw {TIMES:g} times as many symbols per second as a plain NumPy loop, symbol "
            f"by symbol, over the same kernel of {results['samplers']['contexts']} contexts (measured: times the rate of this loop, and "
            "of two faster ones).",
            SOURCE,
            None,
            over,
            f"whole interval over rounds above {TIMES:g} for both, over the plain loop",
            all(above(found, TIMES) for found in plain) if plain[0].n >= ENOUGH_ROUNDS else None,
        ),
        against("lzw_trainer_faster_than_library_bpe", "LZW", f"Training LZW {text} is faster than {same}. {stops}"),
        against("bpe_trainer_no_slower_than_library", "BPE", f"Training our BPE {text} is faster than {same}."),
    ]


def bars(axes: Axes, rates: dict[str, float], ours: Sequence[str]) -> None:
    """Horizontal bars, ours in blue."""
    drawn = axes.barh(list(rates), list(rates.values()), color=[BLUE if k in ours else GREY for k in rates], height=0.6)
    axes.bar_label(drawn, fmt=" %.3g", fontsize=8)
    axes.margins(x=0.2)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")


def figure(results: dict[str, Any]) -> Figure:
    """Samplers, trainers by length of the text, encoders."""
    drawn, (sampling, training, encoding) = panels(1, 3, width=4.4, height=3.6)
    with styled():
        bars(sampling, {label: median(rates) / 1e6 for label, rates in results["samplers"]["rates"].items()}, OURS)
        sampling.set(title="Sampling", xlabel="million symbols per second")
        for part in (results["trainers"], results["whole"]):
            for label, rows in part["seconds"].items():
                times = [median(times) for times in rows]
                name = f"{label}: exponent {interval(part['exponents'][label]).mean:.2f}"
                training.loglog(np.array(part["characters"]) / 1e6, times, "o-", color=COLORS[label], label=name)
        training.set(title=f"Training {results['size']} tokens", xlabel="MB of text", ylabel="seconds")
        training.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=7)
        found = results["encoders"]
        speeds = {label: found["characters"] / 1e6 / median(times) for label, times in found["seconds"].items()}
        bars(encoding, speeds, [label for label in speeds if not label.startswith("library")])
        points = f"{1 / median(found['unigram']):,.0f} unigram losses of it per second"
        encoding.set(title=f"Encoding {found['characters'] / 1e6:g} MB", xlabel=f"MB per second\n({points})")
    return drawn
