"""A family `toy` of one small experiment, found beside the real ones, and a repository of its own for records."""

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

import experiments
from experiments.__main__ import main
from experiments.harness import record
from lexinv.data.cache import VERSION

PACKAGES = functools.cache(record.packages_distributions)  # a second of reading that every run would repeat
PROGRAM_CACHE = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)
TOY = '''"""A line through noisy points: the least-squares slope is the true one.

Only for tests: no JAX, a second at most.
"""

from dataclasses import dataclass
from typing import Literal

from experiments.harness.verdicts import Claim, above

PAPERS = ("huang2023lexinvariant",)


@dataclass(frozen=True)
class Noise:
    scale: float = 0.1
    kind: Literal["normal", "uniform"] = "normal"


@dataclass(frozen=True)
class Config:
    slope: float = 2.0
    points: int = 50
    seeds: tuple[int, ...] = (0, 1, 2)
    noise: Noise = Noise()
    fail_at: int | None = None


PRESETS = {"smoke": Config(points=10), "cpu": Config(), "paper": Config(points=1000)}


def run(config, workspace):
    import numpy as np

    def fit(seed):
        with open(workspace.path / "computed.txt", "a") as file:
            file.write(f"{seed} ")
        if seed == config.fail_at and not (workspace.path / "mended").exists():
            raise FloatingPointError(f"loss nan at step 3 of config {workspace.config_hash}")
        x = np.linspace(-1, 1, config.points)
        y = config.slope * x + config.noise.scale * np.random.default_rng(seed).normal(size=x.shape)
        return float((x @ y) / (x @ x))

    slopes = [workspace.cached(f"slope/seed-{seed}", lambda seed=seed: fit(seed)) for seed in config.seeds]
    return {"slopes": slopes, "true": config.slope, "seeds": config.seeds, "corpora": {"noise": "c0ffee"}}


def claims(results):
    import numpy as np

    slopes = {"slope": np.array(results["slopes"])}
    return [Claim("slope_above_one", "The slope is above 1 | <b>one</b>.", "huang2023lexinvariant: section 1", slopes, above(1.0))]


def figure(results):
    from experiments.harness.style import panels, reference

    figure, (axes,) = panels()
    axes.plot(results["seeds"], results["slopes"], "o", label="fitted")
    reference(axes, results["true"], "true")
    axes.set_axis_off()  # text is what takes time to draw
    return figure
'''


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clean git repository that holds the toy experiment and nothing else; records and pages go there, runs beside it."""
    root = tmp_path / "repository"
    (root / "experiments/toy").mkdir(parents=True)
    (root / "experiments/toy/line.py").write_text(TOY)
    (root / "experiments/toy/helper.py").write_text('"""Not an experiment."""\n\nPRESETS = {}\n')
    (root / "README.md").write_text(
        "before\n<!-- papers: written by `python -m experiments report` -->\n<!-- end of papers -->\nafter\n"
    )
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    for arguments in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "toy"]):
        subprocess.run(["git", *arguments], cwd=root, check=True)
    for module in ("experiments.toy", "experiments.toy.line"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    # A package's __path__ says where its parts are: with this one the family `toy` is found beside the real ones.
    monkeypatch.setattr(experiments, "__path__", [str(root / "experiments"), *experiments.__path__])
    monkeypatch.setattr(record, "packages_distributions", PACKAGES)
    monkeypatch.setattr(record, "REPOSITORY", root)
    monkeypatch.setattr(record, "RECORDS", root / "experiments/records")
    monkeypatch.setenv("LEXINV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache/compiled"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return root


@pytest.fixture(autouse=True)
def own_cache_of_programs() -> Iterator[None]:
    """Commands and notebooks set where JAX keeps compiled programs; the next test shall not keep its own in a folder of this one."""
    before = {name: getattr(jax.config, name) for name in PROGRAM_CACHE}
    yield
    if {name: getattr(jax.config, name) for name in PROGRAM_CACHE} != before:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


SOURCE = Path(experiments.__file__).parents[1]

# Finds the toy experiment in every process, and spares them what makes a small run slow: importing JAX and reading all packages.
SITE = """
import sys
import experiments
from experiments.harness import record
experiments.__path__.append({path!r})
record.packages_distributions = dict
record.describe_session = lambda: {{
    "started": "now", "git_commit": "a" * 40, "git_dirty": False, "device_kind": "cpu", "device_count": 1, "cpu": "a cpu"
}}
"""

# With every seed but the first, waits until it may go on.
WAITING = """
        import os, time
        (workspace.path / "pid").write_text(str(os.getpid()))
        while seed > 0 and not os.path.exists(os.environ["TOY_GO"]):
            time.sleep(0.02)
