"""Losses that go on from one warm start on noisy targets: each tuned alike on one seed, then trained on every noise and seed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from experiments.harness.arms import by_metric
from experiments.harness.training import Training, initial, stacked, train
from experiments.harness.workspace import Workspace
from experiments.subjects.noisy_translation import NOISES, Translation
from lexinv.nn.language_model import Params
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.streams import stream
from lexinv.validation import Allowed, Checked, Count, CountOrZero, Positive, Seeds

Settings = dict[str, tuple[tuple[float, float], ...]]
"""By loss as many (learning rate, strength), of which the best is taken."""
Losses = Callable[[Params, Int[Array, "rows length"], Int[Array, "rows slots"], Array, Array], dict[str, Array]]
"""`losses(params, source, targets, strength, key)`: every loss of a batch, the first of them cross-entropy."""
TUNED = (("none", 0.0), ("shift", 1.0), ("repetition", 1.0))
"""What settings are chosen for, the same for all noises: the highest mean BLEU."""
FIRST_OF_TUNING = 10_000
"""Numbers of the members that are tuned, apart from all others."""
Levels = Annotated[
    tuple[float, ...], Allowed(lambda v: v[-1:] == (1.0,) and v[0] > 0, "shares, the last 1", ((), (0.5,)))
]


@dataclass(frozen=True)
class NoisyTraining(Checked):
    """warm_steps: on cross-entropy, from which every loss goes on for `steps`. levels: shares of targets that are corrupted.

    tests: clean sources that are translated, by seed. tuning_seed: of the choice of settings.
    """

    task: Translation = Translation()
    warm_steps: Count = 200
    steps: Count = 400
    batch_size: Count = 32
    learning_rate: Positive = 5e-3
    levels: Levels = (0.5, 1.0)
    tests: Count = 256
    tuning_seed: CountOrZero = 100
    seeds: Seeds = tuple(range(8))

    def checks(self):
        yield self.tuning_seed not in self.seeds, "tuning_seed", "none of the seeds"
        yield self.warm_steps % 10 == self.steps % 10 == 0, "steps", "multiples of 10"

    def training(self, steps: int) -> Training:
        optimizer = OptimizerConfig(learning_rate=self.learning_rate, warmup_steps=min(20, steps // 5))
        return Training(steps, self.batch_size, self.seeds, optimizer, steps_per_dispatch=10)


def tuned_arms(
    experiment: str, config: NoisyTraining, settings: Settings, losses: Losses, workspace: Workspace
) -> dict[str, Any]:
    """By arm `loss/noise/level` and seed what `Translation.translated` measures; by loss the settings that were tried, with BLEU."""
    task = config.task

    def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        given = jax.lax.stop_gradient(params["given"])
        source, clean = task.draw(stream(key, "source"), len(batch["row"]))
        targets = task.corrupted(clean, given["noise"], given["level"], stream(key, "noise"))
        found = losses(params["learned"], source, targets, given["strength"], key)
        chosen = [jnp.where(given["loss"] == place, found[name], 0.0) for place, name in enumerate(settings)]
        return jnp.sum(jnp.stack(chosen)), {}

    def members(rows: list[tuple[str, str, float, float]]) -> dict[str, jax.Array]:
        """What is given to each: (loss, noise, level, strength)."""
        noises, names = ("none", *NOISES), list(settings)
        columns = [(names.index(a), max(noises.index(b) - 1, 0), c, d) for a, b, c, d in rows]
        parts = zip(("loss", "noise", "level", "strength"), np.array(columns, np.float32).T, strict=True)
        return {name: jnp.asarray(values) for name, values in parts}

    conditions = [("none", 0.0), *((noise, level) for noise in NOISES for level in config.levels)]
    begun = [(*condition, config.tuning_seed) for condition in TUNED]
    begun += [(*condition, seed) for condition in conditions for seed in config.seeds]
    start = {
        "learned": initial(task.start, [seed for *_, seed in begun]),
        "given": members([(next(iter(settings)), noise, level, 0.0) for noise, level, _ in begun]),
    }
    own = tuple((place, config.learning_rate) for place in range(len(begun)))
    warm = train(f"{experiment}/warm", start, loss, None, config.training(config.warm_steps), workspace, members=own)
    warm = {of: params["learned"] for of, params in zip(begun, warm, strict=True)}

    def go_on(name: str, first: int, rows: list[tuple[str, str, float, int, float, float]]) -> list[dict[str, Any]]:
        """Each (loss, noise, level, seed, rate, strength) trained, and what it translates."""
        given = members([(kind, noise, level, strength) for kind, noise, level, _, _, strength in rows])
        start = {"learned": stacked([warm[noise, level, seed] for _, noise, level, seed, *_ in rows]), "given": given}
        own = tuple((first + place, rate) for place, (*_, rate, _) in enumerate(rows))
        folder = f"{experiment}/{name}"
        trained = train(folder, start, loss, None, config.training(config.steps), workspace, members=own)
        pairs = zip(trained, rows, strict=True)
        return [task.translated(params["learned"], row[3], config.tests) for params, row in pairs]

    seed, every = config.tuning_seed, [(kind, setting) for kind in settings for setting in settings[kind]]
    tuned = [(kind, *condition, seed, *setting) for kind, setting in every for condition in TUNED]
    scores = [found["bleu"] for found in go_on("tuning", FIRST_OF_TUNING, tuned)]
    table = np.array(scores).reshape(len(settings), -1, len(TUNED)).mean(axis=2)
    best = {kind: settings[kind][int(np.argmax(row))] for kind, row in zip(settings, table, strict=True)}
    rows = [
        (kind, *condition, seed, *best[kind]) for kind in settings for condition in conditions for seed in config.seeds
    ]
    arms: dict[str, list[Any]] = {}
    for (kind, noise, level, *_), found in zip(rows, go_on("arms", len(begun), rows), strict=True):
        arms.setdefault(f"{kind}/{noise}/{level:g}", []).append(found)
    tried = {
        kind: [[*setting, round(score, 2)] for setting, score in zip(settings[kind], row, strict=True)]
        for kind, row in zip(settings, table.tolist(), strict=True)
    }
    fixed = {"corpora": {}, "seeds": config.seeds, "levels": config.levels, "chosen": best, "settings": tried}
    return fixed | {"arms": {arm: by_metric(found) for arm, found in arms.items()}}
