"""Presets as a table of what differs from the committed one."""

from typing import Any

from experiments.harness.sweep_algebra import override


def presets(cpu: Any, **others: dict[str, Any]) -> dict[str, Any]:
    """`cpu` and, by name, the same with other values at dotted names. Raises `InvalidConfig` as the configuration does."""
    return {"cpu": cpu, **{name: override(cpu, changes) for name, changes in others.items()}}
