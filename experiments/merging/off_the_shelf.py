"""Accuracy, FLOPs, wall clock and spectral distance of 16 methods of token reduction on trained Vision Transformers, with no training.

Off-the-shelf image classification (Tran et al. 2024): a small ViT on generated glyphs (64 patches) and one on the digits of scikit-learn (a
token for each of 64 pixels). A schedule of ratio r leaves r of the patches after every layer, for every method alike: all rows of one ratio
cost the same. Speed is relative to the unreduced pass, measured beside it with the first seed's model: with models this small, matching
takes a share that it does not take in a large one. The spectral distance is that of the first layer's partition, on the graph of its keys.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
from matplotlib.figure import Figure

from experiments.harness.figures import dots, lines
from experiments.harness.presets import presets
from experiments.harness.style import reference, styled
from experiments.harness.token_groups import draw_pictures
from experiments.harness.verdicts import OURS, Claim, Rule, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.glyph_classifiers import (
    DIGITS,
    FULL_SIZE,
    GLYPHS,
    VisionSubject,
    held_out,
    one_seed,
    tiny,
    vision_models,
)
from experiments.subjects.published_classifiers import OF_THE_PAPER, PublishedModel, open_published
from experiments.subjects.reduced_vision import (
    BATCH,
    COMPRESSED,
    LABELS,
    Read,
    Runs,
    World,
    flops,
    measure_arms,
    pictures,
    schedule_of,
)
from lexinv.merging.methods import METHODS
from lexinv.validation import Checked, Count, Fraction, Fractions, some_of

PAPERS = ("tran2024accelerating", "bolya2023token")
TABLE = "tran2024accelerating: ImageNet table, off the shelf"
THEOREM = "tran2024accelerating: theorem on spectral distance"

UNWEIGHTED = ("tome", "pitome")
"""Methods that are also run with attention that ignores sizes."""
PITOME = ("pitome", "pitome_ordered")
PUBLISHED = ("tome", "tofu", "diffrate", "pitome")
"""Those that the paper's table has beside DCT."""
OTHERS = ("tome", "random_bipartite", *PITOME, "pitome_paper", "tofu", "diffrate", "complete_graph", "mctf")
"""The merging methods, which the inverted energy is compared with."""
DRAWN = ("tome", "pitome", "pitome_inverted", "prune_cls")
FEW = ("tome", "random_bipartite", *PITOME, "pitome_inverted", "tofu", "dct", "diffrate", "prune_cls", "prune_random")
"""The methods on digits."""
NEEDED = tuple(sorted({*UNWEIGHTED, "pitome_inverted", "dct", "prune_random"}))
MERGING = tuple(name for name in LABELS if METHODS[name].merges)
Methods = Annotated[tuple[str, ...], some_of(LABELS)]


@dataclass(frozen=True)
class Config(Checked):
    """few, digit_ratios: methods and ratios (falling) on digits; the ratios also of the runs without proportional attention.

    images, test_digits: to judge on, per seed. spectra: images per seed whose graphs are looked at. repeats: timed passes.
    picture_ratio: of the drawn groups. published: models of others, compared as on digits, with sets of images for seeds.
    """

    glyphs: VisionSubject = GLYPHS
    digits: VisionSubject = DIGITS
    methods: Methods = tuple(LABELS)
    few: Methods = FEW
    ratios: Fractions = (0.95, 0.9, 0.85, 0.8, 0.7, 0.6)
    digit_ratios: Fractions = (0.9, 0.8, 0.6)
    images: Count = 1280
    test_digits: Count = 768
    spectra: Count = 32
    repeats: Count = 5
    picture_ratio: Fraction = 0.8
    published: tuple[PublishedModel, ...] = ()

    def checks(self):
        for field in ("methods", "few"):
            yield set(getattr(self, field)) >= set(NEEDED), field, f"at least {', '.join(NEEDED)}"
        for field in ("ratios", "digit_ratios"):
            ratios = getattr(self, field)
            falling = all(a > b for a, b in pairwise(ratios)) and ratios[-1] <= COMPRESSED
            yield falling, field, f"falling, one of them up to {COMPRESSED}"
        yield set(self.digit_ratios) <= set(self.ratios), "digit_ratios", f"some of {self.ratios}"
        yield self.picture_ratio in self.ratios, "picture_ratio", f"one of {self.ratios}"
        names = [published.name for published in self.published]
        once = len({*names, "glyphs", "digits"}) == len(names) + 2
        yield once, "published", "each name once, none of our own data's"
        yield all(one.images % BATCH == 0 for one in self.published), "published", f"multiples of {BATCH} images"
        for field in ("images", "test_digits"):
            yield getattr(self, field) % BATCH == 0, field, f"a multiple of {BATCH}"
        yield self.spectra <= BATCH, "spectra", f"at most {BATCH} images"
        same = self.glyphs.training.seeds == self.digits.training.seeds
        yield same, "digits.training.seeds", "those of the glyphs"


