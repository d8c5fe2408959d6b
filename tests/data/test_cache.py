"""A prepared folder is complete or absent, is built by one process, and is built again when damaged."""

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from lexinv.data.cache import cache_directory, prepared
from lexinv.validation import InvalidConfig

# Appends its process id to a log, then writes two files with a pause between them.
BUILD = """
import os, sys, time
from pathlib import Path
from lexinv.data.cache import prepared

cache, pause = Path(sys.argv[1]), float(sys.argv[2])

def build(folder):
    with (cache / "log").open("a") as log:
        log.write(f"{os.getpid()}\\n")
    (folder / "first").write_text("1")
    time.sleep(pause)
    (folder / "second").write_text("2")

folder = prepared(cache, "kind", "name", build)
assert (folder / "first").read_text() + (folder / "second").read_text() == "12"
"""


def start(cache: Path, pause: float) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", BUILD, str(cache), str(pause)])


def builds(cache: Path) -> int:
    return len((cache / "log").read_text().splitlines())


def write(text: str):
    def build(folder: Path) -> None:
        (folder / "data").mkdir()
        (folder / "data" / "a").write_text(text)
        (folder / "b").write_text(text)

    return build


def refuse(folder: Path) -> None:
    raise AssertionError("it must not be built")


def test_built_once_and_then_read_without_writing(tmp_path):
    folder = prepared(tmp_path, "kind", "name", write("text"))
    folder.with_name(f".{folder.name}.lock").unlink(missing_ok=True)
    before = sorted(tmp_path.rglob("*"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prepared(tmp_path, "kind", "name", refuse) == folder
    assert sorted(tmp_path.rglob("*")) == before
    assert (folder / "data" / "a").read_text() == "text"


DAMAGES = {
    "truncated": (lambda folder: (folder / "data" / "a").write_text("tex"), "data/a"),
    "missing": (lambda folder: (folder / "b").unlink(), "b"),
    "extra": (lambda folder: (folder / "c").write_text("more"), "c"),
    "checksums truncated": (lambda folder: (folder / "SHA256SUMS").write_text(""), "data/a"),
    "checksums garbled": (lambda folder: (folder / "SHA256SUMS").write_bytes(b"\xff\xfe"), "b"),
    "checksums missing": (lambda folder: (folder / "SHA256SUMS").unlink(), "SHA256SUMS"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_repaired_and_named(tmp_path, name):
    damage, named = DAMAGES[name]
    folder = prepared(tmp_path, "kind", "name", write("text"))
    damage(folder)
    with pytest.warns(UserWarning, match=f"is damaged.*{named}"):
        prepared(tmp_path, "kind", "name", write("again"))
    assert (folder / "data" / "a").read_text() == (folder / "b").read_text() == "again"
    assert not (folder / "c").exists()


def test_failure_passes_through_and_leaves_nothing(tmp_path):
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        prepared(tmp_path, "kind", "name", fail)
    assert [path.name for path in (tmp_path / "v1" / "kind").iterdir() if path.is_dir()] == []
    assert (prepared(tmp_path, "kind", "name", write("text")) / "b").read_text() == "text"


def test_two_processes_at_once_build_once(tmp_path):
    processes = [start(tmp_path, 0.5) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert builds(tmp_path) == 1


def test_killed_while_building(tmp_path):
    killed = start(tmp_path, 60)
    deadline = time.monotonic() + 60
    while not (list(tmp_path.rglob("first")) or time.monotonic() > deadline):
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait(60)
    assert not (tmp_path / "v1" / "kind" / "name").exists()
    assert start(tmp_path, 0).wait(60) == 0
    assert builds(tmp_path) == 2
    assert not list(tmp_path.rglob("*.building"))


def test_cache_directory_can_be_chosen(tmp_path, monkeypatch):
    monkeypatch.setenv("LEXINV_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path
    monkeypatch.delenv("LEXINV_CACHE")
    assert cache_directory().name == "lexinv"


@pytest.mark.parametrize("place", ["/dev/null", "/dev/null/x"])
def test_a_cache_that_cannot_be_a_folder_is_refused(monkeypatch, place):
    monkeypatch.setenv("LEXINV_CACHE", place)
    with pytest.raises(InvalidConfig, match=f"LEXINV_CACHE = '{place}' is not possible: a folder"):
        prepared(None, "kind", "name", refuse)
