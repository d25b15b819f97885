"""Tables: of a set's means or pictures, and the published ones with ours beside them."""

import math
from collections.abc import Iterable
from typing import Any

from srgan_jax.evaluate.score import Row, means_of
from srgan_jax.models.generator import Generator

FORMATS = {"mse": ".2f", "psnr": ".2f", "ssim": ".4f", "ms_ssim": ".4f", "niqe": ".3f"}
TITLES = {"mse": "MSE", "psnr": "PSNR", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "niqe": "NIQE"}


def number(metric: str, value: float | None) -> str:
    """A value as tables show it, "-" for none."""
    return "-" if value is None else format(value, FORMATS.get(metric, ".4f"))


def table(rows: list[Row], image: str = "mean") -> str:
    """The means of a set, or one image's values: a line a method, columns by convention."""
    values = {
        (row["method"], row["convention"], row["metric"]): row["value"]
        for row in rows
        if row["image"] == image
    }
    if not values:
        return "too small"
    methods = list(dict.fromkeys(method for method, _, _ in values))
    columns: dict[str, list[str]] = {}
    for _, convention, metric in values:
        metrics = columns.setdefault(convention, [])
        if metric not in metrics:
            metrics.append(metric)
    groups = []
    for convention, metrics in columns.items():
        widths = {m: max(8 if m == "mse" else 6, len(TITLES.get(m, m))) for m in metrics}
        head = "  ".join(f"{TITLES.get(m, m):>{widths[m]}}" for m in metrics)
        lines = [
            "  ".join(
                f"{number(m, values.get((method, convention, m))):>{widths[m]}}" for m in metrics
            )
            for method in methods
        ]
        groups.append([f"{convention:^{len(head)}}", head, *lines])
    width = max(map(len, methods))
    first = ["", "", *methods]
    return "\n".join(
        " | ".join(cells).rstrip()
        for cells in zip((f"{name:<{width}}" for name in first), *groups, strict=True)
    )


