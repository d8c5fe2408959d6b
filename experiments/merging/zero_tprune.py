"""Zero-TPrune, its ablations and its rivals at equal FLOPs on small Vision Transformers, and a random search of where to prune.

Wang et al. 2024. The shared models on a small glyph with a distractor and on a large one that covers most patches are pruned without
training: all methods remove as many tokens in the same layers, so that all cost the same.

The head filter keeps heads whose scores have a variance in the published limits, [0.01, 0.7]. They do not carry over to such small models:
here a head that looks at the glyph gives all its attention to a few patches, has a variance far above 0.7, and is dropped, and what is left
ranks the background first. The stages are therefore compared with all heads.
"""

import functools
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, by, measured
from experiments.harness.figures import legend_beside, lines
from experiments.harness.presets import presets
from experiments.harness.style import panels, reference, styled
from experiments.harness.verdicts import OURS, Claim, Rule, above
from experiments.harness.workspace import Workspace
from experiments.subjects.glyph_classifiers import (
    GLYPHS,
    LARGE,
    SUBJECTS,
    VisionSubject,
    accuracy,
    draw,
    held_out,
    one_seed,
    tiny,
    vision_models,
)
from experiments.subjects.reduced_vision import Schedule, at_flops, flops, forward
from lexinv.data.glyphs import Images
from lexinv.merging.schedules import staged_schedules
from lexinv.nn.vision_transformer import VisionConfig
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Fraction, Fractions, Share

