"""Whether tokens of high entropy, where texts fork, carry the learning signal.

Kong et al. 2026 (arXiv 2505.18227); claim C5 of method card token-reduction-beyond-efficiency. A language of words: the first letter tells
the word, the others are spelled out, and which word comes next is Markov. So one token of `letters` is a fork. Every update reads all
tokens, the 20 % of the highest predictive entropy under the model that learns, the other 80 %, or 20 % at random. From scratch spelling has
to be learned, too; a model that knows the spelling from another order of the same words, as a base model knows its language before
reinforcement learning, only has to learn the forks. Judged on all tokens of fresh text.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, courses, train_arms
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, BLUE, GREY, VERMILION, band, panels, reference
from experiments.harness.training import Training, initial, stacked
from experiments.harness.verdicts import OURS, Claim, above
from experiments.harness.workspace import Workspace
from lexinv.data.markov import entropy_rate, seeded_kernels
from lexinv.data.markov_sampling import sample
from lexinv.merging.criteria import predictive_entropy, random
from lexinv.merging.selective_loss import selective_cross_entropy, top_share
from lexinv.nn.language_model import initialize, make_logits
from lexinv.nn.lexicon import LexiconConfig, token_nll
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Positive, Seeds

PAPERS = ("kong2025token",)
ARMS = {
    "all": ("all tokens", BLACK),
    "top": ("20 % of highest entropy", BLUE),
    "bottom": ("the other 80 %", VERMILION),
    "random": ("20 % at random", GREY),
}
SETTINGS = {"adapted": "Words known, order new", "scratch": "From scratch"}
SCRATCH = ("base", *(f"scratch {arm}" for arm in ARMS))
ADAPTED = (*(f"adapted {arm}" for arm in ARMS), "adapted forks")
"""Trained after `SCRATCH`, from its base; as many, so that one program serves both. `forks`: those that are known to be."""

NAMES = (*SCRATCH, *ADAPTED)
RATE = 0.2
MARGIN, SMALLEST = 0.02, 0.01
"""Nats per token: within which the full update counts as matched, and the least difference that would matter."""


@dataclass(frozen=True)
class Config(Checked):
    """words, each of `letters` letters of an alphabet as large. text: words in a text. concentration: of the prior of their transitions."""

    words: Count = 16
    letters: Count = 5
    text: Count = 8
    concentration: Positive = 0.3
    batch_size: Count = 16
    steps: Count = 300
    depth: Count = 2
    width: Count = 32
    learning_rate: Positive = 3e-3
    seeds: Seeds = (0, 1, 2, 3, 4)

    def checks(self):
        yield self.words >= 2, "words", "at least 2"
        yield self.letters == round(1 / RATE), "letters", f"{round(1 / RATE)}: a share {RATE} are forks"
        yield self.text >= 2, "text", "at least 2"
        yield self.steps % 20 == 0, "steps", "a multiple of 20"

    @property
    def length(self) -> int:
        return self.text * self.letters

    def model(self) -> TransformerConfig:
        width = self.width
        return TransformerConfig(
            depth=self.depth, width=width, heads=2, mlp_width=2 * width, max_length=self.length, unroll=self.depth
        )


PRESETS = presets(
    Config(),
    smoke={"words": 4, "text": 4, "batch_size": 4, "steps": 20, "depth": 1, "width": 8, "seeds": (0, 1)},
    quick={"seeds": (0, 1, 2)},
    paper={
        "words": 256,
        "text": 48,
        "batch_size": 64,
        "steps": 5000,
        "width": 256,
        "learning_rate": 1e-3,
        "seeds": tuple(range(10)),
    },
)
"""The position paper has no size of its own: `paper` is the card's experiment at a size for an accelerator."""


def spelling(key: Key[Array, ""], config: Config) -> Int[Array, "words letters"]:
    """Letters of every word: the first is the word's own, the others any."""
    others = jax.random.randint(key, (config.words, config.letters - 1), 0, config.words)
    return jnp.concatenate([jnp.arange(config.words)[:, None], others], axis=1)


