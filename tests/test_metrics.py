"""Metrics against NumPy, scikit-image, and the published values for bicubic enlargement."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import skimage.data
import skimage.metrics

from srgan_jax.evaluate import pairs, score
from srgan_jax.evaluate.methods import baseline
from srgan_jax.metrics import conventions, daala
from srgan_jax.metrics.ms_ssim import SMALLEST, ms_ssim
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
    assert ssim(a, a) == daala.ssim(a, a) == 1


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
    np.testing.assert_allclose(ssim(*map(jnp.asarray, flat)), scikit_ssim(*flat), atol=1e-6)


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


def dump_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Daala's SSIM of two uint8 images [H, W] in integers, tap by tap, as its C code goes."""
    height, width = a.shape
    sigma = height * 1.5 / 256
    first = math.sqrt(0.5 * math.pi) * sigma / 256
    n = 0 if first >= 1 else int(sigma * math.sqrt(-2 * math.log(first)))
    n = min(n, min(height, width) - 1)
    taps = {}
    for i in range(1, n + 1):
        density = math.exp(-0.5 * i * i / sigma**2) / (math.sqrt(2 * math.pi) * sigma)
        taps[i] = taps[-i] = int(256 * density + 0.5)
    taps[0] = 256 - sum(taps.values())
    a, b = a.astype(np.int64), b.astype(np.int64)
    sums = np.stack([a, b, a * a, a * b, b * b, np.ones_like(a)])
    for axis in (2, 1):
        total = np.zeros_like(sums)
        size = sums.shape[axis]
        for offset, tap in taps.items():
            for i in range(max(0, -offset), min(size, size - offset)):
                here, there = ((slice(None),) * axis + (j,) for j in (i, i + offset))
                total[here] += tap * sums[there]
        sums = total
    ma, mb, aa, ab, bb, w = sums.astype(np.float64)
    c1, c2 = (255 * 0.01) ** 2 * w * w, (255 * 0.03) ** 2 * w * w
    top = (2 * ma * mb + c1) * (c2 + 2 * (ab * w - ma * mb))
    bottom = (ma**2 + mb**2 + c1) * (aa * w - ma**2 + bb * w - mb**2 + c2)
    return (w * top / bottom).sum() / w.sum()


