"""The order of work: plan, train, measure, document."""

import dataclasses
import pathlib
import sys

import jax
from ml_collections import ConfigDict
from PIL import Image

from srgan_jax import config as config_lib
from srgan_jax import files, recipes, weights
from srgan_jax.convert import tensors, vgg19
from srgan_jax.data import sources
from srgan_jax.data.degradation import Degradation
from srgan_jax.errors import StoppedError, UserError
from srgan_jax.evaluate import panel, perceptual
from srgan_jax.evaluate.arguments import TestSet, find_sets
from srgan_jax.evaluate.methods import Method, baseline, network
from srgan_jax.evaluate.pairs import make_pair
from srgan_jax.evaluate.score import Measures, evaluate
from srgan_jax.evaluate.workdirs import Evaluator
from srgan_jax.models import vgg
from srgan_jax.monitor import say
from srgan_jax.reproduce import curves, document, plan, runs
from srgan_jax.reproduce.plan import Run
from srgan_jax.reproduce.runs import Trained

LR_FOLDER = "LR_bicubic_X4"


@dataclasses.dataclass(frozen=True)
class Asked:
    """The flags, which `__main__` describes; "" for what was not given."""

    data: str
    val: str
    tests: str
    vgg: str
    niqe: str
    lpips: list[str]
    minutes: float
    steps: int | None
    seeds: int
    plain: bool
    miniature: bool
    experiments: tuple[str, ...]

    def fixed(self) -> dict[str, object]:
        """What trainings depend on, by flag: it stays while they go on."""
        return {
            "minutes": self.minutes,
            "steps": self.steps,
            "recipe": "paper" if self.plain else "ours",
            "miniature": self.miniature,
        }


def reproduce(
    asked: Asked, out: pathlib.Path, docs: pathlib.Path, ship: pathlib.Path | None, command: str
) -> None:
    """Do what is not done yet, and write results.md after each training.

    Args:
      asked: what.
      out: the folder of all trainings.
      docs: the folder of results.md.
      ship: that of the generators that are to come with the package; None: none are.
      command: that is being run, for the document.

    Raises: UserError.
    """
    base = base_config(asked)
    # What cannot be read is told now, not after hours.
    pictures, _ = recipes.load_pictures(base, progress=sys.stderr.isatty())
    Evaluator.from_config(base)
    measures = Measures(
        border=base.generator.scale,
        others=perceptual.load(base.generator.scale, asked.niqe or None, asked.lpips),
    )
    sets = test_sets(asked.tests, base.generator.scale)
    todo = all_runs(asked, base, len(pictures))
    steps = runs.kept_plan(out, asked.fixed(), todo)
    complete: list[Run] = []
    for run in todo:
        try:
            if not runs.is_trained(run, out) and not runs.train_one(run, out, steps[run.folder]):
                say(f"{len(complete)} of {len(todo)} trainings are complete")
                return
            if run.experiment == "table1":
                runs.measure(run, out, sets, measures)
        except StoppedError:
            say(f"stopped: {len(complete)} of {len(todo)} trainings are complete")
            raise
        complete.append(run)
        trained = [runs.read(one, out, steps[one.folder]) for one in complete]
        write(trained, asked, out, docs, command)
    say(f"written: {docs / 'results.md'}")
    if ship:
        for run in shipped(complete):
            file = ship / f"{run.network}.safetensors"
            weights.save_portable(file, weights.load_generator(runs.exported_by(run, out)))
            say(f"written: {file}, {run.title} of seed {run.seed}")


def shipped(complete: list[Run]) -> list[Run]:
    """Of table 1's first seed, the SRResNet by the pixel loss and the last SRGAN, if trained."""
    first = [run for run in complete if run.experiment == "table1" and run.seed == 0]
    return [run for run in first if run.name == plan.PARENT] + [
        run for run in first if run.phase == "gan"
    ][-1:]


def base_config(asked: Asked) -> ConfigDict:
    """Where pictures and weights are, and what the device computes in. Raises: UserError."""
    c = config_lib.paper()
    for group, path in ((c.data, asked.data), (c.eval, asked.val)):
        group.source = "folder" if path else "builtin"
        group.path = path
    c.vgg.path = asked.vgg
    c.dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if asked.miniature:
        c.data.batch_size, c.data.crop = 4, 32
        c.generator.blocks, c.generator.channels, c.generator.base = 2, 16, "bicubic"
        c.discriminator.channels, c.discriminator.dense = 8, 16
    return c


