"""Do few latents of an autoencoder tell the first letter of a word, is the letter absorbed, and can it be taken away alone?

Sparse probing (Gurnee et al. 2023), absorption (Chanin et al. 2024) and targeted probe perturbation, the latter two in the form of
SAEBench (Karvonen et al. 2025), on the residual stream of SmolLM2-135M-Instruct at words of one token after the same prompt. A probe on
all dimensions finds their first letters; autoencoders of several widths, trained on text, are asked for the same. Beside them stand the
untrained autoencoder, principal components, and the dimensions of the stream themselves; of both, either side of the mean is a latent.
A seed decides the autoencoder and the half of the words on which probes are fitted.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, GREY, PALETTE, band, panels
from experiments.harness.verdicts import OURS, Claim, above
from experiments.harness.workspace import Workspace
from experiments.subjects.activation_autoencoders import (
    PUBLISHED,
    TINY,
    Autoencoder,
    AutoencodersConfig,
    judge,
    own_exponents,
    scale_and_sample,
    train_variant,
)
from experiments.subjects.first_letters import Split, WordsConfig, evaluate, read_words, split_words, told_by_all
from experiments.subjects.language_subjects import GPT2, SMALL, SubjectConfig, open_language_model
from experiments.subjects.sparse_activations import NAMES
from lexinv.sae.autoencoders import initialize
from lexinv.validation import Checked, Counts

PAPERS = ("chanin2024absorption", "karvonen2025saebench")
UNTRAINED, COMPONENTS, NEURONS, DENSE = "untrained", "components", "neurons", "dense"
UNSPARSE = {COMPONENTS: "principal components", NEURONS: "dimensions of the stream"}


@dataclass(frozen=True)
class Config(Checked):
    """autoencoders: of each of `widths` in place of its `features`."""

    subject: SubjectConfig = SubjectConfig()
    autoencoders: AutoencodersConfig = AutoencodersConfig(("topk", "mutual", "feature_zipf"), curve=(1.0,))
    widths: Counts = (576, 1152, 2304)
    words: WordsConfig = WordsConfig()

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield self.subject.model != "minilm", "subject.model", "a language model: words follow a prompt"
        yield len(self.widths) >= 2 and list(self.widths) == sorted(self.widths), "widths", "two at least, rising"
        least = max(5, self.words.ablated, *self.words.ks, int(self.autoencoders.k))
        yield least <= min(self.widths), "widths", f"from {least}: k, words.ks, words.ablated, and 5 main latents"
        yield "topk" in self.autoencoders.variants, "autoencoders.variants", "topk among them, untrained the control"

    def of_width(self, width: int) -> AutoencodersConfig:
        return replace(self.autoencoders, features=width)


PRESETS = presets(
    Config(),
    smoke={
        "subject": SMALL,
        **{f"autoencoders.{name}": value for name, value in (TINY | {"curve": (1.0,)}).items()},
        "widths": (16, 32),
        "words": WordsConfig(count=400, pieces=5, least=25, prompt="a"),
    },
    paper={
        "subject": GPT2,
        **{f"autoencoders.{name}": value for name, value in (PUBLISHED | {"curve": (1.0,)}).items()},
        "widths": (2**13, 2**15, 2**17),
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By arm, VARIANT-WIDTH or a name of its own, what is measured of it with every seed."""
    training, variants = config.autoencoders.training, config.autoencoders.variants
    subject = open_language_model(config.subject, config.autoencoders.tokens, len(training.seeds), workspace)
    fingerprints = workspace.pinned("corpora", dict(subject.fingerprints))
    words = read_words(config.words, subject)
    mean = subject.calibration.mean(axis=0)

    @cache
    def split(seed: int) -> Split:
        return split_words(words, config.words, seed)

    @cache
    def trained(variant: str, width: int) -> list[Autoencoder]:
        alphas = own_exponents(trained("mutual", width)) if variant == "feature_zipf" else ()
        return train_variant(variant, config.of_width(width), subject, workspace, alphas)[0]

    def untrained(width: int, place: int, seed: int) -> Autoencoder:
        one, sample = trained("topk", width)[place], scale_and_sample(subject.source, config.of_width(width))[1]
        start = initialize(one.config, sample, jax.random.key(seed))
        return replace(one, state=one.state._replace(params=start))

    @cache
    def directions(arm: str) -> np.ndarray:
        return np.eye(subject.width) if arm == NEURONS else np.linalg.eigh(np.cov(subject.calibration.T))[1].T

    def measure(arm: str, seed: int) -> dict[str, float]:
        if arm == DENSE:
            return rounded({"told": told_by_all(split(seed))})
        if arm in UNSPARSE:
            signed = (words.x - mean) @ directions(arm).T
            sides = np.maximum(np.concatenate([signed, -signed], axis=1), 0)
            decoder = np.concatenate([directions(arm), -directions(arm)])
            return rounded(evaluate(config.words, split(seed), sides, decoder, signed))
        (variant, width), place = arm.split("-"), training.seeds.index(seed)
        one = untrained(int(width), place, seed) if variant == UNTRAINED else trained(variant, int(width))[place]
        codes, decoder = one.codes(words.x), np.asarray(one.state.params["decoder"]) / one.scale
        found = judge(one, subject.held_out[place], training.batch)
        parts = {"fvu": found["fvu"], "dead": found["dead"], "l0": (codes != 0).sum(axis=1).mean()}
        return rounded(parts | evaluate(config.words, split(seed), codes, decoder))

    arms = [f"{variant}-{width}" for width in config.widths for variant in (*variants, UNTRAINED)]
    return {
        "corpora": fingerprints,
        "seeds": list(training.seeds),
        "words": {letter: int(n) for letter, n in zip(words.letters, words.labels.sum(axis=0), strict=True)},
        "widths": list(config.widths),
        "variants": list(variants),
        "ks": list(config.words.ks),
        "ablated": config.words.ablated,
        "shares": list(config.words.shares),
        "arms": measured(workspace, [DENSE, *UNSPARSE, *arms], training.seeds, measure),
    }


