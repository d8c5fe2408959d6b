"""Probes look for the plain text under a cipher in the hidden states of lexinvariant models, and find it where an exact decipherer put it.

Huang et al. 2023 (arXiv 2305.16349), deciphering; method card lexinvariant-lm, experiment D. Every window is enciphered with a key of its
own and the label is the plain symbol under the present one, so that only what was inferred from the context can tell. The models are those
of `perplexity`, canonical and Gaussian, each beside its own untrained state: in the preset `figure` the very ones of its record, otherwise
the same after a quarter of the training. Positive control: the same probe on the posterior that a particle filter over keys has of the
present symbol reads the key, so it would in a model that had inferred it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.curves import bins, rounded
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, GREEN, GREY, ORANGE, VERMILION, band, panels, reference, styled
from experiments.harness.training import Training
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.language_models import training_mesh, untrained_seeds
from experiments.subjects.lexicon_models import (
    PUBLISHED,
    SMOKE,
    WITHOUT_IDENTITY,
    LexiconModels,
    lexicon,
    train_kind,
)
from experiments.subjects.ngram_languages import LanguageConfig, fit_language
from experiments.subjects.text import Text, late, prepare
from lexinv.data.windows import evaluation_windows
from lexinv.lexinvariance.cipher import Ciphers, elect_keys, encipher_windows, frequency_key, score_keys
from lexinv.lexinvariance.cipher_probes import Probed, make_probing, probe_features
from lexinv.lexinvariance.particles import FilterConfig, filter_keys
from lexinv.lexinvariance.probes import ProbeConfig
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count

PAPERS = ("huang2023lexinvariant",)
ABSTRACT = "huang2023lexinvariant: abstract"
CONTROL = "posterior"
UNTRAINED = "-untrained"


@dataclass(frozen=True)
class DecipherConfig(Checked):
    """probe: of every level of every model, on `batch_size` windows of the train split in each step, and of the control.

    windows: held-out ones of each seed. filtered: of these, how many the filter reads; and as many others, to train its probe on.
    """

    probe: ProbeConfig = ProbeConfig(hidden=128, steps=100)
    batch_size: Count = 16
    windows: Count = 64
    filtered: Count = 8
    language: LanguageConfig = LanguageConfig()
    filter: FilterConfig = FilterConfig()

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield self.filtered <= self.windows, "filtered", f"at most windows = {self.windows}"


@dataclass(frozen=True)
class Config(LexiconModels):
    """What is trained, and how it is deciphered."""

    training: Training = replace(LexiconModels().training, steps=160)
    decipher: DecipherConfig = DecipherConfig()

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield from super().checks()
        most = self.evaluation.windows - self.decipher.filtered
        yield self.decipher.windows <= most, "decipher.windows", f"at most evaluation.windows - filtered = {most}"


PRESETS = presets(
    Config(),
    smoke={
        **SMOKE,
        "decipher": DecipherConfig(
            ProbeConfig(steps=8), 4, 4, 2, LanguageConfig(order=2), FilterConfig(64, restarts=1)
        ),
    },
    figure={"training.steps": LexiconModels().training.steps},  # where `perplexity` was run nothing is trained
    paper={
        **PUBLISHED,
        "decipher": DecipherConfig(
            ProbeConfig(256, steps=2000), 32, 512, 64, LanguageConfig(order=5), FilterConfig(65_536, restarts=4)
        ),
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Shares of the plain symbols that are read by arm, seed, level and position, and of the keys that are."""
    training_mesh(config.training, config.model)  # refuses one that does not fit before anything is compiled
    seeds, windows = config.training.seeds, config.decipher.windows
    text = prepare(config.data.corpora[0], config.data, len(seeds), config.evaluation.windows, workspace)
    ciphers = [
        encipher_windows(held_out, text.vocab, seed) for held_out, seed in zip(text.held_out, seeds, strict=True)
    ]
    judged = [Ciphers(*(part[:windows] for part in each)) for each in ciphers]

    def arms() -> Iterator[tuple[str, Any]]:
        for kind in WITHOUT_IDENTITY:
            for state in (kind, kind + UNTRAINED):
                yield state, lambda state=state, kind=kind: measure(kind, state, text, judged, config, workspace)
        yield CONTROL, lambda: measure_control(text, ciphers, config)

    return {
        "corpora": workspace.pinned("corpora", {text.name: text.fingerprint}),
        "seeds": list(seeds),
        "context": config.data.context,
        "vocab": text.vocab,
        "most_frequent": float(np.bincount(text.train.tokens).max() / len(text.train.tokens)),
        "frequency": workspace.cached("frequency", lambda: rank_frequencies(text, judged)),
        "arms": {arm: workspace.cached(f"arms/{arm}", found) for arm, found in arms()},
    }


