"""results.md: what was trained and measured, beside what was published. Pure text."""

import datetime
import math
import statistics
from collections.abc import Iterable, Sequence

from srgan_jax.evaluate import report
from srgan_jax.evaluate.report import PAPER, REPORT, markdown_table, number
from srgan_jax.evaluate.score import means_of
from srgan_jax.metrics.conventions import CONVENTIONS
from srgan_jax.reproduce.runs import Trained

VALIDATED = (("modern", "psnr"), ("modern", "ssim"))
SIDE = 512  # of the report's photograph


def results(
    trained: Sequence[Trained], *, title: str, command: str, recipe: str, pictures: dict[str, str]
) -> str:
    """The whole document.

    Args:
      trained: complete runs, of any experiments.
      title: its first line.
      command: that gave it.
      recipe: how the networks of table 1 were trained, in words.
      pictures: files to show by what they are: "curves", "pictures", and panels by their names.
    """
    by_experiment: dict[str, list[Trained]] = {}
    for one in trained:
        by_experiment.setdefault(one.run.experiment, []).append(one)
    parts = [f"# {title}", f"`{command}`", _made_with(trained)]
    if table := by_experiment.get("table1"):
        parts += _table_1(table)
        parts += [_trainings(table, recipe)]
        if "curves" in pictures:
            parts += [f"![Training curves]({pictures['curves']})"]
        parts += [_photographs(table)]
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
    starts = [start for one in trained for start in one.starts]
    devices = " and ".join(dict.fromkeys(start["devices"] for start in starts))
    packages: dict[str, str] = starts[-1]["packages"]
    versions = ", ".join(f"{name} {packages[name]}" for name in ("jax", "flax") if name in packages)
    revision = " and ".join(dict.fromkeys(start["revision"][:12] or "?" for start in starts))
    date = datetime.date.today().isoformat()
    return f"{date}, on {devices}, {versions}, Python {starts[-1]['python']}, source {revision}."


def _grouped(trained: Iterable[Trained]) -> dict[str, list[Trained]]:
    """By what tables call them: the seeds of each."""
    groups: dict[str, list[Trained]] = {}
    for one in trained:
        groups.setdefault(one.run.title, []).append(one)
    return groups


def spread(metric: str, values: Sequence[float]) -> str:
    """The mean, and the sample standard deviation where there are several."""
    if not values or not all(map(math.isfinite, values)):
        return "-"
    mean = number(metric, statistics.mean(values))
    if len(values) == 1:
        return mean
    return f"{mean} ± {number(metric, statistics.stdev(values))}"


def _means(one: Trained, data: str) -> dict[tuple[str, str], float]:
    """Of one set, by convention and metric."""
    rows = [row for row in one.rows if row["data"] == data]
    return {
        (convention, metric): value for (_, convention, metric), value in means_of(rows).items()
    }


def _table_1(table: list[Trained]) -> list[str]:
    groups = _grouped(one for one in table if one.rows)
    if not groups:
        return []
    sets = list(dict.fromkeys(row["data"] for of in groups.values() for row in of[0].rows))
    seeds = max(map(len, groups.values()))
    told = f", mean and standard deviation over {seeds} seeds" if seeds > 1 else ", one seed"
    parts = [
        f"## Tables 1 and 2 of the paper: convention `paper`{told}",
        "LR and HR, and what a convention compares, are explained in the README under Evaluate.",
    ]
    lines = []
    for data in sets:
        for title, ones in groups.items():
            means = [_means(one, data) for one in ones]
            cells = [data, title]
            for place, metric in enumerate(("psnr", "ssim")):
                values = [of[("paper", metric)] for of in means if ("paper", metric) in of]
                published = PAPER.get(data, {}).get(title)
                theirs = published[place] if published else None
                cells += [number(metric, theirs), spread(metric, values)]
                gap = statistics.mean(values) - theirs if values and theirs is not None else None
                digits = report.FORMATS[metric]
                cells.append("-" if gap is None else format(gap, f"+{digits}"))
            lines.append(cells)
    head = ["set", "network", "published PSNR", "ours", "difference"]
    head += ["published SSIM", "ours", "difference"]
    parts.append(markdown_table(head, lines))
    for convention in CONVENTIONS:
        if convention != "paper" and (of := _convention(convention, sets, groups)):
            parts += [f"## Convention `{convention}`{told}", of]
    return parts


