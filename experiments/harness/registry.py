"""Which experiments there are: read from their source, so that listing them imports nothing."""

import ast
import functools
import importlib
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import experiments
from lexinv.validation import InvalidConfig, choose, require

FACE = {"Config", "PRESETS", "run", "claims", "figure"}


class Source(NamedTuple):
    """What is read of a file without importing it: the names that it defines at its top level and the first line of its docstring."""

    names: frozenset[str]
    title: str
    error: str | None
    """Why it is no Python; nothing else is known then."""


def discover() -> dict[str, Path]:
    """Every experiment as `family/name` with its file: each file in a family's folder that defines the face of an experiment."""
    return {name: file for name, file in _files().items() if source(file).names >= FACE}


def unreadable() -> dict[str, str]:
    """Why a file in a family's folder, named as an experiment is, cannot be read. It may be one or not; the others are found without it."""
    found = {name: source(file).error for name, file in _files().items()}
    return {name: error for name, error in found.items() if error is not None}


def title(file: Path) -> str:
    """The first line of the docstring of a source file, or an empty string."""
    return source(file).title


def load(name: str) -> ModuleType:
    """The module of the experiment `family/name`.

    Raises `InvalidConfig` with the nearest names for an unknown one, and with the place of what is no Python in it or in what it imports.
    """
    error = unreadable().get(name)
    require(error is None, "experiment", name, f"a file that Python can read, not one with {error}")
    choose("experiment", name, discover())
    try:
        return importlib.import_module(f"experiments.{name.replace('/', '.')}")
    except SyntaxError as wrong:
        place = f"{wrong.msg} ({wrong.filename}, line {wrong.lineno})"
        raise InvalidConfig(
            "experiment", name, f"what imports files that Python can read, not one with {place}"
        ) from None


def source(file: Path) -> Source:
    """What a file defines; read once a process unless it changes, since every command asks this of every file."""
    return _read(file, file.stat().st_mtime_ns)


@functools.cache
def _read(file: Path, modified: int) -> Source:
    try:
        tree = ast.parse(file.read_bytes(), str(file))
    except (SyntaxError, ValueError, OSError) as error:  # ValueError: what ast says to a null byte before Python 3.12
        return Source(frozenset(), "", str(error))
    names = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return Source(frozenset(names), (ast.get_docstring(tree) or "").partition("\n")[0], None)


def _files() -> dict[str, Path]:
    """All Python files in the folders of families; hidden ones are an editor's, or another system's."""
    files = sorted(file for root in experiments.__path__ for file in Path(root).glob("*/[!.]*.py") if file.is_file())
    return {f"{file.parent.name}/{file.stem}": file for file in files}
