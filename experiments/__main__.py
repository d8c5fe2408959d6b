"""The command line: list, assets, run, sweep, plan, verify, report, cite."""

import dataclasses
import errno
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from experiments.harness.registry import discover, load, title, unreadable
from lexinv.folders import expanded
from lexinv.training.retention import CheckpointConfig
from lexinv.validation import InvalidConfig, choose, require

USAGE = """\
python -m experiments list                         every experiment and what it shows
python -m experiments assets [--fetch NAME ...]    published models and data that experiments stand on, with their licences
python -m experiments run NAME [PRESET] [options]  start, resume or show a run (--help after NAME lists its options)
python -m experiments sweep NAME [PRESET] --grid FIELD=V1,V2 ...  run every combination of values (--help after NAME lists the options)
python -m experiments plan NAME [PRESET] [options]  memory, traffic and speed of training on many devices, without them
python -m experiments verify NAME [PRESET] [options]  run a committed record again and compare every number with it
python -m experiments report                       judge and draw all records again; write the pages of papers and the README's table
python -m experiments cite NAME [PRESET]           BibTeX of the papers and of our record"""

HELP = ("-h", "--help")
PLANNED_DEVICES = 8
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EIO)
Config = TypeVar("Config")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code, with one message on stderr unless it is 0.

    0: done; 1: the run failed (its loss is not finite, the disk is full or read-only); 2: bad input; 130, 143: interrupted, and resumable
    unless it is a `verify`.
    """
    from rich.console import Console

    console, errors = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)
    command, *rest = (sys.argv[1:] if arguments is None else list(arguments)) or ["--help"]
    if command in HELP or (command in ("run", "sweep", "plan", "verify") and rest[:1] and rest[0] in HELP):
        console.print(USAGE, markup=False)
        return 0
    commands: dict[str, Callable[[list[str], Any], int]] = {
        "list": list_experiments,
        "assets": assets,
        "run": run,
        "sweep": sweep,
        "plan": plan,
        "verify": verify,
        "report": report,
        "cite": cite,
    }
    try:
        chosen_command = commands[choose("command", command, commands)]
        if command not in ("run", "sweep", "plan", "verify") and any(word in HELP for word in rest):
            (usage,) = [line for line in USAGE.splitlines() if line.startswith(f"python -m experiments {command} ")]
            console.print(usage, inspect.getdoc(chosen_command), sep="\n\n", markup=False)
            return 0
        return chosen_command(rest, console)
    except InvalidConfig as error:
        errors.print(f"error: {error}", markup=False)
        return 2
    except (FloatingPointError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in UNWRITABLE:
            raise
        advice = ["Make room there, or choose another folder."] if isinstance(error, OSError) else []
        notes = getattr(error, "__notes__", advice)
        errors.print(" ".join([f"{type(error).__name__}: {error}", *notes]), markup=False)
        return 1
    except KeyboardInterrupt:
        again = "begins anew" if command == "verify" else "resumes"
        errors.print(f"interrupted; the same command {again}", markup=False)
        return 130


def list_experiments(arguments: list[str], console: Any) -> int:
    """Print the name and the title of every experiment; imports none of them."""
    require(not arguments, "list", arguments, "no arguments")
    experiments = discover()
    width = max(map(len, experiments), default=0)
    for name, file in experiments.items():
        console.print(f"{name:{width}}  {title(file)}", markup=False)
    for name, error in unreadable().items():
        console.print(f"{name:{width}}  cannot be read: {error}", markup=False)
    return 0


def assets(arguments: list[str], console: Any) -> int:
    """Print every asset: whether it is in the user's cache, size, licence, what it is. --fetch NAME ... downloads some, or `all`."""
    from experiments.harness.assets import show

    return show(arguments, console)


@dataclasses.dataclass(frozen=True)
class Options(Generic[Config]):
    """How to run, beside what to run."""

    config: Config
    checkpoints: CheckpointConfig = CheckpointConfig()
    workspace: Path | None = None
    """Run folder; by default runs/NAME/PRESET-HASH here."""
    distributed: str | None = None
    """Run in several processes, each started with this command, that share the mesh training.mesh over all their devices. auto: they find
    each other (TPU pod slice, Slurm, Open MPI, Kubernetes). HOST:PORT,PROCESSES,PROCESS: how many there are and which one this is, from 0;
    that one listens on HOST:PORT. On several machines the workspace, and LEXINV_CACHE where models are shared, lie where all see them."""
    record: bool = False
    """Copy the finished record to experiments/records, to be committed. Wants a clean tree and no overrides."""


