"""Machines as published, and how long they take to send: the half of the formula without JAX."""

import dataclasses
import math


def _number(meaning: str) -> float:
    return dataclasses.field(metadata={"meaning": meaning})


@dataclasses.dataclass(frozen=True)
class Machine:
    """Devices in groups, such as GPUs in a host or a TPU pod, and a network between the groups.

    Bandwidths are of one direction. docs/scaling.md says where each number is from.
    """

    teraflops: float = _number("TFLOP/s of a device at best, bfloat16, without sparsity.")
    memory_gbps: float = _number("GB/s of a device's memory.")
    layer_us: float = _number("Microseconds that a convolution or product takes at least.")
    call_us: float = _number("Microseconds that any collective takes, whatever its way.")
    group: float = _number("Devices in a group.")
    axes: float = _number("Of the torus that a group is; 0: a chain over a switch, as NVLink's.")
    inside_gbps: float = _number("GB/s that a device sends to others of its group.")
    inside_us: float = _number("Microseconds from a device to the next of its group.")
    network_gbps: float = _number("GB/s that a device sends to other groups; of a shared card its"
                                  " part.")  # fmt: skip
    network_us: float = _number("Microseconds from a group to another.")

    def all_reduce(self, size: float, devices: int) -> float:
        """Seconds to add up `size` bytes of every device, so that each has the sum."""
        return self._latency(devices, 2) + self._transfer(size, devices, 2)

    def all_gather(self, size: float, devices: int) -> float:
        """Seconds to give every device `size` bytes, of which each had its part."""
        return self._latency(devices, 1) + self._transfer(size, devices, 1)

    def _split(self, devices: int) -> tuple[int, int]:
        """Devices of a group that take part, and groups."""
        together = min(devices, int(self.group))
        return together, math.ceil(devices / together)

    def _latency(self, devices: int, ways: int) -> float:
        """Of going there (1 way), or there and back (2): all-reduce."""
        if devices == 1:
            return 0.0
        together, groups = self._split(devices)
        if self.axes and together > 1:  # half way around every axis, in both directions at once
            steps = self.axes * together ** (1 / self.axes) / 2
        else:
            steps = together - 1
        inside = steps * self.inside_us
        between = math.ceil(math.log2(groups)) * self.network_us  # a tree of groups
        return (self.call_us + ways * (inside + between)) * 1e-6

    def _transfer(self, size: float, devices: int, ways: int) -> float:
        """Each way all but a device's own part is sent, between groups by each its share."""
        together, groups = self._split(devices)
        inside = (together - 1) / together * size / self.inside_gbps
        between = (groups - 1) / groups * size / together / self.network_gbps
        return ways * (inside + between) * 1e-9


_H100 = Machine(
    teraflops=989,
    memory_gbps=3350,
    layer_us=8,
    call_us=4.4,
    group=8,
    axes=0,
    inside_gbps=450,
    inside_us=0.52,
    network_gbps=50,
    network_us=5.0,
)
_V5E = Machine(
    teraflops=197,
    memory_gbps=819,
    layer_us=5,
    call_us=5,
    group=256,
    axes=2,
    inside_gbps=200,
    inside_us=1,
    network_gbps=3.125,
    network_us=20,
)

MACHINES = {
    "h100": _H100,
    "h100-ethernet": dataclasses.replace(_H100, network_gbps=12.5 / 8, network_us=25),
    "h200": dataclasses.replace(_H100, memory_gbps=4800),
    "v4": dataclasses.replace(
        _V5E, teraflops=275, memory_gbps=1200, group=4096, axes=3, inside_gbps=268
    ),
    "v5e": _V5E,
    "v5p": dataclasses.replace(
        _V5E,
        teraflops=459,
        memory_gbps=2765,
        group=6144,
        axes=3,
        inside_gbps=600,
        network_gbps=6.25,
    ),
    "v6e": dataclasses.replace(
        _V5E, teraflops=918, memory_gbps=1638, inside_gbps=400, network_gbps=12.5
    ),
    "cpu-ethernet": dataclasses.replace(
        _H100, teraflops=0.1, memory_gbps=20, layer_us=50, group=1, network_gbps=12.5, network_us=25
    ),
}
"""By name. `layer_us` of all, all of "cpu-ethernet", and `network_us` over Ethernet and between TPU
pods are assumptions."""
