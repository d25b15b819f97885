"""The comparison picture."""

import numpy as np
import pytest

from srgan_jax.evaluate import panel


@pytest.mark.parametrize(("height", "width"), [(512, 512), (200, 300), (300, 200), (64, 80)])
def test_size_and_contents(noise, height, width):
    hr = noise(height, width)
    black = np.zeros_like(hr)
    columns = {
        "LR": (noise(height // 4, width // 4), f"{width // 4}x{height // 4}"),
        "black": (black, "0 dB"),
        "HR": (hr, ""),
    }
    result = panel.draw(columns, hr, panel.detail_of(hr))
    column, whole = panel.COLUMN, round(panel.COLUMN * height / width)
    assert result.dtype == np.uint8
    assert result.shape == (
        panel.CAPTION + whole + panel.GAP + column, 3 * column + 2 * panel.GAP, 3
    )  # fmt: skip

    detail = result[-column:]
    left, middle, right = (slice(i * (column + panel.GAP), None) for i in range(3))
    assert not detail[:, middle][:, :column].any()
    assert (detail[:, column : column + panel.GAP] == 255).all()
    assert detail[:, left][:, :column].std() > 20
    assert detail[:, right].std() > 20
    for i in range(3):  # every column has a title, and a frame where the detail is
        x = i * (column + panel.GAP)
        assert result[:20, x : x + column].min() < 128
        frame = result[panel.CAPTION : panel.CAPTION + whole, x : x + column] == [255, 255, 0]
        assert frame.all(-1).any()


@pytest.mark.parametrize(("height", "width"), [(2000, 4), (4, 2000)])
def test_extreme_shapes_stay_small(noise, height, width):
    hr = noise(height, width)
    result = panel.draw({"SR": (hr, ""), "HR": (hr, "")}, hr, panel.detail_of(hr))
    assert max(result.shape) <= panel.TALLEST + 2 * panel.COLUMN


def test_the_detail_is_the_same_place_of_lr_and_hr():
    """LR is enlarged without filter, so that its pixels are seen."""
    hr = np.zeros((192, 256, 3), np.uint8)
    coarse = np.random.default_rng(0).integers(1, 256, (24, 24, 3), np.uint8)
    hr[:96, 128:224] = coarse.repeat(4, axis=0).repeat(4, axis=1)
    lr_image = hr[::4, ::4]
    result = panel.draw({"LR": (lr_image, ""), "HR": (hr, "")}, hr, panel.detail_of(hr))
    detail = result[-panel.COLUMN :]
    lr_detail, hr_detail = detail[:, : panel.COLUMN], detail[:, -panel.COLUMN :]
    np.testing.assert_array_equal(lr_detail, hr_detail)
    top, left = panel.best_square(panel.detail_of(hr), 96)
    chosen = hr[top : top + 96, left : left + 96]
    np.testing.assert_array_equal(hr_detail, chosen.repeat(4, axis=0).repeat(4, axis=1))
    assert chosen.any(-1).mean() > 0.9


def test_the_busiest_square_is_found_by_hand():
    image = np.full((40, 60, 3), 9, np.uint8)
    image[25:33, 41:49] = np.random.default_rng(0).integers(0, 256, (8, 8, 3))
    top, left = panel.best_square(panel.detail_of(image), 10)
    assert top <= 25 <= 33 <= top + 10
    assert left <= 41 <= 49 <= left + 10

    noise = np.random.default_rng(1).integers(0, 256, (14, 17, 3)).astype(np.uint8)
    luma = noise.astype(float).mean(2)
    down = np.vstack([np.zeros((1, 17)), np.diff(luma, axis=0)])
    across = np.hstack([np.zeros((14, 1)), np.diff(luma, axis=1)])
    energy = np.hypot(down, across)
    sums = {(y, x): energy[y : y + 5, x : x + 5].sum() for y in range(10) for x in range(13)}
    assert panel.best_square(panel.detail_of(noise), 5) == max(sums, key=sums.get)
    assert panel.best_square(panel.detail_of(noise[:, :14]), 14) == (0, 0)
