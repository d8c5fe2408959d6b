"""Two lexinvariant Transformers are placed between knowing nothing of a language and deciphering it exactly.

Huang et al. 2023 (arXiv 2305.16349), the construction of lexinvariant models; method card lexinvariant-lm, experiment B. One fixed Markov
language of few symbols, whose names every sequence changes. Bayes' rule without the language bounds what a lexinvariant model can do by
counting alone, and the exact decipherer p' what it can do at all. Between them: a model with the paper's Gaussian vectors, and the same one
with a canonical lexicon; each beside its own untrained state, which starts with a circuit for matching.
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
from experiments.subjects.language_models import train_seeds, training_mesh, untrained_seeds
from experiments.subjects.text import (
    CANONICAL,
    LEXINVARIANT,
    MUON,
    PUBLISHED_MODEL,
    PUBLISHED_TRAINING,
    STANDARD,
    SUFFIX_MATCH,
    held_out_nats,
    late,
)
from lexinv.data.markov_first_order import MarkovSource, dirichlet_source, predictions, sample_tokens
from lexinv.data.windows import Windows, array_windows
from lexinv.lexinvariance.bayes import bayes_decipher, sequences_at_once
from lexinv.lexinvariance.counters import language_free_bayes
from lexinv.nn.language_model import make_nll
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.streams import stream
from lexinv.validation import Allowed, Checked, Count, CountOrZero, Positive

PAPERS = ("huang2023lexinvariant",)
ENUMERATED = Allowed(lambda n: 2 <= n <= 8, "2 to 8 symbols: all keys are enumerated", (1, 9))
KINDS = {"standard": STANDARD, "canonical": CANONICAL, "Gaussian": LEXINVARIANT}


@dataclass(frozen=True)
class SourceConfig(Checked):
    """The language: rows of its transition matrix are Dirichlet(concentration); the same for all seeds of a run."""

    vocab: Annotated[int, ENUMERATED] = 6
    concentration: Positive = 0.15
    context: Count = 64
    sequences: Count = 65_536
    seed: CountOrZero = 0

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield self.context >= 4, "context", "at least 4"


@dataclass(frozen=True)
class Config(Checked):
    """windows: held-out sequences per seed."""

    source: SourceConfig = SourceConfig()
    model: TransformerConfig = replace(SUFFIX_MATCH, depth=3, width=64, mlp_width=256, unroll=3)
    training: Training = Training(steps=2000, batch_size=32, seeds=(0, 1, 2), optimizer=MUON)
    windows: Count = 512

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
        "training.seeds": (0, 1),
        "training.optimizer.warmup_steps": 1,
        "windows": 8,
    },
    quick={"training.seeds": (0,)},
    paper={
        "source": SourceConfig(vocab=8, context=512, sequences=262_144),
        "model": replace(PUBLISHED_MODEL, remat=False),
        "training": replace(PUBLISHED_TRAINING, steps=50_000),
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Nats per symbol by position, one row per seed, of the models before and after training, both bounds, and the language itself."""
    training_mesh(config.training, config.model)  # refuses one that does not fit before anything is compiled
    source = dirichlet_source(jax.random.key(config.source.seed), config.source.vocab, config.source.concentration)
    train = windows_of(source, config, "train", config.source.sequences)
    held_out = [
        windows_of(source, config, f"held-out-{seed}", config.windows).gather(np.arange(config.windows))
        for seed in config.training.seeds
    ]
    concentration = config.source.concentration
    baselines = workspace.cached("baselines", lambda: measure_baselines(source, concentration, held_out))

    def measure(name: str) -> dict[str, Any]:
        model = config.model, KINDS[name], config.source.vocab
        nll = make_nll(*model)
        begun = held_out_nats(nll, untrained_seeds(*model, config.training.seeds), held_out, config.windows)
        params = train_seeds(name, *model, train, config.training, workspace)
        return {
            "untrained": by_position(begun),
            "nats": by_position(held_out_nats(nll, params, held_out, config.windows)),
            "training_loss": by_tens(training_losses(name, config.training, workspace)),
        }

    return {
        "corpora": {},
        "seeds": list(config.training.seeds),
        "context": config.source.context,
        "vocab": config.source.vocab,
        "tokens_per_step": config.training.batch_size * config.source.context,
        "baselines": baselines,
        "arms": {name: workspace.cached(f"arms/{name}", lambda name=name: measure(name)) for name in KINDS},
    }


def windows_of(source: MarkovSource, config: Config, name: str, count: int) -> Windows:
    """`count` independent sequences of the language, each a window."""
    keys = jax.random.split(stream(jax.random.key(config.source.seed), name), count)
    length = config.source.context
    tokens = (
        np.asarray(jax.jit(jax.vmap(lambda key: sample_tokens(key, source, length)))(keys)).astype(np.uint8).reshape(-1)
    )
    return array_windows(tokens, length)


