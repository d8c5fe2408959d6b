"""Every test runs with two CPU devices, strict dtype promotion and no implicit rank promotion, and with programs compiled in a hurry.

Compiled programs are kept from one run of the tests to the next. A test without a marker that takes more than its budget of processor
time is named at the end, and fails at twice that: what everybody runs has to stay quick.
"""

import gc
import os
import platform
import resource
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"
# Compiling is most of what the tests do, and with all of XLA's optimisations takes almost twice as long. By the environment, so that the
# processes which tests start round as the tests do.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

import jax
import matplotlib.pyplot  # noqa: F401  (with scipy the slowest of what is imported late: not for the budget of the first test that draws)
import platformdirs
import pytest
import scipy.stats  # noqa: F401

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

PROGRAMS = platformdirs.user_cache_path("lexinv-tests") / f"jaxlib-{version('jaxlib')}-{platform.node()}"
jax.config.update("jax_compilation_cache_dir", str(PROGRAMS))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)

USER_CACHE = Path(os.environ.get("LEXINV_CACHE") or platformdirs.user_cache_dir("lexinv"))

MEMORY_MAPS = Path("/proc/self/maps")
MOST_MEMORY_MAPS = 25_000
BUDGET = 2.0
"""Processor seconds of a test without a marker of `COSTLY`, apart from its fixtures and from compiling, which the next run finds done.

The same test takes up to twice as many where others share the cores or where it is the first to import something.
"""
compiling = [0.0]
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: compiling.append(seconds) if event.endswith("backend_compile_duration") else None
)
CORES = os.cpu_count() or 1
COSTLY = ("experiment", "notebook", "multidevice", "long", "slow", "parity")


@pytest.fixture(autouse=True, scope="module")
def after_a_module() -> Iterator[None]:
    yield
    let_go_of_compiled_programs()


@pytest.fixture(autouse=True)
def after_a_costly_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """The smoke runs alone are a module that compiles more programs than a process may hold."""
    yield
    if request.node.get_closest_marker("experiment"):
        let_go_of_compiled_programs()


def let_go_of_compiled_programs() -> None:
    """Every program that XLA compiles on the CPU holds a few memory maps, of which Linux allows a process 65,530: then it crashes."""
    if MEMORY_MAPS.exists() and MEMORY_MAPS.read_bytes().count(b"\n") > MOST_MEMORY_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def user_cache() -> Path:
    """The user's cache of corpora and assets, whatever a test makes of the environment."""
    return USER_CACHE


@pytest.fixture(scope="session")
def asset(user_cache: Path) -> Callable[[str], Path]:
    """The folder of a published model or of data, downloaded once a machine; without a network the test says that it was left out."""
    from lexinv.data.assets import AssetUnavailable, fetch

    missing: dict[str, str] = {}

    def folder(name: str) -> Path:
        try:
            if name not in missing:
                return fetch(name, user_cache)
        except AssetUnavailable as error:
            missing[name] = str(error)
        pytest.skip(missing[name])

    return folder


def processor_seconds() -> float:
    """Of this process with all its threads, and of the processes that it waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    compiling[:] = [0.0]
    before = processor_seconds()
    result = yield
    # XLA compiles on as many threads as there are cores, and says the wall clock of it.
    spent = processor_seconds() - before - CORES * sum(compiling)
    item.user_properties.append(("processor_seconds", round(spent, 2)))
    if spent > 2 * BUDGET and not any(item.get_closest_marker(name) for name in COSTLY):
        pytest.fail(
            f"{spent:.1f} processor seconds beside compiling; a test without a marker has {BUDGET:g}: make it smaller, "
            "or mark it `long` for CI alone",
            pytrace=False,
        )
    return result


def pytest_terminal_summary(terminalreporter):
    """The tests above their budget, the slowest first."""
    spent = {
        report.nodeid: seconds
        for report in terminalreporter.getreports("passed")
        for name, seconds in report.user_properties
        if name == "processor_seconds" and seconds > BUDGET and not any(mark in report.keywords for mark in COSTLY)
    }
    if spent:
        terminalreporter.section(f"above the budget of {BUDGET:g} processor seconds")
    for test, seconds in sorted(spent.items(), key=lambda pair: -pair[1]):
        terminalreporter.line(f"{seconds:6.1f}  {test}")
