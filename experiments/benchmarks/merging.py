"""Forward passes with token merging against PyTorch: speed-ups, what matching costs, compiling, size sweep, matching alone, DINOv2-S.

Sides take turns in short blocks in processes of their own, with the same allocator settings. PyTorch runs our own writing of ToMe (Bolya
et al. 2023, arXiv 2210.09461), and `tomesd` its matching on a grid (arXiv 2303.17604); method card token-merging. Parameters are random:
speed does not depend on them. For another model's throughput: `run benchmarks/merging --model vit-b --r 0 8 13`.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import numpy as np
from matplotlib.figure import Figure

from experiments.benchmarks.alternating import Sizes, alternate_with_torch, in_parts, in_turns, size_sweep
from experiments.benchmarks.merging_problem import AppliedProblem, MatchingProblem, MergingProblem, timed_start
from experiments.benchmarks.promises import bars, by_size, over_ours, promise, speed, times
from experiments.benchmarks.worker import Worker
from experiments.harness.curves import significant
from experiments.harness.intervals import Interval
from experiments.harness.presets import presets
from experiments.harness.style import BLUE, GREEN, GREY, VERMILION, panels
from experiments.harness.verdicts import Claim, above, below
from experiments.harness.workspace import Workspace
from lexinv.merging.costs import relative_flops
from lexinv.merging.schedules import ratio_schedule, token_counts
from lexinv.validation import Checked, Count, Distinct, Fraction, one_of

PAPERS = ()
STARTS = {"first": "empty cache", "second": "filled cache"}
COLORS = {"lexinv": BLUE, "torch": VERMILION}


def vit(depth: int, width: int, **rest: Any) -> MergingProblem:
    """As ViT-S and its relatives: heads of 64 channels, an MLP of four times the width."""
    return MergingProblem(depth=depth, width=width, heads=max(width // 64, 1), mlp_width=4 * width, **rest)


MODELS = {
    "tiny": vit(1, 64, across=3, classes=10),
    "vit-ti": vit(12, 192),
    "vit-s": vit(12, 384),
    "vit-b": vit(12, 768),
    "vit-l": vit(24, 1024),
    "dinov2-s": vit(12, 384, across=16, patch=14, layer_scale=True),
    "minilm": replace(vit(6, 384, text=128), heads=12),
}
"""Of images of 224 pixels; MiniLM of texts of 128 tokens. The tiny one shows nothing but that all runs."""
APPLIED = ("tome", "pitome")


@dataclass(frozen=True)
class Config(Checked):
    """model: whose passes are timed, by r, the tokens that each layer merges; the last r is judged. batch_size: images or texts of a pass.

    sweep: another encoder, whose patches a side are varied over `across`, without merging and merging the same share of its tokens.
    applied: the model that users have methods put into, every layer keeping `ratio` of its patches, with `applied_batch_size` images.
    steps: passes of one block; every side does one block in each of the rounds. matching_steps: the same of matching alone.
    starts: fresh processes with an empty and then a filled cache of compiled programs. cores: that any measured process may use.
    """

    model: Annotated[str, one_of(MODELS)] = "vit-s"
    r: Distinct[int] = (0, 4, 8, 13)
    batch_size: Count = 8
    dtype: Literal["float32", "bfloat16"] = "float32"
    sweep: MergingProblem = vit(4, 384, r=13)
    across: Sizes = (7, 10, 14, 20)
    matching: MatchingProblem = MatchingProblem()
    applied: Annotated[str, one_of(MODELS)] = "dinov2-s"
    ratio: Fraction = 0.9
    applied_batch_size: Count = 16
    rounds: Count = 7
    steps: Count = 2
    matching_steps: Count = 50
    starts: Count = 3
    cores: Count = 2

    @property
    def problem(self) -> MergingProblem:
        """The judged one."""
        return replace(MODELS[self.model], batch_size=self.batch_size, dtype=self.dtype, r=self.r[-1])

    def checks(self):
        rising = len(self.r) >= 2 and list(self.r) == sorted(self.r) and self.r[0] == 0
        yield rising, "r", "two or more, rising from 0"
        yield not MODELS[self.applied].text, "applied", "a model of images"


SMALL = vit(1, 64, across=3, batch_size=2, classes=10, r=2)
PRESETS = presets(
    Config(),
    smoke={
        "model": "tiny",
        "r": (0, 2),
        "batch_size": 2,
        "sweep": SMALL,
        "across": (2, 3),
        "matching": MatchingProblem(batch_size=2, height=4, width=4, dim=16, r=3),
        "applied": "tiny",
        "applied_batch_size": 2,
        "rounds": 1,
        "steps": 1,
        "matching_steps": 2,
        "starts": 1,
    },
    paper={
        "model": "vit-b",
        "r": (0, 8, 13),
        "batch_size": 256,
        "dtype": "bfloat16",
        "sweep": vit(12, 768, batch_size=64, r=13, dtype="bfloat16"),
        "across": (7, 14, 28),
        "matching": MatchingProblem(height=64, width=64, r=2048),
        "steps": 10,
        "cores": 8,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Measure every part; seconds are medians of a block, one for each round."""
    return in_parts(workspace, (passes, starts, matching, sweep, applied), config)


