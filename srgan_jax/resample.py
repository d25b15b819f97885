"""Resampling as MATLAB's `imresize` does it, and Gaussian blur with subsampling.

Both are separable linear filters, so each is one matrix for the rows and one for the
columns. MATLAB's are made in float64 on the host from static sizes; the Gaussian's on the device,
where its width may differ from picture to picture, and so do the products run. Borders mirror
with the edge pixel repeated, which is folded into the matrices.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

from srgan_jax import ranges

Kernel = Callable[[np.ndarray], np.ndarray]


CUBIC_A = -0.5  # MATLAB's choice of Keys' parameter
TAPS_REACH = 4.0  # of the Gaussian, in sigmas, as SciPy's `gaussian_filter`


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with a = `CUBIC_A`, support [-2, 2]."""
    x = np.abs(x)
    a = CUBIC_A
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def triangle(x: np.ndarray) -> np.ndarray:
    """Linear interpolation's kernel, support [-1, 1]."""
    return np.maximum(1.0 - np.abs(x), 0.0)


def lanczos3(x: np.ndarray) -> np.ndarray:
    """Lanczos' windowed sinc of three lobes, support [-3, 3]."""
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


def _taps(
    in_size: int, out_size: int, scale: Fraction, kernel: Kernel, support: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which input samples make up an output sample, and their normalised weights: [out_size, taps].

    Output sample i lies over the input coordinate (i + 0.5) / scale - 0.5, so that the
    centres of the first and last pixels keep their places. `kernel` is a function of the
    distance in input pixels, cut off beyond `support`. Weights are float64.
    """
    centers = (np.arange(out_size) + 0.5) / float(scale) - 0.5
    taps = math.ceil(2 * support) + 2
    indices = np.floor(centers - support).astype(np.int64)[:, None] + np.arange(taps)
    distances = centers[:, None] - indices
    weights = np.where(np.abs(distances) <= support, kernel(distances), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    period = np.concatenate([np.arange(in_size), np.arange(in_size)[::-1]])
    return period[indices % (2 * in_size)], weights


def imresize_taps(
    in_size: int, scale: Fraction, kernel: Kernel, support: float
) -> tuple[np.ndarray, np.ndarray]:
    """One axis of MATLAB's `imresize`, as `_taps` gives it, for ceil(in_size * scale) samples.

    When shrinking, the kernel is widened by 1 / scale (MATLAB's antialiasing).
    """
    shrink = min(float(scale), 1.0)
    out_size = math.ceil(in_size * scale)
    return _taps(in_size, out_size, scale, lambda x: shrink * kernel(shrink * x), support / shrink)


@functools.lru_cache(maxsize=256)
def imresize_matrix(in_size: int, scale: Fraction, kernel: Kernel, support: float) -> np.ndarray:
    """One axis of MATLAB's `imresize`: float64 [ceil(in_size * scale), in_size]."""
    indices, weights = imresize_taps(in_size, scale, kernel, support)
    matrix = np.zeros((len(weights), in_size))
    np.add.at(matrix, (np.arange(len(weights))[:, None], indices), weights)
    return matrix


def gaussian_matrix(
    in_size: int, factor: int, sigma: float | jax.Array, highest: float
) -> jax.Array:
    """One axis of Gaussian blur followed by taking one sample in `factor`.

    The samples lie at the centres of the blocks of `factor` pixels, as in bicubic shrinking, so
    that enlarging leaves no shift. Taps reach 4 sigma. Each entry sums over the input pixel and
    those of its mirror images that a sample can reach; how many these are must be static.

    Args:
      in_size: pixels.
      factor: 1 for a blur alone.
      sigma: in input pixels, a number or a scalar array.
      highest: of all values that `sigma` can have.

    Returns: float32 [in_size // factor, in_size].
    """
    reach = max(TAPS_REACH * highest, 0.5)
    count = math.ceil((in_size + reach) / (2 * in_size))
    periods = 2 * in_size * np.arange(-count, count + 1)[:, None]
    inputs = np.arange(in_size)
    images = np.concatenate([periods + inputs, periods - 1 - inputs])
    near = (images >= -reach) & (images <= in_size - 1 + reach)
    images = images[near.any(axis=1)].astype(np.float32)

    centers = (jnp.arange(in_size // factor, dtype=jnp.float32) + 0.5) * factor - 0.5
    distances = jnp.abs(centers[:, None, None] - images[None])
    # Relative to the nearest pixel's tap, which is never left out: it is 0 of a narrow Gaussian.
    least = 0.0 if factor % 2 else 0.5
    taps = jnp.exp(-0.5 * ((distances - least) / sigma) * ((distances + least) / sigma))
    reached = distances <= jnp.maximum(TAPS_REACH * sigma, least)
    weights = jnp.where(reached, taps, 0.0).sum(axis=1)
    return weights / weights.sum(axis=1, keepdims=True)


def apply_separable(
    image: jax.Array,
    rows: np.ndarray | jax.Array,
    columns: np.ndarray | jax.Array,
    *,
    quantise: bool,
) -> jax.Array:
    """Filter [..., H, W, C] float pixels with a matrix for the height, then one for the width.

    With `quantise`, the result of each pass is rounded half up and clipped to 0..255, as
    MATLAB does for uint8 images. Products are in full float32 on every device: taps of
    x1/2, x1/4, x2, x4 and x8 are multiples of 2**-15, so that for whole-number pixels the
    sums are exact and ties round alike everywhere.
    """

    def filter_axis(spec: str, matrix: np.ndarray | jax.Array, x: jax.Array) -> jax.Array:
        y = jnp.einsum(
            spec, jnp.asarray(matrix, jnp.float32), x, precision=jax.lax.Precision.HIGHEST
        )
        return ranges.round_pixels(y) if quantise else y

    image = filter_axis("oh,...hwc->...owc", rows, image.astype(jnp.float32))
    return filter_axis("ow,...hwc->...hoc", columns, image)


def bicubic(image: jax.Array, scale: Fraction | int, *, quantise: bool) -> jax.Array:
    """MATLAB's `imresize(image, scale, 'bicubic')` (method.md, "MATLAB's bicubic").

    Args:
      image: [..., H, W, C]. With `quantise`, pixels in 0..255; otherwise any range.
      scale: output over input size, exact: `Fraction(1, 4)` or `4`.
      quantise: round to whole levels after each pass, as for MATLAB's uint8 images.

    Returns: float32 [..., ceil(H * scale), ceil(W * scale), C], same range.
    """
    return _imresize(image, Fraction(scale), cubic, 2.0, quantise)


def lanczos(image: jax.Array, scale: Fraction | int, *, quantise: bool) -> jax.Array:
    """MATLAB's `imresize(image, scale, 'lanczos3')`; see `bicubic`."""
    return _imresize(image, Fraction(scale), lanczos3, 3.0, quantise)


def bilinear(image: jax.Array, scale: int) -> jax.Array:
    """Enlarging as PyTorch's `interpolate(mode="bilinear", align_corners=False)`.

    [..., H, W, C] to float32 [..., H * scale, W * scale, C], same range.
    """
    return _imresize(image, Fraction(scale), triangle, 1.0, False)


def _imresize(
    image: jax.Array, scale: Fraction, kernel: Kernel, support: float, quantise: bool
) -> jax.Array:
    if scale.denominator == 1:
        return _enlarge(image, int(scale), kernel, support, quantise)
    rows, columns = (imresize_matrix(size, scale, kernel, support) for size in image.shape[-3:-1])
    return apply_separable(image, rows, columns, quantise=quantise)


def _enlarge(
    image: jax.Array, factor: int, kernel: Kernel, support: float, quantise: bool
) -> jax.Array:
    """What `imresize_matrix` does, for a whole factor: its taps repeat from pixel to pixel.

    Costs the same for every pixel, and takes sizes that `jax.export` leaves open.
    """
    reach = math.ceil(support)
    offsets = np.arange(-reach, reach + 1)
    centers = (np.arange(factor) + 0.5) / factor - 0.5
    distances = centers[:, None] - offsets
    taps = np.where(np.abs(distances) <= support, kernel(distances), 0.0)
    taps /= taps.sum(axis=1, keepdims=True)

    x = image.astype(jnp.float32)
    for axis in (x.ndim - 3, x.ndim - 2):
        size = x.shape[axis]
        pad = [(0, 0)] * x.ndim
        pad[axis] = (reach, reach)
        padded = jnp.pad(x, pad, mode="symmetric")
        windows = [
            jax.lax.slice_in_dim(padded, k, k + size, axis=axis) for k in range(len(offsets))
        ]
        phases = [
            sum(float(tap) * window for tap, window in zip(row, windows, strict=True) if tap)
            for row in taps
        ]
        x = jnp.stack(phases, axis=axis + 1)
        x = x.reshape(*x.shape[:axis], size * factor, *x.shape[axis + 2 :])
        x = ranges.round_pixels(x) if quantise else x
    return x


def gaussian_downsample(
    image: jax.Array,
    factor: int,
    sigma: float | jax.Array,
    *,
    highest: float | None = None,
    quantise: bool,
) -> jax.Array:
    """Gaussian blur of `sigma` pixels, then one sample in `factor` (the paper's text, section 2.1).

    Samples lie at the centres of blocks of `factor` pixels, so that nothing is shifted. A factor
    of 1 blurs alone.

    Args:
      image: [..., H, W, C]. With `quantise`, pixels in 0..255; otherwise any range.
      factor: HR over LR size.
      sigma: in pixels of `image`, a number or a scalar array.
      highest: where `sigma` is an array, the highest value that it can have.
      quantise: round to whole levels after each pass.

    Returns: float32 [..., H // factor, W // factor, C], same range.
    """
    most = float(sigma) if highest is None else highest
    rows, columns = (gaussian_matrix(size, factor, sigma, most) for size in image.shape[-3:-1])
    return apply_separable(image, rows, columns, quantise=quantise)


def bicubic_rows(
    blocks: Iterable[np.ndarray], height: int, width: int, scale: Fraction
) -> Iterator[np.ndarray]:
    """`bicubic` without `quantise`, on the host, for a picture that comes and goes row by row.

    Args:
      blocks: the picture from its top, float32 [some rows, width, C].
      height: of all blocks together.
      width: of each.
      scale: output over input size, exact.

    Yields: the result from its top, float32 [some rows, ceil(width * scale), C]; of the input no
      more is held than the filter needs, and a block.
    """
    rows, row_weights = imresize_taps(height, scale, cubic, 2.0)
    columns, column_weights = imresize_taps(width, scale, cubic, 2.0)
    row_weights, column_weights = (w.astype(np.float32) for w in (row_weights, column_weights))
    last_needed = rows.max(axis=1)
    first_needed = np.minimum.accumulate(rows.min(axis=1)[::-1])[::-1]  # of it and all after it
    held: np.ndarray | None = None
    top, done = 0, 0
    for block in (part for whole in blocks for part in np.split(whole, range(64, len(whole), 64))):
        filtered = np.zeros((len(block), len(columns), block.shape[2]), np.float32)
        for k in range(columns.shape[1]):
            filtered += block[:, columns[:, k]] * column_weights[:, k, None]
        held = filtered if held is None else np.concatenate([held, filtered])
        ready = int(np.searchsorted(np.maximum.accumulate(last_needed), top + len(held)))
        if ready > done:
            result = np.zeros((ready - done, *held.shape[1:]), np.float32)
            for k in range(rows.shape[1]):
                result += held[rows[done:ready, k] - top] * row_weights[done:ready, k, None, None]
            yield result
            done = ready
            if done < len(rows):
                held, top = held[first_needed[done] - top :], int(first_needed[done])
