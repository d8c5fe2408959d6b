"""Methods of token reduction by name: what each does in a layer that removes so many tokens; `apply` puts one into a whole encoder.

In a network (`reductions`) all follow one schedule of token counts, so that all cost the same (`lexinv.merging.costs`). What a method is,
and which of paper and code it follows, is said where it is defined; method cards token-merging, zero-tprune, divprune, todre.

"pitome" is the released configuration for DeiT: margin 0.75 (1 - l/L), all tokens ordered by energy in the first half of the layers, the
energetic ones alone merged in the second, and attention that ignores sizes. "pitome_paper" is the paper's: its energy, the margin
0.9 - 0.9 l/L, and protection in all layers; "pitome_protect" the same with the code's energy. In text (`pitome_text`) energies are
Gaussian, the margin is 0.9 - 0.25 l/L, and the more energetic half is merged into the other, in the first three layers; sizes restart
at 1 in each.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from lexinv.merging.bipartite import bipartite_matching, complete_graph_matching, weigh_by_importance
from lexinv.merging.diversity import diversity_prune
from lexinv.merging.energy import Kind, Mode, energies, energy_matching, margin_of_layer
from lexinv.merging.k_center import pivot_prune
from lexinv.merging.mlerp import fuse
from lexinv.merging.pagerank import (
    all_heads,
    importance,
    importance_first_prune,
    mean_importance,
    votes_of_layer,
    zero_shot_prune,
)
from lexinv.merging.plan import Plan, merge
from lexinv.merging.ranking import cls_attention, prune_at_random, prune_by_score, rank_matching, received_attention
from lexinv.merging.reduction import Combine, Example, fourier_reduction, reduction
from lexinv.merging.schedules import ratio_schedule
from lexinv.nn.reduced import Reduced, Reduction, Seen
from lexinv.nn.text_encoder import sentence_embeddings
from lexinv.nn.transformer import TransformerConfig
from lexinv.nn.vision_transformer import VisionConfig, encode
from lexinv.validation import choose, require


class Layer(NamedTuple):
    """Where a method acts. removed: tokens that go. protect: the first tokens, which stay. similar: of Zero-TPrune, see `reductions`."""

    removed: int
    index: int
    depth: int
    protect: int
    similar: float


class Method(NamedTuple):
    """A row of the table. plan: of one example in a layer; None for a method without one. merges: every token has a target.

    cls: reads what the first token, a CLS, looks at. draws: needs a key. padding: knows what padding is. proportional: whether its authors
    have attention see a token of size s as s tokens.
    """

    plan: Callable[[Layer, Example], Plan] | None
    merges: bool = False
    cls: bool = False
    draws: bool = False
    padding: bool = True
    proportional: bool = True


def _tome(layer: Layer, e: Example) -> Plan:
    return bipartite_matching(e.similarity, layer.removed, protect=layer.protect, mask=e.mask, key=e.key)


def _pitome(
    layer: Layer,
    e: Example,
    kind: Kind = "elu",
    mode: Mode = "protect",
    sign: float = 1.0,
    start: float = 0.9,
    fall: float = 0.9,
) -> Plan:
    margin = margin_of_layer(layer.index, layer.depth, start, fall)
    scores = energies(e.similarity, margin, kind=kind, mask=e.mask, protect=layer.protect)
    return energy_matching(e.similarity, sign * scores, layer.removed, mode, layer.protect, e.mask)


def _pitome_released(layer: Layer, e: Example) -> Plan:
    mode = "ordered" if layer.index < (layer.depth + 1) // 2 else "protect"
    return _pitome(layer, e, mode=mode, start=0.75, fall=0.75)


_pitome_text = partial(_pitome, kind="gauss", mode="halves", fall=0.25)


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


def _prune_received(layer: Layer, e: Example) -> Plan:
    return prune_by_score(received_attention(e.attention), layer.removed, layer.protect, e.mask)


def _prune_random(layer: Layer, e: Example) -> Plan:
    assert e.key is not None  # `reductions` has asked for it
    return prune_at_random(e.key, e.stream.shape[0], layer.removed, layer.protect, e.mask)


def _prune_even(layer: Layer, e: Example) -> Plan:
    """Which tokens go depends on their places alone: the kept ones are spread evenly."""
    inside = e.stream.shape[0] - layer.protect
    place, kept = np.arange(inside), inside - layer.removed
    stays = (place + 1) * kept // inside > place * kept // inside
    scores = jnp.asarray([*[1.0] * layer.protect, *stays], jnp.float32)
    return prune_by_score(scores, layer.removed, layer.protect, e.mask)


def _diversity(layer: Layer, e: Example) -> Plan:
    rest, mask = e.stream[layer.protect :], None if e.mask is None else e.mask[layer.protect :]
    return behind(diversity_prune(rest, rest.shape[0] - layer.removed, mask), layer.protect, e.mask)


def _pivot(layer: Layer, e: Example) -> Plan:
    rest, scores = e.stream[layer.protect :], cls_attention(e.attention)[layer.protect :]
    mask = None if e.mask is None else e.mask[layer.protect :]
    return behind(pivot_prune(rest, scores, rest.shape[0] - layer.removed, mask=mask), layer.protect, e.mask)


def _zero_tprune(layer: Layer, e: Example, ranking=importance, prune=zero_shot_prune, duplicates: bool = True) -> Plan:
    similar = round(layer.similar * layer.removed) if duplicates else 0
    votes = votes_of_layer(layer.index, layer.depth)
    counts = similar, layer.removed - similar, votes
    return prune(e.attention, e.similarity, *counts, layer.protect, ranking)


def behind(plan: Plan, protect: int, mask: Bool[Array, " tokens"] | None = None) -> Plan:
    """The plan of all tokens that leaves the first `protect` alone, from one for those behind them. mask: of all tokens."""
    first = jnp.arange(protect, dtype=jnp.int32)
    weight = jnp.ones(protect, jnp.float32) if mask is None else mask[:protect].astype(jnp.float32)
    return Plan(
        jnp.concatenate([first, plan.assign + jnp.int32(protect)]),
        jnp.concatenate([weight, plan.weight]),
        jnp.concatenate([first, plan.anchor + jnp.int32(protect)]),
    )


METHODS: dict[str, Method] = {
    "tome": Method(_tome, merges=True),
    "random_bipartite": Method(_tome, merges=True, draws=True),
    "pitome": Method(_pitome_released, merges=True, proportional=False),
    "pitome_protect": Method(_pitome, merges=True),
    "pitome_ordered": Method(partial(_pitome, mode="ordered"), merges=True),
    "pitome_paper": Method(partial(_pitome, kind="paper"), merges=True),
    "pitome_cls": Method(_pitome_cls, merges=True, cls=True),
    "pitome_inverted": Method(partial(_pitome, sign=-1.0), merges=True),
    "pitome_text": Method(_pitome_text, merges=True, proportional=False),
    "pitome_text_protect": Method(partial(_pitome_text, mode="protect"), merges=True, proportional=False),
    "pitome_text_ordered": Method(partial(_pitome_text, mode="ordered"), merges=True, proportional=False),
    "pitome_text_inverted": Method(partial(_pitome_text, sign=-1.0), merges=True, proportional=False),
    "tofu": Method(_tome, merges=True),  # the plan is ToMe's, also in the first layers, where it prunes
    "dct": Method(None, padding=False),
    "diffrate": Method(_diffrate, merges=True, cls=True),
    "complete_graph": Method(_complete_graph, merges=True, cls=True, padding=False),
    "mctf": Method(_mctf, merges=True),
    "prune_cls": Method(_prune_cls, cls=True),
    "prune_received": Method(_prune_received),
    "prune_even": Method(_prune_even),
    "prune_random": Method(_prune_random, draws=True),
    "diversity": Method(_diversity),
    "pivot": Method(_pivot, cls=True),
    "zero_tprune": Method(_zero_tprune, padding=False),
    "zero_tprune_all_heads": Method(partial(_zero_tprune, ranking=all_heads), padding=False),
    "zero_tprune_mean": Method(partial(_zero_tprune, ranking=mean_importance), padding=False),
    "zero_tprune_no_similarity": Method(partial(_zero_tprune, ranking=all_heads, duplicates=False), padding=False),
    "zero_tprune_importance_first": Method(
        partial(_zero_tprune, ranking=all_heads, prune=importance_first_prune), padding=False
    ),
}


def reductions(
    name: str,
    schedule: Sequence[int],
    depth: int,
    protect: int = 1,
    key: Key[Array, ""] | None = None,
    padded: bool = False,
    restart: bool = False,
    similar: float = 1 / 3,
) -> list[Reduction | None]:
    """A reduction for each layer, None where the schedule removes nothing. They hand on plans, `dct` None.

    schedule: tokens removed by each layer; layers after its end keep all. key: of methods that draw; folded with the layer. padded: tokens
    of size 0 are padding. restart: sizes are forgotten after each layer (`restarting`). similar: the share of the removed tokens that
    Zero-TPrune's S-stage drops, about the paper's [recalled, unverified].
    Raises `InvalidConfig` for an unknown name, a schedule longer than the depth, a missing key, padding where the method cannot take it,
    and a method that needs a CLS token without a protected one.
    """
    method = METHODS[choose("method", name, METHODS)]
    require(len(schedule) <= depth, "schedule", tuple(schedule), f"at most {depth} layers")
    require(key is not None or not method.draws, "key", key, f"a key for {name}")
    require(method.padding or not padded, "method", name, "another: it knows nothing of padding")
    require(protect >= 1 or not method.cls, "protect", protect, f"1 or more: {name} reads the CLS token's attention")
    require(0 <= similar <= 1, "similar", similar, "from 0 to 1")
    counts = [*schedule, *[0] * (depth - len(schedule))]
    layers = [Layer(count, index, depth, protect, similar) for index, count in enumerate(counts)]

    def of_layer(layer: Layer) -> Reduction:
        if method.plan is None:
            return partial(_shorten, layer)
        fused = partial(fuse, layer=layer.index, depth=layer.depth) if name == "tofu" else merge
        own = jax.random.fold_in(key, layer.index) if key is not None and method.draws else None
        return reduction(partial(method.plan, layer), restarting(fused) if restart else fused, padded, own)

    return [of_layer(layer) if layer.removed else None for layer in layers]


def _shorten(layer: Layer, seen: Seen) -> Reduced:
    return fourier_reduction(seen.stream.shape[1] - layer.protect - layer.removed, layer.protect)(seen)


TEXT_LAYERS = 3
"""The first layers of a text encoder are those that reduce (the released code for BERT)."""


def apply(
    model: VisionConfig | TransformerConfig,
    params: Any,
    name: str,
    ratio: float,
    key: Key[Array, ""] | None = None,
    proportional: bool | None = None,
) -> Callable[..., Any]:
    """A trained encoder with the method inside, compiled at the first call.

    Of a Vision Transformer, DINOv2 among them: encode(images [batch, size, size, channels]) -> `Encoded`, handing on the layers' plans,
    where every layer keeps `ratio` of its patches. Of a text encoder's configuration: encode(tokens [batch, time], mask [batch, time]) ->
    sentence embeddings [batch, width], where the first three layers keep that ratio. key: of methods that draw. proportional: whether
    attention sees sizes; by default as the method's authors have it. Texts whose attention does not see them do without: they restart in
    every layer. Raises `InvalidConfig` as `reductions` and `ratio_schedule` do.
    """
    method = METHODS[choose("method", name, METHODS)]
    sized = method.proportional if proportional is None else proportional
    if isinstance(model, VisionConfig):
        vision, depth = model, model.layers.depth
        schedule = ratio_schedule(vision.tokens, depth, ratio, vision.protected)
        layers = reductions(name, schedule, depth, vision.protected, key)
        read = jax.jit(lambda params, images: encode(vision, params, images, layers, sized))
        return partial(read, params)
    text, reducing = model, min(TEXT_LAYERS, model.depth)

    def embed(params: Any, tokens: Array, mask: Array) -> Array:
        schedule = ratio_schedule(tokens.shape[1], reducing, ratio)
        layers = reductions(name, schedule, text.depth, 1, key, True, restart=not sized)
        return sentence_embeddings(text, params, tokens, mask, layers, sized)

    ratio_schedule(text.max_length, reducing, ratio)  # what is wrong is refused now, not at the first call
    reductions(name, (), text.depth, 1, key, True)
    return partial(jax.jit(embed), params)


def restarting(combine: Combine) -> Combine:
    """The same without memory: in every layer all tokens that are not padding count 1 again, as in PiToMe's code for BERT, ToMe's too."""

    def forget(plan: Plan, x: Float[Array, "tokens width"], size: Float[Array, " tokens"]) -> tuple[Array, Array]:
        merged, sizes = combine(plan, x, (size > 0).astype(jnp.float32))
        return merged, (sizes > 0).astype(jnp.float32)

    return forget
