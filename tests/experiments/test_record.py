import io
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.__main__ import main
from experiments.harness import record, report
from experiments.harness.registry import load
from experiments.harness.verdicts import Claim, above, between
from experiments.harness.workspace import Workspace, write_json
from lexinv.validation import InvalidConfig

PRESET = ("toy/line", "smoke")


@pytest.fixture
def recorded(repository, capsys):
    """The folder of a committed record of the toy experiment."""
    assert main(["run", *PRESET, "--record"]) == 0
    capsys.readouterr()
    return repository / "experiments/records/toy/line/smoke"


def test_recording_does_not_make_the_tree_dirty(recorded, capsys):
    commit, dirty = record.git_state()
    assert (len(commit), dirty) == (40, False)
    assert main(["run", "toy/line", "cpu", "--record"]) == 0
    assert main(["report"]) == 0
    assert record.git_state() == (commit, False)


def test_models_trained_elsewhere_count(repository, tmp_path, capsys):
    assert main(["run", *PRESET, "--workspace", str(tmp_path / "run")]) == 0
    workspace = Workspace(tmp_path / "run", "hash")
    results = json.loads((tmp_path / "run/results.json").read_text())
    notes = {"found": {"seconds_elsewhere": 100.0}, "trained-here": {"seconds_elsewhere": 0.0}}
    seconds = []
    for models in ({}, notes):
        for name, note in models.items():
            write_json(tmp_path / f"run/models/{name}.json", note)
        record.finish(workspace, load("toy/line"), results)
        environment = json.loads((tmp_path / "run/environment.json").read_text())
        assert environment["models"] == models
        seconds.append(environment["wall_clock_seconds"])
    assert seconds[1] - seconds[0] == pytest.approx(100)


def test_speed_of_every_training_is_in_the_record_and_on_the_page(repository, tmp_path, capsys, recorded):
    assert main(["run", *PRESET, "--workspace", str(tmp_path / "run")]) == 0
    for name, tokens, used in (("one", 2000.0, None), ("two/seed-1", 1000.4, 0.25)):
        speed = {"tokens_per_second": tokens, "utilisation": used}
        write_json(tmp_path / "run" / name / "speed.json", speed)
    (tmp_path / "run/damaged").mkdir()
    (tmp_path / "run/damaged/speed.json").write_text('{"tokens_per')
    results = json.loads((tmp_path / "run/results.json").read_text())
    with pytest.warns(UserWarning, match="damaged/speed.json is damaged"):
        record.finish(Workspace(tmp_path / "run", "hash"), load("toy/line"), results)
    speeds = json.loads((tmp_path / "run/environment.json").read_text())["speed"]
    assert list(speeds) == ["one", "two/seed-1"] and speeds["two/seed-1"]["utilisation"] == 0.25
    (item,) = record.read_records()
    assert "tokens/s" not in report.facts(item)
    item.environment["speed"] = speeds
    assert "Training: 1,000 to 2,000 tokens/s, 25.0% of the devices' peak." in report.facts(item)
    del speeds["two/seed-1"]
    assert "Training: 2,000 tokens/s." in report.facts(item)


@pytest.mark.parametrize("change", ["experiments/toy/line.py", "new.py"])
def test_dirty_tree_is_refused_up_front(repository, capsys, change):
    with open(repository / change, "a") as file:
        file.write("# changed\n")
    assert main(["run", *PRESET, "--record"]) == 2
    assert "clean tree" in capsys.readouterr().err
    assert not list(Path("runs").rglob("results.json"))


def test_run_of_uncommitted_code_is_never_recorded(repository, capsys):
    with open(repository / "experiments/toy/line.py", "a") as file:
        file.write("# changed\n")
    assert main(["run", *PRESET]) == 0
    subprocess.run(["git", "checkout", "-q", "."], cwd=repository, check=True)
    assert main(["run", *PRESET, "--record"]) == 2
    assert "had uncommitted changes" in capsys.readouterr().err
    assert not record.RECORDS.exists()


def test_the_commit_of_another_project_is_not_ours(repository, monkeypatch):
    """Installed in an environment below somebody's checkout, and started by a hook of somebody's git."""
    commit, _ = record.git_state()
    installed = repository / ".venv/site-packages"
    installed.mkdir(parents=True)
    monkeypatch.setattr(record, "REPOSITORY", installed)
    assert record.git_state() == (None, True)
    monkeypatch.setattr(record, "REPOSITORY", repository)
    subprocess.run(["git", "init", "-q"], check=True)
    monkeypatch.setenv("GIT_DIR", str(Path(".git").absolute()))
    assert record.git_state() == (commit, False)


def test_outside_git_nothing_is_recorded(repository, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "REPOSITORY", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert record.git_state() == (None, True)
    assert main(["run", *PRESET, "--record"]) == 2
    assert "git checkout" in capsys.readouterr().err


def test_every_commit_of_a_resumed_run_is_named(repository, capsys):
    assert main(["run", *PRESET]) == 0
    (folder,) = Path("runs/toy/line").iterdir()
    sessions = json.loads((folder / "sessions.json").read_text())
    (folder / "sessions.json").write_text(
        json.dumps([{**sessions[0], "git_commit": "a" * 40, "cpu": "another"}, *sessions])
    )
    assert main(["run", *PRESET]) == 0
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["git_commits"] == ["a" * 40, sessions[0]["git_commit"]]
    assert environment["git_commit"] == sessions[0]["git_commit"]
    assert environment["cpus"] == ["another", sessions[0]["cpu"]]
    assert "device_kinds" not in environment


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("results.json", None, "results.json"),
        ("results.json", "{", "results.json.*a JSON file"),
        ("claims.json", "{}", "claims.json.*type list"),
        ("environment.json", '{"seeds": []}', "environment.json.*git_commit"),
        ("config.json", '{"experiment": "toy/../../x", "preset": "smoke"}', "toy/line smoke, not"),
    ],
)
def test_malformed_and_missing_files_of_records_are_named(recorded, capsys, name, content, message):
    (recorded / name).unlink()
    if content is not None:
        (recorded / name).write_text(content)
    with pytest.raises(InvalidConfig, match=message):
        record.read_records()
    assert main(["report"]) == 2
    assert name in capsys.readouterr().err


