"""`run --distributed` in two processes with two fake devices each is one run: the same numbers, one writer, one end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from lexinv.training.metrics import read_metrics

pytestmark = pytest.mark.multidevice
HERE = Path(__file__).parent
DEVICES, STEPS, SEEDS = 4, 6, 2
HEARTBEAT_SECONDS = 15
SITE = f"""
import importlib.metadata
import experiments
from experiments.harness import distributed
distributed.HEARTBEAT_SECONDS = {HEARTBEAT_SECONDS}
experiments.__path__.append({str(HERE)!r})
importlib.metadata.packages_distributions = dict
"""
"""For every process: find the family `toy` beside this file, miss the other one sooner, save the second that reading packages takes."""


@pytest.fixture(scope="module")
def start(run_together, tmp_path_factory):
    """Runs the toy in a folder. All starts share SITE and the compiled programs."""
    shared = tmp_path_factory.mktemp("shared")
    (shared / "sitecustomize.py").write_text(SITE)

    def run(folder: Path, processes: int, trouble: str = "") -> list:
        variables = {
            "TOY": trouble,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES // processes}",
            "LEXINV_CACHE": str(shared),
            "JAX_COMPILATION_CACHE_DIR": str(shared / "compiled"),
        }
        command = ["-m", "experiments", "run", "toy/divided", "smoke", "--workspace", folder]
        command += ["--training.mesh.data", "2", "--training.mesh.fsdp", "2"]
        commands = [[*command, f"--distributed=HOST:PORT,{processes},{process}"] for process in range(processes)]
        return run_together(commands if processes > 1 else [command], folder.parent, variables, first=str(shared))

    return run


def read(folder: Path, name: str) -> object:
    return json.loads((folder / f"{name}.json").read_bytes())


@pytest.fixture(scope="module")
def one(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "run"
    ends = start(folder, 1)
    assert ends[0].code == 0, ends[0].output
    return folder


@pytest.fixture(scope="module")
def two(start, tmp_path_factory):
    """The folder, and how the two processes ended."""
    folder = tmp_path_factory.mktemp("two") / "run"
    ends = start(folder, 2)
    assert [end.code for end in ends] == [0, 0], "\n".join(end.output for end in ends)
    return folder, ends


def test_two_processes_find_what_one_finds(one, two):
    ours, theirs = read(two[0], "results"), read(one, "results")
    for name in ("nats", "losses"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5)
    assert np.shape(ours["losses"]) == (SEEDS, STEPS)
    assert [claim["verdict"] for claim in read(two[0], "claims")] == [claim["verdict"] for claim in read(one, "claims")]


def test_both_processes_go_on_with_the_first_ones_values(two):
    seen = [(two[0] / f"seen-{process}.txt").read_text() for process in range(2)]
    assert seen[0] == seen[1].replace("the stage of process 1", "")
    assert "the stage of process 0" in seen[0]


def test_the_first_process_writes_and_prints_for_both(two):
    folder, (first, second) = two
    assert "toy/divided smoke is done" in first.output
    assert "toy/divided" not in second.output and "step" not in second.output
    assert len(read(folder, "sessions")) == 1
    environment = read(folder, "environment")
    assert (environment["process_count"], environment["device_count"]) == (2, DEVICES)
    for seed in range(SEEDS):
        lines = read_metrics(folder / f"models/seed-{seed}/metrics.jsonl")
        assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    names = {path.name for path in folder.iterdir()}
    assert {"results.json", "claims.json", "figure.png", "figure.pdf"} < names
    assert {name for name in names if name.startswith(".")} <= {".lock", ".opening"}  # no remains of writing


def test_a_lost_process_ends_the_other_and_the_next_start_finds_the_same(start, two, tmp_path):
    folder = tmp_path / "run"
    first, second = start(folder, 2, "full:0")
    assert first.code == 1 and "no space for the stage of the toy" in first.output
    assert second.code != 0 and second.seconds < HEARTBEAT_SECONDS, second  # at once, unless the machine is busy
    first, second = start(folder, 2, "kill:1")
    assert second.code == -9
    assert first.code != 0 and first.seconds < 2 * HEARTBEAT_SECONDS, first
    assert read(folder, "stages/first") == "the stage of process 0" and not (folder / "results.json").exists()
    ends = start(folder, 2)
    assert [end.code for end in ends] == [0, 0], "\n".join(end.output for end in ends)
    for name in ("results.json", "claims.json", *(f"models/seed-{seed}/metrics.jsonl" for seed in range(SEEDS))):
        assert (folder / name).read_bytes() == (two[0] / name).read_bytes()
    assert len(read(folder, "sessions")) == 3


def test_a_folder_in_use_is_refused_by_both(start, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with FileLock(folder / ".lock"):
        ends = start(folder, 2)
    for end in ends:
        assert end.code == 2, end
        assert f"workspace = '{folder}' is not possible: a folder that no other process is using" in end.output
        assert f"its lock is {folder / '.lock'}" in end.output
    assert not (folder / "sessions.json").exists()


def test_processes_that_do_not_meet_are_refused():
    program = """
from experiments.harness import distributed
distributed.MEETING_SECONDS = 1
for how in ("near", "localhost:1,2,2", "auto"):
    try:
        distributed.join(how)
    except distributed.InvalidConfig as error:
        print(error)
distributed.join("localhost:1,2,1")
"""
    clusters = ("SLURM", "OMPI", "TPU", "KUBERNETES", "JAX_COORDINATOR")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(clusters)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=HERE.parents[1], capture_output=True, text=True
    )
    assert [line.split(" is not possible")[0] for line in done.stdout.splitlines()] == [
        f"--distributed = '{how}'" for how in ("near", "localhost:1,2,2", "auto")
    ]
    assert done.stdout.count("HOST:PORT,PROCESSES,PROCESS") == 3
    assert done.returncode == 2
    assert "'localhost:1,2,1' is not possible: not all processes have met within 1 seconds" in done.stderr
