"""A trained lexinvariant Transformer is measured against the exact Bayesian decipherer of its language.

Huang et al. 2023 (arXiv 2305.16349), section on the construction of lexinvariant models; method card lexinvariant-lm, experiment B. One
fixed Markov language; the model sees it through a fresh lexicon in every sequence. To be below the in-context bigram counter it must have
the language in its weights and infer the key from the context.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.claims import Claim, above, below, interval
from experiments.harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILION, band, panels, reference, styled
from experiments.harness.training import Training, training_losses
from experiments.harness.workspace import Workspace
from experiments.lexinvariance import perplexity
from experiments.subjects.language_models import train_seeds, training_mesh
from lexinv.data.windows import Windows, array_windows
from lexinv.lexinvariance.bayes import bayes_decipher, sequences_at_once
from lexinv.lexinvariance.counters import counter_nll, tune_counter
from lexinv.lexinvariance.markov import MarkovSource, dirichlet_source, predictions, sample_tokens
from lexinv.nn.language_model import make_nll
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.evaluation import evaluate_by_position
from lexinv.training.streams import stream
from lexinv.validation import require

PAPER = perplexity.PAPER
CARD = "method card lexinvariant-lm, experiment B (ours)"


@dataclass(frozen=True)
class SourceConfig:
    """The language: rows of its transition matrix are Dirichlet(concentration); the same for all seeds of a run."""

    vocab: int = 6
    concentration: float = 0.15
    context: int = 128
    sequences: int = 32_768
    seed: int = 0

    def __post_init__(self):
        require(2 <= self.vocab <= 8, "source.vocab", self.vocab, "2 to 8 symbols: all keys are enumerated")
        require(self.concentration > 0, "source.concentration", self.concentration, "a positive number")
        require(self.context >= 4, "source.context", self.context, "at least 4")
        require(self.sequences >= 1, "source.sequences", self.sequences, "at least 1")


@dataclass(frozen=True)
class Config:
    """windows: held-out sequences per seed. plain: also train the lexinvariant model without an initial circuit."""

    source: SourceConfig
    model: TransformerConfig
    training: Training
    windows: int = 256
    plain: bool = True

    def __post_init__(self):
        require(self.windows >= 1, "windows", self.windows, "at least 1")
        require(self.model.causal, "model.causal", self.model.causal, "True: the model predicts the next symbol")
        longest = self.model.max_length
        require(
            self.source.context <= longest,
            "source.context",
            self.source.context,
            f"at most model.max_length = {longest}",
        )


MODEL = replace(perplexity.SUFFIX_MATCH, depth=3, width=64, mlp_width=256, unroll=3)
PRESETS = {
    "smoke": Config(
        SourceConfig(vocab=4, context=32, sequences=64),
        replace(MODEL, depth=1, width=32, mlp_width=32),
        Training(steps=4, batch_size=4, seeds=(0, 1), optimizer=replace(perplexity.MUON, warmup_steps=1)),
        windows=8,
        plain=False,
    ),
    "cpu": Config(
        SourceConfig(),
        MODEL,
        Training(steps=1200, batch_size=32, seeds=(0, 1, 2), optimizer=perplexity.MUON, microbatches=2),
    ),
    "paper": Config(
        SourceConfig(vocab=8, context=512, sequences=262_144),
        replace(perplexity.PAPER_CONFIG.model, remat=False),
        replace(perplexity.PAPER_CONFIG.training, steps=50_000),
    ),
}


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Nats per symbol by position, one row per seed, of the models, the oracle, the counters and the language itself."""
    training_mesh(config.training, config.model)  # refuses one that does not fit before anything is compiled
    source = dirichlet_source(jax.random.key(config.source.seed), config.source.vocab, config.source.concentration)
    train = windows_of(source, config, "train", config.source.sequences)
    held_out = [
        windows_of(source, config, f"held-out-{seed}", config.windows).gather(np.arange(config.windows))
        for seed in config.training.seeds
    ]
    baselines = workspace.cached("baselines", lambda: measure_baselines(source, train, held_out))
    arms = {
        "standard": (LexiconConfig("standard"), config.model),
        "lexinvariant": (LexiconConfig("lexinvariant"), config.model),
    }
    if config.plain:
        arms["plain"] = (LexiconConfig("lexinvariant"), perplexity.ablated(config.model, "plain"))

    def measure(name: str) -> dict[str, Any]:
        lexicon, model = arms[name]
        params = train_seeds(name, model, lexicon, config.source.vocab, train, config.training, workspace)
        nll = make_nll(model, lexicon, config.source.vocab)
        nats = [
            evaluate_by_position(nll, tree, windows, jax.random.key(0), config.windows)
            for tree, windows in zip(params, held_out, strict=True)
        ]
        losses = by_tens(training_losses(name, config.training, workspace))
        return {"nats": perplexity.by_position(nats), "training_loss": losses}

    return {
        "corpora": {},
        "seeds": list(config.training.seeds),
        "context": config.source.context,
        "vocab": config.source.vocab,
        "tokens_per_step": config.training.batch_size * config.source.context,
        "baselines": baselines,
        "arms": {name: workspace.cached(f"arms/{name}", lambda name=name: measure(name)) for name in arms},
    }


