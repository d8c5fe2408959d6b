"""The benchmark of sources and tokenizers: its loops sample the same source, and its peer learns what ours does."""

import numpy as np

from experiments.benchmarks.sources_and_tokenizers import (
    ALPHABET,
    list_loop,
    numpy_loop,
    row_loop,
    train_in_pieces,
)
from lexinv.data.markov import digits
from lexinv.tokenization.tokenizers import to_text, train_bpe


def test_loops_sample_the_kernel():
    """All of them give the same symbols for the same uniform numbers, and these follow the kernel."""
    kernel = np.random.default_rng(1).dirichlet(np.ones(3), size=9)
    uniforms = np.random.default_rng(0).random((20_000, 4))
    rows = row_loop(kernel, np.zeros(4, np.int64), uniforms)
    np.testing.assert_array_equal(numpy_loop(kernel, 0, uniforms[:, 1]), rows[:, 1])
    np.testing.assert_array_equal(list_loop(kernel, 0, uniforms[:, 2]), rows[:, 2])
    assert digits([7], 2, 3).tolist() == [[2, 1]]
    after = rows[2:][(rows[:-2] == 2) & (rows[1:-1] == 1)]
    frequencies = np.bincount(after, minlength=3) / len(after)
    np.testing.assert_allclose(frequencies, kernel[7], atol=4 * 0.5 / np.sqrt(len(after)))


def test_the_library_learns_what_ours_does_within_a_piece_and_no_token_across_two():
    text = to_text(np.random.default_rng(0).integers(0, 4, 256), ALPHABET)
    assert set(train_in_pieces(text, 50).get_vocab()) == set(train_bpe(text, 50, ALPHABET).vocabulary)
    pieces = ("b" + "a" * 254 + "c") * 4
    assert any("cb" in token for token in train_bpe(pieces, 46, ALPHABET).vocabulary)
    assert not any("cb" in token for token in train_in_pieces(pieces, 46).get_vocab())
