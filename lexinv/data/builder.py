"""All that touches TFDS: the builder of our own corpora, documents read from ArrayRecord, other people's data sets."""

import contextlib
import importlib
import io
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, overload

import numpy as np
import tensorflow_datasets as tfds

from lexinv.data.corpora import SPLITS
from lexinv.data.documents import Documents
from lexinv.validation import InvalidConfig


class DocumentsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes the documents of each split, in the order given, as ArrayRecord with the features `id` and `text`."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, splits: Mapping[str, Documents], data_dir: Path):
        self._documents = splits
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({"id": tfds.features.Text(), "text": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: object) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in self._documents}

    def _generate_examples(self, split: str):
        for position, (name, read) in enumerate(self._documents[split].items()):
            yield position, {"id": name, "text": read()}


class TextColumn(Sequence[str]):
    """A text feature of a TFDS data source at chosen positions; documents are decoded when they are asked for.

    What is not UTF-8 in other people's data becomes U+FFFD.
    """

    def __init__(self, source: Sequence[Mapping[str, Any]], feature: str, positions: Sequence[int] | np.ndarray):
        self._source, self._feature, self._positions = source, feature, positions

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "TextColumn": ...
    def __getitem__(self, index: int | slice) -> "str | TextColumn":
        if isinstance(index, slice):
            return TextColumn(self._source, self._feature, self._positions[index])
        return self._source[int(self._positions[index])][self._feature].decode("utf-8", errors="replace")


def write_documents(splits: Mapping[str, Documents], folder: Path) -> None:
    """Write the splits into `folder` as a TFDS data set, quietly."""
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    tfds.display_progress_bar(False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            DocumentsBuilder(splits, folder).download_and_prepare(download_config=config)
    finally:
        tfds.display_progress_bar(True)


def read_documents(folder: Path) -> dict[str, TextColumn]:
    """The splits that `write_documents` left in `folder`."""
    builder: Any = tfds.builder_from_directory(folder / DocumentsBuilder.name / str(DocumentsBuilder.VERSION))
    sources = {split: builder.as_data_source(split=split) for split in SPLITS}
    return {split: TextColumn(source, "text", range(len(source))) for split, source in sources.items()}


def register_text_builders() -> None:
    """Let TFDS find wiki40b, c4 and its other older text builders: by itself it gives up at the first older builder of
    any kind that needs TensorFlow."""
    with contextlib.suppress(ImportError):
        importlib.import_module("tensorflow_datasets.text")


def open_dataset(corpus: str, dataset: str) -> tuple[dict[str, Sequence[Mapping[str, Any]]], str, str]:
    """Open a TFDS data set of texts as `open_sources` does: its splits, the name of its text feature, a key of its files as they are now.

    The text feature is the one called `text`, else the only one of type Text. Also raises `InvalidConfig` if there is no such feature or no
    train split.
    """
    register_text_builders()
    sources, info, identity = open_sources("corpus", corpus, dataset)
    texts = sorted(name for name, feature in info.features.items() if isinstance(feature, tfds.features.Text))
    feature = "text" if "text" in texts else texts[0] if len(texts) == 1 else None
    if feature is None:
        raise InvalidConfig("corpus", corpus, f"it needs one text feature or one called text, here {texts}")
    if "train" not in info.splits:
        raise InvalidConfig("corpus", corpus, f"it needs a train split, here {sorted(info.splits)}")
    files = [
        (path.name, path.stat().length, path.stat().mtime) for path in sorted(tfds.core.Path(info.data_dir).iterdir())
    ]
    return sources, feature, f"{identity} {files}"


def open_sources(
    field: str, name: str, dataset: str, decoders: Mapping[str, Any] | None = None
) -> tuple[dict[str, Sequence[Mapping[str, Any]]], Any, str]:
    """Prepare a TFDS data set in TFDS's own folder and open it: its splits, what TFDS knows of it, its identity.

    What was prepared elsewhere as ArrayRecord is read without the builder's code. Raises `InvalidConfig` for `field`, which is `name`, if
    there is no such data set or if it lies there in a format without random access.
    """
    try:
        builder: Any = tfds.builder(dataset)
    except tfds.core.DatasetNotFoundError:
        near = get_close_matches(dataset, tfds.list_builders(with_community_datasets=False), cutoff=0.5)
        hint = f"did you mean {' or '.join(f'tfds:{name}' for name in near)}? " if near else ""
        raise InvalidConfig(field, name, f"{hint}TFDS finds no data set {dataset!r}") from None
    except ValueError as error:  # such as an unknown configuration of a known data set
        raise InvalidConfig(field, name, str(error)) from error
    try:
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:
        error.add_note(
            f"{name} could not be prepared here. Some data sets need apache-beam or TensorFlow for that, never for "
            'reading: prepare it elsewhere with download_and_prepare(file_format="array_record"), set TFDS_DATA_DIR.'
        )
        raise
    try:
        sources = {split: builder.as_data_source(split=split, decoders=decoders) for split in builder.info.splits}
    except NotImplementedError as error:  # prepared before, as TFRecord
        raise InvalidConfig(field, name, f"it must be ArrayRecord for random access. {error}") from error
    sizes = [(split, found.num_examples, found.num_bytes) for split, found in sorted(builder.info.splits.items())]
    return sources, builder.info, f"{builder.info.full_name} in {builder.data_dir}: {sizes}"
