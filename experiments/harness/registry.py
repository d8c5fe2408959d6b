"""Which experiments there are: read from their source, so that listing them imports nothing."""

import ast
import importlib
from pathlib import Path
from types import ModuleType

import experiments
from lexinv.validation import choose

FACE = {"Config", "PRESETS", "run", "claims", "figure"}


def discover() -> dict[str, Path]:
    """Every experiment as `family/name` with its file: each file in a family's folder that defines the face of an experiment."""
    files = sorted(file for root in experiments.__path__ for file in Path(root).glob("*/*.py"))
    return {f"{file.parent.name}/{file.stem}": file for file in files if defined(file) >= FACE}


def defined(file: Path) -> set[str]:
    """The names that a source file defines at its top level."""
    names = set()
    for node in ast.parse(file.read_bytes()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return names


def title(file: Path) -> str:
    """The first line of the docstring of a source file, or an empty string."""
    return (ast.get_docstring(ast.parse(file.read_bytes())) or "").partition("\n")[0]


def load(name: str) -> ModuleType:
    """The module of the experiment `family/name`. Raises `InvalidConfig` with the nearest names for an unknown one."""
    choose("experiment", name, discover())
    return importlib.import_module(f"experiments.{name.replace('/', '.')}")
