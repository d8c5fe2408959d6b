"""What cannot be meant on the command line is refused in one message, by its name and with what is allowed, before anything is made."""

import re
from pathlib import Path

import jax
import pytest

RUN = [
    ("bogus", "command = 'bogus'.*known: list, assets, run, sweep, plan, verify, report, cite"),
    ("lst", "did you mean 'list'"),
    ("list x", "no arguments"),
    ("report x", "no arguments"),
    ("run", r"run NAME \[PRESET\]"),
    ("run toy/line cpu more", r"run NAME \[PRESET\]"),
    ("run toy/lime", "did you mean 'toy/line'.*known: .*toy/line"),
    ("run toy/helper", "experiment = 'toy/helper'"),
    ("run ../toy/line", "experiment = '../toy/line'"),
    ("run toy/line smok", "preset = 'smok'.*did you mean 'smoke'.*known: smoke, cpu, paper"),
    ("run toy/line smoke --points many", "--points.*many"),
    ("run toy/line smoke --noise.kind normall", "normall.*--noise.kind.*normal.*uniform"),
    ("run toy/line smoke --noise.scal 1", "--noise.scal.*--noise.scale"),
    ("run toy/line smoke --seeds 1.5", "--seeds.*1.5"),
    ("run toy/line smoke --slope 1 --record", "only the preset smoke itself"),
    ("run toy/line smoke --noise.scale nan", "nan"),
    ("run toy/line smoke --checkpoints.keep 0", "checkpoints.keep = 0 is not possible: at least 1"),
    ("run toy/line smoke --distributed auto", "--distributed = 'auto'.*on a mesh, which toy/line does not"),
    ("run toy/line smoke --distributed=h:1,2,0", "--distributed = 'h:1,2,0'.*each process would compute all"),
    ("verify toy/line", "experiment = 'toy/line'.*one with a committed record"),
    ("cite", r"cite NAME \[PRESET\]"),
    ("cite toy/line cpu --x", r"cite NAME \[PRESET\]"),
    ("cite toy/line cpu", "preset = 'cpu'"),
    ("sweep", r"sweep NAME \[PRESET\] --grid"),
]
SWEEP = [
    ("", "at least one FIELD=V1,V2"),
    ("--seeds 3", "at least one FIELD=V1,V2"),
    ("--grid slope=1 --chain", "at least one FIELD=V1,V2"),
    ("slope=1", "slope=1"),
    ("--grid slop=1", "did you mean 'slope'.*known: slope, points, seeds, noise, noise.scale"),
    ("--grid slope=1 --zip slope=2 points=3", "'slope'.*each field once"),
    ("--grid seeds=[1] --seeds 2", "'seeds'.*each field once"),
]
ONE_TRIAL = [
    ("--seeds 0", "--seeds = 0.*at least 1"),
    ("--workers 0", "--workers = 0.*at least 1"),
    ("--workers x", "--workers"),
    ("--executor threads", "known: processes, population, ray"),
    ("--executor processes:3", "ray:HOST:PORT"),
    ("--executor population --halving 2 --first-rung 1", "processes or ray with --halving"),
    ("--executor ray --resources CPU", "--resources = 'CPU'.*NAME=AMOUNT"),
    ("--resources CPU=1", "--resources = .*only with --executor ray"),
    ("--best first", "invalid choice .first."),
    ("--best highest", "--best = 'highest'.*only with --metric"),
    ("--halving 1 --first-rung 10", "--halving = 1.*at least 2"),
    ("--halving 2 --first-rung 0", "--first-rung = 0.*at least 1"),
    ("--halving 2", "--first-rung = None.*where --halving is given"),
    ("--first-rung 5", "--first-rung = 5.*where --halving is given"),
    ("--halving 2 --first-rung 5 --emit slurm", "--halving = 2.*not with --emit"),
    ("--emit condor", "invalid choice .condor."),
    ("--emit slurm --executor processes", "--executor = 'processes'"),
    ("--emit slurm --trial 0", "--trial = 0.*without --emit"),
    ("--bucket gs://our-runs", "--bucket.*only with --emit"),
    ("--accelerator H100:1", "--accelerator.*only with --emit"),
    ("--trial 0 --executor ray", "--executor = 'ray'.*not with --trial"),
    ("--trial 0 --workers 2", "--workers = 2.*not with --trial"),
    ("--trial 0 --metric slopes", "--metric = 'slopes'.*not with --trial"),
    ("--trial 1", "--trial = 1.*below 1"),
]
CASES = [
    *RUN,
    *((f"sweep toy/line smoke {options}", message) for options, message in SWEEP),
    *((f"sweep toy/line smoke --grid slope=1 {options}", message) for options, message in ONE_TRIAL),
]


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("command, message", CASES, ids=[command for command, _ in CASES])
def test_bad_input_is_refused(cli, repository, command, message):
    code, out, err = cli(*command.split())
    assert (code, out) == (2, "")
    assert re.search(message, err), err
    assert "Traceback" not in err
    assert not Path("runs").exists() and not (repository / "experiments/launch").exists()


@pytest.mark.parametrize("command", ["run toy/line smoke", "sweep toy/line smoke --grid slope=1,2"])
@pytest.mark.parametrize("place", ["/dev/null/x", "x" * 300, "dangling", "~nobody-of-this-name/x"])
def test_what_cannot_be_a_folder_is_refused(cli, command, place):
    Path("dangling").symlink_to("nowhere")
    code, out, err = cli(*command.split(), f"--workspace={place}")
    assert (code, out) == (2, "")
    assert place in err and "is not possible" in err


@pytest.mark.parametrize("place", ["file", "/dev/null/x"])
def test_a_cache_that_cannot_be_a_folder_is_refused(cli, monkeypatch, place):
    Path("file").write_text("x")
    monkeypatch.setenv("LEXINV_CACHE", place)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    jax.config.update("jax_compilation_cache_dir", None)
    code, _, err = cli("run", "toy/line", "smoke")
    assert code == 2
    assert f"LEXINV_CACHE = '{place}' is not possible: a folder" in err
