"""Probes look for the plain text under a cipher in a lexinvariant model's hidden states, beside frequencies and the sampling of keys.

Huang et al. 2023 (arXiv 2305.16349), deciphering; method card lexinvariant-lm, experiment D. Every window is enciphered with a key of its
own and the label is the plain symbol under the present one, so that only what was inferred from the context can tell. Beside the
lexinvariant model: the same probes on an untrained network and on the standard model, frequency ranks, and Metropolis sampling of keys.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.harness.curves import rounded
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILION, band, panels, styled
from experiments.harness.training import Training
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.language_models import shared_seeds, training_mesh
from experiments.subjects.text import (
    MUON,
    PUBLISHED_DATA,
    PUBLISHED_MODEL,
    PUBLISHED_TRAINING,
    SUFFIX_MATCH,
    Text,
    TextModels,
    late,
    prepare,
)
from lexinv.data.markov_first_order import estimate_source
from lexinv.data.windows import evaluation_windows
from lexinv.lexinvariance.cipher import Ciphers, elect_keys, encipher_windows, frequency_key, score_keys
from lexinv.lexinvariance.cipher_probes import make_probing
from lexinv.lexinvariance.metropolis import metropolis_decipher
from lexinv.lexinvariance.probes import ProbeConfig
from lexinv.nn.language_model import Params, initialize
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Counts

PAPERS = ("huang2023lexinvariant",)
ARMS = {
    "lexinvariant": LexiconConfig("lexinvariant"),
    "untrained": LexiconConfig("lexinvariant"),
    "standard": LexiconConfig("standard"),
}


@dataclass(frozen=True)
class DecipherConfig(Checked):
    """probes: hidden units of each probe, 0 for logistic regression; all are trained alike on windows of the train split.

    windows: held-out windows of each seed. read: a key is elected after so many symbols, and after all.
    proposals, restarts: of the Metropolis chains.
    """

    probes: tuple[ProbeConfig, ...] = (ProbeConfig(), ProbeConfig(hidden=256))
    batch_size: Count = 16
    windows: Count = 64
    read: Counts = (32, 128)
    proposals: Count = 10_000
    restarts: Count = 8

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        units = [probe.hidden for probe in self.probes]
        yield 0 < len(set(units)) == len(units), "probes", "at least one, of different hidden units"
        yield list(self.read) == sorted(self.read), "read", "ascending numbers of symbols"


@dataclass(frozen=True)
class Config(TextModels):
    """What is trained, and how it is deciphered."""

    model: TransformerConfig = replace(SUFFIX_MATCH, width=256, mlp_width=256)
    training: Training = Training(steps=150, seeds=(0, 1, 2), optimizer=MUON, microbatches=2)
    decipher: DecipherConfig = DecipherConfig()

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield from super().checks()
        most = self.data.context - 1
        yield self.decipher.read[-1] < most, "decipher.read", f"below data.context - 1 = {most}"


PRESETS = presets(
    Config(),
    smoke={
        "model.width": 32,
        "model.mlp_width": 32,
        "training.steps": 8,
        "training.batch_size": 4,
        "training.microbatches": 1,
        "training.optimizer.warmup_steps": 2,
        "data.context": 64,
        "decipher": DecipherConfig(
            (ProbeConfig(steps=8),), batch_size=4, windows=4, read=(16,), proposals=200, restarts=2
        ),
    },
    quick={
        "decipher.probes": (ProbeConfig(hidden=256, steps=100),),
        "decipher.windows": 32,
        "decipher.proposals": 3000,
        "decipher.restarts": 4,
    },
    paper={
        "model": PUBLISHED_MODEL,
        "training": PUBLISHED_TRAINING,
        "data": PUBLISHED_DATA,
        "decipher.probes": (ProbeConfig(steps=2000), ProbeConfig(256, steps=2000)),
        "decipher.batch_size": 32,
        "decipher.windows": 1000,
        "decipher.read": (32, 128, 256),
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Accuracy of every probe by level and position, shares of text and key that are deciphered, and one passage; by seed."""
    training_mesh(config.training, config.model)  # refuses one that does not fit before anything is compiled
    seeds = config.training.seeds
    text = prepare(config.data.corpora[0], config.data, len(seeds), config.decipher.windows, workspace)
    fingerprints = workspace.pinned("corpora", {text.name: text.fingerprint})
    ciphers = [encipher_windows(windows, text.vocab, seed) for windows, seed in zip(text.held_out, seeds, strict=True)]
    read = [*config.decipher.read, config.data.context - 1]
    shown = ciphers[0]
    return {
        "corpora": fingerprints,
        "seeds": list(seeds),
        "context": config.data.context,
        "vocab": text.vocab,
        "most_frequent": float(np.bincount(text.train.tokens).max() / len(text.train.tokens)),
        "probes": [probe.hidden for probe in config.decipher.probes],
        "read": read,
        "passage": {"plain": spell(text, shown.plain[0]), "cipher": spell(text, shown.cipher[0])},
        "baselines": workspace.cached("baselines", lambda: measure_baselines(text, ciphers, read, config)),
        "arms": {
            arm: workspace.cached(f"arms/{arm}", lambda arm=arm: measure(arm, text, ciphers, read, config, workspace))
            for arm in ARMS
        },
    }