@pytest.mark.parametrize("size", [(300, 60), (40, 90), (256, 8), (256, 6), (7, 5), (1, 30), (3, 1)])
def test_daala_ssim_is_the_c_codes(size):
    """Windows of 1 to 11 taps; pictures smaller than their window; one row."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, size).astype(np.uint8)
    flat = np.full(size, 255, np.uint8)
    near = np.clip(a + rng.normal(0, 9, size), 0, 255).astype(np.uint8)
    for b in (near, 255 - a, flat, flat // 2):
        ours = daala.ssim(jnp.asarray(a)[..., None], jnp.asarray(b)[..., None])
        np.testing.assert_allclose(ours, dump_ssim(a, b), atol=1e-5)
    ours = daala.ssim(jnp.asarray(flat)[..., None], jnp.asarray(flat - 1)[..., None])
    np.testing.assert_allclose(ours, dump_ssim(flat, flat - 1), atol=1e-6)


def test_luma_of_bt709_by_hand():
    rng = np.random.default_rng(0)
    colours = np.concatenate(
        [rng.integers(0, 256, (500, 3)), np.eye(3) * 255, np.full((1, 3), 255)]
    )
    exact = 16 + 219 / 255 * (colours @ [0.2126, 0.7152, 0.0722])
    luma = np.asarray(daala.luma_bt709(jnp.asarray(colours[None], jnp.float32)))[0, :, 0]
    np.testing.assert_array_equal(luma, np.floor(exact + 0.5))
    assert luma[-1] == 235


def numpy_ms_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """MS-SSIM of [H, W] in float64, the window by SciPy."""
    result = 1.0
    for weight in (0.0448, 0.2856, 0.3001, 0.2363, 0.1333):
        mean = lambda x: scipy.ndimage.gaussian_filter(x, 1.5, radius=5)[5:-5, 5:-5]  # noqa: E731
        ma, mb = mean(a), mean(b)
        covariance, va, vb = mean(a * b) - ma * mb, mean(a * a) - ma**2, mean(b * b) - mb**2
        c1, c2 = 2.55**2, 7.65**2
        last = (2 * ma * mb + c1) / (ma**2 + mb**2 + c1)
        structure = (2 * covariance + c2) / (va + vb + c2)
        factor = (structure * last).mean() if weight == 0.1333 else structure.mean()
        result *= max(factor, 0) ** weight
        a, b = (np.pad(x, [(0, size % 2) for size in x.shape], "edge") for x in (a, b))
        a, b = (sum(x[i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4 for x in (a, b))
    return result


def test_ms_ssim_is_numpys():
    a = skimage.data.astronaut()[:163, :190].astype(np.float64)
    noisy = np.clip(a + np.random.default_rng(0).normal(0, 20, a.shape), 0, 255)
    for b in (noisy, a[::-1], np.full_like(a, 255.0)):
        expected = np.mean([numpy_ms_ssim(a[..., c], b[..., c]) for c in range(3)])
        ours = ms_ssim(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
        np.testing.assert_allclose(ours, expected, atol=1e-5)
    assert ms_ssim(jnp.asarray(a), jnp.asarray(a)) == 1
    small = jnp.asarray(a[: SMALLEST - 1])
    with pytest.raises(ValueError, match="at least 161x161"):
        ms_ssim(small, small)


def measure_one(sr: np.ndarray, hr: np.ndarray, **options) -> dict[str, dict[str, float]]:
    measured = conventions.measure(sr[None], hr[None], border=4, **options)
    return {name: {m: float(x[0]) for m, x in ms.items()} for name, ms in measured.items()}


def test_conventions_crop_and_convert(photographs):
    sr, hr = photographs
    measured = measure_one(sr, hr)
    assert set(measured) == set(conventions.CONVENTIONS) == {"paper", "modern", "rgb", "full"}
    a, b = sr.astype(np.float64), hr.astype(np.float64)
    cropped = a[4:-4, 4:-4], b[4:-4, 4:-4]
    bt601 = np.array([65.481, 128.553, 24.966]) / 255
    bt709 = np.array([0.2126, 0.7152, 0.0722]) * 219 / 255
    compared = {
        "full": (a, b),
        "rgb": cropped,
        "modern": tuple((16 + x @ bt601)[..., None] for x in cropped),
        "paper": tuple(np.floor(16.5 + x @ bt709)[..., None] for x in cropped),
    }
    for name, (x, y) in compared.items():
        error = np.mean((x - y) ** 2)
        of_paper = name == "paper"
        expected = {
            "mse": error,
            "psnr": 10 * np.log10(255**2 / error),
            "ssim": dump_ssim(x[..., 0], y[..., 0]) if of_paper else scikit_ssim(x, y),
        }
        for metric, value in expected.items():
            np.testing.assert_allclose(measured[name][metric], value, rtol=2e-5, err_msg=name)


def test_the_border_is_left_out_but_of_full(photographs):
    hr = photographs[1]
    sr = hr.copy()
    sr[:4], sr[-4:], sr[:, :4], sr[:, -4:] = 0, 0, 0, 0
    measured = measure_one(sr, hr)
    assert measured["modern"]["mse"] == measured["rgb"]["mse"] == measured["paper"]["mse"] == 0
    assert measured["full"]["mse"] > 100
    sr[4, 4] = 255 - hr[4, 4]
    assert measure_one(sr, hr)["rgb"]["mse"] > 0


def test_what_does_not_fit_is_left_out(photographs):
    a, b = (image[:18, :40] for image in photographs)
    measured = measure_one(a, b, metrics=("psnr", "ssim", "ms_ssim"))
    assert {name: set(metrics) for name, metrics in measured.items()} == {
        "paper": {"psnr", "ssim"},
        "modern": {"psnr"},
        "rgb": {"psnr"},
        "full": {"psnr", "ssim"},
    }
    row = measure_one(a[:9], b[:9])  # one row is left inside the border
    assert np.isfinite(row["paper"]["ssim"])
    gray = np.repeat(a[..., :1], 3, axis=2)
    assert measure_one(gray, gray)["full"]["psnr"] == np.inf


# Method.md, Evaluation: published for "paper", and within what the issue of it allows; our own
# earlier measurements for the others. PSNR, SSIM (paper), PSNR, SSIM (modern), PSNR (rgb), MSE.
BICUBIC = {
    "Set5": (28.43, 0.8211, 28.429, 0.8111, 26.692, 194.11),
    "Set14": (25.99, 0.7486, 26.088, 0.7048, 24.462, 294.94),
    "BSD100": (25.94, 0.6935, 25.961, 0.6681, 24.635, 283.84),
}


@pytest.mark.parametrize("data", BICUBIC)
def test_bicubic_gives_the_published_numbers(shared, data):
    folder = shared / "data" / "benchmarks" / data
    found = pairs.find(data, str(folder / "HR"), 4, str(folder / "LR_bicubic_X4"), {})
    scored = score.evaluate(
        found.read(), {"bicubic": baseline("bicubic", 4)}, score.Measures(border=4)
    )
    rows = score.to_rows(data, {one.pair.name: one.values for one in scored})
    means = score.means_of(rows)
    assert len(rows) == (len(found.hr) + 1) * 4 * 3
    psnr, paper_ssim, modern, modern_ssim, rgb, mse_full = BICUBIC[data]
    assert means["bicubic", "paper", "psnr"] == pytest.approx(psnr, abs=0.02)
    assert means["bicubic", "paper", "ssim"] == pytest.approx(paper_ssim, abs=0.002)
    assert means["bicubic", "modern", "psnr"] == pytest.approx(modern, abs=0.001)
    assert means["bicubic", "modern", "ssim"] == pytest.approx(modern_ssim, abs=0.0001)
    assert means["bicubic", "rgb", "psnr"] == pytest.approx(rgb, abs=0.001)
    assert means["bicubic", "full", "mse"] == pytest.approx(mse_full, abs=0.01)
