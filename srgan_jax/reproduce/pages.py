"""results.md and what it shows, written from what trainings left."""

import pathlib

from PIL import Image

from srgan_jax import files
from srgan_jax.data import sources
from srgan_jax.data.degradation import Degradation
from srgan_jax.evaluate import panel
from srgan_jax.evaluate.methods import Method, baseline
from srgan_jax.evaluate.pairs import make_pair
from srgan_jax.evaluate.score import Measures, evaluate, from_json
from srgan_jax.reproduce import curves, document, plan, records, runs
from srgan_jax.reproduce.book import Book
from srgan_jax.reproduce.plan import Run

BASELINE = "bicubic.json"

# Of the built-in photographs, in colour and free: NASA, CC0, CC0, SpaceX (public domain).
SHOWN = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.png")


def complete(out: pathlib.Path, book: Book) -> list[str]:
    """The folders of all runs that were ever planned and are complete."""
    return [
        folder
        for folder, told in book.runs.items()
        if (out / folder / "results.json").exists()
        and (told["experiment"] != "table1" or (out / folder / records.TESTS).exists())
    ]


def write(
    book: Book, *, out: pathlib.Path, docs: pathlib.Path, command: str, recipe: str, miniature: bool
) -> None:
    """results.md of all that is complete, with curves, and the panels that have been drawn.

    Args:
      book: of the trainings in `out`.
      out: the folder of all trainings.
      docs: that of results.md.
      command: that is being run.
      recipe: of table 1, in words.
      miniature: whether it is one, which compares with nothing.
    """
    trained = [records.read(out / folder, book.runs[folder]) for folder in complete(out, book)]
    folder = files.make_folder(docs / "results", "--docs")
    of = {name: [one for one in trained if one.experiment == name] for name in plan.EXPERIMENTS}
    if of["table1"]:
        curves.draw(folder / "curves.png", of["table1"])
    if of["pictures"]:
        curves.draw_pictures(folder / "pictures.png", of["pictures"])
    shown = [folder / f"{name}.png" for name in ("curves", "pictures")]
    shown += [_panel(folder, name) for name in SHOWN]
    scales = [f"{layer} by {scale:.3g}" for layer, scale in book.feature_scales.items()]
    if scales:
        recipe += (
            " VGG losses are means over channels of features scaled so that the loss of SRResNet's"
            f" SR is as large as its pixel loss: {', '.join(scales)}."
        )
    text = document.results(
        trained,
        title=f"Results{' of a miniature, to see that all of it works' if miniature else ''}",
        command=command,
        recipe=recipe,
        baseline=from_json(records.of_file(out / BASELINE, {"rows": []})["rows"]),
        published=not miniature,
        missing=len(book.runs) - len(trained),
        pictures={file.stem: f"results/{file.name}" for file in shown if file.exists()},
    )
    with files.replacing(docs / "results.md") as aside:
        aside.write_text(text)


def draw_panels(
    shown: list[Run], out: pathlib.Path, docs: pathlib.Path, *, all_unseen: bool
) -> None:
    """Built-in photographs as networks enlarge them that were not trained on them.

    Args:
      shown: the complete runs of these networks.
      out: the folder of all trainings.
      docs: that of results.md.
      all_unseen: whether they were trained on none of the built-in photographs.
    """
    if not shown:
        return
    scale = shown[0].config.generator.scale
    methods: dict[str, Method] = {"bicubic": baseline("bicubic", scale)}
    methods |= {run.title: runs.method_of(run, out) for run in shown}
    pairs = []
    for split in ("validation", "train") if all_unseen else ("validation",):
        found = sources.load(source="builtin", path="", split=split)
        named = zip(found.names, found.images, strict=True)
        pairs += [make_pair(*item, Degradation(scale)) for item in named if item[0] in SHOWN]
    folder = files.make_folder(docs / "results", "--docs")
    for one in evaluate(pairs, methods, Measures(scale, ("modern",), ("psnr", "ssim"))):
        with files.replacing(_panel(folder, one.pair.name)) as aside:
            Image.fromarray(panel.of_scored(one, {})).save(aside, quality=90)


def _panel(folder: pathlib.Path, name: str) -> pathlib.Path:
    return folder / pathlib.Path(name).with_suffix(".jpg").name
