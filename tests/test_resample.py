"""Resampling against MATLAB's own results, and against plain NumPy with exact weights."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from srgan_jax import resample

SCALES = [Fraction(1, 2), Fraction(1, 3), Fraction(1, 4), Fraction(1, 8), 2, 4, 8]
SIZES = [(16, 24), (21, 13), (3, 5)]  # even; dividing by nothing; smaller than the kernel
WIDEST = 70  # beyond the reach of any kernel here


def keys(x: Fraction) -> Fraction:
    """Keys' kernel with a = -1/2, in exact arithmetic."""
    x = abs(x)
    if x <= 1:
        return Fraction(3, 2) * x**3 - Fraction(5, 2) * x**2 + 1
    if x <= 2:
        return -Fraction(1, 2) * x**3 + Fraction(5, 2) * x**2 - 4 * x + 2
    return Fraction(0)


def filter_rows(image: np.ndarray, centers, weight) -> np.ndarray:
    """Each output row a normalised sum of the mirrored input rows around its centre."""
    padded = np.pad(image, [(WIDEST, WIDEST), (0, 0), (0, 0)], mode="symmetric")
    rows = []
    for center in centers:
        near = range(math.floor(center) - 40, math.floor(center) + 41)
        weights = {j: weight(center - j) for j in near}
        total = sum(weights.values())
        rows.append(sum(float(w / total) * padded[j + WIDEST] for j, w in weights.items() if w))
    return np.stack(rows)


def lanczos(x: Fraction) -> float:
    """The sinc of x, windowed by that of x / 3."""
    return float(np.sinc(float(x)) * np.sinc(float(x) / 3)) if abs(x) < 3 else 0.0


def imresize(image: np.ndarray, scale: Fraction, quantise: bool, kernel=keys) -> np.ndarray:
    """MATLAB's `imresize` in float64: height first, then width."""
    scale = Fraction(scale)
    stretch = max(1 / scale, Fraction(1))
    result = image.astype(np.float64)
    for _ in range(2):
        count = math.ceil(result.shape[0] * scale)
        centers = [(i + Fraction(1, 2)) / scale - Fraction(1, 2) for i in range(count)]
        result = filter_rows(result, centers, lambda x: kernel(x / stretch))
        if quantise:
            result = np.clip(np.floor(result + 0.5), 0, 255)
        result = result.swapaxes(0, 1)
    return result


@pytest.mark.parametrize(("data", "most"), [("Set5", 5), ("Set14", 14), ("BSD100", 100)])
def test_matlab_golden_vectors_are_met_bit_for_bit(shared, data, most):
    folder = shared / "data" / "benchmarks" / data
    files = sorted((folder / "HR").iterdir())[:most]
    assert len(files) == most
    for file in files:
        hr = np.array(Image.open(file).convert("RGB"))
        golden = np.array(Image.open(folder / "LR_bicubic_X4" / file.name).convert("RGB"))
        lr_image = resample.bicubic(jnp.asarray(hr), Fraction(1, 4), quantise=True)
        np.testing.assert_array_equal(lr_image, golden, err_msg=file.name)


@pytest.mark.parametrize("scale", SCALES, ids=str)
def test_bicubic_is_imresize(noise, scale):
    for (height, width), channels in zip(SIZES, (3, 1, 3), strict=True):
        pixels = noise(height, width, channels)
        result = resample.bicubic(jnp.asarray(pixels), scale, quantise=True)
        assert result.shape == (math.ceil(height * scale), math.ceil(width * scale), channels)
        np.testing.assert_array_equal(result, imresize(pixels, scale, quantise=True))

        signed = pixels / 127.5 - 1.0
        result = resample.bicubic(jnp.asarray(signed, jnp.float32), scale, quantise=False)
        np.testing.assert_allclose(result, imresize(signed, scale, quantise=False), atol=2e-6)


@pytest.mark.parametrize("scale", [Fraction(1, 4), 2, 3, 4], ids=str)
def test_lanczos_is_imresize(noise, scale):
    for (height, width), channels in zip(SIZES, (3, 1, 3), strict=True):
        signed = noise(height, width, channels) / 127.5 - 1.0
        result = resample.lanczos(jnp.asarray(signed, jnp.float32), scale, quantise=False)
        expected = imresize(signed, scale, quantise=False, kernel=lanczos)
        np.testing.assert_allclose(result, expected, atol=2e-6)
    levels = resample.lanczos(jnp.asarray(noise(8, 8)), scale, quantise=True)
    assert ((levels >= 0) & (levels <= 255) & (levels == jnp.round(levels))).all()


def test_batches_and_single_pictures_agree(noise):
    batch = np.stack([noise(12, 16, seed=seed) for seed in range(3)])
    whole = resample.bicubic(jnp.asarray(batch), Fraction(1, 4), quantise=True)
    for one, picture in zip(whole, batch, strict=True):
        np.testing.assert_array_equal(one, imresize(picture, Fraction(1, 4), quantise=True))


