"""Noisy targets: a loss that matches n-grams wherever they stand learns the clean translation, where cross-entropy learns the noise.

Liu et al. 2022 (arXiv 2106.15078); method card edit-invariant-sequence-loss. A model that writes all positions at once learns a permutation
of symbols from targets of which a share is corrupted, and is judged on clean ones. Every loss goes on from the same cross-entropy warm
start, and gets six settings of its own on a seed outside of the record: learning rates and strengths. Beside the paper's loss stands the
expected number of matches itself, which here is exact.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, by_metric
from experiments.harness.figures import lines
from experiments.harness.presets import presets
from experiments.harness.style import panels
from experiments.harness.training import Training, initial, stacked, train
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.noisy_translation import GRAMS, NOISES, Translation
from lexinv.decoding.edit_invariant import edit_invariant_loss
from lexinv.decoding.policy_gradient import overlap_reward, policy_gradient_loss
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.streams import stream
from lexinv.validation import Allowed, Checked, Count, CountOrZero, Positive, Seeds

PAPERS = ("liu2022dont",)
LOSSES = {
    "ce": "cross-entropy",
    "smoothing": "labels smoothed",
    "truncated": "worst tokens dropped",
    "pg": "policy gradient",
    "eisl": "EISL",
    "exact": "exact expected matches",
}
RATES = (1e-3, 3e-3, 8e-3)
SETTINGS = {
    "ce": tuple((rate, 0.0) for rate in (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)),
    "smoothing": tuple((rate, share) for share in (0.1, 0.3) for rate in RATES),
    "truncated": tuple((rate, share) for share in (0.1, 0.3) for rate in RATES),
    "pg": tuple((rate, weight) for weight in (0.1, 1.0) for rate in RATES),
    "eisl": tuple((rate, weight) for weight in (0.03, 0.1) for rate in RATES),
    "exact": tuple((rate, weight) for weight in (0.03, 0.1) for rate in RATES),
}
"""Six of each loss: (learning rate, strength). The strength is the share that smoothing gives to all tokens alike, the share of tokens that
are dropped, or the weight of cross-entropy beside what the loss is named after."""
TUNED = (("none", 0.0), ("shift", 1.0), ("repetition", 1.0))
"""What settings are chosen for, the same for all noises: the highest mean BLEU."""
FIRST_OF_TUNING = 10_000
"""Numbers of the members that are tuned, apart from all others."""
TABLE = "liu2022dont: released results on Multi30k"
BIGRAMS = {
    "shift": (
        "shift",
        "Of targets with junk in front, EISL learns more of the clean bigrams than cross-entropy.",
        above(0.15),
        "not among the paper's noises",
    ),
    "repetition": (
        "repetition",
        "Of targets with words twice, EISL learns more of the clean bigrams than cross-entropy.",
        above(0.15),
        "chrF 57.9 against 44.3, autoregressive, half of the words twice",
    ),
    "shuffle_loses": (
        "shuffle",
        "Of targets with neighbours swapped it learns fewer: bigrams without places do not say what stands where.",
        below(0),
        "the opposite: chrF 52.7 against 40.2, autoregressive, words shuffled within ten places",
    ),
}
"""Claims on bigrams with all targets corrupted: noise, statement, rule, published."""
Levels = Annotated[
    tuple[float, ...], Allowed(lambda v: v[-1:] == (1.0,) and v[0] > 0, "shares, the last 1", ((), (0.5,)))
]


@dataclass(frozen=True)
class Config(Checked):
    """warm_steps: on cross-entropy, from which every loss goes on for `steps`. levels: shares of targets that are corrupted.

    n: of the n-grams that are matched. tests: clean sources that are translated, by seed. tuning_seed: of the choice of settings.
    """

    task: Translation = Translation()
    warm_steps: Count = 200
    steps: Count = 400
    batch_size: Count = 32
    learning_rate: Positive = 5e-3
    n: Count = 2
    levels: Levels = (0.5, 1.0)
    tests: Count = 256
    tuning_seed: CountOrZero = 100
    seeds: Seeds = tuple(range(8))

    def checks(self):
        yield self.tuning_seed not in self.seeds, "tuning_seed", "none of the seeds"
        yield self.n <= self.task.length, "n", f"at most the length of a target, {self.task.length}"
        yield self.warm_steps % 10 == self.steps % 10 == 0, "steps", "multiples of 10"

    def training(self, steps: int) -> Training:
        optimizer = OptimizerConfig(learning_rate=self.learning_rate, warmup_steps=min(20, steps // 5))
        return Training(steps, self.batch_size, self.seeds, optimizer, steps_per_dispatch=10)


PRESETS = presets(
    Config(),
    smoke={
        "task.symbols": 6,
        "task.length": 4,
        "task.width": 16,
        "warm_steps": 10,
        "steps": 10,
        "batch_size": 8,
        "levels": (1.0,),
        "tests": 16,
        "seeds": (0, 1),
    },
    quick={"seeds": (0, 1, 2)},
    paper={
        "task.symbols": 1000,
        "task.length": 24,
        "task.depth": 6,
        "task.width": 512,
        "warm_steps": 10_000,
        "steps": 20_000,
        "learning_rate": 3e-4,
        "levels": (0.1, 0.25, 0.5, 0.75, 1.0),
        "tests": 1000,
        "seeds": tuple(range(5)),
    },
)
"""The paper has a pretrained model and Multi30k: `paper` is this experiment at a size for an accelerator."""


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By arm `loss/noise/level` and seed what `Translation.translated` measures; by loss the settings that were tried, with BLEU."""
    task = config.task

    def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        given = jax.lax.stop_gradient(params["given"])
        source, clean = task.draw(stream(key, "source"), len(batch["row"]))
        targets = task.corrupted(clean, given["noise"], given["level"], stream(key, "noise"))
        log_probs = task.log_probs(params["learned"], source)
        found = losses(config, log_probs, targets, given["strength"], key)
        chosen = [jnp.where(given["loss"] == place, found[name], 0.0) for place, name in enumerate(LOSSES)]
        return jnp.sum(jnp.stack(chosen)), {}

    def members(rows: list[tuple[str, str, float, float]]) -> dict[str, jax.Array]:
        """What is given to each: (loss, noise, level, strength)."""
        noises, names = ("none", *NOISES), list(LOSSES)
        columns = [(names.index(a), max(noises.index(b) - 1, 0), c, d) for a, b, c, d in rows]
        parts = zip(("loss", "noise", "level", "strength"), np.array(columns, np.float32).T, strict=True)
        return {name: jnp.asarray(values) for name, values in parts}

    conditions = [("none", 0.0), *((noise, level) for noise in NOISES for level in config.levels)]
    begun = [(*condition, config.tuning_seed) for condition in TUNED]
    begun += [(*condition, seed) for condition in conditions for seed in config.seeds]
    start = {
        "learned": initial(task.start, [seed for *_, seed in begun]),
        "given": members([("ce", noise, level, 0.0) for noise, level, _ in begun]),
    }
    own = tuple((place, config.learning_rate) for place in range(len(begun)))
    warm = train("noisy_references/warm", start, loss, None, config.training(config.warm_steps), workspace, members=own)
    warm = {of: params["learned"] for of, params in zip(begun, warm, strict=True)}

    def go_on(name: str, first: int, rows: list[tuple[str, str, float, int, float, float]]) -> list[dict[str, Any]]:
        """Each (loss, noise, level, seed, rate, strength) trained, and what it translates."""
        given = members([(kind, noise, level, strength) for kind, noise, level, _, _, strength in rows])
        start = {"learned": stacked([warm[noise, level, seed] for _, noise, level, seed, *_ in rows]), "given": given}
        own = tuple((first + place, rate) for place, (*_, rate, _) in enumerate(rows))
        folder = f"noisy_references/{name}"
        trained = train(folder, start, loss, None, config.training(config.steps), workspace, members=own)
        pairs = zip(trained, rows, strict=True)
        return [task.translated(params["learned"], row[3], config.tests) for params, row in pairs]

    seed, every = config.tuning_seed, [(kind, setting) for kind in LOSSES for setting in SETTINGS[kind]]
    tuned = [(kind, *condition, seed, *setting) for kind, setting in every for condition in TUNED]
    scores = [found["bleu"] for found in go_on("tuning", FIRST_OF_TUNING, tuned)]
    table = np.array(scores).reshape(len(LOSSES), -1, len(TUNED)).mean(axis=2)
    best = {kind: SETTINGS[kind][int(np.argmax(row))] for kind, row in zip(LOSSES, table, strict=True)}
    rows = [
        (kind, *condition, seed, *best[kind]) for kind in LOSSES for condition in conditions for seed in config.seeds
    ]
    arms: dict[str, list[Any]] = {}
    for (kind, noise, level, *_), found in zip(rows, go_on("arms", len(begun), rows), strict=True):
        arms.setdefault(f"{kind}/{noise}/{level:g}", []).append(found)
    settings = {
        kind: [[*setting, round(score, 2)] for setting, score in zip(SETTINGS[kind], row, strict=True)]
        for kind, row in zip(LOSSES, table.tolist(), strict=True)
    }
    fixed = {"corpora": {}, "seeds": config.seeds, "levels": config.levels, "chosen": best, "settings": settings}
    return fixed | {"arms": {arm: by_metric(found) for arm, found in arms.items()}}


