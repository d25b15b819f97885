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


def ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    """Mean SSIM of two images [H, W, C] in 0..255, over positions and channels.

    Raises: ValueError where the window does not fit.
    """
    if min(a.shape[:2]) < WINDOW:
        raise ValueError(f"SSIM needs at least {WINDOW}x{WINDOW} pixels, not {a.shape[:2]}")
    taps = np.exp(-0.5 * (np.arange(WINDOW) - WINDOW // 2) ** 2 / SIGMA**2)
    taps /= taps.sum()

    # Variances don't change with an offset, and around 0 the float32 squares keep their digits.
    a = a.astype(jnp.float32) - 128.0
    b = b.astype(jnp.float32) - 128.0
    mean_a, mean_b, square_a, square_b, product = _windowed_means(
        jnp.stack([a, b, a * a, b * b, a * b]), taps
    )
    variance_a = square_a - mean_a**2
    variance_b = square_b - mean_b**2
    covariance = product - mean_a * mean_b
    mean_a, mean_b = mean_a + 128.0, mean_b + 128.0
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    structure = (2 * covariance + C2) / (variance_a + variance_b + C2)
    return jnp.mean(luminance * structure)


def _windowed_means(images: jax.Array, taps: np.ndarray) -> jax.Array:
    """[N, H, W, C] weighted by the separable window, wherever it fits."""
    maps = images.transpose(0, 3, 1, 2).reshape(-1, 1, *images.shape[1:3])
    for shape in ((1, 1, -1, 1), (1, 1, 1, -1)):
        kernel = jnp.asarray(taps.reshape(shape), jnp.float32)
        maps = jax.lax.conv(maps, kernel, (1, 1), "VALID", precision=jax.lax.Precision.HIGHEST)
    return maps.reshape(len(images), -1, *maps.shape[2:]).transpose(0, 2, 3, 1)
