"""Sweeps of the toy experiment: trials are processes, as for a user, and the clusters of Ray are real."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experiments.harness import record
from experiments.harness.config import config_hash
from experiments.harness.executors import outcome
from experiments.harness.registry import load
from experiments.harness.sweeps import Block, parse
from experiments.harness.workspace import Workspace, plain

pytestmark = pytest.mark.usefixtures("toy")

EXPERIMENTS = (sys.executable, "-m", "experiments")
SWEEP = ("sweep", "toy/line", "smoke", "--workspace", "s")
HERE = ("--executor", "population")
"""Trials in this process, which is quick."""


def folder(root="s", name="toy/line", preset="smoke", **changes) -> Path:
    """The folder of one trial."""
    return Path(root, "trials", config_hash(dataclasses.replace(load(name).PRESETS[preset], **changes)))


def until(condition: Callable[[], bool], what: str, process: subprocess.Popen | None = None) -> None:
    deadline = time.monotonic() + 120  # on a busy machine
    while not condition():
        assert process is None or process.poll() is None, f"{what}: the process ended"
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def undisturbed(path: Path, **changes) -> dict:
    """The results of a trial, computed in this process in a folder of its own."""
    module = load("toy/line")
    path.mkdir()
    return plain(module.run(dataclasses.replace(module.PRESETS["smoke"], **changes), Workspace(path, "hash")))


@pytest.mark.long
def test_a_sweep_goes_on_after_a_failure_and_repeats_nothing(cli, times):
    grid = ("--grid", "slope=0.5,2", "--chain", "--grid", "fail-at=1")
    code, out, err = cli(*SWEEP, *grid, "--workers", "2")
    bad, low, high = folder(fail_at=1), folder(slope=0.5), folder(slope=2.0)
    assert (code, err) == (1, "")
    assert "2 of 3 trials are finished" in out
    assert f"failed: fail_at=1: {bad / 'error.txt'}" in out
    assert "FloatingPointError: loss nan at step 3" in (bad / "error.txt").read_text()
    assert "Traceback" in (bad / "error.txt").read_text()
    for trial in (low, high):
        assert {path.name for path in trial.iterdir()} >= {*record.FILES, "figure.pdf", "log.txt"}
    assert json.loads((high / "results.json").read_text())["slopes"] == pytest.approx([2, 2, 2], abs=0.3)
    assert "0 of 1" in out and "1 of 1" in out  # claims held
    summary = json.loads(Path("s/summary.json").read_text())
    assert [row["trial"] for row in summary["trials"]] == [high.name, low.name, bad.name]  # most claims first
    assert [row["status"] for row in summary["trials"]] == ["done", "done", "failed"]
    assert summary["trials"][1]["values"] == {"slope": 0.5, "fail_at": None}
    assert Path("s/figure.png").read_bytes()[:4] == b"\x89PNG"

    (bad / "mended").touch()
    before = times(low) | times(high)
    code, out, _ = cli(*SWEEP, *grid)
    assert code == 0
    assert times(low) | times(high) == before
    assert (bad / "computed.txt").read_text() == "0 1 1 2 "
    assert not (bad / "error.txt").exists()

    before = times(Path("s/trials"))
    code, out, _ = cli(*SWEEP, "--grid", "slope=2,0.5", "--metric", "slopes", "--best", "highest")
    assert code == 0
    assert times(Path("s/trials")) == before
    summary = json.loads(Path("s/summary.json").read_text())
    assert [row["trial"] for row in summary["trials"]] == [high.name, low.name]
    assert summary["trials"][0]["value"]["n"] == 3
    code, out, err = cli(*SWEEP, "--grid", "slope=2,0.5", "--metric", "slops")
    message = (
        "--metric = 'slops' is not possible: did you mean 'slopes' or 'seeds'? known: slopes, true, seeds, corpora"
    )
    assert (code, err) == (2, f"error: {message}")
    assert out.count(message) == 2  # of each trial
    assert [row["value"] for row in json.loads(Path("s/summary.json").read_text())["trials"]] == [None, None]


@pytest.mark.long
def test_a_sweep_over_a_whole_part_is_summed_up(cli):
    grid = 'noise={"scale":0.1,"kind":"normal"},{"scale":0.0,"kind":"uniform"}'
    code, out, _ = cli(*SWEEP, *HERE, "--grid", grid, "--metric", "slopes.0")
    assert code == 0
    noises = [load("toy/line").Noise(0.1), load("toy/line").Noise(0.0, "uniform")]
    summary = json.loads(Path("s/summary.json").read_text())
    assert {row["trial"]: row["values"]["noise"] for row in summary["trials"]} == {
        folder(noise=noise).name: dataclasses.asdict(noise) for noise in noises
    }
    assert f"done: noise={json.dumps(dataclasses.asdict(noises[1]), separators=(',', ':'))}".replace("0.0", "0") in out
    assert Path("s/figure.png").is_file()
    assert cli(*SWEEP, *HERE, "--grid", grid)[0] == 0  # the verdicts, without a metric


def test_files_of_a_finished_trial_that_cannot_be_read_are_written_again_or_named(cli):
    grid = (*HERE, "--grid", "slope=2,3")
    assert cli(*SWEEP, *grid)[0] == 0
    damaged = folder(slope=2.0)
    (damaged / "claims.json").write_text("[{")
    code, out, _ = cli(*SWEEP, *grid)
    assert code == 0
    assert json.loads((damaged / "claims.json").read_text())[0]["name"] == "slope_above_one"
    for file in ("claims.json", "results.json"):
        (damaged / file).write_text("[{")
    code, out, _ = cli(*SWEEP, *grid)
    assert code == 1
    assert f"failed: slope=2: {damaged / 'error.txt'}" in out
    assert f"file = '{damaged / 'results.json'}' is not possible: a JSON file" in (damaged / "error.txt").read_text()
    assert outcome(damaged, "") == "failed"  # although the file that is written last is there
    summary = json.loads(Path("s/summary.json").read_text())
    assert {row["trial"]: row["status"] for row in summary["trials"]} == {
        damaged.name: "failed",
        folder(slope=3.0).name: "done",
    }


def test_ray_is_an_extra(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = cli(*SWEEP, "--grid", "slope=1", "--executor", "ray")
    assert code == 2
    assert 'pip install "lexinv[cluster]"' in err
    assert not Path("s").exists()


def test_blocks_and_options_may_be_mixed():
    text = "--grid a=1 --workers 2 --grid b=2 --zip c=1 d=2 --zip e=3 --chain --zip=f=4 g=5 --seeds 3 --grid h=6"
    options, blocks = parse(text.split(), "sweep")
    assert (options.workers, options.seeds) == (2, 3)
    assert blocks == [Block(["a=1", "b=2"], [["c=1", "d=2"], ["e=3"]]), Block(["h=6"], [["f=4", "g=5"]])]


def test_folders_in_use_and_of_other_things_are_refused(cli):
    arguments = ("--grid", "slope=1")
    with Workspace(Path("s"), "hash").locked():
        code, _, err = cli(*SWEEP, *arguments)
    assert code == 2
    assert "no other process is using" in err
    assert not Path("s/trials").exists()
    assert "it holds toy/line with config hash" in cli("sweep", "toy/line", "cpu", *arguments, "--workspace", "s")[2]
    Path("thesis").mkdir()
    Path("thesis/chapter.txt").touch()
    assert "a new or empty folder" in cli("sweep", "toy/line", "cpu", *arguments, "--workspace", "thesis")[2]


def start_waiting(*options: str) -> subprocess.Popen:
    command = [*EXPERIMENTS, "sweep", "toy/waiting", "smoke", "--workspace", "s", *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


def waits(trial: Path) -> bool:
    """Whether a trial has its first stage and is in the second."""
    computed = trial / "computed.txt"
    return computed.is_file() and computed.read_text().endswith("0 1 ") and (trial / "pid").is_file()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text() if Path(f"/proc/{pid}").exists() else False


@pytest.mark.long
@pytest.mark.parametrize("stop", ["terminate the sweep", "interrupt the sweep", "kill the sweep", "kill the trial"])
def test_what_is_stopped_resumes_and_equals_an_undisturbed_sweep(cli, toy, stop):
    process = start_waiting("--grid", "slope=3")
    trial = folder(name="toy/waiting", slope=3.0)
    until(lambda: waits(trial), "the trial", process)
    pid = int((trial / "pid").read_text())
    what, _, victim = stop.partition(" the ")
    number = {"terminate": signal.SIGTERM, "interrupt": signal.SIGINT, "kill": signal.SIGKILL}[what]
    os.kill(process.pid if victim == "sweep" else pid, number)
    expected = {"terminate": 143, "interrupt": 130, "kill": -9}[what] if victim == "sweep" else 1
    assert process.wait(120) == expected
    if what != "kill":
        assert gone(pid)  # the sweep waited for it
    until(lambda: gone(pid), "the trial to end")
    assert len(json.loads((trial / "sessions.json").read_text())) == 1
    if victim == "trial":
        assert "ended with code -9" in (trial / "error.txt").read_text()
        assert "running toy/waiting smoke" in (trial / "error.txt").read_text()  # the log
    else:
        assert not (trial / "error.txt").exists()

    toy.touch()
    code, _, _ = cli("sweep", "toy/waiting", "smoke", "--workspace", "s", "--grid", "slope=3")
    assert code == 0
    assert (trial / "computed.txt").read_text() == "0 1 1 2 "
    assert len(json.loads((trial / "sessions.json").read_text())) == 2
    assert json.loads((trial / "results.json").read_text()) == undisturbed(Path("whole"), slope=3.0)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def cluster(toy, monkeypatch) -> Iterator[str]:
    """The address of a Ray cluster with two nodes of one processor each on this machine."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # Ray protects a cluster wherever it finds a token, which it leaves at home once it has started one in a process.
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)
    address = f"127.0.0.1:{free_port()}"
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    common = ["--num-cpus", "1", "--object-store-memory", "80000000", "--block"]
    temporary = tempfile.mkdtemp(dir="/tmp")  # paths of sockets have to be short
    head = ["--head", "--port", address.partition(":")[2], "--include-dashboard", "false", "--temp-dir", temporary]
    nodes = []

    def add_node(*arguments: str) -> None:
        command = [*ray, "start", *arguments, *common]
        nodes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def answers() -> bool:
        return subprocess.run([*ray, "status", "--address", address], capture_output=True).returncode == 0

    try:
        add_node(*head)
        until(answers, "the head of the cluster", nodes[0])
        add_node("--address", address)
        yield address
    finally:
        for node in reversed(nodes):
            node.terminate()
        for node in nodes:
            node.wait(60)
        shutil.rmtree(temporary, ignore_errors=True)


