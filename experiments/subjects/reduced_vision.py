"""What token reduction does to trained Vision Transformers: schedules, their FLOPs, and accuracy."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from experiments.harness.arms import by_metric
from experiments.harness.training import Params, Training, stacked, train
from experiments.harness.workspace import Workspace
from experiments.subjects.font_characters import cross_entropy, normalised
from experiments.subjects.glyph_classifiers import accuracy
from lexinv.data.glyphs import Images
from lexinv.merging.costs import nearest_schedule, relative_flops
from lexinv.merging.methods import METHODS, reductions
from lexinv.merging.plan import Plan
from lexinv.merging.rates import learned_counts, mask_by_rank, masked_classify
from lexinv.merging.schedules import even_schedules, ratio_schedule, ratio_schedules, token_counts
from lexinv.nn.vision_transformer import VisionConfig, classify
from lexinv.training.step import LossFn

BATCH = 64
"""Images at a time."""

Schedule = tuple[int, ...]

Subjects = Sequence[tuple[Params, Images]]
"""Model and held-out images of each seed."""

LABELS = {
    "tome": "ToMe",
    "random_bipartite": "random bipartite",
    "pitome": "PiToMe",
    "pitome_protect": "PiToMe, protecting",
    "pitome_ordered": "PiToMe, ordered",
    "pitome_paper": "PiToMe as in the paper",
    "pitome_cls": "PiToMe by CLS attention",
    "pitome_inverted": "PiToMe, inverted energy",
    "tofu": "ToFu",
    "dct": "DCT",
    "diffrate": "DiffRate, fixed",
    "complete_graph": "CrossGET complete graph",
    "mctf": "MCTF criteria",
    "prune_cls": "pruning by CLS attention",
    "diversity": "DivPrune",
    "pivot": "ToDRE, first stage",
    "prune_random": "random pruning",
}
"""Of methods, in figures."""


def flops(model: VisionConfig, schedule: Schedule) -> float:
    """Multiply-adds of all blocks relative to the unreduced model's. schedule: tokens removed by each layer."""
    return float(
        relative_flops(token_counts(model.tokens, schedule), model.layers.width, model.layers.mlp_width)  # type: ignore[arg-type]
    )


def schedule_of(model: VisionConfig, ratio: float) -> Schedule:
    """Tokens removed by each layer that keeps `ratio` of its patches."""
    return ratio_schedule(model.tokens, model.layers.depth, ratio, model.protected)


def at_flops(model: VisionConfig, schedules: Callable[..., Iterable[Schedule]], goal: float) -> Schedule:
    """Of schedules for the model (`even_schedules`, `ratio_schedules`, ...) the one whose relative FLOPs are nearest to `goal`."""
    made = schedules(model.tokens, model.layers.depth, protect=model.protected)
    return nearest_schedule(made, goal, model.tokens, model.layers.width, model.layers.mlp_width)


@partial(jax.jit, static_argnames=("model", "method", "schedule", "similar"))
def forward(
    params: Any,
    pixels: Array,
    key: Key[Array, ""],
    model: VisionConfig,
    method: str | None = None,
    schedule: Schedule = (),
    similar: float = 1 / 3,
) -> tuple[Array, list[Plan | None]]:
    """(logits, plans) of a model in which the method reduces tokens by this schedule; of the unreduced one without a method."""
    if method is None:
        return classify(model, params, pixels)
    layers = reductions(method, schedule, model.layers.depth, model.protected, key, similar=similar)
    return classify(model, params, pixels, layers, METHODS[method].proportional)


def accuracy_of(params: Any, images: Images, model: VisionConfig, *reduced: Any) -> float:
    """Of one model on its images. reduced: method and schedule, as of `forward`."""
    starts = range(0, len(images.labels), BATCH)
    logits = [forward(params, images.pixels[at : at + BATCH], jax.random.key(at), model, *reduced)[0] for at in starts]
    return round(accuracy(jnp.concatenate(logits), images.labels), 5)


def make_rate_loss(model: VisionConfig, target: float, penalty: float) -> LossFn:
    """Cross-entropy in nats and penalty (FLOPs - target)^2; params {"learned": logits [layers, candidates], "frozen": the model's}."""

    def loss(params: Params, batch: Any, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        del key
        learned, frozen = params["learned"], jax.lax.stop_gradient(params["frozen"])
        logits, _ = masked_classify(model, frozen, normalised(batch["pixels"]), [None, *map(mask_by_rank, learned)])
        missed = cross_entropy(logits, batch["labels"])
        counts = [model.tokens, *(learned_counts(learned) + model.protected)]
        spent = jnp.asarray(relative_flops(counts, model.layers.width, model.layers.mlp_width))
        return missed + penalty * jnp.square(spent - target), {"cross_entropy": missed, "flops": spent}

    return loss


def schedules_beside(model: VisionConfig, logits: Array) -> dict[str, Schedule]:
    """What `make_rate_loss` learned, as a schedule, and those by hand with the FLOPs nearest to its: a ratio, and a number, per layer."""
    left = [model.patches, *map(int, jax.jit(learned_counts)(logits))]
    learned = tuple(before - after for before, after in pairwise(left))
    goal = flops(model, learned)
    by_hand = {"ratio": ratio_schedules, "fixed": even_schedules}
    return {"learned": learned, **{name: at_flops(model, made, goal) for name, made in by_hand.items()}}


def learned_rates(
    model: VisionConfig,
    subjects: Subjects,
    methods: Sequence[str],
    penalty: float,
    given: Any,
    learning: Training,
    workspace: Workspace,
    target: float,
) -> dict[str, Any]:
    """By schedule, the one learned for a target and those by hand at each seed's FLOPs: tokens, FLOPs; by method accuracy.

    given: batches, for `train` as `learning` says.
    """
    start = jnp.zeros((len(subjects), model.layers.depth - 1, model.patches))
    params = {"learned": start, "frozen": stacked([params for params, _ in subjects])}
    loss = make_rate_loss(model, target, penalty)
    found = train(f"rates-{target}", params, loss, given, learning, workspace, tokens=model.tokens)
    by_seed = by_metric([schedules_beside(model, tree["learned"]) for tree in found])

    def accuracies(method: str, schedules: Sequence[Schedule]) -> list[float]:
        return [accuracy_of(*own, model, method, one) for own, one in zip(subjects, schedules, strict=True)]

    return {
        "tokens": {name: [list(token_counts(model.tokens, one)) for one in some] for name, some in by_seed.items()},
        "flops": {name: [round(flops(model, one), 5) for one in some] for name, some in by_seed.items()},
        "accuracy": {way: {name: accuracies(way, some) for name, some in by_seed.items()} for way in methods},
    }
