"""Recipes of sweeps: what they say, that their commands run the same trials, and that the tools they are for accept them."""

import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from experiments.harness import record
from experiments.harness.config import config_hash
from experiments.harness.launch import Launch, accelerators, skypilot, slurm
from experiments.harness.registry import load
from lexinv.validation import InvalidConfig

pytestmark = pytest.mark.usefixtures("toy")

ODD = ("--grid", 'kind=\'a "b" $HOME `id` \\ #c', "slope=1\n2", "seeds=[0, 1]")
LAUNCH = Launch("slurm", "toy/line", "smoke", ("--grid", "slope=1,2"), Path("/shared/s"), ("a", "b"))
TASK = dataclasses.replace(LAUNCH, target="skypilot", folder=Path("s"), bucket="gs://our-runs")


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Put a command into the path: shell words."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def put(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)

    return put


@pytest.fixture
def cluster(program, tmp_path) -> Path:
    """A cluster of this machine alone; returns the file of what is said to scontrol."""
    program("srun", 'exec "$@"')
    program("scontrol", f'echo "$@" >> {tmp_path}/scontrol')
    return tmp_path / "scontrol"


def job(script: Path, index: int) -> subprocess.Popen:
    """The job of an array with this index."""
    variables = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(index)}
    return subprocess.Popen(["bash", script], env={**os.environ, **variables}, stdout=subprocess.DEVNULL)


def emitted(out: str) -> Path:
    """The recipe that a command says it has written."""
    (command,) = re.findall("start it with: (.*)", out)
    return Path(shlex.split(command)[-1])


@pytest.mark.long
def test_every_job_of_an_array_runs_one_trial(cli, cluster, repository):
    place, grid = "it's $HERE", ("--grid", "seeds=[0, 1],[2]", "slope=2,2.0", "--chain", "--grid", "fail-at=1")
    sweep = ("sweep", "toy/line", "smoke", *grid, "--workspace", place)
    code, out, err = cli(*sweep, "--emit", "slurm", "--workers", "2")
    assert (code, err) == (0, "")
    script = emitted(out)
    assert script.parent == repository / "experiments/launch"
    assert not Path(place).exists()
    assert "#SBATCH --array=0-2%2\n" in script.read_text()
    subprocess.run(["bash", "-n", script], check=True)

    # Twice the same value is one trial, and all begin at the same time.
    assert [process.wait(120) for process in [job(script, index) for index in range(3)]] == [0, 0, 1]
    base = load("toy/line").PRESETS["smoke"]
    changes = ({"seeds": (0, 1)}, {"seeds": (2,)}, {"fail_at": 1})
    folders = [Path(place, "trials", config_hash(dataclasses.replace(base, **change))) for change in changes]
    assert sorted(folders) == sorted(Path(place, "trials").iterdir())
    assert [(folder / "computed.txt").read_text() for folder in folders] == ["0 1 ", "2 ", "0 1 "]
    assert "loss nan at step 3" in (folders[2] / "error.txt").read_text()
    assert not cluster.exists()

    (folders[2] / "mended").touch()
    assert job(script, 2).wait(120) == job(script, 0).wait(120) == 0
    code, out, _ = cli(*sweep)
    assert code == 0
    assert [(folder / "computed.txt").read_text() for folder in folders] == ["0 1 ", "2 ", "0 1 1 2 "]
    assert [row["status"] for row in json.loads(Path(place, "summary.json").read_text())["trials"]] == ["done"] * 3


@pytest.mark.long
def test_a_stopped_job_is_queued_again_and_goes_on(cli, cluster, toy):
    _, out, _ = cli("sweep", "toy/waiting", "smoke", "--grid", "slope=3", "--workspace", "s", "--emit", "slurm")
    process = job(emitted(out), 0)
    deadline = time.monotonic() + 120
    while (
        not (found := list(Path("s/trials").glob("*/pid")))
        or (found[0].parent / "computed.txt").read_text() != "0 1 "
        or not found[0].read_text()
    ):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(int(found[0].read_text()), signal.SIGTERM)
    assert process.wait(120) == 143
    assert cluster.read_text() == "requeue 7_0\n"
    toy.touch()
    assert job(emitted(out), 0).wait(120) == 0
    assert (found[0].parent / "computed.txt").read_text() == "0 1 1 2 "
    assert cluster.read_text() == "requeue 7_0\n"


