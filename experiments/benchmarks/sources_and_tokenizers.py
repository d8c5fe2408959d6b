"""Symbols per second of the Markov samplers, and megabytes per second of the tokenizers, against loops and the `tokenizers` library.

The sides take turns in one process, so that what disturbs the machine disturbs all of them. Ours and the loops do most of their work on
one core; XLA and the library use all that they find.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.benchmarks.alternating import Sizes, growth, in_parts
from experiments.benchmarks.promises import bars, by_size, speed, times
from experiments.harness.curves import significant
from experiments.harness.presets import presets
from experiments.harness.style import BLUE, GREY, panels
from experiments.harness.turns import take_turns
from experiments.harness.verdicts import Claim
from experiments.harness.workspace import Workspace
from lexinv.data.corpora import SPLITS, Corpus, load_corpus
from lexinv.data.markov import stationary_distribution, switching_kernel
from lexinv.data.markov_sampling import sample, sample_stream
from lexinv.data.tokenizers import LETTERS, load_tokenizer
from lexinv.tokenization.library import train_library_bpe
from lexinv.tokenization.tokenizers import to_text, train_bpe, train_lzw, with_encoder
from lexinv.tokenization.unigram import cross_entropy
from lexinv.validation import Checked, Count, Distinct

PAPERS = ()
ALPHABET = LETTERS
TIMES = 20.0
PIECE = 256
"""Characters: the library's time is quadratic in a piece, so that without words it needs the text in pieces."""
PIECES, WORDS = "library BPE, pieces", "library BPE, words"
OURS, LOOPS = ("sample, vmapped", "sample_stream"), ("NumPy, symbol by symbol", "Python lists", "NumPy over sequences")


@dataclass(frozen=True)
class Config(Checked):
    """order: of the switching source, p = q = 0.9. sequences, length: sampled at once, together as long as the stream.

    loop_symbols: what a loop samples in its turn. size: of every dictionary. texts: characters to train on. whole_texts: those for the
    library without words or pieces. encoded: characters to encode and to measure a unigram model on.
    """

    order: Count = 2
    sequences: Count = 512
    length: int = 4096
    loop_symbols: int = 131_072
    rounds: Count = 9
    corpora: Distinct[str] = ("python-docs", "python-stdlib")
    size: int = 512
    texts: Sizes = (1_000_000, 3_000_000, 10_000_000)
    whole_texts: Sizes = (10_000, 30_000, 100_000)
    trainer_rounds: Count = 3
    encoded: int = 1_000_000

    def checks(self):
        yield self.length > self.order, "length", f"more than the order {self.order}"
        enough = self.sequences * (self.order + 1)
        yield self.loop_symbols >= enough, "loop_symbols", f"at least {enough}, one a sequence"
        yield self.size > len(ALPHABET), "size", f"more than the {len(ALPHABET)} characters"
        for name in ("texts", "whole_texts"):
            least = 10 * self.size
            yield getattr(self, name)[0] >= least, name, f"at least {least} characters, 10 for each token"
        yield 2 <= self.encoded <= self.texts[-1], "encoded", f"2 to {self.texts[-1]}, the longest text"


