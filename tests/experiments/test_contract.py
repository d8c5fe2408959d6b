"""What every experiment promises, whatever it is about: its face, its refusals, its claims, its record. The table is the whole test."""

import dataclasses
import hashlib
import json
import math
import re

import numpy as np
import pytest

from experiments.harness import papers, record, report
from experiments.harness.config import config_hash, from_json, to_json
from experiments.harness.registry import discover, load, title
from experiments.harness.verdicts import OURS
from lexinv.validation import Checked, InvalidConfig, constraints

NAMES = sorted(discover())
FOLDERS = sorted(file.parent for file in record.RECORDS.glob("*/*/*/config.json"))
ROOM = 0.5


@pytest.fixture(autouse=True, scope="module")
def imported():
    """All experiments, which takes seconds that belong to no single test."""
    return [load(name) for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_face(name):
    module = load(name)
    assert module.PRESETS.keys() >= {"smoke", "cpu", "paper"}
    assert all(papers.bibtex(key).startswith("@") for key in module.PAPERS)
    assert title(discover()[name])
    for preset in module.PRESETS.values():
        assert from_json(module.Config, to_json(preset)) == preset
    assert len({config_hash(preset) for preset in module.PRESETS.values()}) == len(module.PRESETS)


def parts(config, name="config"):
    """Every checked part of a configuration, itself included."""
    if isinstance(config, Checked):
        yield name, config
    if isinstance(config, tuple):
        for index, member in enumerate(config):
            yield from parts(member, f"{name}[{index}]")
    elif dataclasses.is_dataclass(config):
        for field in dataclasses.fields(config):
            yield from parts(getattr(config, field.name), f"{name}.{field.name}")


@pytest.mark.parametrize("name", NAMES)
def test_what_a_field_refuses_is_refused(name):
    found = dict(parts(load(name).PRESETS["cpu"]))
    assert "config" in found, "Config says what its fields allow: class Config(Checked)"
    for part in found.values():
        for field, said in constraints(type(part)).items():
            for bad in (bad for one in said for bad in one.refused):
                with pytest.raises(InvalidConfig, match=rf"^{field} = "):
                    dataclasses.replace(part, **{field: bad})


@pytest.fixture(params=FOLDERS, ids=lambda folder: "/".join(folder.parts[-3:]))
def item(request):
    return record.read_record(request.param)


def beside(rule, inside):
    """Values of three seeds wholly inside or wholly outside of a rule."""
    if inside:
        ends = [end for end in (rule.low, rule.high) if math.isfinite(end)]
        value = sum(ends) / 2 if len(ends) == 2 else ends[0] + (ROOM if rule.high == math.inf else -ROOM)
    else:
        edge = rule.low if rule.high == math.inf else rule.high
        edge = edge if rule.matters is None else rule.matters
        value = edge + (-ROOM if rule.high == math.inf else ROOM)
    return np.full(3, value)


def test_claims_are_judged_on_the_record(item):
    module = load(item.experiment)
    claims = module.claims(item.results)
    assert claims
    assert len({claim.name for claim in claims}) == len(claims)
    assert close(item.claims, [claim.judged() for claim in claims]), "run `python -m experiments report`"
    for claim in claims:
        assert claim.statement
        assert claim.paper in (*module.PAPERS, OURS), claim.source
        # A claim is decided by its rules and by nothing else: crossing them turns it over.
        for inside, verdict in ((True, "holds"), (False, "refuted")):
            moved = {name: beside(rule, inside) for name, rule in claim.rules.items()}
            assert dataclasses.replace(claim, measured={**claim.measured, **moved}).verdict == verdict
    assert {claim.paper for claim in claims} >= set(module.PAPERS), "a paper of which no claim is judged"


def close(recorded, judged):
    """Equal but for the last digits of floats: NumPy sums in another order on another processor."""
    match recorded:
        case dict():
            return recorded.keys() == judged.keys() and all(close(recorded[key], judged[key]) for key in recorded)
        case list():
            return len(recorded) == len(judged) and all(map(close, recorded, judged))
        case float():
            return recorded == pytest.approx(judged, rel=1e-9, abs=1e-12)
    return recorded == judged


def test_close_sees_a_changed_digit():
    recorded = [{"measured": {"mean": 0.5}, "verdict": "holds"}]
    assert close(recorded, [{"measured": {"mean": 0.5 + 1e-13}, "verdict": "holds"}])
    assert not close(recorded, [{"measured": {"mean": 0.50001}, "verdict": "holds"}])
    assert not close(recorded, [{"measured": {"mean": 0.5}, "verdict": "refuted"}])


@pytest.mark.long
def test_figure_is_drawn_from_results(item):
    signature = b"\x89PNG\r\n\x1a\n"
    assert (item.folder / "figure.png").read_bytes().startswith(signature)
    assert record.draw(load(item.experiment), item.results, "png").startswith(signature)


def test_numbers_come_from_committed_code(item):
    environment = item.environment
    assert environment["git_dirty"] is False
    assert re.fullmatch("[0-9a-f]{40}", environment["git_commit"])
    assert environment["packages"].keys() >= {"jax", "numpy"}
    assert environment["device_count"] >= 1
    assert environment["seeds"] == item.results.get("seeds", [])
    assert environment["corpora"] == item.results.get("corpora", {})


def test_config_is_what_its_hash_names(item):
    content = json.dumps(item.config["config"], sort_keys=True).encode()
    assert item.config["config_hash"] == hashlib.sha256(content).hexdigest()[:16]
    assert from_json(load(item.experiment).Config, item.config["config"], older=True)


def test_nothing_else_is_committed(item):
    assert sorted(path.name for path in item.folder.iterdir()) == sorted(record.FILES)


def test_cpu_preset_keeps_its_promise(item):
    """At least 3 seeds where chance plays a part; at most 75 minutes, and beyond 15 there is a quick preset."""
    if item.preset != "cpu":
        return
    minutes = item.environment["wall_clock_seconds"] / 60
    assert minutes <= 75
    assert minutes <= 15 or "quick" in load(item.experiment).PRESETS
    if not item.experiment.startswith("benchmarks/"):
        assert len(set(item.environment["seeds"])) >= 3


def test_citation_names_every_paper_and_the_record(item):
    text = report.citation(item.experiment, item.preset)
    module = load(item.experiment)
    for key in module.PAPERS:
        assert f"{{{key}," in text
    assert "card = " not in text
    assert item.environment["git_commit"] in text


def test_pages_are_what_report_writes():
    for path, page in report.pages().items():
        assert (record.REPOSITORY / path).read_text(encoding="utf-8") == page, "run `python -m experiments report`"
