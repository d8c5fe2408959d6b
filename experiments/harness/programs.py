"""What a compiled program makes one device do, read from its optimised HLO: matrix products and traffic."""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from lexinv.training.mesh import MeshConfig, batch_sharding, make_mesh, state_shardings

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "s8": 1, "u8": 1, "pred": 1}
OPERATION = re.compile(rf"= (\(?[^=]*?) ({'|'.join(COLLECTIVES)})(?:-start)?\(")
PRODUCT = re.compile(r"= \w+\[([\d,]*)\]\S* dot\(%?([\w.-]+), [^\n]*?lhs_contracting_dims=\{([\d,]*)\}")
DEFINITION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = \w+\[([\d,]*)\]", re.M)
COMMENT = re.compile(r"/\*.*?\*/")
TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


class Device(NamedTuple):
    """What one device does in a step and holds, in bytes, as XLA's compiler for these devices has it; collectives: bytes by kind."""

    matrix_flops: int
    argument_bytes: int
    temporary_bytes: int
    collectives: dict[str, int]


def of_device(step: Any, state: Any, batch: Any, mesh: MeshConfig) -> Device:
    """A jitted step compiled for states and batches of these shapes on a mesh, for which there have to be devices; nothing is run."""
    devices = make_mesh(mesh)

    def place(leaf: Any, sharding: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    placed = jax.tree.map(place, state, state_shardings(state, devices))
    rows = jax.tree.map(lambda leaf: place(leaf, batch_sharding(devices)), batch)
    compiled = step.lower(placed, rows).compile()
    memory, program = compiled.memory_analysis(), compiled.as_text()
    sizes = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    return Device(matrix_flops(program), *sizes, collective_bytes(program))


def collective_bytes(program: str) -> dict[str, int]:
    """Bytes of the results of each kind of collective operation, as often as its loops run.

    A loop whose number of rounds the compiler does not know counts once.
    """
    found: dict[str, int] = {}
    for rounds, text in _computations(program):
        for shapes, kind in OPERATION.findall(text):
            sizes = [
                BYTES[dtype] * math.prod(_sides(sides)) for dtype, sides in SHAPE.findall(shapes) if dtype in BYTES
            ]
            found[kind] = found.get(kind, 0) + rounds * sum(sizes)
    return found


def matrix_flops(program: str) -> int:
    """Floating-point operations of the matrix products, 2 for each multiply-add, as often as their loops run.

    XLA's own cost analysis counts the body of a loop once, and such as the scan over layers is one.
    """
    total = 0
    for rounds, text in _computations(program):
        shapes = {name: _sides(sides) for name, sides in DEFINITION.findall(text)}
        for result, left, contracted in PRODUCT.findall(text):
            summed = math.prod(shapes[left][axis] for axis in _sides(contracted))
            total += rounds * 2 * math.prod(_sides(result)) * summed
    return total


def _sides(text: str) -> list[int]:
    return [int(side) for side in text.split(",") if side]


def _computations(program: str) -> Iterator[tuple[int, str]]:
    """How often each computation of a program runs, and its text."""
    # A computation begins at the margin, "%name (...) -> ... {" or "ENTRY %name ...", and ends with "}" there.
    parts = dict(re.findall(r"^(?:ENTRY )?%?([\w.-]+) [^\n]*\{\n(.*?)^\}", COMMENT.sub("", program), re.M | re.S))
    rounds = dict.fromkeys(parts, 1)
    called = [
        (caller, name, int(trip[1]) if "while(" in line and (trip := TRIPS.search(line)) else 1)
        for caller, text in parts.items()
        for line in text.splitlines()
        for name in re.findall(r"(?:body|condition|calls|to_apply|branch_computations)=\{?%?([\w.-]+)", line)
    ]
    for caller, name, times in reversed(called):  # HLO defines what is called before what calls it
        rounds[name] = rounds.get(caller, 1) * times
    for name, text in parts.items():
        yield rounds[name], text
