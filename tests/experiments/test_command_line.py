import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

import experiments
from experiments.__main__ import default_preset
from experiments.harness import record
from experiments.harness.config import config_hash
from experiments.harness.registry import load
from lexinv.training.retention import CheckpointConfig
from lexinv.validation import InvalidConfig

SOURCE = Path(record.__file__).parents[2]


def only_run(name="toy/line", preset="cpu") -> Path:
    (folder,) = Path("runs", name).glob(f"{preset}-*")
    return folder


def test_list_names_experiments_and_their_titles(cli):
    code, out, _ = cli("list")
    assert code == 0
    assert "toy/line" in out
    assert "A line through noisy points: the least-squares slope is the true one.\n" in out
    assert "helper" not in out
    assert "harness" not in out


def test_list_imports_nothing_heavy():
    heavy = "jax numpy flax optax grain orbax tensorflow_datasets matplotlib scipy tokenizers tyro".split()
    program = f"import sys; from experiments.__main__ import main; main(['list']); print({heavy} & sys.modules.keys())"
    program = program.replace(str(heavy), f"set({heavy})")
    done = subprocess.run([sys.executable, "-c", program], cwd=SOURCE, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_run_leaves_a_record(cli):
    code, out, err = cli("run", "toy/line")
    folder = only_run()
    assert (code, err) == (0, "")
    assert "holds" in out
    assert "slope_above_one" in out
    assert str(folder) in out
    assert folder.name == f"cpu-{config_hash(load('toy/line').PRESETS['cpu'])[:8]}"
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.json", "environment.json", "results.json", "claims.json", "figure.png", "figure.pdf"}
    environment = json.loads((folder / "environment.json").read_text())
    assert environment.keys() >= record.ENVIRONMENT
    assert environment["seeds"] == [0, 1, 2]
    assert environment["corpora"] == {"noise": "c0ffee"}
    assert environment["git_dirty"] is False
    assert len(environment["git_commit"]) == 40
    assert environment["packages"]["numpy"].count(".") == 2
    assert environment["device_kind"] == "cpu"


def test_second_start_says_complete_and_computes_nothing(cli):
    cli("run", "toy/line")
    before = {
        path: path.stat().st_mtime_ns for path in only_run().rglob("*") if path.is_file() and path.name != ".lock"
    }
    code, out, _ = cli("run", "toy/line", "cpu")
    assert code == 0
    assert "is complete" in out
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_failed_run_resumes_at_the_unfinished_stage(cli):
    code, _, err = cli("run", "toy/line", "smoke", "--fail-at", "1")
    folder = only_run(preset="smoke")
    assert code == 1
    assert (
        err
        == f"FloatingPointError: loss nan at step 3 of config {json.loads((folder / 'config.json').read_text())['config_hash']}"
    )
    assert not (folder / "results.json").exists()
    (folder / "mended").touch()
    code, out, _ = cli("run", "toy/line", "smoke", "--fail-at", "1")
    assert code == 0
    assert "resuming" in out
    assert (folder / "computed.txt").read_text() == "0 1 1 2 "
    sessions = json.loads((folder / "sessions.json").read_text())
    seconds = json.loads((folder / "environment.json").read_text())["wall_clock_seconds"]
    assert len(sessions) == 2
    assert all("numpy" in session["packages"] for session in sessions)
    assert seconds == pytest.approx(sum(session["wall_clock_seconds"] for session in sessions))


@pytest.mark.parametrize("name", ["results.json", "sessions.json", "models/speed.json", "config.json"])
def test_a_file_that_was_cut_off_is_named_and_not_a_trace(cli, name):
    cli("run", "toy/line", "smoke", "--workspace", "x")
    file = Path("x", name)
    file.parent.mkdir(exist_ok=True)
    file.write_text('{"tokens_per_sec')
    code, _, err = cli("run", "toy/line", "smoke", "--workspace", "x")
    assert code == 2
    assert str(file) in err and "Traceback" not in err


def test_results_with_a_number_that_is_not_finite_are_kept(cli, monkeypatch):
    module = load("toy/line")
    compute = module.run
    monkeypatch.setattr(module, "run", lambda *of: {**compute(*of), "spread": float("inf")})
    with pytest.warns(UserWarning, match="results.spread is inf: kept as null"):
        assert cli("run", "toy/line", "smoke", "--workspace", "x")[0] == 0
    results = json.loads(Path("x/results.json").read_bytes())
    assert results["spread"] is None and len(results["slopes"]) == 3


def test_resumed_equals_undisturbed(cli):
    cli("run", "toy/line", "smoke", "--fail-at", "2", "--workspace", "broken")
    Path("broken/mended").touch()
    cli("run", "toy/line", "smoke", "--fail-at", "2", "--workspace", "broken")
    cli("run", "toy/line", "smoke", "--workspace", "whole")
    for name in ("results.json", "claims.json", "figure.png", "figure.pdf"):
        assert Path("broken", name).read_bytes() == Path("whole", name).read_bytes(), name


def test_overrides_reach_the_run(cli):
    code, _, _ = cli(
        "run", "toy/line", "smoke", "--slope", "0.5", "--noise.scale", "0", "--seeds", "4", "5", "--workspace", "x"
    )
    results = json.loads(Path("x/results.json").read_text())
    assert code == 0
    assert results["slopes"] == pytest.approx([0.5, 0.5])
    assert results["seeds"] == [4, 5]
    assert json.loads(Path("x/claims.json").read_text())[0]["verdict"] == "refuted"


def test_one_seed_cannot_tell(cli):
    _, out, _ = cli("run", "toy/line", "smoke", "--seeds", "0", "--workspace", "x")
    assert "  open     slope_above_one" in out
    assert json.loads(Path("x/claims.json").read_text())[0]["verdict"] == "open"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("bogus", "command = 'bogus'.*known: list, assets, run, sweep, plan, verify, report, cite"),
        ("lst", "did you mean 'list'"),
        ("list x", "no arguments"),
        ("report x", "no arguments"),
        ("run", r"run NAME \[PRESET\]"),
        ("run --record", r"run NAME \[PRESET\]"),
        ("run toy/line cpu more", r"run NAME \[PRESET\]"),
        ("run toy/lime", "did you mean 'toy/line'.*known: .*toy/line"),
        ("run toy/helper", "experiment = 'toy/helper'"),
        ("run ../toy/line", "experiment = '../toy/line'"),
        ("run toy.line", "experiment = 'toy.line'"),
        ("run toy/line smok", "preset = 'smok'.*did you mean 'smoke'.*known: smoke, cpu, paper"),
        ("run toy/line smoke --points many", "--points.*many"),
        ("run toy/line smoke --noise.kind normall", "normall.*--noise.kind.*normal.*uniform"),
        ("run toy/line smoke --noise.scal 1", "--noise.scal.*--noise.scale"),
        ("run toy/line smoke --seeds 1.5", "--seeds.*1.5"),
        ("run toy/line smoke --slope 1 --record", "only the preset smoke itself"),
        ("run toy/line smoke --noise.scale nan", "nan"),
        ("run toy/line smoke --distributed auto", "--distributed = 'auto'.*on a mesh, which toy/line does not"),
        ("run toy/line smoke --distributed=h:1,2,0", "--distributed = 'h:1,2,0'.*each process would compute all"),
        ("cite", r"cite NAME \[PRESET\]"),
        ("cite toy/line cpu --x", r"cite NAME \[PRESET\]"),
        ("cite toy/lin", "did you mean 'toy/line'"),
        ("cite toy/line cpu", "preset = 'cpu'"),
    ],
)
def test_bad_input_is_refused(cli, arguments, message):
    import re

    code, out, err = cli(*arguments.split())
    assert code == 2
    assert re.search(message, err)
    assert "Traceback" not in err
    assert out == ""
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "command",
    ["run toy/line smoke --workspace=", "sweep toy/line smoke --grid slope=1,2 --workspace=", "report --site "],
)
@pytest.mark.parametrize("place", ["/dev/null/x", "x" * 300, "dangling", "~nobody-of-this-name/x"])
def test_what_cannot_be_a_folder_is_refused(cli, command, place):
    Path("dangling").symlink_to("nowhere")
    code, out, err = cli(*f"{command}{place}".split())
    assert code == 2
    assert place in err and "is not possible" in err
    assert out == ""