def spell(text: Text, tokens: np.ndarray) -> str:
    return "".join(text.tokenizer.symbols[token] for token in tokens)


def measure_baselines(text: Text, ciphers: list[Ciphers], read: list[int], config: Config) -> dict[str, Any]:
    """What frequency ranks and Metropolis sampling, with the language's symbols and bigrams, make of the same windows."""
    source = estimate_source(np.asarray(text.train.tokens), text.vocab)
    frequencies = jnp.exp(source.log_initial)

    def by_frequency(cipher: np.ndarray, seed: int) -> np.ndarray:
        del seed
        counts = jax.nn.one_hot(jnp.asarray(cipher), text.vocab).sum(axis=1)
        return np.asarray(jax.vmap(frequency_key, (0, None))(counts, frequencies))

    def by_metropolis(cipher: np.ndarray, seed: int) -> np.ndarray:
        rngs = jax.random.split(stream(jax.random.key(seed), "metropolis"), len(cipher))
        sizes = {"proposals": config.decipher.proposals, "restarts": config.decipher.restarts}
        decipher = jax.vmap(lambda rng, tokens: metropolis_decipher(rng, source, tokens, **sizes).key)
        return np.asarray(decipher(rngs, jnp.asarray(cipher)))

    return {
        name: judge(
            [[find(each.cipher[:, :length], seed) for length in read] for seed, each in enumerate(ciphers)],
            text,
            ciphers,
            read,
        )
        for name, find in (("frequency", by_frequency), ("metropolis", by_metropolis))
    }


