"""Processor seconds of training tokenizers, against the `tokenizers` library, of inferring mixtures, of a byte of a model of tokens, of
matching pursuit and of merging the pairs of a batch.

From raw text, all threads counted: the library cuts texts in parallel, and ours asks it to cut them. The sides take turns in one process,
after a call that warms up. The library cannot go on from merges that it is given, so that superwords are held against its byte-pair
encoding on the same lines, which learns all of them; ours replays those of the first stage. A part measures, and its claims are below.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import chain, pairwise
from pathlib import Path
from time import process_time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.benchmarks.alternating import in_parts, warm
from experiments.benchmarks.promises import bars, mark, promise, speed, times
from experiments.harness.assets import asset
from experiments.harness.curves import significant
from experiments.harness.presets import presets
from experiments.harness.style import BLUE, GREY, panels
from experiments.harness.turns import take_turns
from experiments.harness.verdicts import Claim, below
from experiments.harness.workspace import Workspace
from experiments.subjects.cut_texts import excerpts
from experiments.subjects.text import STANDARD
from experiments.subjects.tokenizer_mixtures import beginning, documents_of, measure_mixture
from experiments.subjects.vocabulary_transfers import passages
from experiments.tokenization.mixture import MANY, SPLIT, messages
from lexinv.data.bpe import Merges, byte_chunks, count_pieces, learn_merges
from lexinv.data.corpora import load_corpus
from lexinv.data.tokenizers import load_tokenizer
from lexinv.nn.language_model import initialize
from lexinv.nn.transformer import TransformerConfig
from lexinv.tokenization.byte_pairs import GPT2_SPLIT, BytePairs
from lexinv.tokenization.byte_probabilities import Context, advance, next_bytes, start
from lexinv.tokenization.context_tree import tree_log_probs
from lexinv.tokenization.superbpe import LINES, WORDS, across_words, lines_of
from lexinv.transfer.dynamic import Texts, merge_batch, tokenize
from lexinv.transfer.matching_pursuit import pursue
from lexinv.validation import Checked, Count, Distinct, Fraction

PAPERS = ()
LIBRARY, LEXINV, RECOUNT = "library", "lexinv", "recount"


@dataclass(frozen=True)
class Pursuit(Checked):
    """Rows of the tables of `width` that are carried over, the shared ones, and how many of these each takes."""

    targets: Count = 512
    atoms: Count = 2000
    width: Count = 96
    k: Count = 16


@dataclass(frozen=True)
class Config(Checked):
    """corpus: that tokenizers are trained on, its first `most_bytes`, or `line_bytes` for superwords. size: of a vocabulary, of which a
    share up to `transition` is words. languages: categories of a mixture, of `category_bytes` each, whose shares `merges` tell.
    byte_text: what `byte_tokenizer` is trained on, and `byte_model` reads `bytes_read` bytes of after a prompt of as many; a batch of
    `batch` texts of 256 characters, in tokens of `batch_tokenizer`, has `batch_merges`.
    """

    corpus: str = "python-stdlib"
    most_bytes: Count = 10_000_000
    line_bytes: Count = 2_000_000
    size: Count = 8192
    transition: Fraction = 0.9
    rounds: Count = 3
    languages: Distinct[str] = messages(MANY)
    category_bytes: Count = 1_000_000
    merges: Count = 1500
    mixture_rounds: Count = 2
    pursuit: Pursuit = Pursuit()
    byte_text: str = "kjv"
    byte_tokenizer: str = "bpe:4096"
    byte_model: TransformerConfig = TransformerConfig(
        depth=4, width=128, heads=4, mlp_width=512, max_length=128, unroll=4
    )
    bytes_read: Count = 200
    batch: Count = 256
    batch_tokenizer: str = "bpe:1024"
    batch_merges: Count = 400

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield self.transition * self.size > 256, "transition", "one above the 256 bytes"


PRESETS = presets(
    Config(),
    smoke={
        "corpus": "python-docs",
        "most_bytes": 100_000,
        "line_bytes": 30_000,
        "size": 400,
        "rounds": 2,
        "languages": ("python-docs", "python-stdlib"),
        "category_bytes": 30_000,
        "merges": 40,
        "pursuit": Pursuit(20, 50, 12, 3),
        "byte_text": "python-docs",
        "byte_tokenizer": "bpe:300",
        "byte_model": TransformerConfig(depth=1, width=16, heads=2, mlp_width=32, max_length=128),
        "bytes_read": 40,
        "batch": 4,
        "batch_tokenizer": "bpe:300",
        "batch_merges": 20,
    },
    paper={"most_bytes": 1_000_000_000, "line_bytes": 100_000_000, "size": 65_536, "corpus": "tfds:wiki40b/en"},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Processor seconds of each side in each round."""
    if any(name.startswith("messages:") for name in config.languages):
        asset("messages", workspace)
    names = dict.fromkeys((config.corpus, config.byte_text, *config.languages))
    corpora = workspace.pinned("corpora", {name: load_corpus(name).fingerprint for name in names})
    return {"corpora": corpora, "size": config.size} | in_parts(
        workspace, (words, superwords, mixtures, pursuit, next_byte, batches), config
    )


