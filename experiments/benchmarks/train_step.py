"""One train step: tokens per second against PyTorch, the price of a lexicon, memory, populations, start-up.

Everything is a ratio of times taken in one run, on the same cores: the sides take turns in short blocks, so that what disturbs the machine
disturbs all of them, and medians are compared. Every side waits in a process of its own (`experiments.benchmarks.worker`) or beside the
other in one, with the same settings of the memory allocator. A TPU, which one process alone can hold, cannot be measured this way.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.benchmarks.alternating import alternate, alternate_with_torch, ratio, size_sweep
from experiments.benchmarks.problems import Problem
from experiments.benchmarks.worker import Worker, environment
from experiments.harness.claims import Claim, interval
from experiments.harness.style import BLUE, GREEN, GREY, ORANGE, PALETTE, SKY, VERMILION, panels, styled
from experiments.harness.workspace import Workspace
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import require

PAPER = """\
@inproceedings{huang2023lexinvariant,
  title     = {Lexinvariant Language Models},
  author    = {Huang, Qian and Zelikman, Eric and Chen, Sarah Li and Wu, Yuhuai and Valiant, Gregory and Liang, Percy},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {36},
  year      = {2023},
  note      = {arXiv:2305.16349}
}"""
SOURCE = "our own benchmark, no published counterpart"
ENOUGH_ROUNDS = 5  # with fewer no ratio is judged
LARGE_VOCABULARY = 32768
OVERHEAD, MEMORY, START_UP_SECONDS = 1.05, 1.5, 1.0


@dataclass(frozen=True)
class Config:
    """problem: the step measured against PyTorch and at start-up. overhead: the first one is judged. sweep: varied one size at a time.

    variants: also measure ours without what speeds it up on the CPU, and PyTorch with the same microbatches and compiled.
    steps: timed steps of one block; every side does one block in each of the rounds. cores: that any measured process may use.
    """

    problem: Problem
    overhead: tuple[Problem, ...]
    memory: Problem
    population: Problem
    sweep: Problem
    contexts: tuple[int, ...]
    widths: tuple[int, ...]
    vocabs: tuple[int, ...]
    members: int = 4
    population_steps: int = 40
    rounds: int = 9
    population_rounds: int = 5
    start_up_rounds: int = 5
    steps: int = 6
    variants: bool = True
    cores: int = 2

    def __post_init__(self):
        for name in ("rounds", "population_rounds", "start_up_rounds", "steps", "cores"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("members", "population_steps"):
            require(getattr(self, name) >= 2, name, getattr(self, name), "at least 2")
        require(len(self.overhead) >= 1, "overhead", self.overhead, "at least one problem")
        for name in ("contexts", "widths", "vocabs"):
            require(len(getattr(self, name)) >= 2, name, getattr(self, name), "at least two sizes, for a slope")


def transformer(depth: int, width: int, heads: int, context: int, **rest: Any) -> TransformerConfig:
    sizes = {"depth": depth, "width": width, "heads": heads, "mlp_width": 4 * width, "max_length": context}
    return TransformerConfig(**{**sizes, "positions": "learned", "unroll": depth, **rest})


def with_vocabularies(problem: Problem, *sizes: tuple[int, int, int]) -> tuple[Problem, ...]:
    """The problem at each (vocabulary, vocab_block, batch size), without microbatches."""
    return tuple(
        replace(problem, vocab=vocab, batch_size=rows, microbatches=1, lexicon=LexiconConfig(vocab_block=block))
        for vocab, block, rows in sizes
    )


# Not tinier: for small matrices XLA writes out loops of its own, which take longer to compile than these do.
TINY = Problem(transformer(1, 64, 2, 64), batch_size=8, context=64, microbatches=2)
SMALL = Problem(transformer(4, 128, 4, 256), microbatches=2)
LARGE = Problem(transformer(12, 1024, 8, 512, unroll=1, remat=True, dtype="bfloat16"), batch_size=64, context=512)
BLOCKWISE = LexiconConfig(vocab_block=2048)
PRESETS = {
    "smoke": Config(
        problem=TINY,
        overhead=(TINY,),
        memory=replace(TINY, vocab=256, lexicon=LexiconConfig(vocab_block=64), microbatches=1),
        population=TINY,
        sweep=TINY,
        contexts=(32, 64),
        widths=(32, 64),
        vocabs=(64, 128),
        members=2,
        population_steps=2,
        rounds=2,
        population_rounds=1,
        start_up_rounds=1,
        steps=2,
        variants=False,
    ),
    "cpu": Config(
        problem=SMALL,
        overhead=(SMALL, *with_vocabularies(SMALL, (4096, 0, 2), (LARGE_VOCABULARY, 2048, 1))),
        memory=Problem(transformer(4, 512, 8, 512), BLOCKWISE, LARGE_VOCABULARY, batch_size=8, context=512),
        population=Problem(transformer(2, 64, 2, 64), batch_size=8, context=64),
        sweep=replace(SMALL, batch_size=4, microbatches=1),
        contexts=(64, 128, 256, 512, 1024),
        widths=(64, 128, 256, 512),
        vocabs=(128, 512, 2048, 8192),
    ),
    "paper": Config(
        problem=LARGE,
        overhead=(LARGE, *with_vocabularies(LARGE, (4096, 0, 8), (LARGE_VOCABULARY, 2048, 8))),
        memory=replace(LARGE, vocab=LARGE_VOCABULARY, lexicon=BLOCKWISE, batch_size=8),
        population=Problem(transformer(4, 128, 4, 256)),
        sweep=replace(LARGE, batch_size=8),
        contexts=(128, 256, 512, 1024, 2048),
        widths=(256, 512, 1024, 2048),
        vocabs=(128, 1024, 8192, LARGE_VOCABULARY),
        population_steps=200,
        cores=8,
    ),
}


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Measure every part; seconds are medians of a block, one for each round."""
    import jax
    from rich.progress import track

    log = workspace.folder("workers") / "log.txt"
    parts: dict[str, Callable[[Config, Path], Any]] = {
        "against_torch": against_torch,
        "overhead": overhead,
        "memory": memory,
        "population": population,
        "start_up": start_up,
        "sweep": sweep,
    }
    results: dict[str, Any] = {
        "corpora": {},
        "seeds": list(range(config.members)),
        "used_population": "map" if jax.default_backend() == "cpu" else "vmap",  # as in harness.training
    }
    for name, measure in track(parts.items(), "train_step", disable=not workspace.progress):
        results[name] = workspace.cached(name, lambda measure=measure: measure(config, log))
    return results


