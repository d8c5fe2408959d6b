"""Routing on a published model: which tokens of SmolLM2's half say something else, and does a router know more than entropy?

Fu et al. 2025 (arXiv 2505.21600), on answers to requests of one form. The half is SmolLM2 without its middle layers, tuned for a minute or
two: it is further from the whole than the paper's models are from one another.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from matplotlib.figure import Figure

from experiments.harness.arms import Arms
from experiments.harness.figures import band, curves
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, BLUE, GREY, PURPLE, VERMILION, panels
from experiments.harness.training import Training
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects import token_routers
from experiments.subjects.halved_model import SAME, HalvedConfig, HalvedPair, halved_pair, tell
from experiments.subjects.token_routers import RouterConfig, trained_routers
from lexinv.decoding.ngram_overlap import ngram_f1
from lexinv.decoding.routing import entropy, features, router
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import Checked

PAPERS = ("fu2025r2r",)
LABELS = {
    "router": ("router", BLUE),
    "entropy": ("entropy", VERMILION),
    "margin": ("margin", PURPLE),
    "aleatoric": ("LogU", BLACK),
    "random": ("random", GREY),
}
WRITTEN = ("router", "entropy")
"""What decides who writes, where both models write."""
LIMITS = (0.5, 0.9)
"""Other values of `SAME`, for the share that diverges."""


@dataclass(frozen=True)
class Config(Checked):
    """shares: of tokens that are sent; `judged` is the one of the claims. requests: the seed of their order."""

    pair: HalvedConfig = HalvedConfig()
    router: RouterConfig = RouterConfig(
        training=Training(
            steps=200,
            batch_size=256,
            seeds=(0, 1, 2),
            optimizer=OptimizerConfig(learning_rate=3e-4, warmup_steps=10),
            steps_per_dispatch=50,
        )
    )
    shares: tuple[float, ...] = (0.1, 0.2, 0.4)
    judged: float = 0.2
    requests: int = 0

    def checks(self):
        yield self.judged in self.shares, "judged", f"one of shares = {self.shares}"
        seeds = len(self.router.training.seeds)
        yield self.pair.asked % seeds == 0, "pair.asked", f"a multiple of the {seeds} routers"


PRESETS = presets(
    Config(),
    smoke={
        **token_routers.TINY,
        "pair.model": "untrained",
        "pair.steps": 8,
        "pair.tuned": 4,
        "pair.learned": 4,
        "pair.asked": 4,
        "pair.training.steps": 5,
        "pair.training.optimizer.warmup_steps": 1,
        "shares": (0.2,),
    },
    paper={
        "pair.tuned": 256,
        "pair.learned": 48,
        "pair.training.steps": 2000,
        "router.width": 1024,
        "router.blocks": 6,
    },
)


def route(given: Any, step: Array, small: Array, large: Array) -> Array:
    """By which of `WRITTEN` it says. params: of the router of each text."""
    which, params, table, image, limit = given
    return jnp.where(which, entropy(small), jax.vmap(router)(params, features(small, table, image))) - limit


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """arms[arm]: found [text][share], of the tokens that diverge; of those that write share and words, those of the large model's text."""
    pair, seeds = halved_pair(config.pair, config.requests, workspace), config.router.training.seeds
    _, known = tell(pair, "learned")
    routers = trained_routers(
        "routers", config.router, {"router": [(known.given, known.diverges)] * len(seeds)}, workspace
    )
    whole, asked = tell(pair, "asked")
    of_text = jax.tree.map(lambda *leaves: jnp.stack(leaves * (config.pair.asked // len(seeds))), *routers["router"])
    scores = {arm: np.asarray(found) for arm, found in asked.scores.items()}
    scores["router"] = np.asarray(jax.vmap(router)(of_text, asked.given))
    scores["random"] = np.random.default_rng(0).random(asked.same.shape)
    found = {arm: {"found": recalls(scores[arm], asked.diverges, config.shares)} for arm in LABELS}

    def written(arm: str, share: float) -> dict[str, list[float]]:
        """With as much to send as in this share of the large model's own texts."""
        limit = np.quantile(scores[arm], 1 - share) if share else np.inf
        return mixed(
            pair, whole, (jnp.asarray(WRITTEN.index(arm)), of_text, *pair.read, jnp.asarray(limit, jnp.float32))
        )

    for arm in WRITTEN:
        rows = [workspace.cached(f"{arm}-{share:g}", partial(written, arm, share)) for share in config.shares]
        found[arm] |= {name: np.stack([row[name] for row in rows], axis=1).tolist() for name in rows[0]}
    alone = workspace.cached("alone", partial(written, WRITTEN[0], 0.0))
    shares = {f"below {limit:g}": (asked.same < limit).mean(axis=1).tolist() for limit in (SAME, *LIMITS)}
    shares["differs"] = (asked.differs).mean(axis=1).tolist()
    return {
        "seeds": seeds,
        "shares": config.shares,
        "judged": config.judged,
        "diverges": shares,
        "alone": alone["words"],
        "arms": found,
    }


def recalls(
    scores: Float[np.ndarray, "texts steps"], diverges: Bool[np.ndarray, "texts steps"], shares: tuple[float, ...]
) -> list[list[float]]:
    """Of each text, what of its tokens that diverge is among this share of its tokens, those of the highest scores; 1 where none does."""
    ordered = np.take_along_axis(diverges, np.argsort(-scores, axis=1, kind="stable"), axis=1)
    sent = [ordered[:, : round(share * scores.shape[1])].sum(axis=1) for share in shares]
    total = diverges.sum(axis=1)
    return np.where(total[:, None] > 0, np.stack(sent, axis=1) / np.maximum(total, 1)[:, None], 1.0).tolist()


def mixed(pair: HalvedPair, whole: np.ndarray, given: Any) -> dict[str, list[float]]:
    """By text the share of tokens that the large model wrote, and the F1 of the words with those of its own text."""
    found, before = pair.decode("asked", route, given), pair.requests["asked"].shape[1]
    texts = [np.asarray(found.tokens), whole[:, before : before + pair.config.steps]]
    words = [[pair.words(text) for text in side] for side in texts]
    same = [ngram_f1([ours], [theirs], 1) for ours, theirs in zip(*words, strict=True)]
    return {"share": np.asarray(found.routed).mean(axis=1).tolist(), "words": same}


def claims(results: dict[str, Any]) -> list[Claim]:
    paper, arms, texts = "fu2025r2r", Arms(results), "texts"
    place = list(results["shares"]).index(results["judged"])

    def more(metric: str) -> np.ndarray:
        return (arms["router", metric] - arms["entropy", metric])[:, place]

    return [
        Claim(
            "real_few_divergent",
            "Few tokens of the half change what a sentence says.",
            f"{paper}: abstract",
            {"share of tokens": np.array(results["diverges"][f"below {SAME:g}"])},
            below(0.1),
            published="0.05 divergent, 0.06 neutral, 0.89 identical",
            over=texts,
        ),
        Claim(
            "real_router_finds_more",
            "Of the tokens that do, a router finds more than entropy does among equally many.",
            f"{paper}: section 4",
            {f"{results['judged']:.0%} of the tokens": more("found")},
            above(0),
            "share of divergent tokens",
            over=texts,
        ),
        Claim(
            "real_router_keeps_more",
            "Where both models write, its text has more of the large model's words.",
            OURS,
            {f"{results['judged']:.0%} of the tokens": more("words")},
            above(0),
            "F1 of words",
            over=texts,
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """What is found of the divergent tokens by the share that is sent, and what is written by the share that the large model wrote."""
    arms, shares = Arms(results), results["shares"]
    titles = ("Divergent tokens among those sent", "Words of the large model's text")
    drawn, axes = panels(1, 2, width=4.4, height=3.2, titles=titles)
    curves(axes[0], shares, arms, "found", LABELS)
    axes[0].set(xlabel="share of tokens sent", ylabel="share of divergent tokens")
    axes[0].legend(fontsize=7)
    for arm in WRITTEN:
        label, color = LABELS[arm]
        band(axes[1], arms[arm, "share"].mean(axis=0), arms[arm, "words"], label, color, marker="o", markersize=3)
    axes[1].axhline(np.mean(results["alone"]), color=GREY, linestyle=":", label="half alone")
    axes[1].set(xlabel="share of tokens that the large model wrote", ylabel="F1 of words")
    axes[1].legend(fontsize=7)
    return drawn