def windows_of(source: MarkovSource, config: Config, name: str, count: int) -> Windows:
    """`count` independent sequences of the language, each a window."""
    keys = jax.random.split(stream(jax.random.key(config.source.seed), name), count)
    length = config.source.context
    tokens = (
        np.asarray(jax.jit(jax.vmap(lambda key: sample_tokens(key, source, length)))(keys)).astype(np.uint8).reshape(-1)
    )
    return array_windows(tokens, length)


def by_tens(losses: np.ndarray) -> list[list[float]]:
    """Losses [seeds, steps] averaged over every 10 steps."""
    count = max(losses.shape[1] // 10, 1)
    return perplexity.rounded(losses[:, : count * 10].reshape(len(losses), count, -1).mean(axis=2))


def measure_baselines(source: MarkovSource, train: Windows, held_out: list[np.ndarray]) -> dict[str, Any]:
    """The language p, the exact decipherer p', the counters of order 0 and 1, and the entropy of p's single symbols, in nats."""
    vocab = source.log_initial.shape[0]
    discounts, concentrations = tune_counter(train.gather(np.arange(min(256, len(train)))), vocab, 1)

    @jax.jit
    def oracle(windows):
        def row(tokens):
            log_probs = bayes_decipher(source, tokens).log_probs
            return -jnp.take_along_axis(log_probs, tokens[:, None], axis=1)[:, 0]

        return jax.lax.map(row, windows, batch_size=sequences_at_once(vocab))

    @jax.jit
    def language(windows):
        return -jax.vmap(
            lambda tokens: jnp.take_along_axis(predictions(source, tokens), tokens[:, None], axis=1)[:, 0]
        )(windows)

    initial = np.asarray(source.log_initial)
    counters = [counter_nll(windows, vocab, discounts, concentrations) for windows in held_out]
    return {
        "language": perplexity.by_position([np.asarray(language(jnp.asarray(windows))) for windows in held_out]),
        "bayes": perplexity.by_position([np.asarray(oracle(jnp.asarray(windows))) for windows in held_out]),
        "unigram_counter": perplexity.by_position([orders[0] for orders in counters]),
        "bigram_counter": perplexity.by_position([orders[1] for orders in counters]),
        "unigram_entropy": float(-np.sum(np.exp(initial) * initial)),
    }


def claims(results: dict[str, Any]) -> list[Claim]:
    """Whether the trained model leaves the frequencies behind, passes the counter, and how far it stays from the oracle."""
    late = slice(3 * results["context"] // 4, None)
    baselines = results["baselines"]

    def nats(rows: list[list[float]]) -> np.ndarray:
        return np.array(rows)[:, late].mean(axis=1)

    model, bayes = nats(results["arms"]["lexinvariant"]["nats"]), nats(baselines["bayes"])
    unigram = interval(model - baselines["unigram_entropy"])
    counter = interval(model - nats(baselines["bigram_counter"]))
    optimal = interval(model - bayes)
    judged = [
        Claim(
            "leaves_unigram_plateau",
            "In the last quarter of the context the lexinvariant model is below the entropy of single symbols, in nats per symbol.",
            CARD,
            None,
            unigram,
            "whole interval of the difference below 0",
            below(unigram, 0.0),
        ),
        Claim(
            "below_in_context_counter",
            "In the last quarter of the context the lexinvariant model is below the in-context bigram counter, in nats per symbol.",
            CARD,
            None,
            counter,
            "whole interval of the difference below 0",
            below(counter, 0.0),
        ),
        Claim(
            "never_below_the_exact_decipherer",
            "No lexinvariant model is below the exact Bayesian decipherer p', in nats per symbol.",
            "Huang et al. 2023, construction of p'; " + CARD,
            None,
            optimal,
            "difference in the last quarter above -0.01",
            above(optimal, -0.01),
        ),
        Claim(
            "standard_is_below_the_exact_decipherer",
            "The standard model, which need not infer a key, is below p' over the whole context, in nats per symbol.",
            CARD,
            None,
            whole := interval(
                np.array(results["arms"]["standard"]["nats"]).mean(axis=1) - np.array(baselines["bayes"]).mean(axis=1)
            ),
            "whole interval of the difference below 0",
            below(whole, 0.0),
        ),
    ]
    if "plain" in results["arms"]:
        plain = interval(nats(results["arms"]["plain"]["nats"]) - model)
        judged.append(
            Claim(
                "suffix_match_beats_plain",
                "At the same budget the model with the suffix-match circuit is below the plain one, in nats per symbol.",
                CARD,
                None,
                plain,
                "whole interval of the difference above 0",
                above(plain, 0.0),
            )
        )
    return judged


def crossing(losses: list[float], level: float) -> int | None:
    """The first step (of every 10th) at which the training loss is below `level`; None if it never is."""
    under = np.flatnonzero(np.array(losses) < level)
    return int(under[0] + 1) * 10 if len(under) else None


def figure(results: dict[str, Any]) -> Figure:
    """Loss by position against the oracle and the counters; training loss with the levels that it crosses."""
    baselines, arms = results["baselines"], results["arms"]
    drawn, (position, training) = panels(1, 2, width=5.2, height=4.0)
    x, binned = perplexity.bins(results["context"], 4)
    names = {
        "standard": ("standard", BLUE),
        "lexinvariant": ("lexinvariant", VERMILION),
        "plain": ("lexinvariant, plain", ORANGE),
    }
    with styled():
        for name, (label, color) in names.items():
            if name in arms:
                band(position, x, binned(arms[name]["nats"]), label, color)
                losses = arms[name]["training_loss"]
                band(training, 10 * (1 + np.arange(len(losses[0]))), losses, label, color)
        for name, label, color in (
            ("unigram_counter", "in-context frequencies", GREY),
            ("bigram_counter", "in-context bigram counter", BLACK),
            ("bayes", "exact decipherer p'", GREEN),
            ("language", "language p", BLUE),
        ):
            mean = binned(baselines[name]).mean(axis=0)
            position.plot(x, mean, label=label, color=color, linestyle="--", linewidth=1)
        reference(training, baselines["unigram_entropy"], "entropy of single symbols")
        reference(training, float(np.mean(baselines["bigram_counter"])), "in-context bigram counter", BLACK)
        reference(training, float(np.mean(baselines["bayes"])), "exact decipherer p'", GREEN)
        levels = (
            ("entropy of single symbols", baselines["unigram_entropy"]),
            ("counter", float(np.mean(baselines["bigram_counter"]))),
        )
        steps = [
            crossing(np.mean(arms["lexinvariant"]["training_loss"], axis=0).tolist(), level) for _, level in levels
        ]
        crossed = ", ".join(
            f"{name} {'never' if step is None else f'at step {step}'}"
            for (name, _), step in zip(levels, steps, strict=True)
        )
        position.set(
            title=f"A Markov language of {results['vocab']} symbols",
            xlabel="position in the context",
            ylabel="nats per symbol",
        )
        training.set(title=f"Lexinvariant crosses: {crossed}", xlabel="step", ylabel="training loss, nats per symbol")
        training.title.set_fontsize(8)
        for panel in (position, training):
            panel.legend()
    return drawn
