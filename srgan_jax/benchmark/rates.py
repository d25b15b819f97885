"""Rates that were measured in turns."""

import statistics
from typing import Any

from srgan_jax.benchmark import turns
from srgan_jax.monitor import say


def rows(rates: dict[str, list[float]], unit: str) -> list[dict[str, Any]]:
    """Say each kind's median rate, lowest and highest, and its share of the first's in the median.

    Shares are taken within a round, so that the machine was the same.

    Args:
      rates: by kind, one a round.
      unit: of what, in a second, such as "images".

    Returns: the same as rows of figures.
    """
    first, *_ = rates.values()
    found = []
    for name, values in rates.items():
        median = statistics.median(values)
        share = turns.ratio(values, of=first)
        say(
            f"{name:29} {median:9.1f} {unit}/s"
            f"  ({min(values):.1f} to {max(values):.1f})  {share:6.1%}"
        )
        found.append({"name": name, f"{unit}_per_second": median, "rounds": values, "share": share})
    return found
