"""An experiment inside a notebook: the same run folder, claims and figure as on the command line, and what machine it runs on."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from experiments.harness.registry import load
from lexinv.training.mesh import MeshConfig
from lexinv.validation import choose

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "lexinv")


class Runtime(NamedTuple):
    """kind: "tpu", "gpu" or "cpu". mesh: data-parallel over all its devices, for `training.mesh` of an experiment."""

    kind: str
    devices: int
    mesh: MeshConfig
    versions: dict[str, str]


def prepare() -> Runtime:
    """Make this process ready as the command line does, before JAX starts, and look at the machine."""
    import jax

    from experiments.harness.trial import make_ready

    make_ready()
    count = jax.device_count()
    return Runtime(jax.default_backend(), count, MeshConfig(data=count), {name: version(name) for name in LIBRARIES})


class Reproduction(NamedTuple):
    """results, and what the experiment makes of them. folder: where `python -m experiments run` finds them too."""

    results: dict[str, Any]
    claims: list[str]
    figure: Figure
    folder: Path


def reproduce(name: str, preset: str, change: Callable[[Any], Any] = lambda config: config) -> Reproduction:
    """Run an experiment, or read it where it has run before. change: the configuration to run instead of the preset's.

    Raises `InvalidConfig` for an unknown experiment or preset.
    """
    from rich.console import Console

    from experiments.harness.config import config_hash
    from experiments.harness.record import finish
    from experiments.harness.report import claim_lines
    from experiments.harness.style import styled
    from experiments.harness.trial import run_in
    from experiments.harness.workspace import open_workspace, read_json

    module: ModuleType = load(name)
    config = change(module.PRESETS[choose("preset", preset, module.PRESETS)])
    folder = Path("runs", name, f"{preset}-{config_hash(config)[:8]}")
    workspace = open_workspace(folder, name, preset, config)
    with workspace.locked():
        run_in(workspace, module, config, f"{name} {preset}", Console(soft_wrap=True))
        results = read_json(folder / "results.json", dict)
        claims = finish(workspace, module, results)
    with styled():
        return Reproduction(results, claim_lines(claims), module.figure(results), folder)