def run(arguments: list[str], console: Any) -> int:
    """Start or resume a run, then judge and draw it; a finished one is only judged and drawn."""
    from experiments.harness.distributed import wanted

    name, preset, module, rest = chosen(arguments, "run NAME [PRESET] [options]", wanted(arguments))
    options = parse_options(module.PRESETS[preset], rest, f"python -m experiments run {name} {preset}")

    from experiments.harness.config import config_hash
    from experiments.harness.record import commit_record, finish, require_committed_code
    from experiments.harness.report import claim_lines
    from experiments.harness.trial import run_in
    from experiments.harness.workspace import open_workspace, read_json
    from lexinv.training.processes import agree, first_process

    console.quiet = not first_process()
    identity = config_hash(options.config)
    path = expanded(options.workspace or Path("runs", name, f"{preset}-{identity[:8]}"), "--workspace")
    if options.record:
        require(
            identity == config_hash(module.PRESETS[preset]),
            "--record",
            True,
            f"only the preset {preset} itself, without overrides",
        )
    workspace = open_workspace(path, name, preset, options.config)
    workspace = dataclasses.replace(workspace, checkpoints=options.checkpoints)
    with workspace.locked():
        if options.record:
            agree(lambda: require_committed_code(workspace))
        complete = run_in(workspace, module, options.config, f"{name} {preset}", console)

        def finished() -> list[dict[str, Any]]:
            claims = finish(workspace, module, read_json(path / "results.json", dict))
            if options.record:
                console.print(f"recorded in {commit_record(workspace, name, preset)}", markup=False)
            return claims

        claims = agree(finished)
    for line in claim_lines(claims):
        console.print(f"  {line}", markup=False)
    state = "is complete; remove the folder to start again" if complete else "is done"
    console.print(f"{name} {preset} {state}: {path}", markup=False)
    return 0


def sweep(arguments: list[str], console: Any) -> int:
    """Run an experiment once for every combination of values; 0 if every trial is finished, 1 if some failed."""
    name, preset, module, rest = chosen(arguments, "sweep NAME [PRESET] --grid FIELD=V1,V2 ... [options]")

    from experiments.harness.sweeps import sweep as run_sweep

    return run_sweep(name, preset, module, rest, console)


