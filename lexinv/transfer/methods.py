"""The published ways to fill the rows of a new vocabulary, by name: `transplanted("pursuit", given, table, 32)`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lexinv.transfer.combinations import (
    Combination,
    apply,
    blend,
    drawn,
    focus,
    local,
    means_of_pieces,
    nearest,
    ridge,
    transplant,
    zero,
)
from lexinv.transfer.matching_pursuit import pursue
from lexinv.transfer.vocabularies import Match, SurfaceForms
from lexinv.validation import choose, require

Table = Float[Array, "vocab width"]
Rows = Float[Array, "new width"]
NEIGHBOURS, SHARE = 3, 0.3
"""TokenAdapt's: known tokens of the global estimate, and its part of the blend."""
MOST = 256
"""Shared tokens that FOCUS looks at for a new one."""


@dataclass(frozen=True, eq=False)
class Given:
    """What a method may use. forms: the new tokens in the source's. shares: bytes of each of these over those of the new token.

    vectors: of the new tokens and of all of the source, of length 1, by an encoder of texts. donor: a table of a model with the target's
    tokenizer; output_donor: that of its outputs, where it has two.
    """

    match: Match
    forms: SurfaceForms
    shares: Float[np.ndarray, "new length"]
    vectors: tuple[Float[np.ndarray, "new features"], Float[np.ndarray, "vocab features"]] | None = None
    donor: Float[np.ndarray, "target donor_width"] | None = None
    output_donor: Float[np.ndarray, "target donor_width"] | None = None


class Method(NamedTuple):
    """needs: beside the tokenizers, "nothing", "encoder" or "donor". tried: values of its setting; none where it has none."""

    rows: Callable[[Given, Table, float], Rows]
    needs: str = "nothing"
    tried: tuple[float, ...] = ()


def transplanted(method: str, given: Given, table: Table, setting: float | int = 0.0) -> Float[Array, "target width"]:
    """The table of the target's tokenizer: shared rows copied, new ones by a method of `METHODS`.

    setting: temperature of TokenAdapt's weights, atoms of pursuit, strength of ridge. Raises `InvalidConfig` for an unknown method and for
    one that lacks what it needs.
    """
    chosen = METHODS[choose("method", method, METHODS)]
    there = {"nothing": True, "encoder": given.vectors is not None, "donor": given.donor is not None}
    allowed = f"one that does without the {chosen.needs}, which is not given"
    require(there[chosen.needs], "method", method, allowed)
    return transplant(table, given.match, chosen.rows(given, table, setting))


def transplanted_tables(
    method: str, given: Given, params: Mapping[str, Any], setting: float | int = 0.0, output: str = ""
) -> dict[str, Float[Array, "target width"]]:
    """{"table": that of the target} and, of a model with an output table of its own, {"output_table": the same of that, by its donor}.

    params: of a language model. output: another method for the output table. Raises `InvalidConfig` as `transplanted`, and for an output
    method where one table is read and predicted from.
    """
    tied = "output_table" not in params
    require(not (output and tied), "output", output, "none: the model is tied, it has one table")
    tables = {"table": transplanted(method, given, params["table"], setting)}
    if not tied:
        beside = replace(given, donor=given.output_donor)
        tables["output_table"] = transplanted(output or method, beside, params["output_table"], setting)
    return tables


def _local(given: Given, temperature: float, semantic: bool = True) -> Combination:
    ids, mask, similarity = jnp.asarray(given.forms.ids), jnp.asarray(given.forms.mask), None
    if semantic and given.vectors is not None:
        new, known = given.vectors
        similarity = jnp.asarray(np.einsum("np,nlp->nl", new, known[given.forms.ids]))
    return local(ids, mask, similarity, jnp.asarray(given.shares), temperature)


def _hybrid(given: Given, table: Table, temperature: float) -> Rows:
    assert given.vectors is not None
    new, known = given.vectors
    near = nearest(jnp.asarray(new), jnp.asarray(known), NEIGHBOURS, temperature)
    return apply(blend(_local(given, temperature), near, SHARE), table)


def _focus(given: Given, table: Table) -> Rows:
    assert given.vectors is not None
    (new, known), shared = given.vectors, given.match.shared[:, 0]
    found = focus(jnp.asarray(new), jnp.asarray(known[shared]), MOST)
    return apply(Combination(jnp.asarray(shared)[found.rows], found.weights), table)


def _shared(given: Given, table: Table) -> tuple[Array, Array, Array]:
    """Of the donor the rows of new and of shared tokens, and the rows of these in the table."""
    donor = jnp.asarray(given.donor, jnp.float32)
    source, target = given.match.shared.T
    return donor[given.match.new], donor[target], jnp.asarray(table, jnp.float32)[source]


def _pursuit(given: Given, table: Table, k: float | int) -> Rows:
    """At most as many atoms as the donor is wide; 256 targets at a time, whose residuals' products with all atoms are held."""
    new, atoms, rows = _shared(given, table)
    k = min(int(k), *atoms.shape)
    parts = [apply(pursue(new[start : start + 256], atoms, k)[0], rows) for start in range(0, len(new), 256)]
    return jnp.concatenate(parts)


def _ridge(given: Given, table: Table, strength: float) -> Rows:
    new, donor, base = _shared(given, table)
    return new @ ridge(donor, base, strength)


TEMPERATURES, ATOMS, STRENGTHS = (
    (0.1, 0.3, 0.6, 1.0, 3.0, 10.0),
    (2, 4, 8, 16, 32, 64),
    (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0),
)
METHODS = {
    "zero": Method(lambda given, table, _: apply(zero(len(given.match.new)), table)),
    "mean": Method(
        lambda given, table, _: jnp.broadcast_to(table.mean(0)[None], (len(given.match.new), table.shape[1]))
    ),
    "drawn": Method(lambda given, table, _: drawn(jax.random.key(0), table, len(given.match.new))),
    "pieces": Method(lambda given, table, _: apply(means_of_pieces(*map(jnp.asarray, given.forms[:2])), table)),
    "length": Method(lambda given, table, t: apply(_local(given, t, semantic=False), table), "nothing", TEMPERATURES),
    "local": Method(lambda given, table, t: apply(_local(given, t), table), "encoder", TEMPERATURES),
    "hybrid": Method(_hybrid, "encoder", TEMPERATURES),
    "focus": Method(lambda given, table, _: _focus(given, table), "encoder"),
    "pursuit": Method(_pursuit, "donor", ATOMS),
    "ridge": Method(_ridge, "donor", STRENGTHS),
}
"""pieces: FVT, ReTok. length, local, hybrid: TokenAdapt, the first without its semantic term. focus: FOCUS, not in the
fastText space of its authors but in that of the encoder of texts. pursuit: OMP. ridge: a dense rival."""
