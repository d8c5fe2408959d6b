"""Zero-TPrune's stages and its rivals at equal FLOPs on small Vision Transformers, and how well DivPrune selects without any training.

Wang et al. 2024 (Zero-TPrune, arXiv 2305.17328), its ablation, and the "overwhelming of the major group"; Alvar et al. 2025 (DivPrune, arXiv
2503.02175). Method cards zero-tprune and divprune. Accuracy and rankings are those of the shared models on a small glyph with a distractor
and on a large one that covers most patches (`vision_models`), pruned without training (`pruned_vision`); a majority in constructed
attention (`majority_group`); selections of tokens without a network (`selection_quality`, `needle_questions`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.harness.claims import Claim, above, below, interval
from experiments.harness.drawn_training import DrawnTraining
from experiments.harness.style import PALETTE, band, panels, reference, styled
from experiments.harness.workspace import Workspace
from experiments.merging import majority_group, needle_questions, selection_quality
from experiments.merging.majority_group import MajorityConfig
from experiments.merging.needle_questions import NeedleConfig
from experiments.merging.pruned_vision import (
    METHODS,
    REFERENCES,
    VOTES,
    Pruning,
    draw_prunings,
    flops_share,
    random_search,
    ranking_quality,
    solve_schedule,
    sweep,
    whole_accuracy,
)
from experiments.merging.selection_quality import SelectionConfig
from experiments.merging.vision_models import GLYPHS, LARGE, VisionSubject, draw, held_out, vision_models
from lexinv.training.streams import stream
from lexinv.validation import require

PAPER = """@inproceedings{wang2024zerotprune,
  title = {Zero-{TP}rune: Zero-Shot Token Pruning through Leveraging of the Attention Graph in Pre-Trained Transformers},
  author = {Wang, Hongjie and Dedhia, Bhishma and Jha, Niraj K.},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2024},
  eprint = {2305.17328},
  archiveprefix = {arXiv}
}"""
SOURCE = "Wang et al. 2024 (Zero-TPrune)"
CARD = "method card zero-tprune"
SUBJECTS = {"small": "small glyph, distractor", "large": "large glyph"}
AGGRESSIVE = 0.7


@dataclass(frozen=True)
class Config:
    """small, large: what the models are trained on. kept_flops: shares of all blocks' FLOPs, falling.

    layers: that prune, the first being 0; all keep the same share of their patches. similar: the share of the removed tokens that the
    S-stage drops, about the paper's [recalled, unverified]. images: held out, per seed. searched: random configurations at `search_flops`.
    """

    small: VisionSubject = GLYPHS
    large: VisionSubject = LARGE
    kept_flops: tuple[float, ...] = (0.9, 0.8, 0.7, 0.6, 0.5)
    layers: tuple[int, ...] = (1, 2, 3)
    similar: float = 1 / 3
    images: int = 512
    calibration: int = 256
    searched: int = 8
    search_flops: float = 0.5
    majority: MajorityConfig = field(default_factory=MajorityConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    needle: NeedleConfig = field(default_factory=NeedleConfig)

    def __post_init__(self):
        same = self.small.model == self.large.model and self.small.training.seeds == self.large.training.seeds
        require(same, "large.model, training.seeds", self.large.training.seeds, "those of `small`")
        for name in SUBJECTS:
            require(getattr(self, name).data == "glyphs", f"{name}.data", getattr(self, name).data, "'glyphs'")
        depth = self.small.model.layers.depth
        rising = all(a < b for a, b in zip(self.layers, self.layers[1:], strict=False))
        inside = len(self.layers) >= 1 and rising and 0 <= self.layers[0] and self.layers[-1] < depth - 1
        require(
            inside, "layers", self.layers, f"one or more from 0 to {depth - 2}, rising: the last has little to save"
        )
        falling = all(a > b for a, b in zip(self.kept_flops, self.kept_flops[1:], strict=False))
        require(
            falling and all(0 < k < 1 for k in self.kept_flops),
            "kept_flops",
            self.kept_flops,
            "shares below 1, falling",
        )
        hard = sum(k <= AGGRESSIVE for k in self.kept_flops)
        require(hard >= 2, "kept_flops", self.kept_flops, f"two or more shares up to {AGGRESSIVE}, which are judged")
        require(0 < self.similar <= 0.5, "similar", self.similar, "above 0 and at most half")
        for count in ("images", "calibration", "searched"):
            require(getattr(self, count) >= 1, count, getattr(self, count), "at least 1")
        for flops in (*self.kept_flops, self.search_flops):
            pruning = self.pruning(flops)
            near = abs(flops_share(self.small.model, pruning.schedule) - flops) <= 0.01
            require(near, "kept_flops", flops, f"shares that layers {self.layers} reach to within 0.01")
            left, fits = self.small.model.patches, True
            for removed in pruning.schedule:
                fits, left = fits and removed <= left // 2, left - removed
            require(
                fits, "kept_flops", flops, f"more: ToMe cannot remove more than half in each of layers {self.layers}"
            )

    def pruning(self, kept_flops: float) -> Pruning:
        """All methods' token counts for a share of the FLOPs."""
        return Pruning(solve_schedule(self.small.model, kept_flops, dict.fromkeys(self.layers, 1.0)), self.similar)