def against_torch(config: Config, log: Path) -> dict[str, Any]:
    """Our standard step, and without what speeds it up on the CPU; PyTorch eager, with the same microbatches, and compiled."""
    problem = config.problem
    whole = replace(problem, microbatches=1)
    ours = {
        "lexinv": problem,
        "lexinv, whole batch": whole,
        "lexinv, full attention": replace(problem, model=replace(problem.model, attention="dot_product")),
    }
    theirs = {"torch": (whole, False), "torch, microbatches": (problem, False), "torch.compile": (whole, True)}
    if problem.microbatches == 1:
        del ours["lexinv, whole batch"], theirs["torch, microbatches"]
    if not config.variants:
        ours, theirs = {"lexinv": problem}, {"torch": (whole, False)}
    measured = alternate_with_torch(ours, theirs, log, config.cores, config.rounds, config.steps)
    return {"tokens": problem.tokens, **measured}


def lexinvariant(problem: Problem) -> Problem:
    return replace(problem, lexicon=replace(problem.lexicon, kind="lexinvariant"))


def overhead(config: Config, log: Path) -> list[dict[str, Any]]:
    """Lexinvariant and standard step in turn, for each problem."""
    measured = []
    for problem in config.overhead:
        with Worker(log, config.cores) as worker:
            for label, variant in (("standard", problem), ("lexinvariant", lexinvariant(problem))):
                worker.ask("prepare", label=label, problem=variant)
            times = alternate(dict.fromkeys(("standard", "lexinvariant"), worker), config.rounds, config.steps)
        measured.append({"vocab": problem.vocab, "tokens": problem.tokens, **times})
    return measured


def memory(config: Config, log: Path) -> dict[str, Any]:
    """Peak bytes of the compiled steps, as the compiler plans them; nothing is run."""
    problem = config.memory
    steps = {
        "standard": replace(problem, lexicon=LexiconConfig()),
        "standard, blockwise": problem,
        "lexinvariant, blockwise": lexinvariant(problem),
    }
    with Worker(log, config.cores) as worker:
        sizes = {label: worker.ask("memory", problem=step) for label, step in steps.items()}
    shape = f"V={problem.vocab}, D={problem.model.width}, B={problem.batch_size}, T={problem.context}"
    return {"vocab": problem.vocab, "shape": shape, "bytes": sizes}


def population(config: Config, log: Path) -> dict[str, Any]:
    """[seconds that compile, seconds of the steps] of training all members, for each arrangement and round."""
    measured: dict[str, list[list[float]]] = {"none": [], "map": [], "vmap": []}
    size = {"members": config.members, "steps": config.population_steps}
    with Worker(log, config.cores) as worker:
        for number in range(config.population_rounds):
            for kind in list(measured) if number % 2 == 0 else reversed(list(measured)):
                seconds = worker.ask("population", problem=config.population, population=kind, **size)
                measured[kind].append([round(value, 4) for value in seconds])
    return {**size, "seconds": measured}


