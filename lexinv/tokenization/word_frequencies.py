"""How often the words of a language occur in subtitles, books, news, encyclopaedias and the web: the lists of wordfreq (Speer 2022)."""

import gzip
from pathlib import Path
from typing import Any

from lexinv.data.assets import fetch
from lexinv.validation import choose, require


def load_word_frequencies(language: str, cache: Path | None = None) -> dict[str, float]:
    """The share of each word in running text, from the most frequent to one in a million, rounded to a hundredth of a decade.

    `language` is a code such as tr. Words are as wordfreq folds them: lower-cased, in Turkish by its own rules. Raises `InvalidConfig` for
    an unknown language and a damaged list, and as `fetch`.
    """
    import msgpack

    folder = fetch("word_frequencies", cache) / "data"
    files = {path.name.split(".")[0].removeprefix("small_"): path for path in folder.glob("small_*.msgpack.gz")}
    file = files[choose("language", language, sorted(files))]
    header: Any
    header, *bins = msgpack.unpackb(gzip.decompress(file.read_bytes()))
    require(header.get("format") == "cB", "file", str(file), "words in bins of a hundredth of a decade")
    return {word: 10 ** (-number / 100) for number, words in enumerate(bins) for word in words}
