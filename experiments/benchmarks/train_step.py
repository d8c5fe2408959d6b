"""One train step: tokens per second against PyTorch, the price of a lexicon, memory, populations, start-up.

Everything is compared in one run, on the same cores: the sides take turns in short blocks, so that what disturbs the machine disturbs all
of them. Every side waits in a process of its own (`experiments.benchmarks.worker`) or beside the other in one, with the same settings of
the memory allocator. A TPU, which one process alone can hold, cannot be measured this way.
"""

import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.benchmarks.alternating import Sizes, alternate_with_torch, in_parts, in_turns, size_sweep
from experiments.benchmarks.problems import WIDE, Problem, timed_population, transformer
from experiments.benchmarks.promises import bars, by_size, mark, over_ours, promise, speed, times
from experiments.benchmarks.worker import Worker, environment, planned, prepare
from experiments.harness.intervals import Interval
from experiments.harness.presets import presets
from experiments.harness.style import BLUE, GREEN, ORANGE, SKY, VERMILION, panels
from experiments.harness.turns import turns
from experiments.harness.verdicts import Claim, above, below
from experiments.harness.workspace import Workspace
from lexinv.nn.lexicon import LexiconConfig
from lexinv.training.population import population_here
from lexinv.validation import Checked, Count, Distinct

PAPERS = ()
LARGE_VOCABULARY = 32768

# Not tinier: for small matrices XLA writes out loops of its own, which take longer to compile than these do.
TINY = Problem(transformer(1, 64, 2, 64), batch_size=8, context=64, microbatches=2)
SMALL = Problem(transformer(4, 128, 4, 256), microbatches=2)
LARGE = Problem(transformer(12, 1024, 8, 512, unroll=1, remat=True, dtype="bfloat16"), batch_size=64, context=512)
BLOCKWISE = LexiconConfig(vocab_block=2048)


@dataclass(frozen=True)
class Config(Checked):
    """problem: the step measured against PyTorch and at start-up. overhead: the first one is judged. sweep: varied one size at a time.

    variants: also measure ours without what speeds it up on the CPU, and PyTorch with the same microbatches and compiled.
    steps: timed steps of one block; every side does one block in each of the rounds. cores: that any measured process may use.
    """

    problem: Problem = SMALL
    overhead: Distinct[Problem] = (SMALL, *SMALL.with_vocabularies((4096, 0, 2), (LARGE_VOCABULARY, 2048, 1)))
    memory: Problem = Problem(transformer(4, 512, 8, 512), BLOCKWISE, LARGE_VOCABULARY, batch_size=8, context=512)
    population: Problem = Problem(transformer(2, 64, 2, 64), batch_size=8, context=64)
    sweep: Problem = replace(SMALL, batch_size=4, microbatches=1)
    contexts: Sizes = (64, 128, 256, 512, 1024)
    widths: Sizes = (64, 128, 256, 512)
    vocabs: Sizes = (128, 512, 2048, 8192)
    members: Count = 4
    population_steps: Count = 40
    rounds: Count = 9
    population_rounds: Count = 5
    start_up_rounds: Count = 5
    steps: Count = 6
    variants: bool = True
    cores: Count = 2

    def checks(self):
        for name in ("members", "population_steps"):
            yield getattr(self, name) >= 2, name, "at least 2"


