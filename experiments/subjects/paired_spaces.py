"""Two tables of the same tokens of which the truth is known: linear images of one latent space, of all of it or cluster by cluster."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from lexinv.transfer.combinations import apply, ridge
from lexinv.transfer.matching_pursuit import pursue
from lexinv.transfer.methods import METHODS

REGIMES = {"linear": (1, 0.05), "noisy": (1, 0.5), "local": (20, 0.05)}
"""Of two tables of one latent space: linear maps between clusters of tokens of which there are so many, and the noise."""


def simulate(draws: int) -> dict[str, list[dict[str, Any]]]:
    """Cosine of new rows to the true ones, by regime and method: 2000 shared and 500 new tokens of 20 clusters, donors of width 64.

    Pursuit by its atoms, ridge by its strength; "best" of each is their best, chosen by the truth for both alike.
    """
    found: dict[str, list[dict[str, Any]]] = {
        f"{regime}/{method}": [] for regime in REGIMES for method in ("pursuit", "ridge")
    }
    for number, (regime, (maps, noise)) in enumerate(REGIMES.items()):
        for draw in range(draws):
            random = np.random.default_rng((number, draw))
            cluster = random.integers(20, size=2500)
            latent = 2 * random.normal(size=(20, 48))[cluster] + random.normal(size=(2500, 48))
            lengths = random.lognormal(0, 0.3, size=(2500, 1))
            latent /= np.sqrt(
                (latent**2).sum(1).mean()
            )  # so that what a map makes of it has variance 1, and noise is a share of that
            donor = lengths * (latent @ random.normal(size=(48, 64)) + noise * random.normal(size=(2500, 64)))
            each = np.einsum("nz,nzb->nb", latent, random.normal(size=(maps, 48, 80))[cluster % maps])
            base = lengths * (each + noise * random.normal(size=each.shape))
            atoms, new, rows, true = (
                jnp.asarray(x, jnp.float32) for x in (donor[:2000], donor[2000:], base[:2000], base[2000:])
            )

            def cosine(made: Any, true: Any = true) -> float:
                along = (made * true).sum(1) / jnp.linalg.norm(made, axis=1) / jnp.linalg.norm(true, axis=1)
                return float(along.mean())

            tried = {
                "pursuit": [cosine(apply(pursue(new, atoms, int(k))[0], rows)) for k in METHODS["pursuit"].tried],
                "ridge": [cosine(new @ ridge(atoms, rows, strength)) for strength in METHODS["ridge"].tried],
            }
            for method, values in tried.items():
                found[f"{regime}/{method}"].append({"best": max(values), "tried": values, "most": values[-1]})
    return found