def in_library(texts: Sequence[str], size: int, split: str) -> Any:
    """Byte-pair encoding as the library trains it on pieces of raw text."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    model = tokenizers.Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(tokenizers.Regex(split), "isolated")
    model.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    model.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    return model


def in_lexinv(texts: Sequence[str], size: int) -> Merges:
    return learn_merges(byte_chunks(count_pieces(texts, WORDS)), 256, size)


def words(config: Config, _: Path) -> dict[str, Any]:
    """Ordinary byte-pair encoding."""
    texts = list(beginning(config.corpus, config.most_bytes))
    sides = {
        LEXINV: partial(in_lexinv, texts, config.size),
        LIBRARY: partial(in_library, texts, config.size, WORDS),
    }
    return {"bytes": sum(len(text.encode()) for text in texts), "seconds": warm(sides, config.rounds)}


def superwords(config: Config, _: Path) -> dict[str, Any]:
    """The second stage, from the merges of the first."""
    texts = list(beginning(config.corpus, config.line_bytes))
    first = in_lexinv(texts, round(config.transition * config.size))
    lines = list(chain.from_iterable(text.splitlines(keepends=True) for text in texts))
    sides = {
        LEXINV: lambda: across_words(lines_of(texts), first, config.size),
        LIBRARY: partial(in_library, lines, config.size, LINES),
    }
    return {"bytes": sum(len(text.encode()) for text in texts), "seconds": warm(sides, config.rounds)}


def mixtures(config: Config, _: Path) -> dict[str, Any]:
    """A mixture of languages drawn, a tokenizer trained on it, and the mixture inferred from its merges, without what cuts the texts."""
    categories = [documents_of(name, SPLIT, config.category_bytes) for name in config.languages]
    sides = {LEXINV: lambda: measure_mixture(categories, config.merges, 0, False)}
    shape = {"languages": len(config.languages), "merges": config.merges}
    return shape | {"seconds": take_turns(sides, config.mixture_rounds, process_time)}


def pursuit(config: Config, _: Path) -> dict[str, Any]:
    """Rows carried over by matching pursuit, and scikit-learn's, with and without the products of all atoms."""
    size = config.pursuit
    random = np.random.default_rng(0)
    atoms, targets = (random.normal(size=(n, size.width)).astype(np.float32) for n in (size.atoms, size.targets))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)  # as scikit-learn assumes
    ours = jnp.asarray(targets), jnp.asarray(atoms)
    sides: dict[str, Any] = {LEXINV: lambda: jax.block_until_ready(pursue(*ours, size.k))}
    if find_spec("sklearn"):
        from sklearn.linear_model import orthogonal_mp

        for label, products in (("scikit-learn", False), ("scikit-learn, precomputed", True)):
            sides[label] = partial(orthogonal_mp, atoms.T, targets.T, n_nonzero_coefs=size.k, precompute=products)
    return vars(size) | {"seconds": warm(sides, config.rounds)}


def next_byte(config: Config, _: Path) -> dict[str, Any]:
    """Of a model that was not trained: its rows for a byte, and seconds of a row and of the rest of a byte in each round.

    A row reads as many tokens as the model has room for. Masks of contexts that were met before are kept, as in any text.
    """
    corpus, model = load_corpus(config.byte_text), config.byte_model
    tokenizer = load_tokenizer(config.byte_tokenizer, corpus)
    pairs, vocab = BytePairs(tokenizer, GPT2_SPLIT), tokenizer.vocab_size
    params = initialize(model, STANDARD, vocab, jax.random.key(0))
    read = tree_log_probs(model, params, vocab, model.max_length, bucket=model.max_length)
    [text] = excerpts(corpus, 0, 1, 2 * config.bytes_read)
    rows: list[float] = []

    def timed(contexts: Sequence[Context]) -> Any:
        begun = process_time()
        found = read(contexts)
        rows.extend([(process_time() - begun) / len(contexts)] * len(contexts))
        return found

    measured: dict[str, list[float]] = {"rows": [], "row": [], "rest": []}
    for _round in range(config.rounds + 1):
        state = start(pairs, text[: config.bytes_read], read)
        rows.clear()
        begun = process_time()
        for byte in text[config.bytes_read :]:
            next_bytes(state)
            state = advance(state, byte, timed)
        spent = process_time() - begun - sum(rows)
        for part, seconds in (("row", np.mean(rows)), ("rest", spent / config.bytes_read)):
            measured[part].append(significant(float(seconds)))
        measured["rows"].append(len(rows) / config.bytes_read)
    return {part: values[1:] for part, values in measured.items()}


