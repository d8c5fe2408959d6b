"""Words by frequency from a list written by hand."""

import gzip

import msgpack
import pytest

from lexinv.tokenization import word_frequencies
from lexinv.validation import InvalidConfig


def test_bins_are_hundredths_of_a_decade(tmp_path, monkeypatch):
    monkeypatch.setattr(word_frequencies, "fetch", lambda name, cache: tmp_path)
    (tmp_path / "data").mkdir()
    bins = [{"format": "cB", "version": 1}, [], ["ve"]] + [[]] * 98 + [["ev", "göz"]]
    (tmp_path / "data/small_tr.msgpack.gz").write_bytes(gzip.compress(msgpack.packb(bins)))
    found = word_frequencies.load_word_frequencies("tr")
    assert list(found) == ["ve", "ev", "göz"]
    assert list(found.values()) == pytest.approx([10**-0.01, 0.1, 0.1])
    with pytest.raises(InvalidConfig, match="language.*known: tr"):
        word_frequencies.load_word_frequencies("xx")
    (tmp_path / "data/small_tr.msgpack.gz").write_bytes(gzip.compress(msgpack.packb([{"format": "other"}])))
    with pytest.raises(InvalidConfig, match="file"):
        word_frequencies.load_word_frequencies("tr")
