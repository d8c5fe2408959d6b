"""On real text unigram models over BPE, WordPiece and Unigram tokens pass character k-grams of as many parameters; over LZW they do not.

Rajaraman et al. 2024 (arXiv 2404.08335), unigram models over the tokens of Wikitext-103 [recalled]; method card theory-of-tokenization,
experiment C. The text is lower-cased to a-z, full stop, comma and space. Every seed divides the documents anew into those that tokenizers,
unigram models and k-grams are all trained on, and those on which they are measured.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.harness.arms import by_metric
from experiments.harness.corpora import installed, note_folded, slug
from experiments.harness.intervals import interval
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, panels, reference
from experiments.harness.verdicts import Claim, below
from experiments.harness.workspace import Workspace
from lexinv.data.corpora import SPLITS, Corpus, load_corpus
from lexinv.data.kgram import cross_entropies, fit_kgram, tune_strengths
from lexinv.data.tokenizers import LETTERS, folded_share, load_tokenizer
from lexinv.tokenization.library import train_library_bpe, train_unigram, train_wordpiece
from lexinv.tokenization.tokenizers import Tokenizer, shortened, to_text, train_bpe, train_lzw
from lexinv.tokenization.unigram import cross_entropy
from lexinv.validation import Checked, Count, Counts, Distinct, Seeds, require

PAPERS = ("rajaraman2024analysis",)
WIKITEXT = "rajaraman2024analysis: Wikitext-103 [recalled]"
WORDS = ("bpe", "wordpiece", "unigram")
TRAINERS: dict[str, Callable[[str, int], Tokenizer]] = {
    "bpe": partial(train_library_bpe, alphabet=LETTERS, split_words=True),
    "wordpiece": partial(train_wordpiece, alphabet=LETTERS, split_words=True),
    "unigram": partial(train_unigram, alphabet=LETTERS, split_words=True, at_most=True),
    "lzw": partial(train_lzw, alphabet=LETTERS),
}
LABELS = {
    "bpe": ("BPE", BLUE),
    "wordpiece": ("WordPiece", VERMILION),
    "unigram": ("Unigram", GREEN),
    "bpe_whole": ("BPE, text not split into words", ORANGE),
    "lzw": ("LZW, greedy", PURPLE),
}
JUDGED, FROM, CLOSE = 4096, 1024, 0.15  # sizes at which claims are judged; nats per character
TUNED_SHARE = 0.05  # of the training text, on which the k-grams' strengths are tuned


@dataclass(frozen=True)
class Config(Checked):
    """sizes: of the dictionaries, characters included. grams: the longest k-gram. seeds: divisions of the documents.

    train_characters, test_characters: how much of each corpus is used; documents are drawn at random until there is as much.
    """

    corpora: Distinct[str] = ("python-docs", "kjv")
    sizes: Counts = (64, 256, 1024, 4096, 16_384)
    grams: Count = 5
    train_characters: Count = 1_500_000
    test_characters: Count = 150_000
    seeds: Seeds = (0, 1, 2)

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        least, enough = 2 * len(LETTERS), 20 * max(self.sizes)
        rising = list(self.sizes) == sorted(self.sizes) and self.sizes[0] >= least
        yield rising, "sizes", f"in rising order, from {least}, the characters of WordPiece"
        yield self.grams <= 12, "grams", f"1 to 12: runs of {len(LETTERS)} symbols are numbered in 63 bits"
        large = self.train_characters >= enough
        yield large, "train_characters", f"at least {enough}, 20 for each token of the largest dictionary"
        yield self.test_characters >= 1000, "test_characters", "at least 1000"


PRESETS = presets(
    Config(),
    smoke={
        "corpora": ("python-docs",),
        "sizes": (64, 256),
        "grams": 3,
        "train_characters": 60_000,
        "test_characters": 10_000,
        "seeds": (0, 1),
    },
    # TFDS has no Wikitext-103; these are articles of Wikipedia too.
    paper={
        "corpora": ("tfds:wiki40b/en",),
        "sizes": (256, 1024, 4096, 16_384, 32_768),
        "grams": 6,
        "train_characters": 100_000_000,
        "test_characters": 1_000_000,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Nats per character of the test text by corpus: `tokens` by tokenizer, `kgrams` and `compressors`, one row per seed."""
    from rich.progress import track

    first, *others = config.corpora
    corpora = [load_corpus(name) for name in (first, *filter(installed, others))]
    fingerprints = workspace.pinned("corpora", {corpus.name: corpus.fingerprint for corpus in corpora})
    results: dict[str, Any] = {
        "corpora": fingerprints,
        "left_out": {name: "its package is not installed" for name in others if not installed(name)},
        "seeds": config.seeds,
        "sizes": config.sizes,
        "texts": {},
    }
    divisions = [(corpus, seed) for corpus in corpora for seed in config.seeds]
    measured: dict[str, list[dict[str, Any]]] = {corpus.name: [] for corpus in corpora}
    folded: dict[str, dict[str, float]] = {corpus.name: {} for corpus in corpora}
    for corpus, seed in track(divisions, "real_text", disable=not workspace.progress):
        train, test, share = divide(corpus, config.train_characters, config.test_characters, seed)
        folded[corpus.name][f"seed {seed}"] = share
        note_folded(workspace, corpus.name, "letters", folded[corpus.name])
        folder = f"{slug(corpus.name)}/seed-{seed}"

        def stage(kind: str, folder=folder, train=train, test=test) -> dict[str, Any]:
            return workspace.cached(f"{folder}/{kind}", lambda: measure(train, test, config, kind))

        # The library lets other threads run while it trains. Unigram, which takes longest, goes first.
        kinds = ("unigram", *(kind for kind in LABELS if kind != "unigram"), "kgrams", "compressors")
        with ThreadPoolExecutor(2) as pool:
            measured[corpus.name].append(dict(zip(kinds, pool.map(stage, kinds), strict=True)))
    for name, seeds in measured.items():
        by_kind = {kind: by_metric([seed[kind] for seed in seeds]) for kind in seeds[0]}
        tokens = {kind: by_kind.pop(kind) for kind in LABELS}
        results["texts"][name] = {**by_kind, "tokens": tokens}
    return results


