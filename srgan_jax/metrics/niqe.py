"""Natural image quality evaluator, NIQE: how unlike sharp photographs one picture's statistics are.

Mittal, Soundararajan, Bovik, "Making a 'Completely Blind' Image Quality Analyzer", IEEE Signal
Processing Letters 20(3), 2013, with the settings of the authors' MATLAB code. No reference is
needed, but the parameters of pristine pictures are: fitted by `fit`, or loaded by
`srgan_jax.convert.niqe`. Smaller is better; values of different parameters don't compare.

What is of every pixel runs on the device, in float32. What is of every block runs on the host, in
float64: little to compute, but the covariance's eigenvalues span five orders of magnitude.
"""

import functools
import itertools
import math
from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from srgan_jax import resample

BLOCK = 96
"""Pixels of a block's side, and so of the smallest picture's."""
FEATURES = 36
SHARP = 0.75
"""`fit` takes the blocks whose sharpness exceeds this share of the picture's largest."""

WINDOW = 7
SIGMA = 7 / 6
# Of horizontal, vertical and the two diagonal neighbours, as MATLAB's circshift counts.
SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))


class Params(NamedTuple):
    """The Gaussian over the features of pristine pictures' blocks, float64."""

    mean: np.ndarray  # [36]
    covariance: np.ndarray  # [36, 36]


