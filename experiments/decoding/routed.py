"""Which tokens of a small model a large one has to write: those that change what is said, told by a router or by uncertainty.

Fu et al. 2025 (arXiv 2505.21600), on worked dialogues (`lexinv.data.dialogues`), of which a grammar knows what a sentence says. Where the
two models differ on a text of the large one, the large one goes on from the small one's token to the end of the sentence: the token is
neutral where that sentence says the same. Lossless speculation with the small model's drafts stands beside: it needs no router.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, by_metric
from experiments.harness.figures import legend_beside
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, panels
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects import dialogue_models, token_routers
from experiments.subjects.dialogue_models import DialogueModels, DialogueWorld
from experiments.subjects.dialogue_pair import Labelled, Pair, forwards_of_speculation, kinds, label, oracle
from experiments.subjects.token_routers import (
    ROUTES,
    SCORES,
    RouterConfig,
    at_random,
    constant,
    learned,
    trained_routers,
)
from lexinv.data.dialogues import judge
from lexinv.decoding.routing import Features, choose_threshold, compute_per_token, features, router
from lexinv.nn.language_model import Params
from lexinv.validation import Checked, Count

PAPERS = ("fu2025r2r",)
LABELS = {
    "router": ("router", BLUE),
    "noisy": ("router, a fifth of the labels flipped", GREEN),
    "on_policy": ("router, half of the labels on its own texts", ORANGE),
    "entropy": ("entropy", VERMILION),
    "margin": ("margin", PURPLE),
    "aleatoric": ("LogU", BLACK),
    "random": ("random", GREY),
}


@dataclass(frozen=True)
class Config(Checked):
    """labelled: texts of the large model on which the router learns, and as many to choose thresholds. shares: of tokens that are sent."""

    dialogues: DialogueModels = DialogueModels()
    labelled: Count = 256
    problems: Count = 256
    router: RouterConfig = RouterConfig()
    shares: tuple[float, ...] = (0.02, 0.04, 0.06, 0.08, 0.12, 0.16, 0.24, 0.32, 0.48, 0.64, 0.8)
    flipped: float = 0.2

    def checks(self):
        same = self.router.training.seeds == self.dialogues.training.seeds
        yield same, "router.training.seeds", f"dialogues.training.seeds = {self.dialogues.training.seeds}"
        yield self.labelled >= 2, "labelled", "at least 2"
        yield list(self.shares) == sorted(set(self.shares)), "shares", "ascending"


PRESETS = presets(
    Config(),
    smoke={**dialogue_models.TINY, **token_routers.TINY, "labelled": 8, "problems": 8, "shares": (0.1, 0.5)},
    quick={"dialogues.training.seeds": (0,), "router.training.seeds": (0,)},
    paper={
        "labelled": 8192,
        "problems": 2048,
        "router.width": 1024,
        "router.blocks": 6,
        "router.training.steps": 20_000,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """arms[arm] of uncertainty and routers: share and accuracy [seed][shares]; of the others [seed].

    on_policy: a router of as many labels, half of them along texts of both models, of which the first router said who writes.
    """
    seeds, dialogues = config.router.training.seeds, DialogueWorld(config.dialogues, workspace)
    pairs = [Pair(config.dialogues, *models) for models in zip(dialogues.small, dialogues.large, strict=True)]
    world, places = dialogues.world, range(len(seeds))

    def problems(place: int, name: str) -> Int[Array, "texts prompt"]:
        return pairs[place].problems(world, seeds[place], name, config.labelled)

    def read(place: int, found: Labelled) -> Features:
        return features(jnp.asarray(found.logits), pairs[place].small["table"])

    def trained(name: str, arms: dict[str, list[Labelled]]) -> dict[str, list[Params]]:
        given = {arm: [(read(at, found[at]), found[at].diverges) for at in places] for arm, found in arms.items()}
        return trained_routers(name, config.router, given, workspace)

    known, held_out = ([label(pairs[at], problems(at, name)) for at in places] for name in ("learned", "chosen"))
    noisy = [flipped(one, seed, config.flipped) for one, seed in zip(known, seeds, strict=True)]
    routers = trained("routers", {"router": known, "noisy": noisy})

    def threshold(place: int) -> float:
        scores = router(routers["router"][place], read(place, held_out[place]))
        return choose_threshold(np.asarray(scores).ravel(), held_out[place].diverges.ravel())

    def by_router(arm: str, place: int, limit: Array | float) -> tuple[Params, tuple[Array], Array]:
        return routers[arm][place], (pairs[place].small["table"],), jnp.asarray(limit)

    half, firsts = config.labelled // 2, [by_router("router", at, threshold(at)) for at in places]
    own = [label(pairs[at], problems(at, "learned")[half:], learned, firsts[at]) for at in places]
    both = [jax.tree.map(lambda a, b: np.concatenate([a[:half], b]), *two) for two in zip(known, own, strict=True)]
    routers |= trained("on_policy", {"on_policy": both})

    def of_seed(name: str) -> dict[str, Any]:
        place = seeds.index(int(name))
        pair, chosen = pairs[place], held_out[place]
        prompt = pair.problems(world, int(name), "asked", config.problems)
        sizes = [sum(leaf.size for leaf in jax.tree.leaves(params)) for params in (pair.small, pair.large)]

        def sent(route: Callable[..., Array], given: Any) -> dict[str, float]:
            mixed = pair.decode(prompt, route, given)
            right = judge(world, jnp.concatenate([prompt[:, 1:], mixed.tokens], axis=1)).answered
            counted, true = compute_per_token(np.asarray(mixed.routed), *sizes)
            understated = true.mean() / counted.mean()
            found = {"share": mixed.routed.mean(), "accuracy": right.mean(), "understated": understated}
            return {metric: float(value) for metric, value in found.items()}

        def swept(route: Callable[..., Array], scores: Array, *given: Any) -> dict[str, list[float]]:
            """At the quantiles of the scores on held-out texts of the large model."""
            limits = [jnp.quantile(scores, 1 - share) for share in config.shares]
            return by_metric([sent(route, (*given, limit)) for limit in limits])

        found: dict[str, Any] = {
            "small": sent(constant, -1.0),
            "large": sent(constant, 1.0),
            "oracle": sent(oracle, kinds(world.config)),
            "random": swept(at_random, jnp.linspace(0.0, 1.0, 1001), jax.random.key(place)),
            "router at its threshold": sent(learned, firsts[place]),
        }
        for arm, route in ROUTES.items():
            found[arm] = swept(route, SCORES[arm](chosen.logits))
        for arm, params in routers.items():
            *given, _ = by_router(arm, place, 0.0)
            found[arm] = swept(learned, router(params[place], read(place, chosen)), *given)
        shares = {name: float(getattr(chosen, name).mean()) for name in ("differs", "diverges")}
        shares["diverges on own texts"] = float(own[place].diverges.mean())
        return {"arms": found, "shares": shares, "speculation": forwards_of_speculation(pair, prompt)}

    rows = list(workspace.stages("routes", map(str, seeds), of_seed).values())
    arms = {arm: by_metric([row["arms"][arm] for row in rows]) for arm in rows[0]["arms"]}
    shares, lossless = by_metric([row["shares"] for row in rows]), [row["speculation"] for row in rows]
    return {"seeds": seeds, "arms": arms, "shares": shares, "speculation": lossless}


def flipped(found: Labelled, seed: int, share: float) -> Labelled:
    """With this share of the labels the other way round."""
    return found._replace(diverges=found.diverges ^ (np.random.default_rng(seed).random(found.diverges.shape) < share))


def needed(results: dict[str, Any], arm: str, level: float = 0.95) -> Float[np.ndarray, " seeds"]:
    """The least share of tokens with this part of the large model's accuracy, linear between those that were tried; 1 where none has."""
    arms, found = Arms(results), []
    for share, accuracy, large in zip(
        arms[arm, "share"], arms[arm, "accuracy"], arms["large", "accuracy"], strict=True
    ):
        wanted, order = level * large, np.argsort(share)
        x, y = np.append(share[order], 1.0), np.append(accuracy[order], large)
        first = int(np.argmax(y >= wanted))
        place = x[0] if first == 0 else np.interp(wanted, y[first - 1 : first + 1], x[first - 1 : first + 1])
        found.append(float(place))
    return np.array(found)