def measure(train: np.ndarray, test: np.ndarray, config: Config, kind: str) -> dict[str, Any]:
    """One kind of model on one division of a corpus: its sizes and nats per character."""
    if kind == "kgrams":
        return measure_kgrams(train, test, config.grams)
    if kind == "compressors":
        return compressors(to_text(test, LETTERS))
    train_text, test_text = to_text(train, LETTERS), to_text(test, LETTERS)
    trained = tokenizers(kind, train_text, config.sizes)
    nats = [cross_entropy(t.encode(train_text), t.encode(test_text), t) for t in trained]
    return {"sizes": [t.size for t in trained], "nats": np.round(nats, 5)}


class Division(NamedTuple):
    """Symbols of two texts, and the share of the characters of their documents that `letters` folds."""

    train: np.ndarray
    test: np.ndarray
    folded: float


def divide(corpus: Corpus, train_characters: int, test_characters: int, seed: int) -> Division:
    """A training and a test text from documents drawn without replacement, whatever the corpus's own splits.

    A space lies between documents. Raises `InvalidConfig` where the corpus has less text, or more that `letters` folds than it may.
    """
    letters = load_tokenizer("letters", corpus)
    documents = [(split, i) for split in SPLITS for i in range(len(corpus.splits[split]))]
    order = np.random.default_rng(seed).permutation(len(documents)).tolist()
    drawn = (corpus.splits[split][i] for split, i in (documents[number] for number in order))
    texts = []

    def take(field: str, characters: int) -> np.ndarray:
        pieces, found = [], 0
        while found < characters:
            text = next(drawn, None)
            require(text is not None, field, characters, f"less: {corpus.name} has {found} left for it")
            texts.append(text)
            if len(document := letters.encode(text)):
                pieces += [document, np.array([letters.separator], np.int32)]
                found += len(document) + 1
        return np.concatenate(pieces)[:characters]

    test = take("test_characters", test_characters)
    train = take("train_characters", train_characters)
    return Division(train, test, folded_share(letters, texts, corpus.name))


def tokenizers(kind: str, text: str, sizes: Sequence[int]) -> list[Tokenizer]:
    """A tokenizer of each size. Those of BPE without words are the first merges of the largest, which are what training them would give."""
    if kind != "bpe_whole":
        return [TRAINERS[kind](text, size) for size in sizes]
    largest = train_bpe(text, sizes[-1], LETTERS)
    return [shortened(largest, size) for size in sizes]


def measure_kgrams(train: np.ndarray, test: np.ndarray, grams: int) -> dict[str, Any]:
    """Interpolated k-grams for k = 1 to `grams`: strengths tuned on the end of the training text, counts of the whole of it."""
    cut = len(train) - max(int(TUNED_SHARE * len(train)), 1)
    strengths = tune_strengths(fit_kgram(train[:cut], grams - 1, len(LETTERS)), train[cut:])
    model = fit_kgram(train, grams - 1, len(LETTERS))
    nats = cross_entropies(model, test, strengths)
    return {"sizes": model.parameters, "nats": np.round(nats, 5), "strengths": strengths}


