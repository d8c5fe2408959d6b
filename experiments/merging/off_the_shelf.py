"""Accuracy, FLOPs, wall clock and spectral distance of 16 methods of token reduction on trained Vision Transformers, with no training.

Tran et al. 2024 (arXiv 2405.16148), off-the-shelf image classification; method card token-merging, small reproduction 2. A small ViT on
generated glyphs (64 patches) and one on the digits of scikit-learn (a token for each of 64 pixels), several seeds each. A schedule of ratio
r leaves r of the patches after every layer, for every method alike: all rows of one ratio cost the same. FLOPs are multiply-adds of the
blocks, relative to the unreduced model. Speed is the throughput of the jitted forward pass relative to the unreduced one, measured beside
it: with models this small, matching takes a share that it does not take in a large one. The spectral distance is that of the first layer's
partition, on the graph of its keys without CLS. Where it matters, attention is proportional to sizes.
"""

from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.harness.claims import Claim, Interval, above, below, every, interval
from experiments.harness.style import GREY, reference, styled
from experiments.harness.workspace import Workspace
from experiments.merging.methods import NAMES, PARTITIONS
from experiments.merging.methods import PAPER as PAPER
from experiments.merging.reduced_vision import BATCH, Bench, cost
from experiments.merging.source_tracking import draw_groups, draw_image
from experiments.subjects.glyph_classifiers import (
    DEIT_S,
    DIGITS,
    GLYPHS,
    VisionSubject,
    held_out,
    one_seed,
    tiny,
    vision_models,
)
from experiments.subjects.published_classifiers import PublishedModel, open_published
from lexinv.data.glyphs import GlyphConfig
from lexinv.nn.vision_transformer import VisionConfig
from lexinv.validation import choose, require

SOURCE = "Tran et al. 2024, off-the-shelf image classification"
CARD = "method card token-merging"

UNWEIGHTED = ("tome", "pitome")
"""Methods that are also run with attention that ignores sizes."""
PITOME = ("pitome", "pitome_ordered")
PUBLISHED = ("tome", "tofu", "diffrate", "pitome")
"""Those that the paper's table has beside DCT."""
OTHERS = ("tome", "random_bipartite", "pitome", "pitome_ordered", "pitome_paper", "tofu", "diffrate", "complete_graph")
OTHERS += ("mctf",)
"""The merging methods, which the inverted energy is compared with."""
DRAWN = ("tome", "pitome", "pitome_inverted", "prune_cls")
FEW = ("tome", "random_bipartite", "pitome", "pitome_ordered", "pitome_inverted", "tofu", "dct", "diffrate")
FEW += ("prune_cls", "prune_random")
"""The methods on digits."""
NEEDED = {*UNWEIGHTED, "pitome_inverted", "dct", "prune_random"}
COMPRESSED = 0.85
"""Ratios up to this one are those where methods are told apart."""


@dataclass(frozen=True)
class Config:
    """few, digit_ratios: methods and ratios (falling) on digits; the ratios also of the runs without proportional attention.

    images, test_digits: to judge on, per seed.

    published: models of others, compared as on digits. They have one set of weights, and their seeds are sets of images.

    spectra: images per seed whose graphs are looked at. repeats: timed passes. picture_ratio: of the drawn groups.
    """

    glyphs: VisionSubject = GLYPHS
    digits: VisionSubject = DIGITS
    methods: tuple[str, ...] = tuple(NAMES)
    few: tuple[str, ...] = FEW
    ratios: tuple[float, ...] = (0.95, 0.9, 0.85, 0.8, 0.7, 0.6)
    digit_ratios: tuple[float, ...] = (0.9, 0.8, 0.6)
    images: int = 1280
    test_digits: int = 768
    spectra: int = 32
    repeats: int = 5
    picture_ratio: float = 0.8
    published: tuple[PublishedModel, ...] = ()

    def __post_init__(self):
        for field in ("methods", "few"):
            chosen = getattr(self, field)
            for name in chosen:
                choose(field, name, tuple(NAMES))
            whole = set(chosen) >= NEEDED and len(set(chosen)) == len(chosen)
            require(whole, field, chosen, f"at least {', '.join(sorted(NEEDED))}, each once")
        for field in ("ratios", "digit_ratios"):
            ratios = getattr(self, field)
            falling = all(a > b for a, b in pairwise(ratios))
            require(falling and all(0 < r < 1 for r in ratios), field, ratios, "numbers between 0 and 1, falling")
            require(ratios[-1:] and ratios[-1] <= COMPRESSED, field, ratios, f"one of them up to {COMPRESSED}")
        require(set(self.digit_ratios) <= set(self.ratios), "digit_ratios", self.digit_ratios, f"some of {self.ratios}")
        require(self.picture_ratio in self.ratios, "picture_ratio", self.picture_ratio, f"one of {self.ratios}")
        names = [published.name for published in self.published]
        once = len({*names, "glyphs", "digits"}) == len(names) + 2
        require(once, "published.name", names, "each name once, none of our own data's")
        for published in self.published:
            require(published.images % BATCH == 0, "published.images", published.images, f"a multiple of {BATCH}")
        for field in ("images", "test_digits"):
            whole = getattr(self, field) > 0 and getattr(self, field) % BATCH == 0
            require(whole, field, getattr(self, field), f"a positive multiple of {BATCH}")
        require(1 <= self.spectra <= BATCH, "spectra", self.spectra, f"from 1 to {BATCH} images")
        require(self.repeats >= 1, "repeats", self.repeats, "at least 1")
        same = self.glyphs.training.seeds == self.digits.training.seeds
        require(same, "digits.training.seeds", self.digits.training.seeds, "those of the glyphs")


