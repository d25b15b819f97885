"""Measure networks and baselines on test sets:

python -m srgan_jax.evaluate --weights=runs/first --data=Set5=DIR --out=runs/measured
"""

import json
import math
import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import tqdm
from absl import flags, logging

from srgan_jax import cli, files, images, workdir
from srgan_jax.errors import UserError, some
from srgan_jax.evaluate import panel, perceptual, report
from srgan_jax.evaluate.arguments import chosen, find_sets, load_weights, named_folders
from srgan_jax.evaluate.methods import BASELINES
from srgan_jax.evaluate.score import Measures, Row, Scored, evaluate, to_json, to_rows
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
    """Check everything that was given, measure, write."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: see --help")
    if FIT_NIQE.value:
        perceptual.fit_niqe(FIT_NIQE.value, NIQE.value)
        return
    given = load_weights(WEIGHTS.value or (BASELINES if REPORT_TABLE.value else []), SCALE.value)
    results = named_folders("results", RESULTS.value)
    taken = sorted(results.keys() & given.methods.keys())
    if taken:
        raise UserError(f"--results={taken[0]}=...: --weights has that name too: give another")
    if not given.methods and not results:
        raise UserError("--weights is missing: a .safetensors file, a workdir, or bicubic")
    if REPORT_TABLE.value and given.scale != 4:
        raise UserError(f"--report_table is of enlargement by 4, not --scale={given.scale}")
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
    if not asked:
        listed = ", ".join(measures.metrics)
        raise UserError(
            f"--metrics={listed}: not in --conventions={','.join(measures.conventions)}"
        )
    out = files.make_folder(OUT.value, "--out") if OUT.value else None

    rows: dict[str, list[Row]] = {}
    titles: dict[str, str] = {}
    unmeasured: list[str] = []
    for label, (found, count, broken) in sets.items():
        values = {}
        shown = tqdm.tqdm(found, label, count, leave=False, disable=not sys.stderr.isatty())
        for scored in evaluate(shown, given.methods, measures):
            values[scored.pair.name] = scored.values
            if out:
                write_pictures(out, label, scored, given.methods)
        unmeasured += broken
        if not values:
            continue
        measured = to_rows(label, values)
        if not measured:
            listed = ", ".join(dict.fromkeys(metric for _, metric in asked))
            unmeasured.append(f"{label}: all pictures are too small for {listed}")
            continue
        rows[label] = measured
        of_all = f" of {count}" if len(values) < count else ""
        titles[label] = f"{label}: mean over {len(values)}{of_all} picture{'s' * (count > 1)}"
        show(rows[label], titles[label], list(values), asked)
    tables = report.published(rows, given.variants) if REPORT_TABLE.value else ""
    if tables:
        say(tables)
    if out and rows:
        write_results(out, rows, titles, tables, given.files, unmeasured)
        say(f"written: {out / 'results.json'}, {out / 'results.md'}")
    if unmeasured:
        raise UserError(f"{len(unmeasured)} not measured: {some(unmeasured)}")


def write_pictures(out: pathlib.Path, label: str, scored: Scored, computed: Iterable[str]) -> None:
    """The SR pictures that we made, and the comparison panel."""
    name = f"{pathlib.Path(scored.pair.name).stem}.png"
    pictures = {f"sr/{method}/{label}": scored.outputs[method] for method in computed}
    pictures[f"panels/{label}"] = panel.of_scored(scored, {})
    for folder, pixels in pictures.items():
        images.write(files.make_folder(out / folder, "--out") / name, pixels)


def show(rows: list[Row], title: str, names: list[str], asked: list[tuple[str, str]]) -> None:
    """Print the means of a set, and with --per_image each picture's numbers."""
    if PER_IMAGE.value:
        for name in sorted(names):
            say(f"{rows[0]['data']}, {name}")
            say(report.table(rows, name))
    say(title)
    say(report.table(rows))
    for line in remarks(rows, len(names), asked):
        say(line)


def remarks(rows: list[Row], count: int, asked: list[tuple[str, str]]) -> list[str]:
    """What a reader of the means must know: fewer pictures in some, and infinite ones."""
    measured: dict[tuple[str, str], set[str]] = {key: set() for key in asked}
    equal: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["image"] == "mean":
            continue
        measured[row["convention"], row["metric"]].add(row["image"])
        if row["value"] == math.inf:
            equal.setdefault((row["image"], row["method"]), []).append(row["convention"])
    fewer: dict[tuple[str, int], list[str]] = {}
    for (convention, metric), having in measured.items():
        if len(having) < count:
            told = fewer.setdefault((convention, len(having)), [])
            told.append(report.TITLES.get(metric, metric))
    return [
        f"{convention} {', '.join(metrics)}: mean over {number} of {count} pictures, the others are"
        " too small"
        for (convention, number), metrics in fewer.items()
    ] + [
        f"{image}: {method} equals HR as {', '.join(conventions)} compares them, PSNR is infinite"
        for (image, method), conventions in sorted(equal.items())
    ]


def write_results(
    out: pathlib.Path,
    rows: dict[str, list[Row]],
    titles: dict[str, str],
    tables: str,
    sources: dict[str, dict[str, str]],
    unmeasured: list[str],
) -> None:
    """results.json with every number and what made it, and results.md with the means."""
    made: dict[str, Any] = workdir.environment()
    of_metrics = {"niqe": NIQE.value} if NIQE.value else {}
    of_metrics |= {f"lpips {i}": path for i, path in enumerate(LPIPS.value)}
    content = {
        "rows": [row for of_set in rows.values() for row in to_json(of_set)],
        "unmeasured": unmeasured,
        "weights": sources,
        "metric_weights": {
            name: {"file": path, "sha256": files.sha256(path)} for name, path in of_metrics.items()
        },
        "versions": made.pop("packages"),
        **made,
    }
    with files.replacing(out / "results.json") as aside:
        aside.write_text(json.dumps(content, indent=1) + "\n")
    parts = ["# Results\n", "`" + " ".join(made["command"]) + "`\n"]
    parts += [report.markdown(of_set, titles[label]) for label, of_set in rows.items()]
    used = {row["convention"] for row in content["rows"]}
    parts += [
        f"- `{name}`: {CONVENTIONS[name].description}" for name in CONVENTIONS if name in used
    ]
    with files.replacing(out / "results.md") as aside:
        aside.write_text("\n".join([*parts, "", tables]))


if __name__ == "__main__":
    cli.run(main)
