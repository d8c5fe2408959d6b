"""Fewer tokens as a design principle, beyond speed: the claims of a position paper as runs that can support or refute them.

Kong et al. 2026 (arXiv 2505.18227) give no experiments; method card token-reduction-beyond-efficiency turns their position into 14 claims.
Each topic measures one or two of the 14 against the full-token model and against a random reduction of the same size, paired by seed. A
claim is supported where the whole interval of the effect over both is above 0, refuted where one lies below the smallest effect that would
matter, and inconclusive otherwise; two are about limits, and supported where the limit shows.

A topic is a module with `measure(config, seeds, workspace)` (a small JSON value), `judge(measured)` (claims, by `verdicts.judged`) and
`draw(measured, axes)` (one panel); its name here is that of its part of `Config` and of its file.
"""

from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

from matplotlib.figure import Figure

from experiments.harness.claims import Claim
from experiments.harness.style import panels, styled
from experiments.harness.workspace import Workspace
from experiments.merging import (
    attention_bias,
    dense_prediction,
    forking_tokens,
    length_control,
    long_context,
    migration,
    overhead,
    overthinking,
    package_token,
    quantisation,
    selective_training,
    visual_alignment,
    visual_noise,
)
from experiments.merging.attention_bias import AttentionBiasConfig
from experiments.merging.dense_prediction import DenseConfig
from experiments.merging.forking_tokens import ForkingConfig
from experiments.merging.length_control import LengthControlConfig
from experiments.merging.long_context import LongContextConfig
from experiments.merging.migration import MigrationConfig
from experiments.merging.overhead import OverheadConfig
from experiments.merging.overthinking import OverthinkingConfig
from experiments.merging.package_token import PackageConfig
from experiments.merging.quantisation import QuantisationConfig
from experiments.merging.selective_training import SelectiveConfig
from experiments.merging.verdicts import word
from experiments.merging.visual_alignment import AlignmentConfig
from experiments.merging.visual_noise import VisualNoiseConfig
from experiments.merging.vlm import PRESETS as SCENES
from experiments.subjects.glyph_classifiers import GLYPHS, tiny
from lexinv.validation import choose, require

PAPER = """@article{kong2025token,
  title = {Token Reduction Should Go Beyond Efficiency in Generative Models -- From Vision, Language to Multimodality},
  author = {Kong, Zhenglun and Li, Yize and Zeng, Fanhu and Xin, Lei and Messica, Shvat and Lin, Xue and Zhao, Pu and Kellis, Manolis and
    Tang, Hao and Zitnik, Marinka},
  journal = {arXiv preprint arXiv:2505.18227},
  year = {2025},
  eprint = {2505.18227},
  archiveprefix = {arXiv}
}"""
TOPICS: dict[str, ModuleType] = {
    "long_context": long_context,
    "selective_training": selective_training,
    "overthinking": overthinking,
    "forking_tokens": forking_tokens,
    "visual_noise": visual_noise,
    "visual_alignment": visual_alignment,
    "attention_bias": attention_bias,
    "migration": migration,
    "package_token": package_token,
    "quantisation": quantisation,
    "dense_prediction": dense_prediction,
    "overhead": overhead,
    "length_control": length_control,
}


@dataclass(frozen=True)
class Config:
    """topics: those that are measured. seeds: over which effects are paired. Then the configuration of every topic."""

    topics: tuple[str, ...] = tuple(TOPICS)
    seeds: tuple[int, ...] = (0, 1, 2)
    long_context: LongContextConfig = LongContextConfig()
    selective_training: SelectiveConfig = SelectiveConfig()
    overthinking: OverthinkingConfig = OverthinkingConfig()
    forking_tokens: ForkingConfig = ForkingConfig()
    visual_noise: VisualNoiseConfig = VisualNoiseConfig()
    visual_alignment: AlignmentConfig = AlignmentConfig()
    attention_bias: AttentionBiasConfig = AttentionBiasConfig()
    migration: MigrationConfig = MigrationConfig()
    package_token: PackageConfig = PackageConfig()
    quantisation: QuantisationConfig = QuantisationConfig()
    dense_prediction: DenseConfig = DenseConfig()
    overhead: OverheadConfig = OverheadConfig()
    length_control: LengthControlConfig = LengthControlConfig()

    def __post_init__(self):
        require(0 < len(self.seeds) == len(set(self.seeds)), "seeds", self.seeds, "at least one, none twice")
        for name in self.topics:
            choose("topics", name, tuple(TOPICS))
        require(0 < len(self.topics) == len(set(self.topics)), "topics", self.topics, "at least one, none twice")


