"""Rows carried from one table to another where the true ones are known: a few shared atoms against one linear map.

Goddard and Fernandes Neto 2025 (arXiv 2506.06607; method card omp-tokenizer-transplantation) carry embeddings over by matching pursuit and
do not compare a ridge map. Two tables are images of one latent space, linear or cluster by cluster, with noise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.figures import curves
from experiments.harness.presets import presets
from experiments.harness.style import PALETTE, panels
from experiments.harness.verdicts import OURS, Claim, above
from experiments.harness.workspace import Workspace
from lexinv.transfer.combinations import apply, ridge
from lexinv.transfer.matching_pursuit import pursue
from lexinv.transfer.methods import METHODS
from lexinv.validation import Checked, Count

PAPERS = ()
REGIMES = {"linear": (1, 0.05), "noisy": (1, 0.5), "local": (20, 0.05)}
"""Linear maps between clusters of tokens, of which there are so many, and the noise."""
WAYS = {"pursuit": "atoms", "ridge": "strength"}


@dataclass(frozen=True)
class Config(Checked):
    """draws: of pairs of spaces. shared, new: tokens of 20 clusters. donor, base: widths of the tables."""

    draws: Count = 10
    shared: Count = 2000
    new: Count = 500
    donor: Count = 64
    base: Count = 80


PRESETS = presets(Config(), smoke={"draws": 2, "shared": 300, "new": 50}, paper={"draws": 100})


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Cosine of new rows to the true ones, by regime and method: by pursuit's atoms, by ridge's strength, and at the best of them.

    The truth chooses the best, for both alike. "most" is at the last of what is tried.
    """

    @cache
    def drawn(regime: str, draw: int) -> tuple[Float[Array, "tokens donor_width"], Float[Array, "tokens width"]]:
        return tables(config, regime, draw)

    def measure(arm: str, draw: int) -> dict[str, Any]:
        regime, method = arm.split("/")
        donor, base = drawn(regime, draw)
        atoms, new, rows, true = (
            part for table in (donor, base) for part in (table[: config.shared], table[config.shared :])
        )

        def made(setting: float) -> Float[Array, "new width"]:
            if method == "ridge":
                return new @ ridge(atoms, rows, setting)
            return apply(pursue(new, atoms, int(setting))[0], rows)

        tried = [cosine(made(setting), true) for setting in METHODS[method].tried]
        return {"best": max(tried), "tried": tried, "most": tried[-1]}

    arms = [f"{regime}/{method}" for regime in REGIMES for method in WAYS]
    return {"seeds": list(range(config.draws)), "arms": measured(workspace, arms, range(config.draws), measure)}


def tables(
    config: Config, regime: str, draw: int
) -> tuple[Float[Array, "tokens donor_width"], Float[Array, "tokens width"]]:
    """Of the donor and of the base, for shared tokens and then new ones."""
    (maps, noise), random = REGIMES[regime], np.random.default_rng((list(REGIMES).index(regime), draw))
    tokens = config.shared + config.new
    cluster = random.integers(20, size=tokens)
    latent = 2 * random.normal(size=(20, 48))[cluster] + random.normal(size=(tokens, 48))
    lengths = random.lognormal(0, 0.3, size=(tokens, 1))
    # so that what a map makes of it has variance 1, and noise is a share of that
    latent /= np.sqrt((latent**2).sum(1).mean())
    image = latent @ random.normal(size=(48, config.donor))
    donor = lengths * (image + noise * random.normal(size=image.shape))
    each = np.einsum("nz,nzb->nb", latent, random.normal(size=(maps, 48, config.base))[cluster % maps])
    base = lengths * (each + noise * random.normal(size=each.shape))
    return jnp.asarray(donor, jnp.float32), jnp.asarray(base, jnp.float32)


def cosine(made: Float[Array, "new width"], true: Float[Array, "new width"]) -> float:
    """The mean over rows."""
    along = (made * true).sum(1) / jnp.linalg.norm(made, axis=1) / jnp.linalg.norm(true, axis=1)
    return float(along.mean())


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """Where which is nearer to the truth."""
    arms = Arms(results)

    def nearer(method: str, than: str, *regimes: str) -> dict[str, np.ndarray]:
        return {regime: arms[f"{regime}/{method}", "best"] - arms[f"{regime}/{than}", "best"] for regime in regimes}

    return [
        Claim(
            "ridge_wins_where_linear",
            "Where one table is a linear image of the other, a ridge map is nearer to the truth than pursuit at its best.",
            OURS,
            nearer("ridge", "pursuit", "linear", "noisy"),
            above(0),
            "cosine more",
            over="draws",
        ),
        Claim(
            "pursuit_wins_where_local",
            "Where every cluster of tokens has a map of its own, pursuit is nearer.",
            OURS,
            nearer("pursuit", "ridge", "local"),
            above(0),
            "cosine more",
            over="draws",
        ),
        Claim(
            "pursuit_has_an_optimum",
            "More atoms are not always better: with noise the most of them are worse than the best number.",
            OURS,
            {"noisy": arms["noisy/pursuit", "best"] - arms["noisy/pursuit", "most"]},
            above(0.01),
            "cosine more",
            over="draws",
        ),
    ]


def figure(results: Mapping[str, Any]) -> Figure:
    """Cosine to the true rows by what each method is set to."""
    drawn, axes = panels(1, len(WAYS), titles=("matching pursuit", "ridge"))
    for panel, (method, setting) in zip(axes, WAYS.items(), strict=True):
        labels = {f"{regime}/{method}": (regime, color) for regime, color in zip(REGIMES, PALETTE, strict=False)}
        curves(panel, METHODS[method].tried, Arms(results), "tried", labels, ticks=True)
        panel.set(xlabel=setting, ylabel="cosine to the true rows", ylim=(0.4, 1.0))
    axes[0].legend()
    return drawn