def measure_baselines(source: MarkovSource, concentration: float, held_out: list[np.ndarray]) -> dict[str, Any]:
    """The language p, the exact decipherer p', and Bayes' rule for whoever knows how languages are drawn, but not this one; in nats."""
    vocab = source.log_initial.shape[0]

    def decipherer(tokens):
        log_probs = bayes_decipher(source, tokens).log_probs
        return -jnp.take_along_axis(log_probs, tokens[:, None], axis=1)[:, 0]

    def language(tokens):
        return -jnp.take_along_axis(predictions(source, tokens), tokens[:, None], axis=1)[:, 0]

    def language_free(tokens):
        return language_free_bayes(tokens, vocab, jnp.array([concentration], jnp.float32))

    found = {}
    for name, nats in (("language", language), ("decipherer", decipherer), ("language_free", language_free)):
        every = jax.jit(lambda windows, nats=nats: jax.lax.map(nats, windows, batch_size=sequences_at_once(vocab)))
        found[name] = by_position([np.asarray(every(jnp.asarray(windows))) for windows in held_out])
    return found


def claims(results: dict[str, Any]) -> list[Claim]:
    """Where both lexinvariant models stand between the two bounds, over the whole context, and where they started."""
    arms = Arms(results)
    bounds = {name: np.mean(nats, axis=1) for name, nats in results["baselines"].items()}
    mean = {name: arms[name, "nats"].mean(axis=1) for name in arms}
    lexinvariant = [name for name in arms if name != "standard"]
    way = bounds["language_free"] - bounds["decipherer"]
    shares = {name: (bounds["language_free"] - mean[name]) / way for name in lexinvariant}
    end = late(results["baselines"]["decipherer"], 0.75)
    return [
        Claim(
            "below_language_free_bayes",
            "The model with Gaussian vectors is below Bayes' rule without the language: it has the language in its weights and deciphers.",
            "huang2023lexinvariant: abstract",
            {"Gaussian": mean["Gaussian"] - bounds["language_free"]},
            below(0),
            "nats per symbol above language-free Bayes",
            "the model deciphers in context",
        ),
        Claim(
            "canonical_most_of_the_way",
            "With a canonical lexicon, exactly lexinvariant too, the same model is most of the way from language-free Bayes to the exact "
            "decipherer p'; beside it the one with Gaussian vectors, after as many symbols.",
            OURS,
            shares,
            {"canonical": above(0.8)},
            "share of the way",
        ),
        Claim(
            "trained_above_its_start",
            "Training has improved every lexinvariant model on its own untrained state, whose circuit was set by hand.",
            OURS,
            {name: arms[name, "untrained"].mean(axis=1) - mean[name] for name in lexinvariant},
            above(0),
            "nats per symbol of the untrained state above its own",
        ),
        Claim(
            "never_below_the_exact_decipherer",
            "In the last quarter of the context no lexinvariant model is below the exact decipherer p': nothing of the key leaks.",
            OURS,
            {name: late(arms[name, "nats"], 0.75) - end for name in lexinvariant},
            above(-0.01),
            "nats per symbol above p'",
        ),
        Claim(
            "standard_is_below_the_exact_decipherer",
            "The standard model, which need not infer a key, is below p'.",
            OURS,
            {"standard": mean["standard"] - bounds["decipherer"]},
            below(0),
            "nats per symbol above p'",
        ),
    ]


COLORS = {"standard": BLUE, "canonical": GREEN, "Gaussian": VERMILION}
BOUNDS = {"language_free": ("language-free Bayes", ORANGE), "decipherer": ("exact decipherer p'", BLACK)}


def figure(results: dict[str, Any]) -> Figure:
    """Loss by position before and after training between both bounds; training loss with the bounds that it crosses."""
    arms, baselines = results["arms"], results["baselines"]
    titles = f"A Markov language of {results['vocab']} symbols", "Training"
    drawn, (position, training) = panels(1, 2, width=5.2, height=4.0, titles=titles)
    x, binned = bins(results["context"], 4)

    def crossed(level: float) -> str:
        steps = {name: crossing(np.mean(arms[name]["training_loss"], axis=0).tolist(), level) for name in COLORS}
        return ", ".join(f"{name} {'never' if step is None else step}" for name, step in steps.items())

    with styled():
        for name, color in COLORS.items():
            band(position, x, binned(arms[name]["nats"]), name, color)
            losses = arms[name]["training_loss"]
            band(training, 10 * (1 + np.arange(len(losses[0]))), losses, name, color)
            if name != "standard":
                band(position, x, binned(arms[name]["untrained"]), f"{name}, untrained", color, linestyle=":")
        for name, (label, color) in BOUNDS.items():
            band(position, x, binned(baselines[name]), label, color, linestyle="--", linewidth=1)
            level = float(np.mean(baselines[name]))
            reference(training, level, f"{label} (step: {crossed(level)})", color)
        reference(training, float(np.mean(baselines["language"])), "the language itself", GREY)
        position.set(xlabel="position in the context", ylabel="nats per symbol")
        training.set(xlabel="step", ylabel="nats per symbol")
        for panel in (position, training):
            low, high = panel.get_ylim()
            panel.set_ylim(low, high + 0.4 * (high - low))  # room for the legend
            panel.legend(loc="upper right", fontsize=7)
    return drawn
