"""Structural similarity of Wang et al. (2004), as MATLAB's reference code and BasicSR have it.

11x11 Gaussian window of sigma 1.5, only positions where it lies inside the image, K1 = 0.01,
K2 = 0.03, on levels 0..255.
"""

import jax
import jax.numpy as jnp
import numpy as np

WINDOW = 11
SIGMA = 1.5
C1 = (0.01 * 255) ** 2
C2 = (0.03 * 255) ** 2

_BLOCK = 64  # rows filtered at once


def ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    """Mean SSIM of two images [H, W, C] in 0..255, over positions and channels.

    Raises: ValueError where the window does not fit.
    """
    luminance, structure = compare(a, b)
    return jnp.mean(jnp.mean(luminance * structure, axis=(1, 2)))  # by rows, as in mse


def compare(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The two factors of SSIM at each position, [H - 10, W - 10, C]: luminance, and contrast
    with structure (equations 6 and, with C3 = C2 / 2, the product of 9 and 10)."""
    if min(a.shape[:2]) < WINDOW:
        raise ValueError(f"SSIM needs at least {WINDOW}x{WINDOW} pixels, not {a.shape[:2]}")
    taps = np.exp(-0.5 * (np.arange(WINDOW) - WINDOW // 2) ** 2 / SIGMA**2)
    taps /= taps.sum()
    return factors(filter_separable(moments(a, b), taps, taps))


def moments(a: jax.Array, b: jax.Array) -> jax.Array:
    """What a window averages, [H, W, 4 C]: b, a - b, their product, and the square of a - b.

    All of levels - 128: variances don't change with an offset, and around 0 the float32 products
    keep their digits.
    """
    a, b = a.astype(jnp.float32) - 128.0, b.astype(jnp.float32) - 128.0
    return jnp.concatenate([b, a - b, a * b, jnp.square(a - b)], axis=-1)


def factors(means: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Luminance, and contrast with structure, [H, W, C], from windowed means of `moments`.

    With d = a - b, 2 cov(a, b) = var(a) + var(b) - var(d): written so, equal images give exactly
    1, and what float32 leaves unsure in the covariance of flat areas cancels.
    """
    mean_b, mean_d, product, square_d = jnp.split(means, 4, axis=-1)
    mean_a = mean_b + mean_d
    covariance = product - mean_a * mean_b
    variance_d = square_d - jnp.square(mean_d)
    twice_means = 2 * (mean_a + 128.0) * (mean_b + 128.0) + C1
    luminance = twice_means / (twice_means + jnp.square(mean_d))
    twice_covariance = 2 * covariance + C2
    return luminance, twice_covariance / (twice_covariance + variance_d)


def filter_separable(
    image: jax.Array, rows: np.ndarray, columns: np.ndarray, padding: str = "valid"
) -> jax.Array:
    """[H, W, C] filtered with taps for the height and taps for the width, odd in number.

    `padding`: "valid", where all taps lie inside, or "same", zeros beyond the border.
    """
    if padding == "same":
        beyond = [(len(taps) // 2, len(taps) // 2) for taps in (rows, columns)]
        image = jnp.pad(image, (*beyond, (0, 0)))
    filtered = _filter_rows(image, rows)
    return _filter_rows(filtered.swapaxes(0, 1), columns).swapaxes(0, 1)


def _filter_rows(image: jax.Array, taps: np.ndarray) -> jax.Array:
    """[H, W, C] to [H - len(taps) + 1, W, C].

    As products of overlapping blocks of rows with one band matrix: a convolution of so few
    channels takes six times as long on a CPU.
    """
    size = image.shape[0] - len(taps) + 1
    blocks = -(-size // _BLOCK)
    reach = _BLOCK + len(taps) - 1
    band = sum(tap * np.eye(_BLOCK, reach, offset) for offset, tap in enumerate(taps))
    missing = blocks * _BLOCK + len(taps) - 1 - image.shape[0]
    padded = jnp.pad(image, ((0, missing), (0, 0), (0, 0)))
    windows = padded[_BLOCK * np.arange(blocks)[:, None] + np.arange(reach)]
    filtered = jnp.einsum(
        "oi,biwc->bowc",
        jnp.asarray(band, jnp.float32),
        windows,
        precision=jax.lax.Precision.HIGHEST,
    )
    return filtered.reshape(-1, *image.shape[1:])[:size]
