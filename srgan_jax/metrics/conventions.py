"""What exactly is compared when a paper says "PSNR": channel and border (method.md, Evaluation)."""

import functools

import jax
import jax.numpy as jnp

from srgan_jax.metrics.psnr import mse, psnr
from srgan_jax.metrics.ssim import ssim

CONVENTIONS = {
    "modern": "Y of BT.601, border of `scale` pixels cropped; as RCAN, SwinIR, BasicSR print it",
    "rgb": "RGB, border of `scale` pixels cropped; BasicSR's and mmagic's SRGAN rows",
    "full": "RGB, nothing cropped; the report's table",
}

METRICS = {"mse": mse, "psnr": psnr, "ssim": ssim}


def luma_bt601(pixels: jax.Array) -> jax.Array:
    """Y of BT.601, 16..235, from RGB [H, W, 3] in 0..255: [H, W, 1] float32, not rounded."""
    weights = jnp.array([65.481, 128.553, 24.966]) / 255.0
    y = jnp.einsum("hwc,c->hw", pixels, weights, precision=jax.lax.Precision.HIGHEST)
    return 16.0 + y[..., None]


def prepare(convention: str, pixels: jax.Array, border: int) -> jax.Array:
    """An image [H, W, 3] in 0..255 as its convention compares it."""
    pixels = pixels.astype(jnp.float32)
    if convention == "full":
        return pixels
    pixels = pixels[border:-border, border:-border]
    return luma_bt601(pixels) if convention == "modern" else pixels


@functools.partial(jax.jit, static_argnames="border")
def measure(sr: jax.Array, hr: jax.Array, *, border: int) -> dict[str, dict[str, jax.Array]]:
    """Every metric of SR against HR, uint8 [H, W, 3], in every convention.

    Returns: {convention: {metric: scalar}}; `border` is the scale, 4 for x4.
    """
    results = {}
    for convention in CONVENTIONS:
        a, b = prepare(convention, sr, border), prepare(convention, hr, border)
        results[convention] = {name: metric(a, b) for name, metric in METRICS.items()}
    return results
