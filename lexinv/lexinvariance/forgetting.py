"""Weight forgetting: token embeddings that do not last, so that a model learns to do without what they say.

Anand et al. 2024 (arXiv 2406.00053). Active forgetting re-initialises the embedding table every k steps, temporary forgetting does so
only for the first N steps, and probabilistic forgetting replaces each token type with probability p for one step. With k = 1, or p = 1,
every step has a table of its own, which is the lexinvariant model with one lexicon per step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from lexinv.lexinvariance.part_of_speech import LENGTH, Batch
from lexinv.nn.lexicon import LexiconConfig, draw_lexicon
from lexinv.nn.masked_encoder import MaskedEncoder
from lexinv.training.optimizers import is_matrix
from lexinv.training.state import TrainState
from lexinv.training.streams import stream
from lexinv.validation import require

Params = dict[str, Any]
"""{"table": E_0, "model": Flax parameters of the encoder}."""


@dataclass(frozen=True)
class Forgetting:
    """What happens to the table in training; by default nothing (vanilla).

    period, until: it is re-initialised at the steps period, 2 period, ... below `until` (None: to the end). 0: never.
    reset: the moments of Adam that are zeroed with it, and the step counts of its bias correction: those of the table, as in the paper,
        or of all parameters, as the released code does.
    p_random: probability with which each token type has a random vector for one step (`semi` of `lexinv.nn.lexicon`).
    frozen: the table is read and never updated, as where a trained model is fine-tuned with p_random.
    fresh: lexinvariant. Every step has a table of its own, which every sequence reads under a rotation of its own (`rotate_types`).
    """

    period: int = 0
    until: int | None = None
    reset: Literal["table", "all"] = "table"
    p_random: float = 0.0
    frozen: bool = False
    fresh: bool = False

    def __post_init__(self):
        require(self.period >= 0, "forgetting.period", self.period, "0 or a number of steps")
        require(self.until is None or self.until >= 0, "forgetting.until", self.until, "None or a number of steps")
        require(0 <= self.p_random <= 1, "forgetting.p_random", self.p_random, "a probability")
        alone = not self.fresh or (self.period == 0 and self.p_random == 0)
        require(alone, "forgetting.fresh", self.fresh, "False where the table is re-initialised or mixed")


def due(period: int | Array, until: int | Array | None, step: Int[Array, ""]) -> Bool[Array, ""]:
    """Whether the table is re-initialised before update `step`, counted from 0: see `Forgetting`."""
    now = (period > 0) & (step > 0) & (step % jnp.maximum(period, 1) == 0)
    return now if until is None else now & (step < until)


def initialize(key: Key[Array, ""], encoder: MaskedEncoder) -> Params:
    """Parameters before training; the table ~ N(0, std² I)."""
    table_key, model_key = jax.random.split(key)
    table = encoder.std * jax.random.normal(table_key, (encoder.vocab, encoder.config.width))
    variables: Any = encoder.init(model_key, jnp.zeros((1, LENGTH), jnp.int32), table)
    return {"table": table, "model": dict(variables["params"])}


def make_optimizer(learning_rate: float, weight_decay: float) -> optax.GradientTransformation:
    """AdamW at a constant rate, in two groups, so that the state of the table can be made anew alone, its step count included.

    Only the matrices of the encoder's linear maps decay: neither the table nor the gains. What is in the group "given" stays as it is.
    """
    adamw = optax.adamw(learning_rate, weight_decay=weight_decay, mask=is_matrix)
    return optax.multi_transform(
        {"table": adamw, "model": adamw, "given": optax.set_to_zero()},
        lambda params: {group: jax.tree.map(lambda _, group=group: group, params[group]) for group in params},
    )


def forget(
    key: Key[Array, ""], state: TrainState, optimizer: optax.GradientTransformation, std: float, reset: str
) -> TrainState:
    """The state with a table ~ N(0, std² I) and the optimiser's memory of the old one gone; see `Forgetting`."""
    params = {**state.params, "table": std * jax.random.normal(key, state.params["table"].shape)}
    fresh: Any = optimizer.init(params)
    kept: Any = state.optimizer_state
    if reset == "table":
        inner = {**kept.inner_states, "table": fresh.inner_states["table"]}
        fresh = kept._replace(inner_states=inner)
    return state._replace(params=params, optimizer_state=fresh)


