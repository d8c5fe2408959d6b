"""Claim C5: tokens of high entropy carry the learning signal (method card token-reduction-beyond-efficiency).

A language of words: the first letter tells the word, the others are spelled out, and which word comes next is Markov. So one token of
`letters` is a fork. Every update reads all tokens, the 20 % of the highest predictive entropy under the model that learns, the other 80 %,
or 20 % at random. From scratch spelling has to be learned, too; a model that knows the spelling from another order of the same words, as a
base model knows its language before reinforcement learning, only has to learn the forks. Judged on all tokens of fresh text.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key
from matplotlib.axes import Axes

from experiments.harness.arms import courses, train_arms
from experiments.harness.claims import Claim, interval
from experiments.harness.style import BLACK, BLUE, GREY, VERMILION
from experiments.harness.training import Training, initial, stacked
from experiments.harness.workspace import Workspace
from experiments.merging.selective_training import languages
from experiments.merging.verdicts import judged
from lexinv.merging.criteria import predictive_entropy, random
from lexinv.merging.selective_loss import selective_cross_entropy, top_share
from lexinv.nn.language_model import initialize, make_logits
from lexinv.nn.lexicon import LexiconConfig, token_nll
from lexinv.nn.transformer import TransformerConfig
from lexinv.tokenization.sources import sample
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.streams import stream
from lexinv.validation import require

ARMS = {
    "all": ("all tokens", BLACK),
    "top": ("20 % of highest entropy", BLUE),
    "bottom": ("the other 80 %", VERMILION),
    "random": ("20 % at random", GREY),
}
SETTINGS = {"scratch": "from scratch", "adapted": "words known, order new"}
SCRATCH = ("base", *(f"scratch {arm}" for arm in ARMS))
ADAPTED = (*(f"adapted {arm}" for arm in ARMS), "adapted forks")
"""Trained after `SCRATCH`, from its base; as many, so that one program serves both. `forks`: those that are known to be."""

NAMES = (*SCRATCH, *ADAPTED)
RATE = 0.2
MARGIN, SMALLEST = 0.02, 0.01
"""Nats per token: within which the full update counts as matched, and the least difference that would matter."""


@dataclass(frozen=True)
class ForkingConfig:
    """words, each of `letters` letters of an alphabet as large. text: words in a text. concentration: of the prior of their transitions."""

    words: int = 16
    letters: int = 5
    text: int = 8
    concentration: float = 0.3
    batch_size: int = 16
    steps: int = 300
    depth: int = 2
    width: int = 32
    learning_rate: float = 3e-3

    def __post_init__(self):
        prefix = "forking_tokens"
        require(self.words >= 2, f"{prefix}.words", self.words, "at least 2")
        require(
            self.letters == round(1 / RATE),
            f"{prefix}.letters",
            self.letters,
            f"{round(1 / RATE)}: a share {RATE} are forks",
        )
        require(self.text >= 2, f"{prefix}.text", self.text, "at least 2")
        require(self.steps % 20 == 0, f"{prefix}.steps", self.steps, "a multiple of 20")

    @property
    def length(self) -> int:
        return self.text * self.letters

    def model(self) -> TransformerConfig:
        width = self.width
        return TransformerConfig(
            depth=self.depth, width=width, heads=2, mlp_width=2 * width, max_length=self.length, unroll=self.depth
        )


def spelling(key: Key[Array, ""], config: ForkingConfig) -> Int[Array, "words letters"]:
    """Letters of every word: the first is the word's own, the others any."""
    others = jax.random.randint(key, (config.words, config.letters - 1), 0, config.words)
    return jnp.concatenate([jnp.arange(config.words)[:, None], others], axis=1)


