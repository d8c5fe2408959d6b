"""Words whose first letter a language model knows: its activations at words of one token, and what an autoencoder makes of them.

Chanin et al. 2024 ask it of latents, in a prompt that spells; here every word follows the same short text.
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from experiments.subjects.language_subjects import LanguageSubject, activations_of, unused_key
from lexinv.data.corpora import load_corpus
from lexinv.data.windows import array_windows
from lexinv.sae.absorption import absorption, main_latents
from lexinv.sae.activation_streams import model_activations
from lexinv.sae.probe_perturbation import perturbed_accuracies, selectivity
from lexinv.sae.probing import Probe, fit_logistic, most_different, scores, sparse_probing
from lexinv.validation import Checked, Count, Counts, Fractions, Positive, require

BLOCK = 256
"""Words whose activations are computed at a time."""


@dataclass(frozen=True)
class WordsConfig(Checked):
    """count: the most frequent words of the training text that are `pieces` tokens long with the space before them; letters that begin at
    least `least` of them are asked for. prompt: what is read before each.

    penalty: of the probes on all dimensions. ks: latents that a sparse probe reads. ablated: latents that are taken away.
    shares: of a probe's projection, which an absorbing latent carries at least; SAEBench's first.
    """

    count: Count = 4000
    pieces: Count = 1
    least: Count = 100
    prompt: str = "The word"
    penalty: Positive = 10.0
    ks: Counts = (1, 2, 5)
    ablated: Count = 5
    shares: Fractions = (0.4, 0.1)


class Words(NamedTuple):
    """Activations at the last token of each word, and which letter it begins with."""

    letters: tuple[str, ...]
    x: Float[np.ndarray, "words width"]
    labels: Bool[np.ndarray, "words letters"]


class Split(NamedTuple):
    """Two halves of the words, and the probe on all dimensions of the first."""

    words: Words
    train: Int[np.ndarray, " train"]
    held: Int[np.ndarray, " held"]
    probe: Probe


def read_words(config: WordsConfig, subject: LanguageSubject) -> Words:
    """Each word read after the prompt. Raises `InvalidConfig` for fewer than two letters."""
    counts, tokenizer = Counter(), subject.world.tokenizer
    for name in subject.fingerprints:
        for document in load_corpus(name).splits["train"]:
            counts.update(re.findall(r"\b[a-z]{3,}\b", document))
    encoded = ((word, tokenizer.encode(f" {word}")) for word, _ in counts.most_common())
    found = [pair for pair in encoded if len(pair[1]) == config.pieces][: config.count]
    begun = Counter(word[0] for word, _ in found)
    letters = tuple(sorted(letter for letter, count in begun.items() if count >= config.least))
    require(len(letters) >= 2, "words.least", config.least, "a number of words that two letters begin")
    found = [(word, tokens) for word, tokens in found if word[0] in letters]
    prompt, end = tokenizer.encode(config.prompt), [tokenizer.separator]  # the last token of a window is not read
    windows = np.array([[*prompt, *tokens, *end] for _, tokens in found], np.uint32)
    whole = array_windows(windows.reshape(-1), windows.shape[1])
    read = activations_of(subject.world, subject.site)
    computed = model_activations(read, subject.world.model.params, whole, BLOCK, unused_key())
    rows = np.concatenate([computed.block(i) for i in range(len(computed.block_rows))])
    firsts = np.array([word[0] for word, _ in found])[:, None]
    return Words(letters, rows.reshape(len(windows), -1, subject.width)[:, -1], firsts == np.array(letters)[None])


def split_words(words: Words, config: WordsConfig, seed: int) -> Split:
    """Halves by the seed, so that no word is in both."""
    train, held = np.split(np.random.default_rng(seed).permutation(len(words.x)), [len(words.x) // 2])
    return Split(words, train, held, fit_logistic(words.x[train], words.labels[train], config.penalty))


def told_by_all(split: Split) -> float:
    """Balanced accuracy of the probe on all dimensions, on the words held out; mean over letters."""
    words, _, held, probe = split
    return float(scores(probe.logits(words.x[held]), words.labels[held]).balanced_accuracy.mean())


def evaluate(
    config: WordsConfig,
    split: Split,
    codes: Float[np.ndarray, "words latents"],
    decoder: Float[np.ndarray, "latents width"],
    probed: Float[np.ndarray, "words columns"] | None = None,
) -> dict[str, float]:
    """Sparse probing, absorption and targeted perturbation on the words held out, means over letters. probed: columns for sparse probes, if
    not the codes.

    told_K: balanced accuracy of probes on K latents. absorbed_S: share of the words, of those whose letter the dense probe finds, that are
    absorbed by a latent with the share S of the projection; silent: the share in which no main latent fires; main: main latents of a
    letter. selective: see `lexinv.sae.probe_perturbation.selectivity`; own: the fall of the own probe alone.
    """
    (words, train, held, probe), columns = split, codes if probed is None else probed
    x, labels = words.x[held], words.labels
    halves = [(columns[part], labels[part]) for part in (train, held)]
    told = {
        f"told_{k}": sparse_probing(*halves, most_different(*halves[0], k)).balanced_accuracy.mean() for k in config.ks
    }
    main = main_latents(codes[train], labels[train])
    judged = labels[held] & (probe.logits(x) > 0)
    codes_held = codes[held]
    absorbed = {s: absorption(codes_held, x, decoder, probe.weights, judged, main, share=s) for s in config.shares}
    first = absorbed[config.shares[0]]
    falls = perturbed_accuracies(
        probe, decoder, (codes[train], labels[train]), (codes_held, x, labels[held]), config.ablated
    )
    return told | {
        **{f"absorbed_{share:g}": counts.rate for share, counts in absorbed.items()},
        "silent": first.silent.sum() / max(first.judged.sum(), 1),
        "main": np.mean([len(latents) for latents in main]),
        "selective": selectivity(falls),
        "own": np.diag(falls).mean(),
    }
