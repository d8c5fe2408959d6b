"""Methods of token reduction by name, as they are compared in a text encoder: those of `methods`, and PiToMe's text mode with its variants.

Tran et al. 2024 (arXiv 2405.16148); from the method card's reading of the released code: Gaussian energies with sigma = 1 - m,
m = 0.9 - 0.25 l/L, and the more energetic half merged into the other. [CLS] is protected.
"""

from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from experiments.harness.style import BLUE, PURPLE, SKY
from experiments.merging.methods import NAMES, reductions
from lexinv.merging.energy import Mode, energies, energy_matching, margin_of_layer
from lexinv.merging.plan import Plan, merge
from lexinv.merging.ranking import prune_by_score
from lexinv.merging.reduction import Example, reduction
from lexinv.nn.reduced import Reduction

SHARED = ("tome", "random_bipartite", "tofu", "dct", "diffrate", "prune_cls", "prune_random")
"""Methods as all experiments of the family have them."""
METHODS: dict[str, tuple[str, str]] = {
    **{name: NAMES[name] for name in SHARED},
    "pitome": ("PiToMe for text", BLUE),
    "pitome_protect": ("PiToMe, alternating", SKY),
    "pitome_ordered": ("PiToMe, ordered", "#5D3FD3"),
    "pitome_inverted": ("PiToMe, inverted energy", PURPLE),
    "pitome_uncounted": ("PiToMe, sizes not in attention", "#882255"),
    "pitome_restarted": ("PiToMe, sizes restart", "#999933"),
    "prune_even": ("every so many kept", "#44AA99"),
}
"""Name: label and colour."""
MODES: dict[str, tuple[Mode, float]] = {
    "pitome": ("halves", 1.0),
    "pitome_protect": ("protect", 1.0),
    "pitome_ordered": ("ordered", 1.0),
    "pitome_inverted": ("halves", -1.0),
    "pitome_uncounted": ("halves", 1.0),
    "pitome_restarted": ("halves", 1.0),
}
"""How pairs are formed, and the sign of the energy."""
PADDED = ("tome", "pitome", "prune_cls", "prune_random")
"""Those that are also run on passages of different lengths."""


def reductions_of(
    method: str, schedule: Sequence[int], depth: int, key: Key[Array, ""], padded: bool = False
) -> list[Reduction | None]:
    """A reduction for each of the encoder's layers. ToFu prunes in the first half of those that reduce, not of all."""
    if method in SHARED:
        found = reductions(method, schedule, len(schedule), 1, key, padded)
    elif method == "prune_even":
        found = [reduction(partial(prune_even, count), padded=padded) for count in schedule]
    else:
        combine = restarting if method == "pitome_restarted" else merge
        plans = [partial(pitome, index, depth, count, *MODES[method]) for index, count in enumerate(schedule)]
        found = [reduction(plan, combine, padded) for plan in plans]
    return [*found, *[None] * (depth - len(schedule))]


def pitome(layer: int, depth: int, count: int, mode: Mode, sign: float, example: Example) -> Plan:
    """PiToMe's plan with the Gaussian energies of its text mode."""
    margin = margin_of_layer(layer, depth, 0.9, 0.25)
    scores = energies(example.similarity, margin, kind="gauss", mask=example.mask, protect=1)
    return energy_matching(example.similarity, sign * scores, count, mode, 1, example.mask)


def prune_even(count: int, example: Example) -> Plan:
    """Which tokens go depends on their places alone: the kept ones are spread evenly."""
    inside = example.stream.shape[0] - 1
    place, kept = np.arange(inside), inside - count
    stays = (place + 1) * kept // inside > place * kept // inside
    return prune_by_score(jnp.asarray([1.0, *stays], jnp.float32), count, 1, example.mask)


def restarting(plan: Plan, x: Array, size: Array) -> tuple[Array, Array]:
    """A merge that forgets sizes, as the paper's code for BERT starts them at 1 in every layer."""
    merged, sizes = merge(plan, x, (size > 0).astype(jnp.float32))
    return merged, (sizes > 0).astype(jnp.float32)
