"""SSIM and luma of the daala video codec's tools, which the paper measured with (section 3.1).

After `dump_ssim` and `png2y4m` of the daala project, without the latter's dither.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from srgan_jax.metrics.ssim import factors, filter_separable, moments

UNIT = 256  # what taps are rounded to parts of


def luma_bt709(pixels: jax.Array) -> jax.Array:
    """Y of BT.709, 16..235, in whole levels, from RGB [H, W, 3] of whole levels: [H, W, 1] float32.

    16 + 219 / 255 * (1063 R + 3576 G + 361 B) / 5000 in integers, rounded half up.
    """
    weighted = jnp.sum(pixels.astype(jnp.int32) * jnp.array([[[1063, 3576, 361]]]), axis=-1)
    divisor = 5000 * 255
    return 16.0 + ((219 * weighted + divisor // 2) // divisor)[..., None].astype(jnp.float32)


def gaussian_taps(sigma: float, longest: int) -> np.ndarray:
    """A Gaussian in whole parts of 1/256, int64 [2 n + 1], which sum to 256.

    It ends where a tap would be less than half a part; n is below `longest`.
    """
    least = math.sqrt(0.5 * math.pi) * sigma / UNIT
    reach = 0 if least >= 1 else math.floor(sigma * math.sqrt(-2 * math.log(least)))
    distances = np.arange(1, min(reach, longest - 1) + 1)
    density = np.exp(-0.5 * (distances / sigma) ** 2) / (math.sqrt(2 * math.pi) * sigma)
    side = np.floor(UNIT * density + 0.5).astype(np.int64)
    return np.concatenate([side[::-1], [UNIT - 2 * side.sum()], side])


def ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    """Mean SSIM of two images [H, W, C] in 0..255, as the paper prints it.

    The window's sigma grows with the picture, H * 1.5 / 256. It is placed on every pixel, cut off
    at the borders; each position counts by what is left of the window. Any size will do.
    """
    height, width = a.shape[:2]
    taps = gaussian_taps(height * 1.5 / 256, min(height, width))
    reach = len(taps) // 2
    inside = [np.convolve(np.ones(size), taps)[reach : reach + size] for size in (height, width)]
    weight = jnp.asarray(np.outer(*inside)[..., None], jnp.float32)
    means = filter_separable(moments(a, b), taps, taps, "same") / weight
    luminance, structure = factors(means)
    shares = (jnp.asarray(sums / sums.sum(), jnp.float32) for sums in inside)
    # What is missing to 1, so that equal images lose nothing to rounding.
    missing = 1.0 - luminance * structure
    highest = jax.lax.Precision.HIGHEST
    return 1.0 - jnp.mean(jnp.einsum("hwc,h,w->c", missing, *shares, precision=highest))
