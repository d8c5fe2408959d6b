"""Files of activations: what is written is read, in any cut; what is wrong is refused with its file and row."""

from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from lexinv.sae.activation_files import ActivationFiles, write_shards
from lexinv.validation import InvalidConfig

WIDTH = 3
ROWS = np.random.default_rng(0).normal(size=(40, WIDTH)).astype(np.float32)
DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """40 rows in an npy file of rows, one of batch and time, and a safetensors file of batch and time."""
    folder = tmp_path_factory.mktemp("shards")
    np.save(folder / "a.npy", ROWS[:7])
    np.save(folder / "b.npy", ROWS[7:19].reshape(3, 4, WIDTH))
    save_file({"activations": ROWS[19:].reshape(7, 3, WIDTH), "other": ROWS[:2]}, folder / "c.safetensors")
    return [folder / name for name in ("a.npy", "b.npy", "c.safetensors")]


@settings(deadline=None, max_examples=60)
@given(start=st.integers(0, 40), size=st.integers(0, 40))
def test_any_range_of_rows(shards, start, size):
    stop = min(start + size, 40)
    np.testing.assert_array_equal(ActivationFiles(shards).read(start, stop), ROWS[start:stop])


def test_single_rows_and_blocks(shards):
    files = ActivationFiles(shards, rows_per_block=5)
    assert len(files) == 40 and files.width == WIDTH
    np.testing.assert_array_equal(np.stack([files[row] for row in range(-40, 0)]), ROWS)
    with pytest.raises(IndexError):
        files[40]
    assert files.block_rows.tolist() == [5, 2, 5, 5, 2, 5, 5, 5, 5, 1]  # no block crosses from file to file
    blocks = [files.block(index) for index in range(10)]
    assert [len(block) for block in blocks] == files.block_rows.tolist()
    np.testing.assert_array_equal(np.concatenate(blocks), ROWS)


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_becomes_float32(tmp_path, name):
    stored = ROWS.astype(DTYPES[name])
    save_file({"other": stored}, tmp_path / "a.safetensors")
    read = ActivationFiles([tmp_path / "a.safetensors"], tensor="other").read(0, 40)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, stored.astype(np.float32))


def test_only_what_is_asked_for_is_read(tmp_path):
    """A file of 40 GB, all holes but for one row."""
    path = tmp_path / "large.npy"
    width = 1024
    array = np.lib.format.open_memmap(path, "w+", np.float32, (10**7, width))
    array[10**7 - 5] = 2.0
    array.flush()
    assert (ActivationFiles([path])[10**7 - 5] == 2.0).all()


@pytest.mark.parametrize("name", DTYPES)
def test_written_shards_hold_the_rows(tmp_path, name):
    arrays = [ROWS[:1], ROWS[1:13].reshape(4, 3, WIDTH), ROWS[13:]]
    paths = write_shards(tmp_path / "shards", iter(arrays), 9, name)
    assert [path.name for path in paths] == [f"activations-{number:05d}.npy" for number in range(5)]
    files = ActivationFiles(paths)
    assert [shard.rows for shard in files.shards] == [9, 9, 9, 9, 4]
    np.testing.assert_array_equal(files.read(0, 40), ROWS.astype(DTYPES[name]).astype(np.float32))


def test_a_failure_leaves_nothing(tmp_path):
    def arrays():
        yield ROWS
        raise KeyError("the model is gone")

    with pytest.raises(KeyError):
        write_shards(tmp_path / "shards", arrays(), 9)
    assert list(tmp_path.iterdir()) == []


def test_shards_are_not_written_over(tmp_path):
    paths = write_shards(tmp_path / "shards", [ROWS], 100)
    with pytest.raises(InvalidConfig, match="directory"):
        write_shards(tmp_path / "shards", [2 * ROWS], 100)
    np.testing.assert_array_equal(np.load(paths[0]), ROWS)


