"""Branching factors of models that talk, of the exact laws beside them, of nudged texts and of mixed ones, for one seed."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.subjects.tuned_talkers import ASSISTANT, FLOOR, Talkers
from lexinv.decoding.branching import branching_factor, branching_per_unit, halved, local_branching
from lexinv.nn.language_model import Params
from lexinv.nn.sampling import Sampling, step_entropy
from lexinv.training.streams import stream

SETTINGS = (
    (0.0, 0, 1.0, 0.0),
    (0.6, 0, 1.0, 0.0),
    (1.0, 0, 1.0, 0.0),
    (1.0, 0, 0.9, 0.0),
    (1.0, 5, 1.0, 0.0),
    (1.0, 0, 1.0, 0.1),
)
"""Temperature, top k (0: all), top p and min p of the six ways to decode."""


def measure_branching(
    talkers: Talkers, models: dict[str, Params], seed: int, n: int, window: int, counts: Sequence[int]
) -> dict[str, Any]:
    """Of `n` texts of every model: {"arms": by model, "nudged": shares by nudge, "settings": scores by model, "excess": nats per word}."""
    key, world = jax.random.key(seed), talkers.dialogues.world
    drawn = {arm: talkers.writer.write(params, stream(key, arm), n, Sampling()) for arm, params in models.items()}
    alive = drawn["base"].alive
    arms = {}
    for arm, found in drawn.items():
        arms[arm] = factors(found.entropies, alive, window)
        log_probs = jax.nn.log_softmax(talkers.writer.logits(models[arm], found.tokens))
        entropies, _ = halved(log_probs, found.tokens)
        first = jnp.tile(jnp.array([1, 0]), (n, world.said))
        twice = entropies.reshape(n, -1), jnp.repeat(alive, 2, axis=1)
        arms[arm] |= {
            "halves": float(branching_factor(twice[0], twice[0], twice[1], "entropy")),
            "by word": float(branching_per_unit(*twice, first)),
            "likelihood": float(branching_factor(found.entropies, found.log_probs, alive, "likelihood")),
        }
    everybody = talkers.human(stream(key, "human"), jnp.arange(n) % world.authors)
    exact = jnp.log(talkers.bayes(everybody))
    arms["bayes"] = factors(step_entropy(exact), alive, window)
    assistant = talkers.human(stream(key, "assistant"), jnp.zeros(n, jnp.int32))
    arms["assistant"] = factors(step_entropy(jnp.log(talkers.bayes(assistant, ASSISTANT))), alive, window)
    arms["shuffled"] = shuffled(talkers, models["base"], stream(key, "shuffled"), drawn["base"].tokens, window)
    log_probs = jax.nn.log_softmax(talkers.writer.logits(models["base"], everybody))
    excess = jnp.take_along_axis(exact - log_probs, everybody[..., None], axis=2).mean()
    scores = {
        arm: [quality(talkers, models[arm], stream(key, "settings"), n, one) for one in SETTINGS]
        for arm in ("base", "supervised")
    }
    nudged = nudges(talkers, models, stream(key, "nudges"), drawn["supervised"].tokens, counts)
    return {"arms": arms, "nudged": nudged, "settings": scores, "excess": float(excess)}


def factors(entropies: Float[Array, "texts said"], alive: Array, window: int) -> dict[str, Any]:
    return {
        "factor": float(branching_factor(entropies, entropies, alive, "entropy")),
        "local": [float(x) for x in local_branching(entropies, alive, window)],
    }


def shuffled(talkers: Talkers, base: Params, key: Array, words: Array, window: int) -> dict[str, Any]:
    """The local factor of every window whose text is as it was, and that of the words before it in another order, but for the last."""
    found, n = [], len(words)
    for start in range(0, words.shape[1], window):
        before = words[:, : max(start - 1, 0)]
        order = jnp.argsort(jax.random.uniform(jax.random.fold_in(key, start), before.shape), axis=1)
        mixed = jnp.concatenate([jnp.take_along_axis(before, order, axis=1), words[:, before.shape[1] :]], axis=1)
        entropies = step_entropy(jax.nn.log_softmax(talkers.writer.logits(base, mixed)))[:, start : start + window]
        found.append(float(local_branching(entropies, jnp.ones((n, entropies.shape[1]), bool), window)[0]))
    return {"local": found}


def quality(
    talkers: Talkers, params: Params, key: Array, texts: int, setting: tuple[float, int, float, float]
) -> float:
    """Nats per word that Bayes' rule gives to what is written, the score of a way to decode."""
    temperature, k, p, least = setting
    sampling = Sampling(temperature, k or talkers.dialogues.world.vocab, p, least)
    words = talkers.writer.write(params, key, texts, sampling).tokens
    probs = jnp.take_along_axis(talkers.bayes(words), words[..., None], axis=2)
    return float(jnp.maximum(jnp.log(probs), FLOOR).mean())


def nudges(
    talkers: Talkers, models: dict[str, Params], key: Array, aligned: Array, counts: Sequence[int]
) -> dict[str, Any]:
    """Shares of the gap in log factors, of the same last words, that are closed by so many words of the aligned model, or any words."""
    world, most = talkers.dialogues.world, counts[-1]
    anything = jax.random.randint(stream(key, "any"), aligned.shape, 0, world.words) + world.first["word"]

    def rest(arm: str, begun: Array, count: int) -> float:
        found = talkers.writer.write(models[arm], stream(key, "rest"), len(begun), Sampling(), begun=begun[:, :count])
        entropies = found.entropies[:, most - count :]
        return float(jnp.log(branching_factor(entropies, entropies, found.alive[:, most - count :], "entropy")))

    start, goal = rest("base", aligned, 0), rest("supervised", aligned, 0)
    return {
        name: [(start - rest("base", begun, count)) / (start - goal) for count in counts]
        for name, begun in (("aligned", aligned), ("random", anything))
    }
