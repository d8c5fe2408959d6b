"""Data sets in the format of TFDS's own, written here. TFDS takes seconds to import, which most tests here do not need."""

import contextlib
import io

import pytest


@pytest.fixture(scope="session")
def write_dataset():
    """`write_dataset(folder, name, features, examples of each split)`, as ArrayRecord."""
    import tensorflow_datasets as tfds

    class Written(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def __init__(self, name, features, examples, **kwargs):
            type(self).name = name
            self._features, self._examples = tfds.features.FeaturesDict(features), examples
            super().__init__(**kwargs)

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=self._features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in self._examples}

        def _generate_examples(self, split):
            yield from enumerate(self._examples[split])

    def write(folder, name, features, examples):
        builder = Written(name, features, examples, data_dir=folder, file_format="array_record")
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))

    return write