def rank_frequencies(text: Text, ciphers: list[Ciphers]) -> list[list[float]]:
    """By seed and position the share that is right of what the ranks of the frequencies in the whole window say."""
    language = jnp.asarray(np.bincount(text.train.tokens, minlength=text.vocab), jnp.float32)
    right = []
    for plain, _, cipher in ciphers:
        counts = jax.nn.one_hot(jnp.asarray(cipher), text.vocab).sum(axis=1)
        key = np.asarray(jax.vmap(frequency_key, (0, None))(counts, language))
        right.append((np.take_along_axis(key, cipher, axis=1) == plain).mean(axis=0))
    return rounded(np.array(right))


def measure(
    kind: str, arm: str, text: Text, ciphers: list[Ciphers], config: Config, workspace: Workspace
) -> dict[str, Any]:
    """Probe the models of one kind, trained or as their training begins."""
    seeds, how = config.training.seeds, config.decipher
    model = config.model, lexicon(kind, config), text.vocab
    begun = arm != kind
    models = (
        untrained_seeds(*model, seeds) if begun else [each.params for each in train_kind(kind, text, config, workspace)]
    )
    probe, probed = make_probing(*model), []
    for params, held_out, seed in zip(models, ciphers, seeds, strict=True):
        plain = evaluation_windows(text.train, how.probe.steps * how.batch_size, seed)
        train = encipher_windows(plain, text.vocab, seed + 1_000_000)  # keys other than those of the held-out windows
        probed.append(probe(params, how.probe, train, held_out, how.batch_size, seed))
    return judge(probed, ciphers)


def measure_control(text: Text, ciphers: list[Ciphers], config: Config) -> dict[str, Any]:
    """The same probe on what the filter believes: trained on the last windows of each seed, judged on the first."""
    how, language = config.decipher, fit_language(text, config.decipher.language)
    probed, judged = [], []
    for held_out, seed in zip(ciphers, config.training.seeds, strict=True):
        first, last = (
            Ciphers(*(part[rows] for part in held_out)) for rows in (slice(how.filtered), slice(-how.filtered, None))
        )
        rng = stream(jax.random.key(seed), "particles")
        posterior = filter_keys(rng, language, np.concatenate([first.cipher, last.cipher]), how.filter).posterior
        features = np.asarray(posterior[:, :-1])  # the models do not read the last symbol either
        train, held = (part[:, :-1] for part in (last.plain, first.plain))
        probed.append(
            probe_features(features[how.filtered :], train, features[: how.filtered], held, text.vocab, how.probe, seed)
        )
        judged.append(first)
    return judge(probed, judged)


def judge(probed: list[Probed], ciphers: list[Ciphers]) -> dict[str, Any]:
    """By seed: accuracy by level and position, the level that was best in training, and what its votes get right of the keys."""
    keys = [elect_keys(each.log_probs, part.cipher[:, :-1]) for each, part in zip(probed, ciphers, strict=True)]
    return {
        "accuracy": [rounded(each.accuracy) for each in probed],
        "level": [each.level for each in probed],
        "key": [
            score_keys(key, part.keys, part.cipher[:, :-1]).symbols for key, part in zip(keys, ciphers, strict=True)
        ],
    }


def best(results: dict[str, Any], arm: str) -> np.ndarray:
    """Accuracy by seed and position at the level that was best in training."""
    found = results["arms"][arm]
    return np.array([seed[level] for seed, level in zip(found["accuracy"], found["level"], strict=True)])


