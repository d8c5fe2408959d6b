"""Whoever encodes a text that ends inside a token asks the model what its training never did; summed over covers, the question is right.

Phan et al. 2025 (arXiv 2410.09303); method card exact-byte-probabilities. Models of the King James Bible and SmolLM2 are asked for the byte
after held-out text that is cut anywhere: after the tokens of the prompt (naive), with the last one taken back (healing), and exactly.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, by_metric
from experiments.harness.figures import dots, lines, whiskers
from experiments.harness.intervals import bootstrap_interval
from experiments.harness.presets import presets
from experiments.harness.style import PALETTE, panels
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.chain_tokens import chain_tokens
from experiments.subjects.pretrained_language_model import UNTRAINED, open_pretrained
from experiments.subjects.tokenized_models import TINY, TokenizedConfig, TokenizedModels, tokenized_models
from lexinv.data.bpe import learn_merges, one_chunk
from lexinv.data.corpora import Corpus, load_corpus
from lexinv.data.published import load_published
from lexinv.tokenization.byte_pairs import GPT2_SPLIT, SMOLLM2_SPLIT, BytePairs
from lexinv.tokenization.byte_probabilities import LogProbs, byte_log_probs, log_mass, next_bytes, start
from lexinv.tokenization.context_tree import tree_log_probs
from lexinv.tokenization.superbpe import LINES
from lexinv.validation import Checked, Count

PAPERS = ("phan2025exact",)
PLACES = 7
"""How many bytes of the token have been read: 0 where it has just ended, the last for as many or more."""
METHODS = {"naive": "naive", "healing": "token healing", "unmasked": "exact, without masks", "exact": "exact"}
LETTERS = b"AB"


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


@dataclass(frozen=True)
class Config(Checked):
    """cuts: for each seed, one in each of as many texts of `length` bytes; from its quarter on. documents: texts read byte by byte.

    chain_length: letters of the Markov chain's strings; all prefixes up to chain_prefix are asked for.
    """

    models: TokenizedConfig = TokenizedConfig()
    cuts: Count = 500
    length: Count = 128
    documents: Count = 12
    chain_length: Count = 12
    chain_prefix: Count = 7
    real: RealConfig = RealConfig()

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        tokens = [name for name in self.models.tokenizers if name != "byte"]
        yield len(tokens) >= 2, "models.tokenizers", "two beside bytes, for the ensemble"
        yield len(self.models.training.seeds) >= 2, "models.training.seeds", "two, for an ensemble of one tokenizer"
        longest = self.models.context_bytes
        yield 8 <= self.length <= longest, "length", f"8 to models.context_bytes = {longest}"
        yield self.chain_prefix < self.chain_length <= 14, "chain_length", "more than chain_prefix, at most 14"


PRESETS = presets(
    Config(),
    smoke={
        **TINY,
        "cuts": 8,
        "length": 32,
        "documents": 1,
        "chain_length": 7,
        "chain_prefix": 4,
        "real": RealConfig(UNTRAINED, "python-docs", "python-docs", 4, 4, 60, 40),
    },
    paper={
        "models.training.steps": 20_000,
        "models.model.max_length": 2048,
        "models.context_bytes": 2048,
        "cuts": 5000,
        "length": 1024,
        "documents": 100,
        "real.cuts": 5000,
        "real.code_cuts": 1000,
        "real.texts": 10_000,
        "real.length": 512,
    },
)

Reader = tuple[BytePairs, LogProbs]


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
    found = []
    for first, last in pairwise(ends(pairs, text)):
        if ends(pairs, text[:last])[:-1] != [end for end in ends(pairs, text) if end < last]:
            found += range(first + 1, last + 1)
    return [cut for cut in found if cut < len(text)]


def nats_of(text: bytes, cut: int, states: dict[str, Callable[[LogProbs], Any]], model: LogProbs) -> dict[str, float]:
    """Nats of the byte after the cut by method, and how many contexts the first one needs; no context is read twice."""
    rows: dict[Any, np.ndarray] = {}

    def asked(contexts: Sequence[Any]) -> np.ndarray:
        new = [context for context in contexts if context not in rows]
        rows.update(zip(new, model(new), strict=True) if new else ())
        return np.stack([rows[context] for context in contexts])

    found: dict[str, float] = {}
    for method, begin in states.items():
        found[method] = -float(np.log(next_bytes(begin(asked))[text[cut]]))
        found.setdefault("contexts", float(len(rows)))
    return found


def methods(pairs: BytePairs, prompt: bytes) -> dict[str, Callable[[LogProbs], Any]]:
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


def chain(config: Config, seed: int) -> dict[str, float]:
    """Largest error of the next letter, and of ln p of all letters so far, over all short beginnings."""
    rng = np.random.default_rng(seed)
    initial, *kernel = rng.dirichlet(np.ones(len(LETTERS)), len(LETTERS) + 1)
    sample = rng.choice(np.frombuffer(LETTERS, np.uint8), 400, p=initial).astype(np.int32)
    merges = learn_merges(one_chunk(sample), 256, 262)
    pairs, model, true = chain_tokens(LETTERS, initial, np.array(kernel), merges, config.chain_length)
    error = 0.0
    for length in range(config.chain_prefix + 1):
        for letters in product(LETTERS, repeat=length):
            text = bytes(letters)
            state, wanted = start(pairs, text, model), np.zeros(257)
            wanted[list(LETTERS)] = [true[text + bytes([letter])] / true[text] for letter in LETTERS]
            error = max(error, abs(next_bytes(state) - wanted).max(), abs(log_mass(state) - np.log(true[text])))
    return {"error": float(error)}


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """arms[tokenizer][method][seed]: nats summed by place, and by place the cuts; saved: nats per byte. Ensembles have `exact` alone.

    chain: error [seed]. real: by kind of text nats of each cut by method, its place, and the contexts it needed.
    """
    names, seeds = config.models.tokenizers, config.models.training.seeds
    corpus = load_corpus(config.models.corpus)
    used = {corpus.name: corpus, **{name: load_corpus(name) for name in (config.real.prose, config.real.code)}}
    corpora = workspace.pinned("corpora", {name: each.fingerprint for name, each in used.items()})
    models = tokenized_models(config.models, workspace)
    by_name = {name: readers(found) for name, found in models.items()}

    def of_seed(seed: str) -> dict[str, Any]:
        return cuts_of(config, excerpts(corpus, int(seed), config.cuts, config.length), by_name, seeds.index(int(seed)))

    rows = list(workspace.stages("cuts", map(str, seeds), of_seed).values())
    chains = workspace.stages("chain", map(str, seeds), lambda seed: chain(config, int(seed))).values()
    return {
        "corpora": corpora,
        "seeds": seeds,
        "models": {name: found.described() for name, found in models.items()},
        "arms": {arm: by_metric([row[arm] for row in rows]) for arm in rows[0]},
        "chain": by_metric(list(chains)),
        "real": workspace.cached("real", lambda: real(config.real, by_name[names[0]][0], used, workspace)),
    }


def cuts_of(
    config: Config, texts: list[bytes], by_name: dict[str, list[Reader]], seed: int
) -> dict[str, dict[str, Any]]:
    """Of one seed's prompts: its own models and, for ensembles of one tokenizer, another seed's."""
    cuts = np.random.default_rng(seed).integers(config.length // 4, config.length, len(texts)).tolist()
    found: dict[str, dict[str, Any]] = {}
    chances: dict[str, list[np.ndarray]] = {}

    def summed(places: list[int], nats: Any) -> list[float]:
        return np.bincount(places, nats, PLACES).tolist()

    ensembles = [name for name in by_name if name != "byte"][:2]
    for name, each in by_name.items():
        pairs, model = each[seed]
        rows = by_metric([nats_of(t, c, methods(pairs, t[:c]), model) for t, c in zip(texts, cuts, strict=True)])
        places = [place(pairs, text, cut) for text, cut in zip(texts, cuts, strict=True)]
        found[name] = {metric: summed(places, values) for metric, values in rows.items()}
        found[name] |= {"cuts": np.bincount(places, minlength=PLACES).tolist()}
        found[name]["saved"] = float(np.mean([saved(each[seed], text) for text in texts[: config.documents]]))
        if name in ensembles:
            other = each[(seed + 1) % len(each)][1]
            asked = [
                nats_of(t, c, {"exact": methods(pairs, t[:c])["exact"]}, other)
                for t, c in zip(texts, cuts, strict=True)
            ]
            chances[name] = [np.exp(-np.array(part)) for part in (rows["exact"], by_metric(asked)["exact"])]
    mixed = {" + ".join(ensembles): [chances[name][0] for name in ensembles]}
    for name, both in (mixed | {f"{name}, two seeds": chances[name] for name in ensembles}).items():
        found[name] = {"exact": summed([0] * len(cuts), -np.log(np.mean(both, axis=0))), "cuts": [len(cuts)]}
        found[name]["cuts"] += [0] * (PLACES - 1)
    return found


def real(config: RealConfig, shared: Reader, corpora: dict[str, Corpus], workspace: Workspace) -> dict[str, Any]:
    """The same of a published model, and of the lemma as published where the expression looks ahead."""
    pairs, model = shared
    strict = BytePairs(pairs.tokenizer, GPT2_SPLIT, look_ahead=False)
    if config.model != UNTRAINED:
        world, merges = open_pretrained(config.model, workspace), load_published(config.model).merges
        pairs, strict = (BytePairs(world.tokenizer, SMOLLM2_SPLIT, merges, ahead) for ahead in (True, False))
        model = tree_log_probs(world.model.config, world.model.params, world.model.vocab, 8 * config.length, 16)
    rng = np.random.default_rng(0)
    prose, code = (excerpts(corpora[name], 0, config.texts, config.length) for name in (config.prose, config.code))
    chosen = [(text, int(rng.integers(config.length // 4, config.length))) for text in prose[: config.cuts]]
    found = by_metric([nats_of(text, cut, methods(pairs, text[:cut]), model) for text, cut in chosen])
    kinds = {kind: [ahead(pairs, text) for text in texts] for kind, texts in (("prose", prose), ("code", code))}
    broken = [(text, cut) for text, cuts in zip(code, kinds["code"], strict=True) for cut in cuts if cut >= 8]

    def at_broken(text: bytes, cut: int) -> dict[str, float]:
        lemma = {"lemma": lambda asked: start(strict, text[:cut], asked, masked=False)}
        return nats_of(text, cut, methods(pairs, text[:cut]) | lemma, model)

    picked = [broken[at] for at in rng.permutation(len(broken))[: config.code_cuts]]
    return {
        "prose": {**found, "place": [place(pairs, text, cut) for text, cut in chosen]},
        "code": by_metric([at_broken(*each) for each in picked]) if picked else {},
        "broken": {kind: [len(cuts) / (config.length - 1) for cuts in each] for kind, each in kinds.items()},
    }


def nats(results: dict[str, Any], arm: str, method: str, where: slice = slice(None)) -> np.ndarray:
    """Mean of each seed over the cuts at some places; of those inside tokens `INSIDE`."""
    arms = Arms(results)
    return arms[arm, method][:, where].sum(axis=1) / np.maximum(arms[arm, "cuts"][:, where].sum(axis=1), 1)


INSIDE, ENDED = slice(1, None), slice(0, 1)


def claims(results: dict[str, Any]) -> list[Claim]:
    paper, unit, arms = "phan2025exact", "nats of the next byte", Arms(results)
    tokens = [name for name in results["models"] if name != "byte"]
    first, second = tokens[:2]
    mixed, twice = f"{first} + {second}", {name: f"{name}, two seeds" for name in (first, second)}

    def more(method: str, than: str = "exact", where: slice = slice(None)) -> dict[str, np.ndarray]:
        return {name: nats(results, name, method, where) - nats(results, name, than, where) for name in tokens}

    at_ends = {f"{name}, at a token's end": values for name, values in more("naive", where=ENDED).items()}
    prose, code = ({k: np.array(v) for k, v in results["real"][kind].items()} for kind in ("prose", "code"))
    inside = prose["place"] > 0
    best = np.minimum(nats(results, first, "exact"), nats(results, second, "exact"))
    control = np.minimum(*(nats(results, arm, "exact") for arm in twice.values()))
    claimed = [
        Claim(
            "exact_on_the_chain",
            "On a Markov chain the next letter and the probability of all so far are those of enumeration.",
            f"{paper}: lemma 1",
            {"largest error": np.array(results["chain"]["error"])},
            below(1e-9).every_seed,
            "probability, nats",
        ),
        Claim(
            "naive_is_biased",
            "Inside tokens, going on after the tokens of the prompt costs at least half a nat more than the exact byte.",
            f"{paper}: abstract",
            more("naive", where=INSIDE),
            above(0.5),
            unit,
        ),
        Claim(
            "exact_below_healing",
            "There the exact byte costs less than with the last token taken back.",
            f"{paper}: abstract",
            more("healing", where=INSIDE),
            above(0),
            unit,
        ),
        Claim(
            "exact_below_naive_overall",
            "So it does over all cuts; at a token's end the prompt's tokens betray that one ended.",
            f"{paper}: abstract",
            more("naive") | at_ends,
            dict.fromkeys(tokens, above(0)),
            unit,
        ),
        Claim(
            "masking_never_hurts",
            "Taking the mass of tokens that cannot come and giving it to the others does not cost anything.",
            f"{paper}: proposition [recalled]",
            more("exact", than="unmasked"),
            below(0.001),
            unit,
        ),
        Claim(
            "bytes_cost_no_more_than_tokens",
            "The bytes of a text cost together no more than the tokens of its encoding.",
            OURS,
            {name: arms[name, "saved"] for name in tokens},
            above(0).every_seed,
            "nats per byte",
        ),
        Claim(
            "ensemble_below_both",
            "The mean of two models' next bytes costs less than either, though no token fits both.",
            f"{paper}: section on ensembles",
            {
                mixed: best - nats(results, mixed, "exact"),
                "the better pair of one tokenizer": best - control,
            },
            {mixed: above(0)},
            f"{unit} below the better one",
        ),
        Claim(
            "exact_below_healing_on_a_real_model",
            "Inside tokens of a published model the exact byte costs less than with the last token taken back.",
            f"{paper}: abstract",
            {
                "healing": bootstrap_interval((prose["healing"] - prose["exact"])[inside]),
                "naive": bootstrap_interval((prose["naive"] - prose["exact"])[inside]),
            },
            {"healing": above(0)},
            f"{unit} above exact",
            over="cuts",
        ),
        Claim(
            "real_masking_never_hurts",
            "Masks cost a published model nothing.",
            f"{paper}: proposition [recalled]",
            {"all cuts": bootstrap_interval(prose["exact"] - prose["unmasked"])},
            below(0.001),
            unit,
            over="cuts",
        ),
    ]
    if len(code) and len(code["lemma"]) > 1:
        broken = {kind: bootstrap_interval(np.array(shares)) for kind, shares in results["real"]["broken"].items()}
        claimed.append(
            Claim(
                "look_ahead_breaks_prefixes",
                "Where GPT-2's expression looks ahead the beginning of an encoding is not the encoding of a beginning: in more than one of "
                "200 places of code, and there the lemma as published costs more than sums over all beginnings of encodings.",
                OURS,
                {f"share of {kind}": share for kind, share in broken.items()}
                | {
                    "nats that the lemma loses there": bootstrap_interval(code["lemma"] - code["exact"]),
                    "nats that the prompt's tokens lose there": bootstrap_interval(code["naive"] - code["exact"]),
                    "contexts of a cut there": bootstrap_interval(code["contexts"]),
                    "contexts of a cut of prose": bootstrap_interval(prose["contexts"]),
                },
                {"share of code": above(0.005), "nats that the lemma loses there": above(0.5)},
                over="texts, cuts",
            )
        )
    return claimed


def figure(results: dict[str, Any]) -> Figure:
    """Nats of the next byte by place of the cut, of our models and the published one; and of ensembles."""
    tokens = [name for name in results["models"] if name != "byte"]
    labels, arms = [*map(str, range(PLACES - 1)), f"{PLACES - 1}+"], Arms(results)
    drawn, axes = panels(1, 3, height=3.4, titles=[f"{tokens[1]}, King James Bible", "Published model", "Ensembles"])
    counts = np.maximum(arms[tokens[1], "cuts"], 1)
    lines(
        axes[0],
        list(range(PLACES)),
        {label: arms[tokens[1], method] / counts for method, label in METHODS.items()},
    )
    prose = {metric: np.array(values) for metric, values in results["real"]["prose"].items()}
    seen = [at for at in range(PLACES) if np.sum(prose["place"] == at) > 1]
    for index, ((method, label), color) in enumerate(zip(METHODS.items(), PALETTE, strict=False)):
        shown = [bootstrap_interval(prose[method][prose["place"] == at]) for at in seen]
        whiskers(axes[1], np.array(seen) + 0.08 * (index - 1.5), shown, color, label)
    for panel in axes[:2]:
        panel.set_xticks(range(PLACES), labels)
        panel.set(xlabel="bytes of the token read at the cut", ylabel="nats of the next byte")
    axes[0].legend(fontsize=7.5)
    single = {name: nats(results, name, "exact") for name in arms if name in results["models"]}
    dots(axes[2], single | {name: nats(results, name, "exact") for name in arms if name not in single})
    axes[2].set(xlabel="nats of the next byte, exact")
    return drawn
