"""What a finished run leaves: environment, results, claims and figure; and the copy of it that is committed."""

import dataclasses
import io
import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any

import experiments
from experiments.harness.workspace import Workspace, plain, read_json, write_atomically, write_json
from lexinv.training.metrics import SPEED_FILE, read_speed
from lexinv.validation import require

REPOSITORY = Path(experiments.__file__).parents[1]
RECORDS = Path(experiments.__file__).parent / "records"
FILES = ("config.json", "environment.json", "results.json", "claims.json", "figure.png")
ENVIRONMENT = frozenset(
    (
        "git_commit",
        "git_dirty",
        "seeds",
        "wall_clock_seconds",
        "packages",
        "device_kind",
        "device_count",
        "corpora",
        "started",
    )
)
LARGEST_PNG = 300_000
# Git sets them for what it starts, such as hooks; there they say which checkout it means.
OF_ANOTHER_CHECKOUT = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX")
# What `run --record` and `report` write does not make the tree dirty.
OUTPUTS = ("experiments/records", "docs/papers", "README.md")


@dataclasses.dataclass(frozen=True)
class Record:
    """A committed record as read from its folder `experiments/records/<family>/<name>/<preset>`."""

    folder: Path
    experiment: str
    preset: str
    config: dict[str, Any]
    environment: dict[str, Any]
    results: dict[str, Any]
    claims: list[dict[str, Any]]


