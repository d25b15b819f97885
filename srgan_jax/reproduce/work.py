"""The order of work: plan, train, measure, document."""

import dataclasses
import functools
import pathlib
import sys
from typing import Any

import jax
from ml_collections import ConfigDict

from srgan_jax import config as config_lib
from srgan_jax import pretrained, recipes, weights
from srgan_jax.convert import vgg19
from srgan_jax.errors import StoppedError, UserError, some
from srgan_jax.evaluate import perceptual
from srgan_jax.evaluate.arguments import TestSet, find_sets
from srgan_jax.evaluate.methods import baseline
from srgan_jax.evaluate.score import Measures
from srgan_jax.evaluate.workdirs import Evaluator
from srgan_jax.models import vgg
from srgan_jax.monitor import say
from srgan_jax.parallel import Parallel
from srgan_jax.reproduce import pages, plan, records, runs
from srgan_jax.reproduce.book import Book
from srgan_jax.reproduce.plan import Run

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
    out: pathlib.Path
    docs: pathlib.Path
    ship: pathlib.Path | None
    command: str

    def fixed(self) -> dict[str, object]:
        """What lengths and networks depend on, by flag: it stays while trainings go on."""
        return {
            "minutes": self.minutes,
            "steps": self.steps,
            "recipe": "paper" if self.plain else "ours",
            "miniature": self.miniature,
            "data": self.data,
            "val": self.val,
            "vgg": self.vgg,
        }


def reproduce(asked: Asked) -> None:
    """Do what is not done yet, and write results.md after each training.

    Raises: UserError, at the end where a training failed and others could go on.
    """
    check_ship(asked)
    base = base_config(asked)
    deepest = deepest_block(asked.vgg) if asked.vgg else 0
    # What cannot be read or does not fit is told now, not after hours.
    pictures = recipes.load_pictures(base, progress=sys.stderr.isatty())
    validation = Evaluator.from_config(base)
    scale = base.generator.scale
    others = perceptual.load(scale, asked.niqe or None, asked.lpips)
    measures, sets = Measures(border=scale, others=others), test_sets(asked.tests, scale)
    todo = all_runs(asked, base, deepest, len(pictures[0]))
    for run in todo:
        config = plan.with_length(run, 100)
        config_lib.validate(config)
        Parallel(config.parallel).check_batch(config.data.batch_size, config.optim.accumulate)

    book = Book.open(asked.out / "plan.json", asked.fixed())
    runs.plan_lengths(book, todo, pictures)
    measured = functools.partial(runs.measure, sets=sets, measures=measures)
    if "table1" in asked.experiments:
        measured("bicubic", lambda: baseline("bicubic", scale), asked.out / pages.BASELINE)
    shown_as: dict[str, Any] = {
        "out": asked.out,
        "docs": asked.docs,
        "command": asked.command,
        "recipe": recipe_of(asked),
        "miniature": asked.miniature,
    }
    failed: dict[str, str] = {}
    for run in todo:
        if run.parent in failed:
            failed[run.folder] = f"{run.parent} failed"
            continue
        try:
            news = False
            if not runs.is_trained(run, asked.out, book):
                config = runs.trained_by(run, asked.out, book, validation.pairs)
                if not runs.train_one(run, asked.out, config):
                    break
                news = True
            if run.experiment == "table1":
                file = asked.out / run.folder / records.TESTS
                method = functools.partial(runs.method_of, run, asked.out)
                news |= measured(run.title, method, file)
            if news:
                pages.write(book, **shown_as)
        except StoppedError:
            break
        except UserError as error:
            say(f"{run.folder}: {error}")
            failed[run.folder] = str(error)
    done = [run for run in todo if run.folder in pages.complete(asked.out, book)]
    if done:
        pages.draw_panels(
            [run for run in done if run.experiment == "table1" and run.seed == 0],
            asked.out,
            asked.docs,
            all_unseen=bool(asked.data),
        )
        pages.write(book, **shown_as)
        say(f"written: {asked.docs / 'results.md'}")
    if failed:
        told = some([f"{folder}: {why}" for folder, why in failed.items()], 2, "; ")
        raise UserError(f"{len(failed)} of {len(todo)} trainings failed: {told}")
    if len(done) < len(todo):
        say(f"{len(done)} of {len(todo)} trainings are complete: the same command goes on")
    elif asked.ship:
        for run in shipped(todo):
            shipped_as = asked.ship / f"{run.network}.safetensors"
            exported = weights.load_generator(runs.exported_by(run, asked.out))
            weights.save_portable(shipped_as, exported)
            say(f"written: {shipped_as}, {run.title} of seed {run.seed}")


def check_ship(asked: Asked) -> None:
    """Raises: UserError where what was asked for is not what --ship can hold."""
    if not asked.ship:
        return
    flag = f"--ship={asked.ship}"
    if "table1" not in asked.experiments:
        raise UserError(f"{flag}: it is of table 1's networks: add that to --experiments")
    if asked.miniature:
        if asked.ship.resolve() == pretrained.FOLDER.resolve():
            raise UserError(f"{flag}: networks of a --miniature are not for the package")
    elif not asked.vgg:
        raise UserError(f"{flag}: the SRGAN is one of a VGG loss: give --vgg")


def shipped(todo: list[Run]) -> list[Run]:
    """Of table 1's first seed, the SRResNet by the pixel loss and the last SRGAN."""
    first = [run for run in todo if run.experiment == "table1" and run.seed == 0]
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


def all_runs(asked: Asked, base: ConfigDict, deepest: int, count: int) -> list[Run]:
    """Of all experiments asked for.

    Args:
      asked: which.
      base: what all configs share.
      deepest: block of VGG19 that there are weights for.
      count: of the training pictures.
    """
    found: list[Run] = []
    if "table1" in asked.experiments:
        if deepest < 2:
            say("no --vgg: of table 1 only SRResNet-MSE and SRGAN-MSE are trained")
        found += plan.table_1(base, deepest, asked.seeds, plain=asked.plain)
    if "recipe" in asked.experiments:
        found += plan.recipe(base, asked.seeds)
    if "pictures" in asked.experiments:
        found += plan.pictures(base, count, asked.seeds)
    return found


def deepest_block(given: str) -> int:
    """The last block of VGG19 that a file has whole. Raises: UserError where it is no VGG19."""
    found = vgg19.read(given, f"--vgg={given}")
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
        there = pathlib.Path(folder).is_dir()
        what = "holds no folder such as Set5/HR" if there else "no such folder"
        raise UserError(f"--tests={folder}: {what}")
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


def recipe_of(asked: Asked) -> str:
    """How the networks of table 1 are trained, and where that is not as the paper did."""
    *others, last = plan.CHANGES
    ours = f"the paper's, but {', '.join(others)}, and {last}"
    pictures = pathlib.PurePath(asked.data).name or "the built-in photographs"
    told = [
        "Recipe: " + ("the paper's" if asked.plain else ours),
        f"pictures: {pictures} (the paper's: 350,000 of ImageNet)",
        "updates as below (the paper's: 1,000,000, and 200,000 of SRGAN)",
        "all but SRResNet-MSE start from SRResNet-MSE of the same seed",
    ]
    return "; ".join(told) + "."
