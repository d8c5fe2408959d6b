"""Weak scaling over 1 to 8 devices, read from the compiled step: FLOPs, memory and traffic of each device; no clock.

Three meshes: data-parallel, fully sharded and tensor-parallel. For the first two each device keeps its rows, so that the batch grows with
the devices; for the third the batch stays that of one device and the work on it is divided. The devices are fake ones of the CPU, for
which XLA partitions a program as for any others; traffic is the bytes of what its collective operations give a device. Three things are
of the CPU alone: gradients of divided parameters are summed whole where accelerators scatter the sum, each use of a parameter or an
activation is summed apart where they add first, and nothing is bfloat16.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure

from experiments.benchmarks.alternating import worker_log
from experiments.benchmarks.problems import Problem, jax_problem
from experiments.benchmarks.worker import Worker
from experiments.harness.presets import presets
from experiments.harness.style import BLUE, GREEN, GREY, VERMILION, panels
from experiments.harness.verdicts import OURS, Claim, Rule, below, between
from experiments.harness.workspace import Workspace
from experiments.subjects.text import PUBLISHED_MODEL, SUFFIX_MATCH
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.mesh import MeshConfig
from lexinv.validation import Checked, Count, Distinct

PAPERS = ("shoeybi2019megatron", "rajbhandari2020zero")
MEGATRON, ZERO, TRAFFIC = "shoeybi2019megatron: section 3", "rajbhandari2020zero", "rajbhandari2020zero: section 7"
AXES = {"data": "data-parallel", "fsdp": "fully sharded", "model": "tensor-parallel"}
SLACK = 0.02
"""Of the predictions: sums of scalars, and what no device count divides."""
EQUAL, NO_MORE = between(1 - SLACK, 1 + SLACK), below(1 + SLACK)
UNIT = "measured over predicted"
Program = dict[str, Any]
"""Of one device: what `scaling_problem.compiled_program` reads."""
Ratio = Callable[[str, Program, Program, int], float]
"""Measured over predicted: `ratio(lexicon, program, program of one device, devices)`."""


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
    with Worker(worker_log(workspace), cores=2, fake_devices=max(config.devices)) as worker:
        programs = {
            kind: workspace.cached(kind, lambda problem=problem: by_axis(problem, config.devices, worker))
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
    import jax

    from lexinv.training.state import parameter_count

    return parameter_count(jax.eval_shape(jax_problem(problem)[0], jax.random.key(0)).params)


def by_axis(problem: Problem, devices: tuple[int, ...], worker: Worker) -> dict[str, list[Program]]:
    """What `compiled_program` reads of each mesh. On one device all are the same."""
    alone = worker.ask("program", problem=problem, mesh=MeshConfig())
    found: dict[str, list[Program]] = {axis: [alone] for axis in AXES}
    for axis in AXES:
        for count in devices[1:]:
            rows = problem.batch_size * (1 if axis == "model" else count)
            mesh = MeshConfig(**{axis: count})
            found[axis].append(worker.ask("program", problem=replace(problem, batch_size=rows), mesh=mesh))
    return found


SUMS = ("all-reduce", "reduce-scatter")


def traffic(program: Program, kinds: tuple[str, ...] | None = None, other: bool = False) -> int:
    """Bytes of these kinds of collectives, or of all others than these; of all where there are none."""
    found = program["collectives"].items()
    return sum(size for kind, size in found if kinds is None or (kind in kinds) != other)


def claims(results: dict[str, Any]) -> list[Claim]:
    """Ratios of what is measured to what is predicted."""
    sizes, devices = results["sizes"], results["devices"][1:]
    tokens, width, depth = sizes["tokens"], sizes["width"], sizes["depth"]
    residual = 4 * tokens * width
    kept = {  # of the tensor-parallel model, whole on every device: the matrix before the logits, gains, BOS and a scale
        "flops": 6 * tokens * width**2,
        "state_bytes": 12 * (width**2 + (2 * depth + 1) * width + width + 1),
    }

    def parameters(kind: str) -> int:
        return 4 * sizes["parameters"][kind]

    def gradients(kind: str) -> int:
        """Bytes; the table's are summed apart for its two uses."""
        return parameters(kind) + (4 * sizes["vocab"] * width if kind == "standard" else 0)

    def divided(quantity: str) -> Ratio:
        return lambda _, p, one, n: p[quantity] / (kept[quantity] + (one[quantity] - kept[quantity]) / n)

    def nearest(axes: tuple[str, ...], ratio: Ratio, rule: Rule) -> dict[str, float]:
        """By lexicon the ratio that is nearest to a bound of the rule or farthest beyond it, over numbers of devices and meshes."""
        return {
            kind: min(
                (
                    ratio(kind, program, programs[axis][0], count)
                    for axis in axes
                    for program, count in zip(programs[axis][1:], devices, strict=True)
                ),
                key=lambda value: min(value - rule.low, rule.high - value),
            )
            for kind, programs in results["programs"].items()
        }

    def judged(
        name: str, statement: str, source: str, axes: tuple[str, ...], ratio: Ratio, rule: Rule = EQUAL
    ) -> Claim:
        return Claim(name, statement, source, nearest(axes, ratio, rule), rule, UNIT, over="one compilation")

    held = {
        f"{AXES[axis]}, {kind}": ratio
        for axis, copies in {"data": 1, "fsdp": 2}.items()
        for kind, ratio in nearest(
            (axis,),
            lambda kind, p, one, n, copies=copies: (
                p["temporary_bytes"] / (one["temporary_bytes"] + copies * parameters(kind))
            ),
            NO_MORE,
        ).items()
    }
    return [
        judged(
            "same_work",
            "A data-parallel or fully sharded device does as many FLOPs as one that is alone with its rows.",
            ZERO,
            ("data", "fsdp"),
            lambda _, p, one, n: p["flops"] / one["flops"],
        ),
        judged(
            "divided_work",
            "N tensor-parallel devices each do 1 / N of the FLOPs of one, but for the matrix before the logits.",
            MEGATRON,
            ("model",),
            divided("flops"),
        ),
        judged(
            "gradients_summed",
            "All that data-parallel devices exchange is the gradient, once.",
            TRAFFIC,
            ("data",),
            lambda kind, p, one, n: traffic(p) / gradients(kind),
        ),
        judged(
            "sharded_gradients_summed",
            "Fully sharded devices sum the same gradient.",
            TRAFFIC,
            ("fsdp",),
            lambda kind, p, one, n: traffic(p, SUMS) / gradients(kind),
        ),
        judged(
            "parameters_gathered",
            "All else that they exchange are the parameters, gathered at most twice, forward and backward: 0.5 is once.",
            TRAFFIC,
            ("fsdp",),
            lambda kind, p, one, n: traffic(p, SUMS, other=True) / (2 * parameters(kind)),
            between(0.5, 1 + SLACK),
        ),
        judged(
            "activations_summed",
            "Tensor-parallel devices sum the residual stream's size twice a layer forward and, for each product apart where the paper sums "
            "the three of attention's backward at once, four times backward, and twice for the lexicon.",
            MEGATRON,
            ("model",),
            lambda _, p, one, n: traffic(p) / ((6 * depth + 2) * residual),
        ),
        judged(
            "sharded_state",
            "Parameters and moments of N fully sharded devices take 1 / N of the bytes of one.",
            ZERO,
            ("fsdp",),
            lambda _, p, one, n: p["state_bytes"] * n / one["state_bytes"],
        ),
        judged(
            "divided_state",
            "So do those of N tensor-parallel devices, but for what is whole on each.",
            MEGATRON,
            ("model",),
            divided("state_bytes"),
        ),
        Claim(
            "same_memory",
            "Temporaries of a device do not grow with the batch, by no more than the summed gradient and the gathered parameters.",
            OURS,
            held,
            NO_MORE,
            UNIT,
            over="one compilation",
        ),
    ]


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