def features(luma: jax.Array | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 36 features of each whole block of 96x96 pixels, and each block's sharpness.

    Args:
      luma: [H, W], levels 0..255. What is left over right and below is cropped.

    Returns: [blocks, 36] and [blocks], float64, rows of blocks from the top. Columns 0..17 are
    the features of the full scale, 18..35 those of half the scale (section II.C). A block's
    sharpness is the mean of its local standard deviations (equation 4).

    Of a block that is flat, or whose values lie on one side only, the fit is undefined: its
    alpha is 0.2, the table's first, as in MATLAB, and all else NaN. Where the neighbourhood of a
    pixel is exactly flat, the normalised value is exactly 0 and counts to neither side; in float64
    code without such care, the sign of a rounding error puts it on one (Set5's head: 8.74 or 9.07).

    Raises: ValueError where no block fits.
    """
    if min(luma.shape) < BLOCK:
        raise ValueError(f"NIQE needs at least {BLOCK}x{BLOCK} pixels, not {luma.shape}")
    height, width = (side // BLOCK * BLOCK for side in luma.shape)
    *moments, sharpness = jax.device_get(_moments_and_sharpness(luma[:height, :width]))
    statistics = [_statistics(scale.astype(np.float64)) for scale in moments]
    return np.concatenate(statistics, axis=1), sharpness.astype(np.float64)


def niqe(luma: jax.Array | np.ndarray, params: Params) -> float:
    """The distance of a picture's features from pristine ones (equation 10); smaller is better.

    Not to be used under jit: it ends on the host, in float64.

    Args:
      luma: [H, W], levels 0..255. For the numbers that BasicSR and others print: Y of BT.601
        (16..235), rounded, with the border of `scale` pixels cropped.
      params: of pristine pictures.

    Returns: NaN where fewer than two blocks have all features, since one has no covariance: a
    picture with room for one block only (NumPy ports fail there, and MATLAB takes the variance
    over the features instead), and one that is flat but for a block. Flat blocks among others
    don't count, but for their alphas in the mean, as in MATLAB.

    Raises: ValueError where no block fits.
    """
    rows, _ = features(luma)
    if len(_complete(rows)) < 2:
        return math.nan
    mean, covariance = _gaussian(rows)
    inverse = np.linalg.pinv((params.covariance + covariance) / 2, hermitian=True)
    difference = params.mean - mean
    return math.sqrt(difference @ inverse @ difference)


def fit(lumas: Iterable[jax.Array | np.ndarray]) -> Params:
    """The parameters of pristine pictures, each [H, W], levels 0..255 (sections II.B, II.D).

    The blocks whose sharpness exceeds 0.75 of the picture's largest are pooled over pictures.
    None is taken of a flat picture. The authors used 125 photographs. Luma should be made as it
    will be for the pictures that are measured.

    Raises: ValueError where a picture has no room for a block, or where the covariance has no
    inverse: with fewer than 37 different sharp blocks, for one.
    """
    rows = [np.empty((0, FEATURES))]
    for luma in lumas:
        blocks, sharpness = features(luma)
        rows.append(blocks[sharpness > SHARP * sharpness.max()])
    pooled = np.concatenate(rows)
    count = len(_complete(pooled))
    if count > FEATURES:
        params = _gaussian(pooled)
        if np.linalg.matrix_rank(params.covariance, hermitian=True) == FEATURES:
            return params
    raise ValueError(
        f"NIQE's parameters need at least {FEATURES + 1} different sharp blocks, not {count}"
    )


def _complete(rows: np.ndarray) -> np.ndarray:
    """The rows [n, 36] without NaN."""
    return rows[~np.isnan(rows).any(axis=1)]


def _gaussian(rows: np.ndarray) -> Params:
    """Mean and covariance of float64 [n, 36] as MATLAB's nanmean and nancov have them.

    The mean is of each feature's numbers; the covariance of complete rows, with n - 1.
    """
    return Params(np.nanmean(rows, axis=0), np.cov(_complete(rows), rowvar=False))


def _statistics(moments: np.ndarray) -> np.ndarray:
    """`_moments` [5, blocks, 5] to one scale's features [blocks, 18] (section II.C).

    An asymmetric generalised Gaussian is fitted to the values and to each of four products
    (equations 7 and 8). Of the values: alpha and the mean beta. Of each product: alpha, mean, left
    and right beta.
    """
    absolute, left, lefts, right, rights = moments
    alphas, halfway, spread, centre = _table()
    with np.errstate(divide="ignore", invalid="ignore"):  # where nothing lies on one side
        ratio = absolute**2 / (left + right)
        left, right = np.sqrt(left / lefts), np.sqrt(right / rights)
        skew = left / right
        ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    nearest = np.where(np.isnan(ratio), 0, np.searchsorted(halfway, ratio))
    left, right = left * spread[nearest], right * spread[nearest]
    fits = np.stack([alphas[nearest], (right - left) * centre[nearest], left, right], axis=2)
    products = fits[:, 1:].reshape(len(fits), -1)
    return np.concatenate([fits[:, 0, :1], (left + right)[:, :1] / 2, products], axis=1)


@functools.cache
def _table() -> tuple[np.ndarray, ...]:
    """What the fit of an asymmetric generalised Gaussian looks up.

    Returns: the alphas, 0.2 to 10 in steps of 0.001; the ratios (E|x|)^2 / E x^2 halfway from each
    alpha to the next; and by alpha, beta over the side's root mean square, and the mean over the
    difference of the betas.
    """
    alphas = np.arange(200, 10001) / 1000
    gamma1, gamma2, gamma3 = (np.array([math.gamma(n / a) for a in alphas]) for n in (1, 2, 3))
    ratios = gamma2**2 / (gamma1 * gamma3)  # these grow with alpha
    return alphas, (ratios[1:] + ratios[:-1]) / 2, np.sqrt(gamma1 / gamma3), gamma2 / gamma1


@jax.jit
def _moments_and_sharpness(luma: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of whole blocks: the moments at full and half scale, [5, blocks, 5], sharpness [blocks]."""
    luma = luma.astype(jnp.float32)
    half = resample.bicubic(luma[..., None], Fraction(1, 2), quantise=False)[..., 0]
    normalised, deviation = _normalise(luma)
    normalised_half, _ = _normalise(half)
    return (
        _moments(_blocks(normalised, BLOCK)),
        _moments(_blocks(normalised_half, BLOCK // 2)),
        jnp.mean(_blocks(deviation, BLOCK), axis=(1, 2)),
    )


def _normalise(luma: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Equations 1 to 3: (I - mu) / (sigma + 1) and sigma, both [H, W].

    mu and sigma are taken of differences from the pixel in the middle, and those of equal weight
    are added up before they are weighted. For whole levels such sums are exact in float32, so that
    a flat or antisymmetric neighbourhood gives exactly 0. And since the middle pixel's own
    difference is 0, the mean square exceeds the squared mean by an eighth or more, and nothing
    cancels.
    """
    reach = WINDOW // 2
    height, width = luma.shape
    taps = np.exp(-0.5 * np.arange(-reach, reach + 1) ** 2 / SIGMA**2)
    taps = taps[reach:] / taps.sum()
    padded = jnp.pad(luma, reach, mode="edge")
    mean = mean_square = jnp.zeros_like(luma)
    for far, near in itertools.combinations_with_replacement(range(reach + 1), 2):
        places = {*itertools.product((far, -far), (near, -near))}
        places |= {place[::-1] for place in places}
        differences = [
            padded[reach + y : reach + y + height, reach + x : reach + x + width] - luma
            for y, x in sorted(places)
        ]
        weight = taps[far] * taps[near]
        mean += weight * sum(differences)
        mean_square += weight * sum(difference**2 for difference in differences)
    deviation = jnp.sqrt(mean_square - mean**2)
    return -mean / (deviation + 1.0), deviation


def _blocks(values: jax.Array, side: int) -> jax.Array:
    """[H, W] in square blocks, [blocks, side, side], rows of blocks from the top."""
    height, width = values.shape
    blocks = values.reshape(height // side, side, width // side, side).swapaxes(1, 2)
    return blocks.reshape(-1, side, side)


def _moments(blocks: jax.Array) -> jax.Array:
    """[blocks, side, side] to [5, blocks, 5]: means of the values and of four products.

    The products are with neighbours, which wrap round within the block as in MATLAB. The means
    are of the magnitude; of the squares left of 0, and the share of values there; and of the
    squares right of 0, and that share.
    """
    neighbours = [jnp.roll(blocks, shift, axis=(1, 2)) for shift in SHIFTS]
    values = jnp.stack([blocks, *(blocks * each for each in neighbours)], axis=1)
    left, right = values < 0, values > 0
    squares = values**2
    left_squares, right_squares = (jnp.where(side, squares, 0.0) for side in (left, right))
    averaged = (jnp.abs(values), left_squares, left, right_squares, right)
    return jnp.stack([jnp.mean(each, axis=(2, 3)) for each in averaged])
