"""Forward passes of a ViT-S with token merging against PyTorch: speed-ups, what matching costs, compiling, size sweep, matching alone.

Sides take turns in short blocks in processes of their own, with the same allocator settings, and medians are compared. PyTorch
runs our own writing of ToMe (Bolya et al. 2023, arXiv 2210.09461), and `tomesd` its matching on a grid (arXiv 2303.17604); method card
token-merging.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.benchmarks.alternating import alternate_with_torch, ratio, size_sweep
from experiments.benchmarks.merging_problem import MatchingProblem, MergingProblem
from experiments.benchmarks.worker import Worker
from experiments.harness.claims import Claim, interval
from experiments.harness.style import BLUE, GREEN, GREY, PALETTE, VERMILION, panels, styled
from experiments.harness.turns import significant
from experiments.harness.workspace import Workspace
from lexinv.validation import require

PAPER = """\
@inproceedings{bolya2023token,
  title     = {Token Merging: Your {ViT} But Faster},
  author    = {Bolya, Daniel and Fu, Cheng-Yang and Dai, Xiaoliang and Zhang, Peizhao and Feichtenhofer, Christoph and Hoffman, Judy},
  booktitle = {International Conference on Learning Representations},
  year      = {2023},
  note      = {arXiv:2210.09461}
}"""
SOURCE = "our own benchmark, no published counterpart"
ENOUGH_ROUNDS, ENOUGH_STARTS = 5, 3  # with fewer nothing is judged
SPEEDUP, OVERHEAD, TORCH, AIM, TOMESD = 1.6, 0.05, 1.0, 1.1, 1.0
COMPILE_SECONDS, CACHED = 20.0, 0.1


@dataclass(frozen=True)
class Config:
    """problem: the encoder, with the r that is judged. rs: all that are measured, from 0 to that. sweep: another encoder, whose patches
    a side are varied over `across`, without merging and merging the same share of its tokens.

    steps: passes of one block; every side does one block in each of the rounds. matching_steps: the same of matching alone.
    starts: fresh processes with an empty and then a filled cache of compiled programs. cores: that any measured process may use.
    """

    problem: MergingProblem
    rs: tuple[int, ...]
    sweep: MergingProblem
    across: tuple[int, ...]
    matching: MatchingProblem
    rounds: int = 7
    steps: int = 2
    matching_steps: int = 50
    starts: int = 3
    cores: int = 2

    def __post_init__(self):
        for name in ("rounds", "steps", "matching_steps", "starts", "cores"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("rs", "across"):
            values = getattr(self, name)
            require(len(values) >= 2 and list(values) == sorted(set(values)), name, values, "rising, two or more")
        ends = (self.rs[0], self.rs[-1]) == (0, self.problem.r)
        require(ends, "rs", self.rs, f"from 0 to problem.r = {self.problem.r}")
        require(self.across[0] >= 1, "across", self.across, "at least 1 patch")


def vit(depth: int, width: int, **rest: Any) -> MergingProblem:
    """As ViT-S and its relatives: heads of 64 channels, an MLP of four times the width."""
    return MergingProblem(depth=depth, width=width, heads=max(width // 64, 1), mlp_width=4 * width, **rest)


PRESETS = {
    "smoke": Config(
        problem=vit(1, 64, across=3, batch_size=2, classes=10, r=2),
        rs=(0, 2),
        sweep=vit(1, 64, across=3, batch_size=2, classes=10, r=2),
        across=(2, 3),
        matching=MatchingProblem(batch_size=2, height=4, width=4, dim=16, r=3),
        rounds=1,
        steps=1,
        matching_steps=2,
        starts=1,
    ),
    "cpu": Config(
        problem=vit(12, 384, r=13),
        rs=(0, 4, 8, 13),
        sweep=vit(4, 384, r=13),
        across=(7, 10, 14, 20),
        matching=MatchingProblem(),
    ),
    "paper": Config(
        problem=vit(12, 768, batch_size=256, r=13, dtype="bfloat16"),
        rs=(0, 8, 13),
        sweep=vit(12, 768, batch_size=64, r=13, dtype="bfloat16"),
        across=(7, 14, 28),
        matching=MatchingProblem(height=64, width=64, r=2048),
        steps=10,
        cores=8,
    ),
}


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Measure every part; seconds are medians of a block, one for each round."""
    from rich.progress import track

    log = workspace.folder("workers") / "log.txt"
    parts: dict[str, Callable[[Config, Path], Any]] = {
        "passes": passes,
        "starts": starts,
        "matching": matching,
        "sweep": sweep,
    }
    results: dict[str, Any] = {"corpora": {}, "seeds": [0]}
    for name, measure in track(parts.items(), "merging", disable=not workspace.progress):
        results[name] = workspace.cached(name, lambda measure=measure: measure(config, log))
    return results