def written(
    key: Key[Array, ""],
    kernel: Float[Array, "words words"],
    spelled: Int[Array, "words letters"],
    config: Config,
) -> Int[Array, "batch time"]:
    """Texts of words in the order of the kernel, from its uniform start."""
    uniform = jnp.full(config.words, 1 / config.words)
    draw = jax.vmap(lambda key: sample(key, kernel, uniform, config.text))
    return spelled[draw(jax.random.split(key, config.batch_size))].reshape(config.batch_size, -1)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By setting and arm: nats per token of fresh text, averaged over bins of steps, [seeds][bins]."""
    model, lexicon, seeds = config.model(), LexiconConfig(), config.seeds
    logits_of = make_logits(model, lexicon, config.words)
    optimizer = OptimizerConfig(learning_rate=config.learning_rate, warmup_steps=config.steps // 10)
    training = Training(config.steps, config.batch_size, seeds, optimizer, steps_per_dispatch=20)
    known = jnp.tile((jnp.arange(config.length) % config.letters == 0).astype(jnp.float32), (config.batch_size, 1))

    def loss(learned: Any, given: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        def is_arm(*names: str) -> jax.Array:
            return sum((given["arm"] == NAMES.index(name) for name in names), start=jnp.bool_(False))

        def both(arm: str) -> jax.Array:
            return is_arm(f"scratch {arm}", f"adapted {arm}")

        kernel = jnp.where(is_arm("base"), given["old"], given["kernel"])
        tokens = written(stream(key, "text"), kernel, given["spelled"].astype(jnp.int32), config)
        logits = logits_of(learned, {"tokens": tokens, "row": jnp.arange(config.batch_size)}, key)
        losses = token_nll(logits, tokens)
        entropy = jax.lax.stop_gradient(predictive_entropy(logits.reshape(-1, config.words)))
        chance = random(stream(key, "random"), losses.size)
        chosen = top_share(jnp.where(both("random"), chance, entropy).reshape(losses.shape), RATE)
        weights = jnp.where(both("top") | both("random"), chosen, jnp.where(both("bottom"), 1 - chosen, 1.0))
        weights = jnp.where(is_arm("adapted forks"), known, weights)
        found = {"nats": jnp.mean(losses), "forks": jnp.sum(weights * known) / jnp.sum(weights)}
        return selective_cross_entropy(losses, weights), found

    learned = initial(lambda key: initialize(model, lexicon, config.words, key), seeds)
    old, new = (seeded_kernels(config.words, config.concentration, [2 * seed + i for seed in seeds]) for i in (0, 1))
    words = jnp.stack([spelling(stream(jax.random.key(seed), "spelling"), config) for seed in seeds])
    given = {"old": old, "kernel": new, "spelled": words.astype(jnp.float32)}
    folders = {"forking_tokens/scratch": SCRATCH, "forking_tokens/adapted": ADAPTED}
    first, second = folders
    trained = train_arms(
        first, NAMES, dict.fromkeys(SCRATCH, (learned, given)), loss, training, workspace, config.length
    )
    base = stacked(trained["base"])
    train_arms(second, NAMES, dict.fromkeys(ADAPTED, (base, given)), loss, training, workspace, config.length)
    found: dict[str, Any] = {}
    for folder, arms in folders.items():
        found |= courses(folder, arms, ("nats", "forks"), workspace)
    bins = max(config.steps // 10, 1)
    arms = {
        name: {
            "nats": course["nats"].reshape(len(seeds), -1, bins).mean(2).round(4),
            "forks": course["forks"].mean(1).round(4),
        }
        for name, course in found.items()
    }
    rates = [round(entropy_rate(kernel), 4) for kernel in np.asarray(new, np.float64)]
    return {"corpora": {}, "seeds": seeds, "entropy_rate": rates, "letters": config.letters, "bin": bins, "arms": arms}


def claims(results: dict[str, Any]) -> list[Claim]:
    """C5 for a model that knows the words, and from scratch; nats of the last tenth of training."""
    arms = Arms(results)

    def claim(setting: str, name: str, statement: str, source: str) -> Claim:
        nats = {arm: arms[f"{setting} {arm}", "nats"][:, -1] for arm in ARMS}
        measured = {
            f"all + {MARGIN:g} - top": nats["all"] + MARGIN - nats["top"],
            "random - top": nats["random"] - nats["top"],
            "the other 80 % - top": nats["bottom"] - nats["top"],
        }
        return Claim(name, f"C5: {statement}", source, measured, above(0, matters=SMALLEST), "nats per token")

    return [
        claim(
            "adapted",
            "forking_tokens_carry_signal",
            "Where words are known and their order is new, learning from the 20 % of tokens of highest entropy matches learning from all, "
            "and neither the other 80 % nor 20 % at random do, in supervised next-token learning.",
            "kong2025token",
        ),
        claim("scratch", "forking_tokens_from_scratch", "The same holds for learning from scratch.", OURS),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Nats per token against updates, with the entropy rate of the source."""
    arms = Arms(results)
    drawn, axes = panels(1, 2, width=4.6, titles=tuple(SETTINGS.values()))
    for panel, setting in zip(axes, SETTINGS, strict=True):
        for arm, (label, color) in ARMS.items():
            curve = arms[f"{setting} {arm}", "nats"]
            band(panel, (np.arange(curve.shape[1]) + 0.5) * results["bin"], curve, label, color)
        reference(panel, float(np.mean(results["entropy_rate"])) / results["letters"], "entropy rate of the source")
        panel.set(xlabel="updates", ylabel="nats per token of fresh text")
    axes[1].legend()
    return drawn
