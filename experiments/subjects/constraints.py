"""What constraints are measured on: one step with a known Z, a Markov chain with an exact posterior, dialogues by their grammar."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.subjects.dialogue_models import LEXICON, DialogueWorld
from lexinv.data.automata import Acceptor, allowed
from lexinv.data.dialogues import World, draw_windows, grammar
from lexinv.decoding.automata import posterior, unrolled
from lexinv.decoding.particles import METHODS, Particles, first_accepted, smc
from lexinv.decoding.rejection import adaptive_rejection
from lexinv.nn.cache import empty_cache, make_extend, unstacked
from lexinv.nn.language_model import BOS, make_nll
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Counts, Fractions

PEAK, GIVE_UP, OPEN = 0.8, 0.5, 0.35
"""The most likely token's share where the released code changes its estimator; the mass after which a draw gives up; the share of moves
that an automaton allows."""


drawn_windows = jax.jit(draw_windows, static_argnums=(2, 3))


@dataclass(frozen=True)
class StepConfig(Checked):
    """One step: `draws` at 50 tokens, fewer of more. shares: Z."""

    vocabularies: Counts = (50, 1024, 32_768, 131_072)
    shares: Fractions = (0.01, 0.03, 0.1, 0.3, 0.9)
    draws: Count = 20_000


@dataclass(frozen=True)
class ChainConfig(Checked):
    """Texts of `time` tokens under an automaton. runs: of each method with each number of particles."""

    tokens: Count = 40
    states: Count = 6
    time: Count = 8
    runs: Count = 60


def zipf(vocab: int) -> np.ndarray:
    """ln p of tokens by rank."""
    probs = 1 / np.arange(1, vocab + 1)
    return np.log(probs / probs.sum())


def some_tokens(rng: np.random.Generator, log_probs: np.ndarray, share: float) -> np.ndarray:
    """Random tokens with a mass of at most `share`, as near to it as the next in line allows."""
    order, probs = rng.permutation(len(log_probs)), np.exp(log_probs)
    accept, mass = np.zeros(len(probs), bool), 0.0
    for token in order:
        if mass + probs[token] <= share * (1 + 1e-9):
            accept[token], mass = True, mass + probs[token]
    accept[np.argmin(probs)] |= mass == 0
    return accept


@partial(jax.jit, static_argnames=("estimators", "count"))
def drawn(key, log_probs, accept, estimators: tuple[str, ...], count: int) -> dict[str, Any]:
    """`count` draws by every estimator, by rejection without weights on the same noise, and giving up after half of the mass."""

    def one(key):
        found = {name: adaptive_rejection(key, log_probs, accept, name) for name in estimators}
        order = jnp.argsort(-(log_probs + jax.random.gumbel(key, log_probs.shape)))
        first = first_accepted(key, log_probs, accept).evaluations
        before = jnp.sum(jnp.where(jnp.arange(len(order)) < first - 1, jnp.exp(log_probs[order]), 0.0))
        given_up = jnp.where(before < GIVE_UP, jnp.exp(found["recursive"].log_weight), 0.0)
        return {
            "ars": first,
            "given up": given_up,
            **{name: (jnp.exp(each.log_weight), each.evaluations) for name, each in found.items()},
        }

    return jax.lax.map(one, jax.random.split(key, count), batch_size=max(1, min(count, 2**20 // len(log_probs))))


def measure_step(config: StepConfig, arm: str, seed: int) -> dict[str, Any]:
    """Of one vocabulary, by share: mean of w / Z, sd of w, tests. "peaked" is 50 tokens with one of `PEAK`, and 40 % of the rest."""
    peaked = arm == "peaked"
    vocab = 50 if peaked else int(arm.split("-")[1])
    rng, key = np.random.default_rng([seed, vocab]), stream(jax.random.key(seed), arm)
    count = max(min(config.draws, config.draws * 250 // vocab), 20)
    estimators = ("recursive", "geometric") if vocab == 50 else ("recursive",)
    log_probs, found = zipf(vocab), []
    if peaked:
        log_probs = np.log(np.concatenate([[PEAK], (1 - PEAK) * np.exp(zipf(vocab - 1))]))
    for index, share in enumerate(config.shares[:1] if peaked else config.shares):
        accept = some_tokens(rng, log_probs, share)
        if peaked:
            accept = np.concatenate([[True], rng.random(vocab - 1) < 0.4])
        z = float(np.exp(log_probs[accept]).sum())
        logs = jnp.asarray(log_probs, jnp.float32)
        draws = jax.tree.map(np.asarray, drawn(jax.random.fold_in(key, index), logs, accept, estimators, count))
        row = {"z": z, "ars": draws["ars"].mean(), "given up": draws["given up"].mean() / z}
        for name in estimators:
            weights, tested = draws[name]
            row |= {name: weights.mean() / z, f"{name} sd": weights.std(), f"{name} tests": tested.mean()}
        found.append(row)
    return {name: [float(row[name]) for row in found] for name in found[0]}


def chain(config: ChainConfig, seed: int) -> tuple[np.ndarray, np.ndarray, Acceptor]:
    """A Markov chain and an automaton with one state in which texts may end, drawn again until some text may."""
    rng = np.random.default_rng(seed)
    initial, transition = rng.dirichlet(np.ones(config.tokens)), rng.dirichlet(np.ones(config.tokens), config.tokens)
    while True:
        moves = rng.integers(0, config.states, (config.states, config.tokens))
        moves = np.where(rng.random(moves.shape) < OPEN, moves, -1)
        constraint = Acceptor(jnp.asarray(moves, jnp.int32), jnp.arange(config.states) == config.states - 1)
        if bool(allowed(unrolled(constraint, config.time))[0].any()):
            return initial, transition, constraint


@partial(jax.jit, static_argnames=("count", "time", "method", "runs"))
def run_chain(key, initial, transition, constraint, count: int, time: int, method: str, runs: int) -> Particles:
    """`runs` runs of `count` particles, all texts of `time` tokens."""
    law = jnp.concatenate([transition, initial[None]])
    vocab = len(initial)

    def predict(read, last):
        probs = jnp.where((read == time)[:, None], 0.0, law[jnp.where(last < 0, vocab, last)])
        return jnp.log(jnp.concatenate([probs, (read == time)[:, None].astype(jnp.float32)], axis=1)), read + 1

    def one(key):
        return smc(key, predict, jnp.zeros(count, jnp.int32), constraint, count, time + 1, METHODS[method])

    return jax.lax.map(one, jax.random.split(key, runs), batch_size=max(1, min(runs, 2048 // count)))


def measure_chain(config: ChainConfig, arm: str, seed: int) -> dict[str, Any]:
    """TV: from the posterior of what is drawn, the mean over places; a run draws in proportion to its weights, if any is left."""
    method, count = arm.rsplit("-", 1)
    initial, transition, constraint = chain(config, seed)
    exact = posterior(initial, transition, constraint, config.time)
    law = [jnp.asarray(x, jnp.float32) for x in (initial, transition)]
    key = stream(jax.random.key(seed), arm)
    found = run_chain(key, *law, unrolled(constraint, config.time), int(count), config.time, method, config.runs)
    logs = np.asarray(found.log_weights, np.float64)
    alive = logs.max(axis=1) > -np.inf
    weights = np.exp(logs[alive] - logs[alive].max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    tokens = np.maximum(np.asarray(found.tokens)[alive, :, : config.time], 0)
    drawn = [np.bincount(tokens[:, :, t].ravel(), weights.ravel(), config.tokens + 1) for t in range(config.time)]
    marginals = np.stack(drawn)[:, : config.tokens] / max(alive.sum(), 1)
    distances = 0.5 * np.abs(marginals - exact.marginals).sum(axis=1) if alive.any() else np.ones(1)
    ratios = np.exp(np.asarray(found.log_evidence, np.float64) - exact.log_evidence)
    return {
        "tv": distances.mean(),
        "evidence": ratios.mean(),
        "tests": int(found.evaluations.sum()) / int(found.draws.sum()),
        "alive": alive.mean(),
        "log_z": exact.log_evidence,
    }


@partial(jax.jit, static_argnames=("model", "problems", "count"))
def solve(params, world: World, worked, key, model: TransformerConfig, problems: int, count: int):
    """(nats per token of worked texts after their problems; tests, draws and ln of the estimate of Z of the first `problems` of them)."""
    config = world.config
    row = jnp.arange(len(worked), dtype=jnp.int32)
    nats = make_nll(model, LEXICON, config.vocab)(params, {"tokens": worked, "row": row}, key)[
        :, config.prompt :
    ].mean()
    extend, table, steps = make_extend(model, config.vocab), params["table"], config.length - config.prompt
    layers = unstacked(params)

    def one(both):
        problem, key = both
        begun = jnp.concatenate([jnp.full(1, BOS, jnp.int32), problem[:-1]])
        prompt, empty = jnp.broadcast_to(begun[None], (count, len(begun))), empty_cache(model, count, config.length + 1)
        cache = extend(layers, table, empty, prompt, jnp.full(count, len(begun), jnp.int32))[1]

        def predict(cache, last):
            tokens = jnp.where(last < 0, problem[-1], last)[:, None]
            logits, cache = extend(layers, table, cache, tokens, jnp.ones(count, jnp.int32))
            return jax.nn.log_softmax(logits[:, 0]), cache

        found = smc(key, predict, cache, grammar(world, problem), count, steps, METHODS["awrs-smc"])
        return found.evaluations, found.draws, found.log_evidence

    asked = worked[:problems, : config.prompt]
    return nats, *jax.lax.map(one, (asked, jax.random.split(key, problems)))


def measure_dialogues(subject: DialogueWorld, problems: int, count: int, arm: str, seed: int) -> dict[str, Any]:
    """Loss on worked texts, and tests per token where the model has to solve fresh problems by the grammar that knows what is right."""
    models, key = subject.config, stream(jax.random.key(seed), "problems")
    params = subject.ages[int(arm.split("-")[1])][models.training.seeds.index(seed)]
    worked = drawn_windows(key, subject.worked, 256, 1)[0]
    loss, tested, draws, evidence = solve(params, subject.world, worked, key, models.large, problems, count)
    return {"loss": float(loss), "tests": int(tested.sum()) / int(draws.sum()), "nats": -float(evidence.mean())}