@pytest.mark.parametrize("place", ["file", "/dev/null/x"])
def test_a_cache_that_cannot_be_a_folder_is_refused(cli, monkeypatch, place):
    Path("file").write_text("x")
    monkeypatch.setenv("LEXINV_CACHE", place)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    chosen = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    code, _, err = cli("run", "toy/line", "smoke")
    jax.config.update("jax_compilation_cache_dir", chosen)
    assert code == 2
    assert f"LEXINV_CACHE = '{place}' is not possible: a folder" in err


def test_a_leading_tilde_is_the_home_of_the_user(cli, monkeypatch):
    home = Path("home").absolute()
    monkeypatch.setenv("HOME", str(home))
    assert cli("run", "toy/line", "smoke", "--workspace=~/x")[0] == 0
    assert (home / "x/claims.json").is_file()
    assert not Path("~").exists()


@pytest.mark.parametrize("arguments", [[], ["--help"], ["run", "--help"]])
def test_help_names_the_commands(cli, arguments):
    code, out, _ = cli(*arguments)
    assert code == 0
    assert all(f"python -m experiments {command}" in out for command in ("list", "run", "report", "cite"))


@pytest.mark.parametrize("command", ["list", "report", "cite"])
@pytest.mark.parametrize("words", [["--help"], ["-h"], ["toy/line", "--help"]])
def test_help_of_a_command_says_what_it_does(cli, command, words):
    code, out, err = cli(command, *words)
    assert (code, err) == (0, "")
    usage, _, done = out.partition("\n\n")
    assert usage.startswith(f"python -m experiments {command} ")
    assert "\n" not in usage
    assert done.startswith({"list": "Print", "report": "Judge", "cite": "Print"}[command])