def compressors(text: str) -> dict[str, float]:
    """gzip and xz at their highest levels, as references from outside: they see the test text alone, and learn while they read it."""
    import gzip
    import lzma

    data = text.encode()
    packed = {"gzip": gzip.compress(data, 9), "xz": lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)}
    return {name: round(8 * len(file) * np.log(2) / len(text), 5) for name, file in packed.items()}


def above_kgrams(text: dict[str, Any], kind: str) -> np.ndarray:
    """[divisions, sizes]: nats per character of one kind of tokens above the smallest k-gram that has at least as many parameters.

    NaN where no k-gram has.
    """
    found, kgrams = text["tokens"][kind], text["kgrams"]

    def equal(division: int, size: int) -> float:
        ranks = zip(kgrams["sizes"][division], kgrams["nats"][division], strict=True)
        return min(((parameters, nats) for parameters, nats in ranks if parameters >= size), default=(0, np.nan))[1]

    opponents = [[equal(division, size) for size in sizes] for division, sizes in enumerate(found["sizes"])]
    return np.array(found["nats"]) - opponents


def claims(results: dict[str, Any]) -> list[Claim]:
    """What holds on every corpus. Differences are taken within a division."""
    texts, sizes = results["texts"], np.array(results["sizes"])
    at, least = max(size for size in sizes if size <= max(JUDGED, sizes[0])), min(FROM, sizes[-1])

    def spread(*kinds: str) -> dict[str, np.ndarray]:
        nats = {name: np.array([text["tokens"][kind]["nats"] for kind in kinds]) for name, text in texts.items()}
        return {name: np.ptp(found[:, :, list(sizes).index(at)], axis=0) for name, found in nats.items()}

    return [
        Claim(
            "tokens_beat_kgrams_of_equal_size",
            f"Unigram models over BPE, WordPiece and Unigram tokens are below the interpolated character k-gram with as many parameters or "
            f"more, the smallest there is, at every dictionary size from {least}.",
            WIKITEXT,
            {
                name: np.max([above_kgrams(text, kind)[:, sizes >= least] for kind in WORDS], axis=(0, 2))
                for name, text in texts.items()
            },
            below(0),
            "difference of the worst tokenizer and size, nats per character",
            over="divisions",
        ),
        Claim(
            "tokenizers_are_close",
            f"BPE, WordPiece and Unigram are close to one another at {at} tokens.",
            WIKITEXT,
            spread(*WORDS),
            below(CLOSE),
            "highest less lowest, nats per character",
            over="divisions",
        ),
        Claim(
            "lzw_is_close",
            f"LZW with greedy encoding is close to BPE at {at} tokens.",
            WIKITEXT,
            spread("bpe", "lzw"),
            below(CLOSE),
            "distance, nats per character",
            over="divisions",
        ),
    ]


def draw(axes: Axes, found: dict[str, Any], label: str, color: str, **line: Any) -> None:
    """Mean over divisions against the mean number of parameters, with the intervals as bars."""
    intervals = [interval(column) for column in zip(*found["nats"], strict=True)]
    means = [i.mean for i in intervals]
    reach = None if intervals[0].high is None else [i.high - i.mean for i in intervals]
    sizes = np.mean(found["sizes"], axis=0)
    axes.errorbar(sizes, means, reach, label=label, color=color, capsize=2, elinewidth=0.8, markersize=4, **line)


def figure(results: dict[str, Any]) -> Figure:
    """Cross-entropy against the number of parameters: a line for each tokenizer, the k-grams, and the compressors."""
    drawn, axes = panels(1, len(results["texts"]), width=5.2, height=4.4)
    for panel, (corpus, text) in zip(axes, results["texts"].items(), strict=True):
        for kind, (label, color) in LABELS.items():
            draw(panel, text["tokens"][kind], label, color, marker="o")
        kgrams = text["kgrams"]
        draw(panel, kgrams, "interpolated character k-grams", BLACK, marker="s", linestyle=":")
        for k, (size, nats) in enumerate(
            zip(np.mean(kgrams["sizes"], axis=0), np.mean(kgrams["nats"], axis=0), strict=True), 1
        ):
            panel.annotate(f"k = {k}", (size, nats), (4, 4), textcoords="offset points", fontsize=8)
        for (name, nats), color in zip(text["compressors"].items(), (GREY, BLACK), strict=True):
            reference(panel, float(np.mean(nats)), f"{name} (learns on the test text)", color)
        panel.set(
            title=corpus,
            xlabel="parameters: tokens, or distinct k-grams",
            ylabel="nats per character",
            xscale="log",
        )
    drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return drawn
