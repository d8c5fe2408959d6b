"""What the processes of one run have to decide alike: each waits for the others in every collective operation.

How a program becomes several processes: `lexinv.training.mesh`. All of them call these functions in the same order.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from lexinv.validation import InvalidConfig


def several_processes() -> bool:
    """Whether this process is one of several. Starts no backend in a process that is alone."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def first_process() -> bool:
    """Whether this process is the one that locks, writes and prints for all."""
    return not several_processes() or jax.process_index() == 0


def agree(compute: Callable[[], Any]) -> Any:
    """What `compute()`, called in the first process alone, returns there; to the other processes as JSON gives it back.

    An `InvalidConfig` that it raises there is raised in all. After any other exception the first process has to end, since the others wait.
    """
    if not several_processes():
        return compute()
    answer, refused = {}, None
    if first_process():
        try:
            answer = {"value": compute()}
        except InvalidConfig as error:
            answer, refused = {"refused": [error.field, error.value, error.allowed]}, error
    sent = np.frombuffer(json.dumps(answer, default=repr).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.array(len(sent), np.int32)))
    room = np.zeros(1 << max(size, 1024).bit_length(), np.uint8)  # few sizes, since each is compiled
    if first_process():
        room[:size] = sent
    received = json.loads(multihost_utils.broadcast_one_to_all(room)[:size].tobytes())
    if "refused" in received:
        raise refused or InvalidConfig(*received["refused"])
    return answer["value"] if first_process() else received["value"]


def in_any_process(here: bool) -> bool:
    """Whether it is so in any of the processes."""
    return bool(multihost_utils.process_allgather(np.array(here)).any()) if several_processes() else here


def whole(tree: PyTree) -> PyTree:
    """Arrays that are divided over several processes, each whole on the first device of every process; with one process as they are."""
    if not several_processes():
        return tree
    return jax.tree.map(jnp.asarray, multihost_utils.process_allgather(tree, tiled=True))


class AnyProcess:
    """Whether any process wishes something, as all processes see it at the same dispatch.

    With one process its own wishes at once. With several those of the call before: to ask for the ones of this call would make the
    host wait for the step that it has just dispatched. Only at the end of the run is there no later call, and it waits.
    """

    def __init__(self):
        mesh = Mesh(np.array(jax.devices()), ("device",))
        self._divided = NamedSharding(mesh, PartitionSpec("device"))
        self._any = jax.jit(lambda wishes: wishes.any(axis=0), out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._before: jax.Array | None = None

    def __call__(self, *wishes: bool, last: bool = False) -> tuple[bool, ...]:
        """Same number of wishes from every process."""
        if jax.process_count() == 1:
            return wishes
        mine = np.tile(np.array(wishes), (jax.local_device_count(), 1))
        now = self._any(jax.make_array_from_process_local_data(self._divided, mine))
        answer, self._before = (now if last else self._before), now
        if answer is None:
            return (False,) * len(wishes)
        granted = tuple(bool(wish) for wish in jax.device_get(answer))
        if any(granted):  # the wishes of this call were made before it was granted
            self._before = None
        return granted
