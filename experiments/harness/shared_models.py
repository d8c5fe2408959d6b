"""Models that several experiments use: trained once, kept in the user's cache, found again by all that decides their parameters."""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lexinv
from experiments.harness.record import describe_session, training_speed
from experiments.harness.workspace import Workspace, write_json
from lexinv.data.cache import cache_directory
from lexinv.folders import locked
from lexinv.training.metrics import SPEED_FILE
from lexinv.training.processes import agree, first_process, in_any_process
from lexinv.validation import require


@dataclass(frozen=True)
class SharedModels:
    """Parameters, a tree for each seed, with what a record says of them."""

    params: list[Any]
    identity: str
    """Hash of all that decides the parameters."""
    seconds_elsewhere: float
    """What training them took, where an earlier run did it; it belongs to the cost of every record that rests on them."""

    @property
    def origin(self) -> dict[str, Any]:
        """For the results of an arm; the harness adds the seconds to the run's wall clock."""
        return {"models": self.identity, "seconds_elsewhere": self.seconds_elsewhere}


def shared_models(
    content: Mapping[str, Any], train: Callable[[Workspace], list[Any]], workspace: Workspace
) -> SharedModels:
    """What `train` gives in a folder of the user's cache, where every experiment finds what another one has trained.

    content: JSON that decides the parameters: data, model, training. It is hashed together with the code that trains, so that models of
    other code are never found. `train` resumes in the workspace it is given and returns at once when all is done. Of several runs at
    a time one trains and the others wait. The speed of their training is copied to the run.
    """
    hashed = json.dumps({**content, "code": training_code()}, sort_keys=True)
    identity = hashlib.sha256(hashed.encode()).hexdigest()[:16]
    shared = replace(workspace, path=cache_directory() / "models" / identity, config_hash=identity)

    def seconds() -> float:
        with shared.session(describe_session()):
            train(shared)
        return agree(lambda: sum(session["wall_clock_seconds"] for session in shared.sessions()))

    held = shared.folder("lock") / "training"
    with locked(held, "LEXINV_CACHE") if first_process() else nullcontext():
        found = agree((shared.path / "stages/seconds.json").is_file)
        everywhere = not in_any_process(not held.exists())
        require(everywhere, "LEXINV_CACHE", str(cache_directory()), "a folder that all processes of the run share")
        spent = shared.cached("seconds", seconds)
        for name, speed in training_speed(shared.path).items():
            write_json(workspace.folder(f"models/{identity}/{name}") / SPEED_FILE, speed)
        return SharedModels(train(shared), identity, spent if found else 0.0)


def training_code() -> str:
    """Digest of the sources and the libraries that decide what training gives."""
    root = Path(lexinv.__file__).parent
    files = [file for part in ("data", "nn", "training") for file in sorted((root / part).glob("*.py"))]
    harness = [Path(__file__).with_name(f"{name}.py") for name in ("training", "work")]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in (*files, *harness)))
    digest.update(" ".join(version(name) for name in ("jax", "flax", "optax", "grain")).encode())
    return digest.hexdigest()
