"""Which visual tokens a vision-language model needs, by method, question and layer: DivPrune and ToDRE on generated scenes.

Alvar et al. 2025 (arXiv 2503.02175) and Li et al. 2025 (arXiv 2505.18757); method cards divprune, todre. One toy model answers questions
about coloured shapes, some a single patch (`rare`), some many (`dominant`); all tokens are pruned at test time only. Stage 1 keeps a share
of the visual tokens before the decoder; stage 2 removes all of them from a late layer on. CLS was trained to name the largest object and
nothing else, as captions name their subject: that it looks there is our doing. The text's attention is that of the question itself, for
which a pass over all tokens comes first; it is not in the multiply-adds. The system token counts as image-free context, not as text.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.claims import Claim, Interval, above, below, every, interval
from experiments.harness.drawn_training import DrawnTraining, Params
from experiments.harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILION, band, panels, reference, styled
from experiments.harness.workspace import Workspace
from experiments.merging.scene_models import SceneSubject, ask_together, held_out, scene_models
from experiments.merging.scene_pruning import (
    METHODS,
    TEXT_LAYER,
    Kept,
    View,
    apart_views,
    encode_images,
    flops,
    group,
    keep_tokens,
    layer_by_layer,
    one_by_one,
    right_answers,
    run_layers,
    text_attention,
    views_of,
)
from lexinv.data.scenes import BACKGROUND, KINDS, Questions, SceneConfig, chance
from lexinv.merging.bipartite import cosine_similarity
from lexinv.merging.diversity import diversity_prune
from lexinv.merging.k_center import check_layer
from lexinv.merging.plan import merge
from lexinv.nn.vision_language import Encoded
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.streams import stream
from lexinv.validation import require

PAPER = """@inproceedings{alvar2025divprune,
  title = {{DivPrune}: Diversity-based Visual Token Pruning for Large Multimodal Models},
  author = {Alvar, Saeed Ranjbar and Singh, Gursimran and Akbari, Mohammad and Zhang, Yong},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  pages = {9392--9401},
  year = {2025},
  eprint = {2503.02175},
  archiveprefix = {arXiv}
}"""
DIVPRUNE, TODRE = "Alvar et al. 2025", "Li et al. 2025"
CARD = "method cards divprune and todre"
JUDGED = 0.1
TAU = 0.1
TAUS = (0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
PAPER_TAUS = (0.03, 0.05, 0.1, 0.15)
ANSWERS = (1, 16, 64)
TYPES = ("rare", "dominant", "count", "presence")
OUTLIERS = 4
OUTLIER_NORM = 3.0
"""Of injected tokens, in medians of the image's own norms."""


@dataclass(frozen=True)
class Config:
    """scenes: held out for each seed. ratios: shares of the visual tokens that are kept, falling, the judged one among them."""

    subject: SceneSubject = SceneSubject()
    scenes: int = 512
    ratios: tuple[float, ...] = (0.5, 0.25, 0.1, 0.05)

    def __post_init__(self):
        require(self.scenes >= 1, "scenes", self.scenes, "at least 1")
        falling = all(a > b for a, b in zip(self.ratios, self.ratios[1:], strict=False))
        require(falling and JUDGED in self.ratios, "ratios", self.ratios, f"falling, {JUDGED} among them")
        inside = all(0 < ratio < 1 and self.kept(ratio) >= 1 for ratio in self.ratios)
        require(inside, "ratios", self.ratios, "above 0 and below 1, with a token left")
        depth, width = self.subject.depth, self.subject.data.patches - OUTLIERS
        require(depth >= 3, "subject.depth", depth, f"at least 3: layer {TEXT_LAYER} and a third of the layers")
        require(self.kept(JUDGED) >= 1 and width > self.kept(JUDGED), "subject.data.grid", width, "more patches")
        asked = (self.subject.counts, self.subject.presences)
        require(min(asked) >= 1, "subject.counts, presences", asked, "at least 1 question of each kind")

    def kept(self, ratio: float) -> int:
        """Visual tokens that are left."""
        return round(ratio * self.subject.data.patches)


