"""One step of a TopK sparse autoencoder against PyTorch: speed, populations, selections against sorting, codes as entries, memory.

The sides take turns in short blocks, so that what disturbs the machine disturbs all of them. Steps are measured in processes of their own
with the same settings of the memory allocator, selections and decoders in this one. The step is that of Gao et al. 2024; method card
sparse-autoencoders.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.benchmarks.alternating import Sizes, alternate_with_torch, growth, in_parts
from experiments.benchmarks.autoencoder_problem import AutoencoderProblem
from experiments.benchmarks.promises import bars, by_size, mark, over_ours, promise, speed, times
from experiments.benchmarks.worker import Worker, block, planned, prepare, resident
from experiments.harness.presets import presets
from experiments.harness.style import BLUE, GREEN, GREY, ORANGE, SKY, VERMILION, panels
from experiments.harness.turns import take_turns
from experiments.harness.verdicts import Claim, below
from experiments.harness.workspace import Workspace
from lexinv.validation import Checked, Count, Distinct

PAPERS = ()
SORTING, MEMORY = 5.0, 1.3
LARGE_FEATURES = 32_768  # from which on memory is judged: below it the programs themselves are most of it
SELECTIONS = {
    "batch": "one budget for the batch",
    "feature": "a budget for each feature",
    "token": "k for each token",
    "entries": "k for each token, as entries",
}
SMALL = AutoencoderProblem(width=256, features=4096, k=32, tokens=2048, auxiliary_k=128)
LARGE = AutoencoderProblem(width=512, features=LARGE_FEATURES, k=32, tokens=2048, auxiliary_k=256)


@dataclass(frozen=True)
class Config(Checked):
    """problems: steps measured against PyTorch; the first is judged, the last is the one whose memory is. members: seeds of a population.

    selection: [tokens, features] of the affinities to select from, with the first problem's k. features: sizes of the sweep over decoders.
    variants: also measure ours with dense codes, PyTorch's with embedding_bag, and its runs against the population.
    steps: timed steps of one block; every side does one block in each of the rounds: `rounds` of the first problem and of decoders,
    `large_rounds` of the other problems, `long_rounds` of the rest. cores: that any measured process may use.
    """

    problems: Distinct[AutoencoderProblem] = (SMALL, LARGE)
    selection: tuple[int, int] = (2048, 4096)
    features: Sizes = (128, 512, 2048, 8192, 32_768)
    sweep_tokens: Count = 512
    members: Count = 8
    rounds: Count = 7
    steps: Count = 3
    long_rounds: Count = 5
    large_rounds: Count = 3
    variants: bool = True
    cores: Count = 2

    def checks(self):
        yield self.members >= 2, "members", "at least 2"
        k = self.problems[0].k
        tokens, features = self.selection
        yield tokens >= 1 and features >= k, "selection", f"tokens, and at least {k} features"
        yield self.features[0] >= k, "features", f"sizes from k = {k} on"


PRESETS = presets(
    Config(),
    smoke={
        "problems": (AutoencoderProblem(16, 64, 4, 64, 8),),
        "selection": (64, 64),
        "features": (64, 128),
        "sweep_tokens": 32,
        "members": 2,
        "rounds": 1,
        "steps": 1,
        "long_rounds": 1,
        "large_rounds": 1,
        "variants": False,
    },
    paper={
        "problems": (SMALL, LARGE, AutoencoderProblem(768, LARGE_FEATURES, 32, 131_072, 256)),
        "selection": (16_384, LARGE_FEATURES),
        "features": (512, 2048, 8192, 32_768, 131_072),
        "sweep_tokens": 8192,
        "steps": 10,
        "cores": 8,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Measure every part; seconds are medians of a block, one for each round."""
    log = workspace.folder("workers") / "log.txt"
    against = [
        workspace.cached(f"steps/{number}", lambda number=number: against_torch(config, number, log))
        for number in range(len(config.problems))
    ]
    return {"steps": against, **in_parts(workspace, (population, selections, decoders, memory), config)}


def sides(config: Config, problem: AutoencoderProblem, variants: bool) -> dict[str, AutoencoderProblem]:
    """Our step with codes as entries and with dense ones; PyTorch's with a dense decoder and with embedding_bag."""
    dense = replace(problem, decode="dense")
    found = {"lexinv": problem} | ({"lexinv, dense codes": dense} if variants else {})
    return found | {"torch, dense": dense} | ({"torch, embedding_bag": problem} if config.variants else {})


def against_torch(config: Config, number: int, log: Path) -> dict[str, Any]:
    """The step of one of the problems, of the first in all ways."""
    problem = config.problems[number]
    rounds, steps = (config.rounds, config.steps) if number == 0 else (config.large_rounds, 1)
    measured = alternate_with_torch(
        sides(config, problem, config.variants and number == 0), log, config.cores, rounds, steps
    )
    return {"label": problem.label, "tokens": problem.tokens, **measured}


def population(config: Config, log: Path) -> dict[str, Any]:
    """A step of all members: ours in one program, PyTorch's runs one after another."""
    problem = replace(config.problems[0], members=config.members)
    compared = sides(config, problem, False) if config.variants else {"lexinv": problem}
    return {
        "members": config.members,
        **alternate_with_torch(compared, log, config.cores, config.long_rounds, 1),
    }


def selections(config: Config, _: Path) -> dict[str, Any]:
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


def decoders(config: Config, _: Path) -> dict[str, Any]:
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
    grown = {label: growth(config.features, found) for label, found in rows.items()}
    return {"k": k, "tokens": tokens, "sweep": grown}


