"""Whether one vision-language model serves any number of visual tokens: TokenFLEX on generated scenes.

The encoder is frozen. Its 9 x 9 features are pooled to n x n tokens, overlapping bins and all, as the paper's 27 x 27 are; a new projector
and the decoder go on from a model of all patches. Models of one budget stand beside models that draw a budget in every step, after as many
steps and after as many visual tokens. All are asked, with every budget, for colours of objects of many patches and of one, for numbers of
objects, and whether shapes are there.
"""

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, by, measured
from experiments.harness.figures import legend_beside, lines
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, panels, reference, styled
from experiments.harness.training import Params, Training
from experiments.harness.verdicts import OURS, Claim, above, between
from experiments.harness.workspace import Workspace
from experiments.subjects.scene_answerers import PUBLISHED, SMOKE, SceneSubject, ask_together, held_out, scene_models
from experiments.subjects.scene_pruning import encode_images, group, pose, right_answers, run_layers
from lexinv.data.scenes import Questions, ask, sample_scenes
from lexinv.merging.flexible_projector import FlexibleProjector, draw_budget
from lexinv.nn.vision_language import Encoded, answer_logits, decode, encode
from lexinv.training.optimizers import OptimizerConfig, make_optimizer
from lexinv.training.state import create_state
from lexinv.training.step import TrainStep, make_train_step
from lexinv.training.streams import stream
from lexinv.validation import Checked, Count, Counts

PAPERS = ("hu2025tokenflex",)
TABLE = "hu2025tokenflex: ablation, training by tested tokens"
MIXED, EVEN, EQUAL = "2-3-5", "1-1-1", "-equal-tokens"
TYPES = {"dominant": "colour, largest object", "presence": "presence", "count": "count", "rare": "colour, one patch"}
"""Coarse to fine."""


@dataclass(frozen=True)
class Config(Checked):
    """budgets: tokens along a side that are trained, rising. tested: others too. steps: of every model that is compared by steps.

    weights: of the budgets where they are drawn, as parts of their sum. objects: whose colours are asked for in training, the first ones.
    """

    subject: SceneSubject = SceneSubject(
        depth=4,
        counts=2,
        presences=2,
        training=Training(
            500, 16, (0, 1, 2), OptimizerConfig("muon", learning_rate=1e-2, warmup_steps=30), steps_per_dispatch=10
        ),
    )
    budgets: Counts = (2, 4, 6)
    tested: Counts = (2, 3, 4, 5, 6)
    weights: tuple[int, ...] = (2, 3, 5)
    training: Training = Training(400, 8, (0, 1, 2), OptimizerConfig("muon", 1e-2, 20))
    objects: Count = 4
    scenes: Count = 128

    def checks(self):
        rising = list(self.budgets) == sorted(self.budgets) and len(self.budgets) >= 2
        yield rising, "budgets", "two or more, rising"
        yield set(self.budgets) <= set(self.tested), "tested", f"{self.budgets} among them"
        fits = len(self.weights) == len(self.budgets) and min(self.weights) >= 0 < sum(self.weights)
        yield fits, "weights", f"zero or more for each of {len(self.budgets)} budgets"
        yield self.training.seeds == self.subject.training.seeds, "training.seeds", "those of subject.training"
        least = min(steps for _, steps in self.arms.values())
        yield self.training.optimizer.warmup_steps < least, "training.optimizer.warmup_steps", f"below {least} steps"
        yield self.objects <= len(self.subject.data.sizes), "objects", f"at most {len(self.subject.data.sizes)}"

    @property
    def projector(self) -> FlexibleProjector:
        return FlexibleProjector(self.subject.vision_width, 2 * self.subject.width, self.subject.width)

    @property
    def tokens(self) -> float:
        """Visual tokens of an image in a step where budgets are drawn, on average."""
        return sum(w * n * n for w, n in zip(self.weights, self.budgets, strict=True)) / sum(self.weights)

    @property
    def arms(self) -> dict[str, tuple[tuple[int, ...], int]]:
        """By name the weights of the budgets, and steps."""
        one = {n: tuple(int(n == other) for other in self.budgets) for n in self.budgets}
        steps = self.training.steps
        return {
            **{f"{n * n}": (weights, steps) for n, weights in one.items()},
            MIXED: (self.weights, steps),
            EVEN: ((1,) * len(self.budgets), steps),
            **{f"{n * n}{EQUAL}": (weights, round(steps * self.tokens / n**2)) for n, weights in one.items()},
        }