def passes(config: Config, log: Path) -> dict[str, Any]:
    """Ours at every r, and at the judged one with plans made beforehand; PyTorch's at every r."""
    problems = {r: replace(config.problem, r=r) for r in config.rs}
    ours = {side("lexinv", r): problem for r, problem in problems.items()}
    ours["lexinv, plans given"] = replace(config.problem, plans="given")
    theirs = {side("torch", r): (problem, False) for r, problem in problems.items()}
    measured = alternate_with_torch(ours, theirs, log, config.cores, config.rounds, config.steps, kind="merging")
    counted = {"flops": [problem.flops for problem in problems.values()], "rs": list(config.rs)}
    problem = config.problem
    sizes = f"{problem.depth} layers, width {problem.width}, {problem.tokens} tokens, {problem.dtype}"
    return {"sizes": sizes, "images": config.problem.batch_size, **counted, **measured}


def side(library: str, r: int) -> str:
    return f"{library}, r={r}"


def starts(config: Config, log: Path) -> dict[str, list[dict[str, float]]]:
    """Starts of the judged pass in fresh processes, by part, with an empty cache of compiled programs and with the one that leaves."""
    found: dict[str, list[dict[str, float]]] = {"first": [], "second": []}
    for _ in range(config.starts):
        with TemporaryDirectory() as cache:
            for times in found.values():
                with Worker(log, config.cores, Path(cache)) as worker:
                    seconds = worker.ask("start", problem=config.problem)
                times.append({name: significant(value) for name, value in seconds.items()})
    return found


def matching(config: Config, log: Path) -> dict[str, Any]:
    """From features on a grid to what merges with what: ours and `tomesd`'s."""
    there = find_spec("torch") is not None and find_spec("tomesd") is not None
    sides = {"lexinv": config.matching}, {"tomesd": (config.matching, False)} if there else {}
    steps = config.matching_steps
    measured = alternate_with_torch(*sides, log, config.cores, config.rounds, steps, kind="matching")
    if not there:
        measured["left_out"] = {"tomesd": "tomesd or PyTorch is not installed (extra `interop`)"}
    grid = f"{config.matching.height} x {config.matching.width}"
    return {"grid": grid, "r": config.matching.r, "examples": config.matching.batch_size, **measured}


def sweep(config: Config, log: Path) -> dict[str, Any]:
    """Seconds of a pass by tokens, and the exponent of a power law fitted to them in each round."""
    base = config.sweep
    axes: dict[str, dict[int, MergingProblem]] = {"without merging": {}, "merging": {}}
    for across in config.across:
        problem = replace(base, across=across, r=0)
        axes["without merging"][problem.tokens] = problem
        axes["merging"][problem.tokens] = replace(problem, r=round(base.r * problem.tokens / base.tokens))
    with Worker(log, config.cores) as worker:
        return size_sweep(axes, worker, config.rounds, 1, kind="merging")


