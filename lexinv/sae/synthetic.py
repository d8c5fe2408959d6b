"""Activations whose features are known: unit vectors, Zipf frequencies, easy and hard tokens, features that come together.

All of it is float32, whatever the default precision is: autoencoders are trained on it in scans.
"""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lexinv.validation import Allowed, Checked, Count, CountOrZero, NonNegative, Positive

Proper = Annotated[float, Allowed(lambda x: 0 <= x < 1, "at least 0 and below 1", (-0.1, 1.0))]


@dataclass(frozen=True)
class SyntheticConfig(Checked):
    """Feature r (from 1) of `features` is in a token with probability proportional to r^-alpha, on average `l0` features at once.

    Each token is easy or hard, by halves: all its probabilities are multiplied by 1 - difficulty or 1 + difficulty. A feature that is there
    has magnitude 1 + spread |N(0, 1)|.
    orthogonal: the directions are orthonormal, where there are no more of them than dimensions; otherwise uniform on the sphere.
    offset: added to every coordinate of every token. noise: standard deviation of white noise.
    parents: so many of the most frequent features have one rare feature each as their child, which is only there where its parent is.
    correlation: of the normal variables of a Gaussian copula that decide which features are there, within groups of `group` neighbours in
        frequency; groups are independent. Given a token's difficulty every feature keeps its probability, whatever the correlation.
    """

    width: Count = 64
    features: Count = 128
    l0: Positive = 5.0
    alpha: NonNegative = 0.9
    difficulty: Proper = 0.65
    spread: NonNegative = 0.25
    orthogonal: bool = False
    offset: float = 0.0
    noise: NonNegative = 0.0
    parents: CountOrZero = 0
    correlation: Proper = 0.0
    group: Count = 4

    def checks(self):
        yield self.l0 <= self.features, "l0", f"at most the {self.features} features"
        fits = not self.orthogonal or self.features <= self.width
        yield fits, "orthogonal", f"False for more features than the {self.width} dimensions"
        yield self.parents <= self.features // 2, "parents", "at most half of the features"


class Tokens(NamedTuple):
    """Activations x = c V + offset, with the codes c and the difficulty that made them."""

    activations: Float[Array, "tokens width"]
    codes: Float[Array, "tokens features"]
    difficulty: Float[Array, " tokens"]


def make_dictionary(config: SyntheticConfig, key: Key[Array, ""]) -> Float[Array, "features width"]:
    """The directions V, unit vectors."""
    if config.orthogonal:
        return jax.random.orthogonal(key, config.width, dtype=jnp.float32)[: config.features]
    directions = jax.random.normal(key, (config.features, config.width), jnp.float32)
    return directions / jnp.linalg.norm(directions, axis=1, keepdims=True)


def probabilities(config: SyntheticConfig) -> Float[Array, " features"]:
    """Of each feature in a token of mean difficulty; at most 1/(1 + difficulty), so that none exceeds 1 in a hard one.

    Where the most frequent ones reach that, the mean number of features is below `l0`.
    """
    weights = jnp.arange(1, config.features + 1, dtype=jnp.float32) ** -config.alpha
    return jnp.minimum(config.l0 * weights / jnp.sum(weights), 1 / (1 + config.difficulty))


def sample_tokens(
    config: SyntheticConfig, dictionary: Float[Array, "features width"], tokens: int, key: Key[Array, ""]
) -> Tokens:
    """Independent tokens."""
    hard_key, present_key, size_key, noise_key = jax.random.split(key, 4)
    shape = (tokens, config.features)
    hard = jax.random.bernoulli(hard_key, 0.5, (tokens,))
    difficulty = jnp.where(hard, 1 + config.difficulty, 1 - config.difficulty).astype(jnp.float32)
    uniform = jax.random.uniform(present_key, shape, jnp.float32)
    if config.correlation:
        uniform = _copula(config, tokens, present_key)
    present = uniform < difficulty[:, None] * probabilities(config)[None]
    if config.parents:
        children = present[:, config.features - config.parents :] & present[:, : config.parents]
        present = jnp.concatenate([present[:, : config.features - config.parents], children], axis=1)
    magnitudes = 1 + config.spread * jnp.abs(jax.random.normal(size_key, shape, jnp.float32))
    codes = jnp.where(present, magnitudes, 0.0)
    noise = config.noise * jax.random.normal(noise_key, (tokens, config.width), jnp.float32)
    return Tokens(codes @ dictionary + config.offset + noise, codes, difficulty)


def _copula(config: SyntheticConfig, tokens: int, key: Key[Array, ""]) -> Float[Array, "tokens features"]:
    """Uniform variables Phi(sqrt(rho) g + sqrt(1 - rho) e), g shared by the features of a group: a Gaussian copula."""
    group_key, own_key = jax.random.split(key)
    groups = -(-config.features // config.group)
    shared = jax.random.normal(group_key, (tokens, groups), jnp.float32)[:, jnp.arange(config.features) // config.group]
    own = jax.random.normal(own_key, (tokens, config.features), jnp.float32)
    return jax.scipy.special.ndtr(config.correlation**0.5 * shared + (1 - config.correlation) ** 0.5 * own)
