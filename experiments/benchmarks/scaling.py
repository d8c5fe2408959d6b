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

from experiments.benchmarks.problems import Problem, jax_problem
from experiments.benchmarks.worker import Worker
from experiments.harness.claims import Claim
from experiments.harness.style import BLUE, GREEN, GREY, VERMILION, panels, styled
from experiments.harness.workspace import Workspace
from experiments.lexinvariance import perplexity
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.mesh import MeshConfig
from lexinv.validation import require

PAPER = r"""@article{shoeybi2019megatron,
  title   = {Megatron-{LM}: Training Multi-Billion Parameter Language Models Using Model Parallelism},
  author  = {Shoeybi, Mohammad and Patwary, Mostofa and Puri, Raul and LeGresley, Patrick and Casper, Jared and Catanzaro, Bryan},
  journal = {arXiv preprint arXiv:1909.08053},
  year    = {2019}
}
@inproceedings{rajbhandari2020zero,
  title     = {{ZeRO}: Memory Optimizations Toward Training Trillion Parameter Models},
  author    = {Rajbhandari, Samyam and Rasley, Jeff and Ruwase, Olatunji and He, Yuxiong},
  booktitle = {SC20: International Conference for High Performance Computing, Networking, Storage and Analysis},
  year      = {2020},
  note      = {arXiv:1910.02054}
}"""
MEGATRON, ZERO = "Shoeybi et al. 2019, section 3", "Rajbhandari et al. 2020, section 7"
AXES = ("data", "fsdp", "model")
NAMES = {"data": "data-parallel", "fsdp": "fully sharded", "model": "tensor-parallel"}
SLACK = 0.02
"""Of the predictions: sums of scalars, and what no device count divides."""


@dataclass(frozen=True)
class Config:
    """model, vocab, context: of the problem, for a `standard` and a `lexinvariant` lexicon. rows: of a batch on one device."""

    model: TransformerConfig
    vocab: int = 128
    context: int = 256
    rows: int = 4
    devices: tuple[int, ...] = (1, 2, 4, 8)
    lexica: tuple[Literal["lexinvariant", "standard"], ...] = ("lexinvariant", "standard")

    def __post_init__(self):
        rising = len(self.devices) >= 2 and self.devices[0] == 1 and list(self.devices) == sorted(set(self.devices))
        require(rising, "devices", self.devices, "rising numbers, the first of which is 1")
        for field in ("heads", "width", "mlp_width"):
            size = getattr(self.model, field)
            whole = all(size % count == 0 for count in self.devices)
            require(whole, "devices", self.devices, f"divisors of model.{field} = {size}")
        whole = all(self.vocab % count == 0 for count in self.devices)
        require(whole, "devices", self.devices, f"divisors of vocab = {self.vocab}")
        plain = (self.model.output, self.model.bias, self.model.dtype) == ("matrix", False, "float32")
        require(plain, "model", self.model, "output = 'matrix', no bias, float32: the predictions are for that")
        require(self.lexica != (), "lexica", self.lexica, "at least one")
        _ = self.problems

    @property
    def problems(self) -> dict[str, Problem]:
        """The problem of one device, by kind of lexicon."""
        return {
            kind: Problem(self.model, LexiconConfig(kind), self.vocab, self.rows, self.context) for kind in self.lexica
        }


