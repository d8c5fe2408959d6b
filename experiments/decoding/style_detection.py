"""Tuned to fool a detector a machine is still told by its style; who imitates one given text is told by nothing but many texts.

Rivera Soto et al. 2025 (arXiv 2505.14608), method card style-detection-aura. The machine is an assistant: a model of dialogues
(`lexinv.data.dialogues`) that was tuned to one author's texts and is decoded a little cold. It is tuned further so that Fast-DetectGPT, or
a style encoder, prefers its texts (DPO). The attack in style is the untuned model after one text of the author whom it imitates. Sets of n
texts are by one human author, since against a mixture of authors one text betrays; the law of every machine and of every author is known,
and with it the best that any detector can do. Beside it the same on Python's library, whose modules are the authors, where no law is known.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, PALETTE, band, panels, reference
from experiments.harness.training import Training
from experiments.harness.verdicts import OURS, Claim, above, below, between
from experiments.harness.workspace import Workspace
from experiments.subjects.dialogue_models import TINY, DialogueModels
from experiments.subjects.style_detectors import DETECTORS, Sizes, StyleConfig, judge
from experiments.subjects.style_worlds import talk_world, text_world
from experiments.subjects.text_pair import TINY as TINY_PAIR
from experiments.subjects.text_pair import PairConfig
from experiments.subjects.tuned_talkers import Talkers
from experiments.subjects.writers import TINY_TUNING, Tuning
from lexinv.data.corpora import load_corpus
from lexinv.decoding.detection import aura
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import Checked, Count, Positive

PAPERS = ("riverasoto2025language",)
PAPER = "riverasoto2025language: abstract"
TITLES = {
    "talk": {
        "assistant": "Assistant",
        "fast_detect": "Tuned against Fast-DetectGPT",
        "style": "Tuned against style",
        "imitation": "Imitation of one text",
    },
    "text": {
        "assistant": "Model of Python",
        "fast_detect": "Python, tuned against Fast-DetectGPT",
        "imitation": "Python, imitation of one text",
    },
}
LABELS = dict(
    zip(DETECTORS, ("likelihood", "rank", "LRR", "Fast-DetectGPT", "Binoculars", "style encoder"), strict=True)
)
TUNED = Training(
    steps=10,
    batch_size=32,
    seeds=(0, 1, 2),
    optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=2),
    steps_per_dispatch=10,
)


@dataclass(frozen=True)
class Config(Checked):
    """temperature: of the assistant and what it is tuned to. talk, text: sizes of dialogues and of Python.

    modules: of Python, each an author. said: tokens of a text. text_tuning: of the small model, on its own pairs alone.
    """

    dialogues: DialogueModels = DialogueModels()
    tuning: Tuning = Tuning(preferred=TUNED, rounds=12)
    style: StyleConfig = StyleConfig()
    temperature: Positive = 0.8
    talk: Sizes = Sizes()
    pair: PairConfig = PairConfig()
    modules: Count = 8
    said: Count = 64
    text: Sizes = Sizes(texts=80, support=32, counts=(1, 2, 4, 8, 16), trials=256)
    text_tuning: Tuning = Tuning(
        preferred=replace(TUNED, optimizer=OptimizerConfig(learning_rate=3e-4, warmup_steps=2)), rounds=16, pairs=128
    )

    def checks(self):
        seeds = self.dialogues.training.seeds
        for part in ("tuning.supervised", "text_tuning.supervised", "style.training", "pair.training"):
            holder, field = part.split(".")
            same = getattr(getattr(self, holder), field).seeds == seeds
            yield same, f"{part}.seeds", f"dialogues.training.seeds = {seeds}"
        yield 2 * self.said <= self.pair.data.context, "said", f"at most half of {self.pair.data.context} tokens"


PRESETS = presets(
    Config(),
    smoke={
        **TINY,
        **TINY_TUNING,
        **{f"text_{field}": value for field, value in TINY_TUNING.items()},
        **TINY_PAIR,
        "style.worlds": 2,
        "style.hidden": 8,
        "style.width": 4,
        "style.training": Training(4, 4, (0, 1), OptimizerConfig(warmup_steps=1), steps_per_dispatch=4),
        "talk": Sizes(16, 4, (1, 4), 16),
        "modules": 2,
        "said": 16,
        "text": Sizes(16, 4, (1, 4), 16),
    },
    quick={
        f"{part}.seeds": (0,)
        for part in (
            "dialogues.training",
            "tuning.supervised",
            "tuning.preferred",
            "text_tuning.supervised",
            "text_tuning.preferred",
            "style.training",
            "pair.training",
        )
    },
    paper={
        "talk": Sizes(8192, trials=4096),
        "style.worlds": 256,
        "style.training.steps": 4000,
        "tuning.pairs": 2048,
        "pair.training.steps": 20_000,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """talk, text: see `judge`."""
    style, pair, sizes, corpus = config.style, config.pair, config.text, load_corpus(config.pair.data.corpora[0])
    corpora = workspace.pinned("corpora", {corpus.name: corpus.fingerprint})
    talkers = Talkers(config.dialogues, config.tuning, workspace)
    talk = talk_world(style, talkers, workspace)
    text = text_world(style, pair, corpus, config.modules, config.said, sizes, workspace)
    return {
        "corpora": corpora,
        "seeds": config.dialogues.training.seeds,
        "talk": judge("", talk, tuple(TITLES["talk"]), config.tuning, config.temperature, config.talk, workspace),
        "text": judge("text-", text, tuple(TITLES["text"]), config.text_tuning, config.temperature, sizes, workspace),
    }


def best(arms: Arms, name: str) -> str:
    """The detector with the highest A(n) at the most texts."""
    return max(DETECTORS, key=lambda detector: arms[name, detector][:, -1].mean())


def claims(results: dict[str, Any]) -> list[Claim]:
    arms = Arms(results["talk"])
    above_exact = {
        title: np.max([arms[name, d] - arms[name, "exact"] for d in DETECTORS], axis=(0, 2))
        for name, title in TITLES["talk"].items()
    }
    ceiling = Claim(
        "below_ceiling",
        "No detector tells more than the exact likelihood ratio of machine and author.",
        OURS,
        above_exact,
        below(0.02),
        "A(n) above the ratio's, the most over detectors and n",
    )
    real = [replace(claim, name=f"real_{claim.name}") for claim in of_world(results["text"], "text", ", on Python")]
    return [*of_world(results["talk"], "talk"), ceiling, *real]


def of_world(found: dict[str, Any], world: str, where: str = "") -> list[Claim]:
    arms, titles, most = Arms(found), TITLES[world], found["counts"][-1]
    fooled = [name for name in titles if name in DETECTORS]
    told = arms["imitation", best(arms, "imitation")]
    return [
        Claim(
            "tuning_fools_detector",
            f"Tuned against Fast-DetectGPT the assistant's single texts are not told from human ones by it{where}.",
            PAPER,
            {"after": arms["fast_detect", "fast_detect"][:, 0], "before": arms["assistant", "fast_detect"][:, 0]},
            {"after": between(0.4, 0.6)},
            "A(1), the round nearest to 0.5 on other texts",
        ),
        Claim(
            "style_survives",
            f"A style encoder that has read a few of its texts still tells them, whatever is tuned against{where}.",
            PAPER,
            {titles[name]: arms[name, "style"][:, 0] for name in fooled},
            above(0.85),
            "A(1) of the style encoder",
        ),
        Claim(
            "attack_fools_one",
            f"Who imitates the author of one given text fools every detector with one text{where}.",
            PAPER,
            {LABELS[detector]: arms["imitation", detector][:, 0] for detector in DETECTORS},
            between(0.4, 0.6),
            "A(1)",
        ),
        Claim(
            "many_tell",
            f"With many texts it is told again{where}.",
            PAPER,
            {
                f"A({most}) - A(1)": told[:, -1] - told[:, 0],
                f"AURA up to {most}, the card's formula": aura(told, found["counts"]),
            },
            {f"A({most}) - A(1)": above(0.2)},
            f"of the detector that is best at {most} texts",
        ),
        Claim(
            "human_control",
            f"Two halves of one author's texts are not told from one another{where}.",
            OURS,
            {
                f"{LABELS[detector]}, {n} texts": arms["human", detector][:, place]
                for detector in ("fast_detect", "style")
                for n, place in ((1, 0), (most, -1))
            },
            between(0.47, 0.53),
            "A(n)",
        ),
        Claim(
            "quality_kept",
            f"What fools detectors is no worse a text than a human's{where}.",
            OURS,
            {titles[name]: arms[name, "nats"] - arms["human", "nats"] for name in (*fooled, "imitation")},
            below(0.2),
            "nats per token above human texts" + (", of another seed's model" if where else ", exactly"),
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """A(n) of every machine by all detectors, under that of the exact ratio where it is known."""
    found = [(world, name) for world, names in TITLES.items() for name in names]

    def title(world: str, name: str) -> str:
        arms = Arms(results[world])
        area = aura(arms[name, best(arms, name)], results[world]["counts"]).mean()
        return f"{TITLES[world][name]}: AURA {area:.2f}"

    drawn, axes = panels(2, 4, width=4.4, height=3.1, titles=[title(*each) for each in found])
    for panel, (world, name) in zip(axes, found, strict=False):
        arms, counts = Arms(results[world]), results[world]["counts"]
        for detector, color in zip(DETECTORS, PALETTE, strict=False):
            band(panel, counts, arms[name, detector], LABELS[detector], color, marker="o", markersize=3)
        if world == "talk":
            exact = arms[name, "exact"].mean(axis=0)
            panel.plot(counts, exact, color=BLACK, linestyle="--", label="exact likelihood ratio")
        reference(panel, 0.5, "nothing told")
        panel.set(xscale="log", ylim=(-0.03, 1.03), xlabel=f"texts of a set (AURA up to {counts[-1]})", ylabel="A(n)")
        panel.set_xticks(counts, [str(n) for n in counts])
        panel.minorticks_off()
    axes[-1].axis("off")
    axes[-1].legend(*axes[0].get_legend_handles_labels(), loc="center left")
    return drawn