PRESETS = presets(
    Config(),
    smoke={
        "glyphs": tiny(GLYPHS, depth=1),
        "digits": tiny(DIGITS, depth=1),
        **dict.fromkeys(("methods", "few"), NEEDED),
        **dict.fromkeys(("ratios", "digit_ratios"), (0.8,)),
        **dict.fromkeys(("images", "test_digits"), 64),
        "spectra": 2,
        "repeats": 1,
    },
    quick={
        "glyphs": one_seed(GLYPHS),
        "digits": one_seed(DIGITS),
        **dict.fromkeys(("methods", "few"), NEEDED),
        "ratios": (0.9, 0.8, 0.6),
        "images": 640,
    },
    paper={
        "glyphs": FULL_SIZE,
        "ratios": (0.975, 0.95, 0.925, 0.9, 0.85),
        "digit_ratios": (0.95, 0.9, 0.85),
        "images": 9984,
        "picture_ratio": 0.9,
        "published": OF_THE_PAPER,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By `data/method` and metric [seeds, ratios]; of "unreduced" one ratio, 1. Speed by arm [ratios], of the first seed."""
    seeds, worlds, corpora = config.glyphs.training.seeds, {}, {}
    for one in config.published:  # a folder that holds no model is refused before anything is trained
        found = open_published(one, len(seeds))
        corpora[one.name] = found.fingerprint
        worlds[one.name] = World(found.model, [found.params] * len(seeds), found.images)
    for data, subject, count in (
        ("glyphs", config.glyphs, config.images),
        ("digits", config.digits, config.test_digits),
    ):
        models = vision_models(subject, workspace)
        worlds[data] = World(subject.model, list(models.values()), [held_out(subject, seed, count) for seed in seeds])
    names = ("glyphs", "digits", *corpora)
    ratios = {data: config.ratios if data == "glyphs" else config.digit_ratios for data in names}
    arms, speeds = {}, {}
    for data in names:
        world, methods = worlds[data], config.methods if data == "glyphs" else config.few
        runs: dict[str, Runs] = {f"{data}/unreduced": [(None, (), True)]}
        for chosen, across, weighted in ((methods, ratios[data], True), (UNWEIGHTED, config.digit_ratios, False)):
            for method in chosen:
                arm = f"{data}/{method}" if weighted else f"{data}/{method}-unweighted"
                runs[arm] = [(method, schedule_of(world.model, ratio), weighted) for ratio in across]
        found = measure_arms(world, runs, seeds, config.spectra, config.repeats, workspace)
        arms, speeds = arms | found[0], speeds | found[1]
    glyphs, shown = worlds["glyphs"], tuple(method for method in DRAWN if method in config.methods)
    chosen = glyphs.model, shown, schedule_of(glyphs.model, config.picture_ratio)
    return {
        "corpora": workspace.pinned("published", corpora),
        "seeds": list(seeds),
        "ratios": ratios,
        "flops": {
            data: [round(flops(worlds[data].model, schedule_of(worlds[data].model, r)), 4) for r in ratios[data]]
            for data in names
        },
        "unweighted_ratios": list(config.digit_ratios),
        "arms": arms,
        "speed": speeds,
        "pictures": workspace.cached("pictures", lambda: pictures(glyphs.params[0], glyphs.images[0], *chosen)),
    }


def claims(results: dict[str, Any]) -> list[Claim]:
    """The card's orderings at equal FLOPs, proportional attention, the spectrum, and the models' own accuracy."""
    read, averaged = Read(results), f"mean of ratios up to {COMPRESSED}"

    def best_of_pitome(other: str) -> tuple[str, dict[str, np.ndarray]]:
        """(variant, its gains): one for all ratios and data sets, that of the best worst mean gain over the other method."""
        found = {variant: read.gains(variant, other) for variant in read.among("digits", PITOME)}
        best = max(found, key=lambda variant: min(values.mean() for values in found[variant].values()))
        return best, found[best]

    (variant, over_tome), (control, over_random) = map(best_of_pitome, ("tome", "prune_random"))
    saved: dict[str, Any] = {}
    rules: dict[str, Rule] = {}
    weighted, closer = {}, {}
    for data, ratios in read.ratios.items():
        # The mildest ratio that saves 40 % of FLOPs; the last where none does.
        at = next((i for i, cost in enumerate(read.flops[data]) if cost <= 0.6), len(ratios) - 1)
        lost = read.of(data, "unreduced")[:, 0] - read.of(data, "pitome")[:, at]
        saved |= {f"{data}, ratio {ratios[at]}": lost, f"{data}, FLOPs": read.flops[data][at]}
        rules |= {f"{data}, ratio {ratios[at]}": below(0.01), f"{data}, FLOPs": below(0.6)}
        rows = [ratios.index(ratio) for ratio in results["unweighted_ratios"]]
        for name in UNWEIGHTED:
            without = read.of(data, f"{name}-unweighted")
            weighted[f"{data}, {name}"] = (read.of(data, name)[:, rows] - without).mean(axis=1)
        closer[data] = (read.of(data, "tome", "distance") - read.of(data, "pitome", "distance")).mean(axis=1)
    return [
        Claim(
            "base_models_are_right",
            "The unreduced models know their task.",
            OURS,
            {data: read.of(data, "unreduced")[:, 0] for data in read.ratios},
            above(0.95),
            "accuracy",
        ),
        Claim(
            "pitome_not_below_tome",
            "Off the shelf, at equal FLOPs, PiToMe is no worse than ToMe at any ratio, in the better of its two modes (here "
            f"{LABELS[variant]}).",
            TABLE,
            over_tome,
            above(-0.005),
            "gain in accuracy, by ratio",
            "above: DeiT-S 79.1 against 77.7 %, DeiT-T 70.8 against 68.9 %",
        ),
        Claim(
            "pitome_above_random_pruning",
            f"So is it better than pruning at random at every ratio (here {LABELS[control]}).",
            OURS,
            over_random,
            above(0),
            "gain in accuracy, by ratio",
        ),
        Claim(
            "inverted_energy_worst",
            "With the energy inverted PiToMe is clearly worse than every merging method: the energy decides.",
            OURS,
            read.losses("pitome_inverted", OTHERS),
            above(0.01),
            f"accuracy of each less that, {averaged}",
        ),
        Claim(
            "dct_last",
            "Of the paper's methods, cutting high frequencies (DCT) loses most.",
            TABLE,
            read.losses("dct", PUBLISHED),
            above(0),
            f"accuracy of each less that, {averaged}",
            "last with DeiT-T and DeiT-S: 67.6 and 74.8 %",
        ),
        Claim(
            "pitome_saves_flops",
            "PiToMe saves 40 % of the FLOPs for a loss below one point.",
            "tran2024accelerating: abstract",
            saved,
            rules,
            "accuracy lost at the mildest ratio that saves as much, and its FLOPs",
            "40 to 60 % saved, 0.5 points lost (ViT-MAE-H)",
        ),
        Claim(
            "proportional_attention_helps",
            "Attention proportional to sizes is better than attention that ignores them, off the shelf; PiToMe's code leaves it out.",
            "bolya2023token: section 3",
            weighted,
            above(0),
            f"gain in accuracy, mean of ratios {', '.join(map(str, results['unweighted_ratios']))}",
        ),
        Claim(
            "pitome_keeps_the_spectrum_better",
            "In a trained model's first layer PiToMe's spectral distance is below ToMe's.",
            THEOREM,
            closer,
            above(0),
            "ToMe's less PiToMe's, mean of ratios",
        ),
    ]


PANELS = {
    "methods of the paper": ("pitome", "tome", "tofu", "diffrate", "dct"),
    "kinds of PiToMe": ("pitome", "pitome_ordered", "pitome_paper", "pitome_cls", "pitome_inverted"),
    "other merging": ("tome", "random_bipartite", "complete_graph", "mctf"),
    "pruning": ("pitome", "prune_cls", "diversity", "pivot", "prune_random"),
}


def figure(results: dict[str, Any]) -> Figure:
    """Accuracy against FLOPs, a row for each data set; spectral distance of what merges; groups over two images."""
    read = Read(results)
    rows = len(read.ratios)
    with styled():
        drawn = Figure(figsize=(15, 2.7 * rows + 1.3 + 2.8 + 5.4), layout="constrained")
        above_, middle, lower = drawn.subfigures(3, 1, height_ratios=(2.7 * rows + 1.3, 2.8, 5.4))
        panels = above_.subplots(rows, len(PANELS) + 1, squeeze=False)
        for row, data in zip(panels, read.ratios, strict=True):
            for panel, (title, methods) in zip(row, PANELS.items(), strict=False):
                there = read.among(data, methods)
                chosen = {LABELS[name]: read.of(data, name) if name in there else None for name in methods}
                lines(panel, read.flops[data], chosen)
                panel.set_title(f"{data}: {title}")
            places = [read.ratios[data].index(ratio) for ratio in results["unweighted_ratios"]]
            sizes = {}
            for method in UNWEIGHTED:
                sizes[LABELS[method]] = read.of(data, method)[:, places]
                sizes[f"{LABELS[method]}, sizes ignored"] = read.of(data, f"{method}-unweighted")
            lines(row[-1], [read.flops[data][place] for place in places], sizes)
            row[-1].set_title(f"{data}: sizes in attention")
            for panel in row:
                reference(panel, float(np.mean(read.of(data, "unreduced"))), "unreduced")
            row[0].set_ylabel("accuracy, mean and range of seeds")
        for top, bottom in zip(panels[0], panels[-1], strict=True):
            bottom.set_xlabel("FLOPs, relative")
            named = top.get_legend_handles_labels()
            bottom.legend(*named, loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=8)
        apart = {name: read.compressed("glyphs", name, "distance") for name in read.among("glyphs", MERGING)}
        panel = middle.subplots()
        dots(panel, {LABELS[name]: apart[name] for name in sorted(apart, key=lambda name: apart[name].mean())})
        panel.set(
            title="glyphs: spectral distance, first layer",
            xlabel=f"mean of ratios up to {COMPRESSED}; seeds, mean, 95 % interval",
        )
        draw_pictures(lower, results["pictures"], LABELS)
    return drawn
