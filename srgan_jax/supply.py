"""Where a run's batches come from: pictures on the devices, or cut on the host."""

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
from collections.abc import Iterator

import jax
import numpy as np
from ml_collections import ConfigDict

from srgan_jax import rng
from srgan_jax.data import resident, sampling
from srgan_jax.data.batches import Batches, Calls, read_ahead
from srgan_jax.data.degradation import Batch
from srgan_jax.data.packed import Packed
from srgan_jax.data.resident import Resident, ResidentSource
from srgan_jax.data.sampling import Sampling, Sizes
from srgan_jax.errors import UserError
from srgan_jax.parallel import Parallel

# Of a device's memory, what pictures may take; the rest is for training.
SHARE_OF_MEMORY = 0.3


@dataclasses.dataclass(frozen=True)
class Supply:
    """Gives the programs of a run their batches, the same ones from either place.

    Attributes:
      parallel: the devices.
      key: the stream of the run's crops.
      sampling: how crops are drawn.
      sizes: the pictures' table.
      hr: the pictures.
      lr_image: the LR pictures that belong to them, where they were given.
      scale: HR over LR size.
      placement: "device", each holding all pictures; "sharded", each a part; or "host".
    """

    parallel: Parallel
    key: jax.Array
    sampling: Sampling
    sizes: Sizes
    hr: Packed
    lr_image: Packed | None
    scale: int
    placement: str

    @classmethod
    def from_config(
        cls, config: ConfigDict, parallel: Parallel, hr: Packed, lr_image: Packed | None
    ) -> "Supply":
        """As `config.data` says."""
        data, scale = config.data, config.generator.scale
        heights, widths = hr.heights, hr.widths
        if lr_image is not None:  # of HR, the part that LR shows
            heights, widths = lr_image.heights * scale, lr_image.widths * scale
        sizes = sampling.tabulate(heights, widths, uniform_over=data.uniform_over, crop=data.crop)
        placement = data.placement
        if placement != "host":
            placement = fitting(data.placement, _bytes(hr, lr_image), parallel.devices)
        return cls(
            parallel=parallel,
            key=rng.stream(config.seed, "crops"),
            sampling=Sampling(
                batch_size=data.batch_size,
                crop=data.crop,
                cells=int(sizes.last_cell[-1]),
                grid=1 if lr_image is None else scale,
                min_detail=data.min_detail,
            ),
            sizes=sizes,
            hr=hr,
            lr_image=lr_image,
            scale=scale,
            placement=placement,
        )

    def summary(self) -> str:
        """Where the pictures are, in one line."""
        devices = len(self.parallel.devices)
        kind = self.parallel.devices[0].device_kind
        where = {
            "device": f"whole on {'the' if devices == 1 else 'each'} device ({devices} x {kind})",
            "sharded": f"shared out over {devices} devices ({kind})",
            "host": "on the host, read ahead",
        }
        lines = [f"pictures: {_bytes(self.hr, self.lr_image) / 1e6:.0f} MB"
                 f" {where[self.placement]}"]  # fmt: skip
        if len(self.hr) < self.sampling.batch_size:
            lines.append(
                f"a batch of {self.sampling.batch_size} crops shows some of the {len(self.hr)}"
                " pictures more than once"
            )
        return "; ".join(lines)

    def fingerprint(self) -> str:
        """Differs where anything of the pictures does."""
        stores = [self.hr] if self.lr_image is None else [self.hr, self.lr_image]
        return " ".join(store.digest for store in stores)

    @contextlib.contextmanager
    def batches(
        self, first_batch: int, parts: int, calls: Calls
    ) -> Iterator[tuple[ResidentSource | None, Iterator[Resident | Batch]]]:
        """What `Parallel.compile` takes as source, and the data for each call.

        Args:
          first_batch: the number of the batch that step 0 would take.
          parts: batches in a step.
          calls: their steps.
        """
        if self.placement != "host":
            yield self._source(first_batch, parts), itertools.repeat(self._resident)
            return
        share = self.parallel.share(self.sampling.batch_size)
        host = Batches(
            self.key, self.sampling, self.sizes, self.hr, self.lr_image, self.scale, share
        )

        def make(call: tuple[int, int]) -> Batch:
            step, steps = call
            made = host(first_batch + step * parts, steps * parts)
            by_step = jax.tree.map(lambda x: x.reshape(steps, -1, *x.shape[1:]), made)
            return self.parallel.place_batches(by_step, parts)

        with read_ahead(make, calls) as made:
            yield None, made

    def _source(self, first_batch: int, parts: int) -> ResidentSource:
        return ResidentSource(
            sampling=self.sampling,
            scale=self.scale,
            first_batch=first_batch,
            parts=parts,
            devices=len(self.parallel.devices),
            sharded=self.placement == "sharded",
        )

    @functools.cached_property
    def _resident(self) -> Resident:
        on_host = Resident(
            device=np.arange(len(self.parallel.devices), dtype=np.int32),
            key=self.key,
            sizes=self.sizes,
            hr=resident.store(self.hr),
            lr_image=None if self.lr_image is None else resident.store(self.lr_image),
        )
        return self.parallel.place_pictures(on_host, self._source(0, 1))


def fitting(placement: str, size: int, devices: list[jax.Device]) -> str:
    """ "device", "sharded" or, where "auto" asks, "host": the first that `size` bytes fit into.

    "device" may take all of the memory. Raises: UserError where that is too little.
    """
    each = memory(jax.local_devices()[0])
    room = SHARE_OF_MEMORY * each
    if size <= room:
        return "device"
    if len(devices) > 1 and size <= room * len(devices):
        return "sharded"
    if placement == "auto":
        return "host"
    if size > each * len(devices):
        raise UserError(
            f"config.data.placement=device: the pictures take {size / 1e9:.1f} GB, but the devices"
            f" have {each * len(devices) / 1e9:.1f} GB: give 'host'"
        )
    return "sharded" if len(devices) > 1 else "device"


def memory(device: jax.Device) -> int:
    """Bytes that a device has for this process; CPU devices share the machine's or container's."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = pathlib.Path("/sys/fs/cgroup/memory.max")
    told = limit.read_text().strip() if limit.exists() else "max"
    whole = min(machine, int(told)) if told.isdigit() else machine
    return whole // jax.local_device_count()


def _bytes(*stores: Packed | None) -> int:
    return sum(store.blocks.nbytes for store in stores if store is not None)
