"""A page of features of a sparse autoencoder of a language model: top passages, logit effects, neighbours; and whether they are specific.

Method card sparse-autoencoders; the autoencoder is the Mutual Choice of `sae/language_model` (Ayonrinde 2024, arXiv 2411.02124). Writes
`features.html` into the run folder: one file without network, with a search box. What it shows is measured beside it: features against
random directions of the same activations, and against random tokens.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.harness.claims import Claim, above, every, interval
from experiments.harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, panels, styled
from experiments.harness.workspace import Workspace, write_atomically
from experiments.sae import language_model
from experiments.sae.feature_data import (
    choose_features,
    describe,
    foretold,
    logit_effects,
    specificity,
    survey,
    token_texts,
    top_windows,
)
from experiments.sae.feature_page import Page, render
from experiments.subjects import sparse_activations
from experiments.subjects.activation_autoencoders import (
    MIDDLE,
    Autoencoder,
    AutoencodersConfig,
    compare_laws,
    ranks_shown,
    train_variant,
    zipf_fit,
)
from experiments.subjects.language_subjects import LanguageSubject, SubjectConfig, open_language_model
from experiments.subjects.sparse_activations import NAMES, TrainingConfig
from lexinv.data.windows import evaluation_windows
from lexinv.sae.training import OptimizerConfig
from lexinv.training.streams import stream
from lexinv.validation import require

PAPER = sparse_activations.PAPER
CARD = "method card sparse-autoencoders (ours)"
PAGE = "features.html"
FEATURES, DIRECTIONS, TOKENS = "features", "directions", "tokens"
GROUP_COLORS = {"most active": VERMILION, "densest": ORANGE, "sparsest": GREEN, "random": PURPLE}


@dataclass(frozen=True)
class Config:
    """shown: features of each kind on the page, and of each text in `search`. passages: of each feature. windows: of held-out text.

    raised: a feature's most raised tokens, among which the next one is looked for.
    """

    subject: SubjectConfig = field(default_factory=SubjectConfig)
    autoencoders: AutoencodersConfig = field(default_factory=lambda: AutoencodersConfig(("mutual",)))
    windows: int = 1500
    shown: int = 8
    passages: int = 10
    search: tuple[str, ...] = ("import", "self", "error")
    raised: int = 20

    def __post_init__(self):
        require(
            self.subject.model != "minilm", "subject.model", self.subject.model, "a language model: logits are shown"
        )
        variants = self.autoencoders.variants
        require(len(variants) == 1, "autoencoders.variants", variants, "one")
        for name in ("windows", "shown", "raised"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.passages >= 2, "passages", self.passages, "at least 2")
        require(self.passages <= self.windows, "passages", self.passages, f"at most the {self.windows} windows")
        require(all(self.search), "search", self.search, "texts that are not empty")


PRESETS = {
    "smoke": Config(
        language_model.PRESETS["smoke"].subjects[0].subject,
        AutoencodersConfig(
            ("mutual",),
            features=32,
            k=4.0,
            training=TrainingConfig(20, 128, OptimizerConfig(warmup_steps=2), 4, 10, seeds=(0, 1)),
        ),
        windows=48,
        shown=3,
        passages=4,
        search=("e",),
    ),
    "cpu": Config(),
    "paper": Config(
        language_model.GPT2,
        AutoencodersConfig(("mutual",), **language_model.LARGE),
        windows=20_000,
        shown=20,
        passages=20,
    ),
}


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Train, write the page of the first seed's features, and measure those of every seed."""
    seeds = config.autoencoders.training.seeds
    subject = open_language_model(config.subject, config.autoencoders.tokens, len(seeds), workspace)
    fingerprints = workspace.pinned("corpora", {config.subject.corpus: subject.fingerprint})
    (variant,) = config.autoencoders.variants
    trained = train_variant(variant, config.autoencoders, subject, variant, workspace)
    windows = evaluation_windows(subject.text, config.windows, seed=1)
    measured = [
        workspace.cached(f"measured/{seed}", lambda seed=seed, one=one: measure(one, subject, windows, config, seed))
        for seed, one in zip(seeds, trained, strict=True)
    ]
    page, shown = make_page(trained[0], subject, windows, config)
    write_atomically(workspace.path / PAGE, render(page).encode())
    return {
        "corpora": fingerprints,
        "seeds": list(seeds),
        "arms": {"own": subject.origin} if subject.origin else {},
        "page": PAGE,
        "variant": variant,
        "features": trained[0].config.features,
        "shown": shown,
        "raised": config.raised,
        "chance": round(config.raised / subject.vocab, 6),
        **{name: [one[name] for one in measured] for name in measured[0]},
    }


