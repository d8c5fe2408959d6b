"""How good reconstructions and samples are, and how much of a code is used."""

import numpy as np
import scipy.linalg
from jaxtyping import Float, Integer

from lexinv.validation import require

SSIM_WINDOW = 7


def psnr(
    images: Float[np.ndarray, "*batch h w c"], others: Float[np.ndarray, "*batch h w c"], reach: float = 2.0
) -> float:
    """Peak signal-to-noise ratio in decibels of the mean squared error over all images; reach: from black to white."""
    return float(10 * np.log10(reach**2 / np.mean(np.square(np.asarray(images, np.float64) - others))))


def ssim(
    images: Float[np.ndarray, "*batch h w c"], others: Float[np.ndarray, "*batch h w c"], reach: float = 2.0
) -> float:
    """Structural similarity, the mean over windows of 7 x 7 pixels, channels and images (Wang et al. 2004, eq. 13; uniform windows).

    Raises `InvalidConfig` for images smaller than a window.
    """
    require(min(images.shape[-3:-1]) >= SSIM_WINDOW, "image", images.shape, f"{SSIM_WINDOW} pixels a side or more")
    count = SSIM_WINDOW**2

    def mean(x: np.ndarray) -> np.ndarray:
        return np.lib.stride_tricks.sliding_window_view(x, (SSIM_WINDOW, SSIM_WINDOW), (-3, -2)).mean((-2, -1))

    x, y = np.asarray(images, np.float64), np.asarray(others, np.float64)
    mean_x, mean_y = mean(x), mean(y)
    unbiased = count / (count - 1)
    of_x, of_y, both = (
        unbiased * (mean(a * b) - m * n) for a, b, m, n in ((x, x, mean_x, mean_x), (y, y, mean_y, mean_y), (x, y, mean_x, mean_y))
    )  # fmt: skip
    c1, c2 = (0.01 * reach) ** 2, (0.03 * reach) ** 2
    likeness = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    return float(np.mean(likeness / ((mean_x**2 + mean_y**2 + c1) * (of_x + of_y + c2))))


def code_use(codes: Integer[np.ndarray, "..."], size: int) -> tuple[float, float]:
    """(share of the `size` codes that occur, perplexity of their frequencies: as many equally frequent codes have the same entropy)."""
    counts = np.bincount(np.ravel(codes), minlength=size)
    require(len(counts) == size, "codes", int(np.max(codes)), f"below {size}")
    shares = counts[counts > 0] / counts.sum()
    return float(len(shares) / size), float(np.exp(-np.sum(shares * np.log(shares))))


def frechet(some: Float[np.ndarray, "n d"], others: Float[np.ndarray, "m d"]) -> float:
    """Fréchet distance of the normals with the means and covariances of two sets of features (Heusel et al. 2017, section 2).

    Biased upwards where features are few: look at that of real against real of as many. Raises `InvalidConfig` for fewer than two rows.
    """
    require(min(len(some), len(others)) >= 2, "features", (len(some), len(others)), "at least two rows each")
    a, b = np.asarray(some, np.float64), np.asarray(others, np.float64)
    of_a, of_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    values, vectors = scipy.linalg.eigh(of_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    between = np.sqrt(np.maximum(scipy.linalg.eigvalsh(root @ of_b @ root), 0)).sum()
    apart = np.sum(np.square(a.mean(axis=0) - b.mean(axis=0)))
    return float(max(apart + np.trace(of_a) + np.trace(of_b) - 2 * between, 0.0))
