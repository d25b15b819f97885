"""Windows over devices: each goes to the first that is free, and comes back as pixels."""

import concurrent.futures
import dataclasses
import queue
import threading
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from srgan_jax.errors import UserError, first_line
from srgan_jax.models.generator import Generator
from srgan_jax.state import Variables
from srgan_jax.upscale import network, tiles

# A CPU's: pixels whose features (256 bytes each, four such arrays) stay below 0.6 GB.
CPU_AREA = 768 * 768
# An accelerator's share of memory for a window, and the most pixels that are worth having.
SHARE = 0.25
MOST_AREA = 2048 * 2048
# Pixels of a block that is enlarged at once, of a window's: 4 kB each, three such arrays.
BLOCK_SHARE = 1 / 15
# Windows under way on a device: on an accelerator one is computed while another is brought.
UNDER_WAY = {"cpu": 1}


class Piece(NamedTuple):
    """A window, and the part of it whose SR is wanted.

    Attributes:
      pixels: float32 [h, w, 3] in [0, 1].
      inside: which rows and which columns are the picture's, each as its first and the one after
        its last; what lies outside mirrors it.
      rows: those of the part, likewise.
      columns: those of the part, likewise.
    """

    pixels: np.ndarray
    inside: tuple[tuple[int, int], tuple[int, int]]
    rows: tuple[int, int]
    columns: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Device:
    """A device with the network's parameters on it."""

    device: jax.Device
    params: Any


class Engine:
    """Runs a network on windows, on several devices at once."""

    def __init__(
        self, generator: Generator, variables: Variables, devices: list[jax.Device], dtype: str
    ):
        """Arguments: the network, without BatchNorm, where it runs, and what it computes in.

        Raises: UserError where not even the smallest window fits (in `run`, too).
        """
        self.generator = generator.clone(dtype=dtype)
        self.scale = generator.scale
        self.radius = tiles.radius_of(generator)
        under_way = UNDER_WAY.get(devices[0].platform, 2)
        self.workers = under_way * len(devices)
        self._free: queue.SimpleQueue[Device] = queue.SimpleQueue()
        ready = [Device(device, jax.device_put(variables.params, device)) for device in devices]
        for _ in range(under_way):
            for device in ready:
                self._free.put(device)
        # One more, which prepares the next while the devices compute.
        self.pool = concurrent.futures.ThreadPoolExecutor(self.workers + 1, "tile")
        self._lock = threading.Lock()
        self.sizes = tiles.FINE if devices[0].platform == "cpu" else tiles.COARSE
        self.area = area_of(devices, generator.channels, dtype)
        self.familiar: set[tuple[int, int]] = set()

    def run(self, piece: Piece, levels: str, gray: bool) -> np.ndarray:
        """The SR of a piece, now; in smaller windows where the device's memory asks for it."""
        height, width = piece.pixels.shape[:2]
        device = self._free.get()
        try:
            # Otherwise accelerators take less of float32 than it has.
            precise = "highest" if self.generator.dtype == "float32" else None
            with jax.default_matmul_precision(precise):
                found = self._whole(device, piece, levels, gray)
            self.familiar.add((height, width))
            return found
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            reason = first_line(error)
        finally:
            self._free.put(device)
        with self._lock:
            self.area = min(self.area, height * width // 2)
        return self._divided(piece, levels, gray, reason)

    def _whole(self, device: Device, piece: Piece, levels: str, gray: bool) -> np.ndarray:
        height, width = piece.pixels.shape[:2]
        inside = None
        sizes = ((0, height), (0, width))
        if any(a > 0 or b < size for (a, b), (_, size) in zip(piece.inside, sizes, strict=True)):
            inside = [
                (np.arange(size) >= first) & (np.arange(size) < end)
                for size, (first, end) in zip((height, width), piece.inside, strict=True)
            ]
        window, inside = jax.device_put((piece.pixels, inside), device.device)
        features = network.features_of(self.generator, device.params, window, inside)
        block = self._block(height, width)
        spans = [
            list(tiles.spans(*wanted, size, side, self.radius.enlargement))
            for wanted, size, side in zip(
                (piece.rows, piece.columns), (height, width), block, strict=True
            )
        ]
        s, (top, left) = self.scale, (piece.rows[0], piece.columns[0])
        shape = (s * (piece.rows[1] - top), s * (piece.columns[1] - left), 1 if gray else 3)
        whole = np.empty(shape, levels)
        for y in spans[0]:
            for x in spans[1]:
                at = np.int32(y.start), np.int32(x.start)
                sr = network.enlarge(
                    self.generator,
                    block,
                    levels,
                    gray,
                    device.params,
                    features,
                    window,
                    inside,
                    *at,
                )
                part = np.asarray(sr)[
                    s * (y.first - y.start) : s * (y.end - y.start),
                    s * (x.first - x.start) : s * (x.end - x.start),
                ]
                whole[
                    s * (y.first - top) : s * (y.end - top),
                    s * (x.first - left) : s * (x.end - left),
                ] = part
        return whole

    def _block(self, height: int, width: int) -> tuple[int, int]:
        """The blocks in which a window's features are enlarged: parts of it, with what they see."""
        most = max(self.area, CPU_AREA) * BLOCK_SHARE
        parts = [1, 1]
        block = [height, width]
        while block[0] * block[1] > most:
            axis = int(block[1] >= block[0])
            parts[axis] += 1
            block[axis] = -(-(height, width)[axis] // parts[axis]) + 2 * self.radius.enlargement
        return block[0], block[1]

    def _divided(self, piece: Piece, levels: str, gray: bool, reason: str) -> np.ndarray:
        size = piece.pixels.shape[:2]
        smaller = _halved(*size)
        if min(smaller) <= 2 * self.radius.whole:
            raise UserError(
                f"out of memory, also for a tile of {size[1]}x{size[0]} pixels ({reason})"
            )
        y_spans, x_spans = (
            tiles.spans(*wanted, length, side, self.radius.whole)
            for wanted, length, side in zip((piece.rows, piece.columns), size, smaller, strict=True)
        )
        xs = list(x_spans)
        rows = []
        for y in y_spans:
            row = []
            for x in xs:
                part = Piece(
                    piece.pixels[y.start : y.start + smaller[0], x.start : x.start + smaller[1]],
                    (_less(piece.inside[0], y.start), _less(piece.inside[1], x.start)),
                    _less((y.first, y.end), y.start),
                    _less((x.first, x.end), x.start),
                )
                row.append(self.run(part, levels, gray))
            rows.append(np.concatenate(row, axis=1))
        return np.concatenate(rows)


def _less(part: tuple[int, int], start: int) -> tuple[int, int]:
    return part[0] - start, part[1] - start


def _halved(height: int, width: int) -> tuple[int, int]:
    """A size with its longer side halved."""
    return (height, -(-width // 2)) if width >= height else (-(-height // 2), width)


def area_of(devices: list[jax.Device], channels: int, dtype: str) -> int:
    """Pixels that a window may have."""
    if devices[0].platform == "cpu":
        return CPU_AREA
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    known = [limit for limit in limits if limit]
    if not known:
        return CPU_AREA
    return min(int(SHARE * min(known) / (4 * channels * jnp.dtype(dtype).itemsize)), MOST_AREA)


def out_of_memory(error: Exception) -> bool:
    """Whether a device, or the host, had too little memory for a program."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
