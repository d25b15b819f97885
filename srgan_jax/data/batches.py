"""Batches cut on the host, by number, and read ahead of the devices."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import grain
import jax
import numpy as np

from srgan_jax.data import sampling
from srgan_jax.data.degradation import Batch
from srgan_jax.data.packed import Packed
from srgan_jax.data.sampling import Sampling, Sizes
from srgan_jax.errors import UserError

T = TypeVar("T")

# Calls of a program whose batches are on the devices before it asks for them.
READ_AHEAD = 2


class Batches:
    """`batches(number)` is a pure function of the key and the number: nothing to save."""

    def __init__(
        self,
        key: jax.Array,
        sampling: Sampling,
        sizes: Sizes,
        hr: Packed,
        lr_image: Packed | None = None,
        scale: int = 1,
        share: slice = slice(None),
    ):
        """`key` is the crops' stream; LR pictures are `scale` times smaller than HR.

        `share`: which crops of each batch are cut.
        """
        try:
            self._host = jax.local_devices(backend="cpu")[0]
        except RuntimeError as error:
            raise UserError(
                "JAX_PLATFORMS hides the CPU, where crops are planned: add ',cpu' to it"
            ) from error
        # Planned on the host, where the pictures are, whatever the accelerator.
        self._key, self._sizes = jax.device_put((key, sizes), self._host)
        self._sampling = sampling
        self._hr, self._lr_image, self._scale, self._share = hr, lr_image, scale, share

    def __call__(self, first: int, count: int = 1) -> Batch:
        """The share of batch number `first`, from 0, and of the next ones up to `count`."""
        batches = [self._one(number) for number in range(first, first + count)]
        return jax.tree.map(lambda *fields: np.concatenate(fields), *batches)

    def _one(self, number: int) -> Batch:
        number_there = jax.device_put(np.int32(number), self._host)
        plan = sampling.plan_crops(self._sampling, self._key, number_there, self._sizes)
        plan = jax.tree.map(lambda x: np.asarray(x)[self._share], plan)
        size = self._sampling.crop
        crops, lr_crops = [], []
        for picture, tops, lefts in zip(plan.picture, plan.top, plan.left, strict=True):
            candidates = cut(self._hr.picture(picture), tops, lefts, size)
            chosen = 0
            if len(tops) > 1:
                amounts = sampling.detail(candidates)
                chosen = int(sampling.choose(self._sampling, amounts[None])[0])
            crops.append(candidates[chosen])
            if self._lr_image is not None:
                at = tops[[chosen]] // self._scale, lefts[[chosen]] // self._scale
                lr_crops += [*cut(self._lr_image.picture(picture), *at, size // self._scale)]
        return Batch(
            np.stack(crops), plan.code, plan.seed, np.stack(lr_crops) if lr_crops else None
        )


def cut(image: np.ndarray, tops: np.ndarray, lefts: np.ndarray, size: int) -> np.ndarray:
    """Squares [C, size, size, 3] of a picture [H, W, 3]."""
    return np.stack([image[y : y + size, x : x + size] for y, x in zip(tops, lefts, strict=True)])


@dataclasses.dataclass(frozen=True)
class Calls(Sequence[tuple[int, int]]):
    """The calls of a program that does up to `length` steps, from step `start` to `stop`.

    Each is (its first step, its number of steps). They end at multiples of `length`, wherever
    they start, so that a run continued from the end of any call makes the calls that were left.
    """

    start: int
    stop: int
    length: int

    def __len__(self) -> int:
        if self.start >= self.stop:
            return 0
        return -(-self.stop // self.length) - self.start // self.length

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        block = self.start // self.length + index
        first = max(self.start, block * self.length)
        return first, min(self.stop, (block + 1) * self.length) - first


@contextlib.contextmanager
def read_ahead(make: Callable[[tuple[int, int]], T], calls: Calls) -> Iterator[Iterator[T]]:
    """What `make` returns for each call, in order, made on threads before it is asked for."""
    options = grain.ReadOptions(num_threads=READ_AHEAD, prefetch_buffer_size=READ_AHEAD)
    made = iter(grain.MapDataset.source(calls).map(make).to_iter_dataset(options))
    try:
        yield made
    finally:
        made.close()
