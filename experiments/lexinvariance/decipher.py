"""Probes look for the plain text under a cipher in a lexinvariant model's hidden states, beside frequencies and the sampling of keys.

Huang et al. 2023 (arXiv 2305.16349), deciphering; method card lexinvariant-lm, experiment D. Every window is enciphered with a key of its
own and the label is the plain symbol under the present one, so that only what was inferred from the context can tell. Beside the
lexinvariant model: the same probes on an untrained network and on the standard model, frequency ranks, and Metropolis sampling of keys.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.claims import Claim, above, interval
from experiments.harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILION, band, panels, styled
from experiments.harness.training import Training
from experiments.harness.workspace import Workspace
from experiments.lexinvariance import in_context, perplexity
from experiments.subjects.language_models import training_mesh
from lexinv.data.windows import evaluation_windows
from lexinv.lexinvariance.cipher import elect_key, encipher, frequency_key, score_key, vote_shares
from lexinv.lexinvariance.markov import estimate_source
from lexinv.lexinvariance.metropolis import metropolis_decipher
from lexinv.lexinvariance.probes import ProbeConfig, fit_probe, probe_log_probs
from lexinv.nn.language_model import Params, initialize, make_hidden_states
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.streams import stream
from lexinv.validation import require

PAPER = perplexity.PAPER
SOURCE = "Huang et al. 2023, deciphering"
CARD = "method card lexinvariant-lm, experiment D (ours)"
ARMS = {
    "lexinvariant": LexiconConfig("lexinvariant"),
    "untrained": LexiconConfig("lexinvariant"),
    "standard": LexiconConfig("standard"),
}


@dataclass(frozen=True)
class DecipherConfig:
    """probes: hidden units of each probe, 0 for logistic regression; all are trained alike on windows of the train split.

    windows: held-out windows of each seed. read: a key is elected after so many symbols, and after all.
    proposals, restarts: of the Metropolis chains.
    """

    probes: tuple[ProbeConfig, ...] = (ProbeConfig(), ProbeConfig(hidden=256))
    batch_size: int = 16
    windows: int = 64
    read: tuple[int, ...] = (32, 128)
    proposals: int = 10_000
    restarts: int = 8

    def __post_init__(self):
        for field in ("batch_size", "windows", "proposals", "restarts"):
            require(getattr(self, field) >= 1, f"decipher.{field}", getattr(self, field), "at least 1")
        units = [probe.hidden for probe in self.probes]
        require(0 < len(set(units)) == len(units), "decipher.probes", units, "at least one, of different hidden units")
        ascending = list(self.read) == sorted(set(self.read)) and all(length >= 1 for length in self.read)
        require(ascending, "decipher.read", self.read, "ascending numbers of symbols")


@dataclass(frozen=True)
class Config:
    """What is trained, and how it is deciphered."""

    model: TransformerConfig
    training: Training
    data: perplexity.DataConfig = perplexity.DataConfig()
    decipher: DecipherConfig = DecipherConfig()

    def __post_init__(self):
        longest, context = max(self.decipher.read, default=1), self.data.context
        require(longest < context - 1, "decipher.read", self.decipher.read, f"below data.context - 1 = {context - 1}")
        self.as_perplexity()

    def as_perplexity(self) -> perplexity.Config:
        """What the text of the experiment is to the experiment on perplexity, with its checks."""
        evaluation = perplexity.EvaluationConfig(windows=self.decipher.windows)
        return perplexity.Config(self.data, self.model, self.training, evaluation)


PRESETS = {
    "smoke": Config(
        in_context.PRESETS["smoke"].model,
        in_context.PRESETS["smoke"].training,
        in_context.PRESETS["smoke"].data,
        DecipherConfig((ProbeConfig(steps=8),), batch_size=4, windows=4, read=(16,), proposals=200, restarts=2),
    ),
    "quick": Config(
        in_context.MODEL,
        in_context.TRAINING,
        decipher=DecipherConfig((ProbeConfig(hidden=256, steps=100),), windows=32, proposals=3000, restarts=4),
    ),
    "cpu": Config(in_context.MODEL, in_context.TRAINING),
    "paper": Config(
        perplexity.PAPER_CONFIG.model,
        perplexity.PAPER_CONFIG.training,
        perplexity.PAPER_CONFIG.data,
        DecipherConfig(
            (ProbeConfig(steps=2000), ProbeConfig(256, steps=2000)),
            batch_size=32,
            windows=1000,
            read=(32, 128, 256),
        ),
    ),
}


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Accuracy of every probe by level and position, shares of text and key that are deciphered, and one passage; by seed."""
    training_mesh(config.training, config.model)  # refuses one that does not fit before anything is compiled
    text = perplexity.prepare(config.data.corpora[0], config.as_perplexity())
    fingerprints = workspace.pinned("corpora", {text.name: text.fingerprint})
    ciphers = [
        encipher_windows(windows, text.vocab, seed)
        for windows, seed in zip(text.held_out, config.training.seeds, strict=True)
    ]
    read = [*config.decipher.read, config.data.context - 1]
    shown = ciphers[0]
    return {
        "corpora": fingerprints,
        "seeds": list(config.training.seeds),
        "context": config.data.context,
        "vocab": text.vocab,
        "most_frequent": float(np.bincount(text.train.tokens).max() / len(text.train.tokens)),
        "probes": [probe.hidden for probe in config.decipher.probes],
        "read": read,
        "passage": {"plain": spell(text, shown.plain[0]), "cipher": spell(text, shown.cipher[0])},
        "baselines": workspace.cached("baselines", lambda: measure_baselines(text, ciphers, read, config.decipher)),
        "arms": {
            arm: workspace.cached(f"arms/{arm}", lambda arm=arm: measure(arm, text, ciphers, config, workspace))
            for arm in ARMS
        },
    }