def start_up(config: Config, log: Path) -> dict[str, list[float]]:
    """Wall clock of fresh processes: interpreter, imports, `list`; and in them the first step, with an empty and a filled cache."""
    commands = {
        "python": ["-c", "pass"],
        "import jax": ["-c", "import jax"],
        "import lexinv": ["-c", "import lexinv"],
        "import lexinv.nn, .training": ["-c", "import lexinv.nn.language_model, lexinv.training.fit"],
        "python -m experiments list": ["-m", "experiments", "list"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in (*commands, "first step", "first step, cached")}
    with open(log, "ab") as file:
        for _ in range(config.start_up_rounds):
            for name, arguments in commands.items():
                start = time.perf_counter()
                subprocess.run([sys.executable, *arguments], env=environment(), stdout=file, stderr=file, check=True)
                seconds[name].append(round(time.perf_counter() - start, 4))
    for _ in range(config.start_up_rounds):
        with TemporaryDirectory() as cache:
            for name in ("first step", "first step, cached"):
                with Worker(log, config.cores, Path(cache)) as worker:
                    seconds[name].append(round(worker.ask("prepare", label=name, problem=config.problem), 4))
    return seconds


def sweep(config: Config, log: Path) -> dict[str, Any]:
    """Seconds of a standard step by size, and the exponent of a power law fitted to them in each round."""
    base, model = config.sweep, config.sweep.model
    per_head = model.width // model.heads

    def wide(width: int) -> TransformerConfig:
        return replace(model, width=width, mlp_width=4 * width, heads=max(width // per_head, 1))

    axes = {
        "context": {n: replace(base, context=n, model=replace(model, max_length=n)) for n in config.contexts},
        "width": {n: replace(base, model=wide(n)) for n in config.widths},
        "vocabulary": {n: replace(base, vocab=n) for n in config.vocabs},
    }
    with Worker(log, config.cores) as worker:
        return size_sweep(axes, worker, config.rounds, config.steps)


def population_ratios(measured: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """How many times faster than runs one after another, everything included."""
    totals = {kind: [sum(parts) for parts in rounds] for kind, rounds in measured["seconds"].items()}
    return {kind: ratio(totals["none"], totals[kind]) for kind in ("map", "vmap")}


def memory_ratios(measured: dict[str, Any]) -> dict[str, float]:
    sizes = measured["bytes"]
    return {label: sizes["lexinvariant, blockwise"] / sizes[label] for label in ("standard", "standard, blockwise")}


def claims(results: dict[str, Any]) -> list[Claim]:
    """Our own promises about speed and memory. The ratio of medians decides; too few rounds or too small a size cannot tell."""

    def judge(measured: dict[str, Any], holds: Callable[[float], bool]) -> bool | None:
        return holds(measured["ratio"]) if measured["by_round"].n >= ENOUGH_ROUNDS else None

    seconds = results["against_torch"]["seconds"]
    speed = ratio(seconds["torch"], seconds["lexinv"]) if "torch" in seconds else None
    overheads = [ratio(part["seconds"]["lexinvariant"], part["seconds"]["standard"]) for part in results["overhead"]]
    vocabs = [part["vocab"] for part in results["overhead"]]
    sizes, memories = results["memory"], memory_ratios(results["memory"])
    populations, used = population_ratios(results["population"]), results["used_population"]
    members, steps = (results["population"][name] for name in ("members", "steps"))
    start_up = results["start_up"]
    begin = {
        "experiments list": median(start_up["python -m experiments list"]),
        "import lexinv.nn, .training": median(start_up["import lexinv.nn, .training"]) - median(start_up["import jax"]),
    }
    return [
        Claim(
            "not_slower_than_torch",
            f"Tokens per second of our train step over PyTorch {results['against_torch']['torch']} eager (fused AdamW, "
            "scaled_dot_product_attention) on the same cores.",
            SOURCE,
            None,
            speed,
            "ratio of medians at least 1",
            None if speed is None else judge(speed, lambda value: value >= 1.0),
        ),
        Claim(
            "lexicon_overhead",
            f"Time of the lexinvariant over the standard train step at V={vocabs[0]}.",
            SOURCE,
            None,
            {f"V={vocab}": measured for vocab, measured in zip(vocabs, overheads, strict=True)},
            f"ratio of medians at V={vocabs[0]} at most {OVERHEAD}",
            judge(overheads[0], lambda value: value <= OVERHEAD),
        ),
        Claim(
            "large_vocabulary_memory",
            f"Peak memory of the lexinvariant train step over the standard one, whole or blockwise, at {sizes['shape']}.",
            SOURCE,
            None,
            {f"over {label}": value for label, value in memories.items()},
            f"both at most {MEMORY}",
            max(memories.values()) <= MEMORY if sizes["vocab"] >= LARGE_VOCABULARY else None,
        ),
        Claim(
            "population_throughput",
            f"Time of {members} runs of {steps} steps one after another over that of one population (`{used}` here), compiling included.",
            SOURCE,
            None,
            populations,
            f"ratio of medians of `{used}` at least 1",
            judge(populations[used], lambda value: value >= 1.0),
        ),
        Claim(
            "quick_start",
            "Wall clock of a fresh process that lists the experiments, and of importing lexinv beyond importing jax, in seconds.",
            SOURCE,
            None,
            begin,
            f"both medians below {START_UP_SECONDS} s",
            max(begin.values()) < START_UP_SECONDS if len(start_up["import jax"]) >= ENOUGH_ROUNDS else None,
        ),
    ]


def bars(axes: Axes, ratios: Mapping[str, dict[str, Any]], colors: Sequence[str]) -> None:
    """Horizontal bars of ratios with the intervals of their rounds, the first on top."""
    values = [measured["ratio"] for measured in ratios.values()]
    axes.barh(range(len(ratios)), values, color=colors, height=0.6)
    for row, measured in enumerate(ratios.values()):
        spread = measured.get("by_round")
        if spread is not None and spread.low is not None:
            axes.plot([spread.low, spread.high], [row, row], color="black", linewidth=1.2)
        axes.text(1.0, row, f"{measured['ratio']:.2f}", transform=axes.get_yaxis_transform(), va="center", ha="right")
    axes.set_yticks(range(len(ratios)), list(ratios))
    axes.invert_yaxis()
    # The interval of a few wild rounds reaches far; the axis follows the bars.
    axes.set_xlim(0, 1.25 * max([1.0, *values]))
    axes.axvline(1.0, color=GREY, linestyle="--", linewidth=1)
    axes.grid(visible=False, axis="y")


def figure(results: dict[str, Any]) -> Figure:
    """Speed against PyTorch, the ratios of the other parts, step time by size, and start-up."""
    drawn, (speed, costs, sizes, begin) = panels(2, 2, width=5.2)
    with styled():
        seconds = results["against_torch"]["seconds"]
        base = "torch" if "torch" in seconds else "lexinv"
        speeds = {label: ratio(seconds[base], times) for label, times in seconds.items()}
        bars(speed, speeds, [BLUE if label.startswith("lexinv") else VERMILION for label in speeds])
        unit = results["against_torch"]["tokens"] / median(seconds[base])
        speed.set(title="Train step", xlabel=f"tokens per second, over {base} ({unit:,.0f})")
        ratios: dict[str, dict[str, Any]] = {}
        for part in results["overhead"]:
            times = part["seconds"]
            ratios[f"time of a lexicon\nV={part['vocab']}"] = ratio(times["lexinvariant"], times["standard"])
        for label, value in memory_ratios(results["memory"]).items():
            ratios[f"memory over\n{label}"] = {"ratio": value}
        members = results["population"]["members"]
        for kind, measured in population_ratios(results["population"]).items():
            ratios[f"speed of {members} seeds\nas one ({kind})"] = measured
        bars(costs, ratios, [ORANGE] * len(results["overhead"]) + [GREEN] * 2 + [SKY] * 2)
        costs.set(title="What a lexicon and more seeds cost", xlabel="ratio")
        for (axis, measured), color in zip(results["sweep"].items(), PALETTE, strict=False):
            relative = np.array(measured["sizes"]) / measured["sizes"][0]
            fitted = interval(measured["exponents"]).mean
            label = f"{axis} from {measured['sizes'][0]}: exponent {fitted:.2f}"
            sizes.loglog(relative, 1e3 * np.median(measured["seconds"], axis=1), "o-", color=color, label=label)
        sizes.set(title="Size sweep", xlabel="size, over the smallest", ylabel="milliseconds per step")
        sizes.legend()
        times = {label: median(values) for label, values in results["start_up"].items()}
        begin.bar_label(begin.barh(list(times), list(times.values()), color=BLUE, height=0.6), fmt=" %.2f", fontsize=8)
        begin.invert_yaxis()
        begin.grid(visible=False, axis="y")
        begin.set(title="Start-up", xlabel="seconds")
    return drawn
