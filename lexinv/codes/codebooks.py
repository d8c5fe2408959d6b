"""Quantisers that learn a codebook, under the signature of `lexinv.codes.quantisers`."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from lexinv.codes.quantisers import Draw, Params, Quantised, Quantiser, State, straight_through
from lexinv.validation import Checked, Count, NonNegative, Share, require


@dataclass(frozen=True)
class VectorConfig(Checked):
    """A codebook of `codes` vectors as wide as the latents.

    decay: 0, and the codebook is learned by gradients from its own loss (van den Oord et al. 2017); otherwise it is the moving average, of
        this decay, of the latents that chose each code (their appendix A.1). cosine: latents and codes have length one (Yu et al. 2022).
    commitment: weight of the loss that draws latents to their codes. restart: a code that a batch, on the moving average, chooses less
        often than this becomes a latent of the batch (as Dhariwal et al. 2020).
    """

    codes: Count
    decay: Share = 0.0
    cosine: bool = False
    commitment: NonNegative = 0.25
    restart: NonNegative = 0.0

    def checks(self):
        yield self.codes >= 2, "codes", "at least 2"
        yield self.decay < 1, "decay", "below 1"
        yield self.decay > 0 or self.restart == 0, "restart", "0 where the codebook is learned by gradients"


def vq(width: int, config: VectorConfig) -> Quantiser:
    """The nearest vector of a codebook. By gradients codes begin within 1 / codes of 0, as in VQGAN; with a moving average normal."""
    start = partial(_vq_start, width, config)
    return Quantiser(width, width, (config.codes,), start, partial(_vq, config), partial(_vq_decode, config))


def nearest(z: Float[Array, "positions d"], codebook: Float[Array, "codes d"]) -> Int[Array, " positions"]:
    """The code at the smallest Euclidean distance, without holding [positions, codes, d]."""
    return jnp.argmin(jnp.sum(jnp.square(codebook), axis=1)[None] - 2 * z @ codebook.T, axis=1).astype(jnp.int32)


def _unit(vectors: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
    return vectors * jax.lax.rsqrt(jnp.sum(jnp.square(vectors), axis=-1, keepdims=True) + 1e-12)


def _vq_start(width: int, config: VectorConfig, key: Key[Array, ""]) -> tuple[Params, State]:
    shape = (config.codes, width)
    if config.decay == 0:
        return {"codebook": jax.random.uniform(key, shape, jnp.float32, -1 / config.codes, 1 / config.codes)}, {}
    codebook = jax.random.normal(key, shape)
    return {}, {"codebook": codebook, "count": jnp.ones(config.codes), "total": codebook}


def _codebook(config: VectorConfig, params: Params, state: State) -> Float[Array, "codes d"]:
    found = (params if config.decay == 0 else state)["codebook"]
    return _unit(found) if config.cosine else found


def _vq(config: VectorConfig, params: Params, state: State, z: Float[Array, "*batch d"], key: Draw = None) -> Quantised:
    rows, codebook = z.reshape(-1, z.shape[-1]), _codebook(config, params, state)
    rows = _unit(rows) if config.cosine else rows
    ids = nearest(rows, codebook)
    chosen = codebook[ids]
    losses = config.commitment * jnp.mean(jnp.square(rows - jax.lax.stop_gradient(chosen)), axis=-1)
    if config.decay == 0:
        losses += jnp.mean(jnp.square(jax.lax.stop_gradient(rows) - chosen), axis=-1)
    elif key is not None:
        state = _moved(config, state, jax.lax.stop_gradient(rows), ids, key)
    values = straight_through(rows, chosen).reshape(z.shape)
    return Quantised(values, ids.reshape(*z.shape[:-1], 1), losses.reshape(z.shape[:-1]), state)


def _moved(
    config: VectorConfig, state: State, rows: Float[Array, "rows d"], ids: Int[Array, " rows"], key: Key[Array, ""]
) -> State:
    """The moving averages after a batch; what is not finite is left out."""
    finite = jnp.isfinite(rows).all(axis=1)
    rows = jnp.where(finite[:, None], rows, 0)
    count = jnp.zeros(config.codes).at[ids].add(finite.astype(jnp.float32))
    total = jnp.zeros_like(state["total"]).at[ids].add(rows)
    count, total = (
        config.decay * state[name] + (1 - config.decay) * new for name, new in (("count", count), ("total", total))
    )
    pick = jax.random.randint(key, (config.codes,), 0, len(rows))
    dead = (count < config.restart) & finite[pick]
    count = jnp.where(dead, max(config.restart, 1.0), count)
    total = jnp.where(dead[:, None], rows[pick] * count[:, None], total)
    return {"codebook": total / jnp.maximum(count, 1e-5)[:, None], "count": count, "total": total}


def _vq_decode(
    config: VectorConfig, params: Params, state: State, ids: Int[Array, "*batch 1"]
) -> Float[Array, "*batch d"]:
    return _codebook(config, params, state)[ids[..., 0]]


def residual(width: int, config: VectorConfig, stages: int, dropout: bool = False) -> Quantiser:
    """So many codebooks, each of what those before leave (Zeghidour et al. 2021, SoundStream).

    dropout: a call that has a key uses the first so many stages, from one to all at random; ids are there of all, values of these.
    """
    require(stages >= 1, "stages", stages, "at least 1")
    stage = vq(width, config)
    start = partial(_residual_start, stage, stages)
    quantize, decode = partial(_residual, stage, dropout), partial(_residual_decode, stage)
    return Quantiser(width, width, stage.sizes * stages, start, quantize, decode)


def _residual_start(stage: Quantiser, stages: int, key: Key[Array, ""]) -> tuple[Params, State]:
    begun = [stage.start(one) for one in jax.random.split(key, stages)]
    return {"stages": [params for params, _ in begun]}, {"stages": [state for _, state in begun]}


def _residual(
    stage: Quantiser, dropout: bool, params: Params, state: State, z: Float[Array, "*batch d"], key: Draw = None
) -> Quantised:
    count = len(params["stages"])
    draw, *keys = [None] * (count + 1) if key is None else jax.random.split(key, count + 1)
    used = count if draw is None or not dropout else jax.random.randint(draw, (), 1, count + 1)
    rest, values, losses, ids, states = z, jnp.zeros_like(z), jnp.zeros(z.shape[:-1]), [], []
    for i, (learned, kept, own) in enumerate(zip(params["stages"], state["stages"], keys, strict=True)):
        found = stage.quantize(learned, kept, rest, own)
        taken = jnp.where(i < used, jax.lax.stop_gradient(found.values), 0)
        values, rest = values + taken, rest - taken
        losses += jnp.where(i < used, found.losses, 0)
        ids.append(found.ids)
        states.append(jax.tree.map(lambda new, old, i=i: jnp.where(i < used, new, old), found.state, kept))
    values = straight_through(z, values)
    return Quantised(values, jnp.concatenate(ids, axis=-1), losses, {"stages": states})


def _residual_decode(
    stage: Quantiser, params: Params, state: State, ids: Int[Array, "*batch n"]
) -> Float[Array, "*batch d"]:
    pairs = zip(params["stages"], state["stages"], strict=True)
    return sum(stage.decode(learned, kept, ids[..., i : i + 1]) for i, (learned, kept) in enumerate(pairs))  # type: ignore[return-value]


def index_backprop(width: int, codes: int, commitment: float = 0.25, entropy: float = 0.05) -> Quantiser:
    """The code of the largest inner product, with the gradient of a softmax over all of them: every code is learned at every step.

    Shi et al. 2024 (IBQ): the one-hot choice passes its gradient to the probabilities, the loss pulls latents and codes together along
    both ways, and `entropy` weighs the entropy of each choice less that of their mean.
    """
    require(codes >= 2, "codes", codes, "at least 2")
    start = partial(_normal_start, width, codes)
    quantize = partial(_index_backprop, commitment, entropy)
    return Quantiser(width, width, (codes,), start, quantize, partial(_vq_decode, VectorConfig(codes)))


def _normal_start(width: int, codes: int, key: Key[Array, ""]) -> tuple[Params, State]:
    return {"codebook": jax.random.normal(key, (codes, width))}, {}


def _index_backprop(
    commitment: float, entropy: float, params: Params, state: State, z: Float[Array, "*batch d"], key: Draw = None
) -> Quantised:
    codebook, still = params["codebook"], jax.lax.stop_gradient
    log_shares = jax.nn.log_softmax(z @ codebook.T)
    shares = jnp.exp(log_shares)
    ids = jnp.argmax(shares, axis=-1).astype(jnp.int32)
    hard = jax.nn.one_hot(ids, len(codebook))
    values = straight_through(shares, hard) @ codebook
    pulls = ((values, z, 1.0), (codebook[ids], still(z), 1.0), (still(codebook[ids]), z, commitment))
    losses = sum(weight * jnp.mean(jnp.square(one - other), axis=-1) for one, other, weight in pulls)
    finite = jnp.isfinite(z).all(axis=-1)
    mean = jnp.mean(shares, axis=tuple(range(z.ndim - 1)), where=finite[..., None])
    own = -jnp.sum(shares * log_shares, axis=-1)
    losses += entropy * (own + jnp.sum(mean * jnp.log(jnp.maximum(mean, 1e-20))))
    return Quantised(values, ids[..., None], losses, state)
