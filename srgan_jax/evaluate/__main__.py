"""Measure networks and baselines on test sets:

python -m srgan_jax.evaluate --weights=runs/first --data=Set5=DIR --out=runs/measured
"""

import collections
import dataclasses
import math
import pathlib
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import tqdm
from absl import flags

from srgan_jax import cli, cluster, files, images, processes, workdir
from srgan_jax.errors import UserError, some
from srgan_jax.evaluate import panel, perceptual, report
from srgan_jax.evaluate.arguments import (
    TestSet,
    Weights,
    chosen,
    find_sets,
    load_weights,
    named_folders,
)
from srgan_jax.evaluate.methods import BASELINES
from srgan_jax.evaluate.score import Measures, Row, Scored, Values, evaluate, to_json, to_rows
from srgan_jax.metrics.conventions import CONVENTIONS, METRICS
from srgan_jax.monitor import say

WEIGHTS = flags.DEFINE_multi_string(
    "weights",
    [],
    f"What enlarges, as often as there is something to compare: a .safetensors export, a workdir,"
    f" or one of {', '.join(BASELINES)}; NAME=W gives it another name in the tables.",
)
DATA = flags.DEFINE_multi_string(
    "data",
    [],
    "A test set, NAME=DIR with its HR pictures; `builtin` for the photograph that comes with"
    " scikit-image and is kept out of training.",
)
LR_DATA = flags.DEFINE_multi_string(
    "lr_data",
    [],
    "NAME=DIR with the LR pictures of the set NAME. Without it they are made by MATLAB's bicubic.",
)
RESULTS = flags.DEFINE_multi_string(
    "results",
    [],
    "NAME=DIR with the pictures of another program, measured without a network; of several sets,"
    " in a folder DIR/SET each.",
)
OUT = flags.DEFINE_string(
    "out", None, "Folder for results.json, results.md, the SR pictures and comparison panels."
)
SCALE = flags.DEFINE_integer("scale", None, "HR over LR size; by default the networks', or 4.")
CONVENTION = flags.DEFINE_list("conventions", list(CONVENTIONS), "What exactly is compared.")
METRIC = flags.DEFINE_list("metrics", list(METRICS), "Of mse, psnr, ssim, ms_ssim.")
NIQE = flags.DEFINE_string("niqe", None, "Measure NIQE too, with the parameters in this file.")
FIT_NIQE = flags.DEFINE_string(
    "fit_niqe", None, "Fit NIQE on the pristine pictures of this folder, write --niqe and end."
)
LPIPS = flags.DEFINE_multi_string(
    "lpips", [], "Measure LPIPS too, with these weights (python -m srgan_jax.convert.lpips)."
)
PER_IMAGE = flags.DEFINE_bool("per_image", False, "Print every picture's numbers too.")
REPORT_TABLE = flags.DEFINE_bool(
    "report_table", False, "Print the published tables, with what is measured beside them."
)


