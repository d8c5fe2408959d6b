"""Experiments are found in their source and imported by name."""

import ast
import os
import subprocess
import sys

import pytest

from experiments.harness import registry
from experiments.harness.registry import discover, load, title
from lexinv.validation import InvalidConfig

PARSE = ast.parse

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


@pytest.mark.long
def test_neither_importing_nor_sweeping_starts_a_backend(toy):
    """A TPU belongs to the process whose backend has started: the trials of a sweep could not have it."""
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "slope" in done.stdout


@pytest.fixture
def broken(repository) -> None:
    """Beside the toy experiment: one that is no Python, one that imports a file that is none, and what editors leave."""
    family = repository / "experiments/toy"
    (family / "broken.py").write_text('"""Half written."""\n\ndef run(config, workspace:\n')
    (family / "zeros.py").write_bytes(b"PRESETS = {}\0")
    importing = "from experiments.toy.broken import run\n" + (family / "line.py").read_text()
    (family / "importing.py").write_text(importing)
    (family / "._line.py").write_bytes(b"\0\5\x16")
    (family / ".#line.py").symlink_to("nobody@nowhere.1")


def test_one_bad_file_is_named_and_the_others_work(cli, broken):
    code, out, _ = cli("list")
    assert code == 0
    assert "A line through noisy points" in out
    (line,) = [line for line in out.splitlines() if line.startswith("toy/broken")]
    assert line.endswith("cannot be read: '(' was never closed (broken.py, line 3)")
    assert "toy/zeros" in out and "._line" not in out and "#line" not in out
    assert cli("run", "toy/line", "smoke")[0] == 0
    assert cli("cite", "toy/line")[0] == 0
    for name in ("toy/broken", "toy/importing"):
        code, _, err = cli("run", name)
        assert code == 2
        assert f"experiment = '{name}'" in err and "broken.py, line 3)" in err and "Traceback" not in err


def test_sources_are_read_once_and_again_when_they_change(repository, monkeypatch):
    discover()
    monkeypatch.setattr(registry.ast, "parse", lambda *_: pytest.fail("read again"))
    assert load("toy/line").__name__ == "experiments.toy.line"
    monkeypatch.setattr(registry.ast, "parse", PARSE)
    file = repository / "experiments/toy/line.py"
    file.write_text('"""Nothing any more."""\n')
    os.utime(file, ns=(1, 1))
    assert "toy/line" not in discover()
    assert title(file) == "Nothing any more."
    with pytest.raises(InvalidConfig, match="experiment = 'toy/line'"):
        load("toy/line")