@pytest.mark.parametrize("count", [1, 1000, 1001, 2345])
def test_an_array_is_never_larger_than_slurm_takes_and_runs_every_trial_once(cluster, tmp_path, program, count):
    """By default MaxArraySize is 1001: no job of an array may have a number above 1000."""
    program("srun", f'echo "${{@: -1}}" >> {tmp_path}/started')
    script = tmp_path / "script"
    script.write_text(slurm(dataclasses.replace(LAUNCH, trials=[str(trial) for trial in range(count)])))
    last = int(re.search(r"--array=0-(\d+)\n", script.read_text())[1])
    assert last == min(count, 1000) - 1
    for index in (0, min(500, last), last):
        assert job(script, index).wait(60) == 0
        started = (tmp_path / "started").read_text().split()
        assert started == [f"--trial={trial}" for trial in range(index, count, last + 1)]
        (tmp_path / "started").unlink()


def test_a_job_of_several_trials_goes_on_after_a_failure_and_ends_when_stopped(cluster, tmp_path, program, monkeypatch):
    monkeypatch.setattr("experiments.harness.launch.MOST_JOBS", 1)
    script = tmp_path / "script"
    script.write_text(slurm(dataclasses.replace(LAUNCH, trials="abc")))
    for codes, expected, runs in (((0, 1, 0), 1, 3), ((1, 143, 0), 143, 2)):
        (tmp_path / "codes").write_text("\n".join(map(str, codes)))
        program("srun", f"n=$(head -1 {tmp_path}/codes); sed -i 1d {tmp_path}/codes; echo >> {tmp_path}/runs; exit $n")
        assert job(script, 0).wait(60) == expected
        assert (tmp_path / "runs").read_text() == "\n" * runs
        (tmp_path / "runs").unlink()
    assert cluster.read_text() == "requeue 7_0\n"


def test_a_skypilot_task_has_its_trials_device_and_bucket(cli, repository):
    options = "--grid slope=1,2 --zip points=5,6 noise.scale=1,2 --seeds 2 --metric slopes --best highest"
    target = "--emit skypilot --bucket gs://our-runs/a/b --accelerator tpu-v5e-8"
    code, out, err = cli(*f"sweep toy/line smoke {options} {target}".split())
    assert (code, err) == (0, "")
    text = emitted(out).read_text()
    assert "seq 0 3" in text
    task = yaml.safe_load(text)
    assert (task["name"], task["workdir"], task["envs"]) == ("toy-line-smoke", str(repository), {"TRIAL": ""})
    assert task["resources"] == {
        "accelerators": "tpu-v5litepod-8",
        "accelerator_args": {"runtime_version": "v2-alpha-tpuv5-lite"},
        "use_spot": True,
        "job_recovery": {"recover_on_exit_codes": [143]},
    }
    assert task["file_mounts"] == {"/bucket": {"source": "gs://our-runs", "mode": "MOUNT_CACHED"}}
    assert 'uv pip install -e ".[tpu]" -c constraints.txt\n' in task["setup"]
    identity = config_hash(load("toy/line").PRESETS["smoke"])[:8]
    place = f"--workspace=/bucket/a/b/runs/toy/line/sweeps/smoke-{identity}"
    assert "set -- --metric=slopes --best=highest\n" in task["run"]
    assert f'--zip points=5,6 noise.scale=1,2 --seeds=2 {place} "$@"\n' in task["run"]


@pytest.mark.parametrize("trial", ["", "1"])
def test_odd_values_reach_the_command(repository, program, tmp_path, trial):
    """As the shells of both tools read them."""
    program("python", f'printf "%s\\0" "$@" > {tmp_path}/words')
    program("srun", f'printf "%s\\0" "${{@:2}}" > {tmp_path}/words')
    (tmp_path / "lexinv/bin").mkdir(parents=True)
    (tmp_path / "lexinv/bin/activate").touch()
    environment = {**os.environ, "HOME": str(tmp_path), "TRIAL": trial, "SLURM_ARRAY_TASK_ID": trial}
    common = ["-m", "experiments", "sweep", "toy/line", "smoke", *ODD]

    launch = dataclasses.replace(LAUNCH, arguments=ODD, folder=Path("/shared/it's $s"))
    subprocess.run(["bash", "-c", slurm(launch)], env=environment, check=True)
    words = (tmp_path / "words").read_text().split("\0")[:-1]
    assert words == [*common, "--workspace=/shared/it's $s", f"--trial={trial or 0}"]

    whole = ("--workers=3", "--metric=a b")
    launch = dataclasses.replace(TASK, arguments=ODD, bucket="gs://our-runs/x", folder=Path("it's $s"), whole=whole)
    subprocess.run(["bash", "-c", yaml.safe_load(skypilot(launch))["run"]], env=environment, check=True)
    words = (tmp_path / "words").read_text().split("\0")[:-1]
    assert words == [*common, "--workspace=/bucket/x/it's $s", *([f"--trial={trial}"] if trial else whole)]


