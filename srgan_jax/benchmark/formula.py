"""How long a step takes on n devices: the formula of docs/scaling.md, of numbers alone."""

import dataclasses
import math

from srgan_jax.benchmark.machines import Machine


@dataclasses.dataclass(frozen=True)
class Load:
    """What one step asks of every device, counted.

    Attributes:
      image_flops: for each image.
      layers: convolutions and products, one after the other.
      params: elements that are trained.
      gradients: bytes of each all-reduce of gradients and metrics.
      batch_norm: likewise of BatchNorm's.
      gathered: bytes of each all-gather, of sharded optimizers.
    """

    image_flops: float
    layers: int
    params: int
    gradients: tuple[int, ...]
    batch_norm: tuple[int, ...]
    gathered: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Device:
    """Seconds of one device alone: a step at least, an image, the optimizers' update."""

    floor: float
    image: float
    update: float

    def compute(self, images: int) -> float:
        """Of a step without the update."""
        return max(self.floor, images * self.image)


@dataclasses.dataclass(frozen=True)
class Times:
    """The parts of a step, in seconds, one after the other: nothing is assumed to overlap."""

    compute: float
    update: float
    gradients: float
    batch_norm: float

    @property
    def step(self) -> float:
        """All of them."""
        return sum(dataclasses.astuple(self))


def update_seconds(load: Load, machine: Machine, devices: int) -> float:
    """Adam, by the memory traffic of one pass over what it needs.

    It reads gradient, parameter and two moments and writes all but the gradient: 28 bytes an
    element. Sharded, a device does so for its part, writes that part's update and applies all.
    """
    sharded = sum(load.gathered) / 4
    size = 28 * (load.params - sharded) + (24 / devices + 12) * sharded
    return size / machine.memory_gbps * 1e-9


def predicted(load: Load, machine: Machine, share: float, devices: int) -> Device:
    """One device, from its peak: not measured."""
    return Device(
        floor=load.layers * machine.layer_us * 1e-6,
        image=load.image_flops / (machine.teraflops * 1e12 * share),
        update=update_seconds(load, machine, devices),
    )


def times(load: Load, device: Device, machine: Machine, devices: int, images: int) -> Times:
    """A step of so many images on each of so many devices."""
    gathered = sum(machine.all_gather(size, devices) for size in load.gathered)
    return Times(
        compute=device.compute(images),
        update=device.update + gathered,
        gradients=sum(machine.all_reduce(size, devices) for size in load.gradients),
        batch_norm=sum(machine.all_reduce(size, devices) for size in load.batch_norm),
    )


def enough_images(device: Device, parts: Times) -> int:
    """The least batch of a device whose arithmetic takes as long as the floor and all else."""
    rest = parts.step - parts.compute
    return max(math.ceil(max(device.floor, rest) / device.image), 1)
