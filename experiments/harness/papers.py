"""The papers that experiments reproduce: `experiments/papers.bib`, an entry each by the key that claims name."""

import re
from functools import cache
from pathlib import Path

import experiments
from lexinv.validation import choose

FILE = Path(experiments.__file__).with_name("papers.bib")
CARDS = Path(experiments.__file__).with_name("cards")
CARD = re.compile(r"\n  card = \{(.*)\},")


@cache
def entries() -> dict[str, str]:
    """Every entry of the file by its key, the name of its card included."""
    found = re.split(r"\n(?=@)", FILE.read_text(encoding="utf-8").strip())
    return {re.match(r"@\w+\{([^,\s]+),", entry)[1]: entry.strip() for entry in found}  # type: ignore[index]


def bibtex(key: str) -> str:
    """The entry as it is cited. Raises `InvalidConfig` with the nearest keys for an unknown one."""
    return CARD.sub("", entries()[choose("paper", key, entries())])


def field(key: str, name: str) -> str:
    """One field of an entry without its braces; empty where there is none."""
    found = re.search(rf"\n  {name} = \{{(.*)\}},", entries()[key])
    return re.sub(r"[{}]", "", found[1]) if found else ""


def card(key: str) -> Path | None:
    """The paper's method card: what it claims, its method, where paper and code differ, how it is reproduced."""
    name = field(key, "card")
    return CARDS / f"{name}.md" if name else None