PRESETS = {
    "smoke": Config(
        glyphs=tiny(GLYPHS),
        digits=tiny(DIGITS),
        methods=tuple(sorted(NEEDED)),
        few=tuple(sorted(NEEDED)),
        ratios=(0.8,),
        digit_ratios=(0.8,),
        images=64,
        test_digits=64,
        spectra=2,
        repeats=1,
    ),
    "quick": Config(
        glyphs=one_seed(GLYPHS),
        digits=one_seed(DIGITS),
        methods=tuple(sorted(NEEDED)),
        few=tuple(sorted(NEEDED)),
        ratios=(0.9, 0.8, 0.6),
        images=640,
    ),
    "cpu": Config(),
    "paper": Config(
        glyphs=replace(
            GLYPHS,
            glyphs=GlyphConfig(size=224, patch=16, cell=1, classes=17),
            model=VisionConfig(size=224, patch=16, classes=17, layers=DEIT_S),
            training=replace(GLYPHS.training, steps=20000, batch_size=256),
        ),
        ratios=(0.975, 0.95, 0.925, 0.9, 0.85),
        digit_ratios=(0.95, 0.9, 0.85),
        images=9984,
        picture_ratio=0.9,
        published=tuple(
            PublishedModel(name, folder, heads, images=1984)
            for name, folder, heads in (
                ("DeiT-T", "deit-tiny", 3),
                ("DeiT-S", "deit-small", 6),
                ("DeiT-B", "deit-base", 12),
                ("MAE-L", "mae-large-finetuned", 16),
                ("MAE-H", "mae-huge-finetuned", 16),
            )
        ),
    ),
}


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Per data set and method, [ratios][seeds]: accuracy and spectral distance, and [ratios] the speed-up."""
    seeds, subjects = config.glyphs.training.seeds, {}
    arms, corpora, benches, pictures = {}, {}, {}, []
    for published in config.published:  # a folder that holds no model is refused before anything is trained
        found = open_published(published, len(seeds))
        corpora[published.name] = found.fingerprint
        bench = Bench(found.model, [found.params] * len(seeds), found.images, config.spectra, config.repeats)
        benches[published.name] = bench, config.few, config.digit_ratios
    own = {
        "glyphs": (config.glyphs, config.methods, config.ratios, config.images),
        "digits": (config.digits, config.few, config.digit_ratios, config.test_digits),
    }
    for name, (subject, methods, ratios, count) in own.items():
        models = vision_models(subject, workspace)
        arms[name] = models.origin
        images = [held_out(subject, seed, count) for seed in seeds]
        bench = Bench(subject.model, models.params, images, config.spectra, config.repeats)
        benches[name] = bench, methods, ratios
    for name in (*own, *corpora):
        bench, methods, ratios = benches[name]
        costs = [cost(bench.model, bench.schedule(ratio)) for ratio in ratios]
        found: dict[str, Any] = {
            "base": workspace.cached(f"{name}/base", partial(bench.accuracies, bench.plain)),
            "ratios": list(ratios),
            "flops": [round(value, 4) for value in costs],
            "methods": {},
            "unweighted": {},
        }
        for method in methods:
            compute = partial(bench.measure, method, ratios)
            found["methods"][method] = workspace.cached(f"{name}/{method}", compute)
        for method in UNWEIGHTED:
            compute = partial(bench.measure, method, config.digit_ratios, False)
            found["unweighted"][method] = workspace.cached(f"{name}/{method}-unweighted", compute)
        if name == "glyphs":
            shown = tuple(method for method in DRAWN if method in config.methods)
            pictures = workspace.cached("pictures", partial(bench.pictures, shown, config.picture_ratio))
        subjects[name] = found
    return {
        "corpora": workspace.pinned("published", corpora),
        "seeds": list(seeds),
        "arms": arms,
        "unweighted_ratios": list(config.digit_ratios),
        "subjects": subjects,
        "pictures": pictures,
    }


def values(results: dict[str, Any], data: str, method: str, what: str = "accuracy") -> np.ndarray:
    """[ratios, seeds]; [ratios] for speed. The method "base" is the unreduced model, the same at every ratio."""
    found = results["subjects"][data]
    if method == "base":
        return np.tile(found["base"], (len(found["ratios"]), 1))
    return np.array(found["methods"][method][what])


def among(results: dict[str, Any], data: str, methods: tuple[str, ...]) -> list[str]:
    """Those of the methods that were run on the data."""
    return [method for method in methods if method in results["subjects"][data]["methods"]]


def gains(results: dict[str, Any], data: str, method: str, other: str) -> dict[str, Interval]:
    """By ratio, the accuracy of a method less another's, paired by seed."""
    difference = values(results, data, method) - values(results, data, other)
    return {
        f"{data}, {ratio}": interval(row)
        for ratio, row in zip(results["subjects"][data]["ratios"], difference, strict=True)
    }


