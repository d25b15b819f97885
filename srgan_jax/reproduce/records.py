"""What complete trainings left in their folders, read again."""

import dataclasses
import json
import pathlib
import statistics
from collections.abc import Iterator
from typing import Any

from srgan_jax import files
from srgan_jax.evaluate.score import Row, from_json
from srgan_jax.reproduce.book import ADVICE

TESTS, WALL = "tests.json", "wall_seconds.json"


@dataclasses.dataclass(frozen=True)
class Trained:
    """A complete run.

    Attributes:
      experiment, title, seed, phase, steps: as `plan.Run` and its length.
      config: its config.json.
      rows: of the test sets; empty where they were not measured.
      sizes: of their pictures, such as "512x512", by SET/NAME.
      validations: (step, scalars) of the validation set.
      health: (step, scalars) of the losses.
      images_per_second: the median over the training.
      seconds: of training, without compilation and validation.
      wall_seconds: of all calls together, with them.
      starts: of environment.json, when, where and with what it ran.
    """

    experiment: str
    title: str
    seed: int
    phase: str
    steps: int
    config: dict[str, Any]
    rows: list[Row]
    sizes: dict[str, str]
    validations: list[tuple[int, dict[str, float]]]
    health: list[tuple[int, dict[str, float]]]
    images_per_second: float
    seconds: float
    wall_seconds: float
    starts: list[dict[str, Any]]

    def validated(self, metric: str) -> float:
        """What the last validation gave, such as of "modern/psnr"."""
        return self.validations[-1][1][f"eval/{metric}"]


def read(folder: pathlib.Path, told: dict[str, Any]) -> Trained:
    """The complete run of a folder, of which the plan's book has told."""
    lines = list(_lines(folder / "metrics.jsonl"))
    rates = [
        (line["step"], line["steps_per_second"])
        for line in _lines(folder / "timing.jsonl")
        if "steps_per_second" in line
    ]
    before = [0, *(step for step, _ in rates)]
    seconds = sum((step - last) / rate for (step, rate), last in zip(rates, before, strict=False))
    config = files.read_json(folder / "config.json", ADVICE)
    tests = of_file(folder / TESTS, {"rows": [], "sizes": {}})
    return Trained(
        **told,
        config=config,
        rows=from_json(tests["rows"]),
        sizes=tests["sizes"],
        validations=[(line["step"], line) for line in lines if "eval/modern/psnr" in line],
        health=[(line["step"], line) for line in lines if "loss" in line],
        images_per_second=statistics.median(r for _, r in rates) * config["data"]["batch_size"],
        seconds=seconds,
        wall_seconds=sum(of_file(folder / WALL, [])),
        starts=of_file(folder / "environment.json", []),
    )


def of_file(file: pathlib.Path, absent: Any) -> Any:
    """A JSON file, or `absent` where there is none. Raises: UserError where it is damaged."""
    return files.read_json(file, ADVICE) if file.exists() else absent


def _lines(file: pathlib.Path) -> Iterator[dict[str, Any]]:
    return map(json.loads, file.read_text().splitlines())
