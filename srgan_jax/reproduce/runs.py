"""One training after the other: planned, trained, measured, and read again."""

import dataclasses
import json
import pathlib
import statistics
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from srgan_jax import files, images, recipes, train, weights
from srgan_jax.benchmark import bare, counts, turns
from srgan_jax.errors import UserError
from srgan_jax.evaluate import report
from srgan_jax.evaluate.arguments import TestSet
from srgan_jax.evaluate.methods import network
from srgan_jax.evaluate.score import Measures, Row, evaluate, from_json, to_json, to_rows
from srgan_jax.monitor import duration, say
from srgan_jax.parallel import Parallel
from srgan_jax.reproduce import plan
from srgan_jax.reproduce.plan import Run
from srgan_jax.workdir import Workdir, device_names

SECONDS, ROUNDS = 2.0, 5  # of measuring what a step takes

# What a step takes in the loop, with validations and checkpoints, over the bare step.
MARGIN = 1.05


def config_of(run: Run, out: pathlib.Path, steps: int) -> ConfigDict:
    """What a run is trained by."""
    config = plan.with_length(run, steps)
    if run.parent:
        config.init_from = str(out / run.parent / "srresnet.safetensors")
    return config


def lengths(runs: list[Run], minutes: float, steps: int | None) -> dict[str, int]:
    """How many steps each run takes, by its folder.

    Args:
      runs: of which each takes its share.
      minutes: of training; what a step takes is measured.
      steps: in their place; None where the minutes count.
    """
    taken: dict[tuple[str, str], float] = {}
    found = {}
    for run in runs:
        if steps is not None:
            found[run.folder] = plan.whole_steps(run.share * steps)
            continue
        key = run.experiment, run.name  # a seed does not change it
        if key not in taken:
            taken[key] = step_seconds(run)
        found[run.folder] = plan.whole_steps(run.share * 60 * minutes / (MARGIN * taken[key]))
        if run.seed == 0:
            milliseconds = f"{1e3 * taken[key]:.2f} ms"
            say(f"{run.title}: {milliseconds} a step, {found[run.folder]} steps a training")
    return found


def step_seconds(run: Run) -> float:
    """What a step of a run takes on all devices, measured."""
    config = plan.with_length(run, plan.INTERVALS * 100)
    vgg, vgg_params = recipes.load_content_network(config)
    (form,) = counts.forms(config, vgg)
    parallel = Parallel(config.parallel)
    way = bare.prepare(config, form, parallel, vgg_params, config.data.batch_size).way()
    (rounds,) = turns.in_rounds({run.title: way}, SECONDS / ROUNDS, ROUNDS).values()
    return statistics.median(rounds)


def is_trained(run: Run, out: pathlib.Path) -> bool:
    """Whether a run ended, and measured itself."""
    return exported_by(run, out).exists() and (out / run.folder / "results.json").exists()


def exported_by(run: Run, out: pathlib.Path) -> pathlib.Path:
    """The file of its generator."""
    return out / run.folder / f"{run.network}.safetensors"


def train_one(run: Run, out: pathlib.Path, steps: int) -> bool:
    """Begin or continue a run; returns whether it is complete, not stopped. Raises: UserError."""
    say(f"{run.experiment}: {run.title}, seed {run.seed}: {out / run.folder}")
    train.train(config_of(run, out, steps), Workdir(out / run.folder))
    return is_trained(run, out)


def measure(run: Run, out: pathlib.Path, sets: dict[str, TestSet], measures: Measures) -> None:
    """Measure a run's generator on the test sets, unless that was done; writes tests.json."""
    file = out / run.folder / "tests.json"
    if file.exists():
        return
    rows: list[Row] = []
    sizes = {}
    exported = weights.load_generator(exported_by(run, out))
    methods = {run.title: network(exported.generator, exported.variables)}
    for label, found in sets.items():
        values = {}
        for one in evaluate(found.pairs, methods, measures):
            values[one.pair.name] = one.values
            sizes[f"{label}/{one.pair.name}"] = images.size_text(*one.pair.hr.shape[:2])
        rows += to_rows(label, values)
        say(f"{label}, {run.title}\n{report.table([row for row in rows if row['data'] == label])}")
    with files.replacing(file) as aside:
        aside.write_text(json.dumps({"rows": to_json(rows), "sizes": sizes}) + "\n")


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a complete run left.

    Attributes:
      run: which.
      steps: its length.
      rows: of the test sets; empty where they were not measured.
      sizes: of their pictures, such as "512x512", by SET/NAME.
      validations: (step, scalars) of the validation set.
      health: (step, scalars) of the losses.
      images_per_second: the median over the training.
      seconds: of training, without compilation and validation.
      starts: of environment.json, where and with what it ran.
    """

    run: Run
    steps: int
    rows: list[Row]
    sizes: dict[str, str]
    validations: list[tuple[int, dict[str, float]]]
    health: list[tuple[int, dict[str, float]]]
    images_per_second: float
    seconds: float
    starts: list[dict[str, Any]]

    def validated(self, metric: str) -> float:
        """What the last validation gave."""
        return self.validations[-1][1][f"eval/{metric}"]


def read(run: Run, out: pathlib.Path, steps: int) -> Trained:
    """What a complete run left in its folder."""
    folder = out / run.folder
    lines = list(_lines(folder / "metrics.jsonl"))
    file = folder / "tests.json"
    tests = json.loads(file.read_text()) if file.exists() else {"rows": [], "sizes": {}}
    rates = [
        (line["step"], line["steps_per_second"])
        for line in _lines(folder / "timing.jsonl")
        if "steps_per_second" in line
    ]
    before = [0, *(step for step, _ in rates)]
    seconds = sum((step - last) / rate for (step, rate), last in zip(rates, before, strict=False))
    return Trained(
        run=run,
        steps=steps,
        rows=from_json(tests["rows"]),
        sizes=tests["sizes"],
        validations=[(line["step"], line) for line in lines if "eval/modern/psnr" in line],
        health=[(line["step"], line) for line in lines if "loss" in line],
        images_per_second=statistics.median(rate for _, rate in rates) * run.config.data.batch_size,
        seconds=seconds,
        starts=Workdir(folder).starts(),
    )


def _lines(file: pathlib.Path) -> Iterator[dict[str, Any]]:
    return map(json.loads, file.read_text().splitlines())


def kept_plan(out: pathlib.Path, asked: dict[str, Any], runs: list[Run]) -> dict[str, int]:
    """The lengths that an earlier call planned, or new ones, which are kept; by folder.

    Args:
      out: the folder of all runs.
      asked: what must not change, by flag; has "minutes" and "steps".
      runs: all of them.

    Raises: UserError where an earlier call was asked for something else.
    """
    file = out / "plan.json"
    held: dict[str, Any] = {"asked": asked, "device": device_names(), "steps": {}}
    if file.exists():
        held = json.loads(file.read_text())
        for flag, value in asked.items():
            before = held["asked"].get(flag)
            if before != value:
                raise UserError(
                    f"--{flag}={value}: what is in {out} was begun with --{flag}={before}: give"
                    " that, or another --out"
                )
    new = [run for run in runs if run.folder not in held["steps"]]
    if new:
        held["steps"] |= lengths(new, asked["minutes"], asked["steps"])
        with files.replacing(file) as aside:
            aside.write_text(json.dumps(held, indent=1) + "\n")
    total = sum(run.share * asked["minutes"] for run in runs)
    if asked["steps"] is None:
        say(f"{len(runs)} trainings, {duration(60 * total)} in all")
    return held["steps"]