def losses(
    config: Config, log_probs: jax.Array, targets: jax.Array, strength: jax.Array, key: jax.Array
) -> dict[str, jax.Array]:
    """Every loss of a batch of log-probabilities [rows, slots, vocab] and targets [rows, slots]."""
    there = config.task.there
    mask = there(targets)
    nats = -jnp.take_along_axis(log_probs, targets[..., None], axis=2)[..., 0]
    plain = jnp.mean(nats)
    kept = jax.lax.stop_gradient(nats <= jnp.quantile(nats, 1 - strength))
    greedy = jnp.argmax(log_probs, axis=2)
    drawn = jnp.argmax(log_probs + jax.random.gumbel(stream(key, "text"), log_probs.shape), axis=2)

    def reward(texts: jax.Array) -> jax.Array:
        return jnp.mean(jnp.stack([overlap_reward(texts, there(texts), targets, mask, n) for n in (1, 2)]), axis=0)

    def matched(reduce: Any) -> jax.Array:
        return edit_invariant_loss(log_probs, targets, mask, config.n, reduce, stream(key, "matches"))

    return {
        "ce": plain,
        "smoothing": (1 - strength) * plain - strength * jnp.mean(log_probs),
        "truncated": jnp.sum(jnp.where(kept, nats, 0.0)) / jnp.sum(kept),
        "pg": policy_gradient_loss(log_probs, drawn, there(drawn), reward(drawn) - reward(greedy)) + strength * plain,
        "eisl": matched("softmax") + strength * plain,
        "exact": matched("exact") + strength * plain,
    }


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """Bigrams and BLEU with all targets corrupted, on clean targets, and the baselines that the paper tuned less."""
    arms = Arms(results)

    def gain(kind: str, noise: str, over: str = "ce", metric: str = "bleu") -> np.ndarray:
        level = 0 if noise == "none" else 1
        found = arms[f"{kind}/{noise}/{level}", metric] - arms[f"{over}/{noise}/{level}", metric]
        return found[:, GRAMS.index(2)] if metric == "f1" else found

    found = []
    for name, (noise, statement, rule, published) in BIGRAMS.items():
        measured = {noise: gain("eisl", noise, metric="f1")}
        found.append(Claim(name, statement, TABLE, measured, rule, "F1 of bigrams less cross-entropy's", published))
    edits, unit = ("shift", "repetition", "blank"), "BLEU on clean targets less cross-entropy's"
    return [
        *found,
        Claim(
            "clean_costs_nothing",
            "On clean targets EISL loses less than one BLEU.",
            TABLE,
            {"clean targets": -gain("eisl", "none")},
            below(1),
            "BLEU lost to cross-entropy",
            "chrF 59.0 and 59.0",
        ),
        Claim(
            "noise_gain",
            "With all targets corrupted EISL gains more than five BLEU over cross-entropy.",
            TABLE,
            {noise: gain("eisl", noise) for noise in edits},
            above(5),
            unit,
            "chrF: repetition 57.9 against 44.3, blanks 46.8 against 29.5",
        ),
        Claim(
            "tuned_pg_stands",
            "A policy gradient that is tuned as well does not fall behind cross-entropy by two BLEU.",
            OURS,
            {noise: gain("pg", noise) for noise in ("none", *NOISES)},
            above(-2),
            unit,
            "chrF 5.1 against 27.8 on shuffled targets: it diverged",
        ),
        Claim(
            "exact_matches_as_good",
            "The loss by weights is as good as the exact expected matches, which it bounds.",
            OURS,
            {noise: gain("eisl", noise, over="exact") for noise in edits},
            above(-2),
            "BLEU on clean targets less the exact loss's",
        ),
    ]


def figure(results: Mapping[str, Any]) -> Figure:
    """BLEU on clean targets over the share of targets that are corrupted, a panel for each noise."""
    arms, levels = Arms(results), (0.0, *results["levels"])
    drawn, axes = panels(columns=len(NOISES), width=3.4, height=3.4, titles=NOISES)
    for panel, noise in zip(axes, NOISES, strict=True):
        names = ["none/0", *(f"{noise}/{level:g}" for level in results["levels"])]
        within = {
            label: np.stack([arms[f"{kind}/{name}", "bleu"] for name in names], axis=1)
            for kind, label in LOSSES.items()
        }
        lines(panel, levels, within)
        panel.set(xlabel="share of targets corrupted", ylim=(0, 103))
    axes[0].set_ylabel("BLEU on clean targets")
    axes[-1].legend(loc="lower left", fontsize=7.5)
    return drawn
