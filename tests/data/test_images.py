"""Images of a TFDS data set written here, in the format of the large ones."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from lexinv.data.images import Crop, decode, evaluation_pixels, open_images
from lexinv.validation import InvalidConfig

PLAIN = Crop(size=4, share=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 6, 4, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def prepared(write_dataset, tmp_path_factory):
    """The folder of TFDS with five pictures of three classes in it, a data set that no code knows."""

    def png(picture):
        file = io.BytesIO()  # of an array TFDS would make a file with TensorFlow
        Image.fromarray(picture).save(file, "PNG")
        return io.BytesIO(file.getvalue())

    folder = tmp_path_factory.mktemp("tfds")
    features = {"image": tfds.features.Image(shape=(None, None, 3)), "label": tfds.features.ClassLabel(num_classes=3)}
    examples = [{"image": png(picture), "label": number % 3} for number, picture in enumerate(pictures())]
    write_dataset(folder, "tiny_pictures", features, {"validation": examples})
    return folder


@pytest.fixture
def known(prepared, monkeypatch):
    monkeypatch.setattr(tfds, "builder", lambda name: tfds.builder_from_directory(prepared / name / "1.0.0"))


def test_a_data_set_is_read(known):
    source = open_images("tiny_pictures", "validation")
    assert (len(source), source.classes) == (5, 3)
    assert "tiny_pictures" in source.identity
    pixels, labels = source.batch([4, 1], PLAIN)
    np.testing.assert_array_equal(labels, [1, 1])
    np.testing.assert_allclose(pixels, pictures()[[4, 1], 1:5] / 255, atol=1e-6)  # nothing to scale, the middle rows


def test_unknown_data_set_is_named():
    with pytest.raises(InvalidConfig, match=r"dataset = 'imagenet2013'.*imagenet2012"):
        open_images("imagenet2013", "validation")


@pytest.mark.parametrize("mode", ["CMYK", "L", "RGBA", "RGB"])
def test_every_colour_space_becomes_rgb(mode):
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (200, 200, 200)).convert(mode).save(buffer, "TIFF")
    found = decode(buffer.getvalue())
    assert found.shape == (2, 3, 3)
    np.testing.assert_allclose(found, 200, atol=1)


@pytest.mark.parametrize("shape", [(8, 8), (20, 8), (8, 32), (4, 6)])
def test_the_middle_is_cut_and_normalised(shape):
    """A picture whose value is the place along the longer side: the middle of that range, symmetric, whatever the scale."""
    rows, columns = shape
    ramp = np.linspace(0, 255, max(shape))
    plane = ramp[:, None] if rows >= columns else ramp[None, :]
    image = np.broadcast_to(plane, shape).round().astype(np.uint8)[..., None].repeat(3, axis=2)
    crop = Crop(size=4, share=0.5, mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 1.0))
    found = evaluation_pixels(image, crop)
    assert found.shape == (4, 4, 3)
    np.testing.assert_allclose(found[..., 0] * 0.5, found[..., 1] * 0.25, atol=1e-5)
    np.testing.assert_allclose(found.mean(), 0, atol=0.03)
    along = found[..., 0].mean(axis=1 if rows >= columns else 0)
    assert np.all(np.diff(along) > 0)
    span = (along[-1] - along[0]) * 0.5
    expected = 3 / (8 * max(shape) / min(shape)) * max(shape) / (max(shape) - 1)
    assert span == pytest.approx(expected, rel=0.25)
