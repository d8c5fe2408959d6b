"""The documentation: pages of papers as `python -m experiments report` wrote them, notebooks, and the reference from docstrings."""

import re
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

project = "lexinv"
copyright = "The lexinv authors"
extensions = ["myst_nb", "sphinx.ext.apidoc", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["README.md"]
html_theme = "sphinx_book_theme"
html_title = "lexinv"

# Notebooks run in the tests, at smoke size; here they are shown as they are.
nb_execution_mode = "off"
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
suppress_warnings = ["myst.header", "myst.xref_missing"]

apidoc_modules = [{"path": "../lexinv", "destination": "api", "separate_modules": True, "module_first": True}]
autodoc_default_options = {"members": True, "undoc-members": False}
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
default_role = "code"

NOTEBOOKS = HERE / "notebooks"
shutil.rmtree(NOTEBOOKS, ignore_errors=True)
shutil.copytree(HERE.parent / "colab", NOTEBOOKS, ignore=shutil.ignore_patterns("*.py"))


def plain_text(app, what, name, obj, options, lines):
    """Docstrings are plain text with code in backticks: nothing else in them is mark-up, and indentation is for the eye."""
    parts = re.split(r"`([^`\n]+)`", "\n".join(line.strip() for line in lines))
    parts[::2] = [re.sub(r"[|*`]", r"\\\g<0>", text) for text in parts[::2]]
    parts[1::2] = [rf"\ ``{code}``\ " for code in parts[1::2]]
    lines[:] = "".join(parts).split("\n")


def setup(app):
    app.connect("autodoc-process-docstring", plain_text)
