"""The benchmark of the train step: its verdicts can go either way, its figure is drawn from numbers, its peer is the same model."""

import copy
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import train_step
from experiments.benchmarks.alternating import exponent, ratio
from experiments.benchmarks.problems import OPTIMIZER, Problem, jax_problem, random_tokens
from experiments.benchmarks.worker import Bench, Worker, WorkerError, environment
from experiments.harness import record
from experiments.harness.config import to_json
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig

TINY = train_step.TINY
ROUNDS = 5


def rounds(seconds: float) -> list[float]:
    """Rounds of which one was disturbed: the median must not care."""
    return [seconds] * (ROUNDS - 1) + [3 * seconds]


@pytest.fixture
def results() -> dict:
    """As of a cpu run in which everything is as promised."""
    speeds = {
        "lexinv": 0.9,
        "lexinv, whole batch": 1.2,
        "torch": 1.0,
        "torch, microbatches": 1.1,
        "torch.compile": 0.95,
    }
    times = {label: rounds(seconds) for label, seconds in speeds.items()}
    axis = {"sizes": [64, 128, 256], "seconds": [rounds(1.0), rounds(2.0), rounds(4.0)], "exponents": rounds(1.0)}
    start_up = (
        "python",
        "import jax",
        "import lexinv.nn, .training",
        "python -m experiments list",
        "first step",
        "first step, cached",
    )
    return {
        "corpora": {},
        "seeds": [0, 1, 2, 3],
        "used_population": "map",
        "against_torch": {"tokens": 4096, "torch": "2.13.0", "left_out": {}, "seconds": times},
        "overhead": [
            {"vocab": vocab, "tokens": 4096, "seconds": {"standard": rounds(1.0), "lexinvariant": rounds(seconds)}}
            for vocab, seconds in ((128, 1.04), (32768, 1.4))
        ],
        "memory": {
            "vocab": 32768,
            "shape": "V=32768, D=512, B=8, T=512",
            "bytes": {"standard": 100, "standard, blockwise": 80, "lexinvariant, blockwise": 110},
        },
        "population": {
            "members": 4,
            "steps": 40,
            "seconds": {"none": [[8.0, 4.0]] * 5, "map": [[3.0, 5.0]] * 5, "vmap": [[6.0, 8.0]] * 5},
        },
        "start_up": {name: rounds(0.9) for name in start_up},
        "sweep": {"context": axis, "width": axis, "vocabulary": axis},
    }


def verdicts(results: dict) -> dict[str, bool | None]:
    return {claim["name"]: claim["holds"] for claim in record.judge(train_step, results)}


def test_all_claims_can_hold(results):
    names = (
        "not_slower_than_torch",
        "lexicon_overhead",
        "large_vocabulary_memory",
        "population_throughput",
        "quick_start",
    )
    assert verdicts(results) == dict.fromkeys(names, True)


def slower_than_torch(results):
    results["against_torch"]["seconds"]["lexinv"] = rounds(1.01)


def costly_lexicon(results):
    results["overhead"][0]["seconds"]["lexinvariant"] = rounds(1.06)


def more_memory(results):
    results["memory"]["bytes"]["lexinvariant, blockwise"] = 151


def more_memory_than_blockwise(results):
    results["memory"]["bytes"]["standard, blockwise"] = 70


def slow_population(results):
    results["population"]["seconds"]["map"] = [[3.0, 9.1]] * 5


def slow_list(results):
    results["start_up"]["python -m experiments list"] = rounds(1.01)


def slow_import(results):
    results["start_up"]["import lexinv.nn, .training"] = rounds(1.91)


@pytest.mark.parametrize(
    "change, name",
    [
        (slower_than_torch, "not_slower_than_torch"),
        (costly_lexicon, "lexicon_overhead"),
        (more_memory, "large_vocabulary_memory"),
        (more_memory_than_blockwise, "large_vocabulary_memory"),
        (slow_population, "population_throughput"),
        (slow_list, "quick_start"),
        (slow_import, "quick_start"),
    ],
)
def test_every_claim_can_fail(results, change, name):
    change(results)
    assert [claim for claim, holds in verdicts(results).items() if holds is not True] == [name]
    assert verdicts(results)[name] is False


def test_the_used_arrangement_is_judged(results):
    results["used_population"] = "vmap"  # 14 seconds against 12
    assert verdicts(results)["population_throughput"] is False


def cut(results, count):
    for part in (results["against_torch"], *results["overhead"], results["population"]):
        part["seconds"] = {label: values[:count] for label, values in part["seconds"].items()}
    results["start_up"] = {label: values[:count] for label, values in results["start_up"].items()}


def test_few_rounds_and_small_sizes_cannot_tell(results):
    cut(results, 4)
    results["memory"]["vocab"] = 1024
    assert set(verdicts(results).values()) == {None}


