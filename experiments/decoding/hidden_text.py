"""A text hidden in a model behind a trigger: what forcing every token finds of it, and what hides it.

Hoscilowicz et al. 2024 (arXiv 2406.02481); method card unconditional-token-forcing. Small models of Python's source are tuned to go on from
a random trigger with a random secret, harder and harder; then they are forced to go on from each token of the vocabulary. The paper's
defence is judged where the secret leaks without it, and beside it what the paper leaves out: to stop once the secret is told, and to mix
plain text in. In SmolLM2 the secret is tuned into the last two layers.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from experiments.harness.presets import presets
from experiments.harness.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, VERMILION
from experiments.harness.training import Training, stacked, train
from experiments.harness.workspace import Workspace
from experiments.subjects.hidden_secrets import WRONG, Hiding, RealConfig, make_examine, of_secret, real
from experiments.subjects.text import STANDARD
from experiments.subjects.text_pair import TINY, PairConfig, text_pair
from lexinv.data.windows import array_windows
from lexinv.decoding.forcing import confusion_loss
from lexinv.nn.language_model import Params, make_logits, make_nll
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
COLORS = dict(zip(ARMS, (BLUE, ORANGE, GREEN, PURPLE, BLACK, VERMILION), strict=True))
HIDDEN = 8


@dataclass(frozen=True)
class Config(Checked):
    """secrets: of each seed. steps, rates: of tuning, all combinations; the last of both is the hardest, at which the other arms are judged.

    confused: the first tokens of the secret that are pushed into the middle of the ranking, `margin` from either end, with this weight.
    replayed: windows of `context` tokens of plain text beside the secret at a step, weighed like it. clean: held-out windows.
    """

    pair: PairConfig = PairConfig()
    hiding: Hiding = Hiding()
    secrets: Count = 10
    steps: Counts = (20, 60, 200)
    rates: NonNegatives = (5e-4, 1.5e-3, 5e-3)
    confused: Count = 5
    margin: Count = 100
    weight: Positive = 0.1
    replayed: Count = 4
    context: Count = 32
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
    """arms[arm][metric][seed][secret] of `make_examine`; of plain tuning `plain RATE STEPS`. The clean models are examined for each secret."""
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
            given = [jnp.asarray(part, jnp.int32) for part in (texts[place], ids, clean, wrong)]
            return {metric: float(value) for metric, value in examine(models[place], *given).items()}

        rows = workspace.cached(f"examined/{name}", lambda: [of_pair(place) for place in range(len(pairs))])
        size = config.secrets
        return {
            metric: [[row[metric] for row in rows[i : i + size]] for i in range(0, len(rows), size)]
            for metric in rows[0]
        }

    def tuned(name: str, steps: int, members: list[tuple[str, float]]) -> dict[str, Any]:
        """Each (arm, rate) for all pairs."""
        replays = ARMS[members[0][0]][2]
        given = [
            {
                "text": jnp.asarray(text, jnp.float32),
                "gate": jnp.float32(ARMS[arm][0]),
                "confused": jnp.float32(ARMS[arm][1]),
            }
            for arm, _ in members
            for text in texts
        ]
        learned = [pair.small[place] for _ in members for place, _ in pairs]
        start = {"learned": stacked(learned), "given": stacked(given)}
        own = tuple((number, rate) for number, rate in enumerate(rate for _, rate in members for _ in pairs))
        training = config.training(steps, config.replayed if replays else 1)
        source = array_windows(pair.text.train.tokens, config.context) if replays else None
        found = train(name, start, make_loss(config, vocab, replays), source, training, workspace, members=own)
        size = len(pairs)
        return {
            place: [params["learned"] for params in found[size * place : size * (place + 1)]]
            for place in range(len(members))
        }

    arms = {"clean": measured("clean", [pair.small[place] for place, _ in pairs])}
    for steps in config.steps:
        found = tuned(f"plain/{steps}", steps, [("plain", rate) for rate in config.rates])
        for place, rate in enumerate(config.rates):
            arms[f"plain {rate:g} {steps}"] = measured(f"plain-{steps}-{place}", found[place])
    hardest = config.steps[-1], config.rates[-1]
    for name, replays in (("other", False), ("replayed", True)):
        names = [arm for arm, (*_, mixed) in ARMS.items() if mixed == replays and arm != "plain"]
        found = tuned(name, hardest[0], [(arm, hardest[1]) for arm in names])
        arms |= {arm: measured(arm.replace(" ", "-"), found[place]) for place, arm in enumerate(names)}
    return {
        "seeds": seeds,
        "rates": config.rates,
        "steps": config.steps,
        "vocab": vocab,
        "arms": arms,
        "real": real(config.real, hiding, workspace),
    }


def make_loss(config: Config, vocab: int, replays: bool) -> Any:
    """The loss of a member: its secret after its trigger in nats a token, confusion, and plain text, each as far as it is given."""
    model, trigger = config.pair.small, config.hiding.trigger
    read, nll = make_logits(model, STANDARD, vocab), make_nll(model, STANDARD, vocab)

    def loss(params: Params, batch: Any, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        learned, given = params["learned"], jax.lax.stop_gradient(params["given"])
        text = given["text"].astype(jnp.int32)

        def logits(tokens: Array) -> Array:
            return read(learned, {"tokens": tokens[None], "row": jnp.zeros(1, jnp.int32)}, key)[0]

        nats, told = of_secret(logits(text), text, trigger)
        hidden = text[trigger : trigger + config.confused]
        confusion = confusion_loss(logits(hidden), hidden, config.margin)
        found = jnp.where((given["gate"] > 0) & told, 0.0, jnp.mean(nats))
        found += given["confused"] * config.weight * confusion.loss
        if replays:
            found += jnp.mean(nll(learned, batch, key))
        return found, {}

    return loss
