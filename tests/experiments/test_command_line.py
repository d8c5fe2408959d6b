"""The command line, from outside: what a user types, and what is then said, written and left alone."""

import errno
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.__main__ import default_preset
from experiments.harness import record
from experiments.harness.config import config_hash
from experiments.harness.registry import load
from lexinv.validation import InvalidConfig

SMOKE = ("run", "toy/line", "smoke")


def only_run(name="toy/line", preset="cpu") -> Path:
    (folder,) = Path("runs", name).glob(f"{preset}-*")
    return folder


def test_list_imports_nothing_heavy():
    heavy = "jax numpy flax optax grain orbax tensorflow_datasets matplotlib scipy tokenizers tyro"
    program = f"import sys; from experiments.__main__ import main; main(['list']); print(set('{heavy}'.split()) & {{*sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "set()"


def test_run_leaves_a_record(cli):
    code, out, err = cli("run", "toy/line")
    folder = only_run()
    assert (code, err) == (0, "")
    assert "holds" in out and "slope_above_one" in out and str(folder) in out
    assert folder.name == f"cpu-{config_hash(load('toy/line').PRESETS['cpu'])[:8]}"
    assert {path.name for path in folder.iterdir()} >= {*record.FILES, "figure.pdf"}
    environment = json.loads((folder / "environment.json").read_text())
    assert environment.keys() >= record.ENVIRONMENT
    assert environment["seeds"] == [0, 1, 2] and environment["corpora"] == {"noise": "c0ffee"}
    assert environment["git_dirty"] is False and len(environment["git_commit"]) == 40
    assert environment["packages"]["numpy"].count(".") == 2 and environment["device_kind"] == "cpu"


def test_second_start_says_complete_and_computes_nothing(cli, times):
    cli("run", "toy/line")
    before = times(only_run())
    code, out, _ = cli("run", "toy/line", "cpu")
    assert code == 0 and "is complete" in out
    assert times(only_run()) == before


def test_failed_run_resumes_at_the_unfinished_stage(cli):
    code, _, err = cli(*SMOKE, "--fail-at", "1")
    folder = only_run(preset="smoke")
    identity = json.loads((folder / "config.json").read_text())["config_hash"]
    assert (code, err) == (1, f"FloatingPointError: loss nan at step 3 of config {identity}")
    assert not (folder / "results.json").exists()
    (folder / "mended").touch()
    code, out, _ = cli(*SMOKE, "--fail-at", "1")
    assert code == 0 and "resuming" in out
    assert (folder / "computed.txt").read_text() == "0 1 1 2 "
    sessions = json.loads((folder / "sessions.json").read_text())
    seconds = json.loads((folder / "environment.json").read_text())["wall_clock_seconds"]
    assert len(sessions) == 2 and all("numpy" in session["packages"] for session in sessions)
    assert seconds == pytest.approx(sum(session["wall_clock_seconds"] for session in sessions))
    cli(*SMOKE, "--workspace", "whole")
    for name in ("results.json", "claims.json", "figure.png", "figure.pdf"):
        assert (folder / name).read_bytes() == Path("whole", name).read_bytes(), name


@pytest.mark.parametrize("name", ["results.json", "sessions.json", "models/speed.json", "config.json"])
def test_a_file_that_was_cut_off_is_named_and_not_a_trace(cli, name):
    cli(*SMOKE, "--workspace", "x")
    file = Path("x", name)
    file.parent.mkdir(exist_ok=True)
    file.write_text('{"tokens_per_sec')
    code, _, err = cli(*SMOKE, "--workspace", "x")
    assert code == 2
    assert str(file) in err and "Traceback" not in err


def test_results_with_a_number_that_is_not_finite_are_kept(cli, monkeypatch):
    module = load("toy/line")
    compute = module.run
    monkeypatch.setattr(module, "run", lambda *of: {**compute(*of), "spread": float("inf")})
    with pytest.warns(UserWarning, match="results.spread is inf: kept as null"):
        assert cli(*SMOKE, "--workspace", "x")[0] == 0
    results = json.loads(Path("x/results.json").read_bytes())
    assert results["spread"] is None and len(results["slopes"]) == 3


