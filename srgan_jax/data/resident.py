"""Batches cut on the devices, from pictures that stay there: pure functions, under jit."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from srgan_jax.data import sampling
from srgan_jax.data.degradation import Batch
from srgan_jax.data.packed import BLOCK, Packed
from srgan_jax.data.sampling import CropPlan, Sampling, Sizes


class Store(NamedTuple):
    """Pictures as `data.packed.Packed` has them."""

    blocks: jax.Array | np.ndarray  # uint8 [M, BLOCK]; of several devices, each may hold a part
    first: jax.Array | np.ndarray  # int32 [N], the block that a picture begins in
    widths: jax.Array | np.ndarray  # int32 [N]


class Resident(NamedTuple):
    """All that batches are made from."""

    device: jax.Array | np.ndarray  # int32 [devices]: which share of a batch each one cuts
    key: jax.Array  # the stream of the run's crops
    sizes: Sizes
    hr: Store
    lr_image: Store | None  # where LR pictures were given


def store(pictures: Packed) -> Store:
    """Pictures for the devices, on the host."""
    return Store(pictures.blocks, pictures.first, pictures.widths)


@dataclasses.dataclass(frozen=True)
class ResidentSource:
    """How a step gets its batches; hashable, so static under jit.

    Attributes:
      sampling: how crops are drawn.
      scale: HR over LR size.
      first_batch: the number of the batch that step 0 would take.
      parts: batches in a step, one after the other.
      devices: that share a batch.
      sharded: whether each of them holds but its part of the blocks.
    """

    sampling: Sampling
    scale: int
    first_batch: int
    parts: int
    devices: int
    sharded: bool

    def plans(self, data: Resident, step: jax.Array, steps: int) -> CropPlan:
        """Of so many steps from `step` on, each field [steps, parts, B, ...]."""
        first = self.first_batch + step * self.parts
        numbers = (first + jnp.arange(steps * self.parts)).reshape(steps, self.parts)
        plan = functools.partial(sampling.plan_crops, self.sampling, data.key, sizes=data.sizes)
        return jax.vmap(jax.vmap(plan))(numbers)

    def take(self, data: Resident, plan: CropPlan, axis_name: str) -> Batch:
        """One device's share of the batches of a step, each field [parts, B / devices, ...].

        Args:
          data: as this device has it: a part of what is split, all of the rest.
          plan: of the step, for all devices, each field [parts, B, ...].
          axis_name: of the devices.
        """

        def by_device(x: jax.Array) -> jax.Array:
            return x.reshape(self.parts, self.devices, -1, *x.shape[2:]).swapaxes(0, 1)

        everyones = jax.tree.map(by_device, plan)
        here = jnp.asarray(data.device).reshape(())
        mine = jax.tree.map(lambda x: x[here], everyones)

        crops = self._cut(data.hr, everyones, here, 1, axis_name)
        lr_crops = None
        if data.lr_image is not None:
            lr_crops = self._cut(data.lr_image, everyones, here, self.scale, axis_name)
        if self.sampling.candidates > 1:
            flat = crops.reshape(-1, *crops.shape[2:])
            chosen = sampling.choose(self.sampling, sampling.detail(flat))
            rows = jnp.arange(len(chosen))
            crops = flat[rows, chosen]
            if lr_crops is not None:
                lr_crops = lr_crops.reshape(-1, *lr_crops.shape[2:])[rows, chosen]
        shape = mine.code.shape

        def shaped(x: jax.Array) -> jax.Array:
            return x.reshape(*shape, *x.shape[-3:])

        return Batch(
            shaped(crops), mine.code, mine.seed, None if lr_crops is None else shaped(lr_crops)
        )

    def _cut(
        self,
        pictures: Store,
        plan: CropPlan,
        here: jax.Array,
        shrink: int,
        axis_name: str,
    ) -> jax.Array:
        """This device's crops, uint8 [parts, B / devices, C, S, S, 3], of the plan of all."""
        size = self.sampling.crop // shrink
        rows = _and_next(plan.top // shrink, size)  # [devices, parts, B, C, S]
        width = jnp.asarray(pictures.widths)[plan.picture][..., None, None]
        start = 3 * (rows * width + plan.left[..., None] // shrink)  # bytes into the picture
        block = jnp.asarray(pictures.first)[plan.picture][..., None, None] + start // BLOCK
        reach = (3 * size + BLOCK - 2) // BLOCK + 1  # blocks that a row may touch
        index = _and_next(block, reach)

        blocks = jnp.asarray(pictures.blocks)
        if self.sharded:
            found = _exchanged(blocks, index, here, axis_name)
        else:
            found = blocks.at[index[here]].get(mode="clip")
        lines = found.reshape(-1, reach * BLOCK)
        begin = (start % BLOCK)[here].reshape(-1)
        cut = jax.vmap(lambda line, at: jax.lax.dynamic_slice(line, (at,), (3 * size,)))
        return cut(lines, begin).reshape(*start.shape[1:], size, 3)


def _and_next(x: jax.Array, count: int) -> jax.Array:
    """[...] to [..., count]: each number and those that follow it."""
    return x[..., None] + jnp.expand_dims(jnp.arange(count), range(x.ndim))


def _exchanged(blocks: jax.Array, index: jax.Array, here: jax.Array, axis_name: str) -> jax.Array:
    """The blocks that this device asks for, `index[here]`, from those that have them.

    Each looks every index up among its own, [M, BLOCK], and sends what it has, zeros elsewhere.
    """
    local = index - here * len(blocks)
    owned = (local >= 0) & (local < len(blocks))
    found = jnp.where(owned[..., None], blocks.at[local].get(mode="clip"), 0)
    return jax.lax.psum_scatter(found, axis_name, scatter_dimension=0)