def rounded(found: dict[str, float]) -> dict[str, float]:
    return {name: round(float(value), 5) for name, value in found.items()}


def by_width(results: dict[str, Any], arm: str, metric: str) -> np.ndarray:
    """[seeds, widths]; the same at every width of an arm that has none."""
    arms, widths = Arms(results), results["widths"]
    return np.stack([arms[arm if arm in UNSPARSE else f"{arm}-{width}", metric] for width in widths], axis=1)


def claims(results: dict[str, Any]) -> list[Claim]:
    """Trained against untrained and against dense codes, over all widths; absorption by width."""
    variants, ks, doublings = results["variants"], results["ks"], np.log2(results["widths"])

    def above_another(metric: str, variant: str, other: str) -> np.ndarray:
        """[seeds]"""
        return (by_width(results, variant, metric) - by_width(results, other, metric)).mean(axis=1)

    def probes(other: str) -> dict[str, np.ndarray]:
        named = {f"{NAMES[variant]}, k = {k}": (f"told_{k}", variant, other) for variant in variants for k in ks}
        return {name: above_another(*what) for name, what in named.items()}

    slopes = {
        f"{NAMES.get(arm, arm)}, {share:g} of the projection": np.polyfit(
            doublings, by_width(results, arm, f"absorbed_{share:g}").T, 1
        )[0]
        for share in results["shares"]
        for arm in (*variants, UNTRAINED)
    }
    targeted = {NAMES[variant]: above_another("selective", variant, UNTRAINED) for variant in variants}
    others = {
        f"{NAMES[variant]}, minus {label}": above_another("selective", variant, arm)
        for variant in variants
        for arm, label in UNSPARSE.items()
    }
    return [
        Claim(
            "sparse_probes_above_untrained",
            "A few latents tell a word's first letter better after training than before, at every k.",
            OURS,
            probes(UNTRAINED),
            above(0),
            "balanced accuracy minus that of the untrained autoencoder, mean over letters and widths",
        ),
        Claim(
            "sparse_probes_above_neurons",
            "A few latents tell a word's first letter better than as many dimensions of the residual stream.",
            "karvonen2025saebench: sparse probing",
            probes(NEURONS),
            above(0),
            "balanced accuracy minus that of dimensions of the stream, mean over letters and widths",
        ),
        Claim(
            "absorption_by_width",
            "The wider the autoencoder, the more words have their first letter absorbed into other latents.",
            "chanin2024absorption: absorption by width",
            slopes,
            {name: above(0) for name in slopes if not name.startswith(UNTRAINED)},
            "share of the words absorbed into a latent with so much of the probe's projection, more with each doubling of the latents",
            "rises with width",
        ),
        Claim(
            "perturbation_is_targeted",
            f"Taking away {results['ablated']} latents of a letter blinds its own probe more than the others', by more than in the "
            "untrained autoencoder.",
            "karvonen2025saebench: targeted probe perturbation",
            targeted | others,
            dict.fromkeys(targeted, above(0)),
            "fall of the balanced accuracy of the letter's own probe minus that of the others', minus the same of the untrained",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Sparse probes by k at the middle width, and of one latent by width; absorption and targeted perturbation by width."""
    arms, widths, ks = Arms(results), results["widths"], results["ks"]
    middle, share = widths[len(widths) // 2], results["shares"][-1]
    shown = f"absorbed_{share:g}"
    labels = {arm: NAMES.get(arm, "untrained TopK") for arm in (*results["variants"], UNTRAINED)} | UNSPARSE
    drawn, axes = panels(1, 4, width=3.5, height=3.2)
    for (arm, label), color in zip(labels.items(), (*PALETTE[: len(labels) - 1], GREY), strict=True):
        style = {"linestyle": "--", "linewidth": 1} if arm in UNSPARSE else {"marker": "o", "markersize": 3}
        name = arm if arm in UNSPARSE else f"{arm}-{middle}"
        band(axes[0], ks, np.stack([arms[name, f"told_{k}"] for k in ks], axis=1), label, color, **style)
        for panel, metric in zip(axes[1:], (f"told_{ks[0]}", shown, "selective"), strict=True):
            if metric != shown or arm not in UNSPARSE:
                band(panel, widths, by_width(results, arm, metric), label, color, **style)
    axes[0].axhline(arms[DENSE, "told"].mean(), color=BLACK, linestyle=":", linewidth=1.2, label="all dimensions")
    axes[0].set(title=f"Sparse probes, {middle} latents", xlabel="latents of a probe (k)", xticks=ks)
    axes[0].set(ylabel="balanced accuracy, mean over letters")
    axes[1].set(title=f"Sparse probes, k = {ks[0]}", ylabel="balanced accuracy, mean over letters")
    axes[2].set(title=f"Absorption, {share:g} of the projection", ylabel="share of the words absorbed")
    axes[3].set(title=f"{results['ablated']} latents taken away", ylabel="fall of own probe minus others'")
    for panel in axes[1:]:
        panel.set(xlabel="latents", xscale="log")
        panel.set_xticks(widths, [str(width) for width in widths])
        panel.set_xticks([], minor=True)
    axes[3].legend(*axes[0].get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=7.5)
    return drawn
