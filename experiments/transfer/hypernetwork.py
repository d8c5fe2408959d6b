"""A trained network gives the rows of another tokenizer's tokens: what it recovers of what means of pieces lose.

Minixhofer et al. 2024 (ZeTT, arXiv 2405.07883); method card zero-shot-tokenizer-transfer. One network for each seed's language model,
trained over tokenizers that are sampled anew in every step; none of the targets is among them. It begins as means of pieces, which are
therefore the untrained network, too. Rows are judged before any training of the language model with them, after 100 steps of it, and in
a language model that was tuned on another text.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.figures import bars, lines
from experiments.harness.presets import presets
from experiments.harness.style import GREY, PALETTE, band, panels
from experiments.harness.training import Training, stacked, train
from experiments.harness.verdicts import OURS, Claim, above, below, between
from experiments.harness.workspace import Workspace
from experiments.subjects import hypernetworks, tokenized_models
from experiments.subjects.hypernetworks import HypernetworksConfig
from experiments.subjects.text import PUBLISHED_MODEL, STANDARD
from experiments.subjects.tokenized_models import TokenizedConfig, TokenizedModels, load_text_tokenizer
from experiments.subjects.vocabulary_transfers import Source, Transfer, passages, transfer
from lexinv.data.corpora import load_corpus
from lexinv.data.windows import Windows, token_stream, window_source
from lexinv.nn.language_model import Params, make_loss
from lexinv.training.optimizers import OptimizerConfig
from lexinv.transfer.combinations import transplant
from lexinv.transfer.methods import transplanted
from lexinv.transfer.vocabularies import match
from lexinv.validation import Checked, Count, Distinct

PAPERS = ("minixhofer2024zero",)
LABELS = {
    "zero": "zeros",
    "pieces": "means of pieces",
    "hypernetwork": "hypernetwork",
    "ridge": "ridge, from a donor",
}
CONTINUED = ("zero", "pieces", "ridge", "hypernetwork")
SHOWN = 10
"""Steps that a point of the loss curve is the mean of."""


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
    continued: Training = Training(
        steps=100, batch_size=8, optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=10), steps_per_dispatch=10
    )
    tuned: Training = Training(
        steps=150, batch_size=16, optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=10), steps_per_dispatch=10
    )
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
    paper={
        "models.model": PUBLISHED_MODEL,
        "models.context_bytes": 512,
        "models.training.steps": 20_000,
        "hypernetworks.network.skip": False,
        "hypernetworks.network.length": 7,
        "hypernetworks.network.transformer.depth": 3,
        "hypernetworks.network.transformer.width": 1024,
        "hypernetworks.network.transformer.mlp_width": 2048,
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
    corpora = {"own": load_corpus(config.models.corpus), "other": load_corpus(config.tuned_on)}
    tokenizers = {name: found.tokenizer for name, found in models.items()}
    for name in config.others:
        kind, _, text = name.partition("@")
        tokenizers[plain(name)] = load_text_tokenizer(kind, load_corpus(text or config.models.corpus))
    targets = list(tokenizers)[1:]
    networks = hypernetworks.hypernetworks(config.hypernetworks, base, seeds, corpora["own"], workspace)
    windows = {
        (which, name): window_source(token_stream(corpora[which], "train", tokenizers[name]), models[name].context)
        for which, name in (("own", source), ("own", first), ("other", source))
    }
    tuned = further("tuned", base, base.params, windows["other", source], config.tuned, seeds, workspace)

    @cache
    def reader(which: str, seed: int) -> Source:
        validation = passages(corpora[which], "validation", config.tuning, config.size, seed)
        test = passages(corpora[which], "test", config.passages, config.size, seed)
        params = (base.params if which == "own" else tuned)[seeds.index(seed)]
        return Source(base.model, STANDARD, params, base.tokenizer, validation, [test])

    def bits(seed: int, params: Params, name: str, which: str = "own", itself: bool = False) -> dict[str, float]:
        model = models[name].model if itself else base.model
        changed = replace(reader(which, seed), params=params, tokenizer=tokenizers[name], config=model)
        return {"all": changed.bits()[0]}

    @cache
    def pair(which: str, target: str, seed: int) -> Transfer:
        donor = np.asarray(models[target].params[seeds.index(seed)]["table"]) if target in models else None
        return transfer(reader(which, seed), tokenizers[target], no_encoder, donor)

    def made(target: str, seed: int) -> Array:
        return jnp.asarray(networks.table(seeds.index(seed), tokenizers[target]))

    def of(which: str, target: str, method: str, seed: int) -> dict[str, Any]:
        ready = pair(which, target, seed)
        if method == "hypernetwork":
            return ready.read(made(target, seed), ready.source.test[0])
        found = ready.measured(method)
        return {part: found[part][0] for part in ("all", "new", "others")} | {"setting": found["setting"]}

    def measure(arm: str, seed: int) -> dict[str, Any]:
        target, method = arm.split("/")
        if target != source and method != "itself":
            return of("own", target, method, seed)
        params, own = models[target].params[seeds.index(seed)], tokenizers[source]
        if method == "copied":
            table = transplant(params["table"], match(own, own), jnp.zeros((0, base.model.width)))
            return {"changed": float(not np.array_equal(table, params["table"]))}
        changed = params | {"table": made(source, seed)} if method == "hypernetwork" else params
        return bits(seed, changed, target, itself=method == "itself")

    arms = [f"{source}/{method}" for method in ("copied", "hypernetwork")] + [f"{name}/itself" for name in models]
    arms += [f"{name}/{method}" for name in targets for method in LABELS if method != "ridge" or name in models]
    found = measured(workspace, arms, seeds, measure)

    starts = []
    for method in CONTINUED:
        for place, seed in enumerate(seeds):
            setting = found[f"{first}/{method}"].get("setting", [0.0] * len(seeds))[place]
            table = base.params[place]["table"]
            given = pair("own", first, seed).given
            learned = method == "hypernetwork"
            rows = made(first, seed) if learned else transplanted(method, given, table, setting)
            starts.append(base.params[place] | {"table": rows})
    ended = further(f"continued/{first}", base, starts, windows["own", first], config.continued, seeds, workspace)
    same = further(f"continued/{source}", base, base.params, windows["own", source], config.continued, seeds, workspace)
    by_arm = {method: ended[i * len(seeds) : (i + 1) * len(seeds)] for i, method in enumerate(CONTINUED)}

    def after(arm: str, seed: int) -> dict[str, Any]:
        stage, method, *target = arm.split("/")
        place = seeds.index(seed)
        if stage == "tuned":
            return of("other", target[0], method, seed) if target else bits(seed, tuned[place], source, "other")
        name, params = (source, same) if method == "itself" else (first, by_arm[method])
        return bits(seed, params[place], name)

    later = [f"continued/{method}" for method in ("itself", *CONTINUED)] + ["tuned/itself"]
    later += [f"tuned/{method}/{target}" for method in ("pieces", "hypernetwork") for target in targets]
    found |= measured(workspace, later, seeds, after)
    losses = networks.losses["transfer"]
    return {
        "corpora": {corpus.name: corpus.fingerprint for corpus in corpora.values()},
        "seeds": seeds,
        "source": source,
        "first": first,
        "targets": targets,
        "losses": losses[:, : losses.shape[1] // SHOWN * SHOWN].reshape(len(losses), -1, SHOWN).mean(axis=2),
        "arms": found,
    }


def further(
    name: str,
    base: TokenizedModels,
    starts: Sequence[Params],
    windows: Windows,
    training: Training,
    seeds: Sequence[int],
    workspace: Workspace,
) -> list[Params]:
    """More training of whole models, with tables for the windows' tokens; those of a seed read the same batches."""
    members = tuple((seeds[i % len(seeds)], training.optimizer.learning_rate) for i in range(len(starts)))
    loss = make_loss(base.model, STANDARD, len(starts[0]["table"]))
    tokens = windows.length
    return train(name, stacked(starts), loss, windows, training, workspace, members=members, tokens=tokens)