def within(results: dict[str, Any], arm: str, most: np.ndarray) -> Float[np.ndarray, " seeds"]:
    """The best accuracy with at most so many tokens sent."""
    arms = Arms(results)
    rows = zip(arms[arm, "share"], arms[arm, "accuracy"], most, strict=True)
    return np.array(
        [
            max([a for s, a in zip(share, accuracy, strict=True) if s <= limit], default=0.0)
            for share, accuracy, limit in rows
        ]
    )


def claims(results: dict[str, Any]) -> list[Claim]:
    paper, arms = "fu2025r2r", Arms(results)
    large, share = arms["large", "accuracy"], arms["oracle", "share"]
    router_share = needed(results, "router")
    return [
        Claim(
            "few_divergent",
            "Few tokens of the small model change what is said.",
            f"{paper}: abstract",
            {"share of tokens": np.array(results["shares"]["diverges"])},
            below(0.1),
            published="0.05 divergent, 0.06 neutral, 0.89 identical",
        ),
        Claim(
            "oracle_reaches_large",
            "With those alone from the large model the accuracy is the large model's.",
            f"{paper}: section 3",
            {"accuracy less the large model's": arms["oracle", "accuracy"] - large},
            above(-0.01),
        ),
        Claim(
            "router_near_oracle",
            "The router keeps 95 % of it with at most twice as many tokens.",
            f"{paper}: section 4",
            {"share of the large model's accuracy": within(results, "router", 2 * share) / np.maximum(large, 1e-9)},
            above(0.95),
        ),
        Claim(
            "entropy_needs_twice",
            "Entropy has to send twice as many tokens as the router for that.",
            f"{paper}: section 4",
            {name: needed(results, name) / router_share for name in ("entropy",)},
            above(2),
            "times the share",
        ),
        Claim(
            "beats_lossless",
            "The router calls the large model less often than lossless speculation with the same small model does.",
            OURS,
            {"forwards a token, speculation less router": np.array(results["speculation"]) - router_share},
            above(0),
        ),
        Claim(
            "prefill_left_out",
            "Activated parameters leave out that the large model reads what it missed.",
            OURS,
            {"true over counted": arms["router at its threshold", "understated"]},
            above(1.1),
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Right answers by how often the large model is asked, with the oracle and speculation."""
    arms = Arms(results)
    drawn, (axes,) = panels(1, 1, width=6.6, height=3.6, titles=("Right answers by what the large model writes",))
    for arm, (name, color) in LABELS.items():
        share, accuracy = arms[arm, "share"], arms[arm, "accuracy"]
        line = "o--" if arm == "on_policy" else "o-"  # above the router's, which it hardly differs from
        axes.plot(share.mean(axis=0), accuracy.mean(axis=0), line, color=color, label=name, markersize=3)
        axes.vlines(
            share.mean(axis=0), accuracy.min(axis=0), accuracy.max(axis=0), color=color, linewidth=0.8, alpha=0.6
        )
    axes.plot(
        arms["oracle", "share"], arms["oracle", "accuracy"], "*", color=BLACK, markersize=9, label="oracle, seeds"
    )
    axes.plot(
        np.array(results["speculation"]),
        arms["large", "accuracy"],
        "D",
        color=VERMILION,
        label="lossless speculation, seeds",
    )
    axes.axhline(arms["small", "accuracy"].mean(), color=GREY, linestyle=":", label="small model alone")
    axes.set(xlabel="forwards of the large model for a token", ylabel="share of right answers")
    legend_beside(axes)
    return drawn
