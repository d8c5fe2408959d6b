"""The benchmark of a sparse autoencoder's step: its verdicts can go either way, and its sides do the same step."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest

from experiments.benchmarks import sae_step
from experiments.benchmarks.autoencoder_problem import (
    AutoencoderProblem,
    jax_autoencoder_step,
    planned_bytes,
    torch_autoencoder_step,
)
from experiments.benchmarks.sae_step import PRESETS, claims, figure
from lexinv.validation import InvalidConfig

TINY = PRESETS["smoke"].problems[0]
ROUNDS = 5


def results() -> dict:
    def times(**sides: float) -> dict:
        return {"seconds": {label.replace("_", ", "): [value] * ROUNDS for label, value in sides.items()}}

    step = {"torch": "2", "left_out": {}, "label": "small", "tokens": 8, **times(lexinv=1.0, torch_dense=1.5)}
    step["seconds"]["torch, embedding_bag"] = [1.0] * ROUNDS
    members = {"members": 8, "left_out": {}, **times(lexinv=1.0, torch_dense=2.0)}
    selection = {name: {"lexinv": [1.0] * ROUNDS, "sorting": [6.0] * ROUNDS} for name in sae_step.SELECTIONS}
    return {
        "seeds": list(range(8)),
        "corpora": {},
        "steps": [step],
        "population": members,
        "selections": {"tokens": 8, "features": 16, "k": 2, "seconds": selection, "differing": {}},
        "decoders": {
            "features": [128, 512],
            "k": 2,
            "tokens": 8,
            "seconds": {"entries": [[1.0] * ROUNDS] * 2, "dense": [[0.5] * ROUNDS, [2.0] * ROUNDS]},
            "exponents": {"entries": [0.1] * ROUNDS, "dense": [1.0] * ROUNDS},
        },
        "memory": {
            "label": "large",
            "features": 32_768,
            "floor": 100,
            "planned": {"entries": 120, "dense": 250},
            "resident": 125,
        },
    }


def verdicts(made: dict) -> dict[str, bool | None]:
    return {claim.name: claim.holds for claim in claims(made)}


def test_all_hold():
    assert set(verdicts(results()).values()) == {True}
    assert figure(results())


@pytest.mark.parametrize(
    "path, value, broken",
    [
        (("steps", 0, "seconds", "torch, dense"), [0.95] * ROUNDS, "not_slower_than_torch"),
        (("steps", 0, "seconds", "torch, embedding_bag"), [0.85] * ROUNDS, "not_slower_than_torch"),
        (("population", "seconds", "torch, dense"), [1.2] * ROUNDS, "population_faster"),
        (("selections", "seconds", "batch", "sorting"), [4.0] * ROUNDS, "selections_beat_sorting"),
        (("selections", "seconds", "feature", "sorting"), [4.0] * ROUNDS, "selections_beat_sorting"),
        (("memory", "planned", "entries"), 131, "memory_within"),
        (("memory", "resident"), 131, "memory_within"),
        (("decoders", "seconds", "dense", 1), [0.5] * ROUNDS, "sparse_wins_at_large_f"),
    ],
)
def test_each_claim_can_fail_alone(path, value, broken):
    made = deepcopy(results())
    part = made
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    assert {name for name, holds in verdicts(made).items() if holds is False} == {broken}


def test_too_little_cannot_tell():
    made = results()
    for part in (made["steps"][0], made["population"]):
        for label in part["seconds"]:
            if label.startswith("torch"):
                part["left_out"][label] = "PyTorch is not installed"
        part["seconds"] = {"lexinv": [1.0] * ROUNDS}
    made["memory"]["features"] = 64
    for times in made["selections"]["seconds"].values():
        times["lexinv"], times["sorting"] = [1.0], [6.0]
    found = verdicts(made)
    names = ("not_slower_than_torch", "population_faster", "selections_beat_sorting", "memory_within")
    assert [found[name] for name in names] == [None] * 4
    assert "not installed" in str(claims(made)[0].measured)
    assert figure(made)


def test_floor_counts_parameters_moments_and_two_arrays():
    problem = AutoencoderProblem(3, 8, 2, 5, 2)
    assert problem.floor_bytes == 4 * (3 * (24 + 24 + 8 + 3) + 2 * 40)
    assert planned_bytes(problem) > 0


@pytest.mark.parity
def test_torch_does_the_same_steps():
    pytest.importorskip("torch")
    ours = jax_autoencoder_step(replace(TINY, members=2), True)
    for decode in ("dense", "entries"):
        theirs = torch_autoencoder_step(replace(TINY, members=2, decode=decode), False)
        expected = [theirs() for _ in range(4)]
        if decode == "dense":
            found = [ours() for _ in range(4)]
            assert found[3][0] < found[0][0] and found[0][0] != found[0][1]
        np.testing.assert_allclose(found, expected, rtol=2e-4)


@pytest.mark.parametrize(
    "change, field",
    [
        ({"rounds": 0}, "rounds"),
        ({"members": 1}, "members"),
        ({"problems": ()}, "problems"),
        ({"selection": (8, 2)}, "selection"),
        ({"features": (128, 64)}, "features"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        replace(PRESETS["smoke"], **change)
    assert error.value.field == field


@pytest.mark.parametrize("change, field", [({"k": 65}, "problem.k"), ({"features": 3}, "problem.features")])
def test_impossible_problems_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        replace(TINY, **change)
    assert error.value.field == field
