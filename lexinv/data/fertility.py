"""How many tokens a text costs, which depends on the tokenizer and on the text."""

from collections.abc import Callable, Sequence, Sized
from typing import NamedTuple

from lexinv.validation import require


class Fertility(NamedTuple):
    """Totals over some texts."""

    tokens: int
    characters: int
    bytes: int
    """In UTF-8."""

    @property
    def characters_per_token(self) -> float:
        return self.characters / self.tokens

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / self.tokens


def fertility(encode: Callable[[str], Sized], texts: Sequence[str]) -> Fertility:
    """Tokens, characters and bytes of the texts, each encoded on its own. Raises `InvalidConfig` where there is no token."""
    found = Fertility(
        sum(len(encode(text)) for text in texts),
        sum(map(len, texts)),
        sum(len(text.encode()) for text in texts),
    )
    require(found.tokens > 0, "texts", len(texts), "texts with at least one token")
    return found
