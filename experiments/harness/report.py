"""The pages that show the committed records: a page for every paper, the table of papers, and BibTeX."""

import html
from collections.abc import Iterable
from typing import Any, NamedTuple

from experiments.harness import papers, record, registry
from experiments.harness.config import from_json
from experiments.harness.record import Record
from experiments.harness.verdicts import OURS
from experiments.harness.workspace import write_atomically
from lexinv.validation import InvalidConfig, choose, require

WORDS = {"holds": "hold", "refuted": "refuted", "open": "open"}
BEGIN, END = "<!-- papers: written by `python -m experiments report` -->", "<!-- end of papers -->"
# The record that stands for an experiment in the pages and in `cite`: the largest one there is.
PREFERENCE = ("paper", "cpu", "quick", "smoke")


class Judged(NamedTuple):
    """One experiment's part in a paper: its record, the paper's claims that it judges, and the controls beside them."""

    item: Record
    claims: list[dict[str, Any]]
    controls: list[dict[str, Any]]


def claim_lines(claims: list[dict[str, Any]]) -> list[str]:
    """One line for each judged claim: verdict, name, measured, threshold and published value."""
    return [
        f"{claim['verdict']:7}  {claim['name']}: {number(claim['measured'])}"
        f" (threshold {claim['threshold']}, published {number(claim['published'])})"
        for claim in claims
    ]


def write_report() -> list[str]:
    """Judge and draw every committed record again from its results, then write the pages.

    Writing twice changes nothing. Returns the written paths, relative to the repository. Raises `InvalidConfig` for a
    malformed record, one of an unknown experiment, and a README without the markers of the table.
    """
    for item in record.read_records():
        record.judge_and_draw(item.folder, registry.load(item.experiment), item.results)
    written = pages()
    for path, page in written.items():
        write_atomically(record.REPOSITORY / path, page.encode())
    for stale in (record.REPOSITORY / "docs/papers").glob("*.md"):
        if f"docs/papers/{stale.name}" not in written:
            stale.unlink()
    return list(written)


def pages() -> dict[str, str]:
    """The text of README.md and of docs/papers/*.md, as the committed records and the README's own text make them."""
    files = registry.discover()
    items: dict[str, list[Record]] = {}
    for item in record.read_records():
        items.setdefault(choose("record", item.experiment, files), []).append(item)
    shown = {name: preferred(held) for name, held in items.items()}
    text = (record.REPOSITORY / "README.md").read_text(encoding="utf-8")
    marked = text.count(BEGIN) == text.count(END) == 1 and text.index(BEGIN) < text.index(END)
    require(marked, "README.md", "papers", f"one line {BEGIN} and, below it, one line {END}")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    found = by_paper(shown.values())
    return {
        "README.md": f"{before}{BEGIN}\n{table(found)}{END}{after}",
        "docs/papers/index.md": index(found),
        **{f"docs/papers/{key}.md": paper_page(key, judged) for key, judged in found.items()},
    }


def by_paper(items: Iterable[Record]) -> dict[str, list[Judged]]:
    """For every paper, and for `OURS` where an experiment judges nothing else, the experiments that judge it: by question, then by name."""
    found: dict[str, list[Judged]] = {}
    for item in sorted(items, key=lambda item: (families().index(item.experiment.split("/")[0]), item.experiment)):
        by: dict[str, list[dict[str, Any]]] = {}
        for claim in item.claims:
            by.setdefault(claim["source"].partition(":")[0], []).append(claim)
        controls = by.pop(OURS, [])
        for key, claims in (by or {OURS: []}).items():
            found.setdefault(key, []).append(Judged(item, claims, controls))
    return found


def families() -> list[str]:
    """The families of experiments in the order of their notebooks; those without one, such as benchmarks, last."""
    names = sorted({name.split("/")[0] for name in registry.discover()})
    numbers = {name: notebook(name) or "~" for name in names}
    return sorted(names, key=lambda name: (numbers[name], name))


def notebook(family: str) -> str | None:
    """The family's notebook, relative to the repository."""
    found = sorted((record.REPOSITORY / "colab").glob(f"[0-9]*_{family}.ipynb"))
    return f"colab/{found[0].name}" if found else None


def question(family: str) -> str:
    """What the family asks: the first line of its package."""
    files = [file for name, file in registry.discover().items() if name.startswith(f"{family}/")]
    file = files[0].with_name("__init__.py")
    return registry.title(file) if file.is_file() else family