def no_encoder(pieces: Sequence[bytes]) -> np.ndarray:
    """Vectors that no method here asks for."""
    return np.zeros((len(pieces), 1), np.float32)


def plain(name: str) -> str:
    """A tokenizer's name as that of an arm."""
    return name.translate(str.maketrans(":@", "--"))


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """The paper's, and the rivals that need no training."""
    arms, source, first, targets = Arms(results), results["source"], results["first"], results["targets"]
    original = arms[f"{source}/itself", "all"]
    paper, unit = PAPERS[0], "bits per byte less, all text"

    def saved(target: str, than: str) -> np.ndarray:
        return arms[f"{target}/{than}", "all"] - arms[f"{target}/hypernetwork", "all"]

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
            f"{paper}: section 3, of the perfect hypernetwork",
            {
                "copied: tables that changed": arms[f"{source}/copied", "changed"],
                "hypernetwork: relative cost": arms[f"{source}/hypernetwork", "all"] / original - 1,
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
            f"{paper}: tables of zero-shot transfer",
            {target: saved(target, "pieces") for target in targets},
            above(0),
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
            f"{paper}: table 2",
            closed,
            {"spread left": below(0.5)},
            "share of the spread",
            "closed with less than 1 B tokens; the original gains nothing",
        ),
        Claim(
            "serves_the_finetuned",
            "In a model that was tuned on another text, rows for the base model lose at most 1.5 times what they lose in it.",
            f"{paper}: table of fine-tuned models",
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
    short = [target.replace("-bible-", "\n") for target in targets]
    for panel, part in zip(axes, ("all", "new"), strict=False):
        shown = {
            method: (label, np.stack([arms[f"{target}/{method}", part] for target in targets], axis=1))
            for method, label in LABELS.items()
            if method != "ridge"
        }
        bars(panel, short, shown)
        for place, target in enumerate(targets):
            if f"{target}/ridge" in arms:
                values = arms[f"{target}/ridge", part]
                panel.plot(
                    [place + 0.45] * len(values),
                    values,
                    "x",
                    color="black",
                    markersize=4,
                    label="_" * place + LABELS["ridge"],
                )
        panel.axhline(own, color=GREY, linestyle="--", linewidth=1.0, label="original, all text")
        panel.set_ylabel("bits per byte")
        panel.set_ylim(bottom=1.0)
    axes[1].legend(loc="upper left", fontsize=6.5)
    losses = np.array(results["losses"])
    band(axes[2], SHOWN * (np.arange(losses.shape[1]) + 0.5), losses, "", PALETTE[2])
    axes[2].set(xlabel="step", ylabel="nats per token and lexical loss")
    steps = {
        LABELS[method]: np.stack([arms[f"{first}/{method}", "all"], arms[f"continued/{method}", "all"]], axis=1)
        for method in CONTINUED
    }
    steps["original tokenizer"] = np.stack([arms[f"{source}/itself", "all"], arms["continued/itself", "all"]], axis=1)
    lines(axes[3], (0, 1), steps)
    axes[3].set_xticks((0, 1), ("before", "after"))
    axes[3].set_ylabel("bits per byte")
    axes[3].legend(fontsize=7)
    return drawn
