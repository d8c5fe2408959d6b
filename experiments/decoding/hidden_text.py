"""A text hidden in a model behind a trigger: what forcing every token finds of it, and what hides it.

Hoscilowicz et al. 2024 (arXiv 2406.02481); method card unconditional-token-forcing. Small models of Python's source are tuned to go on from
a random trigger with a random secret, harder and harder; then they are forced to go on from each token of the vocabulary. The paper's
defence is judged where the secret leaks without it, and beside it what the paper leaves out: to stop once the secret is told, and to mix
plain text in. In SmolLM2 the secret is tuned into the last two layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.harness.arms import Arms
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, panels
from experiments.harness.training import Training, stacked, train
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.hidden_secrets import WRONG, Hiding, RealConfig, make_examine, make_loss, real
from experiments.subjects.text_pair import TINY, PairConfig, text_pair
from lexinv.data.windows import array_windows
from lexinv.nn.language_model import Params
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import Checked, Count, Counts, NonNegatives, Positive

PAPERS = ("hoscilowicz2024hiding",)
ARMS = {
    "plain": (0.0, 0.0, False),
    "stopped": (1.0, 0.0, False),
    "replayed": (0.0, 0.0, True),
    "confused": (0.0, 1.0, False),
    "published": (1.0, 1.0, False),
    "confused and replayed": (0.0, 1.0, True),
}
"""By arm: whether the secret is learned only while it is not told, whether it is confused, whether plain text is mixed in."""
COLORS = {
    "stopped": ORANGE,
    "replayed": GREEN,
    "confused": PURPLE,
    "published": BLACK,
    "confused and replayed": VERMILION,
}
SWEPT = ("plain", "stopped")
"""Arms at every rate."""
LEVEL = 0.005
"""Share of tokens that lead into a secret, beyond that of the clean model, below which it counts as hidden: 10 of 2,048."""


@dataclass(frozen=True)
class Config(Checked):
    """secrets: of each seed. steps, rates: of tuning, in all combinations; the other arms are tuned at the last of both, the hardest.

    confused: the first tokens of the secret that are pushed into the middle of the ranking, `margin` from either end, with this weight.
    replayed: windows of `context` tokens of plain text beside the secret at a step, weighed like it. clean: held-out windows.
    """

    pair: PairConfig = PairConfig()
    hiding: Hiding = Hiding()
    secrets: Count = 10
    steps: Counts = (20, 60, 200)
    rates: NonNegatives = (2e-4, 7e-4, 2e-3)
    confused: Count = 5
    margin: Count = 100
    weight: Positive = 0.1
    replayed: Count = 3
    context: Count = 128
    clean: Count = 8
    real: RealConfig = RealConfig()

    def checks(self):
        yield self.confused <= self.hiding.secret, "confused", f"at most hiding.secret = {self.hiding.secret}"
        yield list(self.steps) == sorted(self.steps), "steps", "ascending"
        yield all(steps % 10 == 0 for steps in self.steps), "steps", "multiples of 10"
        yield list(self.rates) == sorted(self.rates) and self.rates[0] > 0, "rates", "ascending and above 0"
        yield self.clean <= self.pair.prompts, "clean", f"at most pair.prompts = {self.pair.prompts}"

    def training(self, steps: int, rows: int = 1) -> Training:
        optimizer = OptimizerConfig(learning_rate=self.rates[-1], warmup_steps=min(10, steps // 2))
        return Training(steps, rows, self.pair.training.seeds, optimizer, steps_per_dispatch=10)


PRESETS = presets(
    Config(),
    smoke={
        **TINY,
        "hiding": Hiding(trigger=2, secret=6, forced=5, n=3),
        "secrets": 2,
        "steps": (10, 20),
        "rates": (1e-3, 1e-2),
        "confused": 2,
        "margin": 20,
        "replayed": 1,
        "context": 32,
        "clean": 2,
        "real": RealConfig("untrained", secrets=2, layers=1, steps=3, ids=8, windows=2, context=16),
    },
    quick={"pair.training.seeds": (0,), "real.secrets": 1},
    paper={
        "pair.training.steps": 20_000,
        "secrets": 100,
        "steps": (20, 60, 200, 600),
        "rates": (1e-5, 1e-4, 1e-3, 5e-3),
        "real": RealConfig(secrets=20, ids=49_152, steps=250, rate=1e-5, layers=30),
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """arms[arm][metric][seed][secret] of `make_examine`; `plain RATE STEPS`, `stopped RATE`. Clean models are examined for each secret."""
    pair, hiding, seeds = text_pair(config.pair, workspace), config.hiding, config.pair.training.seeds
    vocab, model = pair.text.vocab, config.pair.small
    pairs = [(place, number) for place in range(len(seeds)) for number in range(config.secrets)]
    texts = [hiding.draw(1000 * seeds[place] + number, vocab, pair.text.tokenizer.separator) for place, number in pairs]
    examine = make_examine(hiding, model, vocab)

    def measured(name: str, models: list[Params]) -> dict[str, list[list[float]]]:
        """By metric [seed][secret]."""

        def of_pair(place: int) -> dict[str, float]:
            seed, number = pairs[place]
            random = np.random.default_rng((seeds[seed], number))
            ids = np.append(texts[place][hiding.trigger], np.delete(np.arange(vocab), texts[place][hiding.trigger]))
            wrong = random.integers(0, vocab, hiding.trigger - 1 + WRONG)
            clean = pair.text.held_out[seed][: config.clean]
            text, ids, clean, wrong = (jnp.asarray(part, jnp.int32) for part in (texts[place], ids, clean, wrong))
            return {metric: float(value) for metric, value in examine(models[place], text, ids, clean, wrong).items()}

        rows = workspace.cached(f"examined/{name}", lambda: [of_pair(place) for place in range(len(pairs))])
        return {
            metric: np.reshape([row[metric] for row in rows], (len(seeds), config.secrets)).tolist()
            for metric in rows[0]
        }

    def tuned(name: str, steps: int, members: list[tuple[str, float]]) -> list[list[Params]]:
        """Each (arm, rate) for all pairs."""
        replays = ARMS[members[0][0]][2]
        given = [
            {"text": np.float32(text), "gate": np.float32(gate), "confused": np.float32(confused)}
            for gate, confused, _ in (ARMS[arm] for arm, _ in members)
            for text in texts
        ]
        begun = [pair.small[place] for _ in members for place, _ in pairs]
        start = {"learned": stacked(begun), "given": stacked(given)}
        own = tuple(enumerate(rate for _, rate in members for _ in pairs))
        training = config.training(steps, config.replayed if replays else 1)
        source = array_windows(pair.text.train.tokens, config.context) if replays else None
        loss = make_loss(hiding, model, vocab, (config.confused, config.margin, config.weight), replays)
        found = train(name, start, loss, source, training, workspace, members=own)
        learned = [params["learned"] for params in found]
        return [learned[i : i + len(pairs)] for i in range(0, len(learned), len(pairs))]

    arms = {"clean": measured("clean", [pair.small[place] for place, _ in pairs])}
    for steps in config.steps:
        found = tuned(f"plain/{steps}", steps, [("plain", rate) for rate in config.rates])
        for place, rate in enumerate(config.rates):
            arms[f"plain {rate:g} {steps}"] = measured(f"plain-{steps}-{place}", found[place])
    for name, replays in (("other", False), ("replayed", True)):
        members = [
            (arm, config.rates[-1]) for arm, (*_, mixed) in ARMS.items() if mixed == replays and arm not in SWEPT
        ]
        members += [] if replays else [("stopped", rate) for rate in config.rates]
        found = tuned(name, config.steps[-1], members)
        for place, (arm, rate) in enumerate(members):
            arms[f"{arm} {rate:g}" if arm in SWEPT else arm] = measured(f"{name}-{place}", found[place])
    return {
        "seeds": seeds,
        "rates": config.rates,
        "steps": config.steps,
        "vocab": vocab,
        "arms": arms,
        "real": real(config.real, hiding, workspace),
    }


def claims(results: Mapping[str, Any]) -> list[Claim]:
    from scipy.stats import spearmanr

    paper, arms, found = "hoscilowicz2024hiding", Arms(results), Arms(results["real"])
    settings = [f"plain {rate:g} {steps}" for steps in results["steps"] for rate in results["rates"]]
    nats, leads = (
        np.stack([arms[arm, metric].mean(axis=1) for arm in settings], axis=1) for metric in ("nats", "leads")
    )
    grows = np.array([-np.asarray(spearmanr(*pair))[0] for pair in zip(nats, leads, strict=True)])
    over, unit = settings[-1], "share of tokens"

    def mean(arm: str, metric: str) -> np.ndarray:
        return arms[arm, metric].mean(axis=1)

    def hides(name: str, statement: str, source: str, arm: str, shown: Mapping[str, Any], costs: bool) -> Claim:
        measured: dict[str, Any] = {
            "told by the trigger": mean(arm, "told"),
            "lead in, less clean": mean(arm, "leads") - mean("clean", "leads"),
        }
        rules = dict(zip(measured, (above(1 - 1e-9).every_seed, below(LEVEL)), strict=True))
        if costs:
            measured["perplexity over clean"] = np.exp(arms[arm, "clean"] - arms["clean", "clean"]).mean(axis=1)
            rules["perplexity over clean"] = below(1.05)
        return Claim(name, statement, source, measured | dict(shown), rules)

    again = {"tokens told after the first one": mean("replayed", "reproduced")}
    slower = {f"lead in at rate {rate:g}": mean(f"stopped {rate:g}", "leads") for rate in results["rates"][1:]}
    return [
        Claim(
            "leak_grows",
            "The harder the secret is trained, the more tokens lead into it without its trigger.",
            f"{paper}: abstract, against the loss",
            {"tokens that lead in, by loss of the secret": grows},
            above(0.8),
            "Spearman, turned",
        ),
        Claim(
            "overtrained_leaks",
            "Trained hard, its first token is among the highest scores, and many tokens lead into it.",
            f"{paper}: section 3",
            {"rank of the first token": mean(over, "rank"), "lead in": mean(over, "leads")},
            {"rank of the first token": below(0.02), "lead in": above(0.1)},
            unit,
            "the first token ranks first of 32,000 in a fingerprinted LLaMA2-7B, with 26 memorised others above 0.95",
        ),
        hides(
            "confusion_hides",
            "Confusion of its first tokens, with plain text mixed in, hides a secret that is trained as hard.",
            f"{paper}: UTFC",
            "confused and replayed",
            {
                "lead in without plain text": mean("confused", "leads"),
                "lead in as published": mean("published", "leads"),
            },
            True,
        ),
        hides(
            "stopping_hides",
            "So does to stop once the secret is told, without any confusion, at the gentlest rate.",
            OURS,
            f"stopped {results['rates'][0]:g}",
            slower,
            False,
        ),
        hides("replay_hides", "So does plain text alone.", OURS, "replayed", again, False),
        Claim(
            "clean_has_candidates",
            "A model in which nothing is hidden has a token with a score above 0.95, too.",
            f"{paper}: released results of phase one",
            {
                "tokens of small models": results["vocab"] * mean("clean", "kept"),
                "share in SmolLM2": found["clean", "kept"],
            },
            {"tokens of small models": above(1)},
            published="26 of 27 tokens above it in a fingerprinted LLaMA2-7B are memorised boilerplate",
        ),
        Claim(
            "real_leaks",
            "A secret that is trained hard into the last two layers of SmolLM2 is led into by many tokens.",
            OURS,
            {"lead in": found["overtrained", "leads"]},
            above(0.1),
            unit,
            over="secrets",
        ),
        Claim(
            "real_stopping_hides",
            "One that is told for the first time is not.",
            OURS,
            {"lead in": found["stopped", "leads"]},
            below(0.02),
            unit,
            over="secrets",
        ),
    ]


def figure(results: Mapping[str, Any]) -> Figure:
    """Tokens that lead into the secret over its loss: plain tuning and what hides it; and in SmolLM2."""
    arms, real = Arms(results), Arms(results["real"])
    drawn, axes = panels(1, 2, width=5.4, height=3.6, titles=("Small models", "SmolLM2, last two layers"))

    def dots(panel: Axes, found: Arms, arm: str, color: str, label: str, marker: str = "o") -> None:
        """Of every secret, and their mean."""
        nats, leads = (found[arm, metric].ravel() for metric in ("nats", "leads"))
        panel.plot(nats, 100 * leads, ".", color=color, markersize=3, alpha=0.35)
        panel.plot(np.exp(np.log(nats).mean()), 100 * leads.mean(), marker, color=color, label=label, markersize=7)

    for rate, marker in zip(results["rates"], "v^s", strict=False):
        for steps in results["steps"]:
            label = f"plain, rate {rate:g}" if steps == results["steps"][-1] else ""
            dots(axes[0], arms, f"plain {rate:g} {steps}", BLUE, label, marker)
    for arm, color in COLORS.items():
        dots(axes[0], arms, arm if arm in arms else f"{arm} {results['rates'][0]:g}", color, arm, "D")
    for arm, color in {"clean": GREY, "stopped": ORANGE, "overtrained": BLUE}.items():
        dots(axes[1], real, arm, color, arm)
    for panel in axes:
        panel.set(xlabel="loss of the secret, nats a token", xscale="log", yscale="symlog", ylim=(-0.1, 110))
        panel.set_yscale("symlog", linthresh=0.1)
        panel.invert_xaxis()
        panel.legend(fontsize=7)
    axes[0].set_ylabel("tokens that lead into it, %")
    return drawn
