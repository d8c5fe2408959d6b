"""Arms of an experiment, each measured with every seed: how they are run, kept, and read again."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.harness.workspace import Workspace


def measured(
    workspace: Workspace, arms: Iterable[str], seeds: Sequence[int], measure: Callable[[str, int], Mapping[str, Any]]
) -> dict[str, dict[str, list[Any]]]:
    """By arm and metric a list over seeds. `measure(arm, seed)` gives numbers or lists by metric; each call is a stage of the run."""
    found = {}
    for arm in arms:
        rows = [workspace.cached(f"arms/{arm}/{seed}", lambda arm=arm, seed=seed: measure(arm, seed)) for seed in seeds]
        found[arm] = {metric: [row[metric] for row in rows] for metric in rows[0]}
    return found


class Arms:
    """Reads them: `arms["topk", "fvu"]` is [seeds, ...]."""

    def __init__(self, results: Mapping[str, Any]):
        self.found: Mapping[str, Mapping[str, Any]] = results["arms"]

    def __getitem__(self, key: tuple[str, str]) -> np.ndarray:
        arm, metric = key
        return np.array(self.found[arm][metric])

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __contains__(self, arm: str) -> bool:
        return arm in self.found


def interpolated(
    x: Float[np.ndarray, "seeds settings"], y: Float[np.ndarray, "seeds settings"], at: np.ndarray | float
) -> np.ndarray:
    """y of each seed where x is `at`, linear in ln x; the nearest setting's where none is beyond."""
    wanted = np.broadcast_to(at, (len(x), *np.shape(at)[1:]))
    rows = []
    for place, row, values in zip(wanted, x, y, strict=True):
        order = np.argsort(row)
        logs = np.log(np.maximum(row[order], 1e-6))
        rows.append(np.interp(np.log(place), logs, values[order]))
    return np.array(rows)


def by(names: Iterable[Any], values: np.ndarray, form: str = "{}") -> dict[str, np.ndarray]:
    """[seeds, names] as [seeds] by name."""
    return {form.format(name): column for name, column in zip(names, values.T, strict=True)}
