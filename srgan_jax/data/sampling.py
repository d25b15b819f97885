"""Which crops make up a batch: a pure function of (key, number of the batch)."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp


class CropPlan(NamedTuple):
    """The crops of one batch, each field int32 [B]."""

    picture: jax.Array
    top: jax.Array
    left: jax.Array
    code: jax.Array  # flips and quarter turns, see `degradation.dihedral`


def steps_per_epoch(pictures: int, batch_size: int) -> float:
    """Batches that pass over the set once.

    A set of at least a batch is cut to whole batches of distinct pictures each epoch; of a
    smaller one, a batch shows every picture more than once.
    """
    return pictures // batch_size if pictures >= batch_size else pictures / batch_size


@functools.partial(jax.jit, static_argnames=("batch_size", "crop"))
def plan_crops(
    key: jax.Array,
    number: jax.Array,
    heights: jax.Array,
    widths: jax.Array,
    *,
    batch_size: int,
    crop: int,
) -> CropPlan:
    """The crops of batch number `number`, from 0.

    Each epoch is a permutation of the pictures, of which a batch takes consecutive ones: they
    are distinct (paper, section 3.2) wherever there are as many pictures as crops. Positions
    are uniform over each picture, flips and turns uniform over the eight.

    Args:
      key: the stream of the run.
      number: int32 scalar.
      heights: int32 [N], of the pictures.
      widths: int32 [N].
      batch_size: crops in a batch.
      crop: side in pixels; no picture may be smaller.
    """
    pictures = heights.shape[0]
    rounds = -(-batch_size // pictures)
    epoch, position = jnp.divmod(number, max(pictures // batch_size, 1))
    order_key = jax.random.fold_in(jax.random.fold_in(key, 0), epoch)
    every = jnp.broadcast_to(jnp.arange(pictures), (rounds, pictures))
    order = jax.random.permutation(order_key, every, axis=1, independent=True).reshape(-1)
    picture = jax.lax.dynamic_slice(order, (position * batch_size,), (batch_size,))

    top_key, left_key, code_key = jax.random.split(
        jax.random.fold_in(jax.random.fold_in(key, 1), number), 3
    )
    shape = (batch_size,)
    return CropPlan(
        picture=picture,
        top=jax.random.randint(top_key, shape, 0, heights[picture] - crop + 1),
        left=jax.random.randint(left_key, shape, 0, widths[picture] - crop + 1),
        code=jax.random.randint(code_key, shape, 0, 8),
    )
