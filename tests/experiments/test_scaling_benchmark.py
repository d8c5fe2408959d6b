"""The benchmark of scaling: its verdicts can go either way, and its problems grow as it says."""

from copy import deepcopy
from dataclasses import replace

import pytest

from experiments.benchmarks import scaling
from experiments.benchmarks.scaling import PRESETS, by_axis, claims, figure, parameters
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.mesh import MeshConfig
from lexinv.validation import InvalidConfig

SMOKE = PRESETS["smoke"]
TOKENS, VOCAB, DEPTH, WIDTH, PARAMETERS = 100, 16, 2, 10, 1000
READOUT, KEPT = 6 * TOKENS * WIDTH**2, 12 * (WIDTH**2 + (2 * DEPTH + 2) * WIDTH + 1)
FLOPS, STATE, TEMPORARY = 8 * 10**6 + READOUT, 12 * PARAMETERS, 10**6
RESIDUAL = 4 * TOKENS * WIDTH


def program(flops=FLOPS, state=STATE, temporary=TEMPORARY, **traffic):
    kinds = {kind.replace("_", "-"): size for kind, size in traffic.items()}
    return {"flops": flops, "state_bytes": state, "temporary_bytes": temporary, "collectives": kinds}


def results(kind="lexinvariant"):
    """As theory has it, for 2 and 8 devices."""
    gradient = 4 * (PARAMETERS + (VOCAB * WIDTH if kind == "standard" else 0))
    axes = {axis: [program()] for axis in scaling.AXES}
    for n in (2, 8):
        axes["data"].append(program(all_reduce=gradient))
        axes["fsdp"].append(program(state=STATE // n, all_reduce=gradient, all_gather=8 * PARAMETERS))
        flops, state = READOUT + (FLOPS - READOUT) // n, KEPT + (STATE - KEPT) // n
        axes["model"].append(program(flops, state, TEMPORARY // n, all_reduce=(6 * DEPTH + 2) * RESIDUAL))
    sizes = {"tokens": TOKENS, "vocab": VOCAB, "depth": DEPTH, "width": WIDTH, "parameters": {kind: PARAMETERS}}
    return {"devices": [1, 2, 8], "sizes": sizes, "programs": {kind: axes}}


@pytest.mark.parametrize("kind", ["lexinvariant", "standard"])
def test_all_holds_where_theory_does(kind):
    judged = claims(results(kind))
    assert len({claim.name for claim in judged}) == 9
    assert all(claim.holds for claim in judged)


@pytest.mark.parametrize(
    "axis, change, fails",
    [
        ("data", {"flops": 1.05 * FLOPS}, {"same_work"}),
        ("fsdp", {"flops": FLOPS / 8}, {"same_work"}),
        ("model", {"flops": FLOPS}, {"divided_work"}),
        ("data", {"collectives": {"all-reduce": 8 * PARAMETERS}}, {"gradients_summed"}),
        ("data", {"collectives": {"all-reduce": 4 * PARAMETERS, "all-to-all": 400}}, {"gradients_summed"}),
        ("fsdp", {"collectives": {"all-gather": 4 * PARAMETERS}}, {"sharded_gradients_summed"}),
        ("fsdp", {"collectives": {"reduce-scatter": 4 * PARAMETERS}}, {"parameters_gathered"}),
        (
            "fsdp",
            {"collectives": {"all-reduce": 4 * PARAMETERS, "all-gather": 12 * PARAMETERS}},
            {"parameters_gathered"},
        ),
        ("model", {"collectives": {"all-reduce": 14 * RESIDUAL, "all-gather": RESIDUAL}}, {"activations_summed"}),
        ("fsdp", {"state_bytes": STATE}, {"sharded_state"}),
        ("model", {"state_bytes": STATE}, {"divided_state"}),
        ("data", {"temporary_bytes": 8 * TEMPORARY}, {"same_memory"}),
        ("fsdp", {"temporary_bytes": 8 * TEMPORARY}, {"same_memory"}),
    ],
)
def test_verdicts_follow_each_number(axis, change, fails):
    """The number of 8 devices alone is changed."""
    made = deepcopy(results())
    made["programs"]["lexinvariant"][axis][-1] |= change
    assert {claim.name for claim in claims(made) if not claim.holds} == fails


def test_rows_grow_with_the_devices_unless_the_model_is_divided():
    asked = []

    class Recorder:
        def ask(self, request, problem, mesh):
            asked.append((mesh, problem.batch_size))
            return len(asked)

    found = by_axis(SMOKE.problems["lexinvariant"], (1, 2, 8), Recorder())
    assert asked[0] == (MeshConfig(), SMOKE.rows)
    for axis, grows in {"data": True, "fsdp": True, "model": False}.items():
        assert [(MeshConfig(**{axis: n}), SMOKE.rows * (n if grows else 1)) for n in (2, 8)] == [
            asked[index - 1] for index in found[axis][1:]
        ]
        assert found[axis][0] == 1


def test_parameters_are_those_of_a_hand_count():
    model, problem = SMOKE.model, SMOKE.problems["lexinvariant"]
    layer = 4 * model.width**2 + 2 * model.width * model.mlp_width + 2 * model.width
    assert parameters(problem) == model.depth * layer + model.width**2 + 2 * model.width + 1


def test_figure_shows_every_mesh():
    panels = figure(results()).axes
    assert len(panels) == 4
    assert {line.get_label() for line in panels[3].get_lines()} == set(scaling.NAMES.values())


@pytest.mark.parametrize(
    "change, field",
    [
        ({"devices": (1,)}, "devices"),
        ({"devices": (2, 4)}, "devices"),
        ({"devices": (1, 3)}, "devices"),
        ({"vocab": 27}, "devices"),
        ({"model": TransformerConfig(width=64, heads=4, mlp_width=64)}, "devices"),
        ({"model": replace(SMOKE.model, bias=True)}, "model"),
        ({"lexica": ()}, "lexica"),
        ({"rows": 0}, "problem.batch_size"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        replace(SMOKE, **change)
    assert error.value.field == field
