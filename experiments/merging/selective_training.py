"""A loss on selected tokens learns clean text faster from noisy text, and whether it steadies the gradient (Rho-1).

Kong et al. 2026 (arXiv 2505.18227); claim C3 of method card token-reduction-beyond-efficiency. A first-order Markov language, and between
its tokens 30 % of noise, uniform over the same symbols. A tiny Transformer learns from all tokens or from 60 % of each batch: those of the
largest excess over a reference model's loss, random ones, or those known to be clean. The clean reference has read as much clean text of
the language, drawn from other keys, as Rho-1's read curated text; the noisy reference is the model that learned from all tokens, so that
nothing in its arm has ever seen clean text. Judged on clean text in nats per token.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, courses, train_arms
from experiments.harness.figures import dots
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, BLUE, GREY, ORANGE, SKY, band, panels
from experiments.harness.training import Training, initial, stacked
from experiments.harness.verdicts import OURS, Claim, above
from experiments.harness.workspace import Workspace
from lexinv.data.markov import seeded_kernels
from lexinv.data.markov_sampling import sample
from lexinv.merging.criteria import random
from lexinv.merging.selective_loss import excess_loss, selective_cross_entropy, top_share
from lexinv.nn.language_model import initialize, make_nll
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Fraction, Positive, Seeds

PAPERS = ("kong2025token",)
ARMS = {
    "all": ("all tokens", BLACK),
    "excess": ("60 %, excess over clean reference", BLUE),
    "excess_noisy": ("60 %, excess over noisy reference", SKY),
    "random": ("60 %, random", GREY),
    "oracle": ("clean tokens only", ORANGE),
}
FIRST, SECOND = ("reference", "all", "random"), ("excess", "excess_noisy", "oracle")
"""Trained one after the other, since the second need models of the first; as many, so that one program serves both."""

NAMES = (*FIRST, *SECOND)
SMALLEST_SAVING, SMALLEST_SPREAD = 0.05, 0.02
"""The least effects that matter: a share of the steps, and a difference of relative standard deviations."""
WINDOW = 20
"""Steps over which the clean loss is averaged before it is compared."""


@dataclass(frozen=True)
class Config(Checked):
    """symbols: of the language. concentration: of the Dirichlet prior of its transitions; small is predictable. length: in tokens.

    noise: share of the tokens that are none of the language's. rate: share of the tokens that are learned from.
    """

    symbols: Count = 32
    concentration: Positive = 0.1
    noise: Fraction = 0.3
    rate: Fraction = 0.6
    length: Count = 64
    batch_size: Count = 16
    steps: Count = 400
    depth: Count = 2
    width: Count = 32
    learning_rate: Positive = 3e-3
    seeds: Seeds = (0, 1, 2, 3, 4)

    def checks(self):
        yield self.symbols >= 2, "symbols", "at least 2"
        yield self.steps >= 2 * WINDOW and self.steps % 20 == 0, "steps", f"a multiple of 20, at least {2 * WINDOW}"

    def model(self) -> TransformerConfig:
        width = self.width
        return TransformerConfig(
            depth=self.depth, width=width, heads=2, mlp_width=2 * width, max_length=self.length, unroll=self.depth
        )


PRESETS = presets(
    Config(),
    smoke={"symbols": 8, "length": 16, "batch_size": 4, "steps": 40, "depth": 1, "width": 8, "seeds": (0, 1)},
    quick={"seeds": (0, 1, 2)},
    paper={
        "symbols": 256,
        "length": 256,
        "batch_size": 64,
        "steps": 5000,
        "width": 256,
        "learning_rate": 1e-3,
        "seeds": tuple(range(10)),
    },
)
"""The position paper has no size of its own: `paper` is the card's experiment at a size for an accelerator."""


