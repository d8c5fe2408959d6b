"""Weak scaling over 1 to 8 devices, read from the compiled step: FLOPs, memory and traffic of each device; no clock.

On data-parallel and fully sharded meshes the batch grows with the devices; on tensor-parallel ones the work on one batch is divided. The
devices are fake ones of the CPU. Three things are of the CPU alone: gradients of divided parameters are summed whole where accelerators
scatter the sum, each use of a parameter or an activation is summed apart where they add first, and nothing is bfloat16.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any, Literal

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.benchmarks.problems import Problem, jax_problem
from experiments.benchmarks.worker import Worker
from experiments.harness.presets import presets
from experiments.harness.programs import of_device
from experiments.harness.style import BLUE, GREEN, GREY, VERMILION, panels
from experiments.harness.verdicts import OURS, Claim, Rule, below, between
from experiments.harness.workspace import Workspace
from experiments.subjects.text import PUBLISHED_MODEL, SUFFIX_MATCH
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.mesh import MeshConfig
from lexinv.training.state import parameter_count
from lexinv.validation import Checked, Count, Distinct

PAPERS = ("shoeybi2019megatron", "rajbhandari2020zero")
MEGATRON, ZERO, TRAFFIC = "shoeybi2019megatron: section 3", "rajbhandari2020zero", "rajbhandari2020zero: section 7"
AXES = {"data": "data-parallel", "fsdp": "fully sharded", "model": "tensor-parallel"}
SLACK = 0.02
"""Of the predictions: sums of scalars, and what no device count divides."""
EQUAL, NO_MORE = between(1 - SLACK, 1 + SLACK), below(1 + SLACK)
UNIT = "measured over predicted"
Program = dict[str, Any]
"""Of one device: what `compiled_program` reads."""


@dataclass(frozen=True)
class Config(Checked):
    """model, vocab, context: of the problem, for a `standard` and a `lexinvariant` lexicon. rows: of a batch on one device.

    The model is that of the experiments on text, but with 8 heads, which can be divided.
    """

    model: TransformerConfig = replace(SUFFIX_MATCH, heads=8)
    vocab: Count = 128
    context: Count = 256
    rows: Count = 4
    devices: tuple[int, ...] = (1, 2, 4, 8)
    lexica: Distinct[Literal["lexinvariant", "standard"]] = ("lexinvariant", "standard")

    def checks(self):
        rising = len(self.devices) >= 2 and self.devices[0] == 1 and list(self.devices) == sorted(set(self.devices))
        yield rising, "devices", "rising numbers, the first of which is 1"
        sizes = {f"model.{field}": getattr(self.model, field) for field in ("heads", "width", "mlp_width")}
        for field, size in {**sizes, "vocab": self.vocab}.items():
            yield all(size % count == 0 for count in self.devices), "devices", f"divisors of {field} = {size}"
        plain = (self.model.output, self.model.bias, self.model.dtype) == ("matrix", False, "float32")
        yield plain, "model", "output = 'matrix', no bias, float32: the predictions are for that"

    @property
    def problems(self) -> dict[str, Problem]:
        """The problem of one device, by kind of lexicon."""
        return {
            kind: Problem(self.model, LexiconConfig(kind), self.vocab, self.rows, self.context) for kind in self.lexica
        }


PRESETS = presets(
    Config(),
    smoke={
        "model": TransformerConfig(depth=2, width=64, heads=8, mlp_width=64),
        "vocab": 32,
        "context": 32,
        "rows": 2,
        "devices": (1, 8),
        "lexica": ("lexinvariant",),
    },
    paper={  # nothing is run, so that nothing need be recomputed to save memory
        "model": replace(PUBLISHED_MODEL, dtype="float32", remat=False),
        "vocab": 256,
        "context": 512,
        "rows": 8,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By lexicon and mesh axis: what one device does and holds, a list over numbers of devices, and the sizes behind the predictions."""
    model = config.model
    with Worker(workspace.folder("workers") / "log.txt", cores=2, fake_devices=max(config.devices)) as worker:
        programs = {
            kind: workspace.cached(kind, partial(by_axis, problem, config.devices, worker))
            for kind, problem in config.problems.items()
        }
    return {
        "devices": list(config.devices),
        "sizes": {
            "tokens": config.rows * config.context,
            "vocab": config.vocab,
            "depth": model.depth,
            "width": model.width,
            "parameters": {kind: parameters(problem) for kind, problem in config.problems.items()},
        },
        "programs": programs,
    }


