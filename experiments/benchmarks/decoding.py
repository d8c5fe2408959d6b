"""Seconds of a token: with a cache against reading everything again, against PyTorch with its own cache, and by the room of the cache.

What a forward of n tokens costs, in forwards of one: what speculative decoding has to beat. And one layer's attention over long caches,
to all of it or to selected tokens (method card tokenselect). The sides take turns, as in `benchmarks/train_step`.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.benchmarks.alternating import Sizes, alternate_with_torch, growth, in_parts, in_turns
from experiments.benchmarks.decoding_problem import DecodingProblem
from experiments.benchmarks.problems import transformer
from experiments.benchmarks.promises import bars, by_size, mark, promise, speed, times
from experiments.benchmarks.selection_problem import SelectionProblem
from experiments.harness.presets import presets
from experiments.harness.style import BLUE, GREY, VERMILION, panels
from experiments.harness.verdicts import Claim, below
from experiments.harness.workspace import Workspace
from lexinv.merging.cache_selection import Selection
from lexinv.validation import Checked, Count

PAPERS = ()


@dataclass(frozen=True)
class Config(Checked):
    """problem: measured against the others. batches: with PyTorch. slots: many, against those of the problem. nodes: of a forward.

    forwards: of `nodes` tokens in a call. calls: of one block. cores: that a measured process may use. compiled: also torch.compile.
    selection, cached: of so many tokens the selected ones.
    """

    problem: DecodingProblem = DecodingProblem(transformer(4, 256, 4, 2048))
    batches: Sizes = (1, 32)
    slots: Count = 2048
    nodes: Sizes = (1, 2, 4, 8, 16, 27, 81)
    forwards: Count = 32
    selection: SelectionProblem = SelectionProblem()
    cached: Sizes = (4096, 16_384, 65_536)
    rounds: Count = 7
    calls: Count = 1
    compiled: bool = False
    cores: Count = 2

    def checks(self):
        yield self.nodes[0] == 1, "nodes", "from 1 on: costs are counted in forwards of one token"
        _ = [replace(self.problem, slots=self.slots), *self.forward_of.values()]  # refuses what has no room

    @property
    def forward_of(self) -> dict[str, DecodingProblem]:
        """By how many nodes it has."""
        problem = replace(self.problem, way="nodes", steps=self.forwards)
        return {str(n): replace(problem, nodes=n) for n in self.nodes}


PRESETS = presets(
    Config(),
    smoke={
        "problem": DecodingProblem(transformer(1, 32, 2, 32), vocab=32, prompt=4, steps=4, slots=8),
        "batches": (1, 2),
        "slots": 16,
        "nodes": (1, 2),
        "forwards": 2,
        "selection": SelectionProblem(2, 1, 8, 64, Selection("soft", k=16, first=4, local=8), 2, 4),
        "cached": (64, 128),
        "rounds": 2,
    },
    paper={
        "problem": DecodingProblem(transformer(12, 1024, 16, 8192), vocab=32_768, steps=512, slots=1024),
        "slots": 8192,
        "cores": 8,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Seconds of a token of every sequence, or of a forward of nodes: a median for each round."""
    parts = in_parts(workspace, (against_reading_again, against_torch, by_slots, by_nodes, by_selection), config)
    return {"problem": {"slots": config.problem.slots, "many": config.slots}, **parts}


def against_reading_again(config: Config, log: Path) -> dict[str, Any]:
    """The same texts with a cache and without."""
    sides = {"lexinv": config.problem, "reading again": replace(config.problem, way="again")}
    return in_turns(sides, log, config.cores, config.rounds, config.calls)


def against_torch(config: Config, log: Path) -> dict[str, Any]:
    """Ours and PyTorch's by how many sequences there are."""
    libraries = ("lexinv", "torch", "torch.compile")[: 3 if config.compiled else 2]
    sides = {
        f"{library} {batch}": replace(config.problem, batch=batch) for batch in config.batches for library in libraries
    }
    return alternate_with_torch(sides, log, config.cores, config.rounds, config.calls)


def by_slots(config: Config, log: Path) -> dict[str, Any]:
    """The same texts in a cache with room for more."""
    sides = {str(n): replace(config.problem, slots=n) for n in (config.problem.slots, config.slots)}
    return in_turns(sides, log, config.cores, config.rounds, config.calls)


def by_nodes(config: Config, log: Path) -> dict[str, Any]:
    """Forwards by how many tokens they have."""
    return in_turns(config.forward_of, log, config.cores, config.rounds, config.calls)


