"""Recipes that run a sweep on other machines: a SkyPilot task for spot instances with TPUs or GPUs, an array of Slurm jobs.

A recipe holds the command that runs the same sweep, so what is finished is not repeated, and what is stopped goes on from its checkpoint.
"""

import dataclasses
import hashlib
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from experiments.harness import record
from experiments.harness.executors import SIGTERM_EXIT
from experiments.harness.workspace import write_atomically
from lexinv.validation import choose, require

Target = Literal["skypilot", "slurm"]

MOUNT = PurePosixPath("/bucket")
BUCKET = re.compile(
    r"(?P<root>(gs|s3)://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9])(?P<prefix>(/[A-Za-z0-9_=-][A-Za-z0-9_.=-]*)*)/?"
)

TPUS = {"v5e": ("tpu-v5litepod", "v2-alpha-tpuv5-lite"), "v6e": ("tpu-v6e", "v2-alpha-tpuv6e")}
"""SkyPilot's name, and Google's software version (cloud.google.com/tpu/docs/runtimes), without which SkyPilot takes that of v5p for v5e."""

CHIPS = (1, 4, 8)
"""Of one host. A trial is one process, so slices with several hosts are not for it; see `experiments.harness.distributed`."""
SLICE = re.compile(f"tpu-(?:{'|'.join(TPUS)})-(?P<chips>[0-9]+)")

GPUS = ("A10G", "A100", "A100-80GB", "B200", "H100", "H200", "L4", "L40S", "T4", "V100")
GPU_COUNTS = (1, 2, 4, 8)

WARNING_SECONDS = 120
"""How long before its time limit Slurm stops a trial; the checkpoint is written after the dispatch under way."""

MOST_JOBS = 1000
"""Of an array: Slurm's MaxArraySize is 1001 unless a cluster has another, and the numbers of its jobs lie below."""


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """What a trial computes on."""

    kind: Literal["tpu", "cuda"]
    """Also the extra of this package that installs JAX for it."""
    name: str
    count: int
    runtime: str | None = None

    @property
    def resources(self) -> dict[str, Any]:
        """As SkyPilot asks for it."""
        if self.runtime is None:
            return {"accelerators": f"{self.name}:{self.count}"}
        return {"accelerators": f"{self.name}-{self.count}", "accelerator_args": {"runtime_version": self.runtime}}


def accelerators() -> dict[str, Accelerator]:
    """Every accelerator that a recipe can ask for, by its name on the command line."""
    tpus = {
        f"tpu-{version}-{chips}": Accelerator("tpu", name, chips, runtime)
        for version, (name, runtime) in TPUS.items()
        for chips in CHIPS
    }
    return tpus | {f"{name}:{count}": Accelerator("cuda", name, count) for name in GPUS for count in GPU_COUNTS}


@dataclasses.dataclass(frozen=True)
class Launch:
    """A sweep to be run elsewhere. Raises `InvalidConfig` for what its target cannot do."""

    target: str
    experiment: str
    preset: str
    arguments: Sequence[str]
    """Of the command `sweep`, after the preset: which trials there are, without where."""
    folder: Path
    """Of the sweep; with a bucket, inside it."""
    trials: Sequence[str]
    """The configuration hash of each, in the order of their numbers."""
    whole: Sequence[str] = ()
    """Further arguments of a sweep that runs all trials and sums them up."""
    workers: int | None = None
    bucket: str | None = None
    accelerator: str | None = None

    def __post_init__(self) -> None:
        choose("--emit", self.target, get_args(Target))
        if self.accelerator is not None:
            tpu = SLICE.fullmatch(self.accelerator)
            require(
                tpu is None or int(tpu["chips"]) <= max(CHIPS),
                "--accelerator",
                self.accelerator,
                f"at most the {max(CHIPS)} chips of one host, since a trial is one process; "
                "for larger slices start `run NAME PRESET --distributed auto` on each of their hosts",
            )
            choose("--accelerator", self.accelerator, accelerators())
        if self.target == "slurm":
            allowed = (
                "skypilot alone: the nodes of a Slurm cluster see the same folders, of which --workspace names one"
            )
            require(self.bucket is None, "--bucket", self.bucket, allowed)
            tpu = self.device is not None and self.device.kind == "tpu"
            require(not tpu, "--accelerator", self.accelerator, "a GPU with slurm")
            return
        require(
            self.bucket is not None and BUCKET.fullmatch(self.bucket) is not None,
            "--bucket",
            self.bucket,
            "gs://BUCKET[/FOLDER] or s3://BUCKET[/FOLDER], where a stopped sweep finds its checkpoints",
        )
        inside = not self.folder.is_absolute() and ".." not in self.folder.parts
        require(inside, "--workspace", str(self.folder), "a relative path with skypilot: a folder inside the bucket")
        one = self.accelerator is None or self.workers in (None, 1)
        require(one, "--workers", self.workers, "1 with an accelerator, which one process takes whole")

    @property
    def device(self) -> Accelerator | None:
        return None if self.accelerator is None else accelerators()[self.accelerator]

    @property
    def name(self) -> str:
        return f"{self.experiment.replace('/', '-')}-{self.preset}"

    def command(self, python: str, folder: str) -> str:
        """The sweep as a shell takes it, on the machine where its folder has this name."""
        words = [python, "-m", "experiments", "sweep", self.experiment, self.preset, *self.arguments]
        return shlex.join([*words, f"--workspace={folder}"])


