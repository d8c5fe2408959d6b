"""Next words to be guessed, under the protocols of a paper's released code and others: contexts, text, and how a word is chosen."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.subjects.word_scores import Answers, Case
from lexinv.data.corpora import Corpus

SETS = {"any": None, "rare": 5}
"""Words of any kind, and those that the training text has so often at most."""
PROTOCOLS = {
    "positions/train/sampled": "as released",
    "bytes/train/sampled": "equal bytes",
    "positions/test/sampled": "held-out text",
    "positions/train/likeliest": "likeliest word",
    "bytes/test/sampled": "equal bytes,\nheld-out text",
}
RELEASED, *_, FAIR = PROTOCOLS


def protocols(sets: Mapping[str, list[Case]], reach: Mapping[str, int], answers: Answers) -> dict[str, float]:
    """kind/context/split/choice: the share of the words `sets["kind/split"]` that are guessed after as many bytes as `reach[context]`.

    choice: `sampled`, of which the expectation is given, or `likeliest`.
    """
    metrics = {}
    for part, each in sets.items():
        kind, split = part.split("/")
        for context, most in reach.items():
            chances, hits = zip(*answers([shortened(case, most) for case in each]), strict=True)
            metrics[f"{kind}/{context}/{split}/sampled"] = float(np.mean(chances))
            metrics[f"{kind}/{context}/{split}/likeliest"] = float(np.mean(hits))
    return metrics


def by_frequency(counts: Counter[str]) -> Answers:
    """Whatever stands before them."""
    total, (commonest, _) = counts.total(), counts.most_common(1)[0]

    def answers(cases: Sequence[Case]) -> list[tuple[float, bool]]:
        words = [case.text[case.begins : case.ends].decode().strip() for case in cases]
        return [(counts[word] / total, word == commonest) for word in words]

    return answers


def asked(corpus: Corpus, count: int, size: int, seed: int, cores: Mapping[str, int]) -> dict[str, list[Case]]:
    """By kind/split."""
    return {
        f"{kind}/{split}": cases(corpus, split, count, size, seed, cores, most)
        for kind, most in SETS.items()
        for split in ("train", "test")
    }


def core(word: str) -> str:
    return word.strip(" .,;:!?()'\"").lower()


def word_counts(corpus: Corpus) -> tuple[Counter[str], Counter[str]]:
    """Of the training text: words between white space, and the same without case and punctuation."""
    counts = Counter(word for text in corpus.splits["train"] for word in text.split())
    cores: Counter[str] = Counter()
    for word, count in counts.items():
        cores[core(word)] += count
    return counts, cores


def cases(
    corpus: Corpus, name: str, count: int, size: int, seed: int, cores: Mapping[str, int], most: int | None = None
) -> list[Case]:
    """Words of a split between single spaces after about `size` bytes of ASCII; with `most`, those of 1 to so many training cores."""
    random, found = np.random.default_rng(seed), []
    texts = [text for text in corpus.splits[name] if text.isascii()]
    places = [
        (number, match.span())
        for number, text in enumerate(texts)
        for match in re.finditer(r"(?<=\S) \S+(?= )", text)
        if match.start() > size and (most is None or 1 <= cores.get(core(match[0]), 0) <= most)
    ]
    for chosen in random.permutation(len(places))[:count].tolist():
        number, (begins, ends) = places[chosen]
        found.append(Case(texts[number][: ends + 1].encode(), begins, ends))
    return [shortened(case, size) for case in found]


def shortened(case: Case, size: int) -> Case:
    """The same word after at most `size` bytes, from the first space in them on."""
    first = max(case.text.find(b" ", max(case.begins - size, 0)), 0)
    return Case(case.text[first:], case.begins - first, case.ends - first)


def seen_share(corpus: Corpus, count: int, size: int = 64) -> float:
    """The share of held-out strings of `size` characters that the training text has."""
    random, known = np.random.default_rng(0), "\0".join(corpus.splits["train"])
    texts = [text for text in corpus.splits["test"] if len(text) > size]
    found = 0
    for _ in range(count):
        text = texts[random.integers(len(texts))]
        begins = random.integers(len(text) - size)
        found += text[begins : begins + size] in known
    return found / count
