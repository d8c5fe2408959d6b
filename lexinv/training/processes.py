"""What the processes of one run have to decide alike: each waits for the others in every collective operation."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


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