PRESETS = {
    "smoke": Config(
        SceneSubject(
            SceneConfig(grid=4, sizes=(2, 1, 1, 1)),
            vision_depth=1,
            vision_width=16,
            depth=3,
            width=16,
            heads=2,
            training=DrawnTraining(20, 8, (0, 1), OptimizerConfig("muon", 2e-2, 5)),
        ),
        scenes=16,
        ratios=(0.5, 0.1),
    ),
    "cpu": Config(),
    "paper": Config(
        SceneSubject(
            SceneConfig(grid=24, patch=16, sizes=(10, 5, 1, 1)),
            vision_depth=24,
            vision_width=1024,
            depth=32,
            width=4096,
            heads=32,
            training=DrawnTraining(20_000, 256, (0, 1, 2), OptimizerConfig("muon", 2e-3, 500)),
        ),
        scenes=5000,
    ),
}


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Per seed: accuracy by method, ratio and type of question; by layer of removal; of both stages; with gaps closed; with outliers."""
    models = scene_models(config.subject, workspace)
    seeds = [
        workspace.cached(f"seed-{seed}", partial(measure, config, params, seed))
        for seed, params in zip(config.subject.training.seeds, models.params, strict=True)
    ]
    subject, patches = config.subject, config.subject.data.patches
    check = check_layer(subject.depth)
    stages = {"neither": (patches, None), "first": (config.kept(JUDGED), None)}
    stages |= {"second": (patches, check), "both": (config.kept(JUDGED), check)}
    return {
        "corpora": {},
        "seeds": list(subject.training.seeds),
        "ratios": list(config.ratios),
        "depth": subject.depth,
        "chance": chance(subject.data),
        "flops": {str(ratio): flops(subject, config.kept(ratio)) / flops(subject, patches) for ratio in config.ratios},
        "stage_flops": {
            name: {str(answer): flops(subject, *stage, answer) / 1e6 for answer in ANSWERS}
            for name, stage in stages.items()
        },
        "measured": seeds,
        "origin": models.origin,
    }


def measure(config: Config, params: Params, seed: int) -> dict[str, Any]:
    """All numbers of one model, on scenes of its own."""
    subject = config.subject
    scenes, questions = held_out(subject, seed, config.scenes)
    encoded = encode_images(subject.model, params, scenes.pixels)
    keys = jax.random.split(stream(jax.random.key(seed), "pruning"), 2)
    views, text = views_of(encoded, keys[0]), text_attention(subject, params, encoded, questions)

    def accuracy(method: str, ratio: float, gaps: Any = "keep") -> tuple[dict[str, float], np.ndarray]:
        kept, asked = keep(method, config.kept(ratio), views, text), questions
        if method == "text":
            asked = one_by_one(questions)
        right = answers(subject, params, kept, asked, gaps).reshape(questions.answer.shape)
        return group(subject.data, questions, right), np.asarray(kept.places)

    methods: dict[str, Any] = {}
    for method in METHODS:
        found = {str(ratio): accuracy(method, ratio) for ratio in config.ratios}
        methods[method] = {ratio: types for ratio, (types, _) in found.items()}
        if method != "text":
            for ratio, (types, places) in found.items():
                types["rare_kept"] = rare_kept(subject.data, np.asarray(scenes.owner), places)
                methods[method][ratio] = types
    closed = {
        method: {str(ratio): accuracy(method, ratio, "close")[0] for ratio in config.ratios}
        for method in ("divprune", "random")
    }
    full = ask_together(subject, params, encoded.visual, questions)
    first = keep("maxsum", config.kept(JUDGED), views, text)
    pruned = ask_together(subject, params, first.visual, questions, first.places)
    return {
        "full": group(subject.data, questions, right_answers(params, run_layers(subject, params, full), questions)),
        "methods": methods,
        "closed": closed,
        "layers": {
            "all": by_layer(subject, params, full, questions),
            "first": by_layer(subject, params, pruned, questions),
        },
        "outliers": with_outliers(config, params, encoded, views, questions, np.asarray(scenes.owner), keys[1]),
        "correlation": correlation(encoded.visual, text),
    }


def keep(method: str, count: int, views: View, text: jax.Array) -> Kept:
    """The tokens that a method keeps of every image, or, where it looks at the text, for every question."""
    return keep_tokens(method, count, apart_views(views, text) if method == "text" else views)


def answers(subject: SceneSubject, params: Params, kept: Kept, questions: Questions, gaps: Any = "keep") -> np.ndarray:
    """Whether answers from the kept tokens are right."""
    asked = ask_together(subject, params, kept.visual, questions, kept.places, kept.size, gaps)
    return right_answers(params, run_layers(subject, params, asked, sized=True), questions)


def rare_kept(data: SceneConfig, owner: np.ndarray, places: np.ndarray) -> float:
    """The share of objects of the fewest patches of which a patch is among the places."""
    left = np.take_along_axis(owner, places, axis=1)
    rare = np.flatnonzero(np.array(data.sizes) == min(data.sizes))
    return round(float(np.mean([(left == which).any(axis=1) for which in rare])), 4)


def by_layer(subject: SceneSubject, params: Params, asked: Any, questions: Questions) -> dict[str, Any]:
    """Accuracy with visual tokens removed before each layer, a_tv of each, and what stage 2 decides and leaves, by threshold."""
    found = layer_by_layer(subject, params, asked, questions, TAUS)
    check, kind = check_layer(subject.depth), np.asarray(questions.kind[0])
    removed = found.withdrawn[:, check]
    first = np.argmax(np.concatenate([found.withdrawn, np.ones_like(found.withdrawn[:, :1])], axis=1), axis=1)
    adaptive = np.take_along_axis(np.broadcast_to(found.right, (len(TAUS), *found.right.shape)), first[:, None], 1)
    return {
        "accuracy": [group(subject.data, questions, right) for right in found.right],
        "share": found.share.mean(axis=(1, 2)).round(4).tolist(),
        "share_by_kind": {
            name: found.share[:, :, kind == place].mean(axis=(1, 2)).round(4).tolist()
            for place, name in enumerate(KINDS)
        },
        "check": {
            "accuracy": np.where(removed, found.right[check], found.right[-1]).mean(axis=(1, 2)).round(4).tolist(),
            "withdrawn": removed.mean(axis=(1, 2)).round(4).tolist(),
        },
        "adaptive": {
            "accuracy": adaptive.mean(axis=(1, 2, 3)).round(4).tolist(),
            "layer": first.mean(axis=(1, 2)).round(3).tolist(),
        },
    }


def with_outliers(
    config: Config,
    params: Params,
    encoded: Encoded,
    views: View,
    questions: Questions,
    owner: np.ndarray,
    key: jax.Array,
) -> dict[str, Any]:
    """Random background tokens of each image replaced by long random vectors: how many of them are kept, and what is still answered.

    `filtered` is DivPrune among the tokens whose norm is below twice the image's median.
    """
    place_key, vector_key = jax.random.split(key)
    draws = jax.random.uniform(place_key, owner.shape) - jnp.where(jnp.asarray(owner) == BACKGROUND, 0.0, 1.0)
    places = jax.lax.top_k(draws, OUTLIERS)[1]
    norm = jnp.median(jnp.linalg.norm(encoded.visual, axis=-1), axis=1)
    vectors = jax.random.normal(vector_key, (*places.shape, encoded.visual.shape[-1]))
    vectors = vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True) * OUTLIER_NORM * norm[:, None, None]
    visual = encoded.visual.at[jnp.arange(len(owner))[:, None], places].set(vectors)
    injected = np.zeros(owner.shape, bool)
    np.put_along_axis(injected, np.asarray(places), True, axis=1)
    changed, count, subject = views._replace(visual=visual), config.kept(JUDGED), config.subject
    found = {}
    for name in ("divprune", "filtered", "maxsum", "cls", "random"):
        kept = keep_short(count, changed) if name == "filtered" else keep_tokens(name, count, changed)
        share = np.take_along_axis(injected, np.asarray(kept.places), axis=1).sum() / injected.sum()
        found[name] = group(subject.data, questions, answers(subject, params, kept, questions))
        found[name]["outliers_kept"] = round(float(share), 4)
    return found


@partial(jax.jit, static_argnums=0)
def keep_short(count: int, views: View) -> Kept:
    """DivPrune after a filter by norm; padding of a plan is what the filter leaves out."""

    def one(visual: jax.Array) -> Kept:
        norms = jnp.linalg.norm(visual, axis=-1)
        plan = diversity_prune(visual, count, norms < 2 * jnp.median(norms))
        kept, size = merge(plan, visual)
        return Kept(kept, plan.anchor, size)

    return jax.vmap(one)(views.visual)


def correlation(visual: jax.Array, text: jax.Array) -> float:
    """Pearson's r over an image's tokens of redundancy, the mean cosine to the others, and relevance, the text's attention; mean."""
    patches = visual.shape[1]
    redundancy = (np.asarray(jax.vmap(cosine_similarity)(visual)).sum(axis=-1) - 1) / (patches - 1)
    one = redundancy[:, None] - redundancy[:, None].mean(axis=-1, keepdims=True)
    other = np.asarray(text) - np.asarray(text).mean(axis=-1, keepdims=True)
    scale = np.sqrt((one**2).sum(axis=-1) * (other**2).sum(axis=-1))
    return round(float(np.mean((one * other).sum(axis=-1) / np.maximum(scale, 1e-12))), 4)


