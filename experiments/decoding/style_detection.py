"""Tuned to fool a detector a machine is still told by its style; who imitates one given text is told by nothing but many texts.

Rivera Soto et al. 2025 (arXiv 2505.14608), method card style-detection-aura. The machine is an assistant: a model of dialogues
(`lexinv.data.dialogues`) that was tuned to one author's texts and is decoded a little cold. It is tuned further so that Fast-DetectGPT, or
a style encoder, prefers its texts (DPO). The attack in style is the untuned model after one text of the author whom it imitates. Sets of n
texts are by one human author, since against a mixture of authors one text betrays; the law of every machine and of every author is known,
and with it the best that any detector can do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, by_metric
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, PALETTE, band, panels, reference
from experiments.harness.training import Training
from experiments.harness.verdicts import OURS, Claim, above, below, between
from experiments.harness.workspace import Workspace
from experiments.subjects.dialogue_models import TINY, DialogueModels
from experiments.subjects.style_detectors import (
    DETECTORS,
    Detectors,
    Source,
    StyleConfig,
    authors_of,
    measure_machine,
    train_encoders,
)
from experiments.subjects.tuned_talkers import TINY_TUNING, Talkers, Tuning, Words
from lexinv.decoding.detection import aura, auroc
from lexinv.nn.sampling import Sampling
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Counts, Positive

PAPERS = ("riverasoto2025language",)
PAPER = "riverasoto2025language: abstract"
TITLES = {
    "assistant": "Assistant",
    "fast_detect": "Tuned against Fast-DetectGPT",
    "style": "Tuned against style",
    "imitation": "Imitation of one text",
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
    """texts: of every author, and of every machine in his place. counts: n of A(n). trials: random sets of each side.

    temperature: of the assistant and what it is tuned to. support: texts of a suspect that the style encoder compares with.
    """

    dialogues: DialogueModels = DialogueModels()
    tuning: Tuning = Tuning(preferred=TUNED, rounds=12)
    style: StyleConfig = StyleConfig()
    temperature: Positive = 0.8
    texts: Count = 512
    support: Count = 32
    counts: Counts = (1, 2, 4, 8, 16, 32)
    trials: Count = 512

    def checks(self):
        seeds = self.dialogues.training.seeds
        for part, training in (("tuning.supervised", self.tuning.supervised), ("style.training", self.style.training)):
            yield training.seeds == seeds, f"{part}.seeds", f"dialogues.training.seeds = {seeds}"
        yield len(self.counts) > 1 and self.counts[0] == 1, "counts", "ascending from 1"
        yield max(self.counts) <= self.texts, "counts", f"at most texts = {self.texts}"


PRESETS = presets(
    Config(),
    smoke={
        **TINY,
        **TINY_TUNING,
        "style.worlds": 2,
        "style.hidden": 8,
        "style.width": 4,
        "style.training": Training(4, 4, (0, 1), OptimizerConfig(warmup_steps=1), steps_per_dispatch=4),
        "texts": 16,
        "support": 4,
        "counts": (1, 4),
        "trials": 16,
    },
    quick={
        f"{part}.seeds": (0,)
        for part in ("dialogues.training", "tuning.supervised", "tuning.preferred", "style.training")
    },
    paper={"texts": 8192, "trials": 4096, "style.worlds": 256, "style.training.steps": 4000, "tuning.pairs": 2048},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """arms[machine][detector]: A(n) [seed][n]; nats: a word, by Bayes' rule, [seed]; rounds: A(1) of what was fooled [seed][round]."""
    seeds, talkers = config.dialogues.training.seeds, Talkers(config.dialogues, config.tuning, workspace)
    encoders, ages = train_encoders(config.style, talkers, workspace), talkers.base_world.ages
    younger = ages[config.dialogues.ages[-1]]
    every = [Detectors(talkers, *parts) for parts in zip(talkers.base, younger, encoders, strict=True)]
    cold = Sampling(config.temperature)

    def suspect(place: int) -> Words:
        key = stream(jax.random.key(seeds[place]), "suspect")
        return talkers.write(talkers.supervised[place], key, config.support, cold).tokens

    def target(arm: str, place: int) -> Callable[[Words], np.ndarray]:
        """The detector that is tuned against, which knows the style of the assistant as it was."""
        detectors = every[place]
        if arm == "fast_detect":
            return lambda words: detectors.statistics(words)[arm]
        alike = detectors.alike(suspect(place))
        return lambda words: alike(detectors.styles(words)[:, None])

    targets = {arm: [target(arm, place) for place in range(len(seeds))] for arm in ("fast_detect", "style")}

    def preferred(arm: str, place: int, words: Words) -> Array:
        return -jnp.asarray(targets[arm][place](words), jnp.float32)

    course = talkers.prefer("tuned", dict.fromkeys(targets, talkers.supervised), preferred, config.temperature)

    def fools(name: str) -> list[float]:
        """A(1) at the start and after every round, on the texts by which a round is chosen."""
        arm, seed = name.split("-")
        place, found = seeds.index(int(seed)), []
        authors = jnp.asarray([*authors_of(talkers)], jnp.int32)
        authors = jnp.tile(authors, -(-config.texts // len(authors)))
        human = talkers.human(stream(jax.random.key(int(seed)), "validation"), authors)
        for models in course:
            key = stream(jax.random.key(int(seed)), f"validation {arm}")
            machine = talkers.write(models[arm][place], key, config.texts, cold).tokens
            found.append(float(auroc(*map(targets[arm][place], (human, machine)))))
        return found

    rounds = workspace.stages("rounds", [f"{arm}-{seed}" for arm in targets for seed in seeds], fools)

    def source(machine: str, place: int) -> Source | None:
        """Of what is tuned the round that is nearest to telling nothing."""
        if machine == "human":
            return None
        if machine == "assistant":
            return Source(talkers.supervised[place], config.temperature)
        if machine == "imitation":
            key = stream(jax.random.key(seeds[place]), "exemplars")
            given = talkers.human(key, jnp.arange(config.dialogues.world.authors))
            return Source(talkers.base[place], 1.0, talkers.whole(given))
        nearest = int(np.argmin(np.abs(np.array(rounds[f"{machine}-{seeds[place]}"]) - 0.5)))
        return Source(course[nearest][machine][place], config.temperature)

    def of_seed(name: str) -> dict[str, Any]:
        machine, seed = name.split("-")
        return measure_machine(
            every[place := seeds.index(int(seed))],
            machine,
            source(machine, place),
            int(seed),
            (config.texts, config.support, config.counts, config.trials),
        )

    names = ("human", *TITLES)
    rows = workspace.stages("told", [f"{name}-{seed}" for name in names for seed in seeds], of_seed)
    return {
        "seeds": seeds,
        "counts": config.counts,
        "arms": {name: by_metric([rows[f"{name}-{seed}"]["told"] for seed in seeds]) for name in names},
        "nats": {name: [rows[f"{name}-{seed}"]["nats"] for seed in seeds] for name in names},
        "rounds": {arm: [rounds[f"{arm}-{seed}"] for seed in seeds] for arm in targets},
    }


def best(results: dict[str, Any], name: str) -> str:
    """The detector with the highest A(n) at the most texts."""
    arms = Arms(results)
    return max(DETECTORS, key=lambda detector: arms[name, detector][:, -1].mean())


def areas(results: dict[str, Any], name: str) -> Float[np.ndarray, " seeds"]:
    """AURA of the best detector."""
    return aura(Arms(results)[name, best(results, name)], results["counts"])


def claims(results: dict[str, Any]) -> list[Claim]:
    arms, most = Arms(results), results["counts"][-1]
    imitation = arms["imitation", best(results, "imitation")]
    tuned = ("fast_detect", "style")
    above_exact = {
        TITLES[name]: np.max([arms[name, d] - arms[name, "exact"] for d in DETECTORS], axis=(0, 2)) for name in TITLES
    }
    nats = {name: np.array(values) for name, values in results["nats"].items()}
    return [
        Claim(
            "tuning_fools_detector",
            "Tuned against Fast-DetectGPT the assistant's single texts are not told from human ones by it.",
            PAPER,
            {
                "after": arms["fast_detect", "fast_detect"][:, 0],
                "before": arms["assistant", "fast_detect"][:, 0],
            },
            {"after": between(0.4, 0.6)},
            "A(1), the round nearest to 0.5 on other texts",
        ),
        Claim(
            "style_survives",
            "A style encoder that has read a few of its texts still tells them, even where it is what was tuned against.",
            PAPER,
            {TITLES[name]: arms[name, "style"][:, 0] for name in tuned},
            above(0.85),
            "A(1) of the style encoder",
        ),
        Claim(
            "attack_fools_one",
            "Who imitates the author of one given text fools every detector with one text.",
            PAPER,
            {LABELS[detector]: arms["imitation", detector][:, 0] for detector in DETECTORS},
            between(0.4, 0.6),
            "A(1)",
        ),
        Claim(
            "many_tell",
            "With many texts it is told again.",
            PAPER,
            {
                f"A({most}) - A(1)": imitation[:, -1] - imitation[:, 0],
                f"AURA up to {most}, the card's formula": areas(results, "imitation"),
            },
            {f"A({most}) - A(1)": above(0.2)},
            f"of the detector that is best at {most} texts",
        ),
        Claim(
            "human_control",
            "Two halves of one author's texts are not told from one another.",
            OURS,
            {
                f"{LABELS[detector]}, {n} texts": arms["human", detector][:, place]
                for detector in tuned
                for n, place in ((1, 0), (most, -1))
            },
            between(0.47, 0.53),
            "A(n)",
        ),
        Claim(
            "below_ceiling",
            "No detector tells more than the exact likelihood ratio of machine and author.",
            OURS,
            above_exact,
            below(0.02),
            "A(n) above the ratio's, the most over detectors and n",
        ),
        Claim(
            "quality_kept",
            "What fools detectors is no worse a text than a human's.",
            OURS,
            {TITLES[name]: nats[name] - nats["human"] for name in (*tuned, "imitation")},
            below(0.2),
            "nats per word above human texts, exactly",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """A(n) of every machine by all detectors, under that of the exact ratio."""
    arms, counts = Arms(results), results["counts"]
    titles = [f"{title}: AURA {areas(results, name).mean():.2f}" for name, title in TITLES.items()]
    drawn, axes = panels(2, 2, width=4.6, height=3.1, titles=titles)
    for panel, name in zip(axes, TITLES, strict=True):
        for detector, color in zip(DETECTORS, PALETTE, strict=False):
            band(panel, counts, arms[name, detector], LABELS[detector], color, marker="o", markersize=3)
        panel.plot(
            counts, arms[name, "exact"].mean(axis=0), color=BLACK, linestyle="--", label="exact likelihood ratio"
        )
        reference(panel, 0.5, "nothing told")
        panel.set(xscale="log", ylim=(-0.03, 1.03), xlabel=f"texts of a set (AURA up to {counts[-1]})", ylabel="A(n)")
        panel.set_xticks(counts, [str(n) for n in counts])
        panel.minorticks_off()
    axes[0].legend(fontsize=7, loc="lower right", ncols=2)
    return drawn