"""

# Twenty updates whose loss is the slope. Steep lines then wait until they may go on, and have learned nothing after two minutes.
LEARNING = """
        import json, os, time
        lines = [json.dumps({"step": step, "loss": [config.slope]}) for step in range(1, 21)]
        (workspace.folder(f"fit-{seed}") / "metrics.jsonl").write_text("\\n".join(lines) + "\\n")
        end = time.monotonic() + 120
        while config.slope > 1 and not os.path.exists(os.environ["TOY_GO"]):
            assert time.monotonic() < end
            time.sleep(0.02)
"""


@pytest.fixture
def toy(repository, monkeypatch) -> Path:
    """The toy experiment for this process and those it starts, and two that wait for the file that is returned: `waiting`, `learning`."""
    source = (repository / "experiments/toy/line.py").read_text()
    for name, before in {"waiting": WAITING, "learning": LEARNING}.items():
        text = source.replace("        x = np.linspace", before + "        x = np.linspace")
        (repository / f"experiments/toy/{name}.py").write_text(text)
    site = repository.parent / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE.format(path=str(repository / "experiments")))
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{SOURCE}")
    go = repository.parent / "go"
    monkeypatch.setenv("TOY_GO", str(go))
    for module in ("experiments.toy.waiting", "experiments.toy.learning"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return go


@pytest.fixture
def times() -> Callable[[Path], dict[Path, int]]:
    """When each file below a folder was written last; locks are taken anew by whoever looks."""

    def read(root: Path) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file() and path.name != ".lock"}

    return read


@pytest.fixture
def main_in_process(capsys) -> Callable[..., tuple[int, str, str]]:
    """Run one command in this process: (exit code, stdout, stderr with every run of blanks and box lines as one space)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        previous = signal.getsignal(signal.SIGTERM)
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = stop.code
        finally:
            signal.signal(signal.SIGTERM, previous)
        out, err = capsys.readouterr()
        return code, out, " ".join(err.replace("│", " ").split())

    return call


@pytest.fixture
def cli(repository, main_in_process) -> Callable[..., tuple[int, str, str]]:
    """`main_in_process` beside the toy experiment."""
    return main_in_process


@pytest.fixture(scope="session")
def user_environment(tmp_path_factory: pytest.TempPathFactory, user_cache: Path) -> dict[str, str]:
    """The variables of a user's process, with one cache of corpora and compiled programs for all workers of this test run."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    kept = user_cache / f"v{VERSION}/assets"  # which no run of the tests should download again
    kept.mkdir(parents=True, exist_ok=True)
    (shared / f"cache/v{VERSION}").mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):  # of another worker
        (shared / f"cache/v{VERSION}/assets").symlink_to(kept)
    # The tests' two fake devices are not what a user has.
    variables = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return {"LEXINV_CACHE": str(shared / "cache"), **variables}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of the Llama form, one layer of width 8, with a byte-level tokenizer of 260 ids, as Hugging Face keeps one."""
    save_file = pytest.importorskip("safetensors.numpy").save_file
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    folder, width, hidden, vocab = tmp_path_factory.mktemp("llama"), 8, 12, 260
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = {piece: i for i, piece in enumerate(["<|begin|>", *letters, "<|endoftext|>", "th", "the"])}
    model = tokenizers.Tokenizer(models.BPE(pieces, [("t", "h"), ("th", "e")]))
    model.pre_tokenizer, model.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    model.add_special_tokens(["<|begin|>", "<|endoftext|>"])
    model.save(str(folder / "tokenizer.json"))
    config = {"model_type": "llama", "vocab_size": vocab, "hidden_size": width, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": hidden, "bos_token_id": 0}
    config |= {"max_position_embeddings": 16, "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"embed_tokens": (vocab, width), "norm": (width,), "layers.0.input_layernorm": (width,)}
    shapes |= {"layers.0.post_attention_layernorm": (width,)}
    shapes |= {f"layers.0.self_attn.{name}_proj": (8 if name in "qo" else 4, width) for name in "qkvo"}
    shapes |= {f"layers.0.mlp.{name}_proj": (hidden, width) for name in ("gate", "up")}
    shapes |= {"layers.0.mlp.down_proj": (width, hidden)}
    generator = np.random.default_rng(0)
    tensors = {f"model.{k}.weight": generator.normal(0, 0.5, shape).astype(np.float32) for k, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    return folder
