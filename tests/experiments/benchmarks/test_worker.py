"""Processes in which steps are timed, and what is read of compiled steps."""

import pytest

from experiments.benchmarks.alternating import alternate, size_sweep
from experiments.benchmarks.autoencoder_problem import AutoencoderProblem
from experiments.benchmarks.problems import Problem
from experiments.benchmarks.promises import speed, times
from experiments.benchmarks.train_step import TINY
from experiments.benchmarks.worker import Worker, WorkerError, block, environment, planned, prepare
from lexinv.nn.lexicon import LexiconConfig


@pytest.mark.long
def test_worker_waits_idly_and_reports_failures(tmp_path):
    with Worker(tmp_path / "log.txt", cores=1) as worker:
        assert worker.ask(prepare, label="step", problem=TINY) > 0
        worker.ask(block, label="step", steps=1)
        measured = worker.ask(block, label="step", steps=3)
        assert len(measured["seconds"]) == 3
        assert measured["processor_seconds"] > 0
        with pytest.raises(WorkerError, match="^KeyError"):
            worker.ask(block, label="unknown", steps=1)
        assert worker.ask(block, label="step", steps=1)["seconds"][0] > 0
    assert worker.process.exitcode is not None
    assert "unknown" in (tmp_path / "log.txt").read_text()


def test_every_side_has_the_same_allocator(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    variables = environment()
    assert variables["MALLOC_MMAP_MAX_"] == "0"
    assert "JAX_COMPILATION_CACHE_DIR" not in variables
    assert environment(tmp_path)["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path)


class Clock:
    """A worker whose step takes its size in seconds, and that tells what it was asked."""

    def __init__(self, *_):
        self.sizes, self.order = {}, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask(self, request, label, **asked):
        if request is prepare:
            assert label not in self.sizes
            self.sizes[label] = asked["problem"]
            return 0.0
        self.order.append(self.sizes[label])
        seconds = [2.0 * self.sizes[label] ** 1.5] * asked["steps"]
        return {"seconds": seconds, "processor_seconds": 1.0, "waited": [4.0, 1.0]}


def test_sides_take_turns_in_both_directions():
    clock = Clock()
    for label, size in (("a", 1), ("b", 4)):
        clock.ask(prepare, label, problem=size)
    measured = alternate({"a": clock, "b": clock}, rounds=3, steps=2)
    assert clock.order == [1, 4, 4, 1, 1, 4]
    assert measured["seconds"] == {"a": [2.0] * 3, "b": [16.0] * 3}
    assert measured["idle_share"] == {"a": 0.25, "b": 0.25}


def test_size_sweep_fits_the_power_and_measures_the_base_once(monkeypatch, tmp_path):
    """Problems that axes share are prepared once, or the clock would refuse the second label."""
    monkeypatch.setattr("experiments.benchmarks.alternating.Worker", Clock)
    found = size_sweep({"x": {1: 1, 4: 4}, "y": {4: 4, 16: 16}}, tmp_path, 2, 2, 1)
    assert found["x"]["seconds"] == [[2.0, 2.0], [16.0, 16.0]]
    assert found["y"]["sizes"] == [4, 16]
    assert found["y"]["exponents"] == pytest.approx([1.5, 1.5])


def test_ratios_are_those_within_rounds():
    """A machine that is ten times as slow in one round changes nothing; the ratio of one side to the other is 1 / that of the other."""
    found = times([2.0, 20.0, 2.0], [1.0, 10.0, 1.0])
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))
    one, other = times([1.0, 4.0], [2.0, 1.0]), times([2.0, 1.0], [1.0, 4.0])
    assert one.mean * other.mean == pytest.approx(1.0)
    assert one.low * other.high == pytest.approx(1.0)


def test_nothing_is_promised_of_a_side_that_was_not_measured():
    measured = {"torch": times([2.0, 2.1], [1.0, 1.0])}
    (claim,) = speed("faster", "Faster.", measured, {"torch": 1.5, "torch.compile": 1.5})
    assert list(claim.rules) == ["torch"] and claim.verdict == "holds"
    assert speed("faster", "Faster.", measured, {"torch.compile": 1.5}) == []
    assert speed("faster", "Faster.", {}, 1.5) == []


@pytest.mark.long
def test_memory_counts_what_is_needed_at_once():
    """A table, both moments and the gradients; a lexicon held whole, which has no table, is seen, and one in blocks is less than that."""
    table = 4096 * TINY.model.width * 4
    found = {
        (kind, block): planned(Problem(TINY.model, LexiconConfig(kind, vocab_block=block), 4096, 4, 16))
        for kind, block in (("standard", 0), ("lexinvariant", 0), ("lexinvariant", 128))
    }
    assert found["lexinvariant", 128] < 4 * table < min(found["standard", 0], found["lexinvariant", 0])


def test_floor_of_an_autoencoder_counts_parameters_moments_and_two_arrays():
    problem = AutoencoderProblem(3, 8, 2, 5, 2)
    assert problem.floor_bytes == 4 * (3 * (24 + 24 + 8 + 3) + 2 * 40)
    assert planned(problem) > 4 * 3 * (24 + 24 + 8 + 3)
