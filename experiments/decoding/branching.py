"""How many next tokens a model chooses between: fewer along a text, fewer still once it is an assistant, or is made to begin like one.

Yang et al. 2025 (arXiv 2506.17871), method card branching-factor. Models of dialogues of which the exact law is known talk as eight authors
do, the first of whom, the assistant, has little choice of words; one goes on from there on the assistant's texts, another on pairs of its
own texts (DPO). Beside them the predictions that Bayes' rule makes, prefixes in another order, random words as long as nudges, and SmolLM2
in its chat template and in plain text.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, by_metric
from experiments.harness.figures import lines
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, BLUE, GREEN, ORANGE, VERMILION, band, panels, reference
from experiments.harness.verdicts import OURS, Claim, above, below, between
from experiments.harness.workspace import Workspace
from experiments.subjects.chat_answers import ask
from experiments.subjects.dialogue_models import TINY, DialogueModels
from experiments.subjects.talk_branching import SETTINGS, measure_branching
from experiments.subjects.tuned_talkers import ASSISTANT, Talkers
from experiments.subjects.writers import TINY_TUNING, Tuning
from lexinv.validation import Checked, Count, CountOrZero

PAPERS = ("yang2025alignment",)
PAPER = "yang2025alignment"
LABELS = {
    "base": ("base", BLUE),
    "bayes": ("Bayes, author unknown", BLACK),
    "shuffled": ("base, earlier words shuffled", ORANGE),
    "supervised": ("supervised", VERMILION),
    "dpo": ("DPO", GREEN),
}
ALIGNED = ("supervised", "dpo")


@dataclass(frozen=True)
class RealConfig(Checked):
    """model: an asset with a chat model, or `untrained`. texts: answers of `steps` tokens to each question."""

    model: str = "smollm2"
    questions: Count = 8
    texts: Count = 8
    steps: Count = 48


@dataclass(frozen=True)
class Config(Checked):
    """texts: of each model. window: tokens of a local factor. nudges: words of the aligned model that the base model goes on with."""

    dialogues: DialogueModels = DialogueModels()
    tuning: Tuning = Tuning()
    texts: Count = 512
    window: Count = 6
    nudges: tuple[CountOrZero, ...] = (0, 1, 2, 3, 6)
    real: RealConfig = RealConfig()

    def checks(self):
        same = self.tuning.supervised.seeds == self.dialogues.training.seeds
        yield same, "tuning.supervised.seeds", f"dialogues.training.seeds = {self.dialogues.training.seeds}"
        fits = self.nudges[:1] == (0,) and list(self.nudges) == sorted(set(self.nudges)) and 3 in self.nudges
        yield (
            fits and self.nudges[-1] < self.dialogues.world.said,
            "nudges",
            "ascending from 0, with 3, shorter than a talk",
        )


PRESETS = presets(
    Config(),
    smoke={**TINY, **TINY_TUNING, "texts": 16, "nudges": (0, 3), "real": RealConfig("untrained", 1, 4, 6)},
    quick={f"{part}.seeds": (0,) for part in ("dialogues.training", "tuning.supervised", "tuning.preferred")}
    | {"real.questions": 2},
    paper={"texts": 4096, "real.questions": 12, "real.texts": 50, "real.steps": 1024},
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """arms[model]: local factors [seed][window], and factors [seed]; nudges, settings and halves by seed; real by way of asking."""
    seeds, talkers = config.dialogues.training.seeds, Talkers(config.dialogues, config.tuning, workspace)

    def towards_assistant(arm: str, place: int, words: Array) -> Array:
        return jax.nn.log_softmax(talkers.by_author(words))[:, ASSISTANT]

    models = {"base": talkers.base, "supervised": talkers.supervised}
    start = {"dpo": talkers.base}
    models["dpo"] = talkers.writer.prefer("preferred", start, towards_assistant, config.tuning)[-1]["dpo"]

    def of_seed(seed: str) -> dict[str, Any]:
        chosen = {arm: found[seeds.index(int(seed))] for arm, found in models.items()}
        return measure_branching(talkers, chosen, int(seed), config.texts, config.window, config.nudges)

    rows, real = workspace.stages("measured", map(str, seeds), of_seed), config.real
    found = list(rows.values())
    return {
        "seeds": seeds,
        "window": config.window,
        "nudges": config.nudges,
        "arms": {arm: by_metric([row["arms"][arm] for row in found]) for arm in found[0]["arms"]},
        "nudged": by_metric([row["nudged"] for row in found]),
        "settings": by_metric([row["settings"] for row in found]),
        "excess": [row["excess"] for row in found],
        "real": ask(real.model, real.questions, real.texts, real.steps, config.window, workspace),
    }


def claims(results: dict[str, Any]) -> list[Claim]:
    arms, real = Arms(results), results["real"]
    logs = {arm: np.log(arms[arm, "factor"]) for arm in ("base", "bayes", *ALIGNED)}
    local = {arm: np.log(arms[arm, "local"]) for arm in ("base", "bayes", "shuffled", *ALIGNED)}
    first = {arm: np.exp(local["base"] - local[arm])[:, 0] for arm in ALIGNED}
    place = list(results["nudges"]).index(3)
    nudged = {name: np.array(shares)[:, place] for name, shares in results["nudged"].items()}
    spread = {arm: np.std(scores, axis=1) for arm, scores in results["settings"].items()}
    of_real = {way: np.log(found["factor"]) for way, found in real.items()}
    narrowed = {
        way: np.array([np.log(row[0] / row[-1]) for row in real[way]["local"]]) for way in ("plain", "template")
    }
    return [
        Claim(
            "follows_bayes",
            "The base model's factor is that of the exact predictions of who talks, whoever that is.",
            OURS,
            {
                "log factor less that of Bayes": logs["base"] - logs["bayes"],
                "nats per word above Bayes": np.array(results["excess"]),
            },
            {"log factor less that of Bayes": between(-0.1, 0.1)},
            "nats",
        ),
        Claim(
            "alignment_narrows",
            "Aligned models have a smaller factor, from the first words on.",
            f"{PAPER}: abstract",
            {
                f"{arm}, {part}": values
                for arm in ALIGNED
                for part, values in (("all", np.exp(logs["base"] - logs[arm])), ("first", first[arm]))
            },
            {f"{arm}, {part}": above(bound) for arm in ALIGNED for part, bound in (("all", 2), ("first", 4))},
            f"base over aligned, of all and of the first {results['window']} words",
            "2 to 5, up to ten at first (version 3)",
        ),
        Claim(
            "order_of_magnitude",
            "By nearly an order of magnitude.",
            f"{PAPER}: abstract of version 1",
            {arm: np.exp(logs["base"] - logs[arm]) for arm in ALIGNED},
            above(10),
            "base over aligned",
            "12 to 1.2",
        ),
        Claim(
            "narrows_along",
            "The base model's factor falls along its texts, and less so where earlier words stand in another order.",
            f"{PAPER}: abstract",
            {
                "first window less last": local["base"][:, 0] - local["base"][:, -1],
                "last window shuffled less as written": local["shuffled"][:, -1] - local["base"][:, -1],
            },
            above(0),
            "nats",
        ),
        Claim(
            "nudging_works",
            "Three words of an aligned model bring most of the way to its factor, three random words do not.",
            f"{PAPER}: section on nudging",
            nudged,
            {"aligned": above(0.7), "random": below(0.2)},
            "share of the gap in log factors",
        ),
        Claim(
            "settings_matter_less",
            "How an aligned model is decoded matters less for what it writes.",
            f"{PAPER}: abstract",
            {"aligned over base": spread["supervised"] / spread["base"]},
            below(1),
            f"standard deviation of exact nats per word over {len(SETTINGS)} ways to decode",
        ),
        Claim(
            "not_token_invariant",
            "Where a word is written as two tokens the factor becomes its root; only by word it stays.",
            OURS,
            {
                "log factor of halves over that of words": np.log(arms["base", "halves"]) / logs["base"],
                "factor by word over that of words": arms["base", "by word"] / arms["base", "factor"],
            },
            {
                "log factor of halves over that of words": between(0.49, 0.51),
                "factor by word over that of words": between(0.97, 1.03),
            },
            published="token-invariant",
        ),
        Claim(
            "real_template_narrows",
            "SmolLM2 in its chat template has a smaller factor than on the same question in plain text.",
            f"{PAPER}: abstract",
            {"plain over template": np.exp(of_real["plain"] - of_real["template"])},
            above(1),
            over="questions",
        ),
        Claim(
            "real_narrows_along",
            "Its factor falls along an answer.",
            f"{PAPER}: abstract",
            narrowed,
            above(0),
            "nats, first window less last",
            over="questions",
        ),
        Claim(
            "real_sure_nudges",
            "An answer in plain text that begins with Sure goes on with a smaller factor, more so than after another word.",
            f"{PAPER}: section on nudging",
            {
                "less than plain": of_real["plain"] - of_real["sure"],
                "less than another word": of_real["other"] - of_real["sure"],
            },
            above(0),
            "nats",
            over="questions",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Local factors of models and exact laws, shares closed by nudges, and SmolLM2's local factors."""
    arms, titles = Arms(results), ("Talk", "The base model, nudged", "SmolLM2")
    drawn, (local, nudged, real) = panels(columns=3, width=3.9, titles=titles)
    window = results["window"]
    for arm, (label, color) in LABELS.items():
        values = arms[arm, "local"]
        band(
            local,
            window * np.arange(values.shape[1]) + (window + 1) / 2,
            values,
            label,
            color,
            marker="o",
            markersize=3,
        )
    reference(local, float(arms["assistant", "factor"].mean()), "the assistant, exactly")
    local.set(yscale="log", xlabel="words", ylabel=f"branching factor of {window} words", ylim=(1.6, 45))
    local.set_yticks([2, 3, 5, 10, 20], ["2", "3", "5", "10", "20"])
    local.minorticks_off()
    local.legend(fontsize=7, ncols=2, loc="upper right")
    lines(nudged, results["nudges"], {f"{name} words": shares for name, shares in results["nudged"].items()})
    nudged.set(xlabel="words given", ylabel="share of the gap to supervised closed")
    nudged.legend(fontsize=7.5)
    ways = {"plain": "plain text", "other": "after Table", "sure": "after Sure", "template": "chat template"}
    for (way, label), color in zip(ways.items(), (BLUE, ORANGE, GREEN, VERMILION), strict=True):
        rows = results["real"][way]["local"]
        shown = np.array([row[: min(map(len, rows))] for row in rows])
        band(real, window * np.arange(shown.shape[1]) + (window + 1) / 2, shown, label, color, marker="o", markersize=3)
    real.set(xlabel="tokens of the answer", ylabel=f"branching factor of {window} tokens")
    real.legend(fontsize=7.5)
    return drawn
