"""Methods of token reduction by name, as experiments compare them: what each does in a layer that removes so many tokens.

All follow one schedule of token counts, so that all cost the same (`lexinv.merging.costs`). Method cards token-merging, divprune, todre.
PiToMe's margin falls with depth as in the paper, 0.9 - 0.9 l/L.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from experiments.harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, YELLOW
from lexinv.merging.bipartite import bipartite_matching, complete_graph_matching, weigh_by_importance
from lexinv.merging.diversity import diversity_prune
from lexinv.merging.energy import energies, energy_matching, margin_of_layer
from lexinv.merging.k_center import pivot_prune
from lexinv.merging.mlerp import fuse
from lexinv.merging.plan import Plan, merge
from lexinv.merging.ranking import cls_attention, prune_at_random, prune_by_score, rank_matching, received_attention
from lexinv.merging.reduction import Example, Method, fourier_reduction, reduction
from lexinv.nn.reduced import Reduced, Reduction, Seen
from lexinv.validation import choose, require

PAPER = """@inproceedings{tran2024accelerating,
  title = {Accelerating Transformers with Spectrum-Preserving Token Merging},
  author = {Tran, Hoai-Chau and Nguyen, Duy M. H. and Nguyen, Duy M. and Nguyen, Trung-Tin and Le, Ngan and Xie, Pengtao and
    Sonntag, Daniel and Zou, James Y. and Nguyen, Binh T. and Niepert, Mathias},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2024},
  eprint = {2405.16148},
  archiveprefix = {arXiv}
}"""
"""Of the experiments that compare them."""

NAMES: dict[str, tuple[str, str]] = {
    "tome": ("ToMe", VERMILION),
    "random_bipartite": ("random bipartite", ORANGE),
    "pitome": ("PiToMe", BLUE),
    "pitome_ordered": ("PiToMe, ordered", SKY),
    "pitome_paper": ("PiToMe, paper's energy", "#5D3FD3"),
    "pitome_cls": ("PiToMe by CLS attention", "#44AA99"),
    "pitome_inverted": ("PiToMe, inverted energy", PURPLE),
    "tofu": ("ToFu", GREEN),
    "dct": ("DCT", BLACK),
    "diffrate": ("DiffRate, fixed", YELLOW),
    "complete_graph": ("CrossGET complete graph", "#882255"),
    "mctf": ("MCTF criteria", "#999933"),
    "prune_cls": ("pruning by CLS attention", "#8C564B"),
    "diversity": ("DivPrune", "#117733"),
    "pivot": ("ToDRE, first stage", "#AA4466"),
    "prune_random": ("random pruning", GREY),
}
"""Name: label and colour in figures."""

PARTITIONS = ("tome", "random_bipartite", "pitome", "pitome_ordered", "pitome_paper", "pitome_cls", "pitome_inverted")
PARTITIONS += ("tofu", "diffrate", "complete_graph", "mctf")
"""Those that merge, and thereby have a spectral distance. ToFu has ToMe's partition in the first layer, although it prunes there."""

DRAWING = ("random_bipartite", "prune_random")
"""Those that need a key."""

WITHOUT_CLS = ("tome", "random_bipartite", "pitome", "pitome_ordered", "pitome_paper", "pitome_inverted", "tofu", "dct")
WITHOUT_CLS += ("mctf", "diversity", "prune_random")
"""Those that do not ask what the first token, a CLS, looks at."""

UNPADDED = ("dct", "complete_graph")
"""Those that know nothing of padding."""


class Layer(NamedTuple):
    """Where a method acts. removed: tokens that go. protect: the first tokens, which stay."""

    removed: int
    index: int
    depth: int
    protect: int


def reductions(
    name: str,
    schedule: Sequence[int],
    depth: int,
    protect: int = 1,
    key: Key[Array, ""] | None = None,
    padded: bool = False,
) -> list[Reduction | None]:
    """A reduction for each layer, None where the schedule removes nothing. They hand on plans, `dct` None.

    schedule: tokens removed by each layer; layers after its end keep all. key: for `DRAWING`; folded with the layer. padded: tokens of
    size 0 are padding. Raises `InvalidConfig` for a name that is not in NAMES, a schedule longer than the depth, a missing key, padding
    where the method cannot take it, and a method that needs a CLS token without a protected one.
    """
    choose("method", name, tuple(NAMES))
    require(len(schedule) <= depth, "schedule", tuple(schedule), f"at most {depth} layers")
    require(key is not None or name not in DRAWING, "key", key, f"a key for {name}")
    require(not padded or name not in UNPADDED, "method", name, "another: it knows nothing of padding")
    require(
        protect >= 1 or name in WITHOUT_CLS, "protect", protect, f"1 or more: {name} reads the CLS token's attention"
    )
    counts = [*schedule, *[0] * (depth - len(schedule))]
    layers = [Layer(count, index, depth, protect) for index, count in enumerate(counts)]
    return [_reduction(name, layer, key, padded) if layer.removed else None for layer in layers]