def test_a_commit_that_others_can_get_is_cloned(repository):
    def git(*arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=repository, check=True)

    def workdir():
        return yaml.safe_load(skypilot(TASK))["workdir"]

    git("clean", "--force", "--quiet")
    git("remote", "add", "origin", "https://example.org/lexinv.git")
    assert workdir() == str(repository)  # not pushed
    git("update-ref", "refs/remotes/origin/main", "HEAD")
    assert workdir() == {"url": "https://example.org/lexinv.git", "ref": record.git_state()[0]}
    (repository / "new.py").touch()
    assert workdir() == str(repository)


@pytest.mark.parametrize(
    ("changes", "field", "allowed"),
    [
        ({"target": "condor"}, "--emit", "skypilot, slurm"),
        ({"bucket": None}, "--bucket", "gs://BUCKET"),
        ({"bucket": "our-runs"}, "--bucket", "gs://BUCKET"),
        ({"bucket": "gs://our-runs/../x"}, "--bucket", "gs://BUCKET"),
        ({"accelerator": "tpu-v5-8"}, "--accelerator", "did you mean 'tpu-v5e-8'"),
        ({"accelerator": "tpu-v5e-16"}, "--accelerator", "one host, since a trial is one process"),
        ({"accelerator": "tpu-v5e-2"}, "--accelerator", "known: tpu-v5e-1"),
        ({"accelerator": "H100"}, "--accelerator", "did you mean 'H100:"),
        ({"accelerator": "H100:1", "workers": 2}, "--workers", "one process"),
        ({"folder": Path("/s")}, "--workspace", "relative"),
        ({"folder": Path("a/../../s")}, "--workspace", "relative"),
        ({"target": "slurm"}, "--bucket", "skypilot alone"),
        ({"target": "slurm", "bucket": None, "accelerator": "tpu-v5e-8"}, "--accelerator", "a GPU"),
    ],
)
def test_what_a_target_cannot_do_is_refused(changes, field, allowed):
    with pytest.raises(InvalidConfig) as refusal:
        dataclasses.replace(TASK, **changes)
    assert refusal.value.field == field
    assert allowed in refusal.value.allowed


@pytest.mark.parity
@pytest.mark.parametrize("accelerator", [None, *accelerators()])
def test_skypilot_reads_the_task(repository, tmp_path, monkeypatch, accelerator):
    """The task's own parser with its schemas; what has to ask a cloud for an account or a price is left out."""
    monkeypatch.setenv("SKYPILOT_DISABLE_USAGE_COLLECTION", "1")
    pytest.importorskip("sky")
    from sky import Task
    from sky.data.storage import Storage

    # Which asks whether the bucket exists.
    monkeypatch.setattr(Storage, "_validate_source", lambda self, source, *_: (source, False))
    launch = dataclasses.replace(TASK, arguments=ODD, accelerator=accelerator)
    (tmp_path / "task.yaml").write_text(skypilot(launch))
    task = Task.from_yaml(str(tmp_path / "task.yaml"))
    (resources,) = task.resources
    assert resources.use_spot
    assert resources.job_recovery["recover_on_exit_codes"] == [143]
    device = launch.device
    asked = {} if device is None else device.resources
    name, _, count = asked.get("accelerators", "").partition(":")
    assert resources.accelerators == ({name: int(count or 1)} if name else None)
    assert (resources.accelerator_args or {}).get("runtime_version") == (None if device is None else device.runtime)
    assert task.run == yaml.safe_load(skypilot(launch))["run"]
    assert list(task.storage_mounts) == ["/bucket"]
    assert task.storage_mounts["/bucket"].mode.value == "MOUNT_CACHED"