def test_ties_round_up_in_each_pass():
    # Halving a ramp of whole levels gives 2 i + 1/2 away from the borders, in either direction.
    ramp = jnp.tile(jnp.arange(20.0)[:, None, None], (1, 8, 1))
    for image, turn in ((ramp, False), (ramp.swapaxes(0, 1), True)):
        for quantise, expected in ((False, 2 * np.arange(10) + 0.5), (True, 2 * np.arange(10) + 1)):
            result = resample.bicubic(image, Fraction(1, 2), quantise=quantise)
            line = result[0] if turn else result[:, 0]
            np.testing.assert_array_equal(line[2:-2, 0], expected[2:-2])


@pytest.mark.parametrize("scale", SCALES, ids=str)
def test_constants_are_kept(scale):
    for level in (0, 1, 77, 255):
        flat = jnp.full((11, 9, 3), level, jnp.uint8)
        assert (resample.bicubic(flat, scale, quantise=True) == level).all()
    assert (resample.gaussian_downsample(flat, 4, 1.6, quantise=True) == level).all()


def test_borders_are_mirrored(noise):
    """Method.md: JAX's own filter, given 16 mirrored pixels more, is the same everywhere."""
    image = jnp.asarray(noise(32, 48) / 255.0, jnp.float32)
    mirrored = jnp.pad(image, ((16, 16), (16, 16), (0, 0)), mode="symmetric")
    expected = jax.image.resize(mirrored, (16, 20, 3), "cubic", antialias=True)[4:-4, 4:-4]
    result = resample.bicubic(image, Fraction(1, 4), quantise=False)
    np.testing.assert_allclose(result, expected, atol=2e-6)
    without = jax.image.resize(image, (8, 12, 3), "cubic", antialias=True)
    assert jnp.abs(without - result).max() > 1e-3  # mirroring does make a difference


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_gaussian_downsampling_does_not_shift(factor):
    y, x = np.mgrid[:96, :80]
    ramp = np.stack([x, y, x + 2 * y], -1).astype(np.float32)
    result = resample.gaussian_downsample(jnp.asarray(ramp), factor, 1.6, quantise=False)
    y, x = (np.mgrid[: 96 // factor, : 80 // factor] + 0.5) * factor - 0.5
    expected = np.stack([x, y, x + 2 * y], -1)
    inner = slice(math.ceil(8 / factor), -math.ceil(8 / factor))
    assert expected[inner, inner].size
    np.testing.assert_allclose(result[inner, inner], expected[inner, inner], atol=5e-3)


def test_gaussian_downsampling_in_numpy(noise):
    pixels, sigma = noise(23, 18), 1.6
    half = pixels.astype(np.float64)
    for size in (23, 18):
        centers = [4 * i + 1.5 for i in range(size // 4)]
        half = filter_rows(half, centers, lambda x: math.exp(-0.5 * (x / sigma) ** 2))
        half = half.swapaxes(0, 1)
    result = resample.gaussian_downsample(jnp.asarray(pixels), 4, sigma, quantise=False)
    assert result.shape == (5, 4, 3)
    # The reference goes on to 40 pixels; 4 sigma leave out 6e-5 of the weight.
    np.testing.assert_allclose(result, half, atol=0.03)


@pytest.mark.parametrize(
    ("size", "factor", "sigma"),
    [(96, 4, 1.6), (23, 4, 1.6), (24, 1, 1.6), (30, 3, 2.0), (5, 1, 3.0), (3, 1, 8.0)],
)
def test_gaussian_matrices_are_exact(size, factor, sigma):
    """The same from a number as from an array that could be higher, far over the borders too."""
    centers = [factor * i + (factor - 1) / 2 for i in range(size // factor)]

    def weight(x: float) -> float:
        return math.exp(-0.5 * (x / sigma) ** 2) if abs(x) <= 4 * sigma else 0.0

    expected = filter_rows(np.eye(size)[..., None], centers, weight)[..., 0]
    number = resample.gaussian_matrix(size, factor, sigma, sigma)
    array = resample.gaussian_matrix(size, factor, jnp.float32(sigma), 10.0)
    for matrix in (number, array):
        np.testing.assert_allclose(matrix, expected, atol=2e-7)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_a_narrow_gaussian_takes_the_nearest_pixels(factor):
    for sigma in (1e-3, 0.05):
        matrix = resample.gaussian_matrix(12, factor, sigma, sigma)
        near = np.repeat(np.eye(12 // factor), factor, axis=1)
        if factor == 3:
            near *= np.tile([0, 1, 0], 4)
        np.testing.assert_allclose(matrix, near / near.sum(axis=1, keepdims=True), atol=1e-7)


def test_gaussian_downsampling_is_scipys_blur_sampled(noise):
    """At an odd factor the samples lie on pixels."""
    pixels = noise(30, 24)
    blurred = scipy.ndimage.gaussian_filter(
        pixels.astype(np.float64), (2.0, 2.0, 0.0), mode="reflect"
    )
    result = resample.gaussian_downsample(jnp.asarray(pixels), 3, 2.0, quantise=False)
    np.testing.assert_allclose(result, blurred[1::3, 1::3], atol=0.03)
