"""Zero-TPrune, its ablations and its rivals at equal FLOPs on DINOv2-S and photographs, and a random search of where to prune.

Wang et al. 2024; method card zero-tprune. Nothing is trained: all methods remove as many tokens in the same few layers and cost the
same. The error of an image is 1 less the cosine of its CLS with that of the unreduced model, by photograph the mean of its cuts; it spans
decades over photographs, so that methods are compared by ln of the ratio of their errors.
The published head filter keeps heads whose scores, of mean 1, have a variance in [0.01, 0.7]; stages are compared with all heads.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.figures import legend_beside, lines
from experiments.harness.presets import presets
from experiments.harness.style import panels, styled
from experiments.harness.verdicts import OURS, Claim, above
from experiments.harness.workspace import Workspace
from experiments.subjects.pretrained_vision import (
    cuts,
    dinov2_small,
    fingerprint,
    open_pretrained_vision,
    photographs,
    tiny,
    untrained,
)
from experiments.subjects.reduced_views import World, log_gain, measure_in
from experiments.subjects.reduced_vision import Schedule, at_flops, flops
from lexinv.merging.methods import reductions
from lexinv.merging.schedules import staged_schedules
from lexinv.nn.vision_transformer import Encoded, VisionConfig, encode
from lexinv.validation import Checked, Count, Fraction, Fractions, Share

PAPERS = ("wang2024zerotprune",)
ABLATION = "wang2024zerotprune: ablation"
RIVALS = {
    "zero_tprune": "Zero-TPrune, published filter",
    "zero_tprune_all_heads": "Zero-TPrune, all heads",
    "prune_received": "attention received",
    "prune_cls": "CLS attention",
    "prune_even": "every so many",
    "prune_random": "random",
    "tome": "ToMe",
}
STAGES = {
    "zero_tprune_all_heads": "all heads",
    "zero_tprune": "published filter",
    "zero_tprune_mean": "mean not RMS",
    "zero_tprune_no_similarity": "no S-stage",
    "zero_tprune_importance_first": "I before S",
    "prune_received": "attention received, no S-stage",
}
METHODS = tuple({**RIVALS, **STAGES})


class Pruning(NamedTuple):
    """Where and how much. schedule: tokens removed by each layer. similar: the share of them that the S-stage drops."""

    schedule: Schedule
    similar: float


@functools.cache
def schedule_in(model: VisionConfig, kept_flops: float, layers: tuple[tuple[int, float], ...]) -> Schedule:
    """The schedule in these layers, each with its exponent (`staged_schedules`), whose FLOPs are nearest to the share `kept_flops`."""
    return at_flops(model, partial(staged_schedules, layers=dict(layers)), kept_flops)


@dataclass(frozen=True)
class Config(Checked):
    """pretrained: DINOv2-S, or else a tiny untrained model that shows nothing but that all runs. size: of the images, in pixels.

    cuts: of each photograph to judge on. kept_flops: shares of all blocks' FLOPs, falling. layers: that prune, the first being 0; all keep
    the same share of their patches. similar: the share of the removed tokens that the S-stage drops, about the paper's [recalled,
    unverified]. searched: random configurations at `search_flops`, chosen among on as many other cuts.
    """

    pretrained: bool = True
    size: Count = 224
    cuts: Count = 4
    kept_flops: Fractions = (0.8, 0.65, 0.5)
    layers: tuple[int, ...] = (1, 3, 6, 9)
    similar: Share = 1 / 3
    searched: Count = 6
    search_flops: Fraction = 0.5

    def checks(self):
        yield self.size % 14 == 0, "size", "a multiple of DINOv2's patch, 14 pixels"
        yield all(a > b for a, b in pairwise(self.kept_flops)), "kept_flops", "falling"
        yield 0 < self.similar <= 0.5, "similar", "above 0 and at most half"
        model = self.model
        rising = all(a < b for a, b in pairwise(self.layers))
        inside = len(self.layers) >= 1 and rising and self.layers[0] >= 0 and self.layers[-1] < model.layers.depth - 1
        yield inside, "layers", f"one or more from 0 to {model.layers.depth - 2}, rising: the last has little to save"
        for field, shares in (("kept_flops", self.kept_flops), ("search_flops", (self.search_flops,))):
            schedules = [self.pruning(share).schedule for share in shares]
            near = all(abs(flops(model, s) - share) <= 0.01 for s, share in zip(schedules, shares, strict=True))
            yield near, field, f"what layers {self.layers} reach to within 0.01"
            fits = all(removed <= (model.patches - sum(s[:i])) // 2 for s in schedules for i, removed in enumerate(s))
            yield fits, field, f"more: ToMe cannot remove more than half in each of layers {self.layers}"

    @property
    def model(self) -> VisionConfig:
        return dinov2_small(self.size) if self.pretrained else tiny(self.size)

    def pruning(self, kept_flops: float) -> Pruning:
        """All methods' token counts for a share of the FLOPs."""
        layers = tuple((layer, 1.0) for layer in self.layers)
        return Pruning(schedule_in(self.model, kept_flops, layers), self.similar)


