"""What training on many devices would take, without them: the step compiled ahead of time for as many fake ones."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from experiments.harness.language_models import training_mesh
from experiments.harness.programs import collective_bytes, matrix_flops
from experiments.harness.training import Training
from lexinv.nn.flops import PEAK_FLOPS, train_flops
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.mesh import MeshConfig
from lexinv.validation import choose, require

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)
class PlanOptions:
    """What cannot be known from the configuration without its text and its machine."""

    devices: int = 8
    """Fake devices to compile for; they share the rows of each batch unless training.mesh says otherwise."""
    vocab: int = 256
    """Size of the vocabulary, which the tokenizer would tell."""
    lexicon: Literal["standard", "lexinvariant"] = "lexinvariant"
    device_kind: str = "TPU v5e"
    """Whose peak the expected speed is a share of."""
    utilisation: float = 0.4
    """That share."""

    def __post_init__(self):
        require(self.devices >= 1, "--devices", self.devices, "at least 1")
        require(self.vocab >= 1, "--vocab", self.vocab, "at least 1")
        require(0 < self.utilisation <= 1, "--utilisation", self.utilisation, "above 0, at most 1")
        choose("--device-kind", self.device_kind, PEAK_FLOPS)


@dataclasses.dataclass(frozen=True)
class Arguments(Generic[Config]):
    """What to plan, and for what."""

    config: Config
    options: Annotated[PlanOptions, tyro.conf.arg(name="")] = PlanOptions()


def parse(config: Any, arguments: Sequence[str], program: str) -> tuple[Any, PlanOptions]:
    """The configuration with overrides by dotted names, and the options; tyro exits with code 2 for what it cannot take."""
    largest_training(config)
    kind = Arguments[Annotated[type(config), tyro.conf.arg(name="")]]
    flags = (tyro.conf.FlagCreatePairsOff,)
    found = tyro.cli(kind, default=Arguments(config), args=arguments, prog=program, config=flags)
    return found.config, found.options


@dataclasses.dataclass(frozen=True)
class Plan:
    """One step of one seed. Bytes are of one device, as XLA's compiler for the CPU has them; collectives: bytes by kind.

    flops: of all devices, by `lexinv.nn.flops`. device_flops: of the matrix products of one device, as compiled, with what is recomputed,
    and what the devices along `model` all do.
    """

    mesh: MeshConfig
    parameters: int
    state_bytes: int
    temporary_bytes: int
    flops: float
    device_flops: float
    collectives: dict[str, int]
    steps_per_second: float


def largest_training(config: Any) -> tuple[TransformerConfig, Training, int]:
    """The model, its training and its context. Raises `InvalidConfig` for a configuration that trains no language model."""
    model, training = getattr(config, "model", None), getattr(config, "training", None)
    context = getattr(getattr(config, "data", None), "context", None)
    known = isinstance(model, TransformerConfig) and isinstance(training, Training) and context is not None
    require(known, "experiment", type(config).__module__, "one with the fields model, training and data.context")
    return model, training, context


def make_plan(config: Any, options: PlanOptions) -> Plan:
    """Compile the step of `config` for the mesh and read what the compiler knows. Needs so many devices, real or fake."""
    import jax
    import jax.numpy as jnp

    from lexinv.nn.language_model import initialize, make_loss
    from lexinv.training.mesh import batch_sharding, state_shardings
    from lexinv.training.optimizers import make_optimizer
    from lexinv.training.state import create_state, parameter_count
    from lexinv.training.step import make_train_step

    model, training, context = largest_training(config)
    if training.mesh == MeshConfig():
        training = dataclasses.replace(training, mesh=MeshConfig(data=options.devices))
    count, rows = training.mesh.devices, training.batch_size
    require(count == options.devices, "--devices", options.devices, f"those of training.mesh, {count}")
    devices = training_mesh(training, model)
    lexicon = LexiconConfig(options.lexicon, vocab_block=getattr(config, "vocab_block", 0))
    optimizer = make_optimizer(training.optimizer, training.steps)

    def start(key: jax.Array) -> Any:
        return create_state(initialize(model, lexicon, options.vocab, key), optimizer, key)

    state = jax.eval_shape(start, jax.random.key(0))
    placed = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        state_shardings(state, devices),
    )
    shapes = {"tokens": (1, rows, context), "row": (1, rows)}
    batch = {
        name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=batch_sharding(devices)) for name, shape in shapes.items()
    }
    step = make_train_step(
        make_loss(model, lexicon, options.vocab), optimizer, microbatches=training.microbatches, population="none"
    )
    compiled: Any = step.lower(placed, batch).compile()
    memory, program = compiled.memory_analysis(), compiled.as_text()
    flops = train_flops(model, options.vocab, context) * rows * context
    return Plan(
        training.mesh,
        parameter_count(state.params),
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        flops,
        matrix_flops(program),
        collective_bytes(program),
        options.utilisation * PEAK_FLOPS[options.device_kind] * count / flops,
    )


def describe(plan: Plan, options: PlanOptions) -> list[str]:
    """The plan in lines for the terminal."""
    traffic = ", ".join(f"{kind} {size / 2**20:,.1f} MiB" for kind, size in plan.collectives.items()) or "none"
    return [
        f"mesh data {plan.mesh.data}, fsdp {plan.mesh.fsdp}, model {plan.mesh.model}: {options.devices} devices;"
        f" vocabulary {options.vocab}",
        f"parameters {plan.parameters:,}",
        f"each device: state and batch {plan.state_bytes / 2**20:,.1f} MiB,"
        f" temporary {plan.temporary_bytes / 2**20:,.1f} MiB (as compiled for the CPU)",
        f"a step: {plan.flops:.3g} FLOPs; matrix products of a device: {plan.device_flops:.3g}",
        f"collectives of a device: {traffic}",
        f"at {options.utilisation:.0%} of {options.device_kind}'s peak: {plan.steps_per_second:.3g} steps/s",
    ]