def speedups(measured: dict[str, Any], library: str) -> dict[str, dict[str, Any]]:
    """By r: the speed-up over the same library without merging, and which share of the saving in FLOPs became saved time."""
    seconds, found = measured["seconds"], {}
    for r, flops in zip(measured["rs"][1:], measured["flops"][1:], strict=True):
        base, merged = seconds[side(library, 0)], seconds[side(library, r)]
        theory = measured["flops"][0] / flops
        saved = (1 - median(merged) / median(base)) / (1 - 1 / theory)
        found[f"r={r}"] = {**ratio(base, merged), "by FLOPs": significant(theory), "share": significant(saved)}
    return found


def overhead(measured: dict[str, Any]) -> dict[str, Any]:
    """The share of a merged pass that goes when its plans are given."""
    given = measured["seconds"]["lexinv, plans given"], measured["seconds"][side("lexinv", measured["rs"][-1])]
    rounds = [1 - a / b for a, b in zip(*given, strict=True)]
    return {"share": 1 - median(given[0]) / median(given[1]), "by_round": interval(rounds)}


def over_torch(measured: dict[str, Any]) -> dict[str, dict[str, Any]] | None:
    """PyTorch's time over ours by r; None without PyTorch."""
    seconds = measured["seconds"]
    if side("torch", 0) not in seconds:
        return None
    return {f"r={r}": ratio(seconds[side("torch", r)], seconds[side("lexinv", r)]) for r in measured["rs"]}


def judged(verdict: bool, *measured: dict[str, Any]) -> bool | None:
    """The verdict, or None for too few rounds."""
    return verdict if all(found["by_round"].n >= ENOUGH_ROUNDS for found in measured) else None