def _short(subject: VisionSubject) -> VisionSubject:
    layers = replace(subject.model.layers, depth=3, width=24, heads=2, mlp_width=48)
    training = DrawnTraining(steps=20, batch_size=16, seeds=(0,), optimizer=subject.training.optimizer)
    return replace(subject, model=replace(subject.model, layers=layers), training=training)


PRESETS = {
    "smoke": Config(
        small=_short(GLYPHS),
        large=_short(LARGE),
        kept_flops=(0.7, 0.6),
        layers=(0, 1),
        images=16,
        calibration=16,
        searched=1,
        search_flops=0.6,
        majority=MajorityConfig(tokens=40, shares=(0.5, 0.8, 0.95), iterations=20, seeds=(0, 1)),
        selection=SelectionConfig(sizes=(20, 8, 4, 2, 1, 1), width=16, kept=6, seeds=(0, 1), enumerated=20),
        needle=NeedleConfig(tokens=80, kept=(0.25, 0.1), scenes=2, seeds=(0, 1), outliers=4),
    ),
    "cpu": Config(),
    "paper": Config(
        small=replace(GLYPHS, training=replace(GLYPHS.training, seeds=tuple(range(10)))),
        large=replace(LARGE, training=replace(LARGE.training, seeds=tuple(range(10)))),
        images=4096,
        calibration=1024,
        searched=100,
    ),
}


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """The five parts, those without a network first."""
    parts = {
        "majority": workspace.cached("majority", lambda: majority_group.measure(config.majority)),
        "selection": workspace.cached("selection", lambda: selection_quality.measure(config.selection)),
        "needle": workspace.cached("needle", lambda: needle_questions.measure(config.needle)),
    }
    model, seeds, found = config.small.model, config.small.training.seeds, {}
    prunings = [config.pruning(flops) for flops in config.kept_flops]
    keys = jnp.stack([stream(jax.random.key(seed), "pruning") for seed in seeds])

    def over_seeds(draw_images: Any) -> Any:
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *[draw_images(seed) for seed in seeds])

    for name in SUBJECTS:
        subject = getattr(config, name)
        found[name] = vision_models(subject, workspace)

    def subjects() -> dict[str, Any]:
        return {
            name: (
                jax.tree.map(lambda *leaves: jnp.stack(leaves), *models.params),
                over_seeds(lambda seed, name=name: held_out(getattr(config, name), seed, config.images)),
            )
            for name, models in found.items()
        }

    def search() -> dict[str, Any]:
        params, images = subjects()["small"]
        calibration = over_seeds(
            lambda seed: draw(config.small, config.calibration, stream(jax.random.key(seed), "calibration"))
        )
        drawn = draw_prunings(model, config.search_flops, config.searched, 0)
        default = config.pruning(config.search_flops)
        return random_search(model, params, calibration, images, default, drawn, keys)

    whole = workspace.cached("whole", lambda: {k: whole_accuracy(model, *v) for k, v in subjects().items()})
    return {
        "corpora": {},
        "seeds": list(seeds),
        "models": {name: models.origin for name, models in found.items()},
        "kept_flops": [round(flops_share(model, pruning.schedule), 4) for pruning in prunings],
        "schedules": [list(pruning.schedule) for pruning in prunings],
        "whole": whole,
        "sweep": workspace.cached("sweep", lambda: sweep(model, subjects(), prunings, keys)),
        "ranking": workspace.cached("ranking", lambda: ranking_quality(model, subjects())),
        "search": workspace.cached("search", search),
        **parts,
    }


def accuracy(results: dict[str, Any], subject: str, method: str, what: str = "accuracy") -> np.ndarray:
    """[seeds, kept_flops]."""
    return np.array(results["sweep"][subject][method][what])


def lead(results: dict[str, Any], subject: str, method: str, other: str, least: float = 0.0) -> np.ndarray:
    """Accuracy of one method less another's, [seeds, budgets], where at least the share `least` of the FLOPs is saved."""
    saved = np.array(results["kept_flops"]) <= 1 - least + 0.01
    return (accuracy(results, subject, method) - accuracy(results, subject, other))[:, saved]


def beyond_errors(difference: np.ndarray) -> bool | None:
    """Whether the mean over seeds of [seeds, budgets] is above 0 by more than two standard errors at two budgets; None for one seed."""
    seeds = len(difference)
    if seeds < 2:
        return None
    error = difference.std(axis=0, ddof=1) / np.sqrt(seeds)
    return bool(np.sum(difference.mean(axis=0) > 2 * error) >= 2)