def compressed(results: dict[str, Any], data: str, method: str, what: str = "accuracy") -> np.ndarray:
    """[seeds]: the mean over the ratios up to COMPRESSED."""
    chosen = np.array(results["subjects"][data]["ratios"]) <= COMPRESSED
    return values(results, data, method, what)[chosen].mean(axis=0)


def best_variant(results: dict[str, Any], other: str, margin: float) -> tuple[str, dict[str, Interval], bool | None]:
    """(variant of PiToMe, its gains over the other method on both data sets, whether every one is above the margin).

    The variant is one for all ratios and data sets: the first that passes, otherwise the one with the best worst gain.
    """
    found = {}
    for variant in among(results, "digits", PITOME):
        gain = {
            key: value for data in results["subjects"] for key, value in gains(results, data, variant, other).items()
        }
        found[variant] = gain, every(above(value, margin) for value in gain.values())
    name = next((name for name, (_, verdict) in found.items() if verdict), None)
    name = name or max(found, key=lambda name: min(value.mean for value in found[name][0].values()))
    return name, *found[name]


def cheapest_gain(results: dict[str, Any], data: str) -> tuple[float, float, Interval]:
    """(ratio, its FLOPs, accuracy lost by PiToMe) at the mildest ratio that saves 40 % of FLOPs; the last where none does."""
    found = results["subjects"][data]
    index = next((i for i, cost in enumerate(found["flops"]) if cost <= 0.6), len(found["flops"]) - 1)
    lost = np.array(found["base"]) - values(results, data, "pitome")[index]
    return found["ratios"][index], found["flops"][index], interval(lost)


def spectrum_and_loss(results: dict[str, Any], data: str) -> list[float]:
    """By seed: Spearman's correlation over merging methods of spectral distance and accuracy lost, mean of ratios up to COMPRESSED."""
    from scipy.stats import spearmanr

    chosen = np.array(results["subjects"][data]["ratios"]) <= COMPRESSED
    names = among(results, data, (*OTHERS, "pitome_inverted"))
    distance, right = (
        np.stack([values(results, data, name, what)[chosen] for name in names]) for what in ("distance", "accuracy")
    )

    def correlation(distance: np.ndarray, right: np.ndarray) -> float:
        same = np.ptp(distance) == 0 or np.ptp(right) == 0  # then there is no rank, and nothing told
        return 0.0 if same else float(spearmanr(distance, -right).statistic)

    _, ratios, seeds = right.shape
    return [
        float(np.mean([correlation(distance[:, r, s], right[:, r, s]) for r in range(ratios)])) for s in range(seeds)
    ]


