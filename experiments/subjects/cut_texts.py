"""Held-out texts that are cut anywhere, and what the byte after the cut costs by several ways of asking a language model of tokens."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from experiments.harness.arms import by_metric
from experiments.harness.workspace import Workspace
from experiments.subjects.pretrained_language_model import UNTRAINED, open_pretrained
from experiments.subjects.tokenized_models import TokenizedModels
from lexinv.data.corpora import Corpus
from lexinv.data.published import load_published
from lexinv.tokenization.byte_pairs import GPT2_SPLIT, SMOLLM2_SPLIT, BytePairs
from lexinv.tokenization.byte_probabilities import LogProbs, State, byte_log_probs, next_bytes, start
from lexinv.tokenization.context_tree import tree_log_probs
from lexinv.tokenization.superbpe import LINES
from lexinv.validation import Checked, Count

PLACES = 7
"""How many bytes of a token have been read at a cut: 0 where it has just ended, the last for as many or more."""

Reader = tuple[BytePairs, LogProbs]
Ways = dict[str, Callable[[LogProbs], State]]
"""States after a prompt, by how the model is asked for them."""


@dataclass(frozen=True)
class RealConfig(Checked):
    """model: an asset, see `experiments.subjects.pretrained_language_model`, or `untrained` for the first shared model. cuts: of prose.

    code_cuts: of code, only where GPT-2's expression looks ahead. texts: of each kind, of `length` bytes.
    """

    model: str = "smollm2"
    prose: str = "python-docs"
    code: str = "python-stdlib"
    cuts: Count = 200
    code_cuts: Count = 60
    texts: Count = 400
    length: Count = 80


def readers(models: TokenizedModels) -> list[Reader]:
    """Of each seed."""
    pairs = BytePairs(models.tokenizer, LINES if models.tokenizer.name.startswith("superbpe") else GPT2_SPLIT)
    model = models.model
    return [
        (pairs, tree_log_probs(model, params, models.tokenizer.vocab_size, model.max_length))
        for params in models.params
    ]


def excerpts(corpus: Corpus, seed: int, count: int, length: int) -> list[bytes]:
    """Held-out text in ASCII that begins with a word."""
    rng, found = np.random.default_rng(seed), []
    documents = [text for text in corpus.splits["test"] if len(text) > 4 * length]
    shares = np.array(list(map(len, documents)), np.float64)
    while len(found) < count:
        document = documents[rng.choice(len(documents), p=shares / shares.sum())]
        begins = re.compile(r"\s(?=\S)").search(document, rng.integers(len(document) - 2 * length))
        text = document[begins.end() :][:length] if begins else ""
        if len(text) == length and text.isascii():
            found.append(text.encode())
    return found


def ends(pairs: BytePairs, text: bytes) -> list[int]:
    """Of the tokens of a text, and of none."""
    ids = pairs.tokenizer.encode(text.decode())
    return [0, *np.cumsum(pairs.tokenizer.token_bytes[ids]).tolist()]


def place(pairs: BytePairs, text: bytes, cut: int) -> int:
    return min(cut - max(end for end in ends(pairs, text) if end <= cut), PLACES - 1)


def ahead(pairs: BytePairs, text: bytes) -> list[int]:
    """The cuts at which the tokens of the text so far, the last of them whole, are not the encoding of their bytes."""
    found, whole = [], ends(pairs, text)
    for number, (first, last) in enumerate(pairwise(whole), 1):
        if ends(pairs, text[:last])[:-1] != whole[:number]:
            found += range(first + 1, last + 1)
    return [cut for cut in found if cut < len(text)]


def nats_of(text: bytes, cut: int, ways: Ways, model: LogProbs) -> dict[str, float]:
    """Nats of the byte after the cut by way, and how many contexts the first one needs; no context is read twice."""
    rows: dict[Any, np.ndarray] = {}

    def asked(contexts: Sequence[Any]) -> np.ndarray:
        new = [context for context in contexts if context not in rows]
        rows.update(zip(new, model(new), strict=True) if new else ())
        return np.stack([rows[context] for context in contexts])

    found: dict[str, float] = {}
    for way, begin in ways.items():
        found[way] = -float(np.log(next_bytes(begin(asked))[text[cut]]))
        found.setdefault("contexts", float(len(rows)))
    return found


def ways_of(pairs: BytePairs, prompt: bytes) -> Ways:
    return {
        "exact": lambda model: start(pairs, prompt, model),
        "unmasked": lambda model: start(pairs, prompt, model, masked=False),
        "healing": lambda model: start(pairs, prompt, model, rule="healing"),
        "naive": lambda model: start(pairs, prompt, model, rule="naive"),
    }


def saved(reader: Reader, text: bytes) -> float:
    """Nats per byte by which the tokens of a text cost more than its bytes."""
    pairs, model = reader
    ids = pairs.tokenizer.encode(text.decode()).tolist()
    rows = model([tuple(ids[:at]) for at in range(len(ids))])
    tokens = -sum(float(row[token]) for row, token in zip(rows, ids, strict=True))
    return (tokens + byte_log_probs(pairs, text, model).sum()) / len(text)


def cuts_of(
    texts: list[bytes], documents: int, by_name: dict[str, list[Reader]], seed: int
) -> dict[str, dict[str, Any]]:
    """By tokenizer, of one seed's models: nats by way and contexts summed by place, the cuts there, and what `documents` texts save.

    Ensembles of the first two tokenizers of more than bytes, and of two seeds of either, have `exact` alone, at place 0.
    """
    length = len(texts[0])
    cuts = np.random.default_rng(seed).integers(length // 4, length, len(texts)).tolist()
    cases = list(zip(texts, cuts, strict=True))
    ensembles = [name for name in by_name if name != "byte"][:2]
    found: dict[str, dict[str, Any]] = {}
    chances: dict[str, list[np.ndarray]] = {}
    for name, each in by_name.items():
        pairs, model = each[seed]
        places = [place(pairs, *case) for case in cases]
        rows = by_metric([nats_of(text, cut, ways_of(pairs, text[:cut]), model) for text, cut in cases])
        found[name] = {metric: np.bincount(places, values, PLACES).tolist() for metric, values in rows.items()}
        found[name]["cuts"] = np.bincount(places, minlength=PLACES).tolist()
        found[name]["saved"] = float(np.mean([saved(each[seed], text) for text in texts[:documents]]))
        if name in ensembles:
            other = each[(seed + 1) % len(each)][1]
            asked = [next_bytes(start(pairs, text[:cut], other))[text[cut]] for text, cut in cases]
            chances[name] = [np.exp(-np.array(rows["exact"])), np.array(asked)]
    mixed = {" + ".join(ensembles): [chances[name][0] for name in ensembles]}
    for name, both in (mixed | {f"{name}, two seeds": chances[name] for name in ensembles}).items():
        sums = -float(np.log(np.mean(both, axis=0)).sum()), len(cuts)
        found[name] = {
            metric: [total] + [0] * (PLACES - 1) for metric, total in zip(("exact", "cuts"), sums, strict=True)
        }
    return found


def published_cuts(
    config: RealConfig, shared: Reader, corpora: dict[str, Corpus], workspace: Workspace
) -> dict[str, Any]:
    """The same of a published model, and of the lemma as published where the expression looks ahead."""
    pairs, model = shared
    strict = BytePairs(pairs.tokenizer, GPT2_SPLIT, look_ahead=False)
    if config.model != UNTRAINED:
        world, merges = open_pretrained(config.model, workspace), load_published(config.model).merges
        pairs, strict = (BytePairs(world.tokenizer, SMOLLM2_SPLIT, merges, ahead) for ahead in (True, False))
        most = min(8 * config.length, world.model.config.max_length)
        model = tree_log_probs(world.model.config, world.model.params, world.model.vocab, most, 16)
    rng = np.random.default_rng(0)
    prose, code = (excerpts(corpora[name], 0, config.texts, config.length) for name in (config.prose, config.code))
    chosen = [(text, int(rng.integers(config.length // 4, config.length))) for text in prose[: config.cuts]]
    found = by_metric([nats_of(text, cut, ways_of(pairs, text[:cut]), model) for text, cut in chosen])
    kinds = {kind: [ahead(pairs, text) for text in texts] for kind, texts in (("prose", prose), ("code", code))}
    broken = [(text, cut) for text, cuts in zip(code, kinds["code"], strict=True) for cut in cuts if cut >= 8]

    def at_broken(text: bytes, cut: int) -> dict[str, float]:
        lemma = {"lemma": lambda asked: start(strict, text[:cut], asked, masked=False)}
        return nats_of(text, cut, ways_of(pairs, text[:cut]) | lemma, model)

    picked = [broken[at] for at in rng.permutation(len(broken))[: config.code_cuts]]
    return {
        "prose": {**found, "place": [place(pairs, text, cut) for text, cut in chosen]},
        "code": by_metric([at_broken(*each) for each in picked]) if picked else {},
        "broken": {kind: [len(cuts) / (config.length - 1) for cuts in each] for kind, each in kinds.items()},
    }
