"""The benchmark of scaling: its problems grow as it says."""

from experiments.benchmarks.scaling import PRESETS, by_axis
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
