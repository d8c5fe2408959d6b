"""A trained lexinvariant Transformer is measured against the exact Bayesian decipherer of its language.

Huang et al. 2023 (arXiv 2305.16349), section on the construction of lexinvariant models; method card lexinvariant-lm, experiment B. One
fixed Markov language; the model sees it through a fresh lexicon in every sequence. To be below the in-context bigram counter it must have
the language in its weights and infer the key from the context.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms
from experiments.harness.curves import bins, by_position, by_tens, crossing
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILION, band, panels, reference, styled
from experiments.harness.training import Training, training_losses
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.language_models import train_seeds, training_mesh
from experiments.subjects.text import (
    LEXINVARIANT,
    MUON,
    PUBLISHED_MODEL,
    PUBLISHED_TRAINING,
    STANDARD,
    SUFFIX_MATCH,
    held_out_nats,
    late,
    with_circuit,
)
from lexinv.data.markov_first_order import MarkovSource, dirichlet_source, predictions, sample_tokens
from lexinv.data.windows import Windows, array_windows
from lexinv.lexinvariance.bayes import bayes_decipher, sequences_at_once
from lexinv.lexinvariance.counters import counter_nll, tune_counter
from lexinv.nn.language_model import make_nll
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.streams import stream
from lexinv.validation import Allowed, Checked, Count, CountOrZero, Positive

PAPERS = ("huang2023lexinvariant",)
ENUMERATED = Allowed(lambda n: 2 <= n <= 8, "2 to 8 symbols: all keys are enumerated", (1, 9))


@dataclass(frozen=True)
class SourceConfig(Checked):
    """The language: rows of its transition matrix are Dirichlet(concentration); the same for all seeds of a run."""

    vocab: Annotated[int, ENUMERATED] = 6
    concentration: Positive = 0.15
    context: Count = 128
    sequences: Count = 32_768
    seed: CountOrZero = 0

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield self.context >= 4, "context", "at least 4"


@dataclass(frozen=True)
class Config(Checked):
    """windows: held-out sequences per seed. plain: also train the lexinvariant model without an initial circuit."""

    source: SourceConfig = SourceConfig()
    model: TransformerConfig = replace(SUFFIX_MATCH, depth=3, width=64, mlp_width=256, unroll=3)
    training: Training = Training(steps=1200, batch_size=32, seeds=(0, 1, 2), optimizer=MUON, microbatches=2)
    windows: Count = 256
    plain: bool = True

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield self.model.causal, "model.causal", "True: the model predicts the next symbol"
        longest = self.model.max_length
        yield self.source.context <= longest, "source.context", f"at most model.max_length = {longest}"


PRESETS = presets(
    Config(),
    smoke={
        "source": SourceConfig(vocab=4, context=32, sequences=64),
        "model.depth": 1,
        "model.width": 32,
        "model.mlp_width": 32,
        "training.steps": 4,
        "training.batch_size": 4,
        "training.microbatches": 1,
        "training.seeds": (0, 1),
        "training.optimizer.warmup_steps": 1,
        "windows": 8,
        "plain": False,
    },
    paper={
        "source": SourceConfig(vocab=8, context=512, sequences=262_144),
        "model": replace(PUBLISHED_MODEL, remat=False),
        "training": replace(PUBLISHED_TRAINING, steps=50_000),
    },
)


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
    arms = {"standard": (STANDARD, config.model), "lexinvariant": (LEXINVARIANT, config.model)}
    if config.plain:
        arms["plain"] = (LEXINVARIANT, with_circuit(config.model, "plain"))

    def measure(name: str) -> dict[str, Any]:
        lexicon, model = arms[name]
        params = train_seeds(name, model, lexicon, config.source.vocab, train, config.training, workspace)
        nats = held_out_nats(make_nll(model, lexicon, config.source.vocab), params, held_out, config.windows)
        losses = by_tens(training_losses(name, config.training, workspace))
        return {"nats": by_position(nats), "training_loss": losses}

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


def measure_baselines(source: MarkovSource, train: Windows, held_out: list[np.ndarray]) -> dict[str, Any]:
    """The language p, the exact decipherer p', the counters of order 0 and 1, and the entropy of p's single symbols, in nats."""
    vocab = source.log_initial.shape[0]
    counter = tune_counter(train.gather(np.arange(min(256, len(train)))), vocab, 1)

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
    counters = [counter_nll(windows, vocab, counter) for windows in held_out]
    return {
        "language": by_position([np.asarray(language(jnp.asarray(windows))) for windows in held_out]),
        "bayes": by_position([np.asarray(oracle(jnp.asarray(windows))) for windows in held_out]),
        "unigram_counter": by_position([orders[0] for orders in counters]),
        "bigram_counter": by_position([orders[1] for orders in counters]),
        "unigram_entropy": float(-np.sum(np.exp(initial) * initial)),
    }


def claims(results: dict[str, Any]) -> list[Claim]:
    """Whether the trained model leaves the frequencies behind, passes the counter, and how far it stays from the oracle."""
    arms, baselines = Arms(results), {name: np.array(nats) for name, nats in results["baselines"].items()}
    model, bayes = late(arms["lexinvariant", "nats"], 0.75), late(baselines["bayes"], 0.75)
    standard = (arms["standard", "nats"] - baselines["bayes"]).mean(axis=1)
    judged = [
        Claim(
            "leaves_unigram_plateau",
            "In the last quarter of the context the lexinvariant model is below the entropy of single symbols.",
            OURS,
            {"lexinvariant": model - baselines["unigram_entropy"]},
            below(0),
            "nats per symbol above the entropy",
        ),
        Claim(
            "below_in_context_counter",
            "There the lexinvariant model is below the in-context bigram counter: it has the language in its weights and infers the key.",
            "huang2023lexinvariant: abstract",
            {"lexinvariant": model - late(baselines["bigram_counter"], 0.75)},
            below(0),
            "nats per symbol above the counter",
            "the model deciphers in context",
        ),
        Claim(
            "never_below_the_exact_decipherer",
            "There no lexinvariant model is below the exact Bayesian decipherer p': nothing of the key leaks.",
            OURS,
            {"lexinvariant": model - bayes},
            above(-0.01),
            "nats per symbol above p'",
        ),
        Claim(
            "standard_is_below_the_exact_decipherer",
            "The standard model, which need not infer a key, is below p' over the whole context.",
            OURS,
            {"standard": standard},
            below(0),
            "nats per symbol above p'",
        ),
    ]
    if "plain" in arms:
        judged.append(
            Claim(
                "suffix_match_beats_plain",
                "At the same budget the model with the suffix-match circuit is below the plain one in the last quarter.",
                OURS,
                {"plain": late(arms["plain", "nats"], 0.75) - model},
                above(0),
                "nats per symbol of the plain one minus its own",
            )
        )
    return judged


ARMS = {
    "standard": ("standard", BLUE),
    "lexinvariant": ("lexinvariant", VERMILION),
    "plain": ("lexinvariant, plain", ORANGE),
}
COUNTED = "in-context bigram counter"
DECIPHERER = "exact decipherer p'"


def figure(results: dict[str, Any]) -> Figure:
    """Loss by position against the oracle and the counters; training loss with the levels that it crosses."""
    baselines, arms = results["baselines"], results["arms"]
    titles = f"A Markov language of {results['vocab']} symbols", "Training"
    drawn, (position, training) = panels(1, 2, width=5.2, height=4.0, titles=titles)
    x, binned = bins(results["context"], 4)

    def crossed(level: float) -> str:
        step = crossing(np.mean(arms["lexinvariant"]["training_loss"], axis=0).tolist(), level)
        return "never crossed" if step is None else f"crossed at step {step}"

    with styled():
        for name, (label, color) in ARMS.items():
            if name in arms:
                band(position, x, binned(arms[name]["nats"]), label, color)
                losses = arms[name]["training_loss"]
                band(training, 10 * (1 + np.arange(len(losses[0]))), losses, label, color)
        for name, label, color in (
            ("unigram_counter", "in-context frequencies", GREY),
            ("bigram_counter", COUNTED, BLACK),
            ("bayes", DECIPHERER, GREEN),
        ):
            band(position, x, binned(baselines[name]), label, color, linestyle="--", linewidth=1)
        for label, level, color in (
            ("entropy of single symbols", baselines["unigram_entropy"], GREY),
            (COUNTED, float(np.mean(baselines["bigram_counter"])), BLACK),
            (DECIPHERER, float(np.mean(baselines["bayes"])), GREEN),
        ):
            reference(training, level, f"{label}: {crossed(level)} by lexinvariant", color)
        position.set(xlabel="position in the context", ylabel="nats per symbol")
        training.set(xlabel="step", ylabel="nats per symbol")
        for panel in (position, training):
            low, high = panel.get_ylim()
            panel.set_ylim(low, high + 0.35 * (high - low))  # room for the legend
            panel.legend(loc="upper right", fontsize=7)
    return drawn
