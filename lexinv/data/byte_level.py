"""Byte-level byte-pair encoding as merges and the expression that cuts a text before them, and the `tokenizers` library's model of it."""

from dataclasses import dataclass
from typing import Any

from lexinv.data.bpe import Merges, spell
from lexinv.data.tokenizers import Tokenizer, byte_level_characters, of_library

SEPARATOR = "<separator>"


@dataclass(frozen=True, eq=False)
class ByteLevelBPE:
    """merges: ids 0 to 255 are the bytes, and merge i makes id 256 + i. split: the expression (Oniguruma's syntax) whose matches no merge
    crosses; what lies between two matches is a piece, too.
    """

    name: str
    merges: Merges
    split: str

    @property
    def pieces(self) -> list[bytes]:
        """The bytes that each id stands for."""
        return [bytes(token) for token in spell(self.merges, 256)]

    def library(self) -> Any:
        """The model of the `tokenizers` library, in which 0 is a separator and all other ids are one higher."""
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers

        written = list(map(byte_level_characters, self.pieces))
        vocabulary = {SEPARATOR: 0} | {token: number for number, token in enumerate(written, 1)}
        model = tokenizers.Tokenizer(
            models.BPE(vocabulary, [(written[left], written[right]) for left, right in self.merges])
        )
        isolate = pre_tokenizers.Split(tokenizers.Regex(self.split), "isolated")
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        model.pre_tokenizer = pre_tokenizers.Sequence([isolate, to_bytes])
        model.decoder = decoders.ByteLevel()
        model.add_special_tokens([SEPARATOR])
        return model

    def tokenizer(self) -> Tokenizer:
        """As language models take it."""
        return of_library(self.name, self.library(), SEPARATOR)