def parameters(problem: Problem) -> int:
    """How many numbers are learned."""
    return parameter_count(jax.eval_shape(jax_problem(problem)[0], jax.random.key(0)).params)


def by_axis(problem: Problem, devices: tuple[int, ...], worker: Worker) -> dict[str, list[Program]]:
    """What `compiled_program` reads of each mesh. On one device all are the same."""
    alone = worker.ask(compiled_program, problem=problem, mesh=MeshConfig())
    found: dict[str, list[Program]] = {axis: [alone] for axis in AXES}
    for axis in AXES:
        for count in devices[1:]:
            rows = problem.batch_size * (1 if axis == "model" else count)
            mesh = MeshConfig(**{axis: count})
            found[axis].append(worker.ask(compiled_program, problem=replace(problem, batch_size=rows), mesh=mesh))
    return found


def compiled_program(problem: Problem, mesh: MeshConfig) -> Program:
    """Of one device and one step: FLOPs of matrix products, bytes of state and temporaries, bytes of collectives by kind."""
    start, step, batches = jax_problem(problem)
    device = of_device(step, jax.eval_shape(start, jax.random.key(0)), batches, mesh)
    rows = sum(leaf.nbytes for leaf in batches.values()) // mesh.batch_parts
    return {
        "flops": device.matrix_flops,
        "state_bytes": device.argument_bytes - rows,
        "temporary_bytes": device.temporary_bytes,
        "collectives": device.collectives,
    }


SUMS = ("all-reduce", "reduce-scatter")


def traffic(program: Program, kinds: tuple[str, ...] | None = None, other: bool = False) -> int:
    """Bytes of these kinds of collectives, or of all others than these; of all where there are none."""
    found = program["collectives"].items()
    return sum(size for kind, size in found if kinds is None or (kind in kinds) != other)


SAID = {  # by name whose statement it is, and what it says
    "same_work": (
        ZERO,
        "A data-parallel or fully sharded device does as many FLOPs as one that is alone with its rows.",
    ),
    "divided_work": (
        MEGATRON,
        "N tensor-parallel devices each do 1 / N of the FLOPs of one, but for the matrix before the logits.",
    ),
    "gradients_summed": (TRAFFIC, "All that data-parallel devices exchange is the gradient, once."),
    "sharded_gradients_summed": (TRAFFIC, "Fully sharded devices sum the same gradient."),
    "parameters_gathered": (
        TRAFFIC,
        "All else that they exchange are the parameters, gathered at most twice, forward and backward: 0.5 is once.",
    ),
    "activations_summed": (
        MEGATRON,
        "Tensor-parallel devices sum the residual stream's size twice a layer forward and, for each product apart where the paper sums "
        "the three of attention's backward at once, four times backward, and twice for the lexicon.",
    ),
    "sharded_state": (ZERO, "Parameters and moments of N fully sharded devices take 1 / N of the bytes of one."),
    "divided_state": (MEGATRON, "So do those of N tensor-parallel devices, but for what is whole on each."),
    "same_memory": (
        OURS,
        "Temporaries of a device do not grow with the batch, by no more than the summed gradient and the gathered parameters.",
    ),
}
RULES = dict.fromkeys(SAID, EQUAL) | {"parameters_gathered": between(0.5, 1 + SLACK), "same_memory": NO_MORE}