def batches(config: Config, _: Path) -> dict[str, Any]:
    """The pairs of a batch merged, and all of them counted anew after every merge, as the released code of dynamic tokenization does."""
    corpus = load_corpus(config.byte_text)
    tokenizer = load_tokenizer(config.batch_tokenizer, corpus)
    texts = tokenize(passages(corpus, "train", config.batch, 256, 0), tokenizer, GPT2_SPLIT)
    vocab, merges = tokenizer.vocab_size, config.batch_merges
    sides = {
        LEXINV: lambda: merge_batch(texts.tokens, merges, texts.boundary, vocab),
        RECOUNT: lambda: counting_anew(texts, merges, vocab),
    }
    shape = {"texts": config.batch, "merges": merges, "tokens": int((texts.tokens >= 0).sum())}
    return shape | {"seconds": warm(sides, config.rounds)}


def counting_anew(texts: Texts, merges: int, vocab: int) -> list[list[int]]:
    """The pieces of all texts after merges of the most frequent pair, of equals the smallest, one after another."""
    ids, begins = texts.tokens[texts.tokens >= 0], texts.boundary[texts.tokens >= 0]
    words = [piece.tolist() for piece in np.split(ids, np.flatnonzero(begins)[1:])]
    for merged in range(vocab, vocab + merges):
        counts = Counter(chain.from_iterable(map(pairwise, words)))
        if not counts:
            break
        left, right = min(counts, key=lambda pair: (-counts[pair], pair))
        for word in words:
            place = 0
            while place < len(word) - 1:
                if word[place] == left and word[place + 1] == right:
                    word[place : place + 2] = [merged]
                place += 1
    return words


def claims(results: dict[str, Any]) -> list[Claim]:
    """Our promises about training."""
    size, mixed, byte = results["size"], results["mixtures"], results["next_byte"]
    batch, pursued = results["batches"], results["pursuit"]
    raw, lines = (results[part]["bytes"] / 1e6 for part in ("words", "superwords"))
    return [
        *promise(
            "bpe_from_raw_text",
            f"Byte-pair encoding of {size} tokens on {raw:.1f} MB of raw text takes at most 1.25 times the library's processor time.",
            {LIBRARY: over_library(results, "words")},
            below(1.25),
            "times as long",
        ),
        *promise(
            "superwords_no_slower_than_lines",
            f"The second stage of SuperBPE to {size} tokens on {lines:.1f} MB takes no longer than the library's BPE on lines.",
            {LIBRARY: over_library(results, "superwords")},
            below(1.0),
            "times as long",
        ),
        *promise(
            "languages_in_90_seconds",
            f"A mixture of {mixed['languages']} languages is inferred from {mixed['merges']} merges in 90 s, the training included.",
            {"processor seconds": mixed["seconds"][LEXINV]},
            below(90).every_seed,
            "seconds",
        ),
        *speed(
            "pursuit_thrice_as_fast",
            f"Pursuit of {pursued['targets']} targets over {pursued['atoms']} atoms is at least 3 times as fast as scikit-learn's.",
            {
                side: times(spent, pursued["seconds"][LEXINV])
                for side, spent in pursued["seconds"].items()
                if side != LEXINV
            },
            3,
        ),
        *promise(
            "a_row_and_a_quarter_for_a_byte",
            "After the start a byte takes one row of the model, and all else at most a quarter of that.",
            {"rows": byte["rows"], "rest over row": times(byte["rest"], byte["row"])},
            {"rows": below(1.05).every_seed, "rest over row": below(0.25)},
            "rows",
        ),
        *speed(
            "batch_faster_than_a_recount",
            f"{batch['merges']} merges of a batch of {batch['texts']} texts are 10 times as fast as counting anew after each.",
            {RECOUNT: times(batch["seconds"][RECOUNT], batch["seconds"][LEXINV])},
            10,
        ),
    ]


def over_library(results: dict[str, Any], part: str) -> Any:
    seconds = results[part]["seconds"]
    return times(seconds[LEXINV], seconds[LIBRARY])


def figure(results: dict[str, Any]) -> Figure:
    """Times as long as the library, and processor seconds of everything."""
    drawn, (ratios, seconds) = panels(1, 2, height=2.4, titles=("Against the library", "Training"))
    labels = {"words": "BPE", "superwords": "SuperBPE, second stage"}
    bars(ratios, {label: over_library(results, part) for part, label in labels.items()}, BLUE)
    mark(ratios, 1.0)
    ratios.set_xlabel("times the library's processor seconds")
    every = {
        f"{label}, {side}": spent
        for part, label in (
            labels | {"mixtures": f"{results['mixtures']['languages']} languages", "pursuit": "pursuit"}
        ).items()
        for side, spent in results[part]["seconds"].items()
    }
    bars(seconds, every, [BLUE if label.endswith(LEXINV) else GREY for label in every])
    seconds.set_xlabel("processor seconds")
    return drawn