def test_overrides_reach_the_run(cli):
    options = "--slope 0.5 --noise.scale 0 --seeds 4 5 --workspace x".split()
    assert cli(*SMOKE, *options)[0] == 0
    results = json.loads(Path("x/results.json").read_text())
    assert results["slopes"] == pytest.approx([0.5, 0.5]) and results["seeds"] == [4, 5]
    assert json.loads(Path("x/claims.json").read_text())[0]["verdict"] == "refuted"


def test_a_leading_tilde_is_the_home_of_the_user(cli, monkeypatch):
    home = Path("home").absolute()
    monkeypatch.setenv("HOME", str(home))
    assert cli(*SMOKE, "--workspace=~/x")[0] == 0
    assert (home / "x/claims.json").is_file() and not Path("~").exists()


@pytest.mark.parametrize(
    "words, shown",
    [
        *((words, "experiments list;experiments run;experiments report") for words in ("", "--help", "run --help")),
        ("list -h", "experiments list ;Print the name"),
        ("report --help", "experiments report ;Judge"),
        ("cite toy/line --help", "experiments cite ;Print BibTeX"),
        ("verify --help", "experiments verify NAME"),
        ("verify toy/line --help", "--cached-models"),
        ("run toy/line --help", "--workspace;--record;--slope;--noise.kind;--seeds"),
        ("sweep --help", "experiments sweep NAME"),
        ("sweep toy/line smoke --help", "--grid;--zip;--chain;--seeds;--executor;--metric"),
    ],
)
def test_help_says_what_there_is(cli, words, shown):
    code, out, err = cli(*words.split())
    assert (code, err) == (0, "")
    assert all(word in out for word in shown.split(";"))


def test_folder_of_another_configuration_is_left_as_it_was(cli, times):
    cli(*SMOKE, "--workspace", "x")
    before = times(Path("x"))
    code, _, err = cli("run", "toy/line", "cpu", "--workspace", "x")
    assert code == 2
    assert all(config_hash(load("toy/line").PRESETS[name]) in err for name in ("smoke", "cpu"))
    assert times(Path("x")) == before


@pytest.mark.parametrize(
    "error, code, message",
    [
        (KeyboardInterrupt(), 130, "the same command resumes"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device"),
        (OSError(errno.EROFS, "Read-only", "there"), 1, "Read-only: 'there' Make room there, or choose another folder"),
        (OSError(errno.EIO, "could not be read back", "there"), 1, "read back: 'there'"),
        (InvalidConfig("model.heads", 3, "a divisor of the width 128"), 2, "model.heads = 3.*divisor of the width 128"),
    ],
)
def test_what_stops_a_run_is_one_message(cli, monkeypatch, error, code, message):
    def run(config, workspace):
        raise error

    monkeypatch.setattr(load("toy/line"), "run", run)
    actual, _, err = cli(*SMOKE)
    assert actual == code
    assert re.search(message, err) and "Traceback" not in err


def test_unforeseen_errors_keep_their_traceback(cli, monkeypatch):
    monkeypatch.setattr(load("toy/line"), "run", lambda *_: Path("gone").read_text())
    with pytest.raises(FileNotFoundError):
        cli(*SMOKE)


def test_quick_is_the_default_where_there_is_one():
    assert default_preset({"smoke": 0, "cpu": 0, "quick": 0}) == "quick"
    assert default_preset({"smoke": 0, "cpu": 0}) == "cpu"


@pytest.mark.usefixtures("toy")
def test_sigterm_outside_training_leaves_a_resumable_folder():
    """In a process of its own: exit code 143, the clock written, the lock released."""
    process = subprocess.Popen([sys.executable, "-m", "experiments", "run", "toy/waiting", "smoke", "--workspace", "x"])
    deadline = time.monotonic() + 300  # on a busy machine
    computed = Path("x/computed.txt")
    while not (computed.exists() and computed.read_text() == "0 1 ") and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert sorted(path.name for path in Path("x/stages/slope").iterdir()) == ["seed-0.json"]
    assert len(json.loads(Path("x/sessions.json").read_text())) == 1
    with record.Workspace(Path("x"), "hash").locked():
        pass  # nobody holds it