def _convention(convention: str, sets: list[str], groups: dict[str, list[Trained]]) -> str:
    """Every metric that a convention has, of every set and network."""
    found = {
        (data, title): [_means(one, data) for one in ones]
        for data in sets
        for title, ones in groups.items()
    }
    metrics = dict.fromkeys(
        metric for means in found.values() for of in means for c, metric in of if c == convention
    )
    if not metrics:
        return ""
    lines = [
        [data, title]
        + [spread(m, [of[convention, m] for of in means if (convention, m) in of]) for m in metrics]
        for (data, title), means in found.items()
    ]
    head = ["set", "network", *(report.TITLES.get(metric, metric) for metric in metrics)]
    return markdown_table(head, lines)


def _trainings(table: list[Trained], recipe: str) -> str:
    lines = []
    for title, ones in _grouped(table).items():
        config = ones[0].run.config
        lines.append(
            [
                title,
                f"{ones[0].steps:,}",
                str(config.data.batch_size),
                config.dtype,
                f"{statistics.median(one.images_per_second for one in ones):,.0f}",
                f"{statistics.mean(one.seconds for one in ones) / 60:.1f}",
                spread("psnr", [one.validated("modern/psnr") for one in ones]),
            ]
        )
    head = ["network", "updates", "batch", "computed in", "images/s", "minutes", "validation, dB"]
    return f"## Trainings\n\nRecipe: {recipe}.\n\n" + markdown_table(head, lines)


def _photographs(table: list[Trained]) -> str:
    """The report's table, and ours on every photograph of the test sets that is as large."""
    lines = [
        ["", network, *(number(metric, values[metric]) for metric in ("mse", "psnr", "ssim"))]
        for network, values in REPORT.items()
    ]
    found = []
    for title, ones in _grouped(one for one in table if one.rows).items():
        values: dict[tuple[str, str], dict[str, float]] = {}
        for row in ones[0].rows:
            if row["convention"] == "full" and row["image"] != "mean":
                values.setdefault((row["data"], row["image"]), {})[row["metric"]] = row["value"]
        for (data, image), metrics in values.items():
            if f"{SIDE}x{SIDE}" == ones[0].sizes.get(f"{data}/{image}"):
                cells = [number(metric, metrics.get(metric)) for metric in ("mse", "psnr", "ssim")]
                found.append([f"{data}, {image}", title, *cells])
    head = ["photograph", "network", "MSE", "PSNR", "SSIM"]
    return (
        "## The report's table: one photograph, 128x128 to 512x512, convention `full`\n\n"
        "The report does not say which photograph: ours are those of the test sets that have its"
        " size, of one seed.\n\n" + markdown_table(head, lines + sorted(found))
    )


def _recipe(trained: list[Trained]) -> str:
    plain = trained[0].validated("modern/psnr")
    lines = [
        [
            one.run.title,
            f"{one.steps:,}",
            f"{one.seconds / 60:.1f}",
            *(number(m, one.validated(f"{c}/{m}")) for c, m in VALIDATED),
            f"{one.validated('modern/psnr') - plain:+.2f}",
        ]
        for one in trained
    ]
    head = ["recipe", "updates", "minutes", "validation, dB", "SSIM", "difference, dB"]
    return (
        "## The recipe: each change alone, in the same time\n\n"
        "SRResNet-MSE, one seed, on the validation set, convention `modern`.\n\n"
        + markdown_table(head, lines)
    )


def _pictures(trained: list[Trained]) -> str:
    lines = [
        [one.run.title, f"{one.steps:,}"]
        + [number(m, one.validated(f"{c}/{m}")) for c, m in VALIDATED]
        for one in trained
    ]
    head = ["pictures", "updates", "validation, dB", "SSIM"]
    return (
        "## How many pictures\n\nSRResNet-MSE on fewer pictures, evenly spread over all, one seed,"
        " on the validation set, convention `modern`.\n\n" + markdown_table(head, lines)
    )
