"""The user's cache folder, and folders in it that are prepared once: atomically, checked, safe under several processes."""

import hashlib
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

from lexinv.folders import locked, open_folder

VERSION = 1  # raise it when something would be built differently under the same name
_CHECKSUMS = "SHA256SUMS"


def cache_directory() -> Path:
    """The folder of everything that can be prepared again: `$LEXINV_CACHE`, else the platform's user cache folder; made if missing.

    Raises `InvalidConfig` where there can be no folder.
    """
    chosen = os.environ.get("LEXINV_CACHE")
    if not chosen:
        import platformdirs

        chosen = platformdirs.user_cache_dir("lexinv")
    return open_folder(Path(chosen), "LEXINV_CACHE")


def prepared(cache: Path | None, kind: str, name: str, build: Callable[[Path], None]) -> Path:
    """Return the folder `kind`/`name` of the cache, filled by `build(empty_folder)` unless it lies there undamaged.

    The folder appears complete or not at all: it is built beside its place, given a list of checksums and renamed.
    Of several processes one builds while the others wait. A folder whose files do not match their checksums is built
    again, with a warning that names them. Whatever `build` raises passes through and leaves nothing behind.
    `cache` defaults to `cache_directory()`. Raises `InvalidConfig` where the cache cannot hold a folder or a lock.
    """
    directory = (cache or cache_directory()) / f"v{VERSION}" / kind / name
    if _damage(directory) is None:  # no lock, so that a finished cache may be read-only
        return directory
    from rich.console import Console

    field = "LEXINV_CACHE" if cache is None else "cache"
    open_folder(directory.parent, field)
    with locked(directory.with_name(f".{directory.name}.lock"), field):
        damage = _damage(directory)
        if damage is None:  # another process built it while this one waited
            return directory
        if directory.exists():
            warnings.warn(f"{directory} is damaged ({damage}); it is prepared again", stacklevel=2)
        Console(stderr=True).print(f"Preparing {kind}/{name}", highlight=False)
        building, discarded = (directory.with_name(f".{directory.name}.{state}") for state in ("building", "discarded"))
        for leftover in (building, discarded):  # of a process that was killed: we hold its lock
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            building.mkdir()
            build(building)
            (building / _CHECKSUMS).write_text(_checksums(building), encoding="utf-8")
            if directory.exists():
                os.replace(directory, discarded)
            os.replace(building, directory)
        finally:
            shutil.rmtree(building, ignore_errors=True)
            shutil.rmtree(discarded, ignore_errors=True)
    return directory


def _checksums(directory: Path) -> str:
    """One line per file, in the format of sha256sum."""
    lines = []
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.name != _CHECKSUMS:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            lines.append(f"{digest}  {path.relative_to(directory).as_posix()}\n")
    return "".join(lines)


def _damage(directory: Path) -> str | None:
    """What is wrong with a prepared folder; None if nothing is."""
    try:
        recorded = (directory / _CHECKSUMS).read_bytes().decode("utf-8", errors="replace")
        actual = _checksums(directory)
    except OSError as error:
        return f"{error.strerror}: {error.filename}"
    if recorded == actual:
        return None
    differing = set(recorded.splitlines()) ^ set(actual.splitlines())
    return f"missing or changed: {', '.join(sorted({line.partition('  ')[2] for line in differing}))}"