def git_state() -> tuple[str | None, bool]:
    """The commit of the code and whether tracked or new files differ from it; (None, True) outside a git checkout of its own.

    Installed somewhere below another project's checkout, the code is of no commit: that one says nothing about it.
    """
    variables = {name: value for name, value in os.environ.items() if name not in OF_ANOTHER_CHECKOUT}

    def git(*arguments: str) -> str:
        command = ("git", *arguments)
        return subprocess.run(
            command, cwd=REPOSITORY, env=variables, check=True, capture_output=True, text=True
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != REPOSITORY.resolve():
            return None, True
        commit = git("rev-parse", "HEAD")
        return commit, bool(git("status", "--porcelain", "--", ".", *(f":(exclude){path}" for path in OUTPUTS)))
    except (OSError, subprocess.CalledProcessError):
        return None, True


def describe_session() -> dict[str, Any]:
    """Where and with what code this start of a run happens."""
    import jax

    commit, dirty = git_state()
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": commit,
        "git_dirty": dirty,
        "device_kind": jax.devices()[0].device_kind,
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": processor(),
        "cpu_count": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def attention_kernels(config: Any, name: str = "") -> dict[str, str]:
    """The implementation of attention of every Transformer in a configuration, by its dotted name: what `auto` takes on this device.

    That is for calls on one device, with as many tokens as the model has positions, and without a mask.
    """
    from lexinv.nn.attention import device_here, implementation_on
    from lexinv.nn.transformer import TransformerConfig

    if isinstance(config, TransformerConfig):
        bias = "pairs" if config.positions == "relative" else "none"
        sizes = config.dtype, config.head_dim, config.max_length, config.causal
        auto = config.attention == "auto"
        return {
            name: implementation_on(device_here(), *sizes, bias, window=config.window > 0) if auto else config.attention
        }
    parts = vars(config) if dataclasses.is_dataclass(config) else {}
    if isinstance(config, tuple):
        parts = {str(number): part for number, part in enumerate(config)}
    found = [attention_kernels(part, f"{name}.{field}".strip(".")) for field, part in parts.items()]
    return {model: kernel for kernels in found for model, kernel in kernels.items()}


def processor() -> str:
    """The model name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def imported_packages() -> dict[str, str]:
    """The version of every distribution that this process has imported."""
    distributions = packages_distributions()
    names = {
        name for module in {key.partition(".")[0] for key in sys.modules} for name in distributions.get(module, ())
    }
    return {name: version(name) for name in sorted(names, key=str.lower)}


def finish(workspace: Workspace, module: ModuleType, results: dict[str, Any]) -> list[dict[str, Any]]:
    """Judge and draw finished results and write the environment; returns the claims."""
    sessions = workspace.sessions()
    packages = {name: number for session in sessions for name, number in session.get("packages", {}).items()}
    models = {file.stem: read_json(file, dict) for file in sorted((workspace.path / "models").glob("*.json"))}
    elsewhere = sum(model["seconds_elsewhere"] for model in models.values())
    last = {key: value for key, value in sessions[-1].items() if key != "packages"}
    environment = last | {
        "git_dirty": any(session["git_dirty"] for session in sessions),
        "wall_clock_seconds": round(sum(session["wall_clock_seconds"] for session in sessions) + elsewhere, 1),
        "seeds": results.get("seeds", []),
        "corpora": results.get("corpora", {}),
        "packages": packages,
        "speed": training_speed(workspace.path),
        "models": models,
        "folded": [read_json(file, dict) for file in sorted((workspace.path / "folded").glob("*.json"))],
        "assets": {file.stem: read_json(file, dict) for file in sorted((workspace.path / "assets").glob("*.json"))},
    }
    for field in ("git_commit", "device_kind", "cpu"):  # a run may be resumed elsewhere
        if len(values := list(dict.fromkeys(session[field] for session in sessions))) > 1:
            environment[f"{field}s"] = values
    write_json(workspace.path / "environment.json", environment)
    return judge_and_draw(workspace.path, module, results, pdf=True)


def training_speed(folder: Path) -> dict[str, dict[str, float | None]]:
    """What `lexinv.training.fit` measured in the run: tokens per second and utilisation by the folder that a model was trained in."""
    speeds = {file.parent.relative_to(folder).as_posix(): read_speed(file) for file in sorted(folder.rglob(SPEED_FILE))}
    return {name: speed for name, speed in speeds.items() if speed is not None}


def judge(module: ModuleType, results: dict[str, Any]) -> list[dict[str, Any]]:
    """The claims of an experiment on its results, as JSON."""
    judged = plain([claim.judged() for claim in module.claims(results)])
    names = [claim["name"] for claim in judged]
    require(len(set(names)) == len(names), "claims", names, "each name once")
    return judged


def draw(module: ModuleType, results: dict[str, Any], format: str) -> bytes:
    """The figure of an experiment on its results. The bytes depend on nothing else (no date, no version).

    A PNG above LARGEST_PNG is stored with the 256 colours that serve it best: a page of records must not take long to load.
    """
    from experiments.harness.style import styled

    buffer = io.BytesIO()
    with styled():
        metadata = {"Software": None} if format == "png" else {"CreationDate": None, "Producer": None, "Creator": None}
        module.figure(results).savefig(buffer, format=format, metadata=metadata)
    if format == "png" and buffer.tell() > LARGEST_PNG:
        from PIL import Image

        few = Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        buffer = io.BytesIO()
        few.save(buffer, "png", optimize=True)
    return buffer.getvalue()


def judge_and_draw(
    folder: Path, module: ModuleType, results: dict[str, Any], pdf: bool = False
) -> list[dict[str, Any]]:
    """Write claims.json and the figure beside results.json; returns the claims."""
    claims = judge(module, results)
    write_json(folder / "claims.json", claims)
    for format in ("png", "pdf") if pdf else ("png",):
        write_atomically(folder / f"figure.{format}", draw(module, results, format))
    return claims


def require_committed_code(workspace: Workspace) -> None:
    """Raise `InvalidConfig` unless a record of this run can be traced: the tree is clean now and was at every start of the run."""
    commit, dirty = git_state()
    require(commit is not None, "--record", True, f"only from a git checkout, which {REPOSITORY} is not")
    require(not dirty, "--record", True, "only with a clean tree: commit or remove what `git status` shows")
    for session in workspace.sessions():
        reason = f"the start of {session['started']} had uncommitted changes: remove {workspace.path} and start again"
        require(not session["git_dirty"], "--record", True, reason)


def commit_record(workspace: Workspace, experiment: str, preset: str) -> Path:
    """Copy the record of a finished run to its place among the committed ones; returns the folder."""
    target = RECORDS / experiment / preset
    target.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(workspace.path / name, target / name)
    return target


def read_records() -> list[Record]:
    """Every committed record, in the order of their names. Raises `InvalidConfig` naming a file that is missing or malformed."""
    return [read_record(file.parent) for file in sorted(RECORDS.glob("*/*/*/config.json"))]


def read_record(folder: Path) -> Record:
    """The record in a folder; the experiment and the preset are the folder's, and config.json has to agree."""

    experiment, preset = "/".join(folder.parts[-3:-1]), folder.name
    config = read_json(folder / "config.json", dict)
    held = (config.get("experiment"), config.get("preset"))
    require(held == (experiment, preset), "record", str(folder / "config.json"), f"{experiment} {preset}, not {held}")
    environment = read_json(folder / "environment.json", dict)
    missing = ENVIRONMENT - environment.keys()
    require(
        not missing, "record", str(folder / "environment.json"), f"an environment with {', '.join(sorted(missing))}"
    )
    results, claims = read_json(folder / "results.json", dict), read_json(folder / "claims.json", list)
    return Record(folder, experiment, preset, config, environment, results, claims)
