"""Whoever encodes a text that ends inside a token asks the model what its training never did; summed over covers, the question is right.

Phan et al. 2025 (arXiv 2410.09303); method card exact-byte-probabilities. Models of the King James Bible and SmolLM2 are asked for the byte
after held-out text that is cut anywhere: after the tokens of the prompt (naive), with the last one taken back (healing), and exactly.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
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
from experiments.subjects.cut_texts import PLACES, RealConfig, cuts_of, excerpts, published_cuts, readers
from experiments.subjects.pretrained_language_model import UNTRAINED
from experiments.subjects.tokenized_models import TINY, TokenizedConfig, tokenized_models
from lexinv.data.bpe import learn_merges, one_chunk
from lexinv.data.corpora import load_corpus
from lexinv.tokenization.byte_probabilities import log_mass, next_bytes, start
from lexinv.validation import Checked, Count

PAPERS = ("phan2025exact",)
METHODS = {"naive": "naive", "healing": "token healing", "unmasked": "exact, without masks", "exact": "exact"}
LETTERS = b"AB"


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
        "real": RealConfig(UNTRAINED, "python-docs", "python-docs", 16, 4, 60, 40),
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
        texts = excerpts(corpus, int(seed), config.cuts, config.length)
        return cuts_of(texts, config.documents, by_name, seeds.index(int(seed)))

    rows = list(workspace.stages("cuts", map(str, seeds), of_seed).values())
    chains = workspace.stages("chain", map(str, seeds), lambda seed: chain(config, int(seed))).values()
    return {
        "corpora": corpora,
        "seeds": seeds,
        "models": {name: found.described() for name, found in models.items()},
        "arms": {arm: by_metric([row[arm] for row in rows]) for arm in rows[0]},
        "chain": by_metric(list(chains)),
        "real": workspace.cached("real", lambda: published_cuts(config.real, by_name[names[0]][0], used, workspace)),
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
