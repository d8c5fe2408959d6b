"""What token reduction leaves of a real vision transformer's view, with no training: DINOv2-S on photographs, methods at equal FLOPs.

Off-the-shelf compression (Tran et al. 2024); method card token-merging, small reproduction 2. A schedule of ratio r leaves r of the
patches after every layer, for every method alike: all arms of one ratio cost the same. Without labels, what is kept of an image is the
cosine of its CLS with that of the unreduced model; beside it stands how often the nearest other cut, seen unreduced, is of the same
photograph, and how far the map of a dense head, which shows what is important in the image, stays where it was: merged patches are
unmerged before it, and a pruned one borrows from the nearest that is left. Of models with a head (`published`) it is the accuracy. Numbers
are by photograph, the means of its cuts. Errors, 1 less the cosine and the mean absolute difference of the maps, span decades over
photographs, so that methods are compared by ln of their ratio, photograph by photograph.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Annotated, Any

import jax
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from experiments.harness.arms import Arms, by, measured
from experiments.harness.figures import dots, legend_beside, lines
from experiments.harness.presets import presets
from experiments.harness.style import PALETTE, styled
from experiments.harness.token_groups import draw_pictures
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.pretrained_vision import (
    cuts,
    fingerprint,
    open_dense_head,
    open_pretrained_vision,
    photographs,
    untrained,
    untrained_head,
)
from experiments.subjects.published_classifiers import OF_THE_PAPER, PublishedModel, open_published
from experiments.subjects.reduced_views import World, log_gain, measure_in, pictured, unreduced
from experiments.subjects.reduced_vision import BATCH, LABELS, flops, schedule_of
from lexinv.merging.methods import METHODS, apply
from lexinv.nn.vision_transformer import Encoded
from lexinv.validation import Checked, Count, Fraction, Fractions, some_of

PAPERS = ("tran2024accelerating", "bolya2023token")
TABLE = "tran2024accelerating: ImageNet table, off the shelf"
OTHER_SIZES = {"tome": "ToMe, sizes ignored", "pitome": "PiToMe, sizes counted"}
"""Methods that are also run with attention that treats sizes as their authors do not."""
PRUNING = ("prune_random", "prune_even", "prune_cls")
NEEDED = tuple(sorted({*OTHER_SIZES, *PRUNING, "pitome_protect", "pitome_inverted", "dct"}))
PANELS = {
    "methods of the paper": ("pitome", "tome", "tofu", "diffrate", "dct"),
    "kinds of PiToMe": ("pitome", "pitome_protect", "pitome_ordered", "pitome_paper", "pitome_inverted"),
    "controls": ("tome", "random_bipartite", "mctf", *PRUNING),
}
SHOWN = LABELS | {"prune_even": "every so many pruned"}
DRAWN = ("tome", "pitome", "pitome_inverted", "prune_cls")
Methods = Annotated[tuple[str, ...], some_of(SHOWN)]


@dataclass(frozen=True)
class Config(Checked):
    """pretrained: DINOv2-S, or else a tiny untrained model that shows nothing but that all runs. size: of the images, in pixels.

    cuts: of each photograph. picture_ratio: of the groups that are drawn, and where spectral distance and error are compared. published:
    models of others with labelled images, as many sets of them as there are photographs.
    """

    pretrained: bool = True
    size: Count = 224
    cuts: Count = 4
    methods: Methods = tuple(dict.fromkeys(name for panel in PANELS.values() for name in panel))
    ratios: Fractions = (0.95, 0.9, 0.85)
    picture_ratio: Fraction = 0.9
    published: tuple[PublishedModel, ...] = ()

    def checks(self):
        yield set(self.methods) >= set(NEEDED), "methods", f"at least {', '.join(NEEDED)}"
        yield self.cuts >= 2, "cuts", "2 or more: one has to find another"
        yield self.size % 14 == 0, "size", "a multiple of DINOv2's patch, 14 pixels"
        yield all(a > b for a, b in pairwise(self.ratios)), "ratios", "falling"
        yield self.picture_ratio in self.ratios, "picture_ratio", f"one of {self.ratios}"
        names = ["photographs", *(one.name for one in self.published)]
        yield len(set(names)) == len(names), "published", "each name once, and not 'photographs'"
        yield all(one.images % BATCH == 0 for one in self.published), "published", f"multiples of {BATCH} images"


PRESETS = presets(
    Config(),
    smoke={"pretrained": False, "size": 56, "cuts": 2, "methods": NEEDED, "ratios": (0.8,), "picture_ratio": 0.8},
    quick={"methods": NEEDED, "ratios": (0.9,)},
    paper={"published": OF_THE_PAPER, "ratios": (0.975, 0.95, 0.925, 0.9, 0.85), "cuts": 32},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By `world/method` what is kept, and of photographs what is retrieved and mapped [photographs, ratios], and the spectral distance."""
    found = photographs()
    units, worlds, corpora = range(len(found)), {}, fingerprint(found)
    images, _ = cuts(list(found.values()), config.cuts, config.size, seed=0)
    model = open_pretrained_vision(workspace, config.size) if config.pretrained else untrained(config.size)
    head = open_dense_head(workspace) if config.pretrained else untrained_head(model.model.layers.width)
    images = images.reshape(len(found), config.cuts, *images.shape[1:])
    worlds["photographs"] = World(model.model, model.params, images, head=head)
    for one in config.published:
        other = open_published(one, len(units))
        pixels, labels = (
            np.stack([np.asarray(getattr(set_, field)) for set_ in other.images]) for field in ("pixels", "labels")
        )
        worlds[one.name], corpora[one.name] = World(other.model, other.params, pixels, labels), other.fingerprint
    arms, suffixes = {}, [*config.methods, *(f"{method}/other-sizes" for method in OTHER_SIZES)]
    for name, world in worlds.items():
        place = config.ratios.index(config.picture_ratio)
        spectra = {f"{name}/{method}": place for method in config.methods if METHODS[method].merges}
        measure = measure_in(world, partial(views, world, config.ratios), spectra)
        arms |= measured(workspace, [f"{name}/{suffix}" for suffix in suffixes], units, measure)
    world, drawn = worlds["photographs"], {unit: list(found)[unit] for unit in (0, len(found) // 2)}
    return {
        "corpora": workspace.pinned("images", corpora),
        "seeds": list(units),
        "photographs": list(found),
        "worlds": list(worlds),
        "ratios": list(config.ratios),
        "picture_ratio": config.picture_ratio,
        "flops": {
            w: [round(flops(of.model, schedule_of(of.model, r)), 4) for r in config.ratios] for w, of in worlds.items()
        },
        "unreduced": workspace.cached("unreduced", lambda: {w: unreduced(of) for w, of in worlds.items()}),
        "arms": arms,
        "pictures": workspace.cached("pictures", lambda: pictured(world, drawn, DRAWN, config.picture_ratio)),
    }


def views(world: World, ratios: tuple[float, ...], arm: str) -> list[Callable[[Any], Encoded]]:
    """An arm's encoder at each ratio; `other-sizes` where attention treats sizes as the method's authors do not."""
    _, method, *other = arm.split("/")
    sized = METHODS[method].proportional != bool(other)
    return [apply(world.model, world.params, method, ratio, jax.random.key(0), sized) for ratio in ratios]


def claims(results: dict[str, Any]) -> list[Claim]:
    """PiToMe as released against ToMe and pruning at equal FLOPs, its controls, sizes in attention, and the spectrum."""
    arms, ratios, worlds = Arms(results), results["ratios"], results["worlds"]
    merging = [name for name in SHOWN if METHODS[name].merges and f"photographs/{name}" in arms]

    def gain(method: str, other: str, world: str = "photographs", metric: str = "kept") -> np.ndarray:
        """[units, ratios]: of accuracy; without labels ln of the other's error over the method's."""
        own, others = (arms[f"{world}/{name}", metric] for name in (method, other))
        return own - others if world != "photographs" else log_gain(own, others)

    def gains(method: str, other: str) -> dict[str, np.ndarray]:
        found = {}
        for world in worlds:
            found |= by(ratios, gain(method, other, world), f"{world}, {{}}")
        return found

    def gains_over(worse: str, others: list[str]) -> dict[str, np.ndarray]:
        return {name: gain(name, worse).mean(axis=1) for name in others if name != worse}

    costs = results["flops"]["photographs"]
    at = next((i for i, cost in enumerate(costs) if cost <= 0.6), len(ratios) - 1)
    lost = np.array(results["unreduced"]["photographs"]) - arms["photographs/pitome", "retrieved"][:, at]
    place = ratios.index(results["picture_ratio"])
    apart = np.stack([arms[f"photographs/{name}", "distance"] for name in merging])
    error = np.stack([1 - arms[f"photographs/{name}", "kept"][:, place] for name in merging])
    ranks = np.array([spearmanr(*pair).statistic for pair in zip(apart.T, error.T, strict=True)])
    logs = "ln of the ratio of errors, 1 less the cosine of CLS"
    by_ratio, mean = f"{logs}, by ratio; of labelled images gain in accuracy", f"{logs}, mean over ratios"
    maps = "ln of the ratio of mean absolute differences of the maps"

    def claim(name, statement, measured, source=OURS, rule=None, unit=mean, published=None) -> Claim:
        return Claim(name, statement, source, measured, rule or above(0), unit, published, "photographs")

    return [
        claim(
            "released_pitome_keeps_more_than_tome",
            "At equal FLOPs PiToMe as released keeps more than ToMe.",
            gains("pitome", "tome"),
            TABLE,
            unit=by_ratio,
            published="above: DeiT-S 79.1 against 77.7 %, DeiT-T 70.8 against 68.9 %",
        ),
        claim(
            "pitome_above_random",
            "PiToMe as released keeps more than pruning at random.",
            gains("pitome", "prune_random"),
            unit=by_ratio,
        ),
        claim(
            "tome_halves_the_error_of_pruning",
            "ToMe's error, 1 less the cosine of CLS, is below half of that of pruning at random, evenly, or by CLS attention.",
            {SHOWN[other]: gain("tome", other).mean(axis=1) for other in PRUNING},
            rule=above(float(np.log(2))),
        ),
        claim(
            "merging_keeps_the_dense_map",
            "ToMe and PiToMe as released change the map of the dense head less than pruning at random does.",
            {SHOWN[name]: gain(name, "prune_random", metric="map").mean(axis=1) for name in OTHER_SIZES},
            unit=f"{maps}, mean over ratios",
        ),
        claim(
            "pitome_keeps_more_of_the_dense_map",
            "At equal FLOPs PiToMe as released changes the map of the dense head less than ToMe does.",
            by(ratios, gain("pitome", "tome", metric="map"), "{}"),
            unit=f"{maps}, by ratio",
        ),
        claim(
            "inverted_energy_worst",
            "With the energy inverted PiToMe keeps less than every other way of merging: the energy decides.",
            gains_over("pitome_inverted", merging),
        ),
        claim(
            "dct_last",
            "Of the paper's methods, cutting high frequencies (DCT) keeps least.",
            gains_over("dct", [name for name in PANELS["methods of the paper"] if f"photographs/{name}" in arms]),
            TABLE,
            published="last with DeiT-T and DeiT-S: 67.6 and 74.8 %",
        ),
        claim(
            "pitome_saves_flops",
            "PiToMe saves 40 % of the FLOPs and loses less than one point of what the unreduced model retrieves.",
            {f"retrieved less, ratio {ratios[at]}": lost, "FLOPs": costs[at]},
            "tran2024accelerating: abstract",
            {f"retrieved less, ratio {ratios[at]}": below(0.01), "FLOPs": below(0.6)},
            "share of cuts whose nearest other cut is of their photograph; relative FLOPs",
            "40 to 60 % saved, 0.5 points of accuracy lost (ViT-MAE-H)",
        ),
        claim(
            "proportional_attention_helps",
            "Attention proportional to sizes is better than attention that ignores them, off the shelf; PiToMe's code leaves it out.",
            {
                "tome": gain("tome", "tome/other-sizes").mean(axis=1),
                "pitome": gain("pitome/other-sizes", "pitome").mean(axis=1),
            },
            "bolya2023token: section 3",
        ),
        claim(
            "spectrum_predicts_error",
            "Ways of merging whose first layer is spectrally nearer to the original leave CLS nearer to the unreduced one.",
            {f"ratio {results['picture_ratio']}": ranks},
            "tran2024accelerating: theorem on spectral distance",
            above(0.5),
            "Spearman's correlation over ways of merging",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """The error of CLS, or accuracy, and of the dense map against FLOPs; spectral distance; groups over two photographs."""
    arms, ratios, worlds = Arms(results), results["ratios"], results["worlds"]
    with styled():
        drawn = Figure(figsize=(15, 3.2 * len(worlds) + 9.2), layout="constrained")
        upper, middle, lower = drawn.subfigures(3, 1, height_ratios=(3.2 * len(worlds) + 0.8, 2.9, 5.5))
        panels = upper.subplots(len(worlds), len(PANELS), squeeze=False)
        for row, world in zip(panels, worlds, strict=True):
            labelled = world != "photographs"
            for panel, (title, methods) in zip(row, PANELS.items(), strict=True):
                there = {name: arms[f"{world}/{name}", "kept"] for name in methods if f"{world}/{name}" in arms}
                chosen = {SHOWN[name]: kept if labelled else 1 - kept for name, kept in there.items()}
                lines(panel, results["flops"][world], chosen)
                panel.set(title=f"{world}: {title}", xlabel="FLOPs, relative")
                panel.legend(fontsize=7.5)
                if not labelled:
                    panel.set_yscale("log")
            row[0].set_ylabel("accuracy" if labelled else "1 - cosine of CLS")
        sizes, dense, spectrum, found = middle.subplots(1, 4, width_ratios=(1.3, 1.3, 1, 1))
        other = {}
        for method, label in OTHER_SIZES.items():
            other[SHOWN[method]] = 1 - arms[f"photographs/{method}", "kept"]
            other[label] = 1 - arms[f"photographs/{method}/other-sizes", "kept"]
        names = [name for name in ("tome", "pitome", "dct", *PRUNING) if f"photographs/{name}" in arms]
        maps = {SHOWN[name]: 1 - arms[f"photographs/{name}", "map"] for name in names}
        for panel, drawn_lines, title, error in (
            (sizes, other, "sizes in attention", "1 - cosine of CLS"),
            (dense, maps, "map of the dense head", "mean absolute difference"),
        ):
            lines(panel, results["flops"]["photographs"], drawn_lines)
            panel.set(title=title, xlabel="FLOPs, relative", ylabel=error, yscale="log")
            panel.set_ylim(bottom=panel.get_ylim()[0] / 8)
            panel.legend(fontsize=6.5, loc="lower left")
        place = ratios.index(results["picture_ratio"])
        merging = [name for name in SHOWN if METHODS[name].merges and f"photographs/{name}" in arms]
        for number, name in enumerate(merging):
            x, y = arms[f"photographs/{name}", "distance"], 1 - arms[f"photographs/{name}", "kept"][:, place]
            marker = "os^D"[number // len(PALETTE)]
            spectrum.plot(
                x, y, marker, color=PALETTE[number % len(PALETTE)], markersize=3, alpha=0.6, label=SHOWN[name]
            )
        spectrum.set(xlabel="spectral distance, first layer", ylabel="1 - cosine of CLS", yscale="log")
        spectrum.set_title(f"photographs, ratio {results['picture_ratio']}")
        legend_beside(spectrum)
        least = {SHOWN[name]: arms[f"photographs/{name}", "retrieved"][:, -1] for name in names}
        dots(found, {"unreduced": results["unreduced"]["photographs"], **least})
        found.set(title=f"found again, ratio {ratios[-1]}", xlabel="share of cuts; mean, 95 % interval")
        draw_pictures(lower, results["pictures"], SHOWN)
    return drawn
