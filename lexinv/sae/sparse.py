"""Codes as the few entries of every token that are not zero: values and indices [N, k] instead of [N, F].

The decoder gathers the rows that are used, and gradients go to these rows, and columns of the encoder, alone: N k D multiplications each
in place of N F D. Loops run over the k entries of all tokens at once, so that nothing of size N k D is ever held.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Values = Float[Array, "tokens k"]
Indices = Int[Array, "tokens k"]


def largest(pre: Float[Array, "tokens features"], count: int) -> tuple[Values, Indices]:
    """The `count` largest relu(pre) of every token, in falling order, and where they are; of equal ones the smallest index first.

    They have no gradient: see `with_encoder_gradient`.
    """
    values, indices = jax.lax.top_k(jax.lax.stop_gradient(pre), count)
    return jax.nn.relu(values), indices


@jax.custom_vjp
def with_encoder_gradient(
    values: Values,
    indices: Indices,
    x: Float[Array, "tokens width"],
    encoder: Float[Array, "width features"],
    encoder_bias: Float[Array, " features"],
    decoder_bias: Float[Array, " width"],
) -> Values:
    """`values` as they are, known to be relu((x - b_dec) W_enc + b_enc) at `indices`: their gradient goes to those that they came from.

    It may be used for several sets of entries of the same pre-activations: the gradients add up.
    """
    return values


def _values_forward(values, indices, x, encoder, encoder_bias, decoder_bias):
    return values, (values, indices, x, encoder, decoder_bias)


def _values_backward(saved, gradient):
    values, indices, x, encoder, decoder_bias = saved
    gradient = jnp.where(values > 0, gradient, 0.0)
    rows = _rows_to_features(gradient, indices, x - decoder_bias[None], encoder.shape[1])
    bias = jnp.zeros(encoder.shape[1], gradient.dtype).at[indices].add(gradient)
    return None, None, _sum_of_rows(gradient, indices, encoder.T), rows.T, bias, -(encoder @ bias)


with_encoder_gradient.defvjp(_values_forward, _values_backward)


@jax.custom_vjp
def decode_entries(
    values: Values, indices: Indices, decoder: Float[Array, "features width"]
) -> Float[Array, "tokens width"]:
    """z W_dec of the code that has `values` at `indices` and is 0 elsewhere; without b_dec."""
    return _sum_of_rows(values, indices, decoder)


def _decode_forward(values, indices, decoder):
    return _sum_of_rows(values, indices, decoder), (values, indices, decoder)


def _decode_backward(saved, gradient):
    values, indices, decoder = saved
    along = jax.lax.map(lambda index: jnp.sum(gradient * decoder[index], axis=1), indices.T).T
    return along, None, _rows_to_features(values, indices, gradient, decoder.shape[0])


decode_entries.defvjp(_decode_forward, _decode_backward)


def firings(values: Values, indices: Indices, features: int) -> Int[Array, " features"]:
    """How many tokens every feature fires for."""
    return jnp.zeros(features, jnp.int32).at[indices].add((values > 0).astype(jnp.int32))


def _sum_of_rows(
    values: Values, indices: Indices, rows: Float[Array, "features width"]
) -> Float[Array, "tokens width"]:
    """sum_j values[:, j] rows[indices[:, j]]."""

    def add(total, entry):
        value, index = entry
        return total + value[:, None] * rows[index], None

    zeros = jnp.zeros((values.shape[0], rows.shape[1]), rows.dtype)
    return jax.lax.scan(add, zeros, (values.T, indices.T), unroll=min(8, values.shape[1]))[0]


def _rows_to_features(
    values: Values, indices: Indices, rows: Float[Array, "tokens width"], features: int
) -> Float[Array, "features width"]:
    """Row f is the sum of values[n, j] rows[n] over the entries with indices[n, j] = f: the product of the transposed code with `rows`."""

    def add(total, entry):
        value, index = entry
        return total.at[index].add(value[:, None] * rows), None

    zeros = jnp.zeros((features, rows.shape[1]), rows.dtype)
    return jax.lax.scan(add, zeros, (values.T, indices.T))[0]