def of(results: dict[str, Any], method: str, kind: str, ratio: float = JUDGED) -> np.ndarray:
    """Accuracy of a method for each seed."""
    return np.array([seed["methods"][method][str(ratio)][kind] for seed in results["measured"]])


def after_removal(results: dict[str, Any], kind: str = "all") -> np.ndarray:
    """[seeds, depth + 1] accuracy with all visual tokens removed before each layer, and with none removed."""
    return np.array([[layer[kind] for layer in seed["layers"]["all"]["accuracy"]] for seed in results["measured"]])


def shares(results: dict[str, Any]) -> np.ndarray:
    """[seeds, depth] a_tv."""
    return np.array([seed["layers"]["all"]["share"] for seed in results["measured"]])


def claims(results: dict[str, Any]) -> list[Claim]:
    """The cards' expectations; thresholds in points of accuracy are of the questions of that type."""
    seeds, depth, ratios = results["measured"], results["depth"], results["ratios"]

    def ahead(method: str, other: str, kind: str) -> Interval:
        return interval(of(results, method, kind) - of(results, other, kind))

    full = {kind: interval([seed["full"][kind] for seed in seeds]) for kind in TYPES}
    rare = {other: ahead("divprune", other, "rare") for other in ("cls", "random")}
    todre = {other: ahead("maxsum", other, "rare") for other in ("cls", "random")}
    average = interval(
        np.mean([of(results, "divprune", "all", r) - of(results, "maxsum", "all", r) for r in ratios], axis=0)
    )
    removal, share = after_removal(results), shares(results)
    late, early = range(-(-2 * depth // 3), depth), range(1, max(depth // 3, 2))
    lost = {f"layer {layer}": interval(removal[:, -1] - removal[:, layer]) for layer in late}
    gained = (removal - removal[:, :1]) / np.maximum(removal[:, -1:] - removal[:, :1], 1e-9)
    left = {f"layer {layer}": interval(gained[:, layer]) for layer in early}
    third = depth // 3
    ratio = interval(share[:, -third:].mean(axis=1) / share[:, :third].mean(axis=1))
    relation = interval([seed["correlation"] for seed in seeds])

    def stage(which: str, tau: float) -> np.ndarray:
        return np.array([seed["layers"][which]["check"]["accuracy"][TAUS.index(tau)] for seed in seeds])

    second = {
        which: interval([s["layers"][which]["accuracy"][-1]["all"] for s in seeds] - stage(which, TAU))
        for which in ("all", "first")
    }
    by_tau = np.stack([stage("all", tau) for tau in PAPER_TAUS])
    spread = interval(by_tau.max(axis=0) - by_tau.min(axis=0))
    gaps = interval(of(results, "divprune", "all") - [s["closed"]["divprune"][str(JUDGED)]["all"] for s in seeds])
    picked = {
        name: interval([seed["outliers"][name]["outliers_kept"] for seed in seeds])
        for name in ("divprune", "random", "filtered")
    }
    mended = interval([seed["outliers"]["filtered"]["rare"] - seed["outliers"]["divprune"]["rare"] for seed in seeds])
    at = f"at {JUDGED:.0%} of the visual tokens"
    return [
        Claim(
            "model_answers_questions",
            "The model that all this rests on answers every type of question with all its tokens (measured: accuracy).",
            "ours; a condition for the others",
            None,
            full,
            "every whole interval above 0.9",
            every([above(value, 0.9) for value in full.values()]),
        ),
        Claim(
            "divprune_beats_cls_on_rare",
            f"On the colour of objects of a single patch max-min diversity beats CLS attention and random {at} (measured: difference).",
            CARD,
            "state of the art over 16 sets",
            rare,
            "both whole intervals above 0.05",
            every([above(value, 0.05) for value in rare.values()]),
        ),
        Claim(
            "maxsum_beats_cls_on_rare",
            f"So does max-sum diversity from the token of most CLS attention, ToDRE's first stage {at} (measured: difference).",
            CARD,
            "95.0 against 91.4 at 10 % on 8 benchmarks, for CLS attention",
            todre,
            "both whole intervals above 0.05",
            every([above(value, 0.05) for value in todre.values()]),
        ),
        Claim(
            "maxmin_and_maxsum_within_noise",
            "Max-min and max-sum are equal on average (measured: difference over all questions, mean of the ratios).",
            CARD,
            None,
            average,
            "whole interval in (-0.03, 0.03)",
            every([above(average, -0.03), below(average, 0.03)]),
        ),
        Claim(
            "cls_wins_on_dominant",
            f"On the colour of the largest object CLS attention beats max-min diversity {at} (measured: difference; the card: may win).",
            CARD,
            None,
            ahead("cls", "divprune", "dominant"),
            "whole interval above 0",
            above(ahead("cls", "divprune", "dominant"), 0.0),
        ),
        Claim(
            "accuracy_flat_when_removed_late",
            "Removing all visual tokens in the last third of the layers costs next to nothing (measured: loss of accuracy).",
            TODRE,
            "100.0 % kept by stage 2 alone",
            lost,
            "every whole interval below 0.02",
            every([below(value, 0.02) for value in lost.values()]),
        ),
        Claim(
            "collapse_when_removed_early",
            "Removing them in the first third loses most of what the image gives (measured: share that is left of the accuracy above that "
            "of the text alone).",
            CARD,
            None,
            left,
            "every whole interval below 0.5",
            every([below(value, 0.5) for value in left.values()]),
        ),
        Claim(
            "a_tv_falls_with_depth",
            "The text's attention to visual tokens fades (measured: a_tv in the last third over that in the first third of the layers).",
            TODRE,
            "high in early layers, fades in the second half",
            ratio,
            "whole interval below 0.5",
            below(ratio, 0.5),
        ),
        Claim(
            "second_stage_is_free",
            f"Stage 2, removal at layer {check_layer(depth)} where a_tv is below {TAU}, costs next to nothing, with or without stage 1 "
            "(measured: loss of accuracy).",
            TODRE,
            "100.0 % kept by stage 2 alone",
            {"with all tokens": second["all"], "after stage 1": second["first"]},
            "both whole intervals below 0.02",
            every([below(value, 0.02) for value in second.values()]),
        ),
        Claim(
            "threshold_barely_matters",
            "Thresholds of stage 2 between 0.03 and 0.15 give the same accuracy (measured: largest less smallest).",
            TODRE,
            "differences about 0.1 %",
            spread,
            "whole interval below 0.01",
            below(spread, 0.01),
        ),
        Claim(
            "redundancy_independent_of_relevance",
            f"How redundant a token is says nothing on how relevant it is (measured: Pearson's r of mean cosine and text attention in layer "
            f"{TEXT_LAYER}, over an image's tokens).",
            TODRE,
            "covariance 0, derived from an assumption",
            relation,
            "whole interval in (-0.3, 0.3)",
            every([above(relation, -0.3), below(relation, 0.3)]),
        ),
        Claim(
            "closing_gaps_matters",
            f"Closing the gaps in the positions of DivPrune's tokens changes accuracy {at} (measured: kept less closed).",
            CARD,
            None,
            gaps,
            "whole interval above 0.01, or below -0.01",
            None if gaps.low is None else bool(above(gaps, 0.01) or below(gaps, -0.01)),
        ),
        Claim(
            "maxmin_takes_outliers",
            f"Max-min diversity takes injected outliers first, a filter by norm leaves them out {at} (measured: share of outliers kept).",
            CARD,
            None,
            {**picked, "accuracy on rare objects, filtered less not": mended},
            "above 0.9 for DivPrune, below 0.01 filtered; filtering gains: above 0",
            every([above(picked["divprune"], 0.9), below(picked["filtered"], 0.01), above(mended, 0.0)]),
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Accuracy by ratio for each type of question; below, layers of removal with a_tv, both stages, positions, outliers."""
    drawn, axes = panels(2, 4, width=3.3, height=2.9)
    ratios, depth, seeds = results["ratios"], results["depth"], results["measured"]
    labels = {
        "rare": "colour, one patch",
        "dominant": "colour, largest object",
        "count": "count",
        "presence": "presence",
    }
    with styled():
        for ax, kind in zip(axes, TYPES, strict=False):
            for method, (label, color) in METHODS.items():
                values = np.stack([of(results, method, kind, ratio) for ratio in ratios], axis=1)
                band(ax, ratios, values, label, color, marker="o", markersize=3)
            reference(ax, float(np.mean([seed["full"][kind] for seed in seeds])), "all tokens", BLACK)
            reference(ax, results["chance"]["colour" if kind in ("rare", "dominant") else kind], "blind guess")
            ax.set(xscale="log", title=labels[kind], xlabel="share of visual tokens kept", ylim=(0, 1.04))
            ax.set_xticks(ratios, [f"{ratio:g}" for ratio in ratios], minor=False)
            ax.minorticks_off()
        axes[0].set_ylabel("accuracy")
        axes[0].legend(fontsize=6, loc="upper left")
        layers = np.arange(depth + 1)
        for kind, color in zip(TYPES, (BLUE, VERMILION, GREEN, ORANGE), strict=True):
            band(axes[4], layers, after_removal(results, kind), kind, color, marker="o", markersize=3)
        band(axes[4], layers[:-1], shares(results), "a_tv", BLACK, linestyle=":")
        axes[4].set(title="all visual tokens removed", xlabel="before layer", ylabel="accuracy, a_tv", ylim=(0, 1.04))
        axes[4].legend(fontsize=6)
        for which, color in (("check", VERMILION), ("adaptive", BLUE)):
            values = [seed["layers"]["all"][which]["accuracy"] for seed in seeds]
            label = f"only at layer {check_layer(depth)}" if which == "check" else "first layer below"
            band(axes[5], TAUS, values, label, color, marker="o", markersize=3)
        reference(axes[5], float(np.mean([seed["full"]["all"] for seed in seeds])), "all tokens", BLACK)
        axes[5].set(title="stage 2 by threshold", xlabel="threshold of a_tv")
        axes[5].legend(fontsize=6)
        _draw_stages(axes[6], results)
        for method in ("divprune", "random"):
            label, color = METHODS[method]
            kept = np.stack([of(results, method, "all", ratio) for ratio in ratios], axis=1)
            closed = [[seed["closed"][method][str(ratio)]["all"] for ratio in ratios] for seed in seeds]
            band(axes[7], ratios, kept, f"{label}, gaps kept", color)
            band(axes[7], ratios, closed, f"{label}, gaps closed", color, linestyle="--")
        axes[7].set(xscale="log", title="positions", xlabel="share of visual tokens kept")
        axes[7].set_xticks(ratios, [f"{ratio:g}" for ratio in ratios], minor=False)
        axes[7].minorticks_off()
        axes[7].legend(fontsize=6)
    return drawn


def _draw_stages(ax, results) -> None:
    """Multiply-adds of both stages for answers of several lengths, with their accuracies."""
    stages, width = results["stage_flops"], 0.2
    accuracy = stage_accuracy(results)
    for place, (name, color) in enumerate(zip(stages, (GREY, BLUE, VERMILION, GREEN), strict=True)):
        heights = [stages[name][str(answer)] for answer in ANSWERS]
        ax.bar(
            np.arange(3) + width * (place - 1.5), heights, width, label=f"{name} ({accuracy[name]:.1%})", color=color
        )
    ax.set_xticks(range(3), [str(answer) for answer in ANSWERS])
    ax.set(title="stages (accuracy)", xlabel="length of the answer", ylabel="million multiply-adds")
    ax.legend(fontsize=6)


def stage_accuracy(results: dict[str, Any]) -> dict[str, float]:
    """Mean accuracy with neither stage, with one, with both."""
    at = TAUS.index(TAU)
    found = {}
    for name, which, second in (
        ("neither", "all", False),
        ("first", "first", False),
        ("second", "all", True),
        ("both", "first", True),
    ):
        layers = [seed["layers"][which] for seed in results["measured"]]
        values = [layer["check"]["accuracy"][at] if second else layer["accuracy"][-1]["all"] for layer in layers]
        found[name] = float(np.mean(values))
    return found
