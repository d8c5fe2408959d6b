"""The step of a problem compiled for a mesh, and what one of its devices then does and holds."""

from typing import Any

from experiments.benchmarks.problems import Problem, jax_problem
from experiments.harness.programs import collective_bytes, matrix_flops
from lexinv.training.mesh import MeshConfig


def compiled_program(problem: Problem, mesh: MeshConfig) -> dict[str, Any]:
    """Of one device and one step: FLOPs of matrix products, bytes of state and temporaries, bytes of collectives by kind.

    Needs so many devices, real or fake; nothing is run.
    """
    import jax

    from lexinv.training.mesh import batch_sharding, make_mesh, state_shardings

    def place(leaf: Any, sharding: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    start, step, batches = jax_problem(problem)
    devices = make_mesh(mesh)
    state = jax.eval_shape(start, jax.random.key(0))
    placed = jax.tree.map(place, state, state_shardings(state, devices))
    batch = {name: place(leaf, batch_sharding(devices)) for name, leaf in batches.items()}
    compiled = step.lower(placed, batch).compile()
    memory, program = compiled.memory_analysis(), compiled.as_text()
    rows = sum(leaf.nbytes for leaf in batches.values()) // mesh.batch_parts
    return {
        "flops": matrix_flops(program),
        "state_bytes": memory.argument_size_in_bytes - rows,
        "temporary_bytes": memory.temp_size_in_bytes,
        "collectives": collective_bytes(program),
    }
