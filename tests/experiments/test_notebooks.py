"""The notebooks run, hold no outputs, and are what their scripts say."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

COLAB = Path(__file__).parents[2] / "colab"
NAMES = sorted(path.stem for path in COLAB.glob("*.ipynb"))


def test_all_are_here():
    assert sorted(path.stem for path in COLAB.glob("*.py")) == NAMES
    assert [name[:2] for name in NAMES] == ["00", "01", "02", "03", "04", "05", "06", "07", "08", "09"]


@pytest.mark.parametrize("name", NAMES)
def test_pairs_agree_and_hold_no_outputs(name):
    notebook, script = (jupytext.read(COLAB / f"{name}.{kind}") for kind in ("ipynb", "py"))
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in script.cells
    ]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert any("Exercise" in cell.source for cell in notebook.cells)
    assert not re.search(r"pip install[^\n]*\bjax|tensorflow", "\n".join(cell.source for cell in code))


def first_cells() -> set[str]:
    """The first code cell of every notebook."""
    read = (jupytext.read(COLAB / f"{name}.py").cells for name in NAMES)
    return {next(cell.source for cell in cells if cell.cell_type == "code") for cells in read}


@pytest.fixture
def first_cell(tmp_path, monkeypatch):
    """Run the first cell in a folder, where lexinv is not installed, with the field filled in: the folder that it installed."""
    (cell,) = first_cells()
    run, commands = subprocess.run, []

    def fake(command, **options):
        return run(command, **options) if command[0] == "git" else commands.append(command)

    def call(folder: Path, source: str = "") -> Path:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setattr(subprocess, "run", fake)
        monkeypatch.setattr(importlib.metadata, "distributions", lambda name: iter(()))
        exec(cell.replace('SOURCE = ""', f"SOURCE = {source!r}"), {})
        (command,) = commands
        assert command[:-1] == [sys.executable, "-m", "pip", "install", "--quiet", "--editable"]
        assert sys.path[0] == str(command[-1])
        return command[-1]

    return call


@pytest.fixture
def checkout(tmp_path) -> Path:
    folder = tmp_path / "content/lexinv-main"
    (folder / "experiments/harness").mkdir(parents=True)
    (folder / "experiments/harness/notebook.py").touch()
    return folder


@pytest.mark.parametrize(
    "start, given", [(".", ""), ("..", ""), ("experiments/harness", ""), ("../..", "content/lexinv-main")]
)
def test_a_checkout_that_is_there_or_given_is_found(first_cell, checkout, capsys, start, given):
    assert first_cell((checkout / start).resolve(), given) == checkout
    assert str(checkout) in capsys.readouterr().out


def test_a_repository_is_cloned_from_its_address(first_cell, checkout, tmp_path):
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    for arguments in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "all"]):
        subprocess.run(["git", *arguments], cwd=checkout, check=True)
    (here := tmp_path / "empty").mkdir()
    assert first_cell(here, f"git+{checkout.as_uri()}") == here / "lexinv"
    assert (here / "lexinv/experiments/harness/notebook.py").is_file()


def test_without_any_it_says_what_to_do(first_cell, tmp_path):
    with pytest.raises(FileNotFoundError, match="clone or upload one, or write its address into SOURCE"):
        first_cell(tmp_path)


def test_what_is_installed_stays(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (cell,) = first_cells()
    exec(cell, {})
    assert capsys.readouterr().out == ""


def test_what_colab_has_of_jax_and_python_may_stay():
    """jax 0.7.2 and Python 3.13, and a flax that wants no newer jax."""
    project = tomllib.loads((COLAB.parent / "pyproject.toml").read_text())["project"]
    assert SpecifierSet(project["requires-python"]).contains("3.13")
    wanted = {found.name: found.specifier for found in map(Requirement, project["dependencies"])}
    assert wanted["jax"].contains("0.7.2") and wanted["flax"].contains("0.11.0")


def test_the_sweep_comes_before_this_process_takes_the_devices():
    cells = [cell.source for cell in jupytext.read(COLAB / "05_sweeps_and_tpus.py").cells if cell.cell_type == "code"]
    sweeping, preparing = (
        next(number for number, cell in enumerate(cells) if call in cell) for call in ('main(["sweep"', "prepare()")
    )
    assert sweeping < preparing


@pytest.mark.notebook
@pytest.mark.parametrize("name", NAMES)
def test_runs(name, tmp_path, user_environment):
    """At smoke size, in a kernel of its own; every figure is in-line."""
    notebook = nbformat.read(COLAB / f"{name}.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    own = {"LEXINV_PRESET": "smoke", "PYTHONPATH": str(COLAB.parent), "IPYTHONDIR": str(tmp_path / "ipython")}
    client.execute(env={**user_environment, **own})
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(figures) == {"04": 2, "05": 0}.get(name[:2], 1)
