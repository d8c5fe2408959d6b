"""The notebooks run, hold no outputs, and are what their scripts say."""

import re
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

COLAB = Path(__file__).parents[2] / "colab"
NAMES = sorted(path.stem for path in COLAB.glob("*.ipynb"))


def test_all_are_here():
    assert sorted(path.stem for path in COLAB.glob("*.py")) == NAMES
    assert [name[:2] for name in NAMES] == ["00", "01", "02", "03", "04", "05"]


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
    assert len(figures) == (0 if name.startswith("05") else 1)