def claims(results: dict[str, Any]) -> list[Claim]:
    """The paper's deciphering, and the controls that say what a probe shows."""
    right = {arm: late(best(results, arm), 0.75) for arm in results["arms"]}
    frequency = late(results["frequency"], 0.75)
    key = {arm: np.array(found["key"]) for arm, found in results["arms"].items()}
    return [
        Claim(
            "probe_reads_the_key",
            "In the last quarter of the window the probe reads more plain symbols than frequency ranks of the whole window do.",
            ABSTRACT,
            {kind: right[kind] - frequency for kind in WITHOUT_IDENTITY},
            above(0),
            "difference of the shares",
            "the model deciphers in context",
        ),
        Claim(
            "key_recovered",
            "The key elected by the probe's votes over the window is right for nine tenths of its symbols (our threshold); beside it that "
            "of the control.",
            ABSTRACT,
            {arm: key[arm] for arm in (*WITHOUT_IDENTITY, CONTROL)},
            dict.fromkeys(WITHOUT_IDENTITY, above(0.9)),
            "share of the symbols that occur",
            "99.6 % of the key (150M parameters, 512 tokens)",
        ),
        Claim(
            "probe_needs_training",
            "There the probe is right more often than on the same model before its training.",
            OURS,
            {kind: right[kind] - right[kind + UNTRAINED] for kind in WITHOUT_IDENTITY},
            above(0.05),
            "difference of the shares",
        ),
        Claim(
            "probe_reads_the_posterior",
            "There the same probe, trained on the filter's posterior of the present symbol in place of hidden states, is right at seven of "
            "ten positions: it would read a key that had been inferred.",
            OURS,
            {CONTROL: right[CONTROL]},
            above(0.7),
            "share of the positions",
        ),
        Claim(
            "first_position_is_chance",
            "At the first position, where nothing can be known, the probe is right no more often than the most frequent symbol comes: no "
            "identity leaks.",
            OURS,
            {kind: best(results, kind)[:, 0] - results["most_frequent"] for kind in WITHOUT_IDENTITY},
            below(0.05),
            "share above that symbol's frequency in the language",
        ),
    ]


COLORS = {"canonical": GREEN, "Gaussian": VERMILION, CONTROL: BLACK}


def figure(results: dict[str, Any]) -> Figure:
    """Accuracy by position and by level, and the share of the key that the probe's votes elect."""
    titles = "Best level along the window", "Last quarter, by level of the residual stream", "Key, by the probe's votes"
    drawn, (by_position, by_level, by_key) = panels(1, 3, height=3.5, titles=titles)
    x, binned = bins(results["context"] - 1)
    with styled():
        for arm, found in results["arms"].items():
            color = COLORS[arm.removesuffix(UNTRAINED)]
            line: dict[str, Any] = {"color": color, "linestyle": ":" if arm.endswith(UNTRAINED) else "-"}
            line["linewidth"] = 4 if arm.startswith("canonical") else 1.5  # lines of nothing read lie on one another
            band(by_position, x, binned(best(results, arm)), arm, **line)
            levels = np.array(found["accuracy"])
            if arm != CONTROL:
                rows = levels[..., int(0.75 * levels.shape[-1]) :].mean(axis=-1)
                band(by_level, range(rows.shape[1]), rows, arm, marker="o", markersize=3, **line)
        band(by_position, x, binned(np.array(results["frequency"])[:, :-1]), "frequency ranks", ORANGE)
        reference(by_level, float(late(results["frequency"], 0.75).mean()), "frequency ranks", ORANGE)
        reference(by_level, float(late(best(results, CONTROL), 0.75).mean()), CONTROL, BLACK)
        for panel in (by_position, by_level):
            reference(panel, results["most_frequent"], "most frequent symbol", GREY)
            panel.set(ylabel="share of positions read right", ylim=(0, 1.4), yticks=np.linspace(0, 1, 6))
            panel.legend(loc="upper center", ncols=2, fontsize=7)  # in the room above 1
        by_position.set_xlabel("symbols read")
        by_level.set(xlabel="level (0: embeddings)", xticks=range(rows.shape[1]))
        shares = [np.array(found["key"]) for found in results["arms"].values()]
        by_key.barh(range(len(shares)), [share.mean() for share in shares], color=GREY)
        for row, share in enumerate(shares):
            by_key.plot(share, np.full(len(share), row), "o", color=BLACK, markersize=3)
        by_key.set(
            yticks=range(len(shares)), yticklabels=list(results["arms"]), xlim=(0, 1.03), xlabel="share of symbols"
        )
        by_key.invert_yaxis()
    return drawn
