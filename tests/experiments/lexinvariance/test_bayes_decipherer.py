"""The claims on results made up to satisfy all of them, then spoilt one by one; and what the experiment refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest

from experiments.harness.training import Training, training_losses
from experiments.harness.workspace import Workspace
from experiments.lexinvariance.bayes_decipherer import PRESETS, by_tens, claims, crossing, figure
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import InvalidConfig

CONTEXT, SEEDS = 32, 3


def rows(nats: float) -> list:
    return [[nats + 0.001 * seed] * CONTEXT for seed in range(SEEDS)]


def made_up() -> dict:
    levels = {"standard": 0.9, "lexinvariant": 1.05, "plain": 1.6}
    losses = np.linspace(1.8, 1.0, 12).tolist()
    return {
        "corpora": {},
        "seeds": list(range(SEEDS)),
        "context": CONTEXT,
        "vocab": 6,
        "tokens_per_step": 64,
        "baselines": {
            "language": rows(0.89),
            "bayes": rows(1.0),
            "unigram_counter": rows(1.6),
            "bigram_counter": rows(1.2),
            "unigram_entropy": 1.58,
        },
        "arms": {name: {"nats": rows(nats), "training_loss": [losses] * SEEDS} for name, nats in levels.items()},
    }


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_results_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True}
    assert len(verdicts(made_up())) == 5


@pytest.mark.parametrize(
    "arm, nats, broken",
    [
        ("lexinvariant", 1.59, {"leaves_unigram_plateau", "below_in_context_counter"}),
        ("lexinvariant", 1.21, {"below_in_context_counter"}),
        ("lexinvariant", 0.97, {"never_below_the_exact_decipherer"}),
        ("standard", 1.01, {"standard_is_below_the_exact_decipherer"}),
        ("plain", 1.04, {"suffix_match_beats_plain"}),
    ],
)
def test_every_claim_can_fail(arm, nats, broken):
    results = made_up()
    results["arms"][arm]["nats"] = rows(nats)
    assert {name for name, holds in verdicts(results).items() if holds is False} == broken


def test_losses_are_read_from_a_population_and_from_a_run_for_each_seed(tmp_path):
    workspace = Workspace(tmp_path, "hash")
    training = Training(steps=4, seeds=(3, 5), optimizer=OptimizerConfig(warmup_steps=1))
    losses = np.arange(8.0).reshape(2, 4)

    def write(folder, values):
        lines = [{"step": step, "loss": loss} for step, loss in enumerate(values, 1)]
        lines.insert(2, {"step": 2, "evaluation": {"loss": 9.0}})
        (workspace.folder(folder) / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    write("alone", losses.T.tolist())
    np.testing.assert_array_equal(training_losses("alone", training, workspace), losses)
    one = replace(training, seeds=(3,))
    write("one", losses[:1].T.tolist())
    np.testing.assert_array_equal(training_losses("one", one, workspace), losses[:1])
    on_mesh = replace(training, mesh=replace(training.mesh, data=2))
    for seed, values in zip(training.seeds, losses, strict=True):
        write(f"mesh/seed-{seed}", values.tolist())
    np.testing.assert_array_equal(training_losses("mesh", on_mesh, workspace), losses)


def test_losses_are_averaged_by_tens_and_crossings_counted_in_steps():
    assert by_tens(np.arange(40.0).reshape(2, 20)) == [[4.5, 14.5], [24.5, 34.5]]
    assert by_tens(np.arange(4.0)[None]) == [[1.5]]
    assert crossing([3.0, 2.0, 1.0], 1.5) == 30
    assert crossing([3.0, 2.0], 1.5) is None


def test_figure_names_the_crossings():
    assert figure(made_up()).axes[1].get_title(loc="left") == (
        "Lexinvariant crosses: entropy of single symbols at step 50, counter at step 100"
    )


@pytest.mark.parametrize(
    "change, field",
    [
        (lambda config: replace(config, windows=0), "windows"),
        (lambda config: replace(config, model=replace(config.model, causal=False)), "model.causal"),
        (lambda config: replace(config, source=replace(config.source, context=1024)), "source.context"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        change(PRESETS["cpu"])
    assert error.value.field == field