PRESETS = presets(
    Config(),
    smoke={
        **SMOKE,
        "budgets": (1, 2),
        "tested": (1, 2),
        "weights": (1, 1),
        "training": Training(3, 4, (0, 1), OptimizerConfig(warmup_steps=1)),
        "scenes": 8,
    },
    quick={"training.steps": 200},
    paper={
        **PUBLISHED,
        "subject.data.grid": 27,
        "subject.data.sizes": (9, 4, 1, 1, 1, 1, 1, 1),
        "budgets": (8, 12, 16),
        "tested": (8, 10, 12, 14, 16),
        "training": Training(20_000, 256, (0, 1, 2), OptimizerConfig("muon", 2e-3, 500)),
        "scenes": 5000,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By arm and type of question the accuracy with every tested budget, [seeds][budgets]; of all patches [seeds]."""
    subject, seeds = config.subject, config.training.seeds
    models = scene_models(subject, workspace)

    @cache
    def fresh(seed: int) -> tuple[Encoded, Questions]:
        scenes, questions = jax.jit(partial(held_out, subject, seed, config.scenes))()
        return encode_images(subject.model, models[seed], scenes.pixels), questions

    def one(arm: str, seed: int) -> dict[str, Any]:
        encoded, questions = fresh(seed)
        if arm == "all":
            asked = run_layers(subject, models[seed], pose(subject, models[seed], encoded.visual, questions))
            return group(subject.data, questions, right_answers(models[seed], asked, questions))
        params = go_on(config, arm, models[seed], seed)
        rows = [
            group(subject.data, questions, np.asarray(answers(config, n, params, encoded.patches, questions)))
            for n in config.tested
        ]
        return {kind: [row[kind] for row in rows] for kind in rows[0]}

    arms = measured(workspace, (*config.arms, "all"), seeds, one)
    settings = {"budgets": config.budgets, "tested": config.tested, "visual_tokens": config.tokens}
    steps = {arm: count for arm, (_, count) in config.arms.items()}
    return {"corpora": {}, "seeds": seeds, **settings, "steps": steps, "arms": arms}


def go_on(config: Config, arm: str, model: Params, seed: int) -> Params:
    """A new projector, and the decoder, trained on as the arm says: of a seed all arms begin alike, and see the same scenes.

    Every budget is a program of its own.
    """
    weights, steps = config.arms[arm]
    key, rng = stream(jax.random.key(seed), "budgets"), np.random.default_rng((seed, *weights))
    given = {part: model[part] for part in ("vision", "projector")}
    new = {"projector": config.projector.initialize(stream(key, "projector"))}
    learned = {part: leaves for part, leaves in model.items() if part not in given} | new
    state = create_state({"learned": learned, "given": given}, make_optimizer(config.training.optimizer, steps), key)
    rows = np.zeros((1, config.training.batch_size), np.int32)  # a dispatch of one step
    for _ in range(steps):
        n = draw_budget(rng, config.budgets, [weight / sum(weights) for weight in weights])
        state, _ = step_of(config, n, steps)(state, rows)
    return state.params["learned"]


@cache
def step_of(config: Config, n: int, steps: int) -> TrainStep:
    return make_train_step(partial(loss, config, n), make_optimizer(config.training.optimizer, steps))


def loss(config: Config, n: int, params: Params, batch: Any, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
    """Cross-entropy of the answers, in nats."""
    subject, (scene_key, question_key) = config.subject, jax.random.split(key)
    scenes = sample_scenes(subject.data, config.training.batch_size, scene_key)
    questions = ask(subject.data, scenes, question_key, subject.counts, subject.presences)
    # Of the objects the first ones: others are as large as the last of them.
    left = np.r_[: config.objects, len(subject.data.sizes) : questions.answer.shape[1]]
    questions = Questions(*(part[:, left] for part in questions))
    features = encode(subject.model, jax.lax.stop_gradient(params["given"]), scenes.pixels).patches
    logits = _logits(config, n, params["learned"], features, questions)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, questions.answer)), {}


def _logits(config: Config, n: int, params: Params, features: Array, questions: Questions) -> Array:
    grid = config.subject.data.grid
    square = features.reshape(len(features), grid, grid, -1)
    visual = jax.vmap(lambda one: config.projector(params["projector"], one, n))(square)
    places = jnp.zeros(visual.shape[:2], jnp.int32)  # not read: positions count the tokens that there are
    asked = ask_together(config.subject, params, visual, questions, places, None, "close")
    after = decode(config.subject.model, params, asked.prompt, apart=asked.apart)
    return answer_logits(params, after.stream[:, asked.words[:, -1]])


@partial(jax.jit, static_argnums=(0, 1))
def answers(config: Config, n: int, params: Params, features: Array, questions: Questions) -> Array:
    """Whether each is right, [scenes, questions]."""
    return jnp.argmax(_logits(config, n, params, features, questions), axis=-1) == questions.answer


def claims(results: dict[str, Any]) -> list[Claim]:
    """Differences are of the same scenes and starts, seed by seed."""
    arms, budgets, tested = Arms(results), results["budgets"], list(results["tested"])
    trained = [tested.index(n) for n in budgets]
    few, many = f"{budgets[0] ** 2}", f"{budgets[-1] ** 2}"
    least, most = trained[0], trained[-1]

    def named(values: np.ndarray, places: list[int] = trained) -> dict[str, np.ndarray]:
        return by([f"{tested[place] ** 2} tokens" for place in places], values)

    def best(suffix: str = "") -> np.ndarray:
        """[seeds, budgets] of the model of one budget that is best there on average."""
        found = np.stack([arms[f"{n * n}{suffix}", "all"][:, trained] for n in budgets])
        return np.take_along_axis(found, found.mean(axis=1).argmax(axis=0)[None, None], axis=0)[0]

    def cost(arm: str, own: int, other: int) -> np.ndarray:
        return arms[arm, "all"][:, own] - arms[arm, "all"][:, other]

    mixed, unit = arms[MIXED, "all"], "difference of accuracy over all questions"
    gains = {kind: arms[MIXED, kind][:, most] - arms[MIXED, kind][:, least] for kind in TYPES}
    between_ = [place for place in range(least + 1, most) if place not in trained]
    line = np.array([np.interp(tested, np.array(tested)[trained], row[trained]) for row in mixed])
    return [
        Claim(
            "model_answers_questions",
            "The model that all this goes on from names colours with all its tokens.",
            OURS,
            {kind: arms["all", kind] for kind in ("dominant", "rare")},
            above(0.9),
            "accuracy",
        ),
        Claim(
            "one_model_serves_all",
            "One model whose budget is drawn in every step is as good with each budget as the best of a single one.",
            TABLE,
            named(mixed[:, trained] - best()),
            above(-0.01),
            unit,
            "abstract: 1.6, 1.0, 0.4 points better; its own table: 1.2, 1.4, 0.1",
        ),
        Claim(
            "mismatch_collapses",
            f"A model trained with {many} tokens loses to it with {few}.",
            TABLE,
            {f"{few} tokens": mixed[:, least] - arms[many, "all"][:, least]},
            above(0.05),
            unit,
            "58.7 against 53.3",
        ),
        Claim(
            "down_costs_more",
            "A model loses more with fewer tokens than it was trained with than with more.",
            TABLE,
            {f"{many} at {few} less {few} at {many}": cost(many, most, least) - cost(few, least, most)},
            above(0),
            unit,
            "7.3 against 1.3 points",
        ),
        Claim(
            "fine_needs_tokens",
            "Questions about objects of a patch gain more from tokens than those about the largest object.",
            "hu2025tokenflex: OCR against MMBench",
            {"rare less dominant": gains["rare"] - gains["dominant"]}
            | {f"gain, {kind}": gain for kind, gain in gains.items()},
            {"rare less dominant": above(0.05)},
            f"gain of accuracy from {few} to {many} tokens",
            "64.5 to 71.4 against 79.0 to 79.9",
        ),
        Claim(
            "unseen_budgets",
            "Budgets that were never trained are on the line between their neighbours, in tokens along a side.",
            OURS,
            named((mixed - line)[:, between_], between_) or {"none": 0.0},
            between(-0.02, 0.02),
            unit,
        ),
        Claim(
            "holds_at_equal_tokens",
            "It is so against models of a single budget that were trained with as many visual tokens in all.",
            OURS,
            named(mixed[:, trained] - best(EQUAL)),
            above(-0.01),
            unit,
        ),
        Claim(
            "proportions_are_noise",
            "Whether budgets are drawn 2:3:5 or 1:1:1 makes no difference.",
            TABLE,
            named(mixed[:, trained] - arms[EVEN, "all"][:, trained]),
            between(-0.01, 0.01),
            unit,
            "0.1 points between 2:3:5 and 1:1:1",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Accuracy by tested budget, a line for each training: all questions, at equal steps and equal tokens, then by type."""
    arms, tested = Arms(results), results["tested"]
    drawn, axes = panels(2, 3, width=3.7, height=2.9)
    one = [f"{n * n}" for n in results["budgets"]]
    sets = [("all questions, equal steps", "all", ""), ("all questions, equal visual tokens", "all", EQUAL)]
    sets += [(title, kind, "") for kind, title in TYPES.items()]
    with styled():
        for panel, (title, kind, suffix) in zip(axes, sets, strict=True):
            labels = {f"{name} tokens": arms[f"{name}{suffix}", kind] for name in one}
            lines(panel, tested, labels | {"2:3:5": arms[MIXED, kind], "1:1:1": arms[EVEN, kind]})
            reference(panel, float(arms["all", kind].mean()), "all patches", BLACK)
            panel.set_xticks(tested, [f"{n * n}" for n in tested])
            panel.set(title=title, xlabel="visual tokens", ylim=(0, 1.04))
        for panel in axes[::3]:
            panel.set_ylabel("accuracy, mean and range")
        legend_beside(axes[2])
    return drawn
