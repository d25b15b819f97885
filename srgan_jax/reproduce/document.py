"""results.md: what was trained and measured, beside what was published. Pure text."""

import math
import statistics
from collections.abc import Iterable, Sequence

from srgan_jax.evaluate import report
from srgan_jax.evaluate.report import OTHERS, PAPER, REPORT, markdown_table, number
from srgan_jax.evaluate.score import Row, means_of
from srgan_jax.metrics.conventions import CONVENTIONS
from srgan_jax.reproduce.records import Trained

VALIDATED = (("modern", "psnr"), ("modern", "ssim"))
SIDE = 512  # of the report's photograph
ALIASES = {"b100": "BSD100", "bsds100": "BSD100"} | {name.lower(): name for name in PAPER}


def results(
    trained: Sequence[Trained],
    *,
    title: str,
    command: str,
    recipe: str,
    baseline: Sequence[Row],
    published: bool,
    missing: int,
    pictures: dict[str, str],
) -> str:
    """The whole document.

    Args:
      trained: complete runs, of any experiments.
      title: its first line.
      command: that gave it.
      recipe: how the networks of table 1 were trained, in words.
      baseline: rows of the method "bicubic" on the test sets.
      published: whether ours compare with what was published.
      missing: how many trainings were planned that are not complete.
      pictures: files to show by what they are: "curves", "pictures", and panels by their names.
    """
    by_experiment: dict[str, list[Trained]] = {}
    for one in trained:
        by_experiment.setdefault(one.experiment, []).append(one)
    parts = [f"# {title}", f"`{command}`", _made_with(trained)]
    if missing:
        parts.append(
            f"**Unfinished: {missing} of {len(trained) + missing} trainings are missing.**"
        )
    if table := by_experiment.get("table1"):
        parts += _table_1(table, baseline, published)
        parts += [_trainings(table, recipe)]
        if "curves" in pictures:
            parts += [f"![Training curves]({pictures['curves']})"]
        parts += [_photographs(table, baseline, published)]
    if changed := by_experiment.get("recipe"):
        parts += [_recipe(changed)]
    if fewer := by_experiment.get("pictures"):
        parts += [_pictures(fewer)]
        if "pictures" in pictures:
            parts += [f"![PSNR over the number of pictures]({pictures['pictures']})"]
    panels = {name: file for name, file in pictures.items() if name not in ("curves", "pictures")}
    if panels:
        parts += ["## Pictures", *(f"![{name}]({file})" for name, file in panels.items())]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _made_with(trained: Sequence[Trained]) -> str:
    starts = sorted(
        (start for one in trained for start in one.starts), key=lambda start: start["date"]
    )
    dates = dict.fromkeys((starts[0]["date"], starts[-1]["date"]))

    def told(values: Iterable[str]) -> str:
        return " and ".join(dict.fromkeys(values))

    versions = [
        told(f"{name} {start['packages'][name]}" for start in starts) for name in ("jax", "flax")
    ]
    python = told(f"Python {start['python']}" for start in starts)
    revisions = told(start["revision"][:12] or "unknown" for start in starts)
    return (
        f"{' to '.join(dates)}, on {told(start['devices'] for start in starts)},"
        f" {', '.join(versions)}, {python}, source {revisions}."
    )


def _grouped(trained: Iterable[Trained]) -> dict[str, list[Trained]]:
    """By what tables call them: the seeds of each."""
    groups: dict[str, list[Trained]] = {}
    for one in trained:
        groups.setdefault(one.title, []).append(one)
    return groups


def spread(metric: str, values: Sequence[float]) -> str:
    """The mean, and the sample standard deviation where there are several."""
    if not values or not all(map(math.isfinite, values)):
        return "-"
    mean = number(metric, statistics.mean(values))
    if len(values) == 1:
        return mean
    return f"{mean} ± {number(metric, statistics.stdev(values))}"


def _seeds(groups: dict[str, list[Trained]]) -> str:
    count = max(map(len, groups.values()))
    return f"mean and standard deviation over {count} seeds" if count > 1 else "one seed"


Means = dict[tuple[str, str], float]  # of one set, by convention and metric


def _measured(table: list[Trained], baseline: Sequence[Row]) -> dict[str, dict[str, list[Means]]]:
    """Of every set and method, of every seed."""
    of_method: dict[str, list[Sequence[Row]]] = {"bicubic": [baseline]} if baseline else {}
    for title, ones in _grouped(one for one in table if one.rows).items():
        of_method[title] = [one.rows for one in ones]
    found: dict[str, dict[str, list[Means]]] = {}
    for title, seeds in of_method.items():
        for rows in seeds:
            for name in dict.fromkeys(row["data"] for row in rows):
                means = means_of([row for row in rows if row["data"] == name])
                told = {(convention, metric): v for (_, convention, metric), v in means.items()}
                found.setdefault(name, {}).setdefault(title, []).append(told)
    return found


def _values(seeds: list[Means], convention: str, metric: str) -> list[float]:
    return [means[convention, metric] for means in seeds if (convention, metric) in means]


def _known(name: str) -> str:
    """The set that a folder's name means, as published tables call it."""
    return ALIASES.get(name.lower(), name)


