"""The benchmark of scaling: its problems grow as it says, and its predictions are those of a hand count."""

from experiments.benchmarks.scaling import PRESETS, by_axis, parameters
from lexinv.training.mesh import MeshConfig

SMOKE = PRESETS["smoke"]


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
