"""Multi-scale structural similarity of Wang, Simoncelli and Bovik (2003)."""

import jax
import jax.numpy as jnp

from srgan_jax.metrics import ssim

# Exponents of the scales from fine to coarse (section 3.2).
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)

# At the coarsest of five scales, each half the one before rounded up, the window must fit.
SMALLEST = (ssim.WINDOW - 1) * 2 ** (len(WEIGHTS) - 1) + 1


def ms_ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    """MS-SSIM of two images [H, W, C] in 0..255, the mean over channels (equation 7).

    Contrast and structure at every scale, luminance at the coarsest. A negative mean, which has
    no such power, counts as 0. Raises: ValueError where the picture is too small.
    """
    if min(a.shape[:2]) < SMALLEST:
        raise ValueError(f"MS-SSIM needs at least {SMALLEST}x{SMALLEST} pixels, not {a.shape[:2]}")
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    result = jnp.ones(a.shape[-1])
    for scale, weight in enumerate(WEIGHTS):
        luminance, structure = ssim.compare(a, b)
        if scale == len(WEIGHTS) - 1:
            structure *= luminance
        result *= jnp.maximum(structure.mean(axis=(0, 1)), 0.0) ** weight
        a, b = halve(a), halve(b)
    return result.mean()


def halve(image: jax.Array) -> jax.Array:
    """Means of 2x2 pixels [H, W, C], an odd last row or column being repeated."""
    height, width, channels = image.shape
    image = jnp.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return image.reshape(-(-height // 2), 2, -(-width // 2), 2, channels).mean(axis=(1, 3))