def memory(config: Config, log: Path) -> dict[str, Any]:
    """Bytes of the last problem's step: planned by the compiler, and by which a process that does it is larger than one without it."""
    problem = config.problems[-1]
    tiny = replace(problem, width=8, features=64, k=2, tokens=8, auxiliary_k=2)
    with Worker(log, config.cores, keep_memory=False) as worker:
        worker.ask(prepare, label="tiny", problem=tiny)  # imports, and whatever compiling needs
        before = worker.ask(resident)["VmRSS"]
        worker.ask(prepare, label="large", problem=problem)
        worker.ask(resident)  # what starting and compiling took is not the step's
        worker.ask(block, label="large", steps=2)
        grown = worker.ask(resident)["VmHWM"] - before
        sizes = {"entries": worker.ask(planned, problem=problem)}
        if config.variants:
            sizes["dense"] = worker.ask(planned, problem=replace(problem, decode="dense"))
    return {
        "label": problem.label,
        "features": problem.features,
        "floor": problem.floor_bytes,
        "planned": sizes,
        "resident": grown,
    }


def claims(results: dict[str, Any]) -> list[Claim]:
    """Our own promises about speed and memory; too small a size is not judged."""
    first, members, found = results["steps"][0], results["population"], results["selections"]
    store, decoding, n = results["memory"], results["decoders"], results["population"]["members"]
    others = {
        f"{peer} at {step['label']}": ratio
        for step in results["steps"][1:]
        for peer, ratio in over_ours(step["seconds"]).items()
    }
    shares = {f"planned, {label}": size / store["floor"] for label, size in store["planned"].items()}
    entries, dense = (decoding["sweep"][label] for label in ("entries", "dense"))
    gains = {
        f"F={size}": times(*seconds)
        for size, *seconds in zip(entries["sizes"], dense["seconds"], entries["seconds"], strict=True)
    }
    return [
        *speed(
            "not_slower_than_torch",
            f"Tokens per second of our TopK step with aux_k over PyTorch {first['torch']}, which decodes by a dense product or by "
            f"embedding_bag, on the same cores; judged at {first['label']}.",
            {**over_ours(first["seconds"]), **others},
            {"torch, dense": 1.0, "torch, embedding_bag": 0.9},
        ),
        *speed(
            "population_faster",
            f"Throughput of {n} seeds trained as one population over that of {n} runs in PyTorch.",
            over_ours(members["seconds"]),
            1.3,
        ),
        *speed(
            "selections_beat_sorting",
            f"Selecting {found['k']} x {found['tokens']} of [{found['tokens']}, {found['features']}] affinities, ours against sorting.",
            {SELECTIONS[name]: times(one["sorting"], one["lexinv"]) for name, one in found["seconds"].items()},
            {SELECTIONS[name]: SORTING for name in ("batch", "feature")},
        ),
        *promise(
            "memory_within",
            f"Peak memory of our step at {store['label']}, planned by the compiler and by which a process grows, over that of parameters, "
            "Adam's moments and two arrays [tokens, features], our reading of the activations of a batch: dense steps hold pre-activations "
            "and their gradient.",
            {**shares, "grown by": store["resident"] / store["floor"]} if store["features"] >= LARGE_FEATURES else {},
            {"planned, entries": below(MEMORY), "grown by": below(MEMORY)},
            "ratio of bytes",
            over="one compilation",
        ),
        *speed(
            "sparse_wins_at_large_f",
            f"Decoding {decoding['k']} entries of each of {decoding['tokens']} tokens, with gradients, by gathering rows against a dense "
            f"product at F={entries['sizes'][-1]}.",
            gains,
            {f"F={entries['sizes'][-1]}": 1.0},
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Steps against PyTorch, selections against sorting, decoders by size, memory."""
    found, decoding, held = results["selections"], results["decoders"], results["memory"]
    titles = ("Train step", "Selecting", f"Decoding {decoding['k']} entries", f"Memory of a step\n{held['label']}")
    drawn, (steps, selecting, growing, store) = panels(2, 2, width=5.2, titles=titles)
    members = results["population"]
    measured = {step["label"]: step for step in results["steps"]}
    measured[f"{members['members']} seeds of the first"] = members
    seconds = {
        f"{side}\n{label}": rounds for label, step in measured.items() for side, rounds in step["seconds"].items()
    }
    bars(steps, seconds, [BLUE if label.startswith("lexinv") else VERMILION for label in seconds])
    steps.set(xlabel="seconds")
    steps.tick_params(axis="y", labelsize=6)
    gains = {SELECTIONS[name]: times(one["sorting"], one["lexinv"]) for name, one in found["seconds"].items()}
    bars(selecting, gains, GREEN, "{:.1f}")
    mark(selecting, SORTING)
    selecting.set(xlabel="times as fast as by sorting")
    by_size(growing, decoding["sweep"])
    growing.set(xlabel="features F", ylabel="seconds with gradients")
    sizes = {"parameters, moments,\ntwo [tokens, features]": held["floor"], "process grows by": held["resident"]}
    sizes |= {f"planned, {label}": size for label, size in held["planned"].items()}
    bars(
        store, {label: size / 2**20 for label, size in sizes.items()}, [GREY, SKY, BLUE, ORANGE][: len(sizes)], "{:.0f}"
    )
    mark(store, MEMORY * held["floor"] / 2**20)
    store.set(xlabel="MiB")
    return drawn