RULE = "above 0 by more than two standard errors over seeds at two budgets"


def claims(results: dict[str, Any]) -> list[Claim]:
    """The stages of Zero-TPrune, its rivals, what PageRank ranks, the search; then the parts without a network."""
    pruned = [*_stage_claims(results), *_ranking_claims(results)]
    parts = {"majority": majority_group, "selection": selection_quality, "needle": needle_questions}
    return pruned + [claim for name, part in parts.items() for claim in part.claims(results[name])]


def _by_budget(results: dict[str, Any], difference: np.ndarray) -> dict[str, Any]:
    budgets = results["kept_flops"][-difference.shape[1] :]
    return {f"{flops:.2f}": interval(column) for flops, column in zip(budgets, difference.T, strict=True)}


def _stage_claims(results: dict[str, Any]) -> list[Claim]:
    rivals = {name: lead(results, "small", "full", name, 1 - AGGRESSIVE) for name in ("prune_cls", "prune_random")}
    stage = {subject: lead(results, subject, "full", "no_similarity") for subject in SUBJECTS}
    order = {subject: interval(lead(results, subject, "full", "importance_first").mean(axis=1)) for subject in SUBJECTS}
    more = interval((stage["large"] - stage["small"]).mean(axis=1))
    pagerank = {subject: lead(results, subject, "no_similarity", "column") for subject in SUBJECTS}
    heads = {
        f"{name}, {subject}": lead(results, subject, "full", name)
        for name in ("no_filter", "mean")
        for subject in SUBJECTS
    }
    half = {subject: interval(lead(results, subject, "tome", "full")[:, -1]) for subject in SUBJECTS}
    glyph = interval(
        (accuracy(results, "small", "full", "glyph") - accuracy(results, "small", "prune_random", "glyph"))[:, -1]
    )
    least = f"{results['kept_flops'][-1]:.2f}"
    return [
        Claim(
            "full_above_cls_and_random",
            "Zero-TPrune keeps more accuracy than pruning by CLS attention and at random at the same FLOPs (measured: difference by budget "
            f"up to {AGGRESSIVE} of the FLOPs, small glyph).",
            SOURCE,
            None,
            {name: _by_budget(results, difference) for name, difference in rivals.items()},
            f"both {RULE}",
            _all([beyond_errors(difference) for difference in rivals.values()]),
        ),
        Claim(
            "similarity_stage_helps_large_objects",
            "Where the object covers most patches, dropping near-duplicates first helps (measured: Zero-TPrune less itself without the "
            "S-stage, by budget, large glyph).",
            CARD,
            "+0.5 points on ImageNet, all images (from reading notes, unverified)",
            _by_budget(results, stage["large"]),
            RULE,
            beyond_errors(stage["large"]),
        ),
        Claim(
            "similarity_stage_adds_most_on_large_objects",
            "The S-stage adds more there than on a small object (measured: difference of that difference, mean over budgets).",
            CARD,
            None,
            more,
            "whole interval above 0",
            above(more, 0.0),
        ),
        Claim(
            "i_prime_s_i_not_below_i_s",
            "Similarity before importance is not worse than after it (measured: I'-S-I less I-S, mean over budgets).",
            SOURCE,
            None,
            order,
            "both whole intervals above -0.01",
            _all([above(value, -0.01) for value in order.values()]),
        ),
        Claim(
            "pagerank_above_column_mean",
            "Importance by PageRank beats the mean attention that a token receives (measured: Zero-TPrune without its S-stage less that, by "
            "budget).",
            CARD,
            None,
            {subject: _by_budget(results, difference) for subject, difference in pagerank.items()},
            f"on both subjects {RULE}",
            _all([beyond_errors(difference) for difference in pagerank.values()]),
        ),
        Claim(
            "head_filter_and_rms_help",
            "The head filter and the root mean square over heads each help (measured: Zero-TPrune less itself without, mean over budgets).",
            SOURCE,
            "+0.3 points together on ImageNet (from reading notes, unverified)",
            {name: interval(difference.mean(axis=1)) for name, difference in heads.items()},
            f"each, on both subjects, {RULE}",
            _all([beyond_errors(difference) for difference in heads.values()]),
        ),
        Claim(
            "tome_above_at_half",
            f"Under the most aggressive reduction merging is better (measured: ToMe less Zero-TPrune at {least} of the FLOPs).",
            SOURCE,
            "admitted for large models and a reduction by half",
            half,
            "both whole intervals above 0",
            _all([above(value, 0.0) for value in half.values()]),
        ),
        Claim(
            "keeps_the_object",
            "Zero-TPrune keeps more of the glyph's patches than random pruning does (measured: difference of the share kept at "
            f"{least} of the FLOPs, small glyph).",
            SOURCE,
            None,
            glyph,
            "whole interval above 0",
            above(glyph, 0.0),
        ),
    ]