def claims(results: dict[str, Any]) -> list[Claim]:
    """Our own promises about speed. The ratio of medians decides; too few rounds cannot tell."""
    measured, alone, begun = results["passes"], results["matching"], results["starts"]
    sizes, last = measured["sizes"], f"r={measured['rs'][-1]}"
    ours, against, cost = speedups(measured, "lexinv"), over_torch(measured), overhead(measured)
    speed = ours[last]
    theirs = speedups(measured, "torch") if against else measured["left_out"]
    grid = ratio(alone["seconds"]["tomesd"], alone["seconds"]["lexinv"]) if "tomesd" in alone["seconds"] else None
    cold, warm = ([start["compile"] for start in begun[name]] for name in ("first", "second"))
    waits = [start["trace"] + start["compile"] for start in begun["first"]]
    programs = max(start["programs"] for part in begun.values() for start in part)
    cached = max(b / a for a, b in zip(cold, warm, strict=True))
    parts = {
        name: {part: median(start[part] for start in done) for part in done[0] if part != "programs"}
        for name, done in begun.items()
    }
    enough = len(waits) >= ENOUGH_STARTS
    return [
        Claim(
            "merging_speedup",
            f"Images per second with {last} over those without merging, ours, in a Vision Transformer of {sizes}; beside it the ratio "
            "of FLOPs and which share of the saving in FLOPs became saved time.",
            SOURCE,
            "ViT-B/16 at r=13 on a V100: 309 -> 511 images per second, 1.65x (README of facebookresearch/ToMe)",
            {"lexinv": ours, "torch": theirs},
            f"ratio of medians at {last} at least {SPEEDUP}",
            judged(speed["ratio"] >= SPEEDUP, speed),
        ),
        Claim(
            "matching_overhead_below_5_percent",
            f"Share of a pass with {last} that goes when the plans are given and not made: keys averaged, similarities, matching.",
            SOURCE,
            None,
            cost,
            f"by medians below {OVERHEAD}",
            judged(cost["share"] < OVERHEAD, cost),
        ),
        Claim(
            "not_slower_than_torch",
            f"Images per second of ours over those of PyTorch {measured['torch']} at equal r on the same cores (eager, "
            f"scaled_dot_product_attention, the log sizes added where tokens have been merged). We aim for {AIM}.",
            SOURCE,
            None,
            against or measured["left_out"],
            f"ratio of medians at least {TORCH} at every r",
            against and judged(all(found["ratio"] >= TORCH for found in against.values()), *against.values()),
        ),
        Claim(
            "compile_below_20_seconds",
            f"Seconds of tracing and compiling the pass with {last}, whose layers all differ in shape, with an empty cache of compiled "
            "programs; and how many programs further calls make.",
            SOURCE,
            None,
            {"seconds": waits, "parts of a start, medians": parts, "programs": programs},
            f"below {COMPILE_SECONDS:g} s in each of {ENOUGH_STARTS} starts or more, one program",
            max(waits) < COMPILE_SECONDS and programs == 1 if enough else None,
        ),
        Claim(
            "second_start_free",
            f"Seconds of compiling the pass with {last} in a second process, which finds it in the cache, over those in the first.",
            SOURCE,
            None,
            {"first": cold, "second": warm, "largest ratio": cached},
            f"at most {CACHED} in each of {ENOUGH_STARTS} starts or more",
            cached <= CACHED if enough else None,
        ),
        Claim(
            "matching_not_slower_than_tomesd",
            f"Time of tomesd's matching over ours: r={alone['r']} of {alone['grid']} tokens of {alone['examples']} examples, one of each "
            "2 x 2 a destination, from features to which merges into which.",
            SOURCE,
            None,
            grid or alone["left_out"],
            f"ratio of medians at least {TOMESD}",
            grid and judged(grid["ratio"] >= TOMESD, grid),
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Images per second and speed-up by r, size sweep, and the parts of a start."""
    measured = results["passes"]
    rs, seconds = measured["rs"], measured["seconds"]
    libraries = {"lexinv": BLUE, "torch": VERMILION} if over_torch(measured) else {"lexinv": BLUE}
    drawn, (speed, gain, sizes, begin) = panels(2, 2, width=5.2)
    with styled():
        for library, color in libraries.items():
            times = [seconds[side(library, r)] for r in rs]
            images = [measured["images"] / median(row) for row in times]
            speed.plot(rs, images, "o-", color=color, label=library)
            ratios = [found["ratio"] for found in speedups(measured, library).values()]
            gain.plot(rs, [1.0, *ratios], "o-", color=color, label=library)
        gain.plot(rs, [measured["flops"][0] / flops for flops in measured["flops"]], "--", color=GREY, label="by FLOPs")
        speed.set(title=f"{measured['sizes']}", xlabel="r, tokens merged in each layer", ylabel="images per second")
        speed.set_ylim(bottom=0)
        share = overhead(measured)["share"]
        gain.set(title="Speed-up by merging", xlabel="r, tokens merged in each layer", ylabel="over r=0")
        gain.text(0.98, 0.04, f"matching takes {share:.1%} at r={rs[-1]}", transform=gain.transAxes, ha="right")
        for (axis, found), color in zip(results["sweep"].items(), PALETTE, strict=False):
            label = f"{axis}: exponent {interval(found['exponents']).mean:.2f}"
            middle = 1e3 * np.median(found["seconds"], axis=1)
            sizes.loglog(found["sizes"], middle, "o-", color=color, label=label)
        sizes.set(title="Size sweep", xlabel="tokens of the first layer", ylabel="milliseconds per pass")
        for axes in (speed, gain, sizes):
            axes.legend()
        bars: dict[str, float] = {}
        for name, done in results["starts"].items():
            for part in ("prepare", "trace", "compile"):
                bars[f"{name} start: {part}"] = median(start[part] for start in done)
        colors = [BLUE] * 3 + [GREEN] * 3
        begin.bar_label(begin.barh(list(bars), list(bars.values()), color=colors, height=0.6), fmt=" %.2f", fontsize=8)
        begin.invert_yaxis()
        begin.margins(x=0.18)
        begin.grid(visible=False, axis="y")
        begin.set(title="Until the first pass", xlabel="seconds")
    return drawn
