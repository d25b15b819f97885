"""From HR crops to training pairs, on the device: flips and turns, then the LR image."""

import dataclasses
import functools
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from srgan_jax import ranges, resample
from srgan_jax.data import jpeg


class Batch(NamedTuple):
    """Crops as read, and what is to be done with each; on the host or a device."""

    crops: jax.Array | np.ndarray  # uint8 [B, S, S, 3]
    codes: jax.Array | np.ndarray  # int32 [B]: flips and turns, see `dihedral`
    seeds: jax.Array | np.ndarray  # uint32 [B]: of the randomness in the degradation
    lr_crops: jax.Array | np.ndarray | None = None  # uint8 [B, S/s, S/s, 3], where they were given


Range = tuple[float, float]  # lowest and highest

SHRINKING = ("bicubic", "gaussian")
OPERATIONS = ("blur", *SHRINKING, "noise", "jpeg")


@dataclasses.dataclass(frozen=True)
class Degradation:
    """How LR images are made from HR: what was done to them, in order. Static under jit.

    Attributes:
      scale: HR over LR size.
      operations: of `OPERATIONS`, one of `SHRINKING` among them. "bicubic" is MATLAB's
        `imresize`, which made the benchmarks' LR images; "gaussian" blur and subsampling, the
        paper's text and the report; "blur", "noise" and "jpeg" leave the size as it is.
      blur_sigma: of "blur" and "gaussian", in pixels of the image at that point. Neither
        the paper nor the report states it.
      noise_sigma: of "noise", Gaussian, independent for each value, in levels of 255.
      jpeg_quality: of "jpeg", from 1 to 100.

    A range whose ends differ is drawn from uniformly, once for each image.
    """

    scale: int = 4
    operations: tuple[str, ...] = ("bicubic",)
    blur_sigma: Range = (1.6, 1.6)
    noise_sigma: Range = (0.0, 10.0)
    jpeg_quality: tuple[int, int] = (50, 95)


def degrade(how: Degradation, hr: jax.Array, seed: jax.Array | int) -> jax.Array:
    """HR pixels [H, W, 3] in 0..255 to LR pixels [H/s, W/s, 3], float32.

    Each operation leaves whole levels, as an image file would have them. `seed`, uint32, is that
    of all randomness: an image's LR does not depend on those around it.
    """
    image = hr.astype(jnp.float32)
    for place, operation in enumerate(how.operations):
        key = jax.random.fold_in(jax.random.key(seed), place)
        image = _OPERATIONS[operation](how, image, key)
    return image


def _bicubic(how: Degradation, image: jax.Array, key: jax.Array) -> jax.Array:
    return resample.bicubic(image, Fraction(1, how.scale), quantise=True)


def _gaussian(how: Degradation, image: jax.Array, key: jax.Array) -> jax.Array:
    return _blurred(how, image, key, how.scale)


def _blur(how: Degradation, image: jax.Array, key: jax.Array) -> jax.Array:
    return _blurred(how, image, key, 1)


def _blurred(how: Degradation, image: jax.Array, key: jax.Array, factor: int) -> jax.Array:
    sigma, highest = _drawn(key, how.blur_sigma), how.blur_sigma[1]
    return resample.gaussian_downsample(image, factor, sigma, highest=highest, quantise=True)


def _noise(how: Degradation, image: jax.Array, key: jax.Array) -> jax.Array:
    sigma_key, noise_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, image.shape)
    return ranges.round_pixels(image + _drawn(sigma_key, how.noise_sigma) * noise)


def _jpeg(how: Degradation, image: jax.Array, key: jax.Array) -> jax.Array:
    lowest, highest = how.jpeg_quality
    return jpeg.compress(image, jax.random.randint(key, (), lowest, highest + 1))


_OPERATIONS = dict(zip(OPERATIONS, (_blur, _bicubic, _gaussian, _noise, _jpeg), strict=True))


def _drawn(key: jax.Array, ends: Range) -> jax.Array | float:
    lowest, highest = ends
    if lowest == highest:
        return lowest
    return jax.random.uniform(key, minval=lowest, maxval=highest)


def dihedral(image: jax.Array, code: jax.Array) -> jax.Array:
    """One of the eight flips and quarter turns of a square image [S, S, C].

    Bit 0 of `code` flips left-right, bit 1 upside down, bit 2 transposes.
    """
    image = jnp.where(code & 1 > 0, image[:, ::-1], image)
    image = jnp.where(code & 2 > 0, image[::-1], image)
    return jnp.where(code & 4 > 0, image.swapaxes(0, 1), image)


def training_pairs(how: Degradation, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Crops as read to what the networks take.

    Returns: LR [B, S/s, S/s, 3] in [0, 1], that was given or made from HR, and HR [B, S, S, 3]
      in [-1, 1], both float32, flipped and turned alike.
    """
    codes = jnp.asarray(batch.codes)
    hr = jax.vmap(dihedral)(jnp.asarray(batch.crops), codes)
    if batch.lr_crops is None:
        lr_image = jax.vmap(functools.partial(degrade, how))(hr, jnp.asarray(batch.seeds))
    else:
        lr_image = jax.vmap(dihedral)(jnp.asarray(batch.lr_crops), codes)
    return ranges.pixels_to_unit(lr_image), ranges.pixels_to_signed(hr)
