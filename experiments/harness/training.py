"""How models are trained: the one configuration of every family."""

from collections.abc import Iterator
from dataclasses import dataclass

from lexinv.training.mesh import MeshConfig
from lexinv.training.optimizers import OptimizerConfig, make_optimizer
from lexinv.validation import Checked, Count, Seeds


@dataclass(frozen=True)
class Training(Checked):
    """How every model of an experiment is trained; each seed decides initialisation, order of the data and what is drawn.

    On a mesh of more than one device the seeds are trained one after another, otherwise as one population.
    """

    steps: Count = 1000
    batch_size: Count = 16
    seeds: Seeds = (0,)
    optimizer: OptimizerConfig = OptimizerConfig()
    microbatches: Count = 1
    steps_per_dispatch: Count = 1
    mesh: MeshConfig = MeshConfig()

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        rows, parts = self.batch_size, self.mesh.batch_parts
        yield rows % self.microbatches == 0, "microbatches", f"a divisor of batch_size = {rows}"
        yield parts > 0 and rows % parts == 0, "batch_size", f"a multiple of the mesh's data * fsdp = {parts}"
        yield self.steps % self.steps_per_dispatch == 0, "steps_per_dispatch", f"a divisor of steps = {self.steps}"
        make_optimizer(self.optimizer, self.steps)  # refuses what cannot be meant
