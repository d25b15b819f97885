"""Which crops make up a batch: a pure function of (key, number of the batch)."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Rounds of `shuffled`; from 24 on, no test tells its permutations from uniform ones.
ROUNDS = 32

# Positions tried in a picture until a crop has the detail that `Sampling.min_detail` asks for.
CANDIDATES = 8

# Pictures up to which comparing a cell with the last one of each, one parallel operation, beats
# bisection, where one operation waits for the other.
COMPARED = 4096


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How crops are drawn; hashable, so static under jit.

    Attributes:
      batch_size: crops in a batch.
      crop: side in pixels; no picture may be smaller.
      cells: what an epoch is a permutation of, see `tabulate`.
      grid: crops begin at multiples of it; the scale, where LR pictures were given.
      min_detail: of a crop, see `detail`; 0 takes every crop.
    """

    batch_size: int
    crop: int
    cells: int
    grid: int = 1
    min_detail: float = 0.0

    @property
    def candidates(self) -> int:
        """Positions that are drawn for a crop."""
        return CANDIDATES if self.min_detail else 1

    @property
    def steps_per_epoch(self) -> float:
        """Batches that pass over the set once.

        A set of at least a batch is cut to whole batches each epoch; of a smaller one, a batch
        shows every picture more than once.
        """
        whole = self.cells // self.batch_size
        return whole or self.cells / self.batch_size


class Sizes(NamedTuple):
    """What planning has to know of the pictures, each int32 [N]."""

    heights: jax.Array | np.ndarray
    widths: jax.Array | np.ndarray
    last_cell: jax.Array | np.ndarray  # cells of this picture and all before it


class CropPlan(NamedTuple):
    """The crops of one batch; for a crop's position there are C candidates."""

    picture: jax.Array  # int32 [B]
    top: jax.Array  # int32 [B, C]
    left: jax.Array  # int32 [B, C]
    code: jax.Array  # int32 [B]: flips and quarter turns, see `degradation.dihedral`
    seed: jax.Array  # uint32 [B]: of the randomness in the degradation


def tabulate(heights: np.ndarray, widths: np.ndarray, *, uniform_over: str, crop: int) -> Sizes:
    """The table for `plan_crops`, on the host; its last cell is the number of cells.

    Args:
      heights: int32 [N], of the pictures.
      widths: int32 [N].
      uniform_over: "pictures": each picture is one cell, and an epoch shows each once. "pixels":
        a picture has as many cells as crops fit into it, and an epoch shows each pixel about once.
      crop: side in pixels.
    """
    cells = np.ones(len(heights), np.int64)
    if uniform_over == "pixels":
        cells = np.maximum(heights.astype(np.int64) * widths // crop**2, 1)
    last_cell = np.cumsum(cells)
    if last_cell[-1] >= 2**31:
        raise ValueError(f"{last_cell[-1]} crops in an epoch: more than can be numbered")
    return Sizes(heights.astype(np.int32), widths.astype(np.int32), last_cell.astype(np.int32))


@functools.partial(jax.jit, static_argnums=0)
def plan_crops(sampling: Sampling, key: jax.Array, number: jax.Array, sizes: Sizes) -> CropPlan:
    """The crops of batch number `number`, an int32 scalar from 0.

    Each epoch is a permutation of the cells, of which a batch takes consecutive ones: where
    cells are pictures, they are distinct (paper, section 3.2) wherever there are as many as
    crops. Positions are uniform over each picture, flips and turns uniform over the eight.

    `key` is the stream of the run. Costs the same for every number; where each picture is one cell,
    for a set of any size, else hardly more for a large one.
    """
    count, cells = sampling.batch_size, sampling.cells
    epoch, position = jnp.divmod(number, max(cells // count, 1))
    order_key = jax.random.fold_in(jax.random.fold_in(key, 0), epoch)
    if cells >= count:
        cell = shuffled(order_key, position * count + jnp.arange(count), cells)
    else:  # as many permutations as fill the batch
        keys = jax.random.split(order_key, -(-count // cells))
        every = jax.vmap(lambda key: shuffled(key, jnp.arange(cells), cells))(keys)
        cell = every.reshape(-1)[:count]
    picture = _picture_of(cell, cells, jnp.asarray(sizes.last_cell))

    top_key, left_key, code_key, seed_key = jax.random.split(
        jax.random.fold_in(jax.random.fold_in(key, 1), number), 4
    )

    def positions(key: jax.Array, sides: jax.Array) -> jax.Array:
        most = (sides[picture][:, None] - sampling.crop) // sampling.grid + 1
        shape = (count, sampling.candidates)
        return sampling.grid * jax.random.randint(key, shape, 0, most)

    return CropPlan(
        picture=picture.astype(jnp.int32),
        top=positions(top_key, jnp.asarray(sizes.heights)),
        left=positions(left_key, jnp.asarray(sizes.widths)),
        code=jax.random.randint(code_key, (count,), 0, 8),
        seed=jax.random.bits(seed_key, (count,), jnp.uint32),
    )


def _picture_of(cell: jax.Array, cells: int, last_cell: jax.Array) -> jax.Array:
    """The picture that each cell lies in."""
    pictures = len(last_cell)
    if pictures == cells:
        return cell
    method = "compare_all" if pictures <= COMPARED else "scan_unrolled"
    return jnp.searchsorted(last_cell, cell, side="right", method=method)


def shuffled(key: jax.Array, index: jax.Array, size: int) -> jax.Array:
    """Where a random permutation of 0..size-1, chosen by `key`, takes int32 [B] of them.

    The swap-or-not shuffle (Hoang, Morris, Rogaway 2012), which needs no memory for the set: in
    each round a random reflection pairs the numbers up, and a random bit for each pair swaps it.
    """
    pivots, salts = jax.random.bits(key, (2, ROUNDS), jnp.uint32)

    def round_of(i: jax.Array, index: jax.Array) -> jax.Array:
        partner = (pivots[i] % size).astype(jnp.int32) - index
        partner = jnp.where(partner < 0, partner + size, partner)
        bits = _hashed(jnp.maximum(index, partner).astype(jnp.uint32) ^ salts[i])
        return jnp.where(bits & 1 > 0, partner, index)

    return jax.lax.fori_loop(0, ROUNDS, round_of, index)


def _hashed(x: jax.Array) -> jax.Array:
    """uint32 to uint32 in which every bit depends on every bit (MurmurHash3's finalizer)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def detail(crops: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """Absolute differences of neighbouring pixels, summed over a crop [..., S, S, 3] of uint8.

    int32 [...], exact on the host and every device alike; see `least_detail`.
    """
    x: Any = crops.astype(np.int32)
    across = abs(x[..., 1:, :] - x[..., :-1, :])
    down = abs(x[..., 1:, :, :] - x[..., :-1, :, :])
    return across.sum((-3, -2, -1)) + down.sum((-3, -2, -1))


def least_detail(sampling: Sampling) -> int:
    """`min_detail`, a mean difference of neighbours in levels of 255, as a sum over a crop."""
    differences = 2 * 3 * sampling.crop * (sampling.crop - 1)
    return round(sampling.min_detail * differences)


def choose(sampling: Sampling, amounts: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """Which candidate becomes the crop: the first with detail enough, else the one with most.

    Of `detail` [B, C]; int [B].
    """
    return amounts.clip(max=least_detail(sampling)).argmax(1)