def main(argv: Sequence[str]) -> None:
    """Check the flags, and measure as one of the processes that there are."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: see --help")
    given = (WEIGHTS, DATA, LR_DATA, RESULTS, SCALE, OUT, CONVENTION, METRIC, NIQE, LPIPS)
    with cluster.joined({f"--{flag.name}": flag.value for flag in given}):
        if FIT_NIQE.value:
            with processes.together():
                if processes.is_first():
                    perceptual.fit_niqe(FIT_NIQE.value, NIQE.value)
        else:
            run()


class Job(NamedTuple):
    """What is to be measured, and where the results go."""

    given: Weights
    sets: dict[str, TestSet]
    measures: Measures
    out: pathlib.Path | None


def run() -> None:
    """Measure everything that was given, and write. Raises: UserError."""
    with processes.together():
        job = check()
    processes.check_equal({f"--data={label}": found.files for label, found in job.sets.items()})
    processes.check_equal({f"--weights={name}": told for name, told in job.given.files.items()})
    asked = job.measures.asked()
    report_of = Report(job.out, job.given.files)
    for label, found in job.sets.items():
        with processes.together():
            own = measure_share(job, label, found)
        values: dict[str, dict[str, Values]] = {}
        unreadable: list[str] = []
        converted: collections.Counter[str] = collections.Counter()
        for share in processes.exchange([own, found.unreadable, found.converted]):
            values |= share[0]
            unreadable += [line for line in share[1] if line not in unreadable]
            converted.update(share[2])
        together = dataclasses.replace(found, unreadable=unreadable, converted=converted)
        report_of.add(label, together, values, asked)
    if REPORT_TABLE.value:
        report_of.tables = report.published(report_of.rows, job.given.variants)
        say(report_of.tables)
    report_of.write()
    if job.out and report_of.rows:
        say(f"written: {job.out / 'results.json'}, {job.out / 'results.md'}")
    if report_of.unmeasured:
        listed = some(report_of.unmeasured, between="; ")
        raise UserError(f"{len(report_of.unmeasured)} not measured: {listed}")


def check() -> Job:
    """What the flags ask for. Raises: UserError."""
    given = load_weights(WEIGHTS.value or (BASELINES if REPORT_TABLE.value else []), SCALE.value)
    results = named_folders("results", RESULTS.value)
    taken = sorted(results.keys() & given.methods.keys())
    if taken:
        raise UserError(f"--results={taken[0]}=...: --weights has that name too: give another")
    if not given.methods and not results:
        raise UserError("--weights is missing: a .safetensors file, a workdir, or bicubic")
    sets = find_sets(
        DATA.value or (["builtin"] if REPORT_TABLE.value else []),
        LR_DATA.value,
        results,
        given.scale,
    )
    measures = Measures(
        border=given.scale,
        conventions=chosen("conventions", CONVENTION.value, CONVENTIONS),
        metrics=chosen("metrics", METRIC.value, ("mse", "psnr", "ssim", "ms_ssim")),
        others=perceptual.load(given.scale, NIQE.value, LPIPS.value),
    )
    asked = measures.asked()
    if REPORT_TABLE.value:
        check_report_table(given.scale, asked)
    if not asked:
        listed = ", ".join(measures.metrics)
        raise UserError(
            f"--metrics={listed}: not in --conventions={','.join(measures.conventions)}"
        )
    out = files.make_folder(pathlib.Path(OUT.value).expanduser(), "--out") if OUT.value else None
    return Job(given, sets, measures, out)


def measure_share(job: Job, label: str, found: TestSet) -> dict[str, dict[str, Values]]:
    """The numbers of this process's pictures of a set; writes what it made of them."""
    values = {}
    hidden = not (sys.stderr.isatty() and processes.is_first())
    count = -(-found.count // processes.count())
    shown = tqdm.tqdm(found.pairs, label, count, leave=False, disable=hidden)
    for scored in evaluate(shown, job.given.methods, job.measures):
        values[scored.pair.name] = scored.values
        if job.out:
            write_pictures(job.out, label, scored, job.given.methods)
    return values


def check_report_table(scale: int, asked: list[tuple[str, str]]) -> None:
    """Raises: UserError where what is asked for is not what the paper printed."""
    if scale != 4:
        raise UserError(f"--report_table is of enlargement by 4, not --scale={scale}")
    if not {("paper", "psnr"), ("paper", "ssim")} <= set(asked):
        raise UserError("--report_table needs psnr and ssim in --metrics, paper in --conventions")


def write_pictures(out: pathlib.Path, label: str, scored: Scored, computed: Iterable[str]) -> None:
    """The SR pictures that we made, and the comparison panel."""
    name = f"{pathlib.Path(scored.pair.name).stem}.png"
    pictures = {f"sr/{method}/{label}": scored.outputs[method] for method in computed}
    pictures[f"panels/{label}"] = panel.of_scored(scored, {})
    for folder, pixels in pictures.items():
        images.write(files.make_folder(out / folder, "--out") / name, pixels)


def remarks(rows: list[Row], count: int, asked: list[tuple[str, str]]) -> list[str]:
    """What a reader of the means must know: fewer pictures in some, and infinite ones."""
    methods = dict.fromkeys(row["method"] for row in rows)
    counts = {(method, *key): 0 for method in methods for key in asked}
    equal: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["image"] == "mean":
            continue
        counts[row["method"], row["convention"], row["metric"]] += 1
        if row["value"] == math.inf:
            equal.setdefault((row["image"], row["method"]), []).append(row["convention"])
    fewer: dict[tuple[str, str, int], list[str]] = {}
    for (method, convention, metric), number in counts.items():
        if number < count:
            title = report.TITLES.get(metric, metric)
            fewer.setdefault((convention, title, number), []).append(method)
    lines = []
    for (convention, title, number), having in fewer.items():
        of = "" if len(having) == len(methods) else f" of {', '.join(having)}"
        lines.append(
            f"{convention} {title}{of}: mean over {number} of {count} pictures, the others are too"
            " small or flat"
        )
    return lines + [
        f"{image}: {method} equals HR as {', '.join(conventions)} compares them, PSNR is infinite"
        for (image, method), conventions in sorted(equal.items())
    ]


@dataclasses.dataclass
class Report:
    """What is told of all sets: printed set by set, and written after each.

    Attributes:
      out: the folder, None where nothing is written.
      weights: the file of each network, and its digest.
      rows: by set.
      unmeasured: why pictures are missing from them.
      sections: of results.md.
      tables: the published ones with ours beside.
    """

    out: pathlib.Path | None
    weights: dict[str, dict[str, str]]
    rows: dict[str, list[Row]] = dataclasses.field(default_factory=dict)
    unmeasured: list[str] = dataclasses.field(default_factory=list)
    sections: list[str] = dataclasses.field(default_factory=list)
    tables: str = ""

    def add(
        self,
        label: str,
        found: TestSet,
        values: dict[str, dict[str, Values]],
        asked: list[tuple[str, str]],
    ) -> None:
        """Print a set's means, with --per_image each picture's numbers, and write."""
        self.unmeasured += found.unreadable
        if not values:
            return
        rows = to_rows(label, values)
        if not rows:
            listed = ", ".join(dict.fromkeys(metric for _, metric in asked))
            self.unmeasured.append(f"{label}: all pictures are too small for {listed}")
            return
        self.rows[label] = rows
        count, measured = found.count, len(values)
        of_all = f" of {count}" if measured < count else ""
        title = f"{label}: mean over {measured}{of_all} picture{'s' * (count > 1)}"
        notes = [f"{label}: {n} {how}" for how, n in sorted(found.converted.items())]
        notes += remarks(rows, measured, asked)
        if PER_IMAGE.value:
            for name in sorted(values):
                say(f"{label}, {name}")
                say(report.table(rows, name))
        for text in (title, report.table(rows), *notes):
            say(text)
        self.sections.append(report.markdown(rows, title) + "".join(f"\n- {n}" for n in notes))
        self.write()

    def write(self) -> None:
        """results.json with every number and what made it, results.md with the means."""
        if not (self.out and self.rows and processes.is_first()):
            return
        made: dict[str, Any] = workdir.environment()
        of_metrics = [path for path in (NIQE.value, *LPIPS.value) if path]
        content = {
            "rows": [row for of_set in self.rows.values() for row in to_json(of_set)],
            "unmeasured": self.unmeasured,
            "weights": self.weights,
            "metric_weights": [{"file": p, "sha256": files.sha256(p)} for p in of_metrics],
            "versions": made.pop("packages"),
            **made,
        }
        files.write_json(self.out / "results.json", content, indent=1)
        command = shlex.join(["python", "-m", "srgan_jax.evaluate", *made["command"][1:]])
        used = {row["convention"] for row in content["rows"]}
        described = [f"- `{c}`: {CONVENTIONS[c].description}" for c in CONVENTIONS if c in used]
        parts = ["# Results", f"`{command}`", *self.sections, "\n".join(described), self.tables]
        with files.replacing(self.out / "results.md") as aside:
            aside.write_text("\n\n".join(part.strip() for part in parts if part) + "\n")


if __name__ == "__main__":
    cli.run(main)
