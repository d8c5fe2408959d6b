"""What cannot be a folder is refused by name, and so is one that another process holds."""

import errno
import fcntl
import os
import re
import socket
from pathlib import Path

import pytest

from lexinv.folders import locked, open_folder
from lexinv.validation import InvalidConfig

LONG = "x" * 300


def test_missing_folders_are_made_and_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_folder(Path("~/a/b"), "workspace") == tmp_path / "a/b"
    assert (tmp_path / "a/b").is_dir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert open_folder(tmp_path / "link/b", "workspace").is_dir()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file", "File exists: {0}/file"),
        ("file/below", "Not a directory: {0}/file/below"),
        (LONG, "File name too long: {0}/xxx"),
        ("dangling", "{0}/dangling is a link to nowhere, which is no folder"),
        ("dangling/below", "{0}/dangling is a link to nowhere, which is no folder"),
        ("circle", "{0}/circle is a link to circle, which is no folder"),
        ("~nobody-of-this-name/x", "home directory"),
    ],
)
def test_what_cannot_be_a_folder_is_refused(tmp_path, monkeypatch, name, reason):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    Path("dangling").symlink_to("nowhere")
    Path("circle").symlink_to("circle")
    path = Path(name) if name.startswith("~") else tmp_path / name
    with pytest.raises(InvalidConfig, match=re.escape(reason.format(tmp_path))) as error:
        open_folder(path, "workspace")
    assert str(error.value).startswith(f"workspace = '{path}'")


def test_a_full_disk_is_no_bad_input(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(OSError, match="No space left"):
        open_folder(tmp_path / "new", "workspace")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    expected = re.escape(f"workspace = '{tmp_path}' is not possible") + f".*{os.strerror(number)}"
    with pytest.raises(InvalidConfig, match=expected), locked(tmp_path / ".lock", "workspace"):
        pass


def test_a_lock_that_another_process_holds_is_named_with_it(tmp_path):
    file = tmp_path / ".lock"
    with locked(file, "workspace"):
        expected = f"no other process is using; {file} is held by process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(InvalidConfig, match=re.escape(expected) + "$"), locked(file, "workspace", 0.0):
            pass
        file.write_text("7\nelsewhere\n")  # as another machine on the same file system
        expected = f"{file} is held by process 7 on elsewhere, another host than this; if .* remove the file"
        with pytest.raises(InvalidConfig, match=expected), locked(file, "workspace", 0.0):
            pass
    with locked(file, "workspace", 0.0):
        assert file.read_text() == f"{os.getpid()}\n{socket.gethostname()}\n"
    assert file.read_text() == ""


def test_a_stale_lock_of_another_host_is_named_where_files_serve_as_locks(tmp_path, monkeypatch):
    """Without flock, filelock takes the file itself for the lock, and cannot know whether its owner elsewhere still lives."""

    def missing(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", missing)
    file = tmp_path / ".lock"
    file.write_text("7\nelsewhere\n")
    with (
        pytest.warns(UserWarning, match="flock not supported"),
        pytest.raises(InvalidConfig, match=f"{file} is held by process 7 on elsewhere, .* remove the file"),
        locked(file, "workspace", 0.0),
    ):
        pass
    assert file.read_text() == "7\nelsewhere\n"
