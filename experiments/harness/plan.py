"""What training on many devices would take, without them: the step compiled ahead of time for as many fake ones."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Generic, NoReturn, TypeVar

import tyro

from experiments.harness.programs import Device, of_device
from experiments.harness.workspace import Workspace
from lexinv.nn.flops import PEAK_FLOPS
from lexinv.training.mesh import MeshConfig
from lexinv.validation import Checked, Count, InvalidConfig, choose, require

if TYPE_CHECKING:
    from experiments.harness.work import Work

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)
class PlanOptions(Checked):
    """What the configuration does not say of its machine."""

    devices: Count = 8
    """Fake devices to compile for; they share the rows of each batch unless training.mesh says otherwise."""
    device_kind: str = "TPU v5e"
    """Whose peak the expected speed is a share of."""
    utilisation: float = 0.4
    """That share."""

    def checks(self):
        yield 0 < self.utilisation <= 1, "utilisation", "above 0, at most 1"
        choose("device_kind", self.device_kind, PEAK_FLOPS)


@dataclasses.dataclass(frozen=True)
class Arguments(Generic[Config]):
    """What to plan, and for what."""

    config: Config
    options: Annotated[PlanOptions, tyro.conf.arg(name="")] = PlanOptions()


def parse(config: Any, arguments: Sequence[str], program: str) -> tuple[Any, PlanOptions]:
    """The configuration with overrides by dotted names, and the options; tyro exits with code 2 for what it cannot take."""
    kind = Arguments[Annotated[type(config), tyro.conf.arg(name="")]]
    flags = (tyro.conf.FlagCreatePairsOff,)
    found = tyro.cli(kind, default=Arguments(config), args=arguments, prog=program, config=flags)
    return found.config, found.options


@dataclasses.dataclass(frozen=True)
class Plan:
    """One step of one member, as compiled for the CPU.

    flops: of all devices, by `lexinv.nn.flops`, 0 where nobody has counted them. Those of `device` are with the optimiser's, with what is
    recomputed, and with what several devices all do.
    """

    name: str
    mesh: MeshConfig
    parameters: int
    flops: float
    device: Device


class Found(BaseException):
    """Ends a run at its first training. No error: what catches errors lets it pass."""

    def __init__(self, work: "Work"):
        self.work = work


def make_plan(module: ModuleType, config: Any, options: PlanOptions) -> Plan:
    """Run the experiment up to its first training, compile the step of that for the mesh, and read what the compiler knows.

    Needs so many devices, real or fake, and computes and loads what the experiment does before it trains. Raises `InvalidConfig` for one
    that trains nothing.
    """

    def stop(work: "Work") -> NoReturn:
        raise Found(work)

    from experiments.harness.shared_models import OWN_MODELS

    require(_trains(module, set()), "experiment", module.__name__, "one that trains models")
    with TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder), "plan", progress=False, postpone=stop)
        workspace.folder(OWN_MODELS)  # also where the user's cache has them
        try:
            module.run(config, workspace)
        except Found as found:
            return plan_of(found.work, options)
    raise InvalidConfig("experiment", module.__name__, "one that trains models")


def _trains(module: ModuleType, seen: set[str]) -> bool:
    """Whether the module, or one of an experiment or a subject that it takes something from, has a way to train."""
    from experiments.harness import arms, training, work

    seen.add(module.__name__)
    values = list(vars(module).values())
    if any(value is way for value in values for way in (arms.train_arms, training.train, work.Work)):
        return True
    names = {str(getattr(value, "__module__", None) or getattr(value, "__name__", "")) for value in values}
    ours = {name for name in names if name.startswith("experiments.") and not name.startswith("experiments.harness")}
    return any(_trains(sys.modules[name], seen) for name in sorted(ours - seen) if name in sys.modules)


def plan_of(work: "Work", options: PlanOptions) -> Plan:
    """The plan of one member's step: data-parallel where the training names no mesh, on one device where batches are drawn in it."""
    import jax

    from lexinv.training.state import parameter_count

    state, batch = work.one
    mesh = work.mesh
    if mesh == MeshConfig() and not work.drawn:
        mesh = MeshConfig(data=options.devices)
        parts = f"a divisor of the {work.batch_size} rows of a batch"
        require(work.batch_size % options.devices == 0, "--devices", options.devices, parts)
    fits = mesh.devices == (1 if work.drawn else options.devices)
    require(fits, "--devices", options.devices, f"those of training.mesh, {mesh.devices}")
    step: Any = work.step("none")
    once = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), batch)
    device = of_device(step, state, once, mesh)
    flops = work.flops_per_token * work.tokens * work.batch_size
    return Plan(work.name, mesh, parameter_count(state.params), flops, device)


def describe(plan: Plan, options: PlanOptions) -> list[str]:
    """The plan in lines for the terminal."""
    traffic = ", ".join(f"{kind} {size / 2**20:,.1f} MiB" for kind, size in plan.device.collectives.items()) or "none"
    counted = f"{plan.flops:.3g} FLOPs" if plan.flops else "FLOPs not counted"
    speed = options.utilisation * PEAK_FLOPS[options.device_kind] / max(plan.device.matrix_flops, 1.0)
    return [
        f"{plan.name}: mesh data {plan.mesh.data}, fsdp {plan.mesh.fsdp}, model {plan.mesh.model}: {plan.mesh.devices} devices",
        f"parameters {plan.parameters:,}",
        f"each device: state and batch {plan.device.argument_bytes / 2**20:,.1f} MiB,"
        f" temporary {plan.device.temporary_bytes / 2**20:,.1f} MiB (as compiled for the CPU)",
        f"a step: {counted}; matrix products of a device: {plan.device.matrix_flops:.3g}",
        f"collectives of a device: {traffic}",
        f"at {options.utilisation:.0%} of {options.device_kind}'s peak: {speed:.3g} steps/s",
    ]