def test_claims_of_one_name_are_refused(repository, monkeypatch):
    module = load("toy/line")
    claims = module.claims
    monkeypatch.setattr(module, "claims", lambda results: claims(results) * 2)
    with pytest.raises(InvalidConfig, match="each name once"):
        record.judge(module, {"slopes": [1.0, 2.0]})


PAGE = "docs/papers/huang2023lexinvariant.md"


def test_report_shows_every_claim(recorded, repository):
    assert report.write_report() == ["README.md", "docs/papers/index.md", PAGE]
    page = (repository / PAGE).read_text()
    assert "**holds** `slope_above_one`: " in page
    (claim,) = json.loads((recorded / "claims.json").read_text())
    measured = "{mean:.4g} [{low:.4g}, {high:.4g}] (n={n})".format(**claim["measured"]["slope"])
    assert f"| slope | {measured} | holds |" in page
    assert "Threshold: whole interval above 1; section 1." in page
    assert "](../../experiments/records/toy/line/smoke/figure.png)" in page
    assert "Not run yet: `paper`." in page
    readme = (repository / "README.md").read_text()
    assert readme.startswith("before\n")
    assert readme.endswith("after\n")
    assert f"({PAGE}) | `toy/line` | 1 hold |" in readme


def test_a_claim_says_what_became_of_each_of_its_parts():
    rules = {"a": above(0), "b": between(2, 3)}
    claim = Claim("n", "s", "k: place", {"a": 1, "b": np.array([1.0, 3.0])}, rules).judged()
    assert "| a | 1 | holds |\n| b | 2 [-10.71, 14.71] (n=2) | open |\n" in report.block(claim)


def test_a_page_of_a_paper_that_is_not_judged_any_more_goes(recorded, repository):
    gone = repository / "docs/papers/gone.md"
    gone.parent.mkdir(parents=True)
    gone.write_text("old")
    report.write_report()
    assert {path.name for path in gone.parent.glob("*.md")} == {"huang2023lexinvariant.md", "index.md"}


def test_text_of_records_cannot_leave_its_cell(recorded, repository):
    report.write_report()
    page = (repository / PAGE).read_text()
    assert "above 1 \\| &lt;b&gt;one&lt;/b&gt;" in page
    assert "<b>" not in page.partition("## How to cite")[0]
    assert report.cell("a\n| b") == "a \\| b"


def test_a_large_figure_has_few_colours_and_the_same_pixels(recorded, monkeypatch):
    module, (item,) = load("toy/line"), record.read_records()

    def pixels() -> np.ndarray:
        with Image.open(io.BytesIO(record.draw(module, item.results, "png"))) as image:
            return np.asarray(image.convert("RGB")).astype(int)

    whole = pixels()
    monkeypatch.setattr(record, "LARGEST_PNG", 1000)
    few = pixels()
    assert few.shape == whole.shape and len(np.unique(few.reshape(-1, 3), axis=0)) <= 256
    assert np.abs(few - whole).max() < 32
    assert record.draw(module, item.results, "png") == record.draw(module, item.results, "png")


def test_report_judges_again_and_draws_again(recorded):
    good = {name: (recorded / name).read_bytes() for name in ("claims.json", "figure.png")}
    (recorded / "claims.json").write_text("[]\n")
    (recorded / "figure.png").write_bytes(b"")
    report.write_report()
    assert {name: (recorded / name).read_bytes() for name in good} == good


def test_report_says_that_the_preset_has_changed(recorded, repository, monkeypatch):
    report.write_report()
    page = repository / PAGE
    assert "The preset has changed since" not in page.read_text()
    monkeypatch.setitem(load("toy/line").PRESETS, "smoke", load("toy/line").Config(points=11))
    report.write_report()
    assert "The preset has changed since" in page.read_text()


def test_report_needs_the_markers(recorded, repository, capsys):
    (repository / "README.md").write_text("no markers\n")
    assert main(["report"]) == 2
    assert "papers" in capsys.readouterr().err
    assert (repository / "README.md").read_text() == "no markers\n"


def test_citation_without_a_record_is_the_paper_alone(repository, capsys):
    assert main(["cite", "toy/line"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("@inproceedings{huang2023lexinvariant,")
    assert "no committed record" in out


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (0.123456, "0.1235"),
        (3, "3"),
        ("9x", "9x"),
        ({"mean": 1.0, "low": 0.5, "high": 1.5, "n": 3}, "1 [0.5, 1.5] (n=3)"),
        ({"mean": 1.0, "low": None, "high": None, "n": 1}, "1 (n=1)"),
        ({"a": 1.25, "b": None}, "a 1.25, b -"),
        ([1.5, 2], "1.5, 2"),
    ],
)
def test_numbers_are_short(value, shown):
    assert report.number(value) == shown