def make_step(
    encoder: MaskedEncoder,
    optimizer: optax.GradientTransformation,
    forgetting: Forgetting,
    sample: Callable[[Key[Array, ""]], Batch],
    used: Bool[Array, " vocab"] | None = None,
    schedule: Callable[[Int[Array, ""]], Bool[Array, ""]] | None = None,
) -> Callable[[TrainState], tuple[TrainState, Float[Array, ""]]]:
    """`step(state) -> (state, loss)`: draw a batch, forget if it is time, and do one update; the loss is in nats per masked token.

    Batches depend on the state's key and step alone: all ways to forget are trained on the same ones. used: tokens that may be predicted,
    where not all rows of the table are tokens. schedule: when it is time, in place of the period of `forgetting`, where that is an array.
    """
    if schedule is None and forgetting.period:
        schedule = partial(due, forgetting.period, forgetting.until)

    def step(state: TrainState) -> tuple[TrainState, Float[Array, ""]]:
        def key(name: str) -> Key[Array, ""]:
            return jax.random.fold_in(stream(state.key, name), state.step)

        if schedule is not None:
            forgotten = lambda state: forget(key("forget"), state, optimizer, encoder.std, forgetting.reset)  # noqa: E731
            state = jax.lax.cond(schedule(state.step), forgotten, lambda state: state, state)
        batch = sample(key("batch"))
        if forgetting.fresh:
            batch = rotate_types(key("rotation"), batch, encoder.vocab)

        def loss(params: Params) -> Float[Array, ""]:
            table = table_of_step(key("lexicon"), params["table"], forgetting, encoder.std)
            return masked_nll(encoder, params, table, batch, used).mean()

        value, gradient = jax.value_and_grad(loss)(state.params)
        # Optax is not written for the strict modes that our tests switch on.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        if forgetting.frozen:
            params = {**params, "table": state.params["table"]}
        return TrainState(state.step + 1, params, optimizer_state, state.key), value

    return step


def table_of_step(
    key: Key[Array, ""], table: Float[Array, "vocab width"], forgetting: Forgetting, std: float
) -> Float[Array, "vocab width"]:
    """The table that one step reads and predicts with: the learned one, partly replaced, or a fresh one."""
    vocab, width = table.shape
    if forgetting.fresh:
        return std * jax.random.normal(key, table.shape)
    if forgetting.p_random:
        lexicon = LexiconConfig("semi", p_random=forgetting.p_random)
        return draw_lexicon(lexicon, table, key[None], vocab, width)[0]
    return table


def rotate_types(key: Key[Array, ""], batch: Batch, vocab: int) -> Batch:
    """The batch in which sequence s calls token v by v + r_s modulo `vocab`, with r_s uniform; marks keep their names.

    With a table E of independent Gaussian rows, E_s[v] = E[v + r_s] is such a lexicon for every sequence, and different ones for
    different sequences, though only one table is drawn.
    """
    shift = jax.random.randint(key, (batch.tokens.shape[0], 1), 0, vocab)
    return Batch(
        jnp.where(batch.tokens < 0, batch.tokens, (batch.tokens + shift) % vocab), (batch.labels + shift) % vocab
    )


def answer_logits(
    encoder: MaskedEncoder, params: Params, table: Float[Array, "vocab width"], tokens: Int[Array, "batch time"]
) -> Float[Array, "batch answer vocab"]:
    """Logits at the masked places."""
    logits: Any = encoder.apply({"params": params["model"]}, tokens, table)
    return logits


def masked_nll(
    encoder: MaskedEncoder,
    params: Params,
    table: Float[Array, "vocab width"],
    batch: Batch,
    used: Bool[Array, " vocab"] | None = None,
) -> Float[Array, "batch answer"]:
    """-ln p of each masked token, in nats; among the `used` tokens."""
    logits = answer_logits(encoder, params, table, batch.tokens)
    if used is not None:
        logits = jnp.where(used[None, None], logits, -jnp.inf)
    log_probs = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_probs, batch.labels[..., None], axis=2)[..., 0]


def solved(logits: Float[Array, "batch answer vocab"], batch: Batch, among_context: bool) -> Bool[Array, " batch"]:
    """Whether all masked tokens are the argmax: of the whole vocabulary, or of the tokens that the sequence shows.

    Among the context, tokens that training never has as targets cannot lose to those that it has.
    """
    if among_context:
        shown = jax.nn.one_hot(batch.tokens, logits.shape[-1]).sum(axis=1) > 0  # marks are no class: all zero
        logits = jnp.where(shown[:, None], logits, -jnp.inf)
    return (logits.argmax(-1) == batch.labels).all(axis=1)


HELD_OUT = ("initial", "fitted", "means")


def with_held_out(
    key: Key[Array, ""], table: Float[Array, "vocab width"], seen: int, kind: str, std: float
) -> Float[Array, "vocab width"]:
    """The table with its rows from `seen` on, which training never showed, drawn anew.

    initial: N(0, std² I), as they were initialised. fitted: the Gaussian with mean and covariance of the trained rows. means: each the
    mean of ten trained rows. The controls tell apart a model that fails on new tokens from one that fails on vectors of another kind.
    """
    trained, shape = table[:seen], (table.shape[0] - seen, table.shape[1])
    if kind == "initial":
        rows = std * jax.random.normal(key, shape)
    elif kind == "fitted":
        centred = trained - trained.mean(axis=0, keepdims=True)
        # The sum of n centred rows with independent signs of variance 1/n has their covariance.
        signs = jax.random.normal(key, (shape[0], seen)) * seen**-0.5
        rows = trained.mean(axis=0, keepdims=True) + signs @ centred
    else:
        rows = trained[jax.random.randint(key, (shape[0], 10), 0, seen)].mean(axis=1)
    return jnp.concatenate([trained, rows])