def skypilot(launch: Launch) -> str:
    """A SkyPilot task, as YAML: the whole sweep on one spot instance, or with the variable TRIAL that trial alone."""
    place = BUCKET.fullmatch(launch.bucket or "")
    assert place is not None  # checked by Launch
    folder = MOUNT / place["prefix"].strip("/") / launch.folder
    extra = f"[{launch.device.kind}]" if launch.device else ""
    task = {
        "name": launch.name,
        "workdir": source(),
        "resources": {
            **(launch.device.resources if launch.device else {}),
            "use_spot": True,
            "job_recovery": {"recover_on_exit_codes": [SIGTERM_EXIT]},
        },
        "envs": {"TRIAL": ""},
        # Files in it can be appended to and folders renamed, as runs and checkpoints need; the other modes of mounting cannot for S3.
        "file_mounts": {str(MOUNT): {"source": place["root"], "mode": "MOUNT_CACHED"}},
        "setup": "set -e\n"
        'export PATH="$HOME/.local/bin:$PATH"  # where SkyPilot has uv\n'
        f"[ -d ~/lexinv ] || uv venv --python {sys.version_info.major}.{sys.version_info.minor} ~/lexinv\n"
        "source ~/lexinv/bin/activate\n"
        f'uv pip install -e ".{extra}" -c constraints.txt\n',
        "run": "source ~/lexinv/bin/activate\n"
        f"set -- {shlex.join(launch.whole)}\n"
        '[ -z "$TRIAL" ] || set -- --trial="$TRIAL"\n'
        f'{launch.command("python", str(folder))} "$@"\n',
    }
    last = len(launch.trials) - 1
    return (
        f"# {len(launch.trials)} trials, one after another on one instance: sky jobs launch THIS_FILE\n"
        "# An instance for each trial:\n"
        f"#   for i in $(seq 0 {last}); do sky jobs launch --yes --detach-run --env TRIAL=$i THIS_FILE; done\n"
    ) + as_yaml(task)


def as_yaml(value: Any) -> str:
    """YAML with scripts as blocks of lines."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: Any, value: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, width=1000)


def source() -> str | dict[str, str]:
    """Where SkyPilot gets the code: the commit at hand, if its remote repository has it, otherwise this working tree as it is."""

    def git(*arguments: str) -> str:
        done = subprocess.run(("git", *arguments), cwd=record.REPOSITORY, capture_output=True, text=True)
        return done.stdout.strip()

    commit, dirty = record.git_state()
    require(commit is not None, "--emit", "skypilot", f"only from a git checkout, which {record.REPOSITORY} is not")
    url = git("remote", "get-url", "origin")
    if commit is None or dirty or not url or not git("branch", "--remotes", "--contains", commit):
        return str(record.REPOSITORY)
    return {"url": url, "ref": commit}


def slurm(launch: Launch) -> str:
    """An array of Slurm jobs, as a shell script, for the Python and the working tree at hand.

    A job runs the trial of its number. Of more than `MOST_JOBS` trials it runs every `MOST_JOBS`-th from there on, one after another, and
    ends with 0 if all of them do.
    """
    jobs = min(len(launch.trials), MOST_JOBS)
    running = f"%{launch.workers}" if launch.workers else ""
    device = launch.device
    return "\n".join(
        [
            "#!/bin/bash",
            "# Options of sbatch go before those here: sbatch --partition=P --time=H:MM:SS --cpus-per-task=N THIS_FILE",
            f"#SBATCH --job-name={launch.name}",
            f"#SBATCH --array=0-{jobs - 1}{running}",
            "#SBATCH --ntasks=1",
            *([f"#SBATCH --gres=gpu:{device.name.lower()}:{device.count}"] if device else []),
            "#SBATCH --requeue",
            "#SBATCH --open-mode=append",
            "# To srun's process, not to this shell, which has to see how it ends.",
            f"#SBATCH --signal=TERM@{WARNING_SECONDS}",
            "",
            f"cd -- {shlex.quote(str(record.REPOSITORY))} || exit",
            '[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"  # not handed on by itself',
            "failed=0",
            f"for ((trial = SLURM_ARRAY_TASK_ID; trial < {len(launch.trials)}; trial += {jobs})); do",
            f'    srun {launch.command(sys.executable, str(launch.folder.absolute()))} --trial="$trial"',
            "    code=$?",
            f"    if [ $code -eq {SIGTERM_EXIT} ]; then  # stopped with a checkpoint, from which the next start goes on",
            '        scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"',
            "        exit $code",
            "    fi",
            "    [ $code -eq 0 ] || failed=$code",
            "done",
            "exit $failed",
            "",
        ]
    )


def emit(launch: Launch) -> tuple[Path, str]:
    """Write the recipe to experiments/launch; returns the file and the command that starts it."""
    write, ending, start = {"skypilot": (skypilot, "yaml", "sky jobs launch"), "slurm": (slurm, "sbatch", "sbatch")}[
        launch.target
    ]
    identity = hashlib.sha256(" ".join(launch.trials).encode()).hexdigest()[:8]
    path = record.REPOSITORY / "experiments/launch" / f"{launch.name}-{identity}.{ending}"
    write_atomically(path, write(launch).encode())
    return path, f"{start} {shlex.quote(str(path))}"