def claims(results: dict[str, Any]) -> list[Claim]:
    """The card's orderings at equal FLOPs, proportional attention, the spectrum, and the models' own accuracy."""
    subjects = results["subjects"]
    base = {data: interval(found["base"]) for data, found in subjects.items()}
    variant, over_tome, not_below = best_variant(results, "tome", -0.005)
    control, over_random, above_random = best_variant(results, "prune_random", 0.0)
    worst = {
        f"{data}, {name}": interval(compressed(results, data, name) - compressed(results, data, "pitome_inverted"))
        for data in subjects
        for name in among(results, data, OTHERS)
    }
    last = {
        f"{data}, {name}": interval(compressed(results, data, name) - compressed(results, data, "dct"))
        for data in subjects
        for name in among(results, data, PUBLISHED)
    }
    saved = {data: cheapest_gain(results, data) for data in subjects}
    weighted = {}
    for data, found in subjects.items():
        rows = [found["ratios"].index(ratio) for ratio in results["unweighted_ratios"]]
        for name in UNWEIGHTED:
            without = np.array(found["unweighted"][name]["accuracy"])
            weighted[f"{data}, {name}"] = interval((values(results, data, name)[rows] - without).mean(axis=0))
    closer = {
        data: interval(
            (values(results, data, "tome", "distance") - values(results, data, "pitome", "distance")).mean(axis=0)
        )
        for data in subjects
    }
    tells = {data: interval(spectrum_and_loss(results, data)) for data in subjects}
    averaged = f"(measured: accuracy, mean of ratios up to {COMPRESSED})"
    return [
        Claim(
            "base_models_are_right",
            "The unreduced models know their task (measured: accuracy).",
            CARD,
            None,
            base,
            "every whole interval above 0.95",
            every(above(value, 0.95) for value in base.values()),
        ),
        Claim(
            "pitome_not_below_tome",
            "Off the shelf, at equal FLOPs, PiToMe is no worse than ToMe at any ratio (measured: gain in accuracy of the same variant "
            f"at all ratios; here {NAMES[variant][0]}).",
            SOURCE,
            "above: DeiT-S 79.1 against 77.7 %, DeiT-T 70.8 against 68.9 %",
            over_tome,
            "every whole interval above -0.005",
            not_below,
        ),
        Claim(
            "pitome_above_random_pruning",
            f"PiToMe is better than pruning at random at every ratio (measured: gain in accuracy; here {NAMES[control][0]}).",
            CARD,
            None,
            over_random,
            "every whole interval above 0",
            above_random,
        ),
        Claim(
            "inverted_energy_worst",
            f"With the energy inverted PiToMe is clearly worse than every merging method: the energy decides {averaged}.",
            CARD,
            None,
            worst,
            "every whole interval above 0.01",
            every(above(value, 0.01) for value in worst.values()),
        ),
        Claim(
            "dct_last",
            f"Of the paper's methods, cutting high frequencies (DCT) loses most {averaged}.",
            SOURCE,
            "last with DeiT-T and DeiT-S: 67.6 and 74.8 %",
            last,
            "every whole interval above 0",
            every(above(value, 0.0) for value in last.values()),
        ),
        Claim(
            "pitome_saves_flops",
            "PiToMe saves 40 % of the FLOPs for a loss below one point (measured: accuracy lost at the mildest ratio that saves as much).",
            "Tran et al. 2024, abstract",
            "40 to 60 % saved, 0.5 points lost (ViT-MAE-H)",
            {f"{data}, ratio {ratio}, FLOPs {cost}": lost for data, (ratio, cost, lost) in saved.items()},
            "every whole interval below 0.01, FLOPs at most 0.6",
            every(verdict for _, cost, lost in saved.values() for verdict in (below(lost, 0.01), cost <= 0.6)),
        ),
        Claim(
            "proportional_attention_helps",
            "Attention proportional to sizes is better than attention that ignores them, off the shelf (measured: gain in accuracy, mean "
            f"of ratios {', '.join(map(str, results['unweighted_ratios']))}).",
            "Bolya et al. 2023, section 3; the released PiToMe code leaves it out",
            None,
            weighted,
            "every whole interval above 0",
            every(above(value, 0.0) for value in weighted.values()),
        ),
        Claim(
            "pitome_keeps_the_spectrum_better",
            "In a trained model's first layer PiToMe's spectral distance is below ToMe's (measured: ToMe's less PiToMe's, mean of ratios).",
            "Tran et al. 2024, theorem on spectral distance",
            None,
            closer,
            "every whole interval above 0",
            every(above(value, 0.0) for value in closer.values()),
        ),
        Claim(
            "spectrum_tells_accuracy",
            "Methods with a larger spectral distance in the first layer lose more accuracy (measured: rank correlation over merging "
            f"methods, mean of ratios up to {COMPRESSED}).",
            "our question; the paper's motivation",
            None,
            tells,
            "every whole interval above 0",
            every(above(value, 0.0) for value in tells.values()),
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Accuracy against FLOPs on every data set; speed-up against FLOPs; spectral distance against accuracy; groups over two images."""
    with styled():
        rows = -(-(len(results["subjects"]) + 2) // 2)
        drawn = Figure(figsize=(10.2, 4.2 + 3.5 * rows), layout="constrained")
        upper, lower = drawn.subfigures(2, 1, height_ratios=(0.85 * rows, 1.0))
        panels = list(upper.subplots(rows, 2).flat)
        first, (speeds, spectra) = panels[0], panels[len(results["subjects"]) :][:2]
        for spare in panels[len(results["subjects"]) + 2 :]:
            spare.remove()
        for panel, (data, found) in zip(panels, results["subjects"].items(), strict=False):
            for method in found["methods"]:
                label, color = NAMES[method]
                mean = values(results, data, method).mean(axis=1)
                panel.plot(found["flops"], mean, label=label, color=color, **style(method))
            for method, runs in found["unweighted"].items():
                flops = [found["flops"][found["ratios"].index(r)] for r in results["unweighted_ratios"]]
                label, color = NAMES[method]
                mean = np.mean(runs["accuracy"], axis=1)
                panel.plot(flops, mean, "x:", color=color, linewidth=1, label=f"{label}, sizes ignored")
            reference(panel, float(np.mean(found["base"])), "unreduced")
            panel.set(xlabel="FLOPs, relative", ylabel="accuracy, mean of seeds", title=f"{data}: off the shelf")
        for method in results["subjects"]["glyphs"]["methods"]:
            speed = values(results, "glyphs", method, "speed")
            speeds.plot(results["subjects"]["glyphs"]["flops"], speed, color=NAMES[method][1], **style(method))
        flops = np.array(results["subjects"]["glyphs"]["flops"])
        speeds.plot(flops, 1 / flops, color=GREY, linestyle="--", linewidth=1, label="what FLOPs promise")
        speeds.set(xlabel="FLOPs, relative", ylabel="throughput, relative", title="glyphs: wall clock of a tiny model")
        speeds.legend()
        for method in results["subjects"]["glyphs"]["methods"]:
            if method in PARTITIONS:
                label, color = NAMES[method]
                distance, right = (
                    compressed(results, "glyphs", method, what).mean() for what in ("distance", "accuracy")
                )
                spectra.plot(distance, right, "o", color=color, markersize=6)
                spectra.annotate(label, (distance, right), (4, 3), textcoords="offset points", fontsize=7)
        spectra.margins(x=0.2)
        spectra.set(
            xlabel=f"spectral distance in the first layer, ratios up to {COMPRESSED}",
            ylabel="accuracy, same ratios",
            title="glyphs: spectrum and accuracy",
        )
        first.legend(fontsize=6.5, ncols=2, loc="lower right")
        pictures = results["pictures"]
        rows = lower.subplots(len(pictures), 1 + len(pictures[0]["groups"]), squeeze=False)
        for row, picture in zip(rows, pictures, strict=True):
            image = np.array(picture["image"], np.uint8)
            draw_image(row[0], image)
            row[0].set_title(f"class {picture['label']}", fontsize=9)
            for panel, (method, groups) in zip(row[1:], picture["groups"].items(), strict=True):
                draw_groups(panel, image, np.array(groups))
                panel.set_title(NAMES[method][0], fontsize=9)
    return drawn


def style(method: str) -> dict[str, Any]:
    """Pruning dashed, merging solid."""
    pruning = method.startswith("prune") or method in ("diversity", "pivot")
    return {"marker": "o", "markersize": 3, "linewidth": 1.3, "linestyle": "--" if pruning else "-"}