@pytest.mark.long
def test_a_cluster_resumes_what_it_loses(cluster, toy):
    """Stopped once as a whole; then one trial loses the worker that supervises it, and another is killed itself."""
    options = ("--grid", "slope=3,4", "--executor", f"ray:{cluster}")
    trials = [folder(name="toy/waiting", slope=slope) for slope in (3.0, 4.0)]
    process = start_waiting(*options)
    until(lambda: all(map(waits, trials)), "both trials", process)
    pids = [int((trial / "pid").read_text()) for trial in trials]
    process.terminate()
    assert process.wait(120) == 143
    assert all(map(gone, pids))
    assert not any((trial / "error.txt").exists() for trial in trials)

    for trial in trials:
        (trial / "computed.txt").write_text("0 ")
        (trial / "pid").unlink()
    process = start_waiting(*options)
    until(lambda: all(map(waits, trials)), "both trials", process)
    supervisor = int((trials[0] / "log.txt").read_text().rpartition("by process ")[2].partition("\n")[0])
    os.kill(supervisor, signal.SIGKILL)
    os.kill(int((trials[1] / "pid").read_text()), signal.SIGKILL)
    until(lambda: all((trial / "computed.txt").read_text() == "0 1 1 " for trial in trials), "both to go on", process)
    toy.touch()
    assert process.wait(120) == 0
    for trial, slope in zip(trials, (3.0, 4.0), strict=True):
        assert (trial / "computed.txt").read_text() == "0 1 1 2 "
        assert json.loads((trial / "results.json").read_text()) == undisturbed(Path(f"whole-{slope}"), slope=slope)
        assert not (trial / "error.txt").exists()

    toy.unlink()
    options = f"--grid slope=0.5,2 --halving 2 --first-rung 10 --workers 1 --executor ray:{cluster}"
    command = [*EXPERIMENTS, *f"sweep toy/learning smoke --workspace l {options}".split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=True)
    assert "1 of 2 trials are finished, 1 were stopped early" in done.stdout
    slow = folder("l", "toy/learning", slope=2.0)
    assert json.loads((slow / "stopped.json").read_text()) == {"updates": 10, "loss": 2.0}
    assert not (slow / "error.txt").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:6379", "6379", "host:port", "ray://127.0.0.1:1"])
def test_cluster_that_does_not_answer_is_named_in_time(cli, address):
    pytest.importorskip("ray")
    start = time.monotonic()
    code, out, err = cli(*SWEEP, "--grid", "slope=1", "--executor", f"ray:{address}")
    assert time.monotonic() - start < 10
    assert (code, out) == (2, "")
    assert f"executor = 'ray:{address}' is not possible" in err
    assert not Path("s").exists()
