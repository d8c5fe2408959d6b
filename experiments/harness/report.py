"""The pages that show the committed records, and their BibTeX."""

import html
from typing import Any

from experiments.harness import papers, record, registry
from experiments.harness.config import from_json
from experiments.harness.record import Record
from experiments.harness.workspace import write_atomically
from lexinv.validation import InvalidConfig, choose, require

WORDS = ("holds", "refuted", "open")
BEGIN, END = "<!-- gallery: written by `python -m experiments report` -->", "<!-- end of the gallery -->"
# The record that stands for an experiment in the gallery and in `cite`: the largest one there is.
PREFERENCE = ("paper", "cpu", "quick", "smoke")


def claim_lines(claims: list[dict[str, Any]]) -> list[str]:
    """One line for each judged claim: verdict, name, measured, threshold and published value."""
    return [
        f"{claim['verdict']:7}  {claim['name']}: {number(claim['measured'])}"
        f" (threshold {number(claim['threshold'])}, published {number(claim['published'])})"
        for claim in claims
    ]


def write_report() -> list[str]:
    """Judge and draw every committed record again from its results, then write the pages.

    Writing twice changes nothing. Returns the written paths, relative to the repository. Raises `InvalidConfig` for a
    malformed record, one of an unknown experiment, and a README without the gallery's markers.
    """
    for item in record.read_records():
        record.judge_and_draw(item.folder, registry.load(item.experiment), item.results)
    written = pages()
    for path, page in written.items():
        write_atomically(record.REPOSITORY / path, page.encode())
    return list(written)


def pages() -> dict[str, str]:
    """The text of experiments/README.md and of README.md, as the committed records and the README's own text make them."""
    files = registry.discover()
    records: dict[str, list[Record]] = {name: [] for name in files}
    for item in record.read_records():
        records[choose("record", item.experiment, records)].append(item)
    text = (record.REPOSITORY / "README.md").read_text(encoding="utf-8")
    marked = text.count(BEGIN) == text.count(END) == 1 and text.index(BEGIN) < text.index(END)
    require(marked, "README.md", "gallery", f"one line {BEGIN} and, below it, one line {END}")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return {
        "experiments/README.md": claims_page(records, files),
        "README.md": f"{before}{BEGIN}\n{gallery(records, files)}{END}{after}",
    }


def gallery(records: dict[str, list[Record]], files: dict[str, Any]) -> str:
    """A table of one row for each recorded experiment: figure, title, verdicts, command."""
    lines = ["", "| figure | what it shows | claims |", "|---|---|---|"]
    for name, items in records.items():
        if not items:
            continue
        item = preferred(items)
        link = f"experiments/records/{name}/{item.preset}/figure.png"
        shown = f"**{cell(registry.title(files[name]))}**<br>`python -m experiments run {name} {item.preset}`"
        lines.append(
            f'| <a href="{link}"><img src="{link}" width="360" alt="{name}"></a> | {shown} | {verdicts(item)} |'
        )
    return "\n".join(lines) + "\n\n"


def claims_page(records: dict[str, list[Record]], files: dict[str, Any]) -> str:
    """Every claim of every record: what the paper says, what we measured, the verdict."""
    parts = [
        "# What was reproduced\n\n"
        "Written by `python -m experiments report` from the committed records: do not edit. A claim that does not hold "
        "is a result too. Intervals are two-sided 95 % Student t intervals over seeds.\n"
    ]
    for name, items in records.items():
        parts.append(f"## {name}\n\n{cell(registry.title(files[name]))} ([source]({name}.py))\n")
        if not items:
            parts.append("No committed record yet.\n")
        parts += [section(item) for item in items]
    return "\n".join(parts)


def spread(speeds: dict[str, dict[str, float | None]], measure: str, form: str) -> str:
    """The lowest and the highest of a measure over the trainings of a record; nothing where it is not known."""
    known = [value for speed in speeds.values() if (value := speed[measure]) is not None]
    return " to ".join(dict.fromkeys(format(end(known), form) for end in (min, max))) if known else ""


