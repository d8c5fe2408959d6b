"""What is judged is what was trained."""

from dataclasses import replace

import pytest

from experiments.sae.synthetic_models import VARIANTS, Setting, TrainingConfig, measure
from lexinv.sae.synthetic import SyntheticConfig
from lexinv.sae.training import OptimizerConfig
from lexinv.validation import InvalidConfig

DATA = SyntheticConfig(width=8, features=12, l0=1.5)
TRAINING = TrainingConfig(10, 48, OptimizerConfig(warmup_steps=1), held_out=6, steps_per_dispatch=5, seeds=(0,))


@pytest.mark.parametrize("name", ["topk", "matryoshka", "feature_zipf"])
def test_budgets_are_met_in_batches_of_the_training_size(name):
    narrow, wide = measure(VARIANTS[name], DATA, 16, [Setting(1.0), Setting(2.0)], TRAINING, 0)
    assert narrow["l0"] <= 1.0 and wide["l0"] <= 2.0
    assert wide["l0"] == pytest.approx(2.0, abs=0.4)  # fewer where not so many affinities are positive


def test_a_member_is_a_run_of_its_own():
    together = measure(VARIANTS["mutual"], DATA, 16, [Setting(1.0), Setting(2.0)], TRAINING, 3)
    alone = measure(VARIANTS["mutual"], DATA, 16, [Setting(2.0)], TRAINING, 3)
    assert together[1] == pytest.approx(alone[0], abs=1e-3)


def test_dispatches_must_fit():
    with pytest.raises(InvalidConfig, match="a divisor of steps"):
        replace(TRAINING, steps=11)
