"""Models that several experiments use: trained once, kept in the user's cache, found again by all that decides their parameters.

What a record says of them lies in the run folder, in models/IDENTITY.json: where and with what code they were trained, and for how long.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

import lexinv
from experiments.harness.record import describe_session, training_speed
from experiments.harness.workspace import Workspace, read_json, write_json
from lexinv.data.cache import cache_directory
from lexinv.folders import locked
from lexinv.training.metrics import SPEED_FILE
from lexinv.training.processes import agree, first_process, in_any_process
from lexinv.validation import require

OWN_MODELS = "own_models"
"""A run folder that has a folder of this name keeps models there and takes none from the user's cache: they are trained anew."""

PACKAGES = ("jax", "jaxlib", "flax", "optax", "grain", "numpy")
SETTINGS = (
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_enable_x64",
    "jax_threefry_partitionable",
)
"""Of JAX, which decide numbers."""


@dataclass(frozen=True)
class SharedModels:
    """Parameters, a tree for each seed, with what a record says of them."""

    params: list[Any]
    identity: str
    """Hash of all that decides the parameters."""
    seconds_elsewhere: float
    """What was spent on training them before this run asked for them; it belongs to the cost of every record that rests on them."""


def shared_models(
    content: Mapping[str, Any],
    train: Callable[[Workspace], list[Any]],
    workspace: Workspace,
    sources: Sequence[ModuleType] = (),
) -> SharedModels:
    """What `train` gives in a folder of the user's cache, where every experiment finds what another one has trained.

    content: JSON that decides the parameters: data, model, training. It is hashed together with the code that trains, the libraries and
    the kind of device, so that models of other code or of another device are never found. That code is `training_code`, the file that
    defines the function `train`, and `sources`: modules beside that which decide data or loss.

    `train` resumes in the workspace it is given and returns at once when all is done. Of several runs at a time one trains and the others
    wait. The speed of their training is copied to the run, and models/IDENTITY.json in its folder says where it happened:
    {"seconds": of training in all, "seconds_elsewhere": as in `SharedModels`, "trained": its starts as in sessions.json}.
    """
    files = [inspect.getsourcefile(part) for part in (train, *sources)]
    parts = {"content": content, "code": training_code(*filter(None, files)), "machine": machine()}
    identity = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    own = workspace.path / OWN_MODELS
    kept = own if agree(own.is_dir) else cache_directory() / "models"
    shared = replace(workspace, path=kept / identity, config_hash=identity)
    note = workspace.folder("models") / f"{identity}.json"

    def elsewhere() -> float:
        if note.is_file():  # of an earlier start of this run, which may have trained them
            return read_json(note, dict)["seconds_elsewhere"]
        spent = sum(session["wall_clock_seconds"] for session in shared.sessions())
        write_json(note, {"seconds_elsewhere": spent})
        return spent

    def seconds() -> float:
        with shared.session(describe_session()):
            train(shared)
        return agree(lambda: sum(session["wall_clock_seconds"] for session in shared.sessions()))

    before = agree(elsewhere)  # and not after waiting for the lock, since the run's own clock holds that time
    held = shared.folder("lock") / "training"
    with locked(held, "LEXINV_CACHE") if first_process() else nullcontext():
        everywhere = not in_any_process(not held.exists())
        require(everywhere, "LEXINV_CACHE", str(kept.parent), "a folder that all processes of the run share")
        spent = shared.cached("seconds", seconds)
        trained = agree(shared.sessions)
        write_json(note, {"seconds": spent, "seconds_elsewhere": before, "trained": trained})
        for name, speed in training_speed(shared.path).items() if kept != own else ():
            write_json(workspace.folder(f"models/{identity}/{name}") / SPEED_FILE, speed)
        return SharedModels(train(shared), identity, before)


def training_code(*files: str) -> str:
    """Digest of the sources that decide what training gives: those of the library and the harness, and of these files."""
    root = Path(lexinv.__file__).parent
    library = [file for part in ("data", "nn", "training") for file in sorted((root / part).glob("*.py"))]
    harness = [Path(__file__).with_name(f"{name}.py") for name in ("training", "work")]
    sources = (file.read_bytes() for file in (*library, *harness, *map(Path, files)))
    return hashlib.sha256(b"".join(hashlib.sha256(source).digest() for source in sources)).hexdigest()


def machine() -> dict[str, Any]:
    """What else decides it: the kind of device, versions of libraries, settings of JAX."""
    settings = {name: str(getattr(jax.config, name)) for name in SETTINGS}
    return {
        "device": jax.devices()[0].device_kind,
        "versions": {name: version(name) for name in PACKAGES},
        "settings": settings,
    }
