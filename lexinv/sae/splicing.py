"""What a language model loses when its activations are replaced by their reconstructions."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from lexinv.validation import require

Edit = Callable[[Float[Array, "batch time width"]], Float[Array, "batch time width"]]
SplicedNll = Callable[[Any, PyTree, Key[Array, ""], Edit], Float[Array, "batch time"]]


class Splice(NamedTuple):
    """Cross-entropies in nats per token: of the model as it is, with reconstructions, with zeros, and with the mean in their place.

    recovered_from_zero, recovered_from_mean: `cross_entropy_recovered` against either ablation.
    """

    clean: float
    reconstructed: float
    zero: float
    mean: float
    recovered_from_zero: float | None
    recovered_from_mean: float | None
    tokens: int


def cross_entropy_recovered(clean: float, reconstructed: float, ablated: float) -> float | None:
    """(CE_ablated - CE_reconstructed) / (CE_ablated - CE_clean): 1 where nothing is lost, 0 where no more is kept than by the ablation.

    Not clipped: above 1 or below 0 it says so. None where the ablation does not hurt, so that there is nothing to recover.
    """
    return (ablated - reconstructed) / (ablated - clean) if ablated > clean else None


def splice(
    nll: SplicedNll,
    params: Any,
    batches: Iterable[PyTree],
    key: Key[Array, ""],
    reconstruct: Callable[[Any, Float[Array, "batch time width"]], Float[Array, "batch time width"]],
    autoencoder: Any,
    mean: Float[Array, " width"],
) -> Splice:
    """Evaluate a model with its activations at a site as they are, reconstructed, zero, and `mean`, on the same batches and lexica.

    nll(params, batch, key, edit): nats of each token of batch {"tokens"[B, T], ...}, padding (tokens below 0) 0, with `edit` applied to the
    activations of all positions but BOS's (`lexinv.nn.sites.make_spliced_nll`). The first token of a sequence, predicted from BOS alone,
    is counted and the same in all four: it drops out of the ratios.
    reconstruct(autoencoder, activations): as from `inference.make_reconstruct`, which does not look at other tokens. What an evaluation
    batch holds must not matter, so no selection over the batch belongs here.
    mean: of the activations at the site, over data other than this. Raises `InvalidConfig` without batches or tokens.
    """

    @jax.jit
    def totals(params: Any, autoencoder: Any, batch: PyTree, key: Key[Array, ""]) -> Float[Array, "4"]:
        edits: list[Edit] = [
            lambda activations: activations,
            lambda activations: reconstruct(autoencoder, activations),
            jnp.zeros_like,
            lambda activations: jnp.broadcast_to(mean.astype(activations.dtype), activations.shape),
        ]
        return jnp.stack([jnp.sum(nll(params, batch, key, edit)) for edit in edits])

    sums, tokens = [0.0] * 4, 0
    for index, batch in enumerate(batches):
        found = totals(params, autoencoder, batch, jax.random.fold_in(key, index))
        sums = [total + float(more) for total, more in zip(sums, found, strict=True)]
        tokens += int((batch["tokens"] >= 0).sum())
    require(tokens > 0, "batches", tokens, "at least one token")
    clean, reconstructed, zero, by_mean = (total / tokens for total in sums)
    return Splice(
        clean,
        reconstructed,
        zero,
        by_mean,
        cross_entropy_recovered(clean, reconstructed, zero),
        cross_entropy_recovered(clean, reconstructed, by_mean),
        tokens,
    )
