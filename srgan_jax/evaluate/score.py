"""Pairs and methods to numbers: rows, one a number."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from srgan_jax.evaluate.methods import Method
from srgan_jax.evaluate.pairs import Pair
from srgan_jax.metrics.conventions import CONVENTIONS, METRICS, measure

Row = dict[str, Any]  # data, image, method, convention, metric, value
Values = dict[str, dict[str, float]]  # {convention: {metric: value}}

# SR and HR, uint8 [H, W, 3], to a number; NaN where the picture is too small.
Single = Callable[[np.ndarray, np.ndarray], float]


@dataclasses.dataclass(frozen=True)
class Measures:
    """What is measured.

    Attributes:
      border: pixels cropped on each side where the convention crops, the scale.
      conventions: of `CONVENTIONS`.
      metrics: of those that the conventions have.
      others: further metrics, by convention and name, one picture at a time.
    """

    border: int
    conventions: tuple[str, ...] = tuple(CONVENTIONS)
    metrics: tuple[str, ...] = METRICS
    others: dict[tuple[str, str], Single] = dataclasses.field(default_factory=dict)

    def asked(self) -> list[tuple[str, str]]:
        """Every convention and metric that a large enough picture gets."""
        usual = [
            (convention, metric)
            for convention in self.conventions
            for metric in self.metrics
            if metric in CONVENTIONS[convention].metrics
        ]
        return [*usual, *self.others]


@dataclasses.dataclass(frozen=True)
class Scored:
    """What every method made of one pair, uint8 [s*h, s*w, 3], and its numbers."""

    pair: Pair
    outputs: dict[str, np.ndarray]
    values: dict[str, Values]


def evaluate(
    pairs: Iterable[Pair], methods: dict[str, Method], measures: Measures
) -> Iterator[Scored]:
    """Enlarge and measure pairs, as many at once as there are local devices.

    Pairs of one size that follow each other share a program and a batch; each picture is on a
    device of its own. No more than a batch is held.
    """
    devices = jax.local_devices()
    for _, same_size in itertools.groupby(pairs, key=lambda pair: pair.hr.shape):
        size = 0
        while group := list(itertools.islice(same_size, len(devices))):
            # The last few repeat one of them, so that they share the program of those before.
            size = size or len(group)
            filled = group + group[-1:] * (size - len(group))
            scored = _evaluate_group(filled, methods, measures, devices)
            yield from itertools.islice(scored, len(group))


def _evaluate_group(
    group: list[Pair], methods: dict[str, Method], measures: Measures, devices: list[jax.Device]
) -> Iterator[Scored]:
    placed = NamedSharding(
        Mesh(np.array(devices[: len(group)]), ("pictures",)), PartitionSpec("pictures")
    )

    def spread(images: Iterable[np.ndarray]) -> jax.Array:
        return jax.device_put(np.stack(list(images)), placed)

    hr = spread(pair.hr for pair in group)
    lr_image = spread(pair.lr_image for pair in group)
    outputs = {name: method(lr_image) for name, method in methods.items()}
    for name in group[0].results:
        outputs[name] = spread(pair.results[name] for pair in group)
    measured = jax.device_get(
        {
            name: measure(
                sr,
                hr,
                border=measures.border,
                conventions=measures.conventions,
                metrics=measures.metrics,
            )
            for name, sr in outputs.items()
        }
    )
    pictures = jax.device_get(outputs)
    for i, pair in enumerate(group):
        own = {name: pictures[name][i] for name in outputs}
        values = {}
        for name, sr in own.items():
            values[name] = {  # in the order asked for, which jit's output does not keep
                convention: {
                    metric: float(measured[name][convention][metric][i])
                    for metric in measures.metrics
                    if metric in measured[name][convention]
                }
                for convention in measures.conventions
            }
            for (convention, metric), single in measures.others.items():
                value = single(sr, pair.hr)
                if not np.isnan(value):
                    values[name].setdefault(convention, {})[metric] = value
        yield Scored(pair, own, values)


def to_rows(data: str, values: dict[str, dict[str, Values]]) -> list[Row]:
    """Rows of a set from {image: {method: {convention: {metric: value}}}}, "mean" at the end.

    A mean is over the images that have the metric.
    """
    rows: list[Row] = [
        {
            "data": data,
            "image": image,
            "method": method,
            "convention": convention,
            "metric": metric,
            "value": value,
        }
        for image in sorted(values)
        for method, of_method in values[image].items()
        for convention, metrics in of_method.items()
        for metric, value in metrics.items()
    ]
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        key = (row["method"], row["convention"], row["metric"])
        groups.setdefault(key, []).append(row["value"])
    means = [
        dict(zip(rows[0], (data, "mean", *key, float(np.mean(group))), strict=True))
        for key, group in groups.items()
    ]
    return rows + means


def to_json(rows: list[Row]) -> list[Row]:
    """Rows as strict JSON takes them: an infinite PSNR is the text "inf"."""
    return [row | {"value": "inf"} if row["value"] == math.inf else row for row in rows]


def from_json(rows: list[Row]) -> list[Row]:
    """Rows as they were before `to_json`."""
    return [row | {"value": float(row["value"])} for row in rows]


def means_of(rows: list[Row]) -> dict[tuple[str, str, str], float]:
    """The means among the rows of one set, by method, convention and metric."""
    return {
        (row["method"], row["convention"], row["metric"]): row["value"]
        for row in rows
        if row["image"] == "mean"
    }