PRESETS = presets(
    Config(),
    smoke={
        "sequences": 64,
        "length": 256,
        "loop_symbols": 2048,
        "rounds": 2,
        "corpora": ("python-docs",),
        "size": 64,
        "texts": (10_000, 30_000),
        "whole_texts": (2000, 6000),
        "trainer_rounds": 1,
        "encoded": 10_000,
    },
    paper={
        "sequences": 4096,
        "length": 16_384,
        "corpora": ("tfds:wiki40b/en",),
        "size": 32_768,
        "texts": (10_000_000, 30_000_000, 100_000_000),
        "whole_texts": (400_000, 800_000),
        "encoded": 10_000_000,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Rates of the samplers and seconds of the rest, one for each round."""
    corpora = [load_corpus(name) for name in config.corpora]
    fingerprints = workspace.pinned("corpora", {corpus.name: corpus.fingerprint for corpus in corpora})
    text, repeated = read(corpora, config.texts[-1])
    measured = in_parts(workspace, (samplers, trainers, encoders), config, text)
    return {"corpora": fingerprints, "size": config.size, "text_is_repeated": repeated, **measured}


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


def samplers(config: Config, *_: Any) -> dict[str, Any]:
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
    rates = {label: significant([symbols / t for t in seconds[label]]) for label, (_, symbols) in sides.items()}
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


def trainers(config: Config, _: Path, text: str) -> dict[str, Any]:
    """Seconds of every trainer by length of the text; of the library without words or pieces on texts that are short enough for it."""
    makers: dict[str, Callable[[str], Any]] = {
        "LZW": lambda t: train_lzw(t, config.size, ALPHABET),
        "BPE": lambda t: train_bpe(t, config.size, ALPHABET),
        PIECES: lambda t: train_in_pieces(t, config.size),
        WORDS: lambda t: train_library_bpe(t, config.size, ALPHABET, split_words=True),
    }
    whole = {"library BPE, whole": lambda t: train_library_bpe(t, config.size, ALPHABET, split_words=False)}
    rounds = config.trainer_rounds
    return {**by_length(makers, text, config.texts, rounds), **by_length(whole, text, config.whole_texts, rounds)}


def by_length(
    makers: dict[str, Callable[[str], Any]], text: str, lengths: Sequence[int], rounds: int
) -> dict[str, Any]:
    """`growth` of every side's seconds with the characters that it reads."""
    for make in makers.values():
        make(text[: lengths[0]])  # imports, first allocations
    by_size = [take_turns({k: partial(make, text[:n]) for k, make in makers.items()}, rounds) for n in lengths]
    return {label: growth(lengths, [found[label] for found in by_size]) for label in makers}


def encoders(config: Config, _: Path, text: str) -> dict[str, Any]:
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
    """Our own promises about speed."""
    rates, found = results["samplers"]["rates"], results["trainers"]
    longest = {label: found[label]["seconds"][-1] for label in ("LZW", "BPE", PIECES, WORDS)}
    over = {f"{ours} over {loop}": times(rates[ours], rates[loop]) for ours in OURS for loop in LOOPS}
    text = f"at {results['size']} tokens on {found['BPE']['sizes'][-1] / 1e6:g} MB of text without word limits"
    same = (
        f"the library's BPE on pieces of {PIECE} characters, since its time is quadratic in a piece (measured: its time over ours, there "
        "and with the text split into words, which is less work and another result)"
    )

    def against(name: str, label: str, statement: str) -> list[Claim]:
        peers = {peer: times(longest[peer], longest[label]) for peer in (PIECES, WORDS)}
        return speed(name, statement, peers, {PIECES: 1.0})

    return [
        *speed(
            "samplers_twenty_times_a_loop",
            f"`sample` under vmap and `sample_stream` each draw {TIMES:g} times as many symbols per second as a plain NumPy loop, symbol "
            f"by symbol, over the same kernel of {results['samplers']['contexts']} contexts (beside it two faster loops).",
            over,
            {f"{ours} over {LOOPS[0]}": TIMES for ours in OURS},
        ),
        *against(
            "lzw_trainer_faster_than_library_bpe",
            "LZW",
            f"Training LZW {text} is faster than {same}. LZW stops reading when its dictionary is full, so that its time is that of "
            "checking the text.",
        ),
        *against("bpe_trainer_no_slower_than_library", "BPE", f"Training our BPE {text} is faster than {same}."),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Samplers, trainers by length of the text, encoders."""
    found = results["encoders"]
    titles = ("Sampling", f"Training {results['size']} tokens", f"Encoding {found['characters'] / 1e6:g} MB")
    drawn, (sampling, training, encoding) = panels(1, 3, height=3.6, titles=titles)
    rates = {label: np.array(rates) / 1e6 for label, rates in results["samplers"]["rates"].items()}
    bars(sampling, rates, [BLUE if label in OURS else GREY for label in rates], "{:.3g}")
    sampling.set(xlabel="million symbols per second")
    by_size(training, results["trainers"])
    training.set(xlabel="characters of text")
    training.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, title="exponents", fontsize=7)
    speeds = {label: found["characters"] / 1e6 / np.array(seconds) for label, seconds in found["seconds"].items()}
    bars(encoding, speeds, [GREY if label.startswith("library") else BLUE for label in speeds], "{:.3g}")
    points = f"{1 / np.median(found['unigram']):,.0f} unigram losses of it per second"
    encoding.set(xlabel=f"MB per second\n({points})")
    return drawn