def _reduction(name: str, layer: Layer, key: Key[Array, ""] | None, padded: bool) -> Reduction:
    if name == "dct":
        return partial(_shorten, layer)
    combine = partial(fuse, layer=layer.index, depth=layer.depth) if name == "tofu" else merge
    own = jax.random.fold_in(key, layer.index) if key is not None and name in DRAWING else None
    return reduction(plan_of(name, layer), combine, padded, own)


def _shorten(layer: Layer, seen: Seen) -> Reduced:
    return fourier_reduction(seen.stream.shape[1] - layer.protect - layer.removed, layer.protect)(seen)


def plan_of(name: str, layer: Layer) -> Method:
    """The plan of one example in a layer, by the method's name; `dct` has none."""
    return partial(METHODS[name], layer)


def _tome(layer: Layer, e: Example) -> Plan:
    return bipartite_matching(e.similarity, layer.removed, protect=layer.protect, mask=e.mask, key=e.key)


def _pitome(layer: Layer, e: Example, kind="elu", mode="protect", sign: float = 1.0) -> Plan:
    margin = margin_of_layer(layer.index, layer.depth)
    scores = energies(e.similarity, margin, kind=kind, mask=e.mask, protect=layer.protect)
    return energy_matching(e.similarity, sign * scores, layer.removed, mode, layer.protect, e.mask)


def _pitome_cls(layer: Layer, e: Example) -> Plan:
    """Those that CLS looks at least may be merged."""
    return energy_matching(e.similarity, -cls_attention(e.attention), layer.removed, "protect", layer.protect, e.mask)


def _diffrate(layer: Layer, e: Example) -> Plan:
    """None pruned: the fixed rates with which the PiToMe paper compares."""
    return rank_matching(e.similarity, cls_attention(e.attention), 0, layer.removed, layer.protect, e.mask)


def _complete_graph(layer: Layer, e: Example) -> Plan:
    return complete_graph_matching(e.similarity, cls_attention(e.attention), layer.removed, layer.protect)


def _mctf(layer: Layer, e: Example) -> Plan:
    weighed = weigh_by_importance(e.similarity, received_attention(e.attention), e.size)
    return bipartite_matching(weighed, layer.removed, protect=layer.protect, mask=e.mask)


def _prune_cls(layer: Layer, e: Example) -> Plan:
    return prune_by_score(cls_attention(e.attention), layer.removed, layer.protect, e.mask)


def _prune_random(layer: Layer, e: Example) -> Plan:
    return prune_at_random(e.key, e.stream.shape[0], layer.removed, layer.protect, e.mask)


def _diversity(layer: Layer, e: Example) -> Plan:
    rest = e.stream[layer.protect :]
    mask = None if e.mask is None else e.mask[layer.protect :]
    return behind(diversity_prune(rest, rest.shape[0] - layer.removed, mask), layer.protect)


def _pivot(layer: Layer, e: Example) -> Plan:
    rest, scores = e.stream[layer.protect :], cls_attention(e.attention)[layer.protect :]
    mask = None if e.mask is None else e.mask[layer.protect :]
    return behind(pivot_prune(rest, scores, rest.shape[0] - layer.removed, mask=mask), layer.protect)


def behind(plan: Plan, protect: int) -> Plan:
    """The plan of all tokens that leaves the first `protect` alone, from one for those behind them."""
    first = jnp.arange(protect, dtype=jnp.int32)
    return Plan(
        jnp.concatenate([first, plan.assign + jnp.int32(protect)]),
        jnp.concatenate([jnp.ones(protect), plan.weight]),
        jnp.concatenate([first, plan.anchor + jnp.int32(protect)]),
    )


METHODS: dict[str, Callable[[Layer, Example], Plan]] = {
    "tome": _tome,
    "random_bipartite": _tome,  # with a key, which draws the sides
    "tofu": _tome,
    "pitome": _pitome,
    "pitome_ordered": partial(_pitome, mode="ordered"),
    "pitome_paper": partial(_pitome, kind="paper"),
    "pitome_inverted": partial(_pitome, sign=-1.0),
    "pitome_cls": _pitome_cls,
    "diffrate": _diffrate,
    "complete_graph": _complete_graph,
    "mctf": _mctf,
    "prune_cls": _prune_cls,
    "diversity": _diversity,
    "pivot": _pivot,
    "prune_random": _prune_random,
}
