"""Several ways to do one thing, measured in turns; what they give has to be the same."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from srgan_jax.errors import UserError

# What rounding may do where two sums were added up in different orders: some samples lie so near
# to the middle between two levels that they fall to either side.
MOST_LEVELS = 1
MOST_SHARE = 1e-3


# Does about so many steps: seconds a step.
Way = Callable[[int], float]


class Sample(NamedTuple):
    """One measurement: its seconds, the picture that it gave, and the most memory, where known."""

    seconds: float
    picture: np.ndarray
    peak: int | None = None


class Timed(NamedTuple):
    """All measurements of one way: the first, then one a round, in seconds; and of all the peak."""

    first: float
    seconds: list[float]
    peak: int | None

    def told(self, pixels: int) -> dict[str, Any]:
        """The figures of an output of so many pixels."""
        median = statistics.median(self.seconds)
        return {
            "images_per_second": 1 / median,
            "megapixels_per_second": pixels / 1e6 / median,
            "seconds": self.seconds,
            "first_seconds": self.first,
        } | ({} if self.peak is None else {"peak_bytes": self.peak})


class Difference(NamedTuple):
    """Of two 8-bit pictures: at most how many levels, and which share of the samples differs."""

    levels: int
    share: float


def measure(ways: list[Callable[[], Sample]], rounds: int) -> tuple[list[Timed], list[Difference]]:
    """Do each once, compare what the others give with the first, then go on in turns.

    Raises: UserError where they differ by more than rounding: then there is nothing to compare.
    """
    first = [way() for way in ways]
    differences = [difference(first[0].picture, sample.picture) for sample in first[1:]]
    samples: list[list[Sample]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, taken in zip(ways, samples, strict=True):
            taken.append(way()._replace(picture=first[0].picture))
    timed = []
    for begun, taken in zip(first, samples, strict=True):
        peaks = [sample.peak for sample in (begun, *taken) if sample.peak is not None]
        timed.append(Timed(begun.seconds, [x.seconds for x in taken], max(peaks, default=None)))
    return timed, differences


def in_rounds(ways: dict[str, Way], seconds: float, rounds: int) -> dict[str, list[float]]:
    """Seconds a step of each, one a round of about so many seconds, in turns."""
    count = {}
    for name, way in ways.items():
        way(1)  # the first is slower
        count[name] = max(round(seconds / way(1)), 1)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            taken[name].append(way(count[name]))
    return taken


def ratio(values: Sequence[float], of: Sequence[float]) -> float:
    """How many times one is the other: the median over rounds, so that the machine was the same."""
    return statistics.median(a / b for a, b in zip(values, of, strict=True))


def difference(ours: np.ndarray, theirs: np.ndarray) -> Difference:
    """How two uint8 pictures differ. Raises: UserError where it is by more than rounding."""
    if ours.shape != theirs.shape:
        raise UserError(f"nothing to compare: the sizes are {ours.shape} and {theirs.shape}")
    levels = np.maximum(ours, theirs) - np.minimum(ours, theirs)
    found = Difference(int(levels.max()), np.count_nonzero(levels) / levels.size)
    if found.levels > MOST_LEVELS or found.share > MOST_SHARE:
        raise UserError(
            f"nothing to compare: the outputs differ by up to {found.levels} levels, in"
            f" {found.share:.2%} of the samples, which is more than rounding: no ratio is given"
        )
    return found
