"""What training on devices that are not there would take: counted in a small program, and against what is known beforehand."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest

from experiments.harness import record
from experiments.harness.plan import PlanOptions, largest_training
from experiments.lexinvariance import perplexity
from experiments.sae import pareto
from lexinv.nn.flops import train_flops
from lexinv.validation import InvalidConfig


@pytest.mark.experiment
@pytest.mark.parametrize("mesh", [{"data": 4}, {"fsdp": 2, "model": 2}])
def test_a_plan_from_the_command_line(mesh, user_environment):
    """Data-parallel gradients are summed once, in float32; divided parameters are gathered, and take a fourth of the memory."""
    command = [sys.executable, "-m", "experiments", "plan", "lexinvariance/perplexity", "smoke", "--devices", "4"]
    command += [
        "--vocab",
        "64",
        "--lexicon",
        "standard",
        "--training.optimizer.name",
        "adamw",
    ]  # Muon has products of its own
    command += [word for axis, size in mesh.items() for word in (f"--training.mesh.{axis}", str(size))]
    done = subprocess.run(
        command, cwd=record.REPOSITORY, env=user_environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr

    def number(before: str) -> float:
        return float(re.search(rf"{before} ([\d.,e+]+)", done.stdout)[1].replace(",", ""))

    config = perplexity.PRESETS["smoke"]
    batch = config.training.batch_size * config.data.context
    assert number("a step:") == pytest.approx(train_flops(config.model, 64, config.data.context) * batch, rel=0.01)
    # Attention to the few positions of the smoke preset is one chunk, whose later half is computed too.
    products = train_flops(replace(config.model, causal=False), 64, config.data.context) * batch / 4
    megabytes = number("parameters") * 4 / 2**20
    if "data" in mesh:
        assert number("matrix products of a device:") == pytest.approx(products, rel=0.01)
        assert number("all-reduce") == pytest.approx(megabytes, abs=0.06)
        assert "all-gather" not in done.stdout
    else:
        # All that the two along `model` both do is to multiply by the matrix before the logits.
        readout = 6 * config.model.width**2 * batch / 4
        assert number("matrix products of a device:") == pytest.approx(products + readout, rel=0.01)
        assert number("all-gather") > 0
        assert number("state and batch") < 3 * megabytes


@pytest.mark.parametrize(
    "changed", [{"devices": 0}, {"vocab": 0}, {"utilisation": 0.0}, {"utilisation": 1.5}, {"device_kind": "abacus"}]
)
def test_impossible_options_are_named(changed):
    (field,) = changed
    with pytest.raises(InvalidConfig, match=f"--{field.replace('_', '-')}"):
        PlanOptions(**changed)


def test_only_experiments_on_text_are_planned():
    with pytest.raises(InvalidConfig, match=r"model, training and data\.context"):
        largest_training(pareto.PRESETS["smoke"])
