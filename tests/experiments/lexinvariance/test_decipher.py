"""A passage shows what is believed of it and no more."""

import numpy as np

from experiments.lexinvariance.decipher import reveal
from experiments.subjects.text import Text
from lexinv.data.corpora import Corpus
from lexinv.data.tokenizers import load_tokenizer
from lexinv.data.windows import array_windows
from lexinv.lexinvariance.cipher import encipher_windows


def test_symbols_not_met_yet_are_dots():
    tokenizer = load_tokenizer("letters", Corpus("made up", "0", {}))
    plain = tokenizer.encode("a rose is a rose is a rose, said a. ")[None]
    windows = array_windows(plain[0].astype(np.uint8), 4)
    text = Text("made up", "0", tokenizer.vocab_size, windows, [], tokenizer)
    made = encipher_windows(plain, tokenizer.vocab_size, seed=3)
    assert reveal(text, made.cipher[0], made.keys[0], 6) == "a␣rose␣·s␣a␣rose␣·s␣a␣rose·␣sa··␣a·"
