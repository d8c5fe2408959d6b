"""A trained network gives the rows of another tokenizer's tokens: what it recovers of what means of pieces lose.

Minixhofer et al. 2024 (ZeTT, arXiv 2405.07883); method card zero-shot-tokenizer-transfer. One network for each seed's language model,
trained over tokenizers that are sampled anew in every step; none of the targets is among them. Ours, which is judged, begins as means of
pieces, which are therefore the untrained network, too; the paper's form, after a warm-up on the source's own tokens, stands beside. Rows
are judged before any training of the language model with them, after 100 steps of it, and in one that was tuned on another text.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.figures import bars, legend_beside, lines
from experiments.harness.presets import presets
from experiments.harness.style import PALETTE, band, panels, reference
from experiments.harness.training import Training, stacked, train
from experiments.harness.verdicts import OURS, Claim, above, below, between
from experiments.harness.workspace import Workspace
from experiments.subjects import hypernetworks, tokenized_models
from experiments.subjects.hypernetworks import HypernetworksConfig
from experiments.subjects.text import PUBLISHED_MODEL, STANDARD
from experiments.subjects.tokenized_models import TokenizedConfig, load_text_tokenizer
from experiments.subjects.vocabulary_transfers import BATCH, LONGEST, bits, passages, windows_of
from lexinv.data.corpora import Corpus, load_corpus
from lexinv.data.windows import token_stream, window_source
from lexinv.nn.language_model import Params, make_loss, make_nll
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.evaluation import evaluate_by_position
from lexinv.training.optimizers import OptimizerConfig
from lexinv.transfer.hypernetwork import HypernetworkConfig
from lexinv.transfer.methods import METHODS, Given, transplanted
from lexinv.transfer.vocabularies import match, segmenter, surface_forms
from lexinv.validation import Checked, Count, Distinct

PAPERS = ("minixhofer2024zero",)
LABELS = {
    "zero": "zeros",
    "pieces": "means of pieces",
    "hypernetwork": "hypernetwork",
    "alone": "hypernetwork, paper's form",
    "ridge": "ridge, from a donor",
}
CONTINUED = ("zero", "pieces", "ridge", "hypernetwork")
SHOWN = 10
"""Steps that a point of the loss curve is the mean of."""

GENTLE = OptimizerConfig(learning_rate=1e-3, warmup_steps=10)
"""Of more training: a tenth of what the models were trained with."""


@dataclass(frozen=True)
class Config(Checked):
    """models: the first is given the vocabularies of the others, which are donors, and `others`: tokenizers of `load_text_tokenizer`,
    trained on the models' text or, after @, on another.

    passages: of `size` characters, that each seed's model reads; `tuning` of validation text choose ridge's strength. continued: of the
    models with the rows of the first donor. tuned: on `tuned_on`, before rows are put in.
    """

    models: TokenizedConfig = TokenizedConfig(tokenizers=("bpe:1024", "bpe:4096", "superbpe:4096"))
    hypernetworks: HypernetworksConfig = HypernetworksConfig()
    others: Distinct[str] = ("unigram:2048", "bpe:1024@bible:wyc")
    passages: Count = 96
    tuning: Count = 16
    size: Count = 256
    continued: Training = Training(steps=100, batch_size=8, optimizer=GENTLE, steps_per_dispatch=10)
    tuned: Training = Training(steps=150, batch_size=16, optimizer=GENTLE, steps_per_dispatch=10)
    tuned_on: str = "bible:wyc"

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield len(self.models.tokenizers) >= 2, "models.tokenizers", "at least 2: a source and a donor"


SHORT = {"steps": 4, "steps_per_dispatch": 2, "batch_size": 4, "optimizer.warmup_steps": 1}
PRESETS = presets(
    Config(),
    smoke={
        **tokenized_models.TINY,
        "models.training.seeds": (0,),
        **{f"hypernetworks.{name}": value for name, value in hypernetworks.TINY.items()},
        **{f"{stage}.{name}": value for stage in ("continued", "tuned") for name, value in SHORT.items()},
        "others": ("unigram:310",),
        "passages": 4,
        "tuning": 2,
        "size": 64,
        "tuned_on": "python-docs",
    },
    quick={"models.training.steps": 400, "others": ("unigram:2048",), "passages": 48},
    paper={
        "models.model": PUBLISHED_MODEL,
        "models.context_bytes": 512,
        "models.training.steps": 20_000,
        "hypernetworks.network": HypernetworkConfig(
            7, False, replace(hypernetworks.NETWORK, depth=3, width=1024, heads=16)
        ),
        "hypernetworks.vocabulary": 32_768,
        "hypernetworks.characters": 512,
        "hypernetworks.tokens": 128,
        "hypernetworks.warmup.steps": 10_000,
        "hypernetworks.training.steps": 190_000,
        "hypernetworks.training.batch_size": 128,
        "passages": 2000,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By target and method, and by seed: bits per byte of all text, of words with a new token and of others.

    `itself` is a model with its own tokenizer. Arms `continued/METHOD` are models with the first donor's tokens after more training,
    `tuned/METHOD/TARGET` those that were tuned on another text before.
    """
    models = {plain(name): found for name, found in tokenized_models.tokenized_models(config.models, workspace).items()}
    source, first, *_ = models
    base, seeds = models[source], config.models.training.seeds
    own, other = load_corpus(config.models.corpus), load_corpus(config.tuned_on)
    tokenizers = {name: found.tokenizer for name, found in models.items()}
    for name in config.others:
        kind, _, text = name.partition("@")
        tokenizers[plain(name)] = load_text_tokenizer(kind, load_corpus(text or config.models.corpus))
    targets = list(tokenizers)[1:]
    forms = {"hypernetwork": config.hypernetworks}
    forms["alone"] = replace(config.hypernetworks, network=replace(config.hypernetworks.network, skip=False))
    networks = {name: hypernetworks.hypernetworks(form, base, seeds, own, workspace) for name, form in forms.items()}
    matches = {name: match(base.tokenizer, tokenizer) for name, tokenizer in tokenizers.items()}

    def texts(corpus: Corpus, split: str, seed: int) -> list[str]:
        return passages(corpus, split, config.passages if split == "test" else config.tuning, config.size, seed)

    def read(params: Params, target: str, chosen: Sequence[str], model: TransformerConfig) -> dict[str, float]:
        tokenizer = tokenizers[target]
        windows = windows_of(tokenizer, chosen)
        nll = make_nll(model, STANDARD, tokenizer.vocab_size)
        nats = evaluate_by_position(nll, params, windows, jax.random.key(0), BATCH)
        return bits(nats, windows, tokenizer, matches[target].new)

    @cache
    def moved(which: str, method: str, target: str, seed: int) -> Params:
        """The model, tuned or not, with a table for the target; ridge at the strength that costs validation text least."""
        place, tried = seeds.index(seed), METHODS[method].tried if method in METHODS else ()
        params = (further("tuned", source)[0] if which == "tuned" else base.params)[place]
        if method in networks:
            return params | {"table": jnp.asarray(networks[method].table(place, tokenizers[target]))}
        pieces = [tokenizers[target].pieces[number] for number in matches[target].new]
        spelled = surface_forms(pieces, segmenter(base.tokenizer), LONGEST)
        donor = np.asarray(models[target].params[place]["table"]) if target in models else None
        given = Given(matches[target], spelled, np.zeros(spelled.ids.shape, np.float32), None, donor)
        found = [params | {"table": transplanted(method, given, params["table"], each)} for each in tried or (0.0,)]
        if len(found) == 1:
            return found[0]
        validation = texts(own, "validation", seed)
        return min(found, key=lambda each: read(each, target, validation, base.model)["all"])

    @cache
    def further(stage: str, name: str) -> list[list[Params]]:
        """More training of whole models, with the tokens of `name`: by method, one for each seed, that read the same batches."""
        training, corpus = (config.tuned, other) if stage == "tuned" else (config.continued, own)
        starts = [base.params]
        if name != source:
            starts = [[moved("base", method, name, seed) for seed in seeds] for method in CONTINUED]
        flat, rate = [params for each in starts for params in each], training.optimizer.learning_rate
        windows = window_source(token_stream(corpus, "train", tokenizers[name]), models[name].context)
        loss = make_loss(base.model, STANDARD, tokenizers[name].vocab_size)
        members = tuple((seeds[i % len(seeds)], rate) for i in range(len(flat)))
        place = f"{stage}/{name}"
        found = train(place, stacked(flat), loss, windows, training, workspace, members=members, tokens=windows.length)
        return [found[i : i + len(seeds)] for i in range(0, len(found), len(seeds))]

    def measure(arm: str, seed: int) -> dict[str, Any]:
        stage, method, *rest = arm.split("/")
        place, model, name = seeds.index(seed), base.model, stage
        if stage == "continued":
            name = source if method == "itself" else first
            params = further(stage, name)[CONTINUED.index(method) if name == first else 0][place]
        elif stage == "tuned":
            name = (rest or [source])[0]
            params = moved(stage, method, name, seed) if rest else further(stage, source)[0][place]
        elif method == "itself":
            params, model = models[stage].params[place], models[stage].model
        else:
            params = moved("base", method, name, seed)
        same = np.array_equal(params["table"], base.params[place]["table"])
        return {"changed": float(not same)} | read(
            params, name, texts(other if stage == "tuned" else own, "test", seed), model
        )

    arms = [*(f"{source}/{method}" for method in ("zero", *networks)), *(f"{name}/itself" for name in models)]
    arms += [f"{name}/{method}" for name in targets for method in LABELS if method != "ridge" or name in models]
    arms += [f"continued/{method}" for method in ("itself", *CONTINUED)] + ["tuned/itself"]
    arms += [f"tuned/{method}/{target}" for method in ("pieces", "hypernetwork") for target in targets]
    losses = {name: each.losses["transfer"] for name, each in networks.items()}
    return {
        "corpora": {corpus.name: corpus.fingerprint for corpus in (own, other)},
        "seeds": seeds,
        "source": source,
        "first": first,
        "targets": targets,
        "losses": {
            name: each[:, : each.shape[1] // SHOWN * SHOWN].reshape(len(each), -1, SHOWN).mean(axis=2)
            for name, each in losses.items()
        },
        "arms": measured(workspace, arms, seeds, measure),
    }


def plain(name: str) -> str:
    """A tokenizer's name as that of an arm."""
    return name.translate(str.maketrans(":@", "--"))


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """The paper's, and the rivals that need no training."""
    arms, source, first, targets = Arms(results), results["source"], results["first"], results["targets"]
    original = arms[f"{source}/itself", "all"]
    paper, unit = PAPERS[0], "bits per byte less, all text"

    def saved(target: str, than: str, method: str = "hypernetwork") -> np.ndarray:
        return arms[f"{target}/{than}", "all"] - arms[f"{target}/{method}", "all"]

    def spread(stage: str) -> np.ndarray:
        return np.ptp([arms[f"{stage}/{method}", "all"] for method in CONTINUED], axis=0)

    def kept(method: str, target: str) -> np.ndarray:
        tuned = arms[f"tuned/{method}/{target}", "all"] - arms["tuned/itself", "all"]
        return tuned / (arms[f"{target}/{method}", "all"] - original)

    names = {"pieces": "means of pieces", "hypernetwork": "hypernetwork"}
    served = {f"{names[method]}, {target}": kept(method, target) for method in names for target in targets}
    donors = [target for target in targets if f"{target}/ridge" in arms]
    closed = {
        "spread left": spread("continued") / spread(first),
        "original tokenizer, relative saving": 1 - arms["continued/itself", "all"] / original,
    }
    return [
        Claim(
            "identity_is_exact",
            "A transplant to its own tokenizer leaves every row of the table as it is; the hypernetwork's rows for it cost as much.",
            OURS,
            {
                "copied: tables that changed": arms[f"{source}/zero", "changed"],
                "hypernetwork: relative cost": arms[f"{source}/hypernetwork", "all"] / original - 1,
                "paper's form: relative cost": arms[f"{source}/alone", "all"] / original - 1,
            },
            {"copied: tables that changed": below(1e-9), "hypernetwork: relative cost": between(-0.01, 0.01)},
        ),
        Claim(
            "hypernetwork_recovers_half",
            "It recovers half of what means of pieces lose against the original model with its own tokenizer, for two of four tokenizers.",
            f"{paper}: abstract",
            {target: saved(target, "pieces") / (arms[f"{target}/pieces", "all"] - original) for target in targets},
            above(0.5).but(len(targets) // 2),
            "share of the loss, all text",
            "accuracy 1 to 3 % below the original's (third-party note)",
        ),
        Claim(
            "hypernetwork_beats_means_of_pieces",
            "It costs fewer bits than means of pieces.",
            f"{paper}: abstract, of heuristics",
            {target: saved(target, "pieces") for target in targets}
            | {f"paper's form, {target}": saved(target, "pieces", "alone") for target in targets},
            dict.fromkeys(targets, above(0)),
            unit,
        ),
        Claim(
            "hypernetwork_beats_ridge",
            "It costs fewer bits than a linear map from the table of a model that was trained with the tokenizer.",
            OURS,
            {target: saved(target, "ridge") for target in donors},
            above(0),
            unit,
        ),
        Claim(
            "training_closes_gaps",
            "After a little training with the new tokens less than half of the spread between the ways to begin is left.",
            f"{paper}: abstract; table 2's caption",
            closed,
            {"spread left": below(0.5)},
            "share of the spread",
            "closed with less than 1 B tokens; the original gains nothing",
        ),
        Claim(
            "serves_the_finetuned",
            "In a model that was tuned on another text, rows for the base model lose at most 1.5 times what they lose in it.",
            f"{paper}: abstract",
            served,
            {name: below(1.5) for name in served if name.startswith(names["hypernetwork"])},
            "loss in bits per byte, over the base's",
        ),
    ]


def figure(results: Mapping[str, Any]) -> Figure:
    """Bits per byte by target and method; the course of the network's training; what more training of the model leaves."""
    arms, source, first, targets = Arms(results), results["source"], results["first"], results["targets"]
    titles = ("all text", "words with a new token", "training of the hypernetwork", f"more training with {first}")
    drawn, axes = panels(rows=2, columns=2, width=5.4, height=3.4, titles=titles)
    own = arms[f"{source}/itself", "all"].mean()
    donors = [target for target in targets if f"{target}/ridge" in arms]
    short = [target.replace("-bible-", "\n") for target in targets]
    for panel, part in zip(axes, ("all", "new"), strict=False):
        shown = {
            method: (label, np.stack([arms[f"{target}/{method}", part] for target in targets], axis=1))
            for method, label in LABELS.items()
            if method != "ridge"
        }
        bars(panel, short, shown)
        for place, target in enumerate(donors):
            values = arms[f"{target}/ridge", part]
            panel.plot([place + 0.45] * len(values), values, "kx", markersize=4, label="_" * place + LABELS["ridge"])
        reference(panel, own, "original, all text")
        panel.set(ylabel="bits per byte", ylim=(1.0, None))
    legend_beside(axes[1])
    for (name, losses), color in zip(results["losses"].items(), PALETTE[2:], strict=False):
        losses = np.array(losses)
        band(axes[2], SHOWN * (np.arange(losses.shape[1]) + 0.5), losses, LABELS[name], color)
    axes[2].legend(fontsize=7.5)
    axes[2].set(xlabel="step", ylabel="nats per token and lexical loss")
    steps = {
        LABELS[method]: np.stack([arms[f"{first}/{method}", "all"], arms[f"continued/{method}", "all"]], axis=1)
        for method in CONTINUED
    }
    steps["original tokenizer"] = np.stack([arms[f"{source}/itself", "all"], arms["continued/itself", "all"]], axis=1)
    lines(axes[3], (0, 1), steps)
    axes[3].set_xticks((0, 1), ("before", "after"))
    axes[3].set_ylabel("bits per byte")
    legend_beside(axes[3])
    return drawn