def table(found: dict[str, list[Judged]]) -> str:
    """A row for every paper under the question that it belongs to."""
    lines, last = ["", "| paper | experiments | claims |", "|---|---|---|"], None
    for key, judged in found.items():
        family = judged[0].item.experiment.split("/")[0]
        if family != last:
            lines.append(f"| **{cell(question(family))}** | | |")
            last = family
        names = ", ".join(f"`{one.item.experiment}`" for one in judged)
        claims = [claim for one in judged for claim in (one.controls if key == OURS else one.claims)]
        lines.append(f"| [{cell(heading(key))}](docs/papers/{key}.md) | {names} | {tally(claims)} |")
    return "\n".join(lines) + "\n\n"


def index(found: dict[str, list[Judged]]) -> str:
    """The list of papers in the documentation, under the questions that they belong to."""
    parts = ["# Papers\n"]
    for family in families():
        keys = [key for key, judged in found.items() if judged[0].item.experiment.split("/")[0] == family]
        if keys:
            parts.append("\n".join([f"## {question(family)}\n", "```{toctree}", ":maxdepth: 1\n", *keys, "```\n"]))
    return "\n".join(parts)


def heading(key: str) -> str:
    """A paper's title with its first author and year."""
    if key == OURS:
        return "What our own code costs"
    authors = papers.field(key, "author").split(" and ")
    first = authors[0].partition(",")[0] + (" et al." if len(authors) > 1 else "")
    return f"{papers.field(key, 'title')} ({first} {papers.field(key, 'year')})"


def tally(claims: list[dict[str, Any]]) -> str:
    """How many of the claims hold, are refuted and are open."""
    words = [claim["verdict"] for claim in claims]
    return ", ".join(f"{words.count(word)} {said}" for word, said in WORDS.items() if word in words)


def paper_page(key: str, judged: list[Judged]) -> str:
    """What the paper says and what we found, by experiment: claims, controls, figure, command, citation; then its method card."""
    card = None if key == OURS else papers.card(key)
    parts = [f"# {cell(heading(key))}\n"]
    if arxiv := "" if key == OURS else papers.field(key, "eprint"):
        parts.append(f"[arXiv:{arxiv}](https://arxiv.org/abs/{arxiv})\n")
    claims = [claim for one in judged for claim in one.claims]
    if claims:
        parts.append(f"Of the paper's claims that are judged here: {tally(claims)}.\n")
    parts += [section(one) for one in judged]
    if key != OURS:
        parts.append(
            f"## How to cite\n\n```bibtex\n{papers.bibtex(key)}\n```\n\nand the record: `python -m experiments cite NAME`.\n"
        )
    if card is not None:
        path = f"../../experiments/cards/{card.name}"
        parts.append(
            f"## Method card\n\n[What was built, and from what]({path})\n\n```{{include}} {path}\n:heading-offset: 2\n```\n"
        )
    return "\n".join(parts)


def section(one: Judged) -> str:
    """One experiment on the page of a paper."""
    item = one.item
    name, family = item.experiment, item.experiment.split("/")[0]
    title = cell(registry.title(registry.discover()[name]))
    lines = [f"## {title}\n", f"    python -m experiments run {name} {item.preset}\n"]
    if path := notebook(family):
        lines.append(f"Notebook: [{path}](../../{path})\n")
    lines.append(f"![{name}](../../experiments/records/{name}/{item.preset}/figure.png)\n")
    for label, claims in (("### What the paper says", one.claims), ("### Controls, ours", one.controls)):
        if claims:
            lines += [f"{label}\n", *map(block, claims)]
    return "\n".join([*lines, cell(facts(item)), "", *not_run(item), ""])


def not_run(item: Record) -> list[str]:
    """What says which presets for larger machines nobody has recorded."""
    recorded = {path.name for path in item.folder.parent.iterdir()} | {"smoke", "quick", "cpu"}
    missing = [f"`{preset}`" for preset in registry.load(item.experiment).PRESETS if preset not in recorded]
    return [f"Not run yet: {', '.join(missing)}.\n"] if missing else []