TINY = TransformerConfig(depth=2, width=64, heads=8, mlp_width=64)
PRESETS = {
    "smoke": Config(TINY, vocab=32, context=32, rows=2, devices=(1, 8), lexica=("lexinvariant",)),
    # That of `lexinvariance/perplexity`, but with 8 heads, which can be divided.
    "cpu": Config(replace(perplexity.PRESETS["cpu"].model, heads=8)),
    # Nothing is run, so that nothing need be recomputed to save memory.
    "paper": Config(
        replace(perplexity.PRESETS["paper"].model, dtype="float32", remat=False), vocab=256, context=512, rows=8
    ),
}


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By lexicon and mesh axis: what one device does and holds, a list over numbers of devices, and the sizes behind the predictions."""
    log, model = workspace.folder("workers") / "log.txt", config.model
    with Worker(log, cores=2, fake_devices=max(config.devices)) as worker:
        programs = {
            kind: workspace.cached(kind, lambda problem=problem: by_axis(problem, config.devices, worker))
            for kind, problem in config.problems.items()
        }
    return {
        "corpora": {},
        "seeds": [],
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


def by_axis(problem: Problem, devices: tuple[int, ...], worker: Worker) -> dict[str, list[dict[str, Any]]]:
    """What `compiled_program` reads of each mesh. On one device all are the same."""
    alone = worker.ask("program", problem=problem, mesh=MeshConfig())
    found: dict[str, list[dict[str, Any]]] = {axis: [alone] for axis in AXES}
    for axis in AXES:
        for count in devices[1:]:
            rows = problem.batch_size * (1 if axis == "model" else count)
            mesh = MeshConfig(**{axis: count})
            found[axis].append(worker.ask("program", problem=replace(problem, batch_size=rows), mesh=mesh))
    return found


def traffic(program: dict[str, Any], *kinds: str) -> int:
    """Bytes of these kinds of collectives, or of all others than these where the first is "but"."""
    if kinds[:1] == ("but",):
        return sum(size for kind, size in program["collectives"].items() if kind not in kinds)
    return sum(program["collectives"].get(kind, 0) for kind in kinds)


def claims(results: dict[str, Any]) -> list[Claim]:
    """Ratios of what is measured to what is predicted, the farthest from 1 over lexica and numbers of devices."""
    sizes, devices = results["sizes"], results["devices"][1:]
    tokens, width, depth = sizes["tokens"], sizes["width"], sizes["depth"]
    residual = 4 * tokens * width
    kept = {  # of the tensor-parallel model, whole on every device: the matrix before the logits, gains, BOS and a scale
        "flops": 6 * tokens * width**2,
        "state_bytes": 12 * (width**2 + (2 * depth + 1) * width + width + 1),
    }

    def gradients(kind: str) -> int:
        """Bytes; the table's are summed apart for its two uses."""
        table = sizes["vocab"] * width if kind == "standard" else 0
        return 4 * (sizes["parameters"][kind] + table)

    def divided(kind: str, quantity: str, count: int) -> float:
        one = results["programs"][kind]["model"][0][quantity]
        return kept[quantity] + (one - kept[quantity]) / count

    def farthest(axes: tuple[str, ...], ratio: Callable[[str, dict[str, Any], dict[str, Any], int], float]) -> float:
        """`ratio(lexicon, program, program of one device, devices)` where it is farthest from 1."""
        found = [
            ratio(kind, program, programs[axis][0], count)
            for kind, programs in results["programs"].items()
            for axis in axes
            for program, count in zip(programs[axis][1:], devices, strict=True)
        ]
        return round(max(found, key=lambda value: abs(value - 1)), 5)

    def close(name: str, statement: str, source: str, measured: float, slack: float = SLACK) -> Claim:
        return Claim(name, statement, source, None, measured, f"within {slack:.0%} of 1", abs(measured - 1) <= slack)

    found = [
        close(
            "same_work",
            "A data-parallel or fully sharded device does as many FLOPs as one that is alone with its rows",
            ZERO,
            farthest(("data", "fsdp"), lambda kind, program, one, count: program["flops"] / one["flops"]),
        ),
        close(
            "divided_work",
            "N tensor-parallel devices each do 1 / N of the FLOPs of one, but for the matrix before the logits",
            MEGATRON,
            farthest(("model",), lambda kind, program, one, count: program["flops"] / divided(kind, "flops", count)),
        ),
        close(
            "gradients_summed",
            "All that data-parallel devices exchange is the gradient, once",
            ZERO,
            farthest(("data",), lambda kind, program, one, count: traffic(program, "but") / gradients(kind)),
        ),
        close(
            "sharded_gradients_summed",
            "Fully sharded devices sum the same gradient",
            ZERO,
            farthest(
                ("fsdp",), lambda kind, p, one, count: traffic(p, "all-reduce", "reduce-scatter") / gradients(kind)
            ),
        ),
    ]
    gathered = farthest(
        ("fsdp",),
        lambda kind, p, one, count: traffic(p, "but", "all-reduce", "reduce-scatter") / (8 * sizes["parameters"][kind]),
    )
    activations = farthest(
        ("model",), lambda kind, program, one, count: traffic(program, "but") / ((6 * depth + 2) * residual)
    )
    return [
        *found,
        Claim(
            "parameters_gathered",
            "All else that they exchange are the parameters, gathered at most twice: forward and backward",
            ZERO,
            None,
            gathered,
            "0.5 (once) to 1.02",
            0.5 <= gathered <= 1 + SLACK,
        ),
        close(
            "activations_summed",
            "Tensor-parallel devices sum the residual stream's size twice a layer forward and, for each product apart, four times backward,"
            " and twice for the lexicon",
            MEGATRON + ", where the three of attention's backward are one",
            activations,
        ),
        close(
            "sharded_state",
            "Parameters and moments of N fully sharded devices take 1 / N of the bytes of one",
            ZERO,
            farthest(("fsdp",), lambda kind, program, one, count: program["state_bytes"] * count / one["state_bytes"]),
        ),
        close(
            "divided_state",
            "So do those of N tensor-parallel devices, but for what is whole on each",
            MEGATRON,
            farthest(("model",), lambda kind, p, one, count: p["state_bytes"] / divided(kind, "state_bytes", count)),
        ),
        memory(results),
    ]