def measure(
    autoencoder: Autoencoder, subject: LanguageSubject, windows: np.ndarray, config: Config, seed: int
) -> dict[str, Any]:
    """Of all features with as many passages as the page shows: how specific they are, and whether what they raise comes next."""
    found = survey(autoencoder.codes, subject, windows)
    top = [top_windows(found, i, windows, config.passages) for i in range(found.peaks.shape[1])]
    effects = logit_effects(subject, decoder_of(autoencoder))
    raised = np.zeros(effects.shape, bool)
    np.put_along_axis(raised, np.argsort(-effects, axis=1)[:, : config.raised], True, axis=1)
    key = stream(jax.random.key(seed), "directions")
    directions = np.asarray(jax.random.normal(key, (subject.width, autoencoder.config.features)))
    mean = subject.calibration.mean(axis=0)
    random = survey(lambda rows: np.maximum((rows - mean) @ directions, 0.0), subject, windows)
    random_top = [top_windows(random, i, windows, config.passages) for i in range(directions.shape[1])]
    rng = np.random.default_rng(seed)
    places = rng.integers(
        (0, 0), (len(windows), windows.shape[1] - 1), (autoencoder.config.features, config.passages, 2)
    )
    groups = {FEATURES: top, DIRECTIONS: random_top, TOKENS: [list(map(tuple, group)) for group in places.tolist()]}
    shares = {name: specificity(each, windows, config.passages) for name, each in groups.items()}
    own, others = foretold(top, windows, raised)
    slope, quality = zipf_fit(np.sort(found.density)[::-1])
    return {
        "specific": {name: round(float(each.mean()), 5) if len(each) else 0.0 for name, each in shares.items()},
        "spread": {
            name: np.histogram(each, config.passages, (0.5 / config.passages, 1 + 0.5 / config.passages))[0].tolist()
            for name, each in shares.items()
        },
        "complete": len(shares[FEATURES]),
        "next_raised": round(own, 5),
        "next_raised_by_others": round(others, 5),
        "densities": [float(f"{x:.4g}") for x in np.sort(found.density)[::-1][ranks_shown(len(found.density))]],
        "live": int(np.sum(found.density > 0)),
        "alpha": round(slope, 4),
        "zipf_r2": round(quality, 4),
    }


def decoder_of(autoencoder: Autoencoder) -> np.ndarray:
    """What a unit of each feature's activation adds to the model's own activations."""
    return np.asarray(autoencoder.state.params["decoder"]) / autoencoder.scale


def make_page(
    autoencoder: Autoencoder, subject: LanguageSubject, windows: np.ndarray, config: Config
) -> tuple[Page, list[dict[str, Any]]]:
    """The page, and of each of its features number, group, rank and density for the figure."""
    found = survey(autoencoder.codes, subject, windows)
    top = [top_windows(found, i, windows, config.passages) for i in range(found.peaks.shape[1])]
    texts = token_texts(subject.tokenizer)
    seed = config.autoencoders.training.seeds[0]
    chosen = choose_features(found, top, texts, windows, config.shown, config.search, seed)
    effects = logit_effects(subject, decoder_of(autoencoder))
    features = describe(chosen, autoencoder, subject, windows, found, top, effects, texts)
    tokens = len(windows) * (windows.shape[1] - 1)
    facts = (
        ("autoencoder", NAMES[config.autoencoders.variants[0]]),
        ("latents", f"{autoencoder.config.features:,}"),
        ("active per token", f"{found.density.sum():.1f}"),
        ("never active", f"{np.mean(found.density == 0):.1%}"),
        ("residual stream", f"after layer {config.subject.layer + 1} of {subject.config.depth}"),
        ("text", f"{config.subject.corpus}, {tokens:,} held-out tokens"),
    )
    named = "a small Transformer trained here" if config.subject.model == "own" else config.subject.model
    page = Page(
        f"{len(features)} features of a language model",
        f"Latents of a sparse autoencoder on {named}: the passages that activate each of them most, and what it does to the next token.",
        facts,
        tuple(features),
    )
    marked = [
        {"feature": f.index, "group": f.groups[0], "rank": f.rank, "density": float(f"{f.density:.4g}")}
        for f in features
    ]
    return page, marked