def passes(config: Config, log: Path) -> dict[str, Any]:
    """Ours at every r, and at the judged one with plans made beforehand; PyTorch's at every r, of images."""
    problem = config.problem
    problems = {r: replace(problem, r=r) for r in config.r}
    sides = {side("lexinv", r): one for r, one in problems.items()}
    sides["lexinv, plans given"] = replace(problem, plans="given")
    if not problem.text:
        sides |= {side("torch", r): one for r, one in problems.items()}
    measured = alternate_with_torch(sides, log, config.cores, config.rounds, config.steps)
    return {
        "sizes": f"{config.model}: {problem.depth} layers, width {problem.width}, {problem.tokens} tokens, {problem.dtype}",
        "batch_size": problem.batch_size,
        "flops": [one.flops for one in problems.values()],
        "rs": list(config.r),
        **measured,
    }


def applied(config: Config, log: Path) -> dict[str, Any]:
    """Seconds of passes of a model as users have it, whole and with methods."""
    model = replace(MODELS[config.applied], batch_size=config.applied_batch_size)
    sides = {"whole": AppliedProblem(model), **{name: AppliedProblem(model, name, config.ratio) for name in APPLIED}}
    counts = token_counts(model.tokens, ratio_schedule(model.tokens, model.depth, config.ratio))
    flops = relative_flops(counts, model.width, model.mlp_width)
    named = {"model": config.applied, "ratio": config.ratio, "images": model.batch_size, "flops": significant(flops)}
    return {**named, **in_turns(sides, log, config.cores, config.rounds, config.steps)}


def side(library: str, r: int) -> str:
    return f"{library}, r={r}"


def starts(config: Config, log: Path) -> dict[str, list[dict[str, float]]]:
    """Starts of the judged pass in fresh processes, by part, with an empty cache of compiled programs and with the one that leaves."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in STARTS}
    for _ in range(config.starts):
        with TemporaryDirectory() as cache:
            for begun in found.values():
                with Worker(log, config.cores, Path(cache)) as worker:
                    seconds = worker.ask(timed_start, problem=config.problem)
                begun.append({name: significant(value) for name, value in seconds.items()})
    return found


def matching(config: Config, log: Path) -> dict[str, Any]:
    """From features on a grid to what merges with what: ours and `tomesd`'s."""
    problem, length = config.matching, (config.cores, config.rounds, config.matching_steps)
    measured = alternate_with_torch(dict.fromkeys(("lexinv", "tomesd"), problem), log, *length, ("torch", "tomesd"))
    grid = f"{problem.height} x {problem.width}"
    return {"grid": grid, "r": problem.r, "examples": problem.batch_size, **measured}


def sweep(config: Config, log: Path) -> dict[str, Any]:
    """Seconds of a pass by tokens, without merging and with it."""
    plain = [replace(config.sweep, across=across, r=0) for across in config.across]
    share = config.sweep.r / config.sweep.tokens
    merging = {problem.tokens: replace(problem, r=round(share * problem.tokens)) for problem in plain}
    axes = {"without merging": {problem.tokens: problem for problem in plain}, "merging": merging}
    return size_sweep(axes, log, config.cores, config.rounds, 1)


def speedups(measured: dict[str, Any], library: str) -> dict[str, Interval]:
    """By r, how many times as fast as the same library without merging; nothing where it was not measured."""
    seconds = measured["seconds"]
    return {
        side(library, r): times(seconds[side(library, 0)], seconds[side(library, r)])
        for r in measured["rs"][1:]
        if side(library, r) in seconds
    }


