"""Claim C3: a loss on selected tokens learns clean text faster from noisy text (Rho-1; method card token-reduction-beyond-efficiency).

A first-order Markov language, and between its tokens 30 % of noise, uniform over the same symbols. A tiny Transformer learns from all
tokens or from 60 % of each batch: those of the largest excess over a reference model's loss, random ones, or those known to be clean. The
clean reference has read as much clean text of the language, drawn from other keys, as Rho-1's read curated text; the noisy reference is
the model that learned from all tokens, so that nothing in its arm has ever seen clean text. Judged on clean text in nats per token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes

from experiments.harness.arms import courses, train_arms
from experiments.harness.claims import Claim, interval
from experiments.harness.style import BLACK, BLUE, GREY, ORANGE, SKY, band
from experiments.harness.training import Training, initial, stacked
from experiments.harness.workspace import Workspace
from experiments.merging.verdicts import judged
from lexinv.merging.criteria import random
from lexinv.merging.selective_loss import excess_loss, selective_cross_entropy, top_share
from lexinv.nn.language_model import initialize, make_nll
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.tokenization.sources import sample
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.streams import stream
from lexinv.validation import require

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
WINDOW = 20
"""Steps over which the clean loss is averaged before it is compared."""


@dataclass(frozen=True)
class SelectiveConfig:
    """symbols: of the language. concentration: of the Dirichlet prior of its transitions; small is predictable. length: in tokens."""

    symbols: int = 32
    concentration: float = 0.1
    noise: float = 0.3
    rate: float = 0.6
    length: int = 64
    batch_size: int = 16
    steps: int = 400
    depth: int = 2
    width: int = 32
    learning_rate: float = 3e-3

    def __post_init__(self):
        require(self.symbols >= 2, "selective_training.symbols", self.symbols, "at least 2")
        require(0 < self.noise < 1, "selective_training.noise", self.noise, "between 0 and 1")
        require(0 < self.rate < 1, "selective_training.rate", self.rate, "between 0 and 1")
        require(self.steps >= 2 * WINDOW, "selective_training.steps", self.steps, f"at least {2 * WINDOW}")
        require(self.steps % 20 == 0, "selective_training.steps", self.steps, "a multiple of 20")
        self.model()

    def model(self) -> TransformerConfig:
        width = self.width
        return TransformerConfig(
            depth=self.depth, width=width, heads=2, mlp_width=2 * width, max_length=self.length, unroll=self.depth
        )


def languages(symbols: int, concentration: float, seeds: Sequence[int]) -> Float[Array, "seeds symbols symbols"]:
    """First-order kernels with Dirichlet rows, one for each seed. By NumPy: JAX takes longer to compile them than all the rest."""
    draws = [np.random.default_rng(seed).dirichlet(np.full(symbols, concentration), symbols) for seed in seeds]
    return jnp.asarray(np.stack(draws), jnp.float32)


def noisy_text(
    key: jax.Array, kernel: jax.Array, config: SelectiveConfig, noise: jax.Array
) -> tuple[jax.Array, jax.Array]:
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


def measure(config: SelectiveConfig, seeds: tuple[int, ...], workspace: Workspace) -> dict[str, Any]:
    """By arm: the clean loss in nats per token, averaged over bins of steps, [seeds][bins], and what the claims need."""
    model, lexicon = config.model(), LexiconConfig()
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
    given = {"kernel": languages(config.symbols, config.concentration, seeds), "reference": learned}
    trained = train("first", dict.fromkeys(FIRST, (learned, given)))
    references = {"excess": trained["reference"], "excess_noisy": trained["all"]}
    second = {
        arm: (learned, given | ({"reference": stacked(references[arm])} if arm in references else {})) for arm in SECOND
    }
    train("second", second)
    logged = ("clean", "gradient_norm", "purity")
    found = courses("selective_training/first", FIRST, logged, workspace)
    found |= courses("selective_training/second", SECOND, logged, workspace)
    return {"rate": config.rate, "steps": config.steps, "courses": {arm: summarise(found[arm]) for arm in ARMS}}


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


def steps_to_target(arm: dict[str, Any], target: np.ndarray) -> np.ndarray:
    """The first step, per seed, at which the averaged clean loss is at most the target; all steps where it never is."""
    reached = np.array(arm["clean"]) <= target[:, None]
    first = np.where(reached.any(1), reached.argmax(1), reached.shape[1] - 1)
    return WINDOW + first * (WINDOW // 2)


def savings(measured: dict[str, Any]) -> dict[str, np.ndarray]:
    """By arm and seed: the share of the steps of learning from all tokens that it saves on the way to the latter's last clean loss."""
    arms = measured["courses"]
    target = np.min(arms["all"]["clean"], axis=1)
    steps = {arm: steps_to_target(found, target) for arm, found in arms.items()}
    return {arm: 1 - taken / steps["all"] for arm, taken in steps.items()}


def judge(measured: dict[str, Any]) -> list[Claim]:
    """C3 with Rho-1's reference, with one that saw no clean text, and the stability of the gradient."""
    arms, saved = measured["courses"], savings(measured)
    spread = {arm: np.array(found["norm_spread"]) for arm, found in arms.items()}
    final = {arm: interval(found["final"]) for arm, found in arms.items()}
    purity = {arm: interval(arms[arm]["purity"]) for arm in ("excess", "excess_noisy")}

    def saving(arm: str) -> dict[str, Any]:
        return {"steps saved": interval(saved[arm]), "over random": interval(saved[arm] - saved["random"])}

    rule = "share of steps saved on the way to the best clean loss of learning from all tokens, and that less the random selection's"
    return [
        judged(
            3,
            "selective_loss_learns_faster",
            "Training on the tokens of largest excess loss reaches the clean loss of training on all in fewer steps, random tokens do not "
            "(measured: 30 % noise, 60 % of tokens, clean reference; final clean loss in nats per token and share of clean tokens beside).",
            rule,
            saving("excess"),
            SMALLEST_SAVING,
            {"oracle": interval(saved["oracle"]), "final": final, "clean among selected": purity["excess"]},
        ),
        judged(
            3,
            "selective_loss_without_clean_text",
            "It does so with a reference that has read the noisy text only (measured: the same).",
            rule,
            saving("excess_noisy"),
            SMALLEST_SAVING,
            {"final": final["excess_noisy"], "clean among selected": purity["excess_noisy"]},
        ),
        judged(
            3,
            "selective_loss_steadies_gradient",
            "Gradient norms vary less (measured: standard deviation over mean of the second half of training, all less selected and random "
            "less selected, clean reference).",
            "relative spread of gradient norms below that of training on all and of random selection",
            {
                "less than all": interval(spread["all"] - spread["excess"]),
                "less than random": interval(spread["random"] - spread["excess"]),
            },
            SMALLEST_SPREAD,
            {arm: interval(values) for arm, values in spread.items()},
        ),
    ]


def draw(measured: dict[str, Any], axes: Axes) -> None:
    """Clean loss against steps."""
    for arm, (label, color) in ARMS.items():
        curve = np.array(measured["courses"][arm]["clean"])
        band(axes, WINDOW + np.arange(curve.shape[1]) * (WINDOW // 2), curve, label, color)
    axes.set(title="C3: loss on selected tokens", xlabel="steps", ylabel="clean text, nats per token")
    axes.legend()
