"""What is judged is what was trained."""

from dataclasses import replace

import pytest

from experiments.harness.workspace import Workspace
from experiments.subjects.autoencoder_scores import judge_all
from experiments.subjects.sparse_activations import VARIANTS, Setting, TrainingConfig, train
from lexinv.sae.synthetic import SyntheticConfig
from lexinv.sae.training import OptimizerConfig
from lexinv.validation import InvalidConfig

DATA = SyntheticConfig(width=8, features=12, l0=1.5)
TRAINING = TrainingConfig(10, 48, OptimizerConfig(warmup_steps=1), held_out=6, steps_per_dispatch=5, seeds=(0,))


def measured(path, name: str, settings: list[Setting], seed: int) -> dict[str, list[float]]:
    workspace = Workspace(path, "0123abcd", False)
    return judge_all(train(VARIANTS[name], DATA, 16, settings, TRAINING, seed, "models", workspace))


@pytest.mark.parametrize("name", ["topk", "matryoshka", "feature_zipf"])
def test_budgets_are_met_in_batches_of_the_training_size(name, tmp_path):
    narrow, wide = measured(tmp_path, name, [Setting(1.0), Setting(2.0)], 0)["l0"]
    assert narrow <= 1.0 and wide <= 2.0
    assert wide == pytest.approx(2.0, abs=0.4)  # fewer where not so many affinities are positive


def test_a_member_is_a_run_of_its_own(tmp_path):
    together = measured(tmp_path / "together", "mutual", [Setting(1.0), Setting(2.0)], 3)
    alone = measured(tmp_path / "alone", "mutual", [Setting(2.0)], 3)
    assert {name: wide for name, (_, wide) in together.items()} == pytest.approx(
        {name: value for name, (value,) in alone.items()}, abs=1e-3
    )


def test_dispatches_must_fit():
    with pytest.raises(InvalidConfig, match="a divisor of steps"):
        replace(TRAINING, steps=11)
