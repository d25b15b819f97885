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

    def blur(x: jax.Array) -> jax.Array:
        rows = x.shape[0] - WINDOW + 1
        columns = x.shape[1] - WINDOW + 1
        x = sum((float(w) * x[i : i + rows] for i, w in enumerate(taps)), jnp.zeros(()))
        return sum((float(w) * x[:, i : i + columns] for i, w in enumerate(taps)), jnp.zeros(()))

    # Variances don't change with an offset, and around 0 the float32 squares keep their digits.
    a = a.astype(jnp.float32) - 128.0
    b = b.astype(jnp.float32) - 128.0
    mean_a, mean_b = blur(a), blur(b)
    variance_a = blur(a * a) - mean_a**2
    variance_b = blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    mean_a, mean_b = mean_a + 128.0, mean_b + 128.0
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    structure = (2 * covariance + C2) / (variance_a + variance_b + C2)
    return jnp.mean(luminance * structure)