def section(item: Record) -> str:
    """One record: its claims as a table, where the numbers come from, the figure."""
    environment = item.environment
    lines = [
        f"### {item.preset}",
        "",
        "| claim | source | published | measured | threshold | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for claim in item.claims:
        cells = [number(claim[key]) for key in ("published", "measured", "threshold")]
        statement = f"`{claim['name']}`: {claim['statement']}"
        lines.append("| " + " | ".join(map(cell, [statement, claim["source"], *cells, claim["verdict"]])) + " |")
    corpora = "".join(f", {name} {fingerprint}" for name, fingerprint in environment["corpora"].items())
    facts = (
        f"Commit {str(environment['git_commit'])[:12]}, config hash {item.config['config_hash']}, seeds {len(environment['seeds'])}, "
        f"{environment['wall_clock_seconds'] / 60:.1f} minutes on {environment['device_count']} x {environment['device_kind']} "
        f"({environment.get('cpu', 'unknown processor')}), jax {environment['packages'].get('jax', 'unknown')}{corpora}."
    )
    if speeds := environment.get("speed"):
        facts += f" Training: {spread(speeds, 'tokens_per_second', ',.0f')} tokens/s"
        used = spread(speeds, "utilisation", ".1%")
        facts += f", {used} of the devices' peak." if used else "."
    if changed(item):
        facts += " The preset has changed since."
    folder = f"records/{item.experiment}/{item.preset}"
    return "\n".join([*lines, "", cell(facts), "", f"![{item.experiment}]({folder}/figure.png)", ""])


def changed(item: Record) -> bool:
    """Whether the preset is another one by now. A field that was added since, with its default, does not make it so."""
    module = registry.load(item.experiment)
    try:
        return from_json(module.Config, item.config["config"], older=True) != module.PRESETS.get(item.preset)
    except InvalidConfig:
        return True


def number(value: Any) -> str:
    """A measured, published or threshold value in a few characters; an interval as mean [low, high]."""
    match value:
        case None:
            return "-"
        case {"mean": mean, "low": low, "high": high, "n": n}:
            return f"{mean:.4g} (n={n})" if low is None else f"{mean:.4g} [{low:.4g}, {high:.4g}] (n={n})"
        case dict():
            return ", ".join(f"{key} {number(member)}" for key, member in value.items())
        case list():
            return ", ".join(map(number, value))
        case float():
            return f"{value:.4g}"
    return str(value)


def cell(text: str) -> str:
    """Text that cannot leave its cell of a Markdown table nor become HTML."""
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")


def verdicts(item: Record) -> str:
    """How many of the claims hold, are refuted and are open."""
    words = [claim["verdict"] for claim in item.claims]
    return ", ".join(f"{words.count(word)} {word}" for word in WORDS if word in words)


def preferred(items: list[Record]) -> Record:
    """The record of the largest preset."""
    return min(items, key=lambda item: PREFERENCE.index(item.preset) if item.preset in PREFERENCE else len(PREFERENCE))


def citation(name: str, preset: str | None = None) -> str:
    """BibTeX of all papers whose claims are judged and of our record of them; without a committed record, of the papers alone.

    Raises `InvalidConfig` for unknown names.
    """
    module = registry.load(name)
    paper = "\n\n".join(map(papers.bibtex, module.PAPERS)) if hasattr(module, "PAPERS") else module.PAPER.strip()
    items = {item.preset: item for item in record.read_records() if item.experiment == name}
    if preset is None and not items:
        return f"{paper}\n\n% {name} has no committed record yet"
    item = preferred(list(items.values())) if preset is None else items[choose("preset", preset, items)]
    environment = item.environment
    commits = ", ".join(environment.get("git_commits", [environment["git_commit"]]))
    fields = {
        "author": "{The lexinv authors}",
        "title": f"{{lexinv}}: record of the reproduction {name}, preset {item.preset}",
        "year": environment["started"][:4],
        "note": f"Commit {commits}, config hash {item.config['config_hash']}; {verdicts(item)}",
    }
    body = "".join(f"  {key} = {{{text}}},\n" for key, text in fields.items()).replace("_", r"\_")
    return f"{paper}\n\n@misc{{lexinv-{name.replace('/', '-')}-{item.preset},\n{body}}}"