PAPERS = ("wang2024zerotprune",)
ABLATION = "wang2024zerotprune: ablation"
RIVALS = {
    "zero_tprune": "Zero-TPrune, published filter",
    "zero_tprune_all_heads": "Zero-TPrune, all heads",
    "prune_received": "attention received",
    "prune_cls": "CLS attention",
    "tome": "ToMe",
    "prune_random": "random",
}
STAGES = {
    "zero_tprune_all_heads": "all heads",
    "zero_tprune_mean": "mean not RMS",
    "zero_tprune_no_similarity": "no S-stage",
    "zero_tprune_importance_first": "I before S",
}
CHUNK = 256
AGGRESSIVE = 0.7


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
    """small, large: what the models are trained on. kept_flops: shares of all blocks' FLOPs, falling.

    layers: that prune, the first being 0; all keep the same share of their patches. similar: the share of the removed tokens that the
    S-stage drops, about the paper's [recalled, unverified]. images: held out, per seed. searched: random configurations at `search_flops`.
    """

    small: VisionSubject = GLYPHS
    large: VisionSubject = LARGE
    kept_flops: Fractions = (0.9, 0.8, 0.7, 0.6, 0.5)
    layers: tuple[int, ...] = (1, 2, 3)
    similar: Share = 1 / 3
    images: Count = 512
    calibration: Count = 256
    searched: Count = 6
    search_flops: Fraction = 0.5

    def checks(self):
        model = self.small.model
        seeds = self.small.training.seeds
        yield self.large.model == model, "large.model", "that of `small`"
        yield self.large.training.seeds == seeds, "large.training.seeds", f"those of `small`, {seeds}"
        for name in SUBJECTS:
            yield getattr(self, name).data == "glyphs", f"{name}.data", "'glyphs'"
        depth, rising = model.layers.depth, all(a < b for a, b in pairwise(self.layers))
        inside = len(self.layers) >= 1 and rising and self.layers[0] >= 0 and self.layers[-1] < depth - 1
        yield inside, "layers", f"one or more from 0 to {depth - 2}, rising: the last has little to save"
        yield all(a > b for a, b in pairwise(self.kept_flops)), "kept_flops", "falling"
        hard = min(self.kept_flops) <= AGGRESSIVE
        yield hard, "kept_flops", f"shares up to {AGGRESSIVE}, which are judged, among them"
        yield 0 < self.similar <= 0.5, "similar", "above 0 and at most half"
        for field, shares in (("kept_flops", self.kept_flops), ("search_flops", (self.search_flops,))):
            schedules = [self.pruning(share).schedule for share in shares]
            near = all(abs(flops(model, s) - share) <= 0.01 for s, share in zip(schedules, shares, strict=True))
            yield near, field, f"what layers {self.layers} reach to within 0.01"
            fits = all(removed <= (model.patches - sum(s[:i])) // 2 for s in schedules for i, removed in enumerate(s))
            yield fits, field, f"more: ToMe cannot remove more than half in each of layers {self.layers}"

    def pruning(self, kept_flops: float) -> Pruning:
        """All methods' token counts for a share of the FLOPs."""
        layers = tuple((layer, 1.0) for layer in self.layers)
        return Pruning(schedule_in(self.small.model, kept_flops, layers), self.similar)


PRESETS = presets(
    Config(),
    smoke={
        "small": tiny(GLYPHS),
        "large": tiny(GLYPHS),  # trained once, for other experiments too
        "kept_flops": (0.65,),
        "layers": (0,),
        "images": 16,
        "calibration": 16,
        "searched": 1,
        "search_flops": 0.65,
    },
    quick={"small": one_seed(GLYPHS), "large": one_seed(LARGE), "kept_flops": (0.7, 0.6, 0.5), "searched": 2},
    paper={
        **{f"{name}.training.seeds": tuple(range(10)) for name in SUBJECTS},
        "images": 4096,
        "calibration": 1024,
        "searched": 100,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By `subject/method` accuracy [seeds, budgets]; `search/n`: accuracy [seeds] on all heads."""
    model, seeds = config.small.model, config.small.training.seeds
    models = {name: vision_models(getattr(config, name), workspace) for name in SUBJECTS}
    prunings = [config.pruning(share) for share in config.kept_flops]
    drawn = draw_prunings(model, config.search_flops, config.searched, 0)
    tried = [config.pruning(config.search_flops), *drawn]

    @functools.cache
    def images(subject: str, seed: int) -> Images:
        return held_out(getattr(config, subject), seed, config.images)

    def judge(subject: str, seed: int, own: Images, method: str, pruning: Pruning) -> float:
        return judged(models[subject][seed], own, stream(jax.random.key(seed), "pruning"), model, method, pruning)

    def sweep(arm: str, seed: int) -> dict[str, list[float]]:
        subject, method = arm.split("/")
        return {"accuracy": [judge(subject, seed, images(subject, seed), method, pruning) for pruning in prunings]}

    def search(arm: str, seed: int) -> dict[str, float]:
        chosen = "zero_tprune_all_heads", tried[int(arm.split("/")[1])]
        calibration = draw(config.small, config.calibration, stream(jax.random.key(seed), "calibration"))
        sets = {"calibration": calibration, "accuracy": images("small", seed)}
        return {name: judge("small", seed, own, *chosen) for name, own in sets.items()}

    def whole(arm: str, seed: int) -> dict[str, float]:
        subject = arm.split("/")[0]
        untouched = Pruning((0,) * model.layers.depth, 0.0)
        return {"accuracy": judge(subject, seed, images(subject, seed), "tome", untouched)}

    names = [f"{subject}/{method}" for subject in SUBJECTS for method in {**RIVALS, **STAGES}]
    return {
        "corpora": {},
        "seeds": list(seeds),
        "kept_flops": [round(flops(model, pruning.schedule), 4) for pruning in prunings],
        "schedules": [list(pruning.schedule) for pruning in prunings],
        "configurations": [[list(pruning.schedule), pruning.similar] for pruning in tried],
        "arms": {
            **measured(workspace, [f"{subject}/unpruned" for subject in SUBJECTS], seeds, whole),
            **measured(workspace, names, seeds, sweep),
            **measured(workspace, [f"search/{number}" for number in range(len(tried))], seeds, search),
        },
    }


def judged(
    params: Any, images: Images, key: Key[Array, ""], model: VisionConfig, method: str, pruning: Pruning
) -> float:
    """The accuracy of a method."""
    reduced = partial(forward, params, model=model, method=method, schedule=pruning.schedule, similar=pruning.similar)
    chunks = enumerate(range(0, len(images.labels), CHUNK))
    logits = [reduced(images.pixels[at : at + CHUNK], jax.random.fold_in(key, number))[0] for number, at in chunks]
    return round(accuracy(jnp.concatenate(logits), images.labels), 4)


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
    """The method against its rivals, with and without its head filter; then its stages, with all heads; then the search."""
    arms, budgets = Arms(results), np.array(results["kept_flops"])
    full, whole, alone = "zero_tprune", "zero_tprune_all_heads", "zero_tprune_no_similarity"
    bold = budgets <= AGGRESSIVE + 0.01

    def lead(subject: str, method: str, other: str) -> np.ndarray:
        """[seeds, budgets]."""
        return arms[f"{subject}/{method}", "accuracy"] - arms[f"{subject}/{other}", "accuracy"]

    def at_two_budgets(
        name: str, statement: str, source: str, difference: np.ndarray, published: str | None = None
    ) -> Claim:
        """One that holds where two budgets or more do."""
        parts = by([f"{share:.2f}" for share in budgets[-difference.shape[1] :]], difference)
        rule: Rule = above(0).but(max(len(parts) - 2, 0))
        return Claim(name, statement, source, parts, rule, "difference of accuracy, by share of the FLOPs", published)

    tested, calibration = (
        np.stack([arms[f"search/{n}", metric] for n in range(len(results["configurations"]))])
        for metric in ("accuracy", "calibration")
    )
    chosen = np.take_along_axis(tested, calibration.argmax(axis=0)[None], axis=0)[0]
    filtering = "Dropping heads of low and of high variance, with the published limits, helps"
    combining = "The root mean square over heads is better than the mean"
    voting = "Importance by PageRank beats the mean attention that a token receives, all heads, no S-stage"
    gain = "+0.3 points on ImageNet (from reading notes, unverified)"
    ablations = (
        ("head_filter_helps", filtering, ABLATION, full, whole, f"{gain} with the root mean square"),
        ("root_mean_square_helps", combining, ABLATION, whole, "zero_tprune_mean", f"{gain} with the head filter"),
        ("pagerank_above_column_mean", voting, OURS, alone, "prune_received", None),
    )
    return [
        *[
            at_two_budgets(
                f"{name}_above_{rival}",
                f"{what} keeps more accuracy than pruning {how} at the same FLOPs, small glyph.",
                source,
                lead("small", method, f"prune_{rival}")[:, bold],
            )
            for name, what, method, source in (
                ("full", "Zero-TPrune", full, "wang2024zerotprune"),
                ("all_heads", "Without its head filter Zero-TPrune", whole, OURS),
            )
            for rival, how in (("cls", "by CLS attention"), ("random", "at random"))
        ],
        *[
            at_two_budgets(f"{name}_{subject}", f"{what} ({title}).", source, lead(subject, method, other), published)
            for name, what, source, method, other, published in ablations
            for subject, title in SUBJECTS.items()
        ],
        at_two_budgets(
            "similarity_stage_helps_large_objects",
            "Where the object covers most patches, dropping near-duplicates first helps (all heads).",
            ABLATION,
            lead("large", whole, alone),
            "+0.5 points on ImageNet, all images (from reading notes, unverified)",
        ),
        Claim(
            "i_prime_s_i_not_below_i_s",
            "Similarity before importance is not worse than after it (all heads).",
            "wang2024zerotprune: order of the stages",
            {s: lead(s, whole, "zero_tprune_importance_first").mean(axis=1) for s in SUBJECTS},
            above(-0.01),
            "accuracy of I'-S-I less that of I-S, mean over budgets",
        ),
        Claim(
            "tome_above_at_half",
            f"Under the most aggressive reduction merging is better ({budgets[-1]:.2f} of the FLOPs).",
            "wang2024zerotprune: limits",
            {subject: lead(subject, "tome", whole)[:, -1] for subject in SUBJECTS},
            above(0),
            "accuracy of ToMe less that of all heads",
            "admitted for large models and a reduction by half",
        ),
        Claim(
            "search_beats_default",
            f"Of {len(tested)} configurations the best on calibration images beats the default one on others; choices differ by seed.",
            "wang2024zerotprune: Monte-Carlo sampling of configurations",
            {"best less default": chosen - tested[0]},
            above(0),
            "difference of accuracy, small glyph",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Accuracy against FLOPs of the rivals and of the stages, on both subjects."""
    arms, shares = Arms(results), results["kept_flops"]
    drawn, axes = panels(2, 2, width=4.2, height=3.2)
    with styled():
        for place, (subject, title) in enumerate(SUBJECTS.items()):
            for row, (labels, what) in enumerate(((RIVALS, "rivals"), (STAGES, "stages"))):
                panel = axes[2 * row + place]
                lines(panel, shares, {label: arms[f"{subject}/{name}", "accuracy"] for name, label in labels.items()})
                reference(panel, float(np.mean(arms[f"{subject}/unpruned", "accuracy"])), "not pruned")
                panel.set(title=f"{title}: {what}", xlabel="share of the FLOPs")
                panel.set_ylabel("accuracy, mean and range of seeds")
        for panel in axes[1::2]:
            legend_beside(panel)
    return drawn