@pytest.mark.parametrize(
    "arrays, options, message",
    [
        ([], {}, "at least one row"),
        ([ROWS, ROWS[:, :2]], {}, "width = 2 .* 3, as in array 0: array 1 differs"),
        ([ROWS[0]], {}, "array 0"),
        ([ROWS, np.where(np.arange(40)[:, None] == 33, np.nan, ROWS)], {}, "not finite.*array 1 .*row 33"),
        ([np.where(np.arange(40)[:, None] == 33, np.float32(0), ROWS)], {}, "all zero.*array 0 .*row 33"),
        ([1e6 * ROWS], {"dtype": "float16"}, "not finite.*array 0 as float16, row 0"),
        ([ROWS], {"dtype": "float64"}, "dtype"),
        ([ROWS], {"rows_per_shard": 0}, "rows_per_shard"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, arrays, options, message):
    with pytest.raises(InvalidConfig, match=message):
        write_shards(tmp_path / "shards", arrays, **{"rows_per_shard": 9, **options})
    assert list(tmp_path.iterdir()) == []


BAD_ARRAYS = [
    (np.ones((4, 5), np.float32), "width = 5.* 3, as in .*good.npy: .*bad.npy differs"),
    (np.ones((4, 3)), "dtype = 'float64'.*bad.npy"),
    (np.ones((4, 3), np.int32), "dtype = 'int32'.*bad.npy"),
    (np.ones(3, np.float32), "shape = .*bad.npy"),
    (np.ones((1, 2, 2, 3), np.float32), "shape = .*bad.npy"),
    (np.ones((0, 3), np.float32), "no axis of length 0 in .*bad.npy"),
    (np.asfortranarray(np.ones((2, 4, 3), np.float32)), "order.*bad.npy"),
    (np.array([[{}]], object), "path = .*bad.npy"),
]


BAD_FILES = [
    *[("bad.npy", partial(np.save, arr=array), message) for array, message in BAD_ARRAYS],
    ("bad.safetensors", partial(save_file, {"activations": np.ones((4, 3))}), "dtype = 'F64'.*bad.safetensors"),
    ("bad.safetensors", partial(save_file, {"a": ROWS, "b": ROWS}), "tensor = 'activations'.*a, b"),
    ("bad.pt", Path.touch, r"known: \.npy, \.safetensors"),
    ("bad.npy", Path.exists, "path = .*bad.npy"),
]


@pytest.mark.parametrize("name, write, message", BAD_FILES)
def test_files_that_do_not_fit_or_are_not_there_are_refused_at_once(tmp_path, name, write, message):
    np.save(tmp_path / "good.npy", ROWS)
    write(tmp_path / name)
    with pytest.raises(InvalidConfig, match=message):
        ActivationFiles([tmp_path / "good.npy", tmp_path / name])


@pytest.mark.parametrize("number", [0, 2])
def test_truncated_files_are_refused_at_once(tmp_path, shards, number):
    path = tmp_path / shards[number].name
    for size in (0, 4, shards[number].stat().st_size - 3):
        path.write_bytes(shards[number].read_bytes()[:size])
        with pytest.raises(InvalidConfig, match=f"path = .*{path.name}"):
            ActivationFiles([path])


@pytest.mark.parametrize("value, found", [(np.nan, "not finite"), (-np.inf, "not finite"), (0.0, "all zero")])
@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_bad_rows_are_named_by_file_and_row(tmp_path, value, found, suffix):
    rows = ROWS.reshape(10, 4, WIDTH).copy()
    rows[8, 1] = value
    np.save(tmp_path / "good.npy", ROWS)
    path = tmp_path / f"bad{suffix}"
    np.save(path, rows) if suffix == ".npy" else save_file({"activations": rows}, path)
    files = ActivationFiles([tmp_path / "good.npy", path])
    files.read(0, 40 + 33)
    with pytest.raises(InvalidConfig, match=f"{found}.*bad{suffix}, row 33"):
        files.read(38, 80)
