"""Folders of runs and caches: made where they are missing, and held by one process at a time. What cannot be is refused by name."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lexinv.validation import InvalidConfig

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Of these errors the one who named the folder is told as of any full disk."""


def expanded(path: Path, field: str) -> Path:
    """The path with a leading ~ as the user's home, which no shell has put there in `--workspace=~/x`."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise InvalidConfig(field, str(path), f"a path; {error}") from None


def open_folder(path: Path, field: str) -> Path:
    """The folder at the expanded path, made if missing. Raises `InvalidConfig` that says what is in the way."""
    folder = expanded(path, field)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in FULL:
            raise
        place = error.filename or folder
        reason = f"{error.strerror}: {place}"
        if os.path.islink(place):  # not Path.is_symlink, which fails for a name that is too long
            reason = f"{place} is a link to {os.readlink(place)}, which is no folder"
        raise InvalidConfig(field, str(path), f"a folder, or where one can be made ({reason})") from None
    return folder


@contextmanager
def locked(file: Path, field: str, seconds: float = -1.0) -> Iterator[None]:
    """Hold a lock file for this process, after waiting for another one at most so long, or as long as it takes. A killed one lets go.

    Raises `InvalidConfig` with the folder and with who holds which file, and where the file system has no locks.
    """
    from filelock import FileLock, SoftFileLock, Timeout

    lock, folder = FileLock(file), str(file.parent)
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise InvalidConfig(field, folder, f"a folder that no other process is using; {_holder(file)}") from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        raise InvalidConfig(field, folder, f"a folder in which {file.name} can be locked ({error})") from None
    # Where the system has no locks of its own, filelock may take the file itself for one, and writes what we do.
    soft = isinstance(lock, SoftFileLock)
    try:
        if not soft:
            with suppress(OSError):
                file.write_text(f"{os.getpid()}\n{socket.gethostname()}\n")
        yield
    finally:
        if not soft:
            with suppress(OSError):
                os.truncate(file, 0)
        lock.release()


def _holder(file: Path) -> str:
    try:
        process, host = file.read_text().split("\n")[:2]
    except (OSError, ValueError):
        return f"its lock is {file}"
    gone = "" if host == socket.gethostname() else ", another host than this; if that process is gone, remove the file"
    return f"{file} is held by process {process} on {host}{gone}"
