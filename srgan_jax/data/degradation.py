"""From HR crops to training pairs, on the device: flips and turns, then the LR image."""

import dataclasses
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from srgan_jax import ranges, resample


class Batch(NamedTuple):
    """Crops as read, and how each is to be flipped and turned; on the host or a device."""

    crops: jax.Array | np.ndarray  # uint8 [B, S, S, 3]
    codes: jax.Array | np.ndarray  # int32 [B]


@dataclasses.dataclass(frozen=True)
class Degradation:
    """How LR images are made from HR.

    Attributes:
      scale: HR over LR size.
      kind: "bicubic", MATLAB's `imresize`, which made the benchmarks' LR images; or "gaussian",
        blur and subsampling, the paper's text and the report.
      blur_sigma: of "gaussian", in HR pixels. Neither source states it.
    """

    scale: int = 4
    kind: str = "bicubic"
    blur_sigma: float = 1.6


def degrade(degradation: Degradation, hr: jax.Array) -> jax.Array:
    """HR pixels [..., H, W, 3] in 0..255 to LR pixels [..., H/s, W/s, 3], whole levels, float32."""
    if degradation.kind == "bicubic":
        return resample.bicubic(hr, Fraction(1, degradation.scale), quantise=True)
    if degradation.kind == "gaussian":
        return resample.gaussian_downsample(
            hr, degradation.scale, degradation.blur_sigma, quantise=True
        )
    raise ValueError(f"unknown degradation {degradation.kind!r}")


def dihedral(image: jax.Array, code: jax.Array) -> jax.Array:
    """One of the eight flips and quarter turns of a square image [S, S, C].

    Bit 0 of `code` flips left-right, bit 1 upside down, bit 2 transposes.
    """
    image = jnp.where(code & 1 > 0, image[:, ::-1], image)
    image = jnp.where(code & 2 > 0, image[::-1], image)
    return jnp.where(code & 4 > 0, image.swapaxes(0, 1), image)


def training_pairs(
    degradation: Degradation, crops: jax.Array, codes: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Crops as read to what the networks take.

    Args:
      degradation: how the LR images are made.
      crops: uint8 [B, S, S, 3].
      codes: int32 [B], see `dihedral`.

    Returns: LR [B, S/s, S/s, 3] in [0, 1], and HR [B, S, S, 3] in [-1, 1], both float32.
    """
    hr = jax.vmap(dihedral)(crops, codes)
    return ranges.pixels_to_unit(degrade(degradation, hr)), ranges.pixels_to_signed(hr)
