"""Training curves, drawn with matplotlib."""

import pathlib
from collections.abc import Sequence

import matplotlib.figure

from srgan_jax import files
from srgan_jax.reproduce.records import Trained

PSNR = "eval/modern/psnr"
SIZE = (9.0, 3.6)  # inches


def draw(path: pathlib.Path, trained: Sequence[Trained]) -> None:
    """PSNR of the validation set over each training, and D's answers where there is a D.

    A colour is a network, a line a seed. Raises: UserError where the file cannot be written.
    """
    adversarial = [one for one in trained if one.phase == "gan"]
    figure = matplotlib.figure.Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots(1, 1 + bool(adversarial), squeeze=False)[0]
    colours = {
        title: f"C{i}" for i, title in enumerate(dict.fromkeys(one.title for one in trained))
    }
    for axis, shown in zip(axes, (trained, adversarial), strict=False):
        axis.set_xlabel("share of the updates")
        axis.grid(alpha=0.3)
        axis.ticklabel_format(axis="y", useOffset=False)
        labels = set()
        for one in shown:
            title = one.title
            label = None if title in labels else title
            labels.add(title)
            if axis is axes[0]:
                steps = [step / one.steps for step, _ in one.validations]
                values = [scalars[PSNR] for _, scalars in one.validations]
                axis.plot(steps, values, color=colours[title], label=label, linewidth=1, marker=".")
                continue
            steps = [step / one.steps for step, _ in one.health]
            for key, style in (("d/real", "-"), ("d/fake", ":")):
                values = [scalars[key] for _, scalars in one.health]
                named = f"{title}, {key[2:]}" if label else None
                axis.plot(
                    steps, values, style, color=colours[title], label=named, linewidth=1, marker="."
                )
        axis.legend(fontsize=7)
    axes[0].set_ylabel("PSNR of the validation set, Y, dB")
    if adversarial:
        axes[1].set_ylabel("mean answer of D")
        axes[1].set_ylim(0, 1)
    _save(figure, path)


def draw_pictures(path: pathlib.Path, trained: Sequence[Trained]) -> None:
    """PSNR of the validation set over the number of training pictures."""
    figure = matplotlib.figure.Figure(figsize=(SIZE[0] / 2, SIZE[1]), layout="constrained")
    axis = figure.subplots()
    found = sorted(
        (one.config["data"]["pictures"], one.validated("modern/psnr")) for one in trained
    )
    axis.plot([count for count, _ in found], [psnr for _, psnr in found], "o-")
    axis.set_xscale("log", base=2)
    axis.set_xticks([count for count, _ in found], [str(count) for count, _ in found])
    axis.set_xlabel("pictures trained on")
    axis.set_ylabel("PSNR of the validation set, Y, dB")
    axis.grid(alpha=0.3)
    _save(figure, path)


def _save(figure: matplotlib.figure.Figure, path: pathlib.Path) -> None:
    with files.replacing(path) as aside:
        figure.savefig(aside, dpi=120)