def claims(results: dict[str, Any]) -> list[Claim]:
    """How specific features are, and whether their logit effects tell what comes."""
    shares = {name: np.array([one[name] for one in results["specific"]]) for name in (FEATURES, DIRECTIONS, TOKENS)}
    ahead = interval(shares[FEATURES] - shares[TOKENS])
    beyond = interval(shares[FEATURES] - shares[DIRECTIONS])
    foretells = interval(np.array(results["next_raised"]) - np.array(results["next_raised_by_others"]))
    dead = [1 - live / results["features"] for live in results["live"]]
    law = compare_laws({"densities": results["densities"], "dead": dead}, results["features"])
    means = {name: round(float(each.mean()), 3) for name, each in shares.items()}
    return [
        Claim(
            "features_are_specific",
            "The passages that activate a feature most have the same top token far more often than random tokens are the same "
            f"(measured: share of a feature's top tokens that are its most frequent one, over random tokens; means {means}).",
            CARD,
            None,
            ahead,
            "whole interval above 0.3",
            above(ahead, 0.3),
        ),
        Claim(
            "more_specific_than_directions",
            "Features are more specific than random directions of the same activations (measured: difference of the same share).",
            CARD,
            None,
            beyond,
            "whole interval above 0",
            above(beyond, 0.0),
        ),
        Claim(
            "logit_effects_foretell",
            f"The token after a peak is among the {results['raised']} that the feature itself raises most more often than among another "
            f"feature's (measured: difference; chance is {results['chance']:.4f}).",
            CARD,
            None,
            foretells,
            "whole interval above 0",
            above(foretells, 0.0),
        ),
        Claim(
            "densities_follow_zipf",
            f"Densities follow a Zipf law over the middle ranks, {MIDDLE[0]:.0%} to {MIDDLE[1]:.0%} of the features that fire "
            "better than an exponential one (measured: R^2 of the line through log density against log rank, and that minus R^2 of the "
            "line against rank).",
            "Ayonrinde 2024, abstract and reviews",
            "a Zipf law except at the low end",
            law,
            "R^2: whole interval above 0.9; difference: whole interval above 0",
            every([above(law["zipf"], 0.9), above(law["ahead"], 0.0)]),
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Densities by rank with the features of the page, and how specific features, random directions and random tokens are."""
    drawn, (ranks, shares) = panels(1, 2, width=4.8, height=3.5)
    with styled():
        draw_ranks(ranks, results)
        draw_shares(shares, results)
    return drawn


def draw_ranks(panel: Axes, results: dict[str, Any]) -> None:
    """The first seed's densities, its Zipf law, and the page's features by the first reason why they are on it."""
    positions = ranks_shown(results["features"]) + 1
    density, alpha, live = np.array(results["densities"][0]), results["alpha"][0], results["live"][0]
    panel.plot(positions, np.where(density > 0, density, np.nan), color=BLUE, label="all features")
    inside = (positions > MIDDLE[0] * live) & (positions <= MIDDLE[1] * live) & (density > 0)
    if inside.any():
        level = np.exp(np.mean(np.log(density[inside]) + alpha * np.log(positions[inside])))
        panel.plot(
            positions, level * positions**-alpha, "--", color=GREY, linewidth=1, label=f"Zipf, alpha = {alpha:.2f}"
        )
    groups = list(dict.fromkeys(feature["group"] for feature in results["shown"]))
    for group in groups:
        members = [feature for feature in results["shown"] if feature["group"] == group]
        known = group in GROUP_COLORS
        searched = not any(line.get_label() == "searched for" for line in panel.lines)
        label = group if known else "searched for" if searched else None
        x, y = [feature["rank"] for feature in members], [feature["density"] for feature in members]
        panel.plot(x, y, "o", color=GROUP_COLORS.get(group, BLACK), markersize=4, label=label)
    panel.set(
        xlabel="rank", ylabel="density (share of tokens)", xscale="log", yscale="log", title="Features of the page"
    )
    positive = density[density > 0]
    panel.set_ylim(positive.min() / 2, positive.max() * 2)
    panel.legend(fontsize=7)


def draw_shares(panel: Axes, results: dict[str, Any]) -> None:
    """Distribution of the share over features, all seeds together, as a falling cumulative curve."""
    labels = {
        FEATURES: ("features", BLUE),
        DIRECTIONS: ("random directions", VERMILION),
        TOKENS: ("random tokens", GREY),
    }
    for name, (label, color) in labels.items():
        counts = np.sum([one[name] for one in results["spread"]], axis=0)
        at_least = counts[::-1].cumsum()[::-1] / max(counts.sum(), 1)
        x = np.arange(1, len(counts) + 1) / len(counts)
        panel.plot(x, at_least, "o-", color=color, markersize=3, label=label)
    panel.set(
        xlabel="share of top passages with the same top token",
        ylabel="share of features with at least that",
        ylim=(0, 1.02),
    )
    panel.set_title("How specific they are")
    panel.legend()