def block(claim: dict[str, Any]) -> str:
    """A claim with its verdict first, and a table of what was measured: a row for each part that is judged or stands beside."""
    place, published = claim["source"].partition(":")[2].strip(), number(claim["published"])
    said = [f"Threshold: {number(claim['threshold'])}"]
    said += [f"published: {published}"] if claim["published"] is not None else []
    said += [place] if place else []
    rows = "".join(
        f"| {cell(part)} | {number(value)} | {claim['parts'].get(part, '-')} |\n"
        for part, value in claim["measured"].items()
    )
    unit = cell(f"{claim['unit']}, over {claim['over']}" if claim["unit"] else f"over {claim['over']}")
    return (
        f"**{claim['verdict']}** `{claim['name']}`: {cell(claim['statement'])}\n\n"
        f"| {unit} | measured | verdict |\n|---|---|---|\n{rows}\n{cell('; '.join(said))}.\n"
    )


def facts(item: Record) -> str:
    """Where the numbers of a record come from."""
    environment = item.environment
    corpora = "".join(f", {name} {fingerprint}" for name, fingerprint in environment["corpora"].items())
    of = f" ({environment['wall_clock_of']})" if "wall_clock_of" in environment else ""
    text = (
        f"Commit {str(environment['git_commit'])[:12]}, config hash {item.config['config_hash']}, seeds {len(environment['seeds'])}, "
        f"{environment['wall_clock_seconds'] / 60:.1f} minutes{of} on {environment['device_count']} x {environment['device_kind']} "
        f"({environment.get('cpu', 'unknown processor')}), jax {environment['packages'].get('jax', 'unknown')}{corpora}."
    )
    if speeds := environment.get("speed"):
        text += f" Training: {spread(speeds, 'tokens_per_second', ',.0f')} tokens/s"
        used = spread(speeds, "utilisation", ".1%")
        text += f", {used} of the devices' peak." if used else "."
    if "recorded_as" in environment:
        text += f" Recorded as {environment['recorded_as']}, which has been split since."
    if "since" in environment:
        text += f" Since then: {environment['since']}."
    return text + (" The preset has changed since." if changed(item) else "")


def spread(speeds: dict[str, dict[str, float | None]], measure: str, form: str) -> str:
    """The lowest and the highest of a measure over the trainings of a record; nothing where it is not known."""
    known = [value for speed in speeds.values() if (value := speed[measure]) is not None]
    return " to ".join(dict.fromkeys(format(end(known), form) for end in (min, max))) if known else ""


def changed(item: Record) -> bool:
    """Whether the preset is another one by now. A field that was added since, with its default, does not make it so."""
    module = registry.load(item.experiment)
    try:
        return from_json(module.Config, item.config["config"], older=True) != module.PRESETS.get(item.preset)
    except InvalidConfig:
        return True


def number(value: Any) -> str:
    """A measured or published value in a few characters; an interval as mean [low, high]."""
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
    """Text that cannot leave its cell of a Markdown table nor become HTML or mathematics."""
    plain = html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")
    return plain.replace("$", "\\$")


def preferred(items: list[Record]) -> Record:
    """The record of the largest preset."""
    return min(items, key=lambda item: PREFERENCE.index(item.preset) if item.preset in PREFERENCE else len(PREFERENCE))


def preset_record(experiment: str, preset: str | None) -> Record:
    """The record of an experiment, of its largest preset unless one is named. Raises `InvalidConfig` where there is none."""
    items = {item.preset: item for item in record.read_records() if item.experiment == experiment}
    if preset is not None:
        return items[choose("preset", preset, items)]
    require(bool(items), "experiment", experiment, "one with a committed record")
    return preferred(list(items.values()))


def citation(name: str, preset: str | None = None) -> str:
    """BibTeX of all papers whose claims are judged and of our record of them; without a committed record, of the papers alone.

    Raises `InvalidConfig` for unknown names.
    """
    module = registry.load(name)
    cited = "\n\n".join(map(papers.bibtex, module.PAPERS))
    if preset is None and all(item.experiment != name for item in record.read_records()):
        return f"{cited}\n\n% {name} has no committed record yet"
    item = preset_record(name, preset)
    environment = item.environment
    commits = ", ".join(environment.get("git_commits", [environment["git_commit"]]))
    fields = {
        "author": "{The lexinv authors}",
        "title": f"{{lexinv}}: record of the reproduction {name}, preset {item.preset}",
        "year": environment["started"][:4],
        "note": f"Commit {commits}, config hash {item.config['config_hash']}; {tally(item.claims)}",
    }
    body = "".join(f"  {key} = {{{text}}},\n" for key, text in fields.items()).replace("_", r"\_")
    return "\n\n".join(filter(None, [cited, f"@misc{{lexinv-{name.replace('/', '-')}-{item.preset},\n{body}}}"]))
