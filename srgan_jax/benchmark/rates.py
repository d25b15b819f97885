"""Rates that were measured in turns, printed and written."""

import json
import statistics

from srgan_jax import files
from srgan_jax.monitor import say
from srgan_jax.workdir import environment


def report(rates: dict[str, list[float]], unit: str, output: str | None) -> None:
    """Say each kind's median rate, lowest and highest, and its share of the first's in the median.

    Shares are taken within a round, so that the machine was the same.

    Args:
      rates: by kind, one a round.
      unit: such as "images/s".
      output: a JSON file for the rates and the machine, or None.

    Raises: UserError where `output` cannot be written.
    """
    first, *_ = rates.values()
    for name, values in rates.items():
        share = statistics.median(a / b for a, b in zip(values, first, strict=True))
        say(
            f"{name:29} {statistics.median(values):9.1f} {unit}"
            f"  ({min(values):.1f} to {max(values):.1f})  {share:6.1%}"
        )
    if output:
        with files.replacing(output) as aside:
            aside.write_text(json.dumps({"unit": unit, "rates": rates, **environment()}) + "\n")