def judge(keys: list[list[np.ndarray]], text: Text, ciphers: list[Ciphers], read: list[int]) -> dict[str, Any]:
    """Of the keys [seeds][read] found after so many symbols: what each gets right of the symbols read, and of the last quarter at the end;
    and the passage as it then reads."""
    scored = []
    for found, each in zip(keys, ciphers, strict=True):
        parts = [score_keys(key, each.keys, each.cipher[:, :length]) for key, length in zip(found, read, strict=True)]
        end = each.cipher[:, 3 * read[-1] // 4 : read[-1]]
        scored.append(
            {
                "positions": rounded(np.array([part.positions for part in parts])),
                "symbols": rounded(np.array([part.symbols for part in parts])),
                "late": score_keys(found[-1], each.keys, end).positions,
            }
        )
    first = ciphers[0].cipher[0]
    passage = [reveal(text, first, key[0], length) for key, length in zip(keys[0], read, strict=True)]
    return {"key": scored, "passage": passage}


def measure(
    arm: str, text: Text, ciphers: list[Ciphers], read: list[int], config: Config, workspace: Workspace
) -> dict[str, Any]:
    """Probe one model per seed on windows of the train split, and judge it on the held-out ones."""
    models = frozen(arm, text, config, workspace)
    probe, rows = make_probing(config.model, ARMS[arm], text.vocab), config.decipher.batch_size
    most = max(each.steps for each in config.decipher.probes) * rows
    probed = []
    for params, each, seed in zip(models, ciphers, config.training.seeds, strict=True):
        plain = evaluation_windows(text.train, most, seed)
        train = encipher_windows(plain, text.vocab, seed + 1_000_000)  # keys other than those of the held-out windows
        probed.append([probe(params, how, train, each, rows, seed) for how in config.decipher.probes])
    best = [min(range(len(seed)), key=lambda p, seed=seed: seed[p].loss) for seed in probed]
    log_probs = [seed[p].log_probs for seed, p in zip(probed, best, strict=True)]
    keys = [
        [elect_keys(found[:, :length], each.cipher[:, :length]) for length in read]
        for found, each in zip(log_probs, ciphers, strict=True)
    ]
    return {
        "accuracy": [[rounded(seed[p].accuracy) for seed in probed] for p in range(len(config.decipher.probes))],
        "chosen": [(p, seed[p].level) for seed, p in zip(probed, best, strict=True)],
        **judge(keys, text, ciphers, read),
    }


def frozen(arm: str, text: Text, config: Config, workspace: Workspace) -> Sequence[Params]:
    """The networks to probe, one for each seed: trained, or as training begins."""
    if arm == "untrained":
        keys = [stream(jax.random.key(seed), "parameters") for seed in config.training.seeds]
        return [initialize(config.model, ARMS[arm], text.vocab, key) for key in keys]
    identity = {"fingerprint": text.fingerprint, **asdict(config.data)}
    how = text.vocab, text.train, config.training
    return shared_seeds(identity, config.model, ARMS[arm], *how, workspace).params


def reveal(text: Text, cipher: np.ndarray, key: np.ndarray, length: int) -> str:
    """The whole passage by a key found in its first `length` symbols; those not met there are dots."""
    met = np.isin(cipher, cipher[:length])
    return "".join(
        text.tokenizer.symbols[key[symbol]] if seen else "·" for symbol, seen in zip(cipher, met, strict=True)
    )


def chosen_accuracy(results: dict[str, Any], arm: str) -> np.ndarray:
    """Accuracy of the probe that was best in training, by seed and position."""
    found = results["arms"][arm]
    return np.array([found["accuracy"][p][seed][level] for seed, (p, level) in enumerate(found["chosen"])])


def keys_right(judged: dict[str, Any], what: str) -> np.ndarray:
    """Shares by seed, and by length read but for `late`."""
    return np.array([seed[what] for seed in judged["key"]])


def claims(results: dict[str, Any]) -> list[Claim]:
    """The paper's statements and the card's thresholds."""
    baselines = results["baselines"]
    right = {arm: late(chosen_accuracy(results, arm), 0.75) for arm in ARMS}
    frequency = keys_right(baselines["frequency"], "late")
    key = results["arms"]["lexinvariant"]
    return [
        Claim(
            "probe_above_frequency_matching",
            "In the last quarter of the window the probe reads more plain symbols than frequency ranks of the whole window do.",
            "huang2023lexinvariant: abstract",
            {"lexinvariant": right["lexinvariant"] - frequency},
            above(0),
            "difference of the shares",
            "the model deciphers in context",
        ),
        Claim(
            "probe_reads_most_symbols",
            "There the probe is right at 70 % of the positions.",
            OURS,
            {"lexinvariant": right["lexinvariant"]},
            above(0.7),
            "share of the positions",
        ),
        Claim(
            "key_recovered",
            "The key elected by the probe's votes over the window deciphers 90 % of it; the threshold is ours.",
            "huang2023lexinvariant: abstract",
            {what: keys_right(key, what)[:, -1] for what in ("positions", "symbols")},
            {"positions": above(0.9)},
            "share of the text's positions, and of its symbols",
            "99.6 % of the key (150M parameters, 512 tokens)",
        ),
        Claim(
            "probe_needs_training",
            "The probe on the trained model is right more often than that on the untrained network.",
            OURS,
            {"untrained": right["lexinvariant"] - right["untrained"]},
            above(0.05),
            "difference of the shares",
        ),
        Claim(
            "probe_above_standard_model",
            "It is right more often than that on the standard model, which reads the same cipher.",
            OURS,
            {"standard": right["lexinvariant"] - right["standard"]},
            above(0.05),
            "difference of the shares",
        ),
        Claim(
            "first_position_is_chance",
            "At the first position, where nothing can be known, the probe is right no more often than for the most frequent symbol: no "
            "identity leaks.",
            OURS,
            {"lexinvariant": chosen_accuracy(results, "lexinvariant")[:, 0] - results["most_frequent"]},
            below(0.05),
            "share above that symbol's frequency in the language",
        ),
        Claim(
            "metropolis_above_frequency_matching",
            "Sampling keys with a bigram model deciphers more of the window than frequency ranks: the text holds what the probe could use.",
            OURS,
            {"metropolis": keys_right(baselines["metropolis"], "late") - frequency},
            above(0.3),
            "difference of the shares",
        ),
    ]


SHOWN = 72
"""Characters of the passage in the figure."""
COLORS = dict(zip(ARMS, (VERMILION, GREY, BLUE), strict=True))


def figure(results: dict[str, Any]) -> Figure:
    """Accuracy by position and by level, shares deciphered by symbols read, and a passage as the model believes it to be."""
    titles = (
        "Best probe along the window",
        "Last quarter, by level of the residual stream",
        "Whole key, by votes or sampling",
    )
    drawn, axes = panels(2, 3, width=4.2, height=2.9, titles=titles)
    by_position, by_level, by_read = axes[:3]
    dots = {"marker": "o", "markersize": 3}
    with styled():
        for arm, color in COLORS.items():
            accuracy = chosen_accuracy(results, arm)
            edges = np.arange(0, accuracy.shape[1], max(accuracy.shape[1] // 16, 1))
            widths = np.diff([*edges, accuracy.shape[1]])
            band(by_position, edges + widths / 2, np.add.reduceat(accuracy, edges, axis=1) / widths, arm, color)
            found = results["arms"][arm]
            for levels, hidden, style in zip(found["accuracy"], results["probes"], ("--", "-", ":"), strict=False):
                rows = np.transpose([late(level, 0.75) for level in np.moveaxis(np.array(levels), 1, 0)])
                name = f"{arm}, {f'{hidden} hidden' if hidden else 'logistic'}"
                band(by_level, range(rows.shape[1]), rows, name, color, linestyle=style, **dots)
            band(by_read, results["read"], keys_right(found, "positions"), arm, color, **dots)
        for name, color in (("frequency", ORANGE), ("metropolis", GREEN)):
            shares = keys_right(results["baselines"][name], "positions")
            band(by_read, results["read"], shares, f"{name} (no network)", color, marker="s", markersize=3)
        frequent = {"color": GREY, "linewidth": 0.8, "linestyle": ":", "label": "most frequent symbol"}
        by_position.axhline(results["most_frequent"], **frequent)
        for panel, label in zip(axes, ("symbols read", "level (0: embeddings)", "symbols read"), strict=False):
            panel.set(xlabel=label, ylabel="share of text deciphered", ylim=(-0.02, 1.02))
            panel.legend(fontsize=7, loc="upper left" if panel is by_position else "best")
        by_level.set_xticks(range(rows.shape[1]))
        grid = axes[3].get_gridspec()
        for panel in axes[3:]:
            panel.remove()
        draw_passage(drawn.add_subplot(grid[1, :]), results)
    return drawn


def draw_passage(axes: Axes, results: dict[str, Any]) -> None:
    """One line each for the cipher, what is believed after some symbols, and the truth; right characters green, wrong ones red."""
    plain = results["passage"]["plain"]
    believed = results["arms"]["lexinvariant"]["passage"]
    lines = [
        ("cipher", results["passage"]["cipher"], None),
        *((f"probe, {n} symbols read", line, plain) for n, line in zip(results["read"], believed, strict=True)),
        (f"Metropolis, {results['read'][-1]} read", results["baselines"]["metropolis"]["passage"][-1], plain),
        ("plain", plain, None),
    ]
    axes.set_axis_off()
    axes.set(
        title="The beginning of one window, deciphered (green: right, red: wrong, dots: not met yet)",
        xlim=(-16, SHOWN),
        ylim=(len(lines), -0.5),
    )
    for row, (name, line, truth) in enumerate(lines):
        axes.text(-16, row, name, fontsize=8, va="center")
        for column, character in enumerate(line[:SHOWN]):
            right = truth is not None and character == truth[column]
            color = GREY if character == "·" else BLACK if truth is None else GREEN if right else VERMILION
            axes.text(column, row, character, family="monospace", fontsize=9, color=color, va="center", ha="center")