def _table_1(table: list[Trained], baseline: Sequence[Row], published: bool) -> list[str]:
    found = _measured(table, baseline)
    if not found:
        return []
    told = _seeds(_grouped(table))
    parts = [
        f"## Tables 1 and 2 of the paper, convention `paper`: {told}",
        "What a convention compares is in the README, under Evaluate.",
    ]
    lines = []
    for name, methods in found.items():
        for title, seeds in methods.items():
            cells = [name, title]
            for place, metric in enumerate(("psnr", "ssim")):
                values = _values(seeds, "paper", metric)
                theirs = PAPER.get(_known(name), {}).get(title) if published else None
                target = theirs[place] if theirs else None
                gap = None if target is None or not values else statistics.mean(values) - target
                cells += [
                    number(metric, target),
                    spread(metric, values),
                    "-" if gap is None else format(gap, f"+{report.FORMATS[metric]}"),
                ]
            lines.append(cells)
    head = ["set", "network", "published PSNR", "ours", "difference"]
    head += ["published SSIM", "ours", "difference"]
    parts.append(markdown_table(head, lines))
    for convention in CONVENTIONS:
        if convention != "paper" and (of := _convention(convention, found, published)):
            parts += [f"## Convention `{convention}`: {told}", of]
    return parts


def _convention(convention: str, found: dict[str, dict[str, list[Means]]], published: bool) -> str:
    """Every metric that a convention has, of every set and network; published ones first."""
    metrics = list(
        dict.fromkeys(
            metric
            for methods in found.values()
            for seeds in methods.values()
            for means in seeds
            for c, metric in means
            if c == convention
        )
    )
    if not metrics:
        return ""
    lines = []
    for name, methods in found.items():
        others = OTHERS.get(convention, ()) if published else ()
        lines += [
            [name, f"published: {whose}", *(number(m, values.get(m)) for m in metrics)]
            for known, whose, values in others
            if known == _known(name)
        ]
        lines += [
            [name, title, *(spread(m, _values(seeds, convention, m)) for m in metrics)]
            for title, seeds in methods.items()
        ]
    head = ["set", "network", *(report.TITLES.get(metric, metric) for metric in metrics)]
    return markdown_table(head, lines)


def _trainings(table: list[Trained], recipe: str) -> str:
    lines = []
    for title, ones in _grouped(table).items():
        steps = " and ".join(dict.fromkeys(f"{one.steps:,}" for one in ones))
        lines.append(
            [
                title,
                steps,
                str(ones[0].config["data"]["batch_size"]),
                ones[0].config["dtype"],
                f"{statistics.median(one.images_per_second for one in ones):,.0f}",
                f"{statistics.mean(one.seconds for one in ones) / 60:.1f}",
                f"{statistics.mean(one.wall_seconds for one in ones) / 60:.1f}",
                spread("psnr", [one.validated("modern/psnr") for one in ones]),
            ]
        )
    head = ["network", "updates", "batch", "computed in", "images/s", "minutes", "with all else"]
    head += ["validation, dB"]
    return (
        f"## Trainings\n\n{recipe}\n\nMinutes are of training one network; with all else: also"
        " reading, compiling, validating. Validation is in the convention `modern`.\n\n"
        + markdown_table(head, lines)
    )


def _photographs(table: list[Trained], baseline: Sequence[Row], published: bool) -> str:
    """The report's table, and ours on every photograph of the test sets that is as large."""
    metrics = ("mse", "psnr", "ssim")
    lines = [
        ["", network, *(number(metric, values[metric]) for metric in metrics)]
        for network, values in REPORT.items()
        if published
    ]
    measured = [one for one in table if one.rows and one.seed == 0]
    if not measured:
        return ""
    methods = {"bicubic": baseline} | {one.title: one.rows for one in measured}
    found = []
    for title, rows in methods.items():
        values: dict[tuple[str, str], dict[str, float]] = {}
        for row in rows:
            if row["convention"] == "full" and row["image"] != "mean":
                values.setdefault((row["data"], row["image"]), {})[row["metric"]] = row["value"]
        found += [
            [f"{data}, {image}", title, *(number(metric, of.get(metric)) for metric in metrics)]
            for (data, image), of in values.items()
            if measured[0].sizes.get(f"{data}/{image}") == f"{SIDE}x{SIDE}"
        ]
    found.sort(key=lambda cells: cells[0])
    head = ["photograph", "network", "MSE", "PSNR", "SSIM"]
    return (
        "## The report's table: one photograph, 128x128 to 512x512, convention `full`\n\n"
        "The report does not say which photograph. Ours are those of the test sets that have its"
        " size, as seed 0 enlarges them.\n\n" + markdown_table(head, lines + found)
    )


def _recipe(trained: list[Trained]) -> str:
    groups = _grouped(trained)
    plain = [one.validated("modern/psnr") for one in next(iter(groups.values()))]
    lines = []
    for title, ones in groups.items():
        psnr = [one.validated("modern/psnr") for one in ones]
        lines.append(
            [
                title,
                " and ".join(dict.fromkeys(f"{one.steps:,}" for one in ones)),
                f"{statistics.mean(one.seconds for one in ones) / 60:.1f}",
                *(spread(m, [one.validated(f"{c}/{m}") for one in ones]) for c, m in VALIDATED),
                f"{statistics.mean(psnr) - statistics.mean(plain):+.2f}",
            ]
        )
    head = ["recipe", "updates", "minutes", "validation, dB", "SSIM", "difference, dB"]
    return (
        "## The recipe: each change alone, in the same time\n\n"
        f"SRResNet-MSE on the validation set, convention `modern`, {_seeds(groups)}.\n\n"
        + markdown_table(head, lines)
    )


def _pictures(trained: list[Trained]) -> str:
    groups = _grouped(trained)
    lines = [
        [title, f"{ones[0].steps:,}"]
        + [spread(m, [one.validated(f"{c}/{m}") for one in ones]) for c, m in VALIDATED]
        for title, ones in groups.items()
    ]
    head = ["pictures", "updates", "validation, dB", "SSIM"]
    return (
        "## How many pictures\n\nSRResNet-MSE on fewer pictures, evenly spread over all, on the"
        f" validation set, convention `modern`, {_seeds(groups)}.\n\n" + markdown_table(head, lines)
    )
