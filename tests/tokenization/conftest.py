"""A byte-level tokenizer of a text on which expressions look ahead, contract and count."""

import pytest

from lexinv.data.bpe import byte_chunks, count_pieces, learn_merges
from lexinv.data.byte_level import ByteLevelBPE
from lexinv.tokenization.byte_pairs import BytePairs

TEXT = "isn't  it\n\nthe 'rest' of ['self']?! they're\n \n  we'll 12 of 345  the\tend\n\n\nthe end))(( of it's '' 're "


@pytest.fixture(scope="session")
def tricky():
    return TEXT


@pytest.fixture(scope="session")
def byte_pairs():
    """`byte_pairs(split, **options)`."""

    def made(split, **options):
        merges = learn_merges(byte_chunks(count_pieces([4 * TEXT], split)), 256, 292)
        return BytePairs(ByteLevelBPE("toy", merges, split).tokenizer(), split, merges, **options)

    return made
