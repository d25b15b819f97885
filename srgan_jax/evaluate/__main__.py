"""Measure networks and baselines on test sets:

python -m srgan_jax.evaluate --weights=runs/first --data=Set5=DIR --out=runs/measured
"""

import json
import math
import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import tqdm
from absl import flags, logging

from srgan_jax import cli, files, images, weights, workdir
from srgan_jax.data import sources
from srgan_jax.data.degradation import Degradation
from srgan_jax.errors import UserError, some
from srgan_jax.evaluate import pairs, panel, perceptual, report
from srgan_jax.evaluate.methods import BASELINES, Method, baseline, network
from srgan_jax.evaluate.score import Measures, Row, Scored, evaluate, to_json, to_rows
from srgan_jax.evaluate.workdirs import NETWORKS
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


class Weights(NamedTuple):
    """What the networks given are: how they enlarge, from where, and the paper's name for them."""

    methods: dict[str, Method]
    files: dict[str, dict[str, str]]
    variants: dict[str, str]
    scale: int


def main(argv: Sequence[str]) -> None:
    """Check everything that was given, measure, write."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: see --help")
    if FIT_NIQE.value:
        perceptual.fit_niqe(FIT_NIQE.value, NIQE.value)
        return
    given = load_weights(WEIGHTS.value or (BASELINES if REPORT_TABLE.value else []))
    results = named_folders("results", RESULTS.value)
    taken = sorted(results.keys() & given.methods.keys())
    if taken:
        raise UserError(f"--results={taken[0]}=...: --weights has that name too: give another")
    if not given.methods and not results:
        raise UserError("--weights is missing: a .safetensors file, a workdir, or bicubic")
    if REPORT_TABLE.value and given.scale != 4:
        raise UserError(f"--report_table is of enlargement by 4, not --scale={given.scale}")
    sets = find_sets(given.scale, results)
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
        write_results(out, rows, titles, tables, given.files)
        say(f"written: {out / 'results.json'}, {out / 'results.md'}")
    if unmeasured:
        raise UserError(f"{len(unmeasured)} not measured: {some(unmeasured)}")


def load_weights(given: Iterable[str]) -> Weights:
    """The methods that --weights names. Raises: UserError."""
    methods: dict[str, Method | str] = {}
    sources: dict[str, dict[str, str]] = {}
    variants: dict[str, str] = {}
    scales: dict[str, int] = {}

    def add(name: str, method: Method | str) -> None:
        if "/" in name or name in methods:
            problem = "has a slash" if "/" in name else "is there twice"
            raise UserError(f"--weights: the name {name!r} {problem}: give another, NAME=W")
        methods[name] = method

    for text in given:
        name, path = split_name(text)
        if path in BASELINES:
            add(name or path, path)
            variants[name or path] = path
            continue
        for label, file in exports(name, pathlib.Path(path)):
            exported = weights.load_generator(file)
            add(label, network(exported.generator, exported.variables))
            sources[label] = {"file": str(file), "sha256": files.sha256(file)}
            scales[str(file)] = exported.generator.scale
            known = report.variant(exported.metadata["training"])
            if known:
                variants[label] = known
    if SCALE.value is not None:
        scales[f"--scale={SCALE.value}"] = SCALE.value
    if len(set(scales.values())) > 1:
        listed = ", ".join(f"{name} by {scale}" for name, scale in scales.items())
        raise UserError(f"not all enlarge alike ({listed}): measure them one after the other")
    scale = next(iter(scales.values()), 4)
    if scale < 2:
        raise UserError(f"--scale={scale}: must be at least 2")
    ready = {
        name: baseline(method, scale) if isinstance(method, str) else method
        for name, method in methods.items()
    }
    return Weights(ready, sources, variants, scale)


def exports(name: str, path: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
    """The files that a path stands for, with the names of their methods. Raises: UserError."""
    if not path.is_dir():
        return [(name or path.stem, path)]
    found = [file for n in NETWORKS if (file := path / f"{n}.safetensors").exists()]
    if not found:
        raise UserError(f"--weights={path}: a folder without srresnet or srgan.safetensors")
    if len(found) == 1 and name:
        return [(name, found[0])]
    return [(f"{name}-{file.stem}" if name else file.stem, file) for file in found]


def split_name(text: str) -> tuple[str, str]:
    """NAME=VALUE, or a value without a name, which may hold "=" where it exists."""
    name, equals, value = text.partition("=")
    return (name, value) if equals and not pathlib.Path(text).exists() else ("", text)


def named_folders(flag: str, given: list[str]) -> dict[str, str]:
    """Folders by name, from several NAME=DIR. Raises: UserError."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder) or "/" in name:
            raise UserError(f"--{flag}={text}: give NAME=DIR, such as --{flag}=Set5=Set5/HR")
        if name in found:
            raise UserError(f"--{flag}: the name {name!r} is there twice")
        found[name] = folder
    return found


def find_sets(
    scale: int, results: dict[str, str]
) -> dict[str, tuple[Iterable[pairs.Pair], int, list[str]]]:
    """The pairs, their number, and the list of what is broken, by set. Raises: UserError."""
    given = DATA.value or (["builtin"] if REPORT_TABLE.value else [])
    if not given:
        raise UserError("--data is missing: NAME=DIR with HR pictures, or builtin")
    folders = named_folders("data", [text for text in given if text != "builtin"])
    lr_folders = named_folders("lr_data", LR_DATA.value)
    unknown = sorted(lr_folders.keys() - folders.keys())
    if unknown:
        raise UserError(f"--lr_data={unknown[0]}=...: there is no --data={unknown[0]}=DIR")
    if "builtin" in given and "builtin" in folders:
        raise UserError("--data: the name 'builtin' is there twice")
    sets: dict[str, tuple[Iterable[pairs.Pair], int, list[str]]] = {}
    if "builtin" in given:
        if results:
            raise UserError("--results cannot be measured on --data=builtin: give NAME=DIR")
        pictures = sources.load(source="builtin", path="", split="validation")
        named = list(zip(pictures.names, pictures.images, strict=True))
        sets["builtin"] = (
            [pairs.make_pair(*item, Degradation(scale)) for item in named],
            len(named),
            [],
        )
    for label, folder in folders.items():
        own = {}
        for name, path in results.items():
            below = pathlib.Path(path) / label
            own[name] = str(below) if below.is_dir() or len(folders) > 1 else path
        found = pairs.find(label, folder, scale, lr_folders.get(label), own)
        sets[label] = (found.read(), len(found.hr), found.unreadable)
    return sets


def chosen(flag: str, given: list[str], known: Iterable[str]) -> tuple[str, ...]:
    """The values of a list flag, in their own order. Raises: UserError for an unknown one."""
    for name in given:
        if name not in known:
            raise UserError(f"--{flag}={name}: must be of {', '.join(known)}")
    if not given:
        raise UserError(f"--{flag} is empty: give some of {', '.join(known)}")
    return tuple(given)


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
) -> None:
    """results.json with every number and what made it, and results.md with the means."""
    made: dict[str, Any] = workdir.environment()
    of_metrics = {"niqe": NIQE.value} if NIQE.value else {}
    of_metrics |= {f"lpips {i}": path for i, path in enumerate(LPIPS.value)}
    content = {
        "rows": [row for of_set in rows.values() for row in to_json(of_set)],
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