PRESETS = {
    "smoke": Config(
        # The other ways of training are like that in long contexts, and too long together for a smoke test.
        topics=tuple(
            name
            for name in TOPICS
            if name not in ("selective_training", "overthinking", "forking_tokens", "length_control")
        ),
        seeds=(0, 1, 2),
        long_context=LongContextConfig(
            length=32, factors=(1, 4), keys=64, values=4, items=20, batch_size=4, steps=20, depth=1, width=16
        ),
        selective_training=SelectiveConfig(symbols=8, length=16, batch_size=4, steps=40, depth=1, width=8),
        overthinking=OverthinkingConfig(
            modulus=3, numbers=2, fillers=2, problems=100, batch_size=4, steps=20, depth=1, width=16
        ),
        forking_tokens=ForkingConfig(words=4, text=4, batch_size=4, steps=20, depth=1, width=8),
        visual_noise=VisualNoiseConfig(SCENES["smoke"].subject, shares=(0.25,), scenes=16),
        visual_alignment=AlignmentConfig(SCENES["smoke"].subject, cells=(2,), scenes=(8, 8)),
        attention_bias=AttentionBiasConfig(SCENES["smoke"].subject, scenes=16),
        migration=MigrationConfig(SCENES["smoke"].subject, scenes=16),
        package_token=PackageConfig(tiny(GLYPHS), shares=(0.25,), layer=0, images=16),
        quantisation=QuantisationConfig(passages=2, context=12),
        dense_prediction=DenseConfig(tiny(GLYPHS), shares=(0.25,), images=(8, 8), patches=64, steps=5),
        overhead=OverheadConfig(lengths=(16,), batches=(1,), depth=2, width=8, heads=2, rounds=2, turn_seconds=0.001),
        length_control=LengthControlConfig(
            OverthinkingConfig(modulus=3, numbers=2, fillers=1, problems=100, batch_size=4, steps=20, depth=1, width=8),
            penalties=(0.5,),
            kept=(1, 3),
            samples=2,
            steps=20,
        ),
    ),
    # The topics that need no images, whose models take longer than all else.
    "quick": Config(topics=("long_context", "selective_training", "forking_tokens", "quantisation", "overhead")),
    "cpu": Config(seeds=(0, 1, 2, 3, 4)),
    "paper": Config(
        seeds=tuple(range(10)),
        long_context=LongContextConfig(
            length=512, keys=4096, values=256, items=2000, batch_size=128, steps=5000, width=256, learning_rate=1e-3
        ),
        selective_training=SelectiveConfig(
            symbols=256, length=256, batch_size=64, steps=5000, width=256, learning_rate=1e-3
        ),
        overthinking=OverthinkingConfig(
            modulus=23,
            numbers=16,
            fillers=16,
            problems=2000,
            batch_size=128,
            steps=10_000,
            width=256,
            learning_rate=1e-3,
        ),
        forking_tokens=ForkingConfig(words=256, text=48, batch_size=64, steps=5000, width=256, learning_rate=1e-3),
        visual_noise=VisualNoiseConfig(SCENES["paper"].subject, scenes=2000),
        visual_alignment=AlignmentConfig(SCENES["paper"].subject, scenes=(2000, 2000)),
        attention_bias=AttentionBiasConfig(SCENES["paper"].subject, scenes=2000),
        migration=MigrationConfig(SCENES["paper"].subject, scenes=2000),
        package_token=PackageConfig(images=10_000),
        quantisation=QuantisationConfig(passages=64, context=256),
        dense_prediction=DenseConfig(images=(2000, 2000), patches=100_000, steps=1000),
        overhead=OverheadConfig(
            lengths=(24, 96, 384, 1536), batches=(1, 8, 64), most_pairs=1 << 28, depth=12, width=384, heads=6, rounds=20
        ),
        length_control=LengthControlConfig(
            OverthinkingConfig(
                modulus=23,
                numbers=16,
                fillers=16,
                problems=2000,
                batch_size=128,
                steps=20_000,
                width=256,
                learning_rate=1e-3,
            ),
            penalties=(0.0, 0.1, 0.2, 0.5, 1.0),
            kept=(4, 8, 16, 20, 24, 28, 32),
            steps=5000,
            learning_rate=1e-4,
        ),
    ),
}
"""The position paper has no size of its own: `paper` is the card's experiments at a size for an accelerator."""


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """What every topic measured."""
    topics = {
        name: workspace.cached(
            f"topics/{name}", partial(TOPICS[name].measure, getattr(config, name), config.seeds, workspace)
        )
        for name in config.topics
    }
    corpora = {name: found for topic in topics.values() for name, found in topic.get("corpora", {}).items()}
    return {"corpora": corpora, "seeds": list(config.seeds), "arms": origins(topics), "topics": topics}


def origins(topics: dict[str, Any]) -> dict[str, Any]:
    """The shared models that topics rest on. What a topic trained itself is no time elsewhere for the next one that finds it."""
    found: dict[str, Any] = {}
    for topic in topics.values():
        if "models" in topic:
            seconds = min(topic["seconds_elsewhere"], found.get(topic["models"], topic)["seconds_elsewhere"])
            found[topic["models"]] = {"models": topic["models"], "seconds_elsewhere": seconds}
    return found


def claims(results: dict[str, Any]) -> list[Claim]:
    """The claims of all topics in the order of their numbers."""
    found = [claim for name, measured in results["topics"].items() for claim in TOPICS[name].judge(measured)]
    return sorted(found, key=lambda claim: int(claim.statement.split(":")[0].lstrip("C")))


def figure(results: dict[str, Any]) -> Figure:
    """A panel for each topic, with the verdicts on its claims in their order."""
    count = len(results["topics"])
    columns = min(4, count)
    drawn, axes = panels(-(-count // columns), columns, width=3.2, height=2.6)
    with styled():
        for (name, measured), panel in zip(results["topics"].items(), axes, strict=False):
            TOPICS[name].draw(measured, panel)
            words = ", ".join(word(claim.holds) for claim in TOPICS[name].judge(measured))
            panel.set_title(f"{panel.get_title('left')}\n{words}", fontsize=8)
            if legend := panel.get_legend():
                for text in legend.get_texts():
                    text.set_fontsize(5.5)
        for panel in axes[count:]:
            panel.remove()
    return drawn
