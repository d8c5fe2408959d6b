"""Models that are trained together, as a value: it can be run, planned for other devices, and joined with those of other runs."""

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from experiments.harness.workspace import Workspace
from lexinv.training.fit import fit
from lexinv.training.mesh import MeshConfig, make_mesh, shard_batch, shard_state
from lexinv.training.population import population_here
from lexinv.training.state import TrainState
from lexinv.training.step import TrainStep

if TYPE_CHECKING:
    from grain import MapDataset
else:
    MapDataset = Any  # grain is imported when it is needed

Params = Any
Members = tuple[tuple[int, float], ...]
"""(seed, learning rate) of each model of a population."""
Population = Literal["none", "map", "vmap"]


@dataclass(frozen=True, eq=False)
class Work:
    """Models that are trained together: what `Workspace.postpone` is told before it begins."""

    name: str
    workspace: Workspace
    steps: int
    batch_size: int
    members: Members
    states: Callable[[], TrainState]
    """Before the first step, with an axis of members."""
    step: Callable[[Population], TrainStep]
    dataset: Callable[[], MapDataset]
    """Leaves [K, S, B, ...] for dispatches of K steps and S members, [K, B, ...] where the batches are shared."""
    shared_batches: bool = False
    population: Population | None = None
    """None: one after another on the CPU, together elsewhere. "none": there is one member, and no axis of members anywhere."""
    drawn: bool = False
    """Batches are drawn inside the step: what `dataset` gives are numbers, and several devices would all draw the same."""
    mesh: MeshConfig = MeshConfig()
    held: int | None = None
    """The size of a batch on a mesh of which each process reads its own rows; None: each reads all."""
    tokens: int = 1
    """Of an example, and what one of them costs: for the speed that is shown."""
    flops_per_token: float = 0.0
    evaluate: Callable[[TrainState], Mapping[str, Any]] | None = None
    """Of all members, before the first step and after every dispatch: {name: [S, ...]}."""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.workspace.folder(self.name)

    @property
    def one(self) -> tuple[TrainState, Any]:
        """Shapes of one member's state and of its batches."""
        alone, shared = self.population == "none", self.population == "none" or self.shared_batches
        states, batches = jax.eval_shape(self.states), self.dataset()[0]
        state = jax.tree.map(lambda leaf: leaf if alone else jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), states)
        return state, jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape if shared else leaf.shape[:1] + leaf.shape[2:], leaf.dtype),
            batches,
        )

    @cached_property
    def program(self) -> str:
        """Digest of one member's step as it is compiled, and of batches that are shared: works of one program may be one population."""
        step: Any = self.step("none")
        text = step.lower(*self.one).as_text()
        digest = hashlib.sha256(f"{self.steps} {self.evaluate is None} {text}".encode())
        if self.shared_batches:
            for leaf in jax.tree.leaves(self.dataset()[0]):
                digest.update(np.ascontiguousarray(leaf))
        return digest.hexdigest()[:16]

    def run(self) -> TrainState:
        """The state after training in the folder, where it resumes; at once where it is done. Raises what `workspace.postpone` raises."""
        evaluate, meshed = self.evaluate, self.mesh.devices > 1
        if self.workspace.postpone is not None:
            self.workspace.postpone(self)
        found = None if meshed else self._finished()
        state = self.states() if found is None else found
        if evaluate is not None:
            self.workspace.cached(f"{self.name}/begun", lambda: evaluate(self.states() if found is state else state))
        if found is not None:
            return found
        dataset = self.dataset()
        if meshed:
            mesh = make_mesh(self.mesh)
            state, dataset = shard_state(state, mesh), dataset.map(lambda batch: shard_batch(batch, mesh, self.held))
        return fit(
            state,
            self.step(self.population or population_here()),
            dataset,
            steps=self.steps,
            directory=self.folder,
            metadata={"config_hash": self.workspace.config_hash, "arm": self.name, **self.metadata},
            tokens_per_step=len(self.members) * self.batch_size * self.tokens,
            flops_per_token=self.flops_per_token,
            checkpoints=self.workspace.checkpoints,
            evaluate=evaluate,
            evaluate_every=None if evaluate is None else 1,
            progress=self.workspace.progress,
            description=self.name,
        )

    def _finished(self) -> TrainState | None:
        """The state after the last step, if it is there. Nothing is compiled for it, as the first state would have to be."""
        from lexinv.training.checkpoint import Checkpoints

        if not (self.folder / f"checkpoints/{self.steps}").is_dir():
            return None
        place = SingleDeviceSharding(jax.devices()[0])
        template = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), jax.eval_shape(self.states)
        )
        restored = Checkpoints(self.folder / "checkpoints").restore_latest(template, self.workspace.config_hash)
        return restored.state if restored is not None and restored.step == self.steps else None


def some_members(work: Work, places: Sequence[int]) -> Work:
    """The members at these places as a work of their own, a place once or often."""
    chosen = np.array(places)

    def dataset() -> MapDataset:
        return work.dataset().map(lambda batch: jax.tree.map(lambda leaf: leaf[:, chosen], batch))

    return replace(
        work,
        members=tuple(work.members[place] for place in places),
        states=lambda: jax.tree.map(lambda leaf: leaf[chosen], work.states()),
        dataset=work.dataset if work.shared_batches else dataset,
    )


def joined(works: Sequence[Work], name: str, workspace: Workspace) -> Work:
    """Works of one program as one, their members one after another; each is evaluated as alone."""
    import grain

    first, stops = works[0], np.cumsum([len(work.members) for work in works])

    def states() -> TrainState:
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *[work.states() for work in works])

    def dataset() -> MapDataset:
        every = [work.dataset() for work in works]

        def batch(index: int) -> Any:
            parts = [one[index] for one in every]
            return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *parts)

        return every[0] if first.shared_batches else grain.MapDataset.range(sys.maxsize).map(batch)

    def evaluate(state: TrainState) -> Any:
        found = []
        for work, stop in zip(works, stops, strict=True):
            part = slice(stop - len(work.members), stop)
            assert work.evaluate is not None  # works that are evaluated have another program than those that are not
            found.append(work.evaluate(jax.tree.map(lambda leaf, part=part: leaf[part], state)))
        return jax.tree.map(lambda *values: np.concatenate(values), *found)

    return replace(
        first,
        name=name,
        workspace=workspace,
        members=tuple(one for work in works for one in work.members),
        states=states,
        dataset=dataset,
        evaluate=None if first.evaluate is None else evaluate,
    )
