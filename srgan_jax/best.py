"""Which validation of a phase was the best, as metrics.jsonl tells."""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

LOWER_IS_BETTER = ("mse",)


class Validation(NamedTuple):
    """What one validation gave."""

    step: int
    phase: str
    value: float


class Best:
    """The validations of a run so far, by one metric.

    They are read back from metrics.jsonl, so that there is no state of their own to save; a run
    that lost its last steps has dropped them there, and comes to the same validations again.
    """

    def __init__(self, metric: str):
        """`metric` is of `config.MEASURED`; "" for none: then nothing is ever best."""
        self.metric = metric
        self._sign = -1.0 if metric.split("/")[-1] in LOWER_IS_BETTER else 1.0
        self._found: dict[int, Validation] = {}

    def read(self, metrics: pathlib.Path, *, since: int) -> None:
        """Take over what a run logged after step `since`."""
        with metrics.open() as lines:
            for line in lines:
                values = json.loads(line)
                if values["step"] > since:
                    self.add(values["step"], values["phase"], values)

    def add(self, step: int, phase: str, scalars: Mapping[str, float]) -> None:
        """Count a validation; scalars of something else, and NaN, count for nothing."""
        value = scalars.get(f"eval/{self.metric}", math.nan)
        if not math.isnan(value):
            self._found[step] = Validation(step, phase, value)

    def forget(self) -> None:
        """Count from here on."""
        self._found.clear()

    def of(self, phase: str) -> Validation | None:
        """The best one of a phase, of equals the first; None where there is none."""
        ranked = self._ranked(phase)
        return ranked[0] if ranked else None

    def among(self, steps: Sequence[int], count: int) -> set[int]:
        """The best `count` of each phase among these steps; those not validated are none."""
        kept: set[int] = set()
        for phase in {found.phase for found in self._found.values()}:
            there = [found.step for found in self._ranked(phase) if found.step in steps]
            kept.update(there[:count])
        return kept

    def _ranked(self, phase: str) -> list[Validation]:
        """The validations of a phase, the best first."""
        mine = [found for found in self._found.values() if found.phase == phase]
        return sorted(mine, key=lambda found: (-self._sign * found.value, found.step))