def plan(arguments: list[str], console: Any) -> int:
    """Compile the step of an experiment's first training for fake devices and print what it takes."""
    positional(arguments, "plan NAME [PRESET] [options]")
    # Read when JAX starts, which importing an experiment may do; what is no number is refused with the other options.
    count = re.search(r"--devices[ =](\d+)", " ".join(arguments))
    fake = f"--xla_force_host_platform_device_count={count[1] if count else PLANNED_DEVICES}"
    os.environ |= {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {fake}", "JAX_PLATFORMS": "cpu"}
    name, preset, module, rest = chosen(arguments, "plan NAME [PRESET] [options]")

    from experiments.harness.plan import describe, make_plan, parse

    config, options = parse(module.PRESETS[preset], rest, f"python -m experiments plan {name} {preset}")
    for line in describe(make_plan(module, config, options), options):
        console.print(line, markup=False)
    return 0


@dataclasses.dataclass(frozen=True)
class VerifyOptions:
    """How to run a record's configuration again."""

    cached_models: bool = False
    """Take models that several experiments share from the user's cache where they are there, instead of training them anew."""


def verify(arguments: list[str], console: Any) -> int:
    """Run a record's configuration again, in a new folder; 0 if results, claims and verdicts are those of the record, 1 otherwise."""
    import tyro

    names = positional(arguments, "verify NAME [PRESET] [options]")
    program = f"python -m experiments verify {' '.join(names)}"
    options = tyro.cli(
        VerifyOptions, args=arguments[len(names) :], prog=program, config=(tyro.conf.FlagCreatePairsOff,)
    )

    from experiments.harness.config import config_hash, from_json
    from experiments.harness.record import finish, git_state
    from experiments.harness.report import number, preset_record
    from experiments.harness.shared_models import OWN_MODELS
    from experiments.harness.trial import prepare_process, run_in
    from experiments.harness.verify import (
        compare_claims,
        compare_results,
        describe,
        fresh_folder,
        repeats,
        same_environment,
    )
    from experiments.harness.workspace import open_workspace, read_json

    prepare_process()
    module = load(names[0])
    recorded = preset_record(*names, *[None][len(names) - 1 :])
    config = from_json(module.Config, recorded.config["config"], "the record's config", older=True)
    label = f"{recorded.experiment} {recorded.preset}"
    path = fresh_folder(Path("runs", recorded.experiment), f"verify-{recorded.preset}-{config_hash(config)[:8]}")
    workspace = open_workspace(path, recorded.experiment, recorded.preset, config)
    with workspace.locked():
        if not options.cached_models:
            workspace.folder(OWN_MODELS)
        run_in(workspace, module, config, f"{label} again", console)
        results = read_json(path / "results.json", dict)
        claims = finish(workspace, module, results)
    same = same_environment(recorded.environment, read_json(path / "environment.json", dict))
    compared = compare_results(recorded, results, same)
    commit, dirty = git_state()
    code = "uncommitted" if dirty or commit is None else commit[:8]
    where = "the same" if same else "another"
    console.print(f"code {code}, on {where} machine and versions as the record: {describe(compared)}", markup=False)
    comparisons = compare_claims(recorded.claims, claims)
    for row in comparisons:
        console.print(
            f"  {row.outcome:8}  {row.name}: recorded {number(row.recorded)}, now {number(row.found)}", markup=False
        )
    done = repeats(comparisons, compared)
    console.print(f"{label} {'repeats' if done else 'does not repeat'} its record", markup=False)
    return 0 if done else 1


def chosen(arguments: list[str], usage: str, distributed: str | None = None) -> tuple[str, str, Any, list[str]]:
    """The experiment, the preset, the module and the remaining arguments, with this process made ready for JAX (`prepare_process`)."""
    from experiments.harness.distributed import divides
    from experiments.harness.trial import prepare_process

    names = positional(arguments, usage)
    module = load(names[0])
    preset = choose("preset", names[1] if names[1:] else default_preset(module.PRESETS), module.PRESETS)
    allowed = f"only with an experiment that trains on a mesh, which {names[0]} does not: each process would compute all of it"
    require(distributed is None or divides(module.PRESETS[preset]), "--distributed", distributed, allowed)
    prepare_process(distributed)
    return names[0], preset, module, arguments[len(names) :]


def positional(arguments: list[str], usage: str) -> list[str]:
    """The leading arguments that are not options: one or two."""
    end = next((i for i, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    require(1 <= end <= 2, "arguments", " ".join(arguments), usage)
    return arguments[:end]


def default_preset(presets: dict[str, Any]) -> str:
    """What a bare `run NAME` starts: the preset that takes at most 15 minutes."""
    return "quick" if "quick" in presets else "cpu"


def parse_options(config: Any, arguments: list[str], program: str) -> Options:
    """The options with the preset's configuration overridden by dotted names; tyro exits with code 2 for what it cannot take."""
    import tyro

    kind = Options[Annotated[type(config), tyro.conf.arg(name="")]]
    return tyro.cli(
        kind, default=Options(config=config), args=arguments, prog=program, config=(tyro.conf.FlagCreatePairsOff,)
    )


def report(arguments: list[str], console: Any) -> int:
    """Judge and draw every committed record again and write the pages that show them."""
    from experiments.harness.report import write_report

    require(not arguments, "report", " ".join(arguments), "no arguments")
    for path in write_report():
        console.print(f"wrote {path}", markup=False)
    return 0


def cite(arguments: list[str], console: Any) -> int:
    """Print BibTeX for the paper and for our record of it."""
    from experiments.harness.report import citation

    names = positional(arguments, "cite NAME [PRESET]")
    require(len(names) == len(arguments), "arguments", " ".join(arguments), "cite NAME [PRESET]")
    console.print(citation(*names), markup=False)
    return 0


if __name__ == "__main__":
    from experiments.harness.distributed import ending_together

    with ending_together():
        sys.exit(main())
