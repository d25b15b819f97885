"""Batches of crops from pictures in memory, by number."""

import jax
import numpy as np

from srgan_jax.data import sampling
from srgan_jax.data.degradation import Batch
from srgan_jax.data.sources import Pictures
from srgan_jax.errors import UserError


class Batches:
    """`batches(number)` is a pure function of the key and the number: nothing to save."""

    def __init__(self, pictures: Pictures, *, key: jax.Array, batch_size: int, crop: int):
        """`key` is the crops' stream; no picture may be smaller than `crop`."""
        self._images = pictures.images
        try:
            self._host = jax.local_devices(backend="cpu")[0]
        except RuntimeError as error:
            raise UserError(
                "JAX_PLATFORMS hides the CPU, where crops are planned: add ',cpu' to it"
            ) from error
        # Planned on the host, where the pictures are, whatever the accelerator.
        self._key, self._heights, self._widths = jax.device_put(
            (
                key,
                np.array([image.shape[0] for image in pictures.images], np.int32),
                np.array([image.shape[1] for image in pictures.images], np.int32),
            ),
            self._host,
        )
        self._batch_size = batch_size
        self._crop = crop

    def __call__(self, first: int, count: int = 1) -> Batch:
        """Batch number `first`, from 0, and the next ones up to `count`, one after the other."""
        crops: list[np.ndarray] = []
        codes: list[np.ndarray] = []
        size = self._crop
        for number in range(first, first + count):
            plan = sampling.plan_crops(
                self._key,
                jax.device_put(np.int32(number), self._host),
                self._heights,
                self._widths,
                batch_size=self._batch_size,
                crop=size,
            )
            corners = zip(*(np.asarray(x) for x in plan[:3]), strict=True)
            crops += [self._images[i][y : y + size, x : x + size] for i, y, x in corners]
            codes.append(np.asarray(plan.code))
        return Batch(np.stack(crops), np.concatenate(codes))
