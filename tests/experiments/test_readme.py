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


PAGES = ["README.md", *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md")))]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    assert [target for target in targets if "://" not in target and not ((ROOT / page).parent / target).exists()] == []


def test_experiments_of_the_commands_exist():
    names = set(re.findall(r"python -m experiments (?:run|cite) ([a-z_]+/[a-z_]+)", README)) - {"mine/cipher"}
    assert names
    assert [name for name in names if not (ROOT / f"experiments/{name}.py").exists()] == []


@pytest.mark.experiment
def test_the_experiment_of_the_playbook_runs(tmp_path, user_environment):
    playbook = (ROOT / "docs/new_paper.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", playbook, re.DOTALL)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/cipher.py").write_text(source)
    program = (
        "import sys, experiments; experiments.__path__.append(sys.argv.pop(1));"
        "from experiments.__main__ import main; sys.exit(main())"
    )
    run = ["run", "mine/cipher", "smoke", "--workspace", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), *run],
        cwd=ROOT,
        env=user_environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert re.findall(r"(holds|refuted|open) +(\w+):", done.stdout) == [
        ("holds", "ruins_standard"),
        ("holds", "spares_lexinvariant"),
    ]
