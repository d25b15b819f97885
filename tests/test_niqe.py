"""NIQE against a port of the paper to plain float64 loops, and its parameters' files."""

import math

import numpy as np
import pytest
import scipy.io
import scipy.ndimage
import scipy.sparse
import scipy.special
import skimage.data

from srgan_jax.convert import niqe as files
from srgan_jax.errors import UserError
from srgan_jax.metrics import niqe

pytestmark = pytest.mark.usefixtures("quick_compile")

# MATLAB's imresize by 1/2: Keys' kernel widened by two, at 0.25, 0.75, 1.25 and 1.75.
HALF = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256
# Columns of a scale's 18 features that hold alphas, which are whole steps of 0.001.
ALPHAS = (0, 2, 6, 10, 14)


def luma(pixels: np.ndarray) -> np.ndarray:
    """Rounded Y of BT.601 of uint8 RGB, [H, W] float64."""
    return np.round(16 + pixels @ np.array([65.481, 128.553, 24.966]) / 255)


def plain_aggd(values: np.ndarray) -> tuple[float, float, float, float]:
    """alpha, mean, left and right beta of an asymmetric generalised Gaussian."""
    gamma = scipy.special.gamma
    left, right = (
        math.sqrt(np.mean(side**2)) if len(side) else math.nan
        for side in (values[values < 0], values[values > 0])
    )
    alpha = 0.2
    if not math.isnan(left / right):
        skew = left / right
        ratio = np.mean(np.abs(values)) ** 2 / np.mean(values**2)
        ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
        grid = np.arange(9801) * 0.001 + 0.2
        ratios = gamma(2 / grid) ** 2 / (gamma(1 / grid) * gamma(3 / grid))
        alpha = grid[np.argmin((ratios - ratio) ** 2)]
    beta_left, beta_right = (
        x * math.sqrt(gamma(1 / alpha) / gamma(3 / alpha)) for x in (left, right)
    )
    return (
        alpha,
        (beta_right - beta_left) * gamma(2 / alpha) / gamma(1 / alpha),
        beta_left,
        beta_right,
    )


