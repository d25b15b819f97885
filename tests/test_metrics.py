"""Metrics against NumPy, scikit-image, and the published values for bicubic enlargement."""

import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
import skimage.metrics

from srgan_jax import evaluate
from srgan_jax.data import sources
from srgan_jax.data.degradation import Degradation
from srgan_jax.metrics import conventions
from srgan_jax.metrics.psnr import mse, psnr
from srgan_jax.metrics.ssim import ssim

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(scope="module")
def photographs() -> tuple[np.ndarray, np.ndarray]:
    """A photograph and the same with noise."""
    image = skimage.data.astronaut()[100:160, 200:284]
    noise = np.random.default_rng(0).normal(0, 12, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8), image


def test_mse_and_psnr_by_hand():
    a, b = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 3), np.uint8)
    b[0, 0] = [255, 0, 0]
    b[1, 1] = [0, 3, 0]
    assert mse(jnp.asarray(a), jnp.asarray(b)) == pytest.approx((255**2 + 9) / 12)
    a[:], b[:] = 100, 125
    assert psnr(jnp.asarray(a), jnp.asarray(b)) == pytest.approx(20 * np.log10(255 / 25), rel=1e-6)


def test_psnr_is_scikit_images(photographs):
    a, b = map(jnp.asarray, photographs)
    expected = skimage.metrics.peak_signal_noise_ratio(*photographs[::-1], data_range=255)
    np.testing.assert_allclose(psnr(a, b), expected, rtol=1e-6)
    np.testing.assert_allclose(psnr(a, b), psnr(b, a))  # uint8 differences don't wrap round


def test_equal_images(photographs):
    a = jnp.asarray(photographs[0])
    assert mse(a, a) == 0
    assert psnr(a, a) == jnp.inf
    np.testing.assert_allclose(ssim(a, a), 1, atol=1e-6)


def scikit_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Its own mean is of the positions where the window lies inside, too."""
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return skimage.metrics.structural_similarity(
        a.astype(np.float64), b.astype(np.float64), data_range=255, channel_axis=-1, **settings
    )


def test_ssim_is_scikit_images(photographs):
    a, b = photographs
    extremes = [np.zeros_like(a), np.full_like(a, 255), 255 - a]
    for other in (b, a // 2, np.roll(a, 3, axis=1), *extremes):
        ours = ssim(jnp.asarray(a), jnp.asarray(other))
        np.testing.assert_allclose(ours, scikit_ssim(a, other), atol=1e-5)
    flat = [np.full((16, 16, 1), level, np.uint8) for level in (250, 255)]
    # Squares of 127 in float32 leave the variance of a flat area uncertain by 2e-3 of C2's 58.
    np.testing.assert_allclose(ssim(*map(jnp.asarray, flat)), scikit_ssim(*flat), atol=5e-5)


def test_ssim_needs_room_for_its_window(photographs):
    small = jnp.asarray(photographs[0][:11, :11])
    assert ssim(small, small).shape == ()
    with pytest.raises(ValueError, match="at least 11x11"):
        ssim(small[:10], small[:10])


def test_luma_of_bt601():
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]])
    luma = conventions.luma_bt601(jnp.asarray(colours, jnp.float32))
    np.testing.assert_allclose(
        luma[0, :, 0], [16, 235, 16 + 65.481, 16 + 128.553, 16 + 24.966], rtol=1e-6
    )


def test_conventions_crop_and_convert(photographs):
    sr, hr = photographs
    measured = conventions.measure(jnp.asarray(sr), jnp.asarray(hr), border=4)
    assert set(measured) == set(conventions.CONVENTIONS) == {"modern", "rgb", "full"}
    a, b = sr.astype(np.float64), hr.astype(np.float64)
    cropped = a[4:-4, 4:-4], b[4:-4, 4:-4]
    weights = np.array([65.481, 128.553, 24.966]) / 255
    compared = {
        "full": (a, b),
        "rgb": cropped,
        "modern": tuple((16 + x @ weights)[..., None] for x in cropped),
    }
    for name, (x, y) in compared.items():
        error = np.mean((x - y) ** 2)
        expected = {
            "mse": error,
            "psnr": 10 * np.log10(255**2 / error),
            "ssim": scikit_ssim(x, y),
        }
        for metric, value in expected.items():
            np.testing.assert_allclose(measured[name][metric], value, rtol=2e-5, err_msg=name)


def test_the_border_is_left_out_but_of_full(photographs):
    hr = photographs[1]
    sr = hr.copy()
    sr[:4], sr[-4:], sr[:, :4], sr[:, -4:] = 0, 0, 0, 0
    measured = conventions.measure(jnp.asarray(sr), jnp.asarray(hr), border=4)
    assert measured["modern"]["mse"] == measured["rgb"]["mse"] == 0
    assert measured["full"]["mse"] > 100
    sr[4, 4] = 255 - hr[4, 4]
    measured = conventions.measure(jnp.asarray(sr), jnp.asarray(hr), border=4)
    assert measured["rgb"]["mse"] > 0


def test_bicubic_on_set5_gives_the_known_numbers(shared):
    """Method.md, Evaluation: what everything else is compared with."""
    folder = str(shared / "data" / "benchmarks" / "Set5" / "HR")
    pictures = sources.load(source="folder", path=folder, split="validation")
    pairs = evaluate.make_pairs(pictures, Degradation(4))
    rows, outputs = evaluate.evaluate("Set5", pairs, {"bicubic": evaluate.bicubic(4)}, 4)
    assert [image.shape for image in outputs["bicubic"]] == [pair.hr.shape for pair in pairs]
    assert len(rows) == (5 + 1) * 3 * 3
    means = {
        (row["convention"], row["metric"]): row["value"] for row in rows if row["image"] == "mean"
    }
    assert means["modern", "psnr"] == pytest.approx(28.429, abs=0.001)
    assert means["modern", "ssim"] == pytest.approx(0.8111, abs=0.0001)
    assert means["rgb", "psnr"] == pytest.approx(26.692, abs=0.001)
    assert means["full", "mse"] == pytest.approx(194.11, abs=0.01)