def written(
    key: Key[Array, ""],
    kernel: Float[Array, "words words"],
    spelled: Int[Array, "words letters"],
    config: ForkingConfig,
) -> Int[Array, "batch time"]:
    """Texts of words in the order of the kernel, from its uniform start."""
    uniform = jnp.full(config.words, 1 / config.words)
    draw = jax.vmap(lambda key: sample(key, kernel, uniform, config.text))
    return spelled[draw(jax.random.split(key, config.batch_size))].reshape(config.batch_size, -1)


def measure(config: ForkingConfig, seeds: tuple[int, ...], workspace: Workspace) -> dict[str, Any]:
    """By setting and arm: nats per token of fresh text, averaged over bins of steps, [seeds][bins]."""
    model, lexicon = config.model(), LexiconConfig()
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
    old, new = (languages(config.words, config.concentration, [2 * seed + part for seed in seeds]) for part in (0, 1))
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
    return {
        "entropy_rate": entropy_rates(np.asarray(given["kernel"])).tolist(),
        "letters": config.letters,
        "bin": bins,
        "courses": {
            name: {
                "nats": course["nats"].reshape(len(seeds), -1, bins).mean(2).round(4).tolist(),
                "forks": course["forks"].mean(1).round(4).tolist(),
            }
            for name, course in found.items()
        },
    }


def entropy_rates(kernels: np.ndarray) -> np.ndarray:
    """Nats per word of each kernel [seeds, words, words] in the long run."""
    found = []
    for kernel in kernels.astype(float):
        occupied = np.linalg.matrix_power(kernel, 1000)[0]
        found.append(float(-(occupied[:, None] * kernel * np.log(np.maximum(kernel, 1e-30))).sum()))
    return np.round(found, 4)


def final(measured: dict[str, Any], name: str) -> np.ndarray:
    """Nats per token in the last bin, per seed."""
    return np.array(measured["courses"][name]["nats"])[:, -1]


def judge(measured: dict[str, Any]) -> list[Claim]:
    """C5 for a model that knows the words, and from scratch."""
    found = []
    for setting, name, statement in (
        (
            "adapted",
            "forking_tokens_carry_signal",
            "Where words are known and their order is new, learning from the 20 % of tokens of highest entropy matches learning from all, "
            "and neither the other 80 % nor 20 % at random do, in supervised next-token learning",
        ),
        ("scratch", "forking_tokens_from_scratch", "The same holds for learning from scratch"),
    ):
        nats = {arm: final(measured, f"{setting} {arm}") for arm in ARMS}
        found.append(
            judged(
                5,
                name,
                f"{statement} (measured: nats per token of the last tenth of training; the margin left is all + {MARGIN:g} less top).",
                f"within {MARGIN:g} nats per token of all, and below the other 80 % and random",
                {
                    "margin left to all": interval(nats["all"] + MARGIN - nats["top"]),
                    "less than random": interval(nats["random"] - nats["top"]),
                    "less than the other 80 %": interval(nats["bottom"] - nats["top"]),
                },
                SMALLEST,
                {
                    "nats per token": {arm: interval(values) for arm, values in nats.items()},
                    "forks among chosen": interval(measured["courses"][f"{setting} top"]["forks"]),
                },
            )
        )
    return found


def draw(measured: dict[str, Any], axes: Axes) -> None:
    """Mean nats per token against updates, above the source's entropy rate; dashed from scratch."""
    floor = np.array(measured["entropy_rate"])[:, None] / measured["letters"]
    for setting, line in (("adapted", "-"), ("scratch", "--")):
        for arm, (label, color) in ARMS.items():
            curve = (np.array(measured["courses"][f"{setting} {arm}"]["nats"]) - floor).mean(0)
            steps = (np.arange(len(curve)) + 0.5) * measured["bin"]
            axes.plot(steps, np.maximum(curve, 1e-3), line, color=color, label=label if setting == "adapted" else None)
    axes.set(
        title="C5: forking tokens",
        xlabel="updates (dashed: from scratch)",
        ylabel="nats per token above entropy rate",
        yscale="log",
    )
    axes.legend(fontsize=7)