@dataclass(frozen=True)
class Ciphers:
    """Windows of text, their keys, and what the keys make of them."""

    plain: np.ndarray
    keys: np.ndarray
    cipher: np.ndarray


def encipher_windows(plain: np.ndarray, vocab: int, seed: int) -> Ciphers:
    """A random key for each window."""
    rng = np.random.default_rng(seed)
    keys = rng.permuted(np.broadcast_to(np.arange(vocab, dtype=np.int32), (len(plain), vocab)), axis=1)
    return Ciphers(plain, keys, encipher(plain, keys))


def spell(text: perplexity.Text, tokens: np.ndarray) -> str:
    return "".join(text.tokenizer.symbols[token] for token in tokens)


def measure_baselines(
    text: perplexity.Text, ciphers: list[Ciphers], read: list[int], config: DecipherConfig
) -> dict[str, Any]:
    """What frequency ranks and Metropolis sampling, with the language's symbols and bigrams, make of the same windows."""
    source = estimate_source(np.asarray(text.train.tokens), text.vocab)
    frequencies = jnp.exp(source.log_initial)

    def by_frequency(cipher: np.ndarray, seed: int) -> np.ndarray:
        del seed
        counts = jax.nn.one_hot(jnp.asarray(cipher), text.vocab).sum(axis=1)
        return np.asarray(jax.vmap(frequency_key, (0, None))(counts, frequencies))

    def by_metropolis(cipher: np.ndarray, seed: int) -> np.ndarray:
        rngs = jax.random.split(stream(jax.random.key(seed), "metropolis"), len(cipher))

        def decipher(rng, tokens):
            found = metropolis_decipher(rng, source, tokens, proposals=config.proposals, restarts=config.restarts)
            return found.key

        return np.asarray(jax.vmap(decipher)(rngs, jnp.asarray(cipher)))

    baselines = {}
    for name, find in (("frequency", by_frequency), ("metropolis", by_metropolis)):
        keys = [[find(each.cipher[:, :length], seed) for length in read] for seed, each in enumerate(ciphers)]
        baselines[name] = {
            "key": [score(found, each, read) for found, each in zip(keys, ciphers, strict=True)],
            "passage": [
                reveal(text, ciphers[0].cipher[0], found[0], length)
                for found, length in zip(keys[0], read, strict=True)
            ],
        }
    return baselines


