"""Whether a masked model answers from the context or from its weights, under ways to forget its embeddings.

Anand et al. 2024 (arXiv 2406.00053), the synthetic setting; method card dual-process-learning. A noun or an adjective is asked for that
can be told by its slot in the sequence (in context, structurally) or by its embedding (in weights). Where the two disagree or the
embedding says nothing, one sees which strategy a model has.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.claims import Claim, Interval, above, every, interval
from experiments.harness.style import BLUE, GREEN, ORANGE, PURPLE, VERMILION, band, panels, styled
from experiments.harness.workspace import Workspace, plain
from lexinv.lexinvariance import part_of_speech
from lexinv.lexinvariance.forgetting import (
    HELD_OUT,
    Forgetting,
    answer_logits,
    initialize,
    make_optimizer,
    make_step,
    solved,
    with_held_out,
)
from lexinv.lexinvariance.part_of_speech import ANSWER, Batch, PosTask, sample
from lexinv.nn.masked_encoder import MaskedEncoder
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.fit import NonFiniteLoss
from lexinv.training.population import create_population
from lexinv.training.progress import Speed, progress_bar
from lexinv.training.state import TrainState, create_state
from lexinv.training.streams import stream
from lexinv.validation import require

PAPER = """\
@inproceedings{anand2025dual,
  title     = {Dual Process Learning: Controlling Use of In-Context vs. In-Weights Strategies with Weight Forgetting},
  author    = {Anand, Suraj and Lepori, Michael A. and Merullo, Jack and Pavlick, Ellie},
  booktitle = {International Conference on Learning Representations},
  year      = {2025},
  note      = {arXiv:2406.00053}
}"""
SOURCE = "Anand et al. 2024, synthetic setting"
CARD = "method card dual-process-learning"
FOLLOWED = ("val", "switch", "head", "head_switch", "tail", "tail_switch")
"""Sets that are followed through training, beside the held-out tokens."""

CONTROLS = [f"holdout {rows}{scoring}" for rows in HELD_OUT for scoring in ("", " in context")]
"""Held-out tokens by how their vectors are drawn, among the whole vocabulary and among the tokens that the sequence shows."""


@dataclass(frozen=True)
class Config:
    """std: of the table at first and whenever it is re-initialised. period: of active forgetting; temporary forgetting re-initialises every
    `temporary_period` steps below `temporary_until`. weight_decay: AdamW's. In a short run at a high rate nothing is forgotten by itself
    without a large one (ours, found on other seeds); the paper's is 0.01 over 62,500 steps.

    evaluate_every: steps from one evaluation to the next, each on `sequences` sequences of every set.
    """

    task: PosTask
    model: TransformerConfig
    steps: int = 5000
    batch_size: int = 64
    seeds: tuple[int, ...] = (0, 1, 2)
    learning_rate: float = 1e-3
    weight_decay: float = 1.0
    std: float = 0.3
    period: int = 200
    temporary_period: int = 20
    temporary_until: int = 1000
    p_random: float = 0.1
    evaluate_every: int = 200
    sequences: int = 1000

    def __post_init__(self):
        for field in ("steps", "batch_size", "period", "temporary_period", "evaluate_every", "sequences"):
            require(getattr(self, field) >= 1, field, getattr(self, field), "at least 1")
        for field in ("learning_rate", "std"):
            require(getattr(self, field) > 0, field, getattr(self, field), "a positive number")
        require(len(set(self.seeds)) == len(self.seeds) > 0, "seeds", self.seeds, "at least one, each once")
        require(
            not self.model.causal, "model.causal", self.model.causal, "False: the masks are filled in from both sides"
        )
        require(
            self.steps % self.evaluate_every == 0, "evaluate_every", self.evaluate_every, f"a divisor of {self.steps}"
        )
        whole = self.temporary_until % self.evaluate_every == 0 and self.temporary_until < self.steps
        require(whole, "temporary_until", self.temporary_until, "a multiple of evaluate_every, below steps")
        _ = self.arms

    @property
    def arms(self) -> dict[str, "Arm"]:
        """The ways to forget that are compared."""
        return {
            "vanilla": Arm(Forgetting()),
            "active": Arm(Forgetting(self.period)),
            "temporary": Arm(Forgetting(self.temporary_period, self.temporary_until)),
            "probabilistic": Arm(Forgetting(p_random=self.p_random)),
            "lexinvariant": Arm(Forgetting(fresh=True)),
            "active, all moments": Arm(Forgetting(self.period, reset="all")),
            "vanilla, output bias": Arm(Forgetting(), bias=True),
        }


@dataclass(frozen=True)
class Arm:
    """One model, trained with every seed."""

    forgetting: Forgetting
    bias: bool = False


MODEL = TransformerConfig(
    depth=2,
    width=64,
    heads=1,
    mlp_width=128,
    positions="learned",
    max_length=part_of_speech.LENGTH,
    causal=False,
    unroll=2,
)
PRESETS = {
    "smoke": Config(
        PosTask(vocab=40, holdout=8, bins=2, head=4),
        replace(MODEL, depth=1, width=16, mlp_width=16, unroll=1),
        steps=40,
        batch_size=16,
        period=10,
        temporary_period=5,
        temporary_until=20,
        evaluate_every=20,
        sequences=50,
    ),
    "cpu": Config(PosTask(vocab=1000, holdout=100), MODEL, steps=7000, evaluate_every=350, temporary_until=1050),
    "paper": Config(
        PosTask(vocab=10_000, holdout=1000, alpha=1.5, bins=10),
        replace(MODEL, depth=6, unroll=6),
        steps=62_500,
        batch_size=128,
        learning_rate=5e-5,
        weight_decay=0.01,
        std=0.02,
        period=1000,
        temporary_period=10,
        temporary_until=1000,
        evaluate_every=500,
        sequences=10_000,
    ),
}


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Accuracies of every arm on every set through training, [seeds][evaluations], and at the end by frequency bin."""
    sets = draw_sets(config)
    return {
        "corpora": {},
        "seeds": list(config.seeds),
        "steps": list(range(0, config.steps + 1, config.evaluate_every)),
        "temporary_until": config.temporary_until,
        "bins": config.task.bins,
        "arms": {
            name: workspace.cached(
                f"arms/{slug(name)}",
                lambda name=name, arm=arm: measure(name, arm, sets, config, workspace),
            )
            for name, arm in config.arms.items()
        },
    }