def by_selection(config: Config, log: Path) -> dict[str, Any]:
    """A step over so many cached tokens: to all, to selected ones, to those of a choice that is kept while queries are alike."""
    base = config.selection
    ways = {
        "lexinv full": replace(base, selection=replace(base.selection, policy="full")),
        "lexinv selected": base,
        "lexinv reused": replace(base, selection=replace(base.selection, theta=0.9)),
        "torch selected": base,
    }
    sides = {f"{way} {n}": replace(problem, slots=n) for n in config.cached for way, problem in ways.items()}
    found = alternate_with_torch(sides, log, config.cores, config.rounds, config.calls)
    seconds = found["seconds"]
    grown = {
        way: growth(config.cached, [seconds[f"{way} {n}"] for n in config.cached])
        for way in ways
        if f"{way} {config.cached[0]}" in seconds
    }
    return found | {"growth": grown, "reused": 1 - 1 / base.period}


def claims(results: dict[str, Any]) -> list[Claim]:
    """What a cache saves, how PyTorch compares, and that room costs nothing until it is used."""
    again, torch, room = (results[part]["seconds"] for part in ("against_reading_again", "against_torch", "by_slots"))
    few, many = (str(results["problem"][name]) for name in ("slots", "many"))
    chosen, cached = (results["by_selection"][part] for part in ("seconds", "growth"))
    cached = cached["lexinv full"]["sizes"]
    most, shown = cached[-1], [(way, n) for way in ("reused", "selected") for n in cached]
    sides = {
        f"{batch} sequences": times(seconds, torch[f"lexinv {batch}"])
        for side, seconds in torch.items()
        for library, batch in [side.split()]
        if library == "torch"
    }
    return [
        *speed(
            "a_cache_is_ten_times_as_fast_as_reading_again",
            "One sequence goes on at least ten times as fast with a cache as when its whole text is read for each token.",
            {"one sequence": times(again["reading again"], again["lexinv"])},
            10.0,
        ),
        *speed(
            "decoding_is_faster_than_torch",
            "One sequence goes on 1.5 times as fast as in PyTorch with a cache of its own, and 32 sequences as fast.",
            sides,
            {"1 sequences": 1.5, "32 sequences": 1.0},
        ),
        *promise(
            "room_costs_little",
            "A token of the same text takes at most 1.5 times as long in a cache of 2048 slots as in one of 384.",
            {f"{many} slots": times(room[many], room[few])},
            below(1.5),
            "times as long",
        ),
        *speed(
            "selection_with_reuse_is_four_times_as_fast",
            f"Attending to selected tokens of {most} is four times as fast as to all where {results['by_selection']['reused']:.0%} of the "
            "choices are kept. Beside it with a choice for each token, and with fewer tokens.",
            {f"{way}, {n} tokens": times(chosen[f"lexinv full {n}"], chosen[f"lexinv {way} {n}"]) for way, n in shown},
            {f"reused, {most} tokens": 4.0},
        ),
        *speed(
            "selection_is_as_fast_as_torch",
            "A choice for each token is as fast as in PyTorch, written for it.",
            {
                f"{n} tokens": times(chosen[f"torch selected {n}"], chosen[f"lexinv selected {n}"])
                for n in cached
                if f"torch selected {n}" in chosen
            },
            1.0,
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Times as fast as the others, the price of room, forwards of n tokens in forwards of one, and steps over long caches."""
    again, torch, nodes = (results[part]["seconds"] for part in ("against_reading_again", "against_torch", "by_nodes"))
    titles = ("Times as fast as", "A forward of n tokens", "Attention of a step over n tokens")
    drawn, (others, growing, selecting) = panels(1, 3, height=3.0, titles=titles)
    by_size(selecting, results["by_selection"]["growth"])
    selecting.set_xlabel("cached tokens")
    ratios = {"reading again, batch 1": times(again["reading again"], again["lexinv"])}
    for side, seconds in torch.items():
        library, batch = side.split()
        if library != "lexinv":
            ratios[f"{library}, batch {batch}"] = times(seconds, torch[f"lexinv {batch}"])
    bars(others, ratios, [BLUE] + [VERMILION] * (len(ratios) - 1), "{:.1f}")
    mark(others, 1.0)
    costs = {int(n): times(seconds, nodes["1"]) for n, seconds in nodes.items()}
    growing.plot(list(costs), [cost.mean for cost in costs.values()], "o-", color=BLUE, label="measured")
    growing.vlines(list(costs), [c.low for c in costs.values()], [c.high for c in costs.values()], color=BLUE)
    growing.plot(list(costs), list(costs), "--", color=GREY, label="n forwards of one")
    growing.set(xscale="log", yscale="log", xlabel="tokens n", ylabel="forwards of one token")
    growing.set_xticks(list(costs), [str(n) for n in costs])
    growing.set_xticks([], minor=True)
    growing.legend()
    return drawn