def claims(results: dict[str, Any]) -> list[Claim]:
    """Our own promises about speed."""
    measured, alone, begun = results["passes"], results["matching"], results["starts"]
    seconds, rs = measured["seconds"], measured["rs"]
    made = f"r={rs[-1]}"
    cold, warm = (np.array([start["compile"] for start in begun[name]]) for name in STARTS)
    waits = np.array([start["trace"] + start["compile"] for start in begun["first"]])
    both = [r for r in rs if side("torch", r) in seconds]
    against = {f"r={r}": times(seconds[side("torch", r)], seconds[side("lexinv", r)]) for r in both}
    real = results["applied"]
    bar = round(0.94 * measured["flops"][0] / measured["flops"][-1], 2)
    return [
        *speed(
            "merging_speedup",
            f"Inputs per second with {made} over those without merging, ours, in {measured['sizes']}: at least .94 of what FLOPs give.",
            {**speedups(measured, "lexinv"), **speedups(measured, "torch")},
            {side("lexinv", rs[-1]): bar},
            "ViT-B/16 at r=13 on a V100: 309 -> 511 images per second, 1.65x (README of facebookresearch/ToMe)",
        ),
        *speed(
            "reduced_dinov2_speedup",
            f"Images per second of {real['model']} at batch {real['images']} over those of the whole model, every layer keeping "
            f"{real['ratio']} of its patches ({real['flops']:.2f} of the FLOPs).",
            {name: times(real["seconds"]["whole"], real["seconds"][name]) for name in APPLIED},
            1.5,
        ),
        *promise(
            "matching_overhead_below_5_percent",
            f"Of a pass with {made} less than 5 % go when the plans are given and not made: keys averaged, similarities, matching.",
            {"plans given over made": times(seconds["lexinv, plans given"], seconds[side("lexinv", rs[-1])])},
            above(0.95),
            "ratio of times",
        ),
        *speed(
            "not_slower_than_torch",
            f"Images per second of ours over those of PyTorch {measured['torch']} at equal r on the same cores (eager, "
            "scaled_dot_product_attention, the log sizes added where tokens have been merged).",
            against,
            1.0,
        ),
        *promise(
            "compile_below_20_seconds",
            f"Seconds of tracing and compiling the pass with {made}, whose layers all differ in shape, with an empty cache of compiled "
            "programs; and how many programs further calls make.",
            {"seconds": waits, "programs": max(start["programs"] for part in begun.values() for start in part)},
            {"seconds": below(20).every_seed, "programs": below(2)},
            "seconds, and programs",
            over="starts",
        ),
        *promise(
            "second_start_free",
            f"Seconds of compiling the pass with {made} in a second process, which finds it in the cache, over those in the first.",
            {"second over first": warm / cold},
            below(0.1).every_seed,
            "ratio of times",
            over="starts",
        ),
        *speed(
            "matching_not_slower_than_tomesd",
            f"Matching, ours against tomesd's: r={alone['r']} of {alone['grid']} tokens of {alone['examples']} examples, one of each 2 x 2 "
            "a destination, from features to which merges into which.",
            over_ours(alone["seconds"]),
            1.0,
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Inputs per second and speed-up by r, size sweep, and the parts of a start."""
    measured = results["passes"]
    rs, seconds = measured["rs"], measured["seconds"]
    titles = (measured["sizes"], "Speed-up by merging", "Size sweep", "Until the first pass")
    drawn, (images, gain, growing, begin) = panels(2, 2, width=5.2, titles=titles)
    for library, color in COLORS.items():
        if side(library, 0) not in seconds:
            continue
        rates = measured["batch_size"] / np.array([seconds[side(library, r)] for r in rs])
        images.plot(rs, np.median(rates, axis=1), "o-", color=color, label=library)
        images.vlines(rs, rates.min(axis=1), rates.max(axis=1), color=color, linewidth=0.8)
        found = list(speedups(measured, library).values())
        gain.plot(rs, [1.0, *(one.mean for one in found)], "o-", color=color, label=library)
        if found[0].low is not None:
            gain.vlines(rs[1:], [one.low for one in found], [one.high for one in found], color=color, linewidth=0.8)
    gain.plot(rs, [measured["flops"][0] / flops for flops in measured["flops"]], "--", color=GREY, label="by FLOPs")
    images.set(xlabel="r, tokens merged in each layer", ylabel="inputs per second", ylim=(0, None))
    gain.set(xlabel="r, tokens merged in each layer", ylabel="over r=0")
    by_size(growing, results["sweep"])
    growing.set(xlabel="tokens of the first layer", ylabel="seconds per pass")
    for axes in (images, gain):
        axes.legend()
    parts = {
        f"{part}, {STARTS[name]}": [start[part] for start in done]
        for name, done in results["starts"].items()
        for part in ("prepare", "trace", "compile")
    }
    bars(begin, parts, [BLUE] * 3 + [GREEN] * 3)
    begin.set(xlabel="seconds")
    return drawn