def score(keys: list[np.ndarray], ciphers: Ciphers, read: list[int]) -> dict[str, Any]:
    """Mean over windows of what the keys found after `read` symbols get right: of the symbols read, and in the last quarter at the end."""
    scores = [
        np.mean(
            [score_key(*each) for each in zip(found, ciphers.keys, ciphers.cipher[:, :length], strict=True)], axis=0
        )
        for found, length in zip(keys, read, strict=True)
    ]
    positions, symbols = np.transpose(scores)
    last = ciphers.cipher[:, 3 * read[-1] // 4 : read[-1]]
    late = [score_key(*each).positions for each in zip(keys[-1], ciphers.keys, last, strict=True)]
    return {
        "positions": perplexity.rounded(positions),
        "symbols": perplexity.rounded(symbols),
        "late": float(np.mean(late)),
    }


def measure(
    arm: str, text: perplexity.Text, ciphers: list[Ciphers], config: Config, workspace: Workspace
) -> dict[str, Any]:
    """Probe one model per seed on windows of the train split, and judge it on the held-out ones."""
    models, origin = frozen(arm, text, config, workspace)
    seeds = config.training.seeds
    fit, predict = make_probing(config, ARMS[arm], text.vocab)
    probed = []
    for params, each, seed in zip(models, ciphers, seeds, strict=True):
        plain = evaluation_windows(
            text.train, max(p.steps for p in config.decipher.probes) * config.decipher.batch_size, seed
        )
        train = encipher_windows(plain, text.vocab, seed + 1_000_000)  # keys other than those of the held-out windows
        probed.append(
            [probe_seed(fit, predict, params, probe, train, each, config, seed) for probe in config.decipher.probes]
        )
    best = [min(range(len(seed)), key=lambda p, seed=seed: seed[p]["loss"]) for seed in probed]
    read = [*config.decipher.read, config.data.context - 1]
    keys = []
    for found, p, each in zip(probed, best, ciphers, strict=True):
        log_probs = found[p]["log_probs"]
        keys.append([elect(log_probs[:, :length], each.cipher[:, :length]) for length in read])
    first = ciphers[0].cipher[0]
    return {
        "accuracy": [
            [perplexity.rounded(seed[p]["accuracy"]) for seed in probed] for p in range(len(config.decipher.probes))
        ],
        "chosen": [(p, seed[p]["level"]) for seed, p in zip(probed, best, strict=True)],
        "key": [score(found, each, read) for found, each in zip(keys, ciphers, strict=True)],
        "passage": [reveal(text, first, found[0], length) for found, length in zip(keys[0], read, strict=True)],
        **origin,
    }


def frozen(
    arm: str, text: perplexity.Text, config: Config, workspace: Workspace
) -> tuple[list[Params], dict[str, Any]]:
    """The networks to probe, one for each seed: trained, or as training begins."""
    if arm == "untrained":
        keys = [stream(jax.random.key(seed), "parameters") for seed in config.training.seeds]
        return [initialize(config.model, ARMS[arm], text.vocab, key) for key in keys], {}
    share = float(arm == "lexinvariant")
    models = in_context.train(share, text, config.data, config.model, config.training, workspace)
    return models.params, models.origin


def make_probing(config: Config, lexicon: LexiconConfig, vocab: int) -> tuple[Callable, Callable]:
    """Compiled `fit(params, rng, batches, labels, probe)` and `predict(params, probe, batch)` for the models of one arm."""
    states = make_hidden_states(config.model, lexicon, vocab)

    def flat(params: Params, batch: dict[str, jax.Array]) -> jax.Array:
        found = states(params, {"tokens": batch["tokens"], "row": batch["row"]}, jax.random.key(0))
        return found.reshape(len(found), -1, config.model.width)

    def fit(params, rng, batches, labels, probe):
        return fit_probe(rng, probe, vocab, lambda batch: flat(params, batch), batches, labels)

    def predict(params, probe, batch):
        rows, time = batch["tokens"].shape
        return probe_log_probs(probe, flat(params, batch)).reshape(-1, rows, time - 1, vocab)

    return jax.jit(fit, static_argnums=4), jax.jit(predict)


def probe_seed(
    fit: Callable,
    predict: Callable,
    params: Params,
    probe: ProbeConfig,
    train: Ciphers,
    held_out: Ciphers,
    config: Config,
    seed: int,
) -> dict[str, Any]:
    """Accuracies of the trained probes on the held-out windows; of the level whose loss was lowest in the last tenth of training, its
    log-probabilities there. In nats."""
    rows = config.decipher.batch_size
    count = probe.steps * rows
    rng = stream(jax.random.key(seed), f"probe-{probe.hidden}")
    # A row of its own for every sequence, so that no two of them share a lexicon.
    batches = {
        "tokens": train.cipher[:count].reshape(probe.steps, rows, -1),
        "row": np.arange(count, dtype=np.int32).reshape(probe.steps, rows),
    }
    labels = train.plain[:count, :-1].reshape(probe.steps, -1)
    fitted, losses = fit(params, rng, batches, labels, probe)
    final = np.asarray(losses[-max(probe.steps // 10, 1) :]).mean(axis=0)
    level, kept, right = int(final.argmin()), [], []
    for start in range(0, len(held_out.plain), rows):
        tokens = held_out.cipher[start : start + rows]
        row = np.arange(len(tokens), dtype=np.int32) + count + start
        log_probs = np.asarray(predict(params, fitted, {"tokens": tokens, "row": row}))
        kept.append(log_probs[level])  # those of all levels would fill the memory
        right.append(log_probs.argmax(axis=-1) == held_out.plain[None, start : start + rows, :-1])
    return {
        "level": level,
        "loss": float(final[level]),
        "log_probs": np.concatenate(kept),
        "accuracy": np.concatenate(right, axis=1).mean(axis=1),
    }


def elect(log_probs: np.ndarray, cipher: np.ndarray) -> np.ndarray:
    """The key of each window by the votes of the probe at all positions."""
    return np.stack([elect_key(vote_shares(*each)) for each in zip(log_probs, cipher, strict=True)])


def reveal(text: perplexity.Text, cipher: np.ndarray, key: np.ndarray, length: int) -> str:
    """The whole passage by a key found in its first `length` symbols; those not met there are dots."""
    met = np.isin(cipher, cipher[:length])
    return "".join(
        text.tokenizer.symbols[key[symbol]] if seen else "·" for symbol, seen in zip(cipher, met, strict=True)
    )


def chosen_accuracy(results: dict[str, Any], arm: str) -> np.ndarray:
    """Accuracy of the probe that was best in training, by seed and position."""
    found = results["arms"][arm]
    return np.array([found["accuracy"][p][seed][level] for seed, (p, level) in enumerate(found["chosen"])])


def late(results: dict[str, Any], arm: str) -> np.ndarray:
    """The same in the last quarter of the window, per seed."""
    accuracy = chosen_accuracy(results, arm)
    return accuracy[:, 3 * accuracy.shape[1] // 4 :].mean(axis=1)


def keys_right(entries: list[dict[str, Any]], what: str) -> np.ndarray:
    """Shares by seed and length read."""
    return np.array([entry[what] for entry in entries])


def claims(results: dict[str, Any]) -> list[Claim]:
    """The paper's statements and the card's thresholds."""
    baselines, arms = results["baselines"], results["arms"]
    accuracy = {arm: late(results, arm) for arm in arms}
    frequency = keys_right(baselines["frequency"]["key"], "late")
    shares = {what: keys_right(arms["lexinvariant"]["key"], what)[:, -1] for what in ("positions", "symbols")}
    leak = interval(chosen_accuracy(results, "lexinvariant")[:, 0] - results["most_frequent"])

    def difference(
        name: str, statement: str, source: str, published: str | None, values: np.ndarray, threshold: float
    ) -> Claim:
        measured = interval(values)
        return Claim(
            name,
            statement,
            source,
            published,
            measured,
            f"whole interval above {threshold:g}",
            above(measured, threshold),
        )

    return [
        difference(
            "probe_above_frequency_matching",
            "In the last quarter of the window the probe reads more plain symbols than frequency ranks of the whole window do "
            "(measured: difference of the shares).",
            SOURCE,
            None,
            accuracy["lexinvariant"] - frequency,
            0.0,
        ),
        difference(
            "probe_reads_most_symbols",
            "There the probe is right at 70 % of the positions (measured: share).",
            CARD,
            None,
            accuracy["lexinvariant"],
            0.7,
        ),
        difference(
            "key_recovered",
            "The key elected by the probe's votes over the window deciphers 90 % of it (measured: share of the text's positions).",
            f"{SOURCE}; threshold ours",
            "99.6 % of the key (150M parameters, 512 tokens)",
            shares["positions"],
            0.9,
        ),
        difference(
            "probe_needs_training",
            "The probe on the trained model is right more often than that on the untrained network (measured: difference).",
            CARD,
            None,
            accuracy["lexinvariant"] - accuracy["untrained"],
            0.05,
        ),
        difference(
            "probe_above_standard_model",
            "It is right more often than that on the standard model, which reads the same cipher (measured: difference).",
            CARD,
            None,
            accuracy["lexinvariant"] - accuracy["standard"],
            0.05,
        ),
        Claim(
            "first_position_is_chance",
            "At the first position, where nothing can be known, the probe is right no more often than for the most frequent symbol "
            "(measured: accuracy minus its frequency in the language).",
            f"{CARD}: no identity leaks",
            0.0,
            leak,
            "interval not wholly above 0.05",
            None if leak.low is None else leak.low <= 0.05,
        ),
        difference(
            "metropolis_above_frequency_matching",
            "Sampling keys with a bigram model deciphers more of the window than frequency ranks: the text holds what the probe could use "
            "(measured: difference of the shares).",
            CARD,
            None,
            keys_right(baselines["metropolis"]["key"], "late") - frequency,
            0.3,
        ),
    ]


SHOWN = 72
"""Characters of the passage in the figure."""


def figure(results: dict[str, Any]) -> Figure:
    """Accuracy by position and by level, shares deciphered by symbols read, and a passage as the model believes it to be."""
    colors = dict(zip(ARMS, (VERMILION, GREY, BLUE), strict=True))
    drawn, axes = panels(2, 3, width=4.2, height=2.9)
    by_position, by_level, by_read = axes[:3]
    with styled():
        for arm, color in colors.items():
            accuracy = chosen_accuracy(results, arm)
            edges = np.arange(0, accuracy.shape[1], max(accuracy.shape[1] // 16, 1))
            binned = np.add.reduceat(accuracy, edges, axis=1) / np.diff([*edges, accuracy.shape[1]])
            band(
                by_position,
                edges + np.diff([*edges, accuracy.shape[1]]) / 2,
                binned,
                f"{arm} model" if arm == "standard" else arm,
                color,
            )
            for p, (hidden, style) in enumerate(zip(results["probes"], ("--", "-", ":"), strict=False)):
                levels = np.array(results["arms"][arm]["accuracy"][p])
                last = levels[:, :, 3 * levels.shape[2] // 4 :].mean(axis=2)
                name = f"{arm}, {'logistic' if not hidden else f'{hidden} hidden'}"
                band(by_level, range(last.shape[1]), last, name, color, linestyle=style, marker="o", markersize=3)
            band(
                by_read,
                results["read"],
                keys_right(results["arms"][arm]["key"], "positions"),
                arm,
                color,
                marker="o",
                markersize=3,
            )
        for name, color in (("frequency", ORANGE), ("metropolis", GREEN)):
            shares = keys_right(results["baselines"][name]["key"], "positions")
            band(by_read, results["read"], shares, f"{name} (no network)", color, marker="s", markersize=3)
        by_position.axhline(
            results["most_frequent"], color=GREY, linewidth=0.8, linestyle=":", label="most frequent symbol"
        )
        for panel, title, label in (
            (by_position, "Best probe along the window", "symbols read"),
            (by_level, "Last quarter, by level of the residual stream", "level (0: embeddings)"),
            (by_read, "Whole key, by votes or sampling", "symbols read"),
        ):
            panel.set(title=title, xlabel=label, ylabel="share of text deciphered", ylim=(-0.02, 1.02))
            panel.legend(fontsize=7)
        by_level.set_xticks(range(last.shape[1]))
        grid = axes[3].get_gridspec()
        for panel in axes[3:]:
            panel.remove()
        draw_passage(drawn.add_subplot(grid[1, :]), results)
    return drawn


def draw_passage(axes: Any, results: dict[str, Any]) -> None:
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
