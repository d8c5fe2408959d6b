"""The README says what is true: its experiment runs, its commands exist, its links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_a_source_and_a_tokenizer(capsys):
    (source,) = [block for block in BLOCKS if "train_lzw" in block]
    exec(source, {})
    rate, loss, bound = map(float, capsys.readouterr().out.split())
    assert rate < loss < bound


@pytest.mark.experiment
def test_own_experiment_runs(tmp_path, user_environment):
    (source,) = [block for block in BLOCKS if "PRESETS" in block]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/cipher.py").write_text(source)
    program = (
        "import sys, experiments; experiments.__path__.append(sys.argv.pop(1));"
        "from experiments.__main__ import main; sys.exit(main())"
    )
    command = [
        sys.executable,
        "-c",
        program,
        str(tmp_path),
        "run",
        "mine/cipher",
        "smoke",
        "--workspace",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(command, cwd=ROOT, env=user_environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    verdicts = re.findall(r"(holds|fails|cannot tell) +(\w+):", done.stdout)
    assert verdicts == [("holds", "cipher_ruins_standard"), ("holds", "cipher_spares_lexinvariant")], done.stdout


@pytest.mark.parametrize("page", ["README.md", "experiments/README.md"])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    assert [target for target in targets if "://" not in target and not ((ROOT / page).parent / target).exists()] == []


def test_experiments_of_the_commands_exist():
    names = set(re.findall(r"python -m experiments (?:run|cite) ([a-z_]+/[a-z_]+)", README)) - {"mine/cipher"}
    assert names
    assert [name for name in names if not (ROOT / f"experiments/{name}.py").exists()] == []
