"""The autoencoder of images, and what its reconstructions are measured by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from lexinv.codes.autoencoder import AutoencoderConfig, encode, initialize, neighbourhoods, reconstruct
from lexinv.codes.measures import code_use, frechet, psnr, ssim
from lexinv.codes.quantisers import fsq
from lexinv.validation import InvalidConfig

MODEL = AutoencoderConfig(patch=4, channels=1, width=8, depth=1)


def test_neighbourhoods_make_a_convolution():
    x, kernel = jax.random.normal(jax.random.key(0), (2, 5, 6, 3)), jax.random.normal(jax.random.key(1), (3, 3, 3, 4))
    wanted = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(neighbourhoods(x) @ kernel.reshape(27, 4), wanted, atol=1e-4)


def test_latents_lie_on_the_grid_of_patches():
    quantiser = fsq((4, 4))
    params, state = initialize(MODEL, quantiser, jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (3, 8, 12, 1))
    found, codes = reconstruct(MODEL, quantiser, params, state, images)
    assert found.shape == images.shape and codes.ids.shape == (3, 2, 3, 2)
    changed = encode(MODEL, params, images.at[0, 0, 0].add(1.0)) - encode(MODEL, params, images)
    assert (jnp.abs(changed[0, 0, 0]) > 0).any() and (changed[1:] == 0).all()


@pytest.mark.parametrize("shape", [(3, 8, 10, 1), (3, 8, 8, 3), (8, 8), (1, 0, 8, 1)])
def test_images_that_patches_do_not_divide_are_refused(shape):
    with pytest.raises(InvalidConfig, match="image"):
        MODEL.check_image(shape)


def test_psnr_and_ssim_are_those_of_scikit_image():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (2, 16, 16, 3))
    y = np.clip(x + rng.normal(0, 0.2, x.shape), -1, 1)
    assert psnr(x, y) == pytest.approx(peak_signal_noise_ratio(x, y, data_range=2))
    wanted = [structural_similarity(a, b, data_range=2, channel_axis=-1) for a, b in zip(x, y, strict=True)]
    assert ssim(x, y) == pytest.approx(np.mean(wanted), abs=1e-9)
    with pytest.raises(InvalidConfig, match="7 pixels"):
        ssim(x[:, :4], y[:, :4])


def test_use_and_perplexity_of_codes():
    assert code_use(np.array([[0, 1], [2, 3]]), 8) == pytest.approx((0.5, 4.0))
    assert code_use(np.zeros(9, int), 4) == pytest.approx((0.25, 1.0))
    with pytest.raises(InvalidConfig, match="codes = 4"):
        code_use(np.array([4]), 4)


def test_frechet_distance_of_normals_is_in_closed_form():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (400_000, 1)), rng.normal(3, 2, (400_000, 1))
    assert frechet(a, b) == pytest.approx(3**2 + (2 - 1) ** 2, rel=0.01)
    x = rng.normal(size=(50, 3))
    assert frechet(x, x) == pytest.approx(0, abs=1e-9)
    turned = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    assert frechet(x @ turned, 2 * x @ turned) == pytest.approx(frechet(x, 2 * x))
    with pytest.raises(InvalidConfig, match="two rows"):
        frechet(x[:1], x)
