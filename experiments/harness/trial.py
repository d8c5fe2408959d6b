"""One run in a process of its own, from its folder alone: `python -m experiments.harness.trial FOLDER`.

What the folder's config.json says is run, judged and drawn, as `run` does it. What stops it is in its `error.txt`.
"""

import dataclasses
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments.harness.workspace import Workspace, finite, open_workspace, read_json, write_atomically, write_json

HANDOVER_SECONDS = 60.0
"""How long a trial waits for the one before it in its folder, which may be writing its last checkpoint."""

LAST_FILE = "figure.pdf"
"""What a finished run writes last."""


def finished(folder: Path) -> bool:
    """Whether the run in a folder is done, judged and drawn."""
    return (folder / LAST_FILE).is_file()


def make_ready() -> None:
    """Before JAX starts: keep freed memory, and compiled programs in the user's cache folder, where the next start finds them.

    What the user has chosen of JAX's compilation cache stays as it is. No backend is started.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    from lexinv.data.cache import cache_directory
    from lexinv.training.allocator import keep_memory

    keep_memory()
    # Not by the environment, which JAX reads when it is imported. Small programs are kept too: a short run compiles hardly any others.
    if jax.config.jax_compilation_cache_dir is None:
        chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
        jax.config.update("jax_compilation_cache_dir", chosen or str(cache_directory() / "compiled"))
    if jax.config.jax_persistent_cache_min_compile_time_secs == 1.0:  # JAX's default
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if jax.config.jax_persistent_cache_min_entry_size_bytes == 0:
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # A full disk says so where something is lost. A program that is not kept is compiled again.
    warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry")
    compilation_cache.reset_cache()  # in a notebook that has compiled something, JAX has settled that there is none


def prepare_process(distributed: str | None = None) -> None:
    """`make_ready`, and end cleanly on SIGTERM.

    distributed: make this process one of several, see `experiments.harness.distributed.join`.
    """
    make_ready()
    if distributed is not None:
        from experiments.harness.distributed import join

        join(distributed)  # which handles SIGTERM in a way of its own
    # Outside `fit`, which ends with a checkpoint: leave the folder unlocked and its clock written.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def run_in(workspace: Any, module: Any, config: Any, label: str, console: Any) -> bool:
    """Start or resume the run of `config` in its folder until results.json is there; returns whether it was there before."""
    from lexinv.training.processes import agree

    results = workspace.path / "results.json"
    if agree(results.is_file):
        return True
    with started(workspace, config, label, console):
        write_json(results, finite(module.run(config, workspace), "results"))
    return False


@contextmanager
def started(workspace: Any, config: Any, label: str, console: Any) -> Iterator[None]:
    """One start of a run: it is in sessions.json with its wall clock, and with the packages that it has imported in the end."""
    from experiments.harness.record import attention_kernels, describe_session, imported_packages

    console.print(f"{'resuming' if workspace.sessions() else 'running'} {label} in {workspace.path}", markup=False)
    with workspace.session(describe_session() | {"attention": attention_kernels(config)}) as session:
        try:
            yield
        finally:
            session["packages"] = imported_packages()


def held_in(folder: Path) -> tuple[ModuleType, Any, Workspace, str]:
    """The experiment, the configuration, the workspace without a progress bar, and the name of the run that config.json describes."""
    from experiments.harness.config import from_json
    from experiments.harness.registry import load

    held = read_json(folder / "config.json", dict)
    module = load(held["experiment"])
    config = from_json(module.Config, held["config"])
    workspace = open_workspace(folder, held["experiment"], held["preset"], config)
    return module, config, dataclasses.replace(workspace, progress=False), f"{held['experiment']} {held['preset']}"


def run_trial(folder: Path) -> None:
    """Start or resume the run that the folder's config.json describes, then judge and draw it."""
    from rich.console import Console

    from experiments.harness.record import finish

    module, config, workspace, label = held_in(folder)
    with workspace.locked(HANDOVER_SECONDS):
        run_in(workspace, module, config, label, Console(soft_wrap=True))
        finish(workspace, module, read_json(folder / "results.json", dict))


def end_with_parent() -> None:
    """SIGTERM for this process when its standard input ends: the process that holds the other end is gone, even if it was killed."""

    def wait() -> None:
        while os.read(0, 1):  # not sys.stdin: a thread that waits in it breaks the end of the process
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def main(arguments: list[str]) -> int:
    """FOLDER [--supervised]: 0 if the run is finished, 1 if it failed, with the traceback in error.txt; 143 after SIGTERM, resumable."""
    folder, *options = arguments
    prepare_process()
    if options == ["--supervised"]:
        end_with_parent()
    error = Path(folder, "error.txt")
    try:
        run_trial(Path(folder))
    except Exception:
        write_atomically(error, traceback.format_exc().encode())
        traceback.print_exc()
        return 1
    error.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
