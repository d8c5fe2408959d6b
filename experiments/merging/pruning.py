"""Zero-TPrune's stages and its rivals at equal FLOPs on small Vision Transformers, and how well DivPrune selects without any training.

Wang et al. 2024 (Zero-TPrune, arXiv 2305.17328), its ablation, and the "overwhelming of the major group"; Alvar et al. 2025 (DivPrune,
arXiv 2503.02175). Method cards zero-tprune and divprune. The shared models on a small glyph with a distractor and on a large one that
covers most patches (`vision_models`) are pruned without training (`pruned_vision`, `pruning_search`), and what their attention ranks
first is measured (`attention_rankings`); a majority in constructed attention (`majority_group`); selections of tokens without a network
(`selection_quality`, `needle_questions`).
"""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.claims import Claim
from experiments.harness.style import panels, styled
from experiments.harness.workspace import Workspace
from experiments.merging import (
    attention_rankings,
    majority_group,
    needle_questions,
    pruned_vision,
    pruning_search,
    selection_quality,
)
from experiments.merging.majority_group import MajorityConfig
from experiments.merging.needle_questions import NeedleConfig
from experiments.merging.pruned_vision import AGGRESSIVE, SUBJECTS, Pruning, flops_share, solve_schedule
from experiments.merging.selection_quality import SelectionConfig
from experiments.subjects.glyph_classifiers import (
    GLYPHS,
    LARGE,
    VisionSubject,
    draw,
    held_out,
    one_seed,
    tiny,
    vision_models,
)
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
    searched: int = 6
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
        inside = len(self.layers) >= 1 and rising and self.layers[0] >= 0 and self.layers[-1] < depth - 1
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
        require(hard >= 1, "kept_flops", self.kept_flops, f"shares up to {AGGRESSIVE}, which are judged, among them")
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


PRESETS = {
    "smoke": Config(
        small=tiny(GLYPHS),
        large=tiny(GLYPHS),  # trained once, for other experiments too
        kept_flops=(0.65,),
        layers=(0,),
        images=16,
        calibration=16,
        searched=1,
        search_flops=0.65,
        majority=MajorityConfig(tokens=40, shares=(0.5, 0.8, 0.95), iterations=20, seeds=(0, 1)),
        selection=SelectionConfig(sizes=(20, 8, 4, 2, 1, 1), width=16, kept=6, seeds=(0, 1), enumerated=20),
        needle=NeedleConfig(tokens=80, kept=(0.1,), scenes=2, seeds=(0, 1), outliers=4),
    ),
    "quick": Config(small=one_seed(GLYPHS), large=one_seed(LARGE), kept_flops=(0.7, 0.6, 0.5), searched=2),
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
        drawn = pruning_search.draw_prunings(model, config.search_flops, config.searched, 0)
        default = config.pruning(config.search_flops)
        return pruning_search.random_search(model, params, calibration, images, default, drawn, keys)

    whole = workspace.cached(
        "whole", lambda: {k: pruned_vision.whole_accuracy(model, *v) for k, v in subjects().items()}
    )
    return {
        "corpora": {},
        "seeds": list(seeds),
        "arms": {name: models.origin for name, models in found.items()},
        "kept_flops": [round(flops_share(model, pruning.schedule), 4) for pruning in prunings],
        "schedules": [list(pruning.schedule) for pruning in prunings],
        "whole": whole,
        "sweep": workspace.cached("sweep", lambda: pruned_vision.sweep(model, subjects(), prunings, keys)),
        "ranking": workspace.cached("ranking", lambda: attention_rankings.ranking_quality(model, subjects())),
        "search": workspace.cached("search", search),
        **parts,
    }


PARTS = {
    "ranking": attention_rankings,
    "search": pruning_search,
    "majority": majority_group,
    "selection": selection_quality,
    "needle": needle_questions,
}


def claims(results: dict[str, Any]) -> list[Claim]:
    """The stages of Zero-TPrune and its rivals; then those of every part."""
    parts = [claim for name, part in PARTS.items() for claim in part.claims(results[name])]
    return [*pruned_vision.claims(results), *parts]


def figure(results: dict[str, Any]) -> Figure:
    """Accuracy and glyph kept against FLOPs, the votes' rankings, then the parts without a network."""
    drawn, axes = panels(2, 4, width=3.4, height=3.0)
    with styled():
        for place, (subject, title) in enumerate(SUBJECTS.items()):
            pruned_vision.draw(axes[place], results, subject, "accuracy")
            axes[place].axhline(np.mean(results["whole"][subject]), color="black", linewidth=0.8, label="not pruned")
            axes[place].set(title=title, ylabel="accuracy")
            attention_rankings.draw(axes[4 + place], results["ranking"], subject)
        pruned_vision.draw(axes[2], results, "small", "glyph")
        axes[2].set(title="what is kept of the small glyph", ylabel="share of its patches")
        majority_group.draw(axes[3], results["majority"])
        selection_quality.draw_coverage(axes[6], results["selection"])
        needle_questions.draw(axes[7], results["needle"])
        drawn.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return drawn