def slug(arm: str) -> str:
    """The name of an arm as the name of a folder."""
    return arm.replace(", ", "-").replace(" ", "-")


def kinds(task: PosTask) -> list[str]:
    """The sets of trained tokens: those that are followed, then those by frequency bin."""
    places = [f"{ambiguous}_{index}" for index in range(task.bins) for ambiguous in ("nonamb", "amb")]
    return [*FOLLOWED, *(f"{place}{switch}" for place in places for switch in ("", "_switch"))]


def draw_sets(config: Config) -> tuple[Batch, Batch]:
    """Sequences of every set, [seeds, sets, sequences, ...], and of held-out tokens, [seeds, sequences, ...], for all arms."""

    def draw(kind: str) -> Batch:
        slots = part_of_speech.slots(config.task, kind)
        drawn = [sample(stream(jax.random.key(seed), kind), slots, config.sequences) for seed in config.seeds]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)

    trained = [draw(kind) for kind in kinds(config.task)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *trained), draw("holdout")


def measure(
    name: str,
    arm: Arm,
    sets: tuple[Batch, Batch],
    config: Config,
    workspace: Workspace,
) -> dict[str, Any]:
    """Train one arm with all seeds and follow it. The steps between two evaluations, with their batches, are one dispatch.

    Continues after the newest checkpoint of the workspace.
    """
    from lexinv.training.checkpoint import Checkpoints

    task = config.task
    encoder = MaskedEncoder(config.model, ANSWER, marks=2, std=config.std, vocab=task.types, bias=arm.bias)
    optimizer = make_optimizer(config.learning_rate, config.weight_decay)
    training = partial(sample, slots=part_of_speech.slots(task, "val"), count=config.batch_size)
    step = make_step(encoder, optimizer, arm.forgetting, training)
    evaluate = make_evaluation(encoder, arm.forgetting.fresh, config)

    def start(key: jax.Array) -> TrainState:
        return create_state(initialize(stream(key, "parameters"), encoder), optimizer, key)

    def advance(state: TrainState) -> tuple[TrainState, jax.Array]:
        state, losses = jax.lax.scan(lambda state, _: step(state), state, length=config.evaluate_every)
        return state, losses.mean()

    advanced = jax.jit(lambda states: jax.lax.map(advance, states), donate_argnums=0)
    judged = jax.jit(lambda states, sets: jax.lax.map(lambda each: evaluate(*each), (states, *sets)))
    every, held_out = sets
    sets_followed = jax.tree.map(lambda leaf: leaf[:, : len(FOLLOWED)], every), held_out
    states, begun = create_population(start, config.seeds), 0
    checkpoints = Checkpoints(workspace.folder(f"checkpoints/{slug(name)}"), workspace.checkpoints)
    restored = checkpoints.restore_latest(states, workspace.config_hash)
    if restored is None:
        rows = [plain(jax.device_get(judged(states, sets_followed)))]
    else:
        begun, states, rows = restored.step, restored.state, restored.iterator
    speed, saved = Speed(len(config.seeds) * config.batch_size * part_of_speech.LENGTH), time.monotonic()
    with checkpoints, progress_bar(name, config.steps, begun, speed, workspace.progress) as show:
        for done in range(begun + config.evaluate_every, config.steps + 1, config.evaluate_every):
            states, loss = advanced(states)
            rows.append(plain(jax.device_get(judged(states, sets_followed))))
            if not np.isfinite(loss).all():
                checkpoints.wait()
                good = checkpoints.latest()
                at = f"step {done} of {name}, config {workspace.config_hash}"
                raise NonFiniteLoss(f"loss {loss} before {at}; the last good checkpoint is of step {good}")
            if time.monotonic() - saved >= workspace.checkpoints.seconds:
                checkpoints.save(done, states, rows, {"config_hash": workspace.config_hash, "arm": name})
                saved = time.monotonic()
            show(done, float(loss.mean()))
    at_end = np.round(np.array(jax.device_get(judged(states, sets)[0]), np.float64), 4).T
    trained, unseen = (np.round(np.array(column, np.float64), 4) for column in zip(*rows, strict=True))
    return {
        "accuracy": {
            **{kind: trained[:, :, index].T for index, kind in enumerate(FOLLOWED)},
            **{kind: unseen[:, :, index].T for index, kind in enumerate(CONTROLS)},
        },
        "by_bin": dict(zip(kinds(task)[len(FOLLOWED) :], at_end[len(FOLLOWED) :], strict=True)),
    }


