"""Every committed record: its verdicts and its figure follow from its numbers, and its numbers from committed code."""

import hashlib
import json
import re

import pytest

from experiments.harness import record, report
from experiments.harness.registry import load

FOLDERS = sorted(file.parent for file in record.RECORDS.glob("*/*/*/config.json"))


@pytest.fixture(params=FOLDERS, ids=lambda folder: "/".join(folder.parts[-3:]))
def item(request):
    return record.read_record(request.param)


def test_claims_follow_from_results(item):
    assert close(item.claims, record.judge(load(item.experiment), item.results))
    assert item.claims


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
    recorded = [{"measured": {"mean": 0.5}, "holds": True}]
    assert close(recorded, [{"measured": {"mean": 0.5 + 1e-13}, "holds": True}])
    assert not close(recorded, [{"measured": {"mean": 0.50001}, "holds": True}])
    assert not close(recorded, [{"measured": {"mean": 0.5}, "holds": False}])


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


def test_pages_are_what_report_writes():
    for path, page in report.pages().items():
        assert (record.REPOSITORY / path).read_text(encoding="utf-8") == page, "run `python -m experiments report`"