def plain_features(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[blocks, 36] and the blocks' sharpness, float64, in the order of our own."""
    rows, columns = (side // 96 for side in image.shape)
    image = image[: rows * 96, : columns * 96].astype(np.float64)
    y, x = np.mgrid[-3:4, -3:4]
    window = np.exp(-(x**2 + y**2) / (2 * (7 / 6) ** 2))
    window /= window.sum()
    table: list[list[float]] = [[] for _ in range(rows * columns)]
    sharpness = []
    for side in (96, 48):
        mean = scipy.ndimage.correlate(image, window, mode="nearest")
        square = scipy.ndimage.correlate(image**2, window, mode="nearest")
        deviation = np.sqrt(np.abs(square - mean**2))
        values = (image - mean) / (deviation + 1)
        values[np.abs(values) < 1e-9] = 0  # the sign of a rounding error is no sign
        for block, features in enumerate(table):
            top, left = block // columns * side, block % columns * side
            part = values[top : top + side, left : left + side]
            if side == 96:
                sharpness.append(np.mean(deviation[top : top + side, left : left + side]))
            alpha, _, beta_left, beta_right = plain_aggd(part)
            features += [alpha, (beta_left + beta_right) / 2]
            for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
                features += plain_aggd(part * np.roll(np.roll(part, down, axis=0), right, axis=1))
        # The window of an even kernel begins half its length before: every other one, from 1.
        image = scipy.ndimage.correlate1d(image, HALF, axis=0, mode="reflect")[1::2]
        image = scipy.ndimage.correlate1d(image, HALF, axis=1, mode="reflect")[:, 1::2]
    return np.array(table), np.array(sharpness)


def plain_niqe(image: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> float:
    table = plain_features(image)[0]
    whole = np.array([row for row in table if not np.isnan(row).any()])
    difference = mean - np.nanmean(table, axis=0)
    pooled = (covariance + np.cov(whole.T)) / 2
    return math.sqrt(difference @ np.linalg.pinv(pooled) @ difference)


def plain_fit(images: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    rows = []
    for image in images:
        table, sharpness = plain_features(image)
        rows += list(table[sharpness > 0.75 * sharpness.max()])
    return np.nanmean(rows, axis=0), np.cov(np.array(rows).T)


def tiles(pixels: np.ndarray) -> list[np.ndarray]:
    """Whole pieces of 192x192."""
    pixels = luma(pixels) if pixels.ndim == 3 else pixels.astype(np.float64)
    rows, columns = (side // 192 for side in pixels.shape)
    return [
        pixels[192 * y : 192 * (y + 1), 192 * x : 192 * (x + 1)]
        for y in range(rows)
        for x in range(columns)
    ]


@pytest.fixture(scope="module")
def pristine() -> list[np.ndarray]:
    """Pieces of photographs, coffee's left for the tests."""
    names = ("astronaut", "camera", "chelsea", "rocket", "brick", "grass", "gravel")
    return [tile for name in names for tile in tiles(getattr(skimage.data, name)())]


@pytest.fixture(scope="module")
def params(pristine) -> niqe.Params:
    return niqe.fit(pristine)


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    """[384, 576]."""
    return luma(skimage.data.coffee())[8:392, 12:588]


def test_features_are_the_plain_ones(noise, photograph):
    chelsea = luma(skimage.data.chelsea())
    camera = skimage.data.camera().astype(np.float64)
    with_flat_block = camera[100:300, 100:300].copy()
    with_flat_block[60:240, 60:240] = 77
    pictures = {
        "noise": noise(197, 200, 1)[..., 0].astype(np.float64),
        "colour": photograph,
        "odd sizes": chelsea[5:298, 3:200],
        "gray": camera[100:400, 100:300],
        "much saturated": np.clip(2.5 * chelsea - 150, 16, 235).round()[:200, :200],
        "a flat block": with_flat_block,
        "a ramp": np.tile(np.arange(16.0, 210.0), (200, 1)),
        "levels not whole": chelsea[:193, :193] * 0.731 + 3.21,
    }
    for name, picture in pictures.items():
        ours, sharpness = niqe.features(picture)
        plain, plain_sharpness = plain_features(picture)
        assert ours.shape == ((picture.shape[0] // 96) * (picture.shape[1] // 96), 36)
        # A ratio halfway between two alphas may take either, and the betas go with it.
        same = np.isclose(ours, plain, rtol=2e-5, atol=2e-6, equal_nan=True)
        assert np.mean(same) > 0.95, name
        np.testing.assert_allclose(ours, plain, rtol=5e-3, atol=2e-3, err_msg=name)
        np.testing.assert_allclose(sharpness, plain_sharpness, rtol=1e-5, atol=1e-5, err_msg=name)


def test_fit_and_niqe_are_the_plain_ones(pristine, params, photograph):
    mean, covariance = plain_fit(pristine)
    np.testing.assert_allclose(params.mean, mean, atol=1e-4)
    np.testing.assert_allclose(params.covariance, covariance, atol=1e-4)
    for picture in (photograph, photograph[:200, :200]):
        plain = plain_niqe(picture, mean, covariance)
        assert niqe.niqe(picture, params) == pytest.approx(plain, abs=2e-3)


def test_blur_and_noise_are_worse(params, photograph):
    rng = np.random.default_rng(0)
    best = niqe.niqe(photograph, params)
    assert isinstance(best, float)
    blurred = [scipy.ndimage.gaussian_filter(photograph, sigma) for sigma in (1, 2)]
    noisy = [
        np.clip(photograph + rng.normal(0, sigma, photograph.shape), 0, 255) for sigma in (10, 30)
    ]
    for mild, strong in (blurred, noisy):
        assert best + 1 < niqe.niqe(mild.round(), params) < niqe.niqe(strong.round(), params)


def test_what_is_cropped_and_how_it_is_typed_does_not_count(params, photograph):
    whole = photograph[:192, :192]
    changed = photograph[:287, :287].astype(np.uint8)
    changed[192:], changed[:, 192:] = 0, 255
    assert niqe.niqe(changed, params) == niqe.niqe(whole, params)


def test_flat_blocks(params, photograph):
    flat = np.full((192, 192), 235.0)
    rows, sharpness = niqe.features(flat)
    np.testing.assert_array_equal(sharpness, 0)
    alphas = [scale + column for scale in (0, 18) for column in ALPHAS]
    np.testing.assert_allclose(rows[:, alphas], 0.2)
    assert np.isnan(np.delete(rows, alphas, axis=1)).all()
    assert math.isnan(niqe.niqe(flat, params))

    framed = photograph[:192, :192].copy()
    framed[:96] = 16
    framed[96:100] = 16  # so that the blocks above don't see the picture
    plain = plain_niqe(framed, *params)
    assert niqe.niqe(framed, params) == pytest.approx(plain, abs=2e-3)
    framed[:, :100] = 16
    assert math.isnan(niqe.niqe(framed, params))  # one block is left


def test_one_block_has_no_covariance_and_less_than_one_is_refused(params, photograph):
    assert niqe.BLOCK == 96
    assert niqe.features(photograph[:96, :96])[0].shape == (1, 36)
    assert math.isnan(niqe.niqe(photograph[:96, :96], params))
    assert niqe.niqe(photograph[:96, :192], params) > 0
    with pytest.raises(ValueError, match=r"at least 96x96 pixels, not \(95, 300\)"):
        niqe.niqe(photograph[:95, :300], params)


def test_fit_refuses_what_has_no_inverse(pristine):
    flat = np.full((192, 192), 100.0)
    for pictures in ([], [flat] * 40, pristine[:5], [pristine[0]] * 40):
        with pytest.raises(ValueError, match="at least 37 different sharp blocks"):
            niqe.fit(pictures)
    with_flat = niqe.fit([*pristine, flat])
    np.testing.assert_array_equal(with_flat.mean, niqe.fit(iter(pristine)).mean)


def test_parameters_come_back_as_they_were_saved(tmp_path, params):
    path = tmp_path / "params.npz"
    path.write_bytes(b"an older file")
    files.save(path, params)
    files.save(path, params)
    assert [each.name for each in tmp_path.iterdir()] == ["params.npz"]
    loaded = files.load(path)
    for field in niqe.Params._fields:
        np.testing.assert_array_equal(getattr(loaded, field), getattr(params, field))
        assert getattr(loaded, field).dtype == np.float64
    with np.load(path) as arrays:
        assert {key: arrays[key].shape for key in arrays} == {
            "mu_pris_param": (1, 36),
            "cov_pris_param": (36, 36),
        }


def test_parameters_of_others_load(tmp_path, params):
    mean, covariance = params.mean[None], params.covariance
    window = np.ones((7, 7)) / 49
    np.savez(
        tmp_path / "basicsr.npz",
        mu_pris_param=mean,
        cov_pris_param=covariance,
        gaussian_window=window,
    )
    matlab = {"mu_prisparam": mean, "cov_prisparam": covariance}
    scipy.io.savemat(tmp_path / "modelparameters.mat", matlab, do_compression=True)
    scipy.io.savemat(tmp_path / "old.mat", matlab, format="4")
    for name in ("basicsr.npz", "modelparameters.mat", "old.mat"):
        loaded = files.load(tmp_path / name)
        np.testing.assert_array_equal(loaded.mean, params.mean)
        np.testing.assert_array_equal(loaded.covariance, params.covariance)


@pytest.mark.filterwarnings("ignore:The default value for `spmatrix`")  # SciPy 1.18
def test_files_that_are_refused(tmp_path, params):
    mean, covariance = params.mean[None], params.covariance
    names = files.NPZ_KEYS
    for index, (message, pair) in enumerate(
        {
            "has no cov_pris_param": (mean, None),
            r"mu_pris_param is \(36,\), not \(1, 36\)": (mean[0], covariance),
            r"cov_pris_param is \(35, 36\), not \(36, 36\)": (mean, covariance[:35]),
            "mu_pris_param is no array of numbers": (mean.astype(str), covariance),
            "mu_pris_param has values that are not finite": (mean * np.nan, covariance),
            "not symmetric and positive": (mean, np.triu(covariance)),
            " is not symmetric and positive": (mean, -covariance),
            "cannot be read": (mean.astype(object), covariance),
        }.items()
    ):
        path = tmp_path / f"{index}.npz"
        np.savez(path, **{k: v for k, v in zip(names, pair, strict=True) if v is not None})
        assert_refused(path, message)

    files.save(tmp_path / "whole", params)
    whole = (tmp_path / "whole").read_bytes()
    scipy.io.savemat(tmp_path / "other.mat", {"pop_mu": mean})
    scipy.io.savemat(tmp_path / "sparse.mat", {"mu_prisparam": scipy.sparse.csc_matrix(mean)})
    contents = {"empty": b"", "half": whole[: len(whole) // 2], "text": b"no parameters" * 99}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert_refused(tmp_path / name, "cannot be read")
    assert_refused(tmp_path / "other.mat", "has no mu_prisparam")
    assert_refused(tmp_path / "sparse.mat", "mu_prisparam is no array of numbers")
    assert_refused(tmp_path / "missing.npz", "no such file")
    assert_refused(tmp_path, "cannot be read")


def assert_refused(path, message: str) -> None:
    """One line that names the file and says what to do."""
    with pytest.raises(UserError, match=message) as refusal:
        files.load(path)
    text = str(refusal.value)
    assert text.startswith(str(path))
    assert "modelparameters.mat" in text
    assert "\n" not in text


def test_a_folder_that_is_not_there_is_said_in_a_line(tmp_path, params):
    with pytest.raises(UserError, match=r"none/params.npz: cannot be written \(.*No such file"):
        files.save(tmp_path / "none" / "params.npz", params)
    (tmp_path / "taken.npz").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        files.save(tmp_path / "taken.npz", params)
    assert [each.name for each in tmp_path.iterdir()] == ["taken.npz"]