def ratios(sizes: dict[str, Any], kind: str, axis: str, count: int, program: Program, one: Program) -> dict[str, float]:
    """By claim what one of `count` devices does and holds over what is predicted from `one` that is alone."""
    tokens, width, depth = sizes["tokens"], sizes["width"], sizes["depth"]
    parameters = 4 * sizes["parameters"][kind]
    gradients = parameters + (
        4 * sizes["vocab"] * width if kind == "standard" else 0
    )  # a table's are summed apart for its two uses
    if axis == "model":  # whole on every device: the matrix before the logits, gains, BOS and a scale
        whole = {"flops": 6 * tokens * width**2, "state_bytes": 12 * (width**2 + (2 * depth + 2) * width + 1)}
        work, state = (program[each] / (kept + (one[each] - kept) / count) for each, kept in whole.items())
        summed = traffic(program) / ((6 * depth + 2) * 4 * tokens * width)
        return {"divided_work": work, "activations_summed": summed, "divided_state": state}
    copies = 1 if axis == "data" else 2
    found = {
        "same_work": program["flops"] / one["flops"],
        "same_memory": program["temporary_bytes"] / (one["temporary_bytes"] + copies * parameters),
    }
    if axis == "data":
        return found | {"gradients_summed": traffic(program) / gradients}
    return found | {
        "sharded_gradients_summed": traffic(program, SUMS) / gradients,
        "parameters_gathered": traffic(program, SUMS, other=True) / (2 * parameters),
        "sharded_state": program["state_bytes"] * count / one["state_bytes"],
    }


def claims(results: dict[str, Any]) -> list[Claim]:
    """By lexicon the ratio that is nearest to a bound of the rule or farthest beyond it, over numbers of devices and meshes."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in SAID}
    for axis, (kind, programs) in product(AXES, results["programs"].items()):
        one, *others = programs[axis]
        for count, program in zip(results["devices"][1:], others, strict=True):
            for name, ratio in ratios(results["sizes"], kind, axis, count, program, one).items():
                label = f"{AXES[axis]}, {kind}" if name == "same_memory" else kind
                found[name].setdefault(label, []).append(ratio)

    def nearest(values: list[float], rule: Rule) -> float:
        return min(values, key=lambda value: min(value - rule.low, rule.high - value))

    judged = []
    for name, (source, statement) in SAID.items():
        rule = RULES[name]
        measured = {label: nearest(values, rule) for label, values in found[name].items()}
        judged.append(Claim(name, statement, source, measured, rule, UNIT, over="one compilation"))
    return judged


def figure(results: dict[str, Any]) -> Figure:
    """Of one device against the number of devices: FLOPs, state, temporaries, traffic; of the first lexicon."""
    kind, programs = next(iter(results["programs"].items()))
    devices = np.array(results["devices"])
    colours = dict(zip(AXES, (BLUE, GREEN, VERMILION), strict=True))
    quantities: dict[str, tuple[Callable[[Program], float], str]] = {
        "Matrix products": (lambda program: program["flops"] / 1e9, "GFLOPs a step"),
        "Parameters and moments": (lambda program: program["state_bytes"] / 2**20, "MiB"),
        "Temporaries": (lambda program: program["temporary_bytes"] / 2**20, "MiB"),
        "Traffic": (lambda program: traffic(program) / 2**20, "MiB a step"),
    }
    drawn, axes = panels(2, 2, 4.2, 3.0, titles=tuple(quantities))
    for panel, (read, unit) in zip(axes, quantities.values(), strict=True):
        for axis, marker, size in zip(AXES, "os^", (10, 6, 6), strict=True):  # the first two often coincide
            values = [read(program) for program in programs[axis]]
            panel.plot(devices, values, marker=marker, markersize=size, color=colours[axis], label=AXES[axis])
        if panel in axes[:2]:
            one = read(programs["data"][0])
            panel.plot(devices, one / devices, color=GREY, linestyle=":", linewidth=1, label="1 / devices")
        panel.set(xlabel="devices", ylabel=f"{unit}, each device")
        panel.set_xscale("log", base=2)
        panel.set_xticks(devices, [str(count) for count in devices])
        panel.set_ylim(0, 1.08 * panel.get_ylim()[1])
    drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    tokens = f"{results['sizes']['tokens']:,} tokens"
    drawn.suptitle(f"{kind} lexicon; {tokens} a device, but {tokens} in all for tensor-parallel", fontsize=9)
    return drawn
