"""Orthogonal matching pursuit of many vectors at once, as Goddard and Fernandes Neto 2025 carry embeddings over with it."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lexinv.transfer.combinations import Combination
from lexinv.validation import require

SMALLEST = 1e-8
"""Length of what an atom adds to those before it, below which it adds nothing."""


def pursue(
    targets: Float[Array, "batch width"], atoms: Float[Array, "atoms width"], k: int, normalised: bool = False
) -> tuple[Combination, Float[Array, "batch k"]]:
    """Each target by `k` atoms, and how much of it (its length) is left after 1 to k of them.

    Each step takes the atom whose inner product with the residual is largest in size, then fits all coefficients anew by least squares
    (Pati et al. 1993), through a QR factorisation that grows by a column. Atoms are not normalised, as in the released code, unless
    `normalised`, which selects by the cosine. A combination's rows index `atoms`; coefficients may be negative and need not sum to 1.

    Raises `InvalidConfig` for k below 1, above the width or the number of atoms, and for values that are not finite.
    """
    most = min(atoms.shape)
    require(1 <= k <= most, "k", k, f"1 to {most}, the smaller of the width and the number of atoms")
    for name, values in (("targets", targets), ("atoms", atoms)):
        require(bool(jnp.isfinite(values).all()), name, "not finite", "finite numbers")
    return _pursue(jnp.asarray(targets, jnp.float32), jnp.asarray(atoms, jnp.float32), k, normalised)


@partial(jax.jit, static_argnums=(2, 3))
def _pursue(
    targets: Float[Array, "batch width"], atoms: Float[Array, "atoms width"], k: int, normalised: bool
) -> tuple[Combination, Float[Array, "batch k"]]:
    (batch, width), count = targets.shape, len(atoms)
    lengths = jnp.maximum(jnp.linalg.norm(atoms, axis=1), SMALLEST) if normalised else jnp.ones(count)
    selected = atoms / lengths[:, None]
    each = jnp.arange(batch)

    def step(t: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        basis, upper, rows, taken, residual, left = state
        fit = jnp.where(taken, -1.0, jnp.abs(residual @ selected.T))
        chosen = jnp.argmax(fit, axis=1)
        atom = atoms[chosen]
        along = jnp.einsum("bkd,bd->bk", basis, atom)
        rest = atom - jnp.einsum("bkd,bk->bd", basis, along)
        again = jnp.einsum("bkd,bd->bk", basis, rest)  # once more, or rounding tilts the basis
        rest -= jnp.einsum("bkd,bk->bd", basis, again)
        length = jnp.maximum(jnp.linalg.norm(rest, axis=1), SMALLEST)
        direction = rest / length[:, None]
        basis = basis.at[:, t].set(direction)
        upper = upper.at[:, :, t].set(along + again).at[:, t, t].set(length)
        residual -= jnp.einsum("bd,bd->b", direction, residual)[:, None] * direction
        left = left.at[:, t].set(jnp.linalg.norm(residual, axis=1))
        return basis, upper, rows.at[:, t].set(chosen), taken.at[each, chosen].set(True), residual, left

    begin = (
        jnp.zeros((batch, k, width)),
        jnp.zeros((batch, k, k)),
        jnp.zeros((batch, k), jnp.int32),
        jnp.zeros((batch, count), bool),
        targets,
        jnp.zeros((batch, k)),
    )
    basis, upper, rows, _, _, left = jax.lax.fori_loop(0, k, step, begin)
    along = jnp.einsum("bkd,bd->bk", basis, targets)
    weights = jax.scipy.linalg.solve_triangular(upper, along[..., None])[..., 0]
    return Combination(rows, weights), left
