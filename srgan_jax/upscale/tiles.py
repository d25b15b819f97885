"""Where windows lie on a picture, so that together they give what the whole picture would.

A network's output pixel depends on the input pixels within its receptive field. A window gives
right output wherever that lies inside it, or ends with the picture itself. Windows lie inside the
picture where it is large enough, so that their borders are its borders or far enough away; a
smaller picture is filled up and masked (`network`).

Sizes and positions are in LR pixels.
"""

import itertools
import math
from collections.abc import Collection, Iterator
from typing import NamedTuple

from srgan_jax.models.generator import Generator


class Sizes(NamedTuple):
    """Which windows a device is given: every size that it has not had is a compilation.

    Attributes:
      sides: that windows may have.
      familiar: one that has been compiled is taken if it costs at most so many times the best one.
    """

    sides: tuple[int, ...]
    familiar: float


# Where compiling takes part of a second, and where it takes many.
FINE = Sizes(
    (*range(8, 128, 8), *range(128, 512, 16), *range(512, 1024, 32), *range(1024, 4097, 128)),
    1.05,
)
COARSE = Sizes(
    sides=(16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096),
    familiar=1.5,
)


class Radius(NamedTuple):
    """How far a network sees: pixels on each side that an output pixel's own depends on."""

    features: int  # of what enlargement starts from, on LR
    enlargement: int  # of SR, on these features and on LR

    @property
    def whole(self) -> int:
        """Of SR, on LR."""
        return self.features + self.enlargement


def radius_of(generator: Generator) -> Radius:
    """The receptive field of a network, from its switches."""
    features = generator.kernel // 2 + 2 * generator.blocks + (generator.mid != "none")
    reach, pixel = 0.0, 1.0  # in LR pixels
    for factor in generator.stages:
        if generator.upsample == "nearest":
            pixel /= factor
            reach += pixel
        else:
            reach += pixel
            pixel /= factor
    reach += pixel * (generator.hr_conv + generator.kernel // 2)
    base = {"none": 0, "bilinear": 1, "bicubic": 2}[generator.base]
    return Radius(features, max(math.ceil(reach), base))


class Span(NamedTuple):
    """A window along one axis, and the part of it whose output is right and wanted.

    Positions are the axis'; the window is [start, start + its length), the part [first, end).
    """

    start: int
    first: int
    end: int


def next_span(first: int, end: int, size: int, window: int, radius: int) -> Span:
    """The window that gives output from `first` on, as far as it can, but not beyond `end`.

    Args:
      first: where the output begins.
      end: of all that is wanted, at most `size`.
      size: of the axis.
      window: length; where it is not less than `size`, there is one window, at 0.
      radius: of the receptive field; less than half the window.
    """
    start = max(first - radius, 0)
    if start + window >= size:
        return Span(max(size - window, 0), first, end)
    return Span(start, first, min(end, start + window - radius))


def spans(first: int, end: int, size: int, window: int, radius: int) -> Iterator[Span]:
    """Windows whose parts make up [first, end), in order; arguments as of `next_span`."""
    while first < end:
        span = next_span(first, end, size, window, radius)
        yield span
        first = span.end


def count(size: int, window: int, radius: int) -> int:
    """How many windows `spans` gives for a whole axis."""
    if window >= size:
        return 1
    return 1 + math.ceil((size - window) / (window - 2 * radius))


def choose(
    height: int,
    width: int,
    radius: int,
    *,
    sizes: Sizes,
    area: int,
    most_rows: int,
    longest: int | None = None,
    familiar: Collection[tuple[int, int]] = (),
) -> tuple[int, int]:
    """The windows' height and width with which a picture costs least.

    Args:
      height: the picture's.
      width: the picture's.
      radius: of the receptive field.
      sizes: that windows may have.
      area: pixels that a window may have, except where none is small enough.
      most_rows: output rows, in LR pixels, that a row of windows may give, likewise.
      longest: a side that windows have where the picture is not smaller, and that none exceeds.
      familiar: sizes that are compiled already.
    """

    def fitting(size: int) -> list[int]:
        if longest is None:
            sides = sizes.sides
        elif size >= longest:
            return [longest]
        else:
            sides = (*(side for side in sizes.sides if side < longest), longest)
        # One that does not see far enough does for a picture that it holds.
        return [side for side in sides if side > 2 * radius or side >= size]

    highs, wides = fitting(height), fitting(width)
    area = max(area, highs[0] * wides[0])
    costs = {}
    for high, wide in itertools.product(highs, wides):
        rows = height if high >= height else high - 2 * radius
        if high * wide <= area and (rows <= most_rows or high == highs[0]):
            windows = count(height, high, radius) * count(width, wide, radius)
            costs[high, wide] = windows * high * wide
    least = min(costs.values())
    known = [size for size in costs if size in familiar and costs[size] <= sizes.familiar * least]
    return min(known or list(costs), key=costs.__getitem__)