def make_evaluation(
    encoder: MaskedEncoder, fresh: bool, config: Config
) -> Callable[[TrainState, Batch, Batch], tuple[jax.Array, jax.Array]]:
    """`evaluate(state, sets, held_out)`: accuracy on each set among the whole vocabulary, and on held-out tokens as CONTROLS lists."""

    def evaluate(state: TrainState, sets: Batch, held_out: Batch) -> tuple[jax.Array, jax.Array]:
        key, table = stream(state.key, "evaluation"), state.params["table"]
        if fresh:
            table = config.std * jax.random.normal(stream(key, "lexicon"), table.shape)

        def accuracy(batch: Batch) -> jax.Array:
            return solved(answer_logits(encoder, state.params, table, batch.tokens), batch, among_context=False).mean()

        def both_scorings(table: jax.Array) -> jax.Array:
            logits = answer_logits(encoder, state.params, table, held_out.tokens)
            return jnp.stack([solved(logits, held_out, among_context=scoring).mean() for scoring in (False, True)])

        seen = config.task.vocab
        tables = [with_held_out(stream(key, rows), table, seen, rows, config.std) for rows in HELD_OUT]
        return jax.lax.map(accuracy, sets), jax.lax.map(both_scorings, jnp.stack(tables)).reshape(-1)

    return evaluate


def followed(results: dict[str, Any], arm: str, kind: str) -> np.ndarray:
    """Accuracy [seeds, evaluations]."""
    return np.array(results["arms"][arm]["accuracy"][kind])


def last(results: dict[str, Any], arm: str, kind: str) -> np.ndarray:
    """Accuracy at the end, per seed."""
    return followed(results, arm, kind)[:, -1]


