"""What training on devices that are not there would take: counted in a small program, and against what is known beforehand."""

import re
import subprocess
import sys

import pytest

from experiments.harness import record
from experiments.harness.plan import PlanOptions, collective_bytes, largest_training
from experiments.lexinvariance import perplexity
from experiments.sae import pareto
from lexinv.nn.flops import train_flops
from lexinv.validation import InvalidConfig

PROGRAM = """\
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], f32[4,2])) -> (s32[], f32[4,2]) {
  %gathered = f32[4,2]{1,0} all-gather(%x), dimensions={0}
  ROOT %out = (s32[], /*index=1*/f32[4,2]{1,0}) tuple(%i, %gathered)
}

ENTRY %main (x: f32[4,2]) -> f32[4,2] {
  %loop = (s32[], f32[4,2]) while(%start), condition=%less, body=%body, backend_config={"known_trip_count":{"n":"12"}}
  %both = (f32[3]{0}, /*index=1*/bf16[5,2]{1,0}) all-reduce(%g, %h), to_apply=%add
  ROOT %done = f32[4,2] copy(%y)
}
"""


def test_collectives_are_counted_as_often_as_they_run():
    assert collective_bytes(PROGRAM) == {"all-gather": 12 * 4 * 2 * 4, "all-reduce": 3 * 4 + 10 * 2}


@pytest.mark.experiment
@pytest.mark.parametrize("fsdp", [1, 4])
def test_a_plan_from_the_command_line(fsdp, user_environment):
    """Data-parallel gradients are summed once, in float32; divided parameters are gathered, and take a fourth of the memory."""
    command = [sys.executable, "-m", "experiments", "plan", "lexinvariance/perplexity", "smoke", "--devices", "4"]
    command += ["--vocab", "64", "--lexicon", "standard", "--training.mesh.fsdp", str(fsdp)]
    done = subprocess.run(
        command, cwd=record.REPOSITORY, env=user_environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr

    def number(before: str) -> float:
        return float(re.search(rf"{before} ([\d.,e+]+)", done.stdout)[1].replace(",", ""))

    config = perplexity.PRESETS["smoke"]
    batch = config.training.batch_size * config.data.context
    assert number("a step:") == pytest.approx(train_flops(config.model, 64, config.data.context) * batch, rel=0.01)
    megabytes = number("parameters") * 4 / 2**20
    if fsdp == 1:
        assert number("all-reduce") == pytest.approx(megabytes, abs=0.06)
        assert "all-gather" not in done.stdout
    else:
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
