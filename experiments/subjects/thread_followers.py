"""Models that follow threads of symbols: trained on items drawn inside the step, then asked for the last value of a thread alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from experiments.harness.training import Training, train
from experiments.harness.workspace import Workspace
from experiments.subjects.language_models import untrained_seeds
from experiments.subjects.text import MUON, SUFFIX_MATCH
from lexinv.lexinvariance import threads
from lexinv.lexinvariance.threads import Limits
from lexinv.nn.language_model import Params, initialize, make_logits, make_nll
from lexinv.nn.lexicon import LexiconConfig, row_keys
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.mesh import MeshConfig
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count

STANDARD = LexiconConfig("standard")
WAYS = ("forward", "backward")


@dataclass(frozen=True)
class FollowersConfig(Checked):
    """The models, and what they are trained and evaluated on.

    limits: the largest item of training; fewest_pairs: its smallest haystack. items: of each length and direction, in the largest one.
    """

    model: TransformerConfig = replace(SUFFIX_MATCH, width=128, mlp_width=128, max_length=1024)
    training: Training = Training(steps=300, batch_size=32, seeds=(0, 1, 2), optimizer=MUON)
    limits: Limits = Limits(symbols=384, pairs=24, threads=4, length=4)
    fewest_pairs: Count = 8
    items: Count = 100

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        limits = self.limits
        between = limits.length <= self.fewest_pairs <= limits.pairs
        yield between, "fewest_pairs", f"{limits.length} to {limits.pairs}"
        yield limits.length > 1, "limits", "threads of several links"
        yield limits.time <= self.model.max_length, "model.max_length", f"at least the {limits.time} of an item"
        alone = self.training.mesh == MeshConfig() and self.training.microbatches == 1
        yield alone, "training", "one device and one microbatch: items are drawn inside the step"


def make_answer_loss(config: FollowersConfig):
    """Mean nats per token of an answer, on items drawn from the step's key: `loss(params, {"row": [B]}, key)`."""
    limits = config.limits
    nll = make_nll(config.model, STANDARD, limits.vocab)

    def loss(params: Params, batch: dict[str, Array], key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        row = batch["row"]
        settings = jax.vmap(lambda rng: threads.draw_setting(rng, limits, config.fewest_pairs))(
            row_keys(stream(key, "settings"), row)
        )
        items = threads.sample_items(row_keys(stream(key, "items"), row), limits, settings)
        nats = nll(params, {"tokens": items.tokens, "row": row}, stream(key, "lexica"))
        counted = (items.thread >= 0).astype(nats.dtype)
        return jnp.sum(nats * counted) / jnp.sum(counted), {}

    return loss


def followed(config: FollowersConfig, workspace: Workspace) -> dict[str, dict[str, list[list[float]]]]:
    """By state (before and after training) and direction the share of threads answered [seeds, links from 1 on]."""
    begin, loss = partial(initialize, config.model, STANDARD, config.limits.vocab), make_answer_loss(config)
    params = train("followers", begin, loss, None, config.training, workspace, tokens=config.limits.time)
    seeds = config.training.seeds
    states = {"start": untrained_seeds(config.model, STANDARD, config.limits.vocab, seeds), "trained": params}
    judge = make_judge(config)
    lengths = range(1, config.limits.length + 1)
    return {
        state: {
            way: [
                [judge(tree, seed, length, way) for length in lengths] for tree, seed in zip(trees, seeds, strict=True)
            ]
            for way in WAYS
        }
        for state, trees in states.items()
    }


def make_judge(config: FollowersConfig) -> Callable[[Params, int, int, str], float]:
    """`judge(params, seed, length, direction)`: the share of threads of which the last value is answered, alone in the largest haystack.

    Models of the same seed are asked the same.
    """
    limits = replace(config.limits, threads=1)
    logits = make_logits(config.model, STANDARD, limits.vocab)

    @jax.jit
    def answers(params: Params, rng: Key[Array, ""], asked: threads.Setting) -> Array:
        def one(rng: Key[Array, ""]) -> Array:
            items = threads.sample_items(rng[None], limits, asked)
            batch = {"row": jnp.zeros(1, jnp.int32)}
            found = threads.evaluate(
                lambda t: logits(params, batch | {"tokens": t}, rng), items, config.model.max_length
            )
            return found[0, 0]

        # A few items at a time: attention holds the square of an item's tokens.
        return jax.lax.map(one, jax.random.split(rng, config.items), batch_size=max(1, 4096 // limits.time))

    def judge(params: Params, seed: int, length: int, direction: str) -> float:
        rng = stream(jax.random.key(seed), f"evaluation of {length} {direction}")
        asked = threads.setting(limits, pairs=limits.pairs, length=length, direction=direction, direct=True)
        return float(answers(params, rng, asked).mean())

    return judge
