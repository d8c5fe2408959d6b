"""A static site of the committed records: an index, and a page per experiment with claims, figure, environment and how to run it again."""

import html
import json
import shutil
from pathlib import Path
from typing import Any

from experiments.harness import record, registry
from experiments.harness.record import Record
from experiments.harness.report import PREFERENCE, citation, number, verdicts
from experiments.harness.workspace import write_atomically
from lexinv.validation import choose

STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #1a7f37; --bad: #b3261e; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; }
th, td { border-bottom: 1px solid var(--line); padding: 0.4rem 0.6rem; text-align: left; vertical-align: top; }
img { max-width: 100%; background: white; }
td img { width: 18rem; }
pre { overflow-x: auto; border: 1px solid var(--line); padding: 0.6rem; font-size: 0.85rem; }
.holds { color: var(--good); font-weight: 600; } .refuted { color: var(--bad); font-weight: 600; }
"""


def write_site(folder: Path) -> list[Path]:
    """Write the site into `folder` (made if missing); returns its pages. It needs no network and no server.

    Writing twice gives the same bytes. Raises `InvalidConfig` for a malformed record, and one of an unknown experiment.
    """
    items: dict[str, list[Record]] = {}
    files = registry.discover()
    for item in record.read_records():
        items.setdefault(choose("record", item.experiment, files), []).append(item)
    for held in items.values():
        held.sort(key=lambda item: PREFERENCE.index(item.preset) if item.preset in PREFERENCE else len(PREFERENCE))
        for item in held:
            target = folder / figure_path(item)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(item.folder / "figure.png", target)
    pages = {"index.html": index(items)} | {page_path(name): page(name, held) for name, held in items.items()}
    for path, text in pages.items():
        write_atomically(folder / path, text.encode())
    return [folder / path for path in pages]


def page_path(name: str) -> str:
    """File of an experiment's page, relative to the site."""
    return f"{name.replace('/', '-')}.html"


def figure_path(item: Record) -> str:
    """File of a record's figure, relative to the site."""
    return f"figures/{item.experiment.replace('/', '-')}-{item.preset}.png"


def index(items: dict[str, list[Record]]) -> str:
    """One row for each experiment that has a record, linked to its page."""
    files = registry.discover()
    rows = []
    for name, held in items.items():
        link, image = page_path(name), figure_path(held[0])
        rows.append(
            f'<tr><td><a href="{link}"><img src="{image}" alt="{name}"></a></td>'
            f'<td><a href="{link}">{name}</a><br>{html.escape(registry.title(files[name]))}</td><td>{verdicts(held[0])}</td></tr>'
        )
    table = "<table><tr><th>figure</th><th>what it shows</th><th>claims</th></tr>" + "\n".join(rows) + "</table>"
    return document("What was reproduced", f"<h1>What was reproduced</h1>\n{table}")


def page(name: str, held: list[Record]) -> str:
    """Everything that the records of one experiment hold but the results themselves."""
    title = registry.title(registry.discover()[name])
    parts = [f'<p><a href="index.html">all experiments</a></p><h1>{name}</h1><p>{html.escape(title)}</p>']
    for item in held:
        environment = {key: value for key, value in item.environment.items() if key != "packages"}
        again = "\n".join(f"python -m experiments {verb} {name} {item.preset}" for verb in ("run", "verify"))
        parts += [
            f"<h2>{html.escape(item.preset)}: {verdicts(item)}</h2>",
            f'<img src="{html.escape(figure_path(item))}" alt="{html.escape(f"figure of {name} {item.preset}")}">',
            claims_table(item),
            "<h3>Run it again</h3>",
            f"<pre>{html.escape(again)}</pre>",
            f"<h3>Cite</h3><pre>{html.escape(citation(name, item.preset))}</pre>",
            details("Environment", environment),
            details("Packages", item.environment["packages"]),
            details("Configuration", item.config),
        ]
    return document(name, "\n".join(parts))


def claims_table(item: Record) -> str:
    """The claims of a record with their numbers and verdicts."""
    rows = [
        "<tr><th>claim</th><th>source</th><th>published</th><th>measured</th><th>threshold</th><th>verdict</th></tr>"
    ]
    for claim in item.claims:
        verdict = claim["verdict"]
        statement = f"<code>{html.escape(claim['name'])}</code><br>{html.escape(claim['statement'])}"
        numbers = (html.escape(number(claim[key])) for key in ("published", "measured", "threshold"))
        cells = [
            statement,
            html.escape(claim["source"]),
            *numbers,
            f'<span class="{verdict}">{verdict}</span>',
        ]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f'<table class="claims">{"".join(rows)}</table>'


def details(title: str, value: Any) -> str:
    """JSON that is folded away until asked for."""
    return f"<details><summary>{title}</summary><pre>{html.escape(json.dumps(value, indent=2))}</pre></details>"


def document(title: str, body: str) -> str:
    """A whole page."""
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>{body}</body></html>\n'