def fall(results: dict[str, Any], arm: str, kind: str) -> np.ndarray:
    """The highest accuracy of training minus the last one, per seed."""
    return followed(results, arm, kind).max(axis=1) - last(results, arm, kind)


STRUCTURAL = "holdout initial"


def claims(results: dict[str, Any]) -> list[Claim]:
    """The paper's dual process, with the card's thresholds."""
    falls = {kind: interval(fall(results, "vanilla", kind)) for kind in CONTROLS}
    active = {kind: interval(last(results, "active", kind)) for kind in (STRUCTURAL, "val")}
    temporary = temporary_claim(results)
    fitted = {arm: interval(last(results, arm, "holdout fitted")) for arm in ("active", "temporary")}
    fitted_high = [above(fitted["active"], 0.9), above(fitted["temporary"], 0.8)]
    apart = {
        arm: interval(last(results, arm, "tail_switch") - last(results, arm, "head_switch"))
        for arm in ("vanilla", "temporary")
    }
    alike = interval(last(results, "lexinvariant", STRUCTURAL) - last(results, "lexinvariant", "val"))
    resets = interval(last(results, "active, all moments", STRUCTURAL) - last(results, "active", STRUCTURAL))
    bias = interval(last(results, "vanilla", STRUCTURAL) - last(results, "vanilla, output bias", STRUCTURAL))
    weights = interval(last(results, "active", "head_switch") - last(results, "vanilla", "head_switch"))
    return [
        Claim(
            "structural_rises_and_falls",
            "Under ordinary training the accuracy on held-out tokens rises and then falls (measured: highest minus last; judged on vectors "
            "from the initial distribution among the whole vocabulary, the controls beside it).",
            SOURCE,
            "structural in-context learning is transient",
            falls,
            "whole interval above 0.3 (card)",
            above(falls[STRUCTURAL], 0.3),
        ),
        *(
            Claim(
                f"fall_survives_{name}",
                f"That fall is a loss of the strategy and not of the measure: it is also seen {how} (measured: highest minus last).",
                f"{CARD}, controls",
                None,
                falls[kind],
                "whole interval above 0.3",
                above(falls[kind], 0.3),
            )
            for name, kind, how in (
                ("fitted_vectors", "holdout fitted", "with vectors from the Gaussian fitted to the trained embeddings"),
                (
                    "context_scoring",
                    f"{STRUCTURAL} in context",
                    "when only tokens that the sequence shows can be answered",
                ),
            )
        ),
        Claim(
            "active_keeps_structural",
            "Under active forgetting it is high at the end, and so is that on ordinary sequences (measured: accuracies).",
            SOURCE,
            "structural in-context learning is kept",
            active,
            "whole interval on held-out tokens above 0.9 (card)",
            above(active[STRUCTURAL], 0.9),
        ),
        Claim(
            "active_removes_in_weights",
            "Where slot and embedding disagree on frequent tokens, active forgetting follows the slot more often than ordinary training "
            "does (measured: difference of accuracies on head_switch).",
            SOURCE,
            "all preference for in-weights learning is removed",
            weights,
            "whole interval above 0.3",
            above(weights, 0.3),
        ),
        temporary,
        Claim(
            "rare_tokens_in_context_frequent_in_weights",
            "Where slot and embedding disagree, rare tokens are answered by the slot more often than frequent ones, under ordinary "
            "training and under temporary forgetting (measured: accuracy on tail_switch minus head_switch).",
            SOURCE,
            "head tokens prefer in-weights, tail tokens in-context learning",
            apart,
            "both whole intervals above 0.2",
            every(above(value, 0.2) for value in apart.values()),
        ),
        Claim(
            "survives_fitted_gaussian",
            "What forgetting keeps is not a matter of the held-out vectors' distribution: the same with vectors from the Gaussian fitted "
            "to the trained embeddings (measured: accuracies).",
            CARD,
            None,
            fitted,
            "active above 0.9 and temporary above 0.8, whole intervals",
            every(fitted_high),
        ),
        Claim(
            "lexinvariant_treats_all_tokens_alike",
            "With a fresh table in every step no token is special: held-out tokens are as good as any (measured: difference to val).",
            CARD,
            0.0,
            alike,
            "whole interval within 0.05",
            None if alike.low is None or alike.high is None else alike.low > -0.05 and alike.high < 0.05,
        ),
        Claim(
            "moment_reset_does_not_matter",
            "Zeroing the moments of all parameters, as the released code does, instead of the table's gives the same on held-out tokens "
            "(measured: difference under active forgetting).",
            f"{CARD}, where code and paper differ",
            None,
            resets,
            "whole interval within 0.1",
            None if resets.low is None or resets.high is None else resets.low > -0.1 and resets.high < 0.1,
        ),
        Claim(
            "output_bias_hurts_held_out",
            "With an output bias, which sinks for tokens that are never targets, ordinary training is worse on held-out tokens (measured: "
            "accuracy without minus with bias).",
            CARD,
            None,
            bias,
            "whole interval above 0",
            above(bias, 0.0),
        ),
    ]


