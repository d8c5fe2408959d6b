"""What a process does before JAX starts."""

import errno
import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments.harness import notebook
from experiments.harness.trial import make_ready, prepare_process


@pytest.fixture
def hits(monkeypatch) -> Iterator[list[str]]:
    """One entry for each program that JAX finds in its cache, in a process that has chosen nothing of that cache."""
    found: list[str] = []
    for name, default in {
        "jax_compilation_cache_dir": None,
        "jax_persistent_cache_min_compile_time_secs": 1.0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }.items():
        jax.config.update(name, default)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)

    def listen(event: str, **_) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            found.append(event)

    jax.monitoring.register_event_listener(listen)
    yield found
    jax.monitoring.unregister_event_listener(listen)


def compile_something() -> None:
    """A small program, compiled anew for each call as for each process."""
    jax.jit(lambda x: jnp.cos(x) * 3 + x[::-1]).lower(jnp.ones(5)).compile()


@pytest.mark.parametrize("prepare", [prepare_process, notebook.prepare, make_ready])
def test_a_second_start_finds_the_programs_of_the_first(tmp_path, monkeypatch, hits, prepare):
    monkeypatch.setenv("LEXINV_CACHE", str(tmp_path))
    previous = signal.getsignal(signal.SIGTERM)
    compile_something()  # as a notebook may have done
    prepare()
    compile_something()
    assert (len(hits), len(list((tmp_path / "compiled").glob("*lambda*-cache")))) == (0, 1)
    prepare()
    compile_something()
    assert len(hits) == 1
    signal.signal(signal.SIGTERM, previous)


def test_a_cache_on_a_full_disk_says_nothing(tmp_path, monkeypatch, hits):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("LEXINV_CACHE", str(tmp_path))
    monkeypatch.setattr(Path, "write_bytes", full)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        make_ready()
        compile_something()
    assert told == []


@pytest.mark.parametrize("by_environment", [True, False])
def test_a_cache_that_the_user_chose_stays(tmp_path, monkeypatch, hits, by_environment):
    monkeypatch.setenv("LEXINV_CACHE", str(tmp_path / "cache"))
    if by_environment:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "mine"))
    else:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 60.0)
    make_ready()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
    assert jax.config.jax_persistent_cache_min_compile_time_secs == (0.0 if by_environment else 60.0)
    assert not os.path.exists(tmp_path / "cache")