def memory(results: dict[str, Any]) -> Claim:
    """Whether activations and lexica are divided like the rows: as shares of what is allowed."""
    measured = {}
    for axis, copies in {"data": 1, "fsdp": 2}.items():
        measured[axis] = round(
            max(
                program["temporary_bytes"] / (programs[axis][0]["temporary_bytes"] + copies * 4 * parameters)
                for kind, programs in results["programs"].items()
                for parameters in [results["sizes"]["parameters"][kind]]
                for program in programs[axis][1:]
            ),
            4,
        )
    return Claim(
        "same_memory",
        "Temporaries of a device do not grow with the batch, by no more than the summed gradient and the gathered parameters",
        "our own bound",
        None,
        measured,
        f"at most {1 + SLACK}",
        all(value <= 1 + SLACK for value in measured.values()),
    )


def figure(results: dict[str, Any]) -> Figure:
    """Of one device against the number of devices: FLOPs, state, temporaries, traffic; of the first lexicon."""
    kind, programs = next(iter(results["programs"].items()))
    devices = np.array(results["devices"])
    colours = dict(zip(AXES, (BLUE, GREEN, VERMILION), strict=True))
    quantities: dict[str, tuple[Callable[[dict[str, Any]], float], str]] = {
        "Matrix products": (lambda program: program["flops"] / 1e9, "GFLOPs a step"),
        "Parameters and moments": (lambda program: program["state_bytes"] / 2**20, "MiB"),
        "Temporaries": (lambda program: program["temporary_bytes"] / 2**20, "MiB"),
        "Traffic": (lambda program: traffic(program, "but") / 2**20, "MiB a step"),
    }
    drawn, axes = panels(2, 2, 4.2, 3.0)
    with styled():
        for panel, (title, (read, unit)) in zip(axes, quantities.items(), strict=True):
            for axis, marker, size in zip(AXES, "os^", (10, 6, 6), strict=True):  # the first two often coincide
                values = [read(program) for program in programs[axis]]
                panel.plot(devices, values, marker=marker, markersize=size, color=colours[axis], label=NAMES[axis])
            if panel in axes[:2]:
                one = read(programs["data"][0])
                panel.plot(devices, one / devices, color=GREY, linestyle=":", linewidth=1, label="1 / devices")
            panel.set(title=title, xlabel="devices", ylabel=f"{unit}, each device")
            panel.set_xscale("log", base=2)
            panel.set_xticks(devices, [str(count) for count in devices])
            panel.set_ylim(0, 1.08 * panel.get_ylim()[1])
        drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        tokens = f"{results['sizes']['tokens']:,} tokens"
        drawn.suptitle(f"{kind} lexicon; {tokens} a device, but {tokens} in all for tensor-parallel", fontsize=9)
    return drawn