def temporary_claim(results: dict[str, Any]) -> Claim:
    """Both strategies after forgetting has ended."""
    stop = results["steps"].index(results["temporary_until"])
    structural, switch = (followed(results, "temporary", kind) for kind in (STRUCTURAL, "head_switch"))
    measured: dict[str, Interval] = {
        "held-out": interval(structural[:, -1]),
        "held-out above vanilla": interval(structural[:, -1] - last(results, "vanilla", STRUCTURAL)),
        "fall of head_switch after the last forgetting": interval(switch[:, stop] - switch[:, -1]),
    }
    verdicts = [above(value, threshold) for value, threshold in zip(measured.values(), (0.8, 0.1, 0.2), strict=True)]
    return Claim(
        "temporary_is_dual",
        "Temporary forgetting gives both strategies: held-out tokens are answered in context at the end, better than under ordinary "
        "training, while frequent tokens come to be answered from the weights once forgetting has stopped (measured: accuracies).",
        SOURCE,
        "a dual process strategy",
        measured,
        "whole intervals above 0.8 (card), 0.1 and 0.2",
        every(verdicts),
    )


def figure(results: dict[str, Any]) -> Figure:
    """Four sets through training for the five ways to forget, held-out tokens by control, and frequency bins at the end."""
    arms = dict(
        zip(
            ("vanilla", "active", "temporary", "probabilistic", "lexinvariant"),
            (VERMILION, BLUE, GREEN, PURPLE, ORANGE),
            strict=True,
        )
    )
    drawn, axes = panels(2, 3, width=4.2, height=3.0)
    steps = results["steps"]
    with styled():
        for panel, kind, title in zip(
            axes,
            ("val", STRUCTURAL, "head_switch", "tail_switch"),
            (
                "Ordinary sequences",
                "Held-out tokens: structural",
                "Frequent tokens, classes switched",
                "Rare tokens, classes switched",
            ),
            strict=False,
        ):
            for arm, color in arms.items():
                band(panel, steps, followed(results, arm, kind), arm, color)
            panel.axvline(results["temporary_until"], color=GREEN, linewidth=0.8, linestyle=":")
            panel.set(
                title=title,
                xlabel="step (dotted: temporary forgetting ends)",
                ylabel="all three masks right",
                ylim=(-0.03, 1.03),
            )
        axes[0].legend()
        for kind, style in (("initial", "-"), ("fitted", "--"), ("means", ":")):
            for scoring, color in (("", VERMILION), (" in context", BLUE)):
                label = f"{kind}, {'among the context' if scoring else 'whole vocabulary'}"
                band(
                    axes[4],
                    steps,
                    followed(results, "vanilla", f"holdout {kind}{scoring}"),
                    label,
                    color,
                    linestyle=style,
                )
        axes[4].set(title="Vanilla on held-out tokens, by control", xlabel="step", ylim=(-0.03, 1.03))
        axes[4].legend(fontsize=6.5)
        bins = range(results["bins"])
        for arm, color in arms.items():
            found = results["arms"][arm]["by_bin"]
            rows = np.array([found[f"nonamb_{index}_switch"] for index in bins]).T
            band(axes[5], bins, rows, arm, color, marker="o", markersize=3)
        axes[5].set(
            title="Classes switched, by frequency",
            xlabel="frequency bin (0: most frequent words)",
            ylim=(-0.03, 1.03),
            xticks=list(bins),
        )
    return drawn