def _ranking_claims(results: dict[str, Any]) -> list[Claim]:
    found, search = results["ranking"], results["search"]
    ranked = {subject: np.array(found[subject]["pagerank"]) for subject in SUBJECTS}
    depth, one = ranked["small"].shape[1], VOTES.index(1)
    deep = {
        subject: interval((r[:, depth * 3 // 4 :, -1] - r[:, depth * 3 // 4 :, one]).mean(1))
        for subject, r in ranked.items()
    }
    best = {
        subject: interval(
            r[:, : depth * 3 // 4].mean(1).max(1) - np.array(found[subject]["column"])[:, : depth * 3 // 4].mean(1)
        )
        for subject, r in ranked.items()
    }
    calibration, tested = np.array(search["calibration"]), np.array(search["accuracy"])
    chosen = np.take_along_axis(tested, calibration.argmax(axis=0)[None], axis=0)[0]
    gain = interval(chosen - tested[0])
    return [
        Claim(
            "votes_rank_better_than_one_step",
            "Before the last quarter of the layers, votes order glyph over background better than the attention received does (measured: area "
            "under the ROC curve at the best number of votes, less that of the attention received; mean of those layers).",
            CARD,
            None,
            best,
            "both whole intervals above 0",
            _all([above(value, 0.0) for value in best.values()]),
        ),
        Claim(
            "iterating_deep_layers_hurts",
            f"In the last quarter of the layers, {VOTES[-1]} votes rank worse than one (measured: area under the ROC curve, difference).",
            CARD,
            None,
            deep,
            "both whole intervals below 0",
            _all([below(value, 0.0) for value in deep.values()]),
        ),
        Claim(
            "search_beats_default",
            f"Of {len(tested)} configurations the best on calibration images beats the default one on others (measured: difference of accuracy, "
            "small glyph; choices differ by seed).",
            SOURCE,
            None,
            gain,
            "whole interval above 0",
            above(gain, 0.0),
        ),
    ]


def _all(verdicts: Sequence[bool | None]) -> bool | None:
    """`every` for verdicts of which a false one decides, whatever the others cannot tell."""
    return False if False in verdicts else None if None in verdicts else True


def figure(results: dict[str, Any]) -> Figure:
    """Accuracy and glyph kept against FLOPs, the votes' rankings, then the parts without a network."""
    drawn, axes = panels(3, 3, width=4.0, height=3.3)
    with styled():
        for place, (subject, title) in enumerate(SUBJECTS.items()):
            _draw_sweep(axes[place], results, subject, "accuracy")
            axes[place].axhline(np.mean(results["whole"][subject]), color="black", linewidth=0.8, label="not pruned")
            axes[place].set(title=title, ylabel="accuracy")
            _draw_ranking(axes[3 + place], results, subject)
        axes[1].legend(fontsize=7)
        _draw_sweep(axes[2], results, "small", "glyph")
        axes[2].set(title="what is kept of the small glyph", ylabel="share of its patches")
        majority_group.draw(axes[5], results["majority"])
        selection_quality.draw_coverage(axes[6], results["selection"])
        selection_quality.draw_optimality(axes[7], results["selection"])
        needle_questions.draw(axes[8], results["needle"])
    return drawn


def _draw_sweep(axes: Axes, results: dict[str, Any], subject: str, what: str) -> None:
    dashed = ("no_similarity", "no_filter", "mean", "importance_first")
    for method, (label, color) in METHODS.items():
        style = {"linestyle": "--" if method in dashed else "-", "marker": "o", "markersize": 3}
        mean = accuracy(results, subject, method, what).mean(axis=0)
        axes.plot(results["kept_flops"], mean, label=label, color=color, **style)
    axes.set(xlabel="share of the FLOPs")


def _draw_ranking(axes: Axes, results: dict[str, Any], subject: str) -> None:
    found = results["ranking"][subject]
    ranked = np.array(found["pagerank"])
    for layer in range(ranked.shape[1]):
        color = PALETTE[layer % len(PALETTE)]
        band(axes, VOTES, ranked[:, layer], f"layer {layer}", color, marker="o", markersize=2.5)
    for name, (label, color) in REFERENCES.items():
        reference(axes, float(np.mean(found[name])), f"{label}, all layers", color)
    axes.set(
        title=f"PageRank, {SUBJECTS[subject]}", xlabel="votes", ylabel="area under ROC curve, glyph", xscale="symlog"
    )
    axes.set_xticks(VOTES, [str(votes) for votes in VOTES])
    axes.legend(fontsize=6, ncols=2)