def test_without_torch_nothing_is_said_about_it(results):
    for label in ("torch", "torch, microbatches", "torch.compile"):
        del results["against_torch"]["seconds"][label]
    assert verdicts(results)["not_slower_than_torch"] is None
    assert train_step.figure(results).axes[0].get_xlabel().endswith("over lexinv (4,551)")


def test_figure_follows_results(results):
    def first_bar(numbers):
        return train_step.figure(numbers).axes[0].patches[0].get_width()

    assert first_bar(results) == pytest.approx(1.0 / 0.9)
    doctored = copy.deepcopy(results)
    doctored["against_torch"]["seconds"]["lexinv"] = rounds(0.5)
    assert first_bar(doctored) == pytest.approx(2.0)
    figure = train_step.figure(json.loads(json.dumps(doctored)))
    assert "exponent 1.40" in figure.axes[2].get_legend().get_texts()[0].get_text()  # the mean of 1, 1, 1, 1, 3
    assert record.draw(train_step, doctored, "png").startswith(b"\x89PNG")


def test_ratio_is_of_medians_and_exponent_of_a_power():
    measured = ratio([2.0, 2.0, 50.0], [1.0, 4.0, 1.0])
    assert measured["ratio"] == 2.0
    assert measured["by_round"].mean == pytest.approx((2 + 0.5 + 50) / 3)
    assert exponent([1, 2, 4, 8], [3 * n**1.5 for n in (1, 2, 4, 8)]) == pytest.approx(1.5)


def test_memory_counts_what_is_needed_at_once():
    """At least the parameters, both moments and the gradients; and a lexicon held whole is seen."""
    bench = Bench()
    problem = Problem(TINY.model, LexiconConfig(), vocab=4096, batch_size=4, context=16)
    table = 4096 * TINY.model.width * 4
    whole = bench.memory(to_json(problem))
    assert whole > 4 * table
    lexinvariant = Problem(TINY.model, LexiconConfig("lexinvariant"), vocab=4096, batch_size=4, context=16)
    blockwise = Problem(
        TINY.model, LexiconConfig("lexinvariant", vocab_block=128), vocab=4096, batch_size=4, context=16
    )
    assert bench.memory(to_json(blockwise)) < 4 * table < bench.memory(to_json(lexinvariant))


def test_worker_waits_idly_and_reports_failures(tmp_path):
    with Worker(tmp_path / "log.txt", cores=1) as worker:
        assert worker.ask("prepare", label="step", problem=TINY) > 0
        worker.ask("block", label="step", steps=1)
        block = worker.ask("block", label="step", steps=3)
        assert len(block["seconds"]) == 3
        assert block["processor_seconds"] > 0
        with pytest.raises(WorkerError, match="^KeyError"):
            worker.ask("block", label="unknown", steps=1)
        assert worker.ask("block", label="step", steps=1)["seconds"][0] > 0
    assert worker.process.returncode is not None
    assert "unknown" in (tmp_path / "log.txt").read_text()


def test_every_side_has_the_same_allocator(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    variables = environment()
    assert variables["MALLOC_MMAP_MAX_"] == "0"
    assert "JAX_COMPILATION_CACHE_DIR" not in variables
    assert environment(tmp_path)["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path)


@pytest.mark.parity
@pytest.mark.parametrize("microbatches", [1, 2])
def test_torch_trains_the_same_model(microbatches):
    """From the same parameters: the same losses for three steps, of which the last two have seen gradients, clipping and AdamW."""
    torch = pytest.importorskip("torch")
    from experiments.benchmarks.torch_language_model import LanguageModel, make_train_step

    model = TransformerConfig(depth=2, width=32, heads=4, mlp_width=64, positions="learned", max_length=16, unroll=2)
    problem = Problem(model, vocab=11, batch_size=4, context=12, microbatches=microbatches)
    start, step, batches = jax_problem(problem)
    state = start(jax.random.key(1))
    # Away from where gains and biases are one and zero.
    leaves, structure = jax.tree.flatten(state.params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    noisy = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    state = state._replace(params=jax.tree.unflatten(structure, noisy))
    peer = LanguageModel(model, problem.vocab)
    peer.load(state.params)
    peer_step = make_train_step(peer, OPTIMIZER, microbatches)
    tokens = torch.from_numpy(random_tokens(problem)).long()
    ours, theirs = [], []
    for _ in range(3):
        state, metrics = step(state, jax.tree.map(jnp.asarray, batches))
        ours.append(float(metrics["loss"][0]))
        theirs.append(float(peer_step(tokens)))
    np.testing.assert_allclose(ours, theirs, rtol=2e-5)
    assert ours[0] > ours[2]
    assert abs(ours[0] - math.log(problem.vocab)) > 1e-3