def all_runs(asked: Asked, base: ConfigDict, count: int) -> list[Run]:
    """Of all experiments asked for; `count` is of the pictures. Raises: UserError."""
    found: list[Run] = []
    if "table1" in asked.experiments:
        deepest = deepest_block(asked.vgg) if asked.vgg else 0
        if deepest < 2:
            say("no VGG19 weights: of table 1 only what the pixel loss trains")
        found += plan.table_1(base, deepest, asked.seeds, plain=asked.plain)
    if "recipe" in asked.experiments:
        found += plan.recipe(base)
    if "pictures" in asked.experiments:
        found += plan.pictures(base, count)
    return found


def deepest_block(path: str) -> int:
    """The last block of VGG19 that a file has whole. Raises: UserError where it is no VGG19."""
    found = vgg19.find(path, tensors.read(path))
    if found is None:
        raise UserError(f"--vgg={path}: no VGG19: accepted is {vgg19.ACCEPTED}")
    whole = [
        block
        for block, (count, _) in enumerate(vgg.STAGES, 1)
        if f"conv{block}_{count}" in found.convolutions
    ]
    return max(whole, default=0)


def test_sets(folder: str, scale: int) -> dict[str, TestSet]:
    """The sets of a folder, all in memory; of none the built-in photograph. Raises: UserError."""
    if not folder:
        return find_sets(["builtin"], [], {}, scale)
    names = sorted(path.parent.name for path in pathlib.Path(folder).glob("*/HR"))
    if not names:
        raise UserError(f"--tests={folder}: holds no SET/HR")
    hr = [f"{name}={folder}/{name}/HR" for name in names]
    lr_image = [
        f"{name}={folder}/{name}/{LR_FOLDER}"
        for name in names
        if pathlib.Path(folder, name, LR_FOLDER).is_dir()
    ]
    sets = find_sets(hr, lr_image, {}, scale)
    for label, found in sets.items():
        sets[label] = dataclasses.replace(found, pairs=list(found.pairs))
        if found.unreadable:
            raise UserError(f"--tests: {label}: {found.unreadable[0]}")
    return sets


def write(
    trained: list[Trained], asked: Asked, out: pathlib.Path, docs: pathlib.Path, command: str
) -> None:
    """results.md, and beside it results/ with what it shows."""
    folder = files.make_folder(docs / "results", "--docs")
    pictures = {}
    of = {name: [t for t in trained if t.run.experiment == name] for name in plan.EXPERIMENTS}
    if of["table1"]:
        curves.draw(folder / "curves.png", of["table1"])
        pictures["curves"] = "results/curves.png"
    if of["pictures"]:
        curves.draw_pictures(folder / "pictures.png", of["pictures"])
        pictures["pictures"] = "results/pictures.png"
    for name, drawn in panels(of["table1"], asked, out):
        with files.replacing(folder / f"{name}.jpg") as aside:
            drawn.save(aside, quality=90)
        pictures[name] = f"results/{name}.jpg"
    title = "Results of a miniature, to see that all of it works" if asked.miniature else "Results"
    recipe = "the paper's" + ("" if asked.plain else ", but: " + "; ".join(plan.CHANGES))
    text = document.results(trained, title=title, command=command, recipe=recipe, pictures=pictures)
    with files.replacing(docs / "results.md") as aside:
        aside.write_text(text)


def panels(
    trained: list[Trained], asked: Asked, out: pathlib.Path
) -> list[tuple[str, Image.Image]]:
    """Built-in photographs that no network was trained on, as those of seed 0 enlarge them."""
    shown = [one.run for one in trained if one.run.seed == 0]
    if not shown:
        return []
    scale = shown[0].config.generator.scale
    methods: dict[str, Method] = {"bicubic": baseline("bicubic", scale)}
    for run in shown:
        exported = weights.load_generator(runs.exported_by(run, out))
        methods[run.title] = network(exported.generator, exported.variables)
    pairs = []
    for split in ("validation", "train") if asked.data else ("validation",):
        found = sources.load(source="builtin", path="", split=split)
        named = zip(found.names, found.images, strict=True)
        pairs += [make_pair(*item, Degradation(scale)) for item in named if item[0] in SHOWN]
    drawn = evaluate(pairs, methods, Measures(scale, ("modern",), ("psnr", "ssim")))
    return [
        (pathlib.Path(one.pair.name).stem, Image.fromarray(panel.of_scored(one, {})))
        for one in drawn
    ]


# Of the built-in photographs, in colour and free: NASA, CC0, CC0, SpaceX (public domain).
SHOWN = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.png")