PRESETS = presets(
    Config(),
    smoke={
        "pretrained": False,
        "size": 112,
        "cuts": 1,
        "kept_flops": (0.8,),
        "layers": (0,),
        "searched": 1,
        "search_flops": 0.8,
    },
    paper={"cuts": 64, "kept_flops": (0.9, 0.8, 0.7, 0.6, 0.5), "searched": 100},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By method what is kept [photographs, budgets]; `search/n`: of a random configuration, on the cuts to judge on and on others."""
    found = photographs()
    units = range(len(found))
    opened = open_pretrained_vision(workspace, config.size) if config.pretrained else untrained(config.size)
    prunings = [config.pruning(share) for share in config.kept_flops]
    tried = [config.pruning(config.search_flops), *draw_prunings(opened.model, config.search_flops, config.searched, 0)]

    def world(seed: int) -> World:
        images, _ = cuts(list(found.values()), config.cuts, config.size, seed)
        return World(opened.model, opened.params, images.reshape(len(found), config.cuts, *images.shape[1:]))

    judged, calibration = world(seed=0), world(seed=1)

    def views(arm: str) -> list[Callable[[Any], Encoded]]:
        if arm in METHODS:
            return [pruned(judged, arm, pruning) for pruning in prunings]
        return [pruned(judged, "zero_tprune_all_heads", tried[int(arm.split("/")[1])])]

    searches = {kind: [f"{kind}/{number}" for number in range(len(tried))] for kind in ("search", "calibration")}
    arms = measured(workspace, [*METHODS, *searches["search"]], units, measure_in(judged, views))
    arms |= measured(workspace, searches["calibration"], units, measure_in(calibration, views))
    return {
        "corpora": workspace.pinned("images", fingerprint(found)),
        "seeds": list(units),
        "photographs": list(found),
        "kept_flops": [round(flops(opened.model, pruning.schedule), 4) for pruning in prunings],
        "schedules": [list(pruning.schedule) for pruning in prunings],
        "configurations": [[list(pruning.schedule), pruning.similar] for pruning in tried],
        "arms": arms,
    }


def pruned(world: World, method: str, pruning: Pruning) -> Callable[[Any], Encoded]:
    """The model in which the method prunes so."""
    model, key = world.model, jax.random.key(0)
    layers = reductions(method, pruning.schedule, model.layers.depth, model.protected, key, similar=pruning.similar)
    see = jax.jit(lambda params, images: encode(model, params, images, layers))
    return partial(see, world.params)


def draw_prunings(model: VisionConfig, kept_flops: float, number: int, seed: int) -> list[Pruning]:
    """Random configurations of about these FLOPs (within 0.01): two to four layers but the last, how much in each, and the share of S."""
    rng, drawn = np.random.default_rng(seed), []
    while len(drawn) < number:
        most = min(4, model.layers.depth - 1)
        layers = rng.choice(model.layers.depth - 1, size=rng.integers(min(2, most), most + 1), replace=False)
        exponents = rng.dirichlet(np.ones(len(layers))) * len(layers)
        chosen = tuple(zip(layers.tolist(), exponents.tolist(), strict=True))
        pruning = Pruning(schedule_in(model, kept_flops, chosen), round(float(rng.uniform(0, 0.5)), 3))
        if abs(flops(model, pruning.schedule) - kept_flops) <= 0.01:
            drawn.append(pruning)
    return drawn


def claims(results: dict[str, Any]) -> list[Claim]:
    """The method against its rivals, with and without its head filter; its stages, with all heads; the search. Means over budgets."""
    arms, budgets = Arms(results), results["kept_flops"]
    full, whole, alone = "zero_tprune", "zero_tprune_all_heads", "zero_tprune_no_similarity"
    unit, over = "ln of the ratio of errors, 1 less the cosine of CLS", "photographs"

    def lead(method: str, other: str) -> np.ndarray:
        """[photographs, budgets]: ln of the other's error over the method's."""
        return log_gain(arms[method, "kept"], arms[other, "kept"])

    rivals = {RIVALS[other]: other for other in ("prune_cls", "prune_received", "prune_even", "prune_random")}
    search, calibration = (
        np.stack([log_gain(arms[f"{kind}/{n}", "kept"][:, 0], 0.0) for n in range(len(results["configurations"]))])
        for kind in ("search", "calibration")
    )
    best = int(calibration.mean(axis=1).argmax())
    gain = "on ImageNet (from reading notes, unverified)"
    return [
        Claim(
            "zero_tprune_above_pruning",
            "Zero-TPrune keeps more than pruning by CLS attention, by the attention received, evenly, or at random.",
            "wang2024zerotprune",
            {label: lead(full, other).mean(axis=1) for label, other in rivals.items()},
            above(0),
            unit,
            over=over,
        ),
        Claim(
            "all_heads_above_pruning",
            "So does Zero-TPrune without its head filter.",
            OURS,
            {label: lead(whole, other).mean(axis=1) for label, other in rivals.items()},
            above(0),
            unit,
            over=over,
        ),
        Claim(
            "zero_tprune_above_its_ablations",
            "Every stage helps: heads of low and of high variance dropped, the root mean square over heads, similar tokens dropped.",
            ABLATION,
            {
                "head filter": lead(full, whole).mean(axis=1),
                "RMS not mean": lead(whole, "zero_tprune_mean").mean(axis=1),
                "S-stage": lead(whole, alone).mean(axis=1),
            },
            above(0),
            unit,
            f"+0.3 points for filter and root mean square together, +0.5 for the S-stage, {gain}",
            over,
        ),
        Claim(
            "pagerank_above_column_mean",
            "Importance by PageRank beats the mean attention that a token receives, all heads, no S-stage.",
            OURS,
            {"PageRank less one vote": lead(alone, "prune_received").mean(axis=1)},
            above(0),
            unit,
            over=over,
        ),
        Claim(
            "i_prime_s_i_not_below_i_s",
            "Similarity before importance is not worse than after it.",
            "wang2024zerotprune: order of the stages",
            {"before less after": lead(whole, "zero_tprune_importance_first").mean(axis=1)},
            above(-0.05),
            unit,
            over=over,
        ),
        Claim(
            "tome_above_at_half",
            f"Under the most aggressive reduction merging is better ({budgets[-1]:.2f} of the FLOPs).",
            "wang2024zerotprune: limits",
            {"ToMe": lead("tome", full)[:, -1]},
            above(0),
            unit,
            "admitted for large models and a reduction by half",
            over,
        ),
        Claim(
            "search_beats_default",
            f"Of {len(search)} configurations the best on other cuts beats the default one.",
            "wang2024zerotprune: Monte-Carlo sampling of configurations",
            {"best less default": search[best] - search[0]},
            above(0),
            unit,
            over=over,
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """The error of CLS against FLOPs, of the rivals and of the stages."""
    arms, shares = Arms(results), results["kept_flops"]
    drawn, axes = panels(1, 2, width=5.6, height=3.8)
    with styled():
        for panel, (title, labels) in zip(axes, {"rivals": RIVALS, "stages": STAGES}.items(), strict=True):
            lines(panel, shares, {label: 1 - arms[name, "kept"] for name, label in labels.items()})
            panel.set(title=title, xlabel="share of the FLOPs", yscale="log")
            panel.set_ylabel("1 - cosine of CLS, mean and range of photographs")
            legend_beside(panel)
    return drawn