def test_help_of_verify_lists_its_options(cli):
    code, out, _ = cli("verify", "toy/line", "--help")
    assert code == 0
    assert "--cached-models" in out


def test_help_of_a_run_lists_every_field(cli):
    code, out, _ = cli("run", "toy/line", "--help")
    assert code == 0
    assert all(option in out for option in ("--workspace", "--record", "--slope", "--noise.kind", "--seeds"))


def test_folder_of_another_configuration_is_refused(cli):
    cli("run", "toy/line", "smoke", "--workspace", "x")
    before = {path: path.read_bytes() for path in Path("x").rglob("*") if path.is_file()}
    code, _, err = cli("run", "toy/line", "cpu", "--workspace", "x")
    presets = load("toy/line").PRESETS
    assert code == 2
    assert config_hash(presets["smoke"]) in err
    assert config_hash(presets["cpu"]) in err
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "the same command resumes"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device"),
        (OSError(errno.EROFS, "Read-only", "there"), 1, "Read-only: 'there' Make room there, or choose another folder"),
        (OSError(errno.EIO, "could not be read back", "there"), 1, "read back: 'there'"),
        (InvalidConfig("model.heads", 3, "a divisor of the width 128"), 2, "model.heads = 3.*divisor of the width 128"),
    ],
)
def test_what_stops_a_run_is_one_message(cli, monkeypatch, error, code, message):
    import re

    def run(config, workspace):
        raise error

    monkeypatch.setattr(load("toy/line"), "run", run)
    actual, _, err = cli("run", "toy/line", "smoke")
    assert actual == code
    assert re.search(message, err)
    assert "Traceback" not in err


def test_how_checkpoints_are_kept_is_asked_for_beside_the_configuration(cli, monkeypatch):
    module, asked = load("toy/line"), []
    compute = module.run
    monkeypatch.setattr(module, "run", lambda *of: asked.append(of[1].checkpoints) or compute(*of))
    wish = "--checkpoints.seconds 5 --checkpoints.keep 3 --checkpoints.keep-minutes 60".split()
    assert cli("run", "toy/line", *wish)[0] == 0
    assert asked == [CheckpointConfig(seconds=5.0, keep=3, keep_minutes=60.0)]
    assert only_run().name == f"cpu-{config_hash(module.PRESETS['cpu'])[:8]}"  # the same run as without
    code, _, err = cli("run", "toy/line", "--checkpoints.keep", "0")
    assert code == 2
    assert "checkpoints.keep = 0 is not possible: at least 1" in err


def test_unforeseen_errors_keep_their_traceback(cli, monkeypatch):
    def run(config, workspace):
        raise FileNotFoundError(errno.ENOENT, "gone")

    monkeypatch.setattr(load("toy/line"), "run", run)
    with pytest.raises(FileNotFoundError):
        cli("run", "toy/line", "smoke")


def test_quick_is_the_default_where_there_is_one():
    assert default_preset({"smoke": 0, "cpu": 0, "quick": 0}) == "quick"
    assert default_preset({"smoke": 0, "cpu": 0}) == "cpu"


def test_sigterm_outside_training_leaves_a_resumable_folder(repository):
    """In a process of its own: exit code 143, the clock written, the lock released."""
    source = (repository / "experiments/toy/line.py").read_text()
    sleeping = source.replace(
        "x = np.linspace", "__import__('time').sleep(60 if seed == 1 else 0)\n        x = np.linspace"
    )
    (repository / "experiments/toy/sleeping.py").write_text(sleeping)
    program = (
        "import sys, experiments; experiments.__path__.append(sys.argv.pop(1)); "
        "from experiments.__main__ import main; sys.exit(main())"
    )
    command = [
        sys.executable,
        "-c",
        program,
        str(repository / "experiments"),
        "run",
        "toy/sleeping",
        "smoke",
        "--workspace",
        "x",
    ]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(SOURCE)})
    deadline = time.monotonic() + 300  # on a busy machine
    while (
        not (Path("x/computed.txt").exists() and Path("x/computed.txt").read_text() == "0 1 ")
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert sorted(path.name for path in Path("x/stages/slope").iterdir()) == ["seed-0.json"]
    assert len(json.loads(Path("x/sessions.json").read_text())) == 1
    with record.Workspace(Path("x"), "hash").locked():
        assert experiments.__path__  # nobody holds it
