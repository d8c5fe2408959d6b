"""Experiments are found in their source and imported by name."""

import subprocess
import sys

# In a process of its own, as a user's that sweeps: the trials, which would use the device, are left out.
IMPORT_ALL = """
from jax._src.xla_bridge import backends_are_initialized
from experiments.__main__ import main
from experiments.harness import sweeps
from experiments.harness.registry import discover, load

for name in discover():
    load(name)
    assert not backends_are_initialized(), name
sweeps.run_processes = lambda *_: None
main(["list"])
main(["sweep", "toy/line", "smoke", "--grid", "slope=1,2"])
assert not backends_are_initialized(), "sweep"
"""


def test_neither_importing_nor_sweeping_starts_a_backend(toy):
    """A TPU belongs to the process whose backend has started: the trials of a sweep could not have it."""
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "slope" in done.stdout
