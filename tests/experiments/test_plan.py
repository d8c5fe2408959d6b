"""What training on devices that are not there would take: counted in a small program, and against what is known beforehand."""

import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.harness import record
from experiments.harness.plan import PlanOptions, describe, make_plan
from experiments.harness.training import Training
from experiments.merging import votes
from experiments.sae import pareto
from experiments.subjects.language_models import train_seeds
from experiments.tokenization import barrier, unigram_loss
from lexinv.data.windows import array_windows
from lexinv.nn.flops import PEAK_FLOPS, train_flops
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import InvalidConfig

MODEL = TransformerConfig(depth=2, width=16, heads=2, mlp_width=32, unroll=2)
VOCAB, TIME = 64, 16
TRAINING = Training(4, 8, (0, 1), OptimizerConfig("adamw", warmup_steps=1), steps_per_dispatch=2)
OPTIONS = PlanOptions(devices=2)


def run(training, workspace):
    """A made-up experiment."""
    source = array_windows((np.arange(20 * TIME) % VOCAB).astype(np.uint8), TIME)
    train_seeds("models", MODEL, LexiconConfig(), VOCAB, source, training, workspace)
    raise AssertionError("trained")


MODULE = SimpleNamespace(__name__="made-up", run=run, train=train_seeds)


def newton_schulz(rows: int, columns: int) -> int:
    """Operations of Muon's five iterations on one matrix: X X^T, its square, and the product of their sum with X."""
    short, long = sorted((rows, columns))
    return 5 * 2 * (short * short * long + short**3 + short * short * long)


@pytest.mark.long
def test_a_plan_counts_what_one_device_does():
    """Data-parallel: half of the products, gradients are summed in float32; and all of Muon's, which every device does whole."""
    plans = {
        name: make_plan(MODULE, replace(TRAINING, optimizer=OptimizerConfig(name, warmup_steps=1)), OPTIONS)
        for name in ("adamw", "muon")
    }
    rows, plan = TRAINING.batch_size * TIME, plans["adamw"]
    assert plan.flops == train_flops(MODEL, VOCAB, TIME) * rows
    # Attention to so few positions is one chunk, whose later half is computed too.
    whole = train_flops(replace(MODEL, causal=False), VOCAB, TIME) * rows
    assert plan.device.matrix_flops == pytest.approx(whole / 2, rel=0.01)
    table = VOCAB * MODEL.width  # its gradient is summed where it is read, and where it gives the logits
    assert plan.device.collectives["all-reduce"] == pytest.approx(4 * (plan.parameters + table), abs=64)
    width, inner = MODEL.width, MODEL.mlp_width
    own = MODEL.depth * (4 * newton_schulz(width, width) + 2 * newton_schulz(width, inner)) + newton_schulz(
        width, width
    )
    assert plans["muon"].device.matrix_flops - plan.device.matrix_flops == pytest.approx(own, rel=0.01)
    speed = float(re.search(r"peak: (\S+) steps/s", describe(plans["muon"], OPTIONS)[-1])[1])
    assert speed == pytest.approx(0.4 * PEAK_FLOPS["TPU v5e"] / plans["muon"].device.matrix_flops, rel=0.01)


@pytest.mark.experiment
@pytest.mark.parametrize(
    "module, devices, names",
    [(barrier, 2, r".*/\w+"), (votes, 1, "vision"), (pareto, 2, r"\w+/seed-0")],
    ids=["windows", "drawn and shared", "shared batches"],
)
def test_every_family_is_planned_before_it_trains(module, devices, names, tmp_path, monkeypatch):
    monkeypatch.setenv("LEXINV_CACHE", str(tmp_path))
    plan = make_plan(module, module.PRESETS["smoke"], OPTIONS)
    assert re.fullmatch(names, plan.name) and plan.mesh.devices == devices
    assert plan.device.matrix_flops > 0 and ("all-reduce" in plan.device.collectives) is (devices > 1)


def test_an_experiment_that_trains_nothing_is_refused():
    with pytest.raises(InvalidConfig, match="unigram_loss.*one that trains models"):
        make_plan(unigram_loss, unigram_loss.PRESETS["smoke"], OPTIONS)


@pytest.mark.experiment
def test_a_plan_from_the_command_line(user_environment):
    """Divided parameters are gathered."""
    command = [sys.executable, "-m", "experiments", "plan", "tokenization/induction", "smoke", "--devices", "4"]
    command += ["--training.mesh.fsdp", "2", "--training.mesh.model", "2"]
    run = partial(subprocess.run, capture_output=True, text=True, timeout=600)
    done = run(command, cwd=record.REPOSITORY, env=user_environment)
    assert done.returncode == 0, done.stderr
    assert "fsdp 2, model 2: 4 devices" in done.stdout and "all-gather" in done.stdout


@pytest.mark.parametrize(
    "changed", [{"devices": 0}, {"utilisation": 0.0}, {"utilisation": 1.5}, {"device_kind": "abacus"}]
)
def test_impossible_options_are_named(changed):
    (field,) = changed
    with pytest.raises(InvalidConfig, match=field):
        PlanOptions(**changed)
