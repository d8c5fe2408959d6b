"""One step of a TopK sparse autoencoder against PyTorch: speed, populations, selections against sorting, codes as entries, memory.

The sides take turns in short blocks, so that what disturbs the machine disturbs all of them, and medians are compared. Steps are measured
in processes of their own with the same settings of the memory allocator, selections and decoders in this one. There is no paper behind it:
the step is that of Gao et al. 2024; method card sparse-autoencoders.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.benchmarks.alternating import alternate_with_torch, exponent, ratio
from experiments.benchmarks.autoencoder_problem import AutoencoderProblem
from experiments.benchmarks.worker import Worker
from experiments.harness.claims import Claim, interval
from experiments.harness.style import BLUE, GREEN, GREY, ORANGE, PALETTE, SKY, VERMILION, panels, styled
from experiments.harness.turns import take_turns
from experiments.harness.workspace import Workspace
from lexinv.validation import require

PAPER = """\
@inproceedings{gao2025scaling,
  title     = {Scaling and evaluating sparse autoencoders},
  author    = {Gao, Leo and Dupr{\\'e} la Tour, Tom and Tillman, Henk and Goh, Gabriel and Troll, Rajan and Radford, Alec and
               Sutskever, Ilya and Leike, Jan and Wu, Jeffrey},
  booktitle = {International Conference on Learning Representations},
  year      = {2025},
  note      = {arXiv:2406.04093}
}"""
SOURCE = "our own benchmark, no published counterpart"
ENOUGH_ROUNDS = 5  # with fewer no ratio is judged
DENSE, BAG, POPULATION, SORTING, MEMORY = 1.0, 0.9, 1.3, 5.0, 1.3
LARGE_FEATURES = 32_768  # from which on memory is judged: below it the programs themselves are most of it
SELECTIONS = {
    "batch": "one budget for the batch",
    "feature": "a budget for each feature",
    "token": "k for each token",
    "entries": "k for each token, as entries",
}


@dataclass(frozen=True)
class Config:
    """problems: steps measured against PyTorch; the first is judged, the last is the one whose memory is. members: seeds of a population.

    selection: [tokens, features] of the affinities to select from, with the first problem's k. features: sizes of the sweep over decoders.
    variants: also measure ours with dense codes, PyTorch's with embedding_bag, and its runs against the population.
    steps: timed steps of one block; every side does one block in each of the rounds: `rounds` of the first problem and of decoders,
    `large_rounds` of the other problems, `long_rounds` of the rest. cores: that any measured process may use.
    """

    problems: tuple[AutoencoderProblem, ...]
    selection: tuple[int, int]
    features: tuple[int, ...]
    sweep_tokens: int
    members: int = 8
    rounds: int = 7
    steps: int = 3
    long_rounds: int = 5
    large_rounds: int = 3
    variants: bool = True
    cores: int = 2

    def __post_init__(self):
        for name in ("rounds", "steps", "long_rounds", "large_rounds", "cores", "sweep_tokens"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.members >= 2, "members", self.members, "at least 2")
        require(len(self.problems) >= 1, "problems", self.problems, "at least one")
        k = self.problems[0].k
        tokens, features = self.selection
        require(tokens >= 1 and features >= k, "selection", self.selection, f"tokens, and at least {k} features")
        rising = len(self.features) >= 2 and list(self.features) == sorted(set(self.features))
        require(rising and self.features[0] >= k, "features", self.features, f"rising sizes from {k} on, two or more")


SMALL = AutoencoderProblem(width=256, features=4096, k=32, tokens=2048, auxiliary_k=128)
LARGE = AutoencoderProblem(width=512, features=LARGE_FEATURES, k=32, tokens=2048, auxiliary_k=256)
PRESETS = {
    "smoke": Config(
        problems=(AutoencoderProblem(16, 64, 4, 64, 8),),
        selection=(64, 64),
        features=(64, 128),
        sweep_tokens=32,
        members=2,
        rounds=1,
        steps=1,
        long_rounds=1,
        large_rounds=1,
        variants=False,
    ),
    "cpu": Config(
        problems=(SMALL, LARGE),
        selection=(2048, 4096),
        features=(128, 512, 2048, 8192, 32_768),
        sweep_tokens=512,
    ),
    "paper": Config(
        problems=(SMALL, LARGE, AutoencoderProblem(768, LARGE_FEATURES, 32, 131_072, 256)),
        selection=(16_384, LARGE_FEATURES),
        features=(512, 2048, 8192, 32_768, 131_072),
        sweep_tokens=8192,
        steps=10,
        cores=8,
    ),
}


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Measure every part; seconds are medians of a block, one for each round."""
    from rich.progress import track

    log = workspace.folder("workers") / "log.txt"
    parts: dict[str, Callable[[], Any]] = {
        f"against_torch_{number}": lambda number=number: against_torch(config, number, log)
        for number in range(len(config.problems))
    }
    parts |= {
        "population": lambda: population(config, log),
        "selections": lambda: selections(config),
        "decoders": lambda: decoders(config),
        "memory": lambda: memory(config, log),
    }
    measured = {
        name: workspace.cached(name, measure)
        for name, measure in track(parts.items(), "sae_step", disable=not workspace.progress)
    }
    steps = [measured.pop(f"against_torch_{number}") for number in range(len(config.problems))]
    return {"corpora": {}, "seeds": list(range(config.members)), "steps": steps, **measured}


def peers(config: Config, problem: AutoencoderProblem) -> dict[str, tuple[AutoencoderProblem, bool]]:
    """PyTorch's sides, none of them compiled."""
    sides = {"torch, dense": (replace(problem, decode="dense"), False), "torch, embedding_bag": (problem, False)}
    return sides if config.variants else {"torch, dense": sides["torch, dense"]}


def against_torch(config: Config, number: int, log: Path) -> dict[str, Any]:
    """Our step with codes as entries (of the first problem also with dense ones), PyTorch's with a dense decoder and embedding_bag."""
    problem = config.problems[number]
    ours = {"lexinv": problem}
    if config.variants and number == 0:
        ours["lexinv, dense codes"] = replace(problem, decode="dense")
    theirs = peers(config, problem)
    rounds, steps = (config.rounds, config.steps) if number == 0 else (config.large_rounds, 1)
    measured = alternate_with_torch(ours, theirs, log, config.cores, rounds, steps, kind="autoencoder")
    return {"label": problem.label, "tokens": problem.tokens, **measured}


def population(config: Config, log: Path) -> dict[str, Any]:
    """A step of all members: ours in one program, PyTorch's runs one after another."""
    problem = replace(config.problems[0], members=config.members)
    sides = {"lexinv": problem}, peers(config, problem) if config.variants else {}
    measured = alternate_with_torch(*sides, log, config.cores, config.long_rounds, 1, kind="autoencoder")
    return {"members": config.members, **measured}


def selections(config: Config) -> dict[str, Any]:
    """Seconds of selecting N k affinities in each way, by the library and by sorting, and in how many places the two differ."""
    import jax
    import jax.numpy as jnp

    from lexinv.sae.selection import select
    from lexinv.sae.sparse import largest

    (tokens, features), k = config.selection, config.problems[0].k
    rng = np.random.default_rng(0)
    affinities = jnp.asarray(np.maximum(rng.standard_normal((tokens, features), np.float32), 0))
    law = (np.arange(features) + 1.0) ** -0.5
    budgets = jnp.asarray(np.clip(law / law.sum() * tokens * k, 1, tokens).astype(np.int32))

    def by_sorting(a, counts, axis):
        """Keeps what is at least the count-th largest along the axis."""
        ordered = jnp.sort(a, axis=axis)
        threshold = jnp.take_along_axis(ordered, jnp.expand_dims(a.shape[axis] - counts, axis), axis=axis)
        return (a >= threshold) & (a > 0)

    def entries_by_sorting(a):
        order = jnp.argsort(a, axis=1, descending=True)[:, :k]
        return jnp.take_along_axis(a, order, axis=1), order

    whole = jnp.full(1, tokens * k)
    ways = {
        "batch": (
            lambda a: select(a, tokens * k, "batch"),
            lambda a: by_sorting(a.reshape(1, -1), whole, 1).reshape(a.shape),
        ),
        "feature": (lambda a: select(a, budgets, "feature"), lambda a: by_sorting(a, budgets, 0)),
        "token": (lambda a: select(a, k, "token"), lambda a: by_sorting(a, jnp.full(len(a), k), 1)),
        "entries": (lambda a: largest(a, k), entries_by_sorting),
    }
    seconds, differing = {}, {}
    for name, (library, peer) in ways.items():
        sides = {"lexinv": jax.jit(library), "sorting": jax.jit(peer)}
        kept = [jax.tree.leaves(side(affinities))[0] for side in sides.values()]  # compiles
        differing[name] = int(jnp.sum(kept[0] != kept[1]))
        calls = {label: lambda side=side: jax.block_until_ready(side(affinities)) for label, side in sides.items()}
        seconds[name] = take_turns(calls, config.long_rounds)
    return {"tokens": tokens, "features": features, "k": k, "seconds": seconds, "differing": differing}


def decoders(config: Config) -> dict[str, Any]:
    """Seconds of decoding k entries of every token and of its gradients, by size: rows gathered, or codes written out and multiplied."""
    import jax
    import jax.numpy as jnp

    from lexinv.sae.sparse import decode_entries

    width, k, tokens = config.problems[0].width, config.problems[0].k, config.sweep_tokens

    def dense(values, indices, decoder):
        codes = jnp.zeros((tokens, decoder.shape[0])).at[jnp.arange(tokens)[:, None], indices].add(values)
        return codes @ decoder

    def gradients(decode):
        return jax.jit(jax.grad(lambda v, i, d: jnp.sum(jnp.square(decode(v, i, d))), (0, 2)))

    rng = np.random.default_rng(0)
    rows: dict[str, list[list[float]]] = {"entries": [], "dense": []}
    for features in config.features:
        values = jnp.asarray(rng.random((tokens, k), np.float32))
        indices = jnp.asarray(np.argsort(rng.random((tokens, features)), axis=1)[:, :k].astype(np.int32))
        decoder = jnp.asarray(rng.standard_normal((features, width), np.float32))
        calls = {}
        for label, decode in (("entries", decode_entries), ("dense", dense)):
            call = gradients(decode)
            jax.block_until_ready(call(values, indices, decoder))  # compiles
            calls[label] = lambda call=call, v=values, i=indices, d=decoder: jax.block_until_ready(call(v, i, d))
        for label, seconds in take_turns(calls, config.rounds).items():
            rows[label].append(seconds)
    exponents = {
        label: [exponent(config.features, times) for times in zip(*found, strict=True)] for label, found in rows.items()
    }
    return {"features": list(config.features), "k": k, "tokens": tokens, "seconds": rows, "exponents": exponents}


def memory(config: Config, log: Path) -> dict[str, Any]:
    """Bytes of the last problem's step: planned by the compiler, and by which a process that does it is larger than one without it."""
    problem = config.problems[-1]
    tiny = replace(problem, width=8, features=64, k=2, tokens=8, auxiliary_k=2)
    with Worker(log, config.cores, keep_memory=False) as worker:
        worker.ask("prepare", label="tiny", problem=tiny, kind="autoencoder")  # imports, and whatever compiling needs
        before = worker.ask("resident")["VmRSS"]
        worker.ask("prepare", label="large", problem=problem, kind="autoencoder")
        worker.ask("resident")  # what starting and compiling took is not the step's
        worker.ask("block", label="large", steps=2)
        grown = worker.ask("resident")["VmHWM"] - before
        planned = {"entries": worker.ask("planned", problem=problem)}
        if config.variants:
            planned["dense"] = worker.ask("planned", problem=replace(problem, decode="dense"))
    return {
        "label": problem.label,
        "features": problem.features,
        "floor": problem.floor_bytes,
        "planned": planned,
        "resident": grown,
    }


def judged(*measured: tuple[dict[str, Any], float]) -> bool | None:
    """Whether every ratio of medians reaches its threshold; None for too few rounds."""
    if any(found["by_round"].n < ENOUGH_ROUNDS for found, _ in measured):
        return None
    return all(found["ratio"] >= least for found, least in measured)


def over_torch(measured: dict[str, Any], side: str = "lexinv") -> dict[str, dict[str, Any]] | None:
    """Times of PyTorch's sides over ours; None without PyTorch."""
    seconds = measured["seconds"]
    peers = {label: ratio(times, seconds[side]) for label, times in seconds.items() if label.startswith("torch")}
    return peers or None


def claims(results: dict[str, Any]) -> list[Claim]:
    """Our own promises about speed and memory. The ratio of medians decides; too few rounds or too small a size cannot tell."""
    first, members = results["steps"][0], results["population"]
    speeds = {step["label"]: over_torch(step) for step in results["steps"]}
    speed, together = over_torch(first), over_torch(members)
    found, store, decoding = results["selections"], results["memory"], results["decoders"]
    faster = {SELECTIONS[name]: ratio(times["sorting"], times["lexinv"]) for name, times in found["seconds"].items()}
    shares = {f"planned, {label}": size / store["floor"] for label, size in store["planned"].items()}
    shares["grown by"] = store["resident"] / store["floor"]
    mine = max(shares["planned, entries"], shares["grown by"])
    gains = [ratio(d, e) for d, e in zip(decoding["seconds"]["dense"], decoding["seconds"]["entries"], strict=True)]
    wins = [size for size, gain in zip(decoding["features"], gains, strict=True) if gain["ratio"] > 1]
    limits = {"torch, dense": DENSE, "torch, embedding_bag": BAG}
    n, missing = members["members"], first["left_out"]
    return [
        Claim(
            "not_slower_than_torch",
            f"Tokens per second of our TopK step with aux_k over PyTorch {first['torch']}, which decodes by a dense product or by "
            f"embedding_bag, on the same cores; judged at {first['label']}.",
            SOURCE,
            None,
            {label: peers or missing for label, peers in speeds.items()},
            f"ratio of medians at least {DENSE} to dense and {BAG} to embedding_bag",
            speed and judged(*((speed[label], least) for label, least in limits.items() if label in speed)),
        ),
        Claim(
            "population_faster",
            f"Throughput of {n} seeds trained as one population over that of {n} runs in PyTorch.",
            SOURCE,
            None,
            together or members["left_out"] or None,
            f"ratio of medians at least {POPULATION} to both",
            together and judged(*((peer, POPULATION) for peer in together.values())),
        ),
        Claim(
            "selections_beat_sorting",
            f"Time of selecting by sorting over ours, {found['k']} x {found['tokens']} of [{found['tokens']}, {found['features']}] "
            "affinities.",
            SOURCE,
            None,
            faster,
            f"ratio of medians at least {SORTING:g} for the batch and for each feature",
            judged(*((faster[SELECTIONS[name]], SORTING) for name in ("batch", "feature"))),
        ),
        Claim(
            "memory_within",
            f"Peak memory of our step at {store['label']}, planned by the compiler and by which a process grows, over that of parameters, "
            "Adam's moments and two arrays [tokens, features], our reading of the activations of a batch: dense steps hold pre-activations "
            "and their gradient.",
            SOURCE,
            None,
            shares,
            f"planned with entries and grown by at most {MEMORY}",
            mine <= MEMORY if store["features"] >= LARGE_FEATURES else None,
        ),
        Claim(
            "sparse_wins_at_large_f",
            f"Decoding {decoding['k']} entries of each of {decoding['tokens']} tokens, with gradients, is faster by gathering rows than "
            f"by a dense product at F={decoding['features'][-1]} (faster at F in {wins}).",
            SOURCE,
            None,
            {f"F={size}": gain for size, gain in zip(decoding["features"], gains, strict=True)},
            f"ratio of medians above 1 at F={decoding['features'][-1]}",
            gains[-1]["ratio"] > 1 if gains[-1]["by_round"].n >= ENOUGH_ROUNDS else None,
        ),
    ]


def bars(axes: Axes, values: dict[str, float], colors: list[str], form: str = " %.2f") -> None:
    """Horizontal bars with their values, the first on top."""
    axes.bar_label(axes.barh(list(values), list(values.values()), color=colors, height=0.6), fmt=form, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.grid(visible=False, axis="y")


def figure(results: dict[str, Any]) -> Figure:
    """Steps against PyTorch, selections against sorting, decoders by size, memory."""
    drawn, (steps, selecting, decoding, store) = panels(2, 2, width=5.2)
    with styled():
        times = {
            f"{label}\n{step['label']}": 1e3 * median(seconds)
            for step in results["steps"]
            for label, seconds in step["seconds"].items()
        }
        members = results["population"]
        for label, seconds in members["seconds"].items():
            times[f"{label}\n{members['members']} seeds of the first"] = 1e3 * median(seconds)
        bars(steps, times, [BLUE if label.startswith("lexinv") else VERMILION for label in times], " %.0f")
        steps.set(title="Train step", xlabel="milliseconds", xscale="log")
        steps.tick_params(axis="y", labelsize=6)
        found = results["selections"]
        gains = {SELECTIONS[k]: ratio(t["sorting"], t["lexinv"])["ratio"] for k, t in found["seconds"].items()}
        bars(selecting, gains, [GREEN] * len(gains), " %.1f")
        selecting.axvline(SORTING, color=GREY, linestyle="--", linewidth=1)
        selecting.set(title="Selecting", xlabel="times as fast as by sorting")
        sweep = results["decoders"]
        for (label, rows), color in zip(sweep["seconds"].items(), PALETTE, strict=False):
            name = f"{label}: exponent {interval(sweep['exponents'][label]).mean:.2f}"
            decoding.loglog(sweep["features"], [1e3 * median(row) for row in rows], "o-", color=color, label=name)
        decoding.set(title=f"Decoding {sweep['k']} entries", xlabel="features F", ylabel="milliseconds with gradients")
        decoding.legend()
        held = results["memory"]
        sizes = {
            "parameters, moments,\ntwo [tokens, features]": held["floor"],
            "planned, entries": held["planned"]["entries"],
            "process grows by": held["resident"],
        }
        if "dense" in held["planned"]:
            sizes["planned, dense codes"] = held["planned"]["dense"]
        bars(
            store,
            {label: size / 2**20 for label, size in sizes.items()},
            [GREY, BLUE, SKY, ORANGE][: len(sizes)],
            " %.0f",
        )
        store.axvline(MEMORY * held["floor"] / 2**20, color=GREY, linestyle="--", linewidth=1)
        store.set(title=f"Memory of a step\n{held['label']}", xlabel="MiB")
    return drawn