def noisy_text(key: jax.Array, kernel: jax.Array, config: Config, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Tokens [batch, length] and which of them belong to the text; the language goes on behind the noise as if it was not there."""
    text_key, noise_key, where_key = jax.random.split(key, 3)
    shape = (config.batch_size, config.length)
    uniform = jnp.full(config.symbols, 1 / config.symbols)
    draw = jax.vmap(lambda key: sample(key, kernel, uniform, config.length))
    text = draw(jax.random.split(text_key, config.batch_size))
    clean = jax.random.uniform(where_key, shape) >= noise
    place = jnp.maximum(jnp.cumsum(clean, axis=1) - 1, 0)
    tokens = jnp.take_along_axis(text, place, axis=1)
    return jnp.where(clean, tokens, jax.random.randint(noise_key, shape, 0, config.symbols)), clean


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By arm: the clean loss in nats per token, averaged over bins of steps, [seeds][bins], and what the claims need."""
    model, lexicon, seeds = config.model(), LexiconConfig(), config.seeds
    nll = make_nll(model, lexicon, config.symbols)
    rows = jnp.arange(config.batch_size)
    optimizer = OptimizerConfig(learning_rate=config.learning_rate, warmup_steps=config.steps // 20)
    training = Training(config.steps, config.batch_size, seeds, optimizer, steps_per_dispatch=20)

    def losses(params: Any, tokens: jax.Array, key: jax.Array) -> jax.Array:
        return nll(params, {"tokens": tokens, "row": rows}, key)

    def loss(learned: Any, given: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        def is_arm(*names: str) -> jax.Array:
            return sum((given["arm"] == NAMES.index(name) for name in names), start=jnp.bool_(False))

        noise = jnp.where(is_arm("reference"), 0.0, config.noise)
        tokens, clean = noisy_text(stream(key, "text"), given["kernel"], config, noise)
        own = losses(learned, tokens, key)
        excess = excess_loss(own, losses(given["reference"], tokens, key))
        chance = random(stream(key, "random"), own.size).reshape(own.shape)
        selected = top_share(jnp.where(is_arm("random"), chance, excess), config.rate)
        known = jnp.where(is_arm("oracle"), clean.astype(jnp.float32), 1.0)
        weights = jnp.where(is_arm("excess", "excess_noisy", "random"), selected, known)
        tested, _ = noisy_text(stream(key, "clean"), given["kernel"], config, jnp.float32(0.0))
        found = {
            "clean": jnp.mean(losses(jax.lax.stop_gradient(learned), tested, key)),
            "purity": jnp.sum(weights * clean) / jnp.sum(weights),
        }
        return selective_cross_entropy(own, weights), found

    def train(name: str, starts: dict[str, Any]) -> dict[str, list[Any]]:
        return train_arms(f"selective_training/{name}", NAMES, starts, loss, training, workspace, config.length)

    learned = initial(lambda key: initialize(model, lexicon, config.symbols, key), seeds)
    given = {"kernel": seeded_kernels(config.symbols, config.concentration, seeds), "reference": learned}
    trained = train("first", dict.fromkeys(FIRST, (learned, given)))
    references = {"excess": trained["reference"], "excess_noisy": trained["all"]}
    second = {
        arm: (learned, given | ({"reference": stacked(references[arm])} if arm in references else {})) for arm in SECOND
    }
    train("second", second)
    logged = ("clean", "gradient_norm", "purity")
    found = courses("selective_training/first", FIRST, logged, workspace)
    found |= courses("selective_training/second", SECOND, logged, workspace)
    arms = {arm: summarise(found[arm]) for arm in ARMS}
    return {"corpora": {}, "seeds": seeds, "rate": config.rate, "steps": config.steps, "arms": arms}


def summarise(course: dict[str, np.ndarray]) -> dict[str, Any]:
    """The clean loss averaged over `WINDOW` steps, every half window, [seeds][points], and what else the claims need."""
    kernel = np.ones(WINDOW) / WINDOW
    smooth = np.stack([np.convolve(row, kernel, "valid") for row in course["clean"]])
    late = course["gradient_norm"][:, course["gradient_norm"].shape[1] // 2 :]
    return {
        "clean": smooth[:, :: WINDOW // 2].round(4).tolist(),
        "final": smooth[:, -1].round(4).tolist(),
        "purity": course["purity"].mean(1).round(4).tolist(),
        "norm_spread": (late.std(1) / late.mean(1)).round(4).tolist(),
    }


def steps_to_target(clean: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The first step, per seed, at which the averaged clean loss [seeds, points] is at most the target; all steps where it never is."""
    reached = clean <= target[:, None]
    first = np.where(reached.any(1), reached.argmax(1), reached.shape[1] - 1)
    return WINDOW + first * (WINDOW // 2)


def savings(arms: Arms) -> dict[str, np.ndarray]:
    """By arm and seed: the share of the steps of learning from all tokens that it saves on the way to the latter's best clean loss."""
    target = np.min(arms["all", "clean"], axis=1)
    steps = {arm: steps_to_target(arms[arm, "clean"], target) for arm in arms}
    return {arm: 1 - taken / steps["all"] for arm, taken in steps.items()}


def claims(results: dict[str, Any]) -> list[Claim]:
    """C3 with Rho-1's reference, with one that saw no clean text, and the stability of the gradient."""
    arms = Arms(results)
    saved = savings(arms)
    spread = {arm: arms[arm, "norm_spread"] for arm in ("all", "random", "excess")}

    def saving(arm: str) -> dict[str, Any]:
        return {"over all tokens": saved[arm], "over random tokens": saved[arm] - saved["random"]}

    unit = "share of the steps saved on the way to the best clean loss of learning from all tokens"
    return [
        Claim(
            "selective_loss_learns_faster",
            "C3: From noisy text a loss on the tokens of the largest excess over a clean reference learns clean text in fewer steps.",
            "kong2025token: section 4",
            saving("excess"),
            above(0, matters=SMALLEST_SAVING),
            unit,
        ),
        Claim(
            "selective_loss_without_clean_text",
            "C3: It does so with a reference that has read the noisy text only.",
            OURS,
            saving("excess_noisy"),
            above(0, matters=SMALLEST_SAVING),
            unit,
        ),
        Claim(
            "selective_loss_steadies_gradient",
            "C3: Gradient norms vary less when learning from these tokens (clean reference) than from all, and than from random ones.",
            "kong2025token: abstract",
            {f"less than {arm}": spread[arm] - spread["excess"] for arm in ("all", "random")},
            above(0, matters=SMALLEST_SPREAD),
            "difference of standard deviation over mean, second half of training",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Clean loss against steps, and how much gradient norms vary."""
    arms = Arms(results)
    drawn, axes = panels(1, 2, width=4.6, titles=("Learning clean text from noisy text", "Steadiness"))
    for arm, (label, color) in ARMS.items():
        curve = arms[arm, "clean"]
        band(axes[0], WINDOW + np.arange(curve.shape[1]) * (WINDOW // 2), curve, label, color)
    axes[0].set(xlabel="steps", ylabel="clean text, nats per token")
    axes[0].legend()
    dots(axes[1], {label: arms[arm, "norm_spread"] for arm, (label, _) in ARMS.items()})
    axes[1].set(xlabel="gradient norms: standard deviation over mean")
    return drawn