PRESETS = presets(
    Config(),
    smoke={
        "problem": TINY,
        "overhead": (TINY,),
        "memory": replace(TINY, vocab=256, lexicon=LexiconConfig(vocab_block=64), microbatches=1),
        "population": TINY,
        "sweep": TINY,
        "contexts": (32, 64),
        "widths": (32, 64),
        "vocabs": (64, 128),
        "members": 2,
        "population_steps": 2,
        "rounds": 2,
        "population_rounds": 1,
        "start_up_rounds": 1,
        "steps": 2,
        "variants": False,
    },
    paper={
        "problem": LARGE,
        "overhead": (LARGE, *LARGE.with_vocabularies((4096, 0, 8), (LARGE_VOCABULARY, 2048, 8))),
        "memory": replace(LARGE, vocab=LARGE_VOCABULARY, lexicon=BLOCKWISE, batch_size=8),
        "population": Problem(transformer(4, 128, 4, 256)),
        "sweep": replace(LARGE, batch_size=8),
        "contexts": (128, 256, 512, 1024, 2048),
        "widths": (256, 512, 1024, 2048),
        "vocabs": (128, 1024, 8192, LARGE_VOCABULARY),
        "population_steps": 200,
        "cores": 8,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Measure every part; seconds are medians of a block, one for each round."""
    parts = against_torch, overhead, memory, population, start_up, sweep
    return {"used_population": population_here(), **in_parts(workspace, parts, config)}


def against_torch(config: Config, log: Path) -> dict[str, Any]:
    """Our standard step, and without what speeds it up on the CPU; PyTorch eager, with the same microbatches, and compiled."""
    problem = config.problem
    whole = replace(problem, microbatches=1)
    sides = {"lexinv": problem, "torch": whole}
    if config.variants:
        full = replace(problem, model=replace(problem.model, attention="dot_product"))
        sides |= {"lexinv, full attention": full, "torch.compile": whole}
    if config.variants and problem.microbatches > 1:
        sides |= {"lexinv, whole batch": whole, "torch, microbatches": problem}
    sides = dict(sorted(sides.items()))  # ours first, "lexinv" and "torch" before their variants
    measured = alternate_with_torch(sides, log, config.cores, config.rounds, config.steps)
    return {"tokens": problem.tokens, "peak_shares": problem.peak_shares(measured["seconds"]["lexinv"]), **measured}


def overhead(config: Config, log: Path) -> list[dict[str, Any]]:
    """Lexinvariant and standard step in turn, for each problem."""
    size = log, config.cores, config.rounds, config.steps
    pairs = [{"standard": problem, "lexinvariant": problem.lexinvariant} for problem in config.overhead]
    return [
        {"vocab": pair["standard"].vocab, "tokens": pair["standard"].tokens, **in_turns(pair, *size)} for pair in pairs
    ]


def memory(config: Config, log: Path) -> dict[str, Any]:
    """Peak bytes of the compiled steps, as the compiler plans them; nothing is run."""
    problem = config.memory
    steps = {
        "standard": replace(problem, lexicon=LexiconConfig()),
        "standard, blockwise": problem,
        "lexinvariant, blockwise": problem.lexinvariant,
    }
    with Worker(log, config.cores) as worker:
        sizes = {label: worker.ask(planned, problem=step) for label, step in steps.items()}
    shape = f"V={problem.vocab}, D={problem.model.width}, B={problem.batch_size}, T={problem.context}"
    return {"vocab": problem.vocab, "shape": shape, "bytes": sizes}


def population(config: Config, log: Path) -> dict[str, Any]:
    """[seconds that compile, seconds of the steps] of training all members, for each arrangement and round."""
    measured: dict[str, list[list[float]]] = {"none": [], "map": [], "vmap": []}
    size = {"members": config.members, "steps": config.population_steps}
    with Worker(log, config.cores) as worker:
        for kind in turns(measured, config.population_rounds):
            seconds = worker.ask(timed_population, problem=config.population, population=kind, **size)
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
                    seconds[name].append(round(worker.ask(prepare, label=name, problem=config.problem), 4))
    return seconds


def sweep(config: Config, log: Path) -> dict[str, Any]:
    """Seconds of a standard step by size, and the exponent of a power law fitted to them in each round."""
    base, model = config.sweep, config.sweep.model
    per_head = model.width // model.heads
    heads = {n: max(n // per_head, 1) for n in config.widths}
    wide = {n: replace(model, width=n, mlp_width=4 * n, heads=heads[n]) for n in config.widths}
    axes = {
        "context": {n: replace(base, context=n, model=replace(model, max_length=n)) for n in config.contexts},
        "width": {n: replace(base, model=wide[n]) for n in config.widths},
        "vocabulary": {n: replace(base, vocab=n) for n in config.vocabs},
    }
    return size_sweep(axes, log, config.cores, config.rounds, config.steps)


def lexicon_ratios(results: dict[str, Any]) -> dict[str, Interval]:
    """Time of the lexinvariant over the standard step, by vocabulary."""
    parts = {f"V={part['vocab']}": part["seconds"] for part in results["overhead"]}
    return {label: times(seconds["lexinvariant"], seconds["standard"]) for label, seconds in parts.items()}


def population_ratios(measured: dict[str, Any]) -> dict[str, Interval]:
    """How many times as fast as runs one after another, everything included."""
    totals = {kind: np.sum(rounds, axis=1) for kind, rounds in measured["seconds"].items()}
    return {kind: times(totals["none"], totals[kind]) for kind in ("map", "vmap")}


def memory_ratios(measured: dict[str, Any]) -> dict[str, float]:
    sizes = measured["bytes"]
    return {f"over {one}": sizes["lexinvariant, blockwise"] / sizes[one] for one in ("standard", "standard, blockwise")}


def claims(results: dict[str, Any]) -> list[Claim]:
    """Our own promises about speed and memory; too small a size is not judged."""
    against, sizes, begun = results["against_torch"], results["memory"], results["start_up"]
    members, steps = (results["population"][name] for name in ("members", "steps"))
    lexica, used = lexicon_ratios(results), results["used_population"]
    vocabulary = next(iter(lexica))
    return [
        *speed(
            "not_slower_than_torch",
            f"Tokens per second of our train step over PyTorch {against['torch']} eager (fused AdamW, scaled_dot_product_attention) on the "
            "same cores.",
            over_ours(against["seconds"]),
            {"torch": 1.0},
        ),
        *promise(
            "uses_the_device",
            f"Share of the device's peak that the model's operations of our train step are, from width {WIDE} on.",
            {"lexinv": np.array(against["peak_shares"])} if against.get("peak_shares") else {},
            above(0.35),
            "share of the peak",
        ),
        *promise(
            "lexicon_overhead",
            f"Time of the lexinvariant over the standard train step at {vocabulary}.",
            lexica,
            {vocabulary: below(1.05)},
            "ratio of times",
        ),
        *promise(
            "large_vocabulary_memory",
            f"Peak memory of the lexinvariant train step over the standard one, whole or blockwise, at {sizes['shape']}.",
            memory_ratios(sizes) if sizes["vocab"] >= LARGE_VOCABULARY else {},
            below(1.5),
            "ratio of bytes",
            over="one compilation",
        ),
        *speed(
            "population_throughput",
            f"{members} seeds of {steps} steps as one population (`{used}` here) against runs one after another, compiling included.",
            population_ratios(results["population"]),
            {used: 1.0},
        ),
        *promise(
            "quick_start",
            "Wall clock of a fresh process that lists the experiments, and of importing lexinv beyond importing jax.",
            {
                "experiments list": np.array(begun["python -m experiments list"]),
                "import lexinv.nn, .training": np.subtract(begun["import lexinv.nn, .training"], begun["import jax"]),
            },
            below(1.0),
            "s",
            over="starts",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Speed against PyTorch, the ratios of the other parts, step time by size, and start-up."""
    titles = ("Train step", "What a lexicon and more seeds cost", "Size sweep", "Start-up")
    drawn, (rates, costs, growing, begin) = panels(2, 2, width=5.2, titles=titles)
    seconds, members = results["against_torch"]["seconds"], results["population"]["members"]
    base = "torch" if "torch" in seconds else "lexinv"
    speeds = {label: times(seconds[base], found) for label, found in seconds.items()}
    bars(rates, speeds, [BLUE if label.startswith("lexinv") else VERMILION for label in speeds])
    unit = results["against_torch"]["tokens"] / median(seconds[base])
    rates.set(xlabel=f"tokens per second, over {base} ({unit:,.0f})")
    lexica, memories = lexicon_ratios(results), memory_ratios(results["memory"])
    ratios = {f"time of a lexicon\n{label}": ratio for label, ratio in lexica.items()}
    ratios |= {f"memory {label}": ratio for label, ratio in memories.items()}
    for kind, ratio in population_ratios(results["population"]).items():
        ratios[f"speed of {members} seeds\nas one ({kind})"] = ratio
    bars(costs, ratios, [ORANGE] * len(lexica) + [GREEN] * 2 + [SKY] * 2)
    costs.set(xlabel="ratio")
    for axes in (rates, costs):
        mark(axes, 1.0)
    by_size(growing, results["sweep"], relative=True)
    growing.set(xlabel="size, over the smallest", ylabel="seconds per step")
    bars(begin, results["start_up"], BLUE)
    begin.set(xlabel="seconds")
    return drawn
