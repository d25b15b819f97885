"""What JPEG does to a picture, step by step as libjpeg, on the device and with any quality.

Colour conversion and the resampling of chroma are libjpeg's own integer arithmetic. Its DCT of
integers is here one of float32, which rarely rounds to another level. The entropy coding, which
loses nothing, is left out.
"""

import jax
import jax.numpy as jnp
import numpy as np

from srgan_jax import ranges

# The standard's example tables (ITU-T T.81, Annex K.1), of quality 50.
LUMA_TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.int32,
)
CHROMA_TABLE = np.full((8, 8), 99, np.int32)
CHROMA_TABLE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]


def _dct() -> np.ndarray:
    """The orthonormal DCT of a block, rows of 8 pixels one after the other: float64 [64, 64]."""
    frequency, place = np.mgrid[:8, :8]
    line = np.cos((2 * place + 1) * frequency * np.pi / 16) / 2
    line[0] /= np.sqrt(2)
    return np.kron(line, line)


DCT = _dct()


def compress(image: jax.Array, quality: int | jax.Array) -> jax.Array:
    """A picture as it comes back from a JPEG file with chroma halved (4:2:0, the usual).

    Args:
      image: [H, W, 3], whole levels in 0..255.
      quality: libjpeg's, 1 to 100, a number or an int32 scalar.

    Returns: float32 [H, W, 3], whole levels in 0..255.
    """
    height, width = image.shape[:2]
    luma, *chroma = _to_ycc(image.astype(jnp.int32))
    planes = [_code(_pad(luma, -height % 8, -width % 8), LUMA_TABLE, quality)[:height, :width]]
    for plane in chroma:
        # As libjpeg: the last column is repeated before halving, the last row after it.
        half = _halve(_pad(plane, -height % 2, -width % 16))
        coded = _code(_pad(half, -half.shape[0] % 8, 0), CHROMA_TABLE, quality)
        coded = coded[: (height + 1) // 2, : (width + 1) // 2]
        # Chroma this narrow libjpeg does not interpolate.
        whole = _double(coded) if coded.shape[1] > 2 else coded.repeat(2, 0).repeat(2, 1)
        planes.append(whole[:height, :width])
    return _to_rgb(*planes)


def quantisation(table: np.ndarray, quality: int | jax.Array) -> jax.Array:
    """A table of quality 50 as libjpeg scales it: int32 [8, 8] in 1..255."""
    quality = jnp.asarray(quality, jnp.int32)
    percent = jnp.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return jnp.clip((jnp.asarray(table) * percent + 50) // 100, 1, 255)


def _code(plane: jax.Array, table: np.ndarray, quality: int | jax.Array) -> jax.Array:
    """int32 [H, W] in 0..255, of whole blocks, through the DCT, quantised, and back."""
    height, width = plane.shape
    dct = jnp.asarray(DCT, jnp.float32)
    steps = quantisation(table, quality).reshape(1, 64).astype(jnp.float32)
    blocks = plane.reshape(height // 8, 8, width // 8, 8).swapaxes(1, 2).reshape(-1, 64)
    # Known to eighths, as libjpeg's, and halves away from zero: DC and its like often are halves.
    coefficients = jnp.floor(_product(8.0 * blocks.astype(jnp.float32) - 1024.0, dct.T) + 0.5) / 8.0
    levels = jnp.sign(coefficients) * jnp.floor(jnp.abs(coefficients) / steps + 0.5)
    pixels = ranges.round_pixels(_product(levels * steps, dct) + 128.0)
    blocks = pixels.astype(jnp.int32).reshape(height // 8, width // 8, 8, 8)
    return blocks.swapaxes(1, 2).reshape(height, width)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """In full float32 on every device."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _fixed(number: float) -> int:
    """With 16 bits after the point."""
    return round(number * 65536)


def _to_ycc(rgb: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """int32 [H, W, 3] to luma and chroma (JFIF), int32 [H, W] in 0..255 each."""
    red, green, blue = (rgb[..., i] for i in range(3))
    half, middle = 1 << 15, 128 << 16
    luma = _fixed(0.299) * red + _fixed(0.587) * green + _fixed(0.114) * blue + half
    cb = -_fixed(0.16874) * red - _fixed(0.33126) * green + (blue << 15) + middle + half - 1
    cr = (red << 15) - _fixed(0.41869) * green - _fixed(0.08131) * blue + middle + half - 1
    return luma >> 16, cb >> 16, cr >> 16


def _to_rgb(luma: jax.Array, cb: jax.Array, cr: jax.Array) -> jax.Array:
    """`_to_ycc` backwards: float32 [H, W, 3] in 0..255."""
    cb, cr, half = cb - 128, cr - 128, 1 << 15
    red = luma + ((_fixed(1.402) * cr + half) >> 16)
    green = luma + ((-_fixed(0.34414) * cb - _fixed(0.71414) * cr + half) >> 16)
    blue = luma + ((_fixed(1.772) * cb + half) >> 16)
    return jnp.clip(jnp.stack([red, green, blue], -1), 0, 255).astype(jnp.float32)


def _pad(plane: jax.Array, below: int, right: int) -> jax.Array:
    return jnp.pad(plane, ((0, below), (0, right)), mode="edge")


def _halve(plane: jax.Array) -> jax.Array:
    """The mean of each 2x2 pixels; halves go down and up in turn, from column to column."""
    height, width = plane.shape
    sums = plane.reshape(height // 2, 2, width // 2, 2).sum(axis=(1, 3))
    bias = jnp.arange(width // 2, dtype=jnp.int32) % 2 + 1
    return (sums + bias[None]) >> 2


def _double(plane: jax.Array) -> jax.Array:
    """Linear interpolation, 3/4 of the nearer and 1/4 of the further pixel in each direction."""
    height, width = plane.shape
    padded = jnp.pad(plane, 1, mode="edge")
    near = 3 * padded[1:-1]
    rows = jnp.stack([near + padded[:-2], near + padded[2:]], 1).reshape(2 * height, width + 2)
    near = 3 * rows[:, 1:-1]
    left, right = (near + rows[:, :-2] + 8) >> 4, (near + rows[:, 2:] + 7) >> 4
    return jnp.stack([left, right], 2).reshape(2 * height, 2 * width)