def markdown_table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A table in Markdown, the first column left-aligned, the others right."""
    head = list(head)
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *lines))


def markdown(rows: list[Row], title: str) -> str:
    """The means of a set in Markdown."""
    means = means_of(rows)
    columns = list(dict.fromkeys((convention, metric) for _, convention, metric in means))
    head = ["", *(f"{convention} {TITLES.get(m, m)}" for convention, m in columns)]
    methods = dict.fromkeys(method for method, _, _ in means)
    lines = [
        [method, *(number(m, means.get((method, c, m))) for c, m in columns)] for method in methods
    ]
    return f"## {title}\n\n{markdown_table(head, lines)}\n"


# Ledig et al., table 1 (the SRGAN variants) and table 2 (nearest and bicubic), x4, "paper"
# convention: {set: {network: (PSNR, SSIM)}}.
PAPER = {
    "Set5": {
        "nearest": (26.26, 0.7552),
        "bicubic": (28.43, 0.8211),
        "SRResNet-MSE": (32.05, 0.9019),
        "SRResNet-VGG22": (30.51, 0.8803),
        "SRGAN-MSE": (30.64, 0.8701),
        "SRGAN-VGG22": (29.84, 0.8468),
        "SRGAN-VGG54": (29.40, 0.8472),
    },
    "Set14": {
        "nearest": (24.64, 0.7100),
        "bicubic": (25.99, 0.7486),
        "SRResNet-MSE": (28.49, 0.8184),
        "SRResNet-VGG22": (27.19, 0.7807),
        "SRGAN-MSE": (26.92, 0.7611),
        "SRGAN-VGG22": (26.44, 0.7518),
        "SRGAN-VGG54": (26.02, 0.7397),
    },
    "BSD100": {
        "nearest": (25.02, 0.6606),
        "bicubic": (25.94, 0.6935),
        "SRResNet-MSE": (27.58, 0.7620),
        "SRGAN-VGG54": (25.16, 0.6688),
    },
}
# Published elsewhere, x4: {convention: ((set, whose, {metric: value}), ...)}. "modern" of BSD100
# by tf-perceptual-eusr, of the images that the paper's authors released.
_RELEASED = {
    "SRResNet-MSE": (27.601, 0.737),
    "SRResNet-VGG22": (26.322, 0.694),
    "SRGAN-MSE": (25.981, 0.643),
    "SRGAN-VGG22": (25.697, 0.660),
    "SRGAN-VGG54": (25.176, 0.641),
}
_SETS = ("Set5", "Set14", "BSD100")
_SRRESNETS = {
    "SRResNet of Lornatang": (32.16, 28.57, 27.56),
    "SRResNet of trevor-m": (32.11, 28.61, 27.57),
    "SRResNet of sgrvinod": (31.93, 28.59, 27.59),
}
_BASICSR = {"MSRResNet of BasicSR": (30.25, 26.78), "MSRGAN of BasicSR": (28.02, 24.75)}
OTHERS: dict[str, tuple[tuple[str, str, dict[str, float]], ...]] = {
    "modern": (
        *(
            (name, whose, {"psnr": psnr})
            for whose, values in _SRRESNETS.items()
            for name, psnr in zip(_SETS, values, strict=True)
        ),
        *(
            ("BSD100", f"{whose}, the authors' images", {"psnr": psnr, "ssim": ssim})
            for whose, (psnr, ssim) in _RELEASED.items()
        ),
    ),
    "rgb": tuple(
        (name, whose, {"psnr": psnr})
        for whose, values in _BASICSR.items()
        for name, psnr in zip(_SETS, values, strict=False)
    ),
}
TABLE_1 = ("SRResNet-MSE", "SRResNet-VGG22", "SRGAN-MSE", "SRGAN-VGG22", "SRGAN-VGG54")
TABLE_2 = ("nearest", "bicubic", "SRResNet-MSE", "SRGAN-VGG54")

# Bhise and Koechlin: one photograph, 128x128 to 512x512, "full" convention. None: not stated.
REPORT: dict[str, dict[str, float | None]] = {
    "SR-ResNet-L2 (report)": {"mse": 280.0, "psnr": 21.97, "ssim": 0.47},
    "SRGAN (the paper's authors, in the report)": {"mse": None, "psnr": 29.4, "ssim": 0.84},
    "SRGAN (report)": {"mse": 68.16, "psnr": 29.75, "ssim": 0.72},
}


def variant(metadata: dict[str, Any]) -> str | None:
    """The network of the paper's table 1 that an export is, from its architecture and training.

    None for what the paper does not have, such as fewer blocks, or a VGG loss on other layers.
    """
    try:
        training = metadata["training"]
        config = training["config"]
        gan = training["network"] == "srgan"
        content = config["gan" if gan else "pretrain"]["content"]
        layers = tuple(config["vgg"]["layers"])
        architecture = dict(metadata["architecture"])
    except (KeyError, TypeError):
        return None
    for free in ("prelu", "icnr"):  # the paper does not say
        architecture.pop(free, None)
    if any(getattr(Generator(), name) != value for name, value in architecture.items()):
        return None
    name = "SRGAN" if gan else "SRResNet"
    if not content["vgg"]:
        return f"{name}-MSE"
    loss = {("relu2_2",): "VGG22", ("relu5_4",): "VGG54"}.get(layers)
    known = f"{name}-{loss}"
    return known if known in TABLE_1 and not content["pixel"] else None


def published(sets: dict[str, list[Row]], variants: dict[str, str]) -> str:
    """The paper's tables 1 and 2 and the report's table in Markdown, ours beside.

    Args:
      sets: rows by the name of the set.
      variants: which network of the paper a method is.
    """
    parts = []
    for title, columns, names in (
        ("Table 1 of the paper", TABLE_1, ("Set5", "Set14")),
        ("Table 2 of the paper", TABLE_2, ("Set5", "Set14", "BSD100")),
    ):
        lines = [line for name in names for line in _beside(name, columns, sets, variants)]
        parts.append(
            f"## {title} (PSNR / SSIM, convention `paper`)\n\n"
            + markdown_table(["", *columns], lines)
        )
    return "\n\n".join([*parts, _report_part(sets)]) + "\n"


def _beside(
    name: str, columns: tuple[str, ...], sets: dict[str, list[Row]], variants: dict[str, str]
) -> list[list[str]]:
    """Lines of one set: published, and for each of our methods the value and the difference."""
    theirs = PAPER[name]

    def cell(values: tuple[float, float] | None, sign: str = "") -> str:
        if values is None or not all(map(math.isfinite, values)):
            return "-"
        psnr, ssim = (
            round(value, digits) + 0.0 for value, digits in zip(values, (2, 4), strict=True)
        )
        return f"{psnr:{sign}.2f} / {ssim:{sign}.4f}"  # + 0.0: no "-0.00"

    lines = [[f"{name}, published", *(cell(theirs.get(column)) for column in columns)]]
    means = means_of(sets.get(name, []))
    ours: dict[str, tuple[float, float]] = {
        method: (means[method, "paper", "psnr"], means[method, "paper", "ssim"])
        for method in variants
        if {(method, "paper", "psnr"), (method, "paper", "ssim")} <= means.keys()
        and variants[method] in columns
    }
    # A line holds one method a column; further ones of the same network get lines of their own.
    by_column = {
        column: [method for method in ours if variants[method] == column] for column in columns
    }
    for i in range(max(1, *map(len, by_column.values()))):
        used = {column: found[i] for column, found in by_column.items() if i < len(found)}
        mine = {column: ours[method] for column, method in used.items()}
        gaps = {
            column: (values[0] - theirs[column][0], values[1] - theirs[column][1])
            for column, values in mine.items()
            if column in theirs
        }
        named = [method for column, method in used.items() if method != column]
        label = f"{name}, ours" + (f" ({', '.join(named)})" if named else "")
        lines.append([label, *(cell(mine.get(column)) for column in columns)])
        lines.append(["difference", *(cell(gaps.get(column), "+") for column in columns)])
    return lines


def _report_part(sets: dict[str, list[Row]]) -> str:
    """The report's table, and our methods on every single picture of the sets of one picture."""
    metrics = ("mse", "psnr", "ssim")
    lines = [
        [network, *(number(metric, values[metric]) for metric in metrics)]
        for network, values in REPORT.items()
    ]
    for name, rows in sets.items():
        if len({row["image"] for row in rows}) != 2:  # one, and the mean
            continue
        means = means_of(rows)
        lines += [
            [f"{method} (ours, {name})"]
            + [number(metric, means.get((method, "full", metric))) for metric in metrics]
            for method in dict.fromkeys(method for method, convention, _ in means)
        ]
    head = ["", *(TITLES[metric] for metric in metrics)]
    return (
        "## Table of the report (one photograph, 128x128 to 512x512, convention `full`)\n\n"
        "The report does not say which photograph; a difference to another one tells nothing.\n\n"
        + markdown_table(head, lines)
    )
