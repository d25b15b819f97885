"""What exactly is compared when a paper says "PSNR": channel and border (method.md, Evaluation)."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from srgan_jax.metrics import daala, ms_ssim, ssim
from srgan_jax.metrics.psnr import mse, psnr

Metric = Callable[[jax.Array, jax.Array], jax.Array]  # of two images [H, W, C] in 0..255


def luma_bt601(pixels: jax.Array) -> jax.Array:
    """Y of BT.601, 16..235, from RGB [H, W, 3] in 0..255: [H, W, 1] float32, not rounded."""
    weights = jnp.array([65.481, 128.553, 24.966]) / 255.0
    y = jnp.einsum("hwc,c->hw", pixels, weights, precision=jax.lax.Precision.HIGHEST)
    return 16.0 + y[..., None]


class Convention(NamedTuple):
    """A way to measure: what is told of it, the channels compared, the border, the metrics."""

    description: str
    channels: Callable[[jax.Array], jax.Array]
    cropped: bool
    metrics: dict[str, Metric]


_WANG: dict[str, Metric] = {
    "mse": mse,
    "psnr": psnr,
    "ssim": ssim.ssim,
    "ms_ssim": ms_ssim.ms_ssim,
}

CONVENTIONS = {
    "paper": Convention(
        "Y of BT.709 in whole levels, border of `scale` pixels cropped, SSIM of daala; the paper's",
        daala.luma_bt709,
        True,
        {"mse": mse, "psnr": psnr, "ssim": daala.ssim},
    ),
    "modern": Convention(
        "Y of BT.601, border of `scale` pixels cropped; as RCAN, SwinIR, BasicSR print it",
        luma_bt601,
        True,
        _WANG,
    ),
    "rgb": Convention(
        "RGB, border of `scale` pixels cropped; BasicSR's and mmagic's SRGAN rows",
        lambda pixels: pixels,
        True,
        _WANG,
    ),
    "full": Convention(
        "RGB, nothing cropped; the report's table", lambda pixels: pixels, False, _WANG
    ),
}

METRICS = ("mse", "psnr", "ssim")  # what is measured unless more is asked for

# Sides of the smallest image that a metric takes; 1 for the others.
_SMALLEST: dict[Metric, int] = {ssim.ssim: ssim.WINDOW, ms_ssim.ms_ssim: ms_ssim.SMALLEST}


def prepare(convention: str, pixels: jax.Array, border: int) -> jax.Array:
    """RGB [H, W, 3] in 0..255 as its convention compares it: [H', W', C] float32."""
    _, channels, cropped, _ = CONVENTIONS[convention]
    if cropped and border:
        pixels = pixels[border:-border, border:-border]
    return channels(pixels.astype(jnp.float32))


@functools.partial(jax.jit, static_argnames=("border", "conventions", "metrics"))
def measure(
    sr: jax.Array,
    hr: jax.Array,
    *,
    border: int,
    conventions: tuple[str, ...] = tuple(CONVENTIONS),
    metrics: tuple[str, ...] = METRICS,
) -> dict[str, dict[str, jax.Array]]:
    """Metrics of SR against HR, uint8 [N, H, W, 3], in several conventions.

    `border` is the scale, 4 for x4. A metric is left out where its convention has none of that
    name, or the image is too small for it.

    Returns: {convention: {metric: [N]}}.
    """

    def of_one(sr: jax.Array, hr: jax.Array) -> dict[str, dict[str, jax.Array]]:
        results = {}
        for name in conventions:
            a, b = prepare(name, sr, border), prepare(name, hr, border)
            known = CONVENTIONS[name].metrics
            results[name] = {
                metric: known[metric](a, b)
                for metric in metrics
                if metric in known and min(a.shape[:2]) >= _SMALLEST.get(known[metric], 1)
            }
        return results

    return jax.vmap(of_one)(sr, hr)
