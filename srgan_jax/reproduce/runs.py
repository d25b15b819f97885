"""One training after the other: timed, trained, measured."""

import contextlib
import dataclasses
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from srgan_jax import changes, files, images, losses, ranges, recipes, train, weights
from srgan_jax.benchmark import bare, counts, data
from srgan_jax.data.packed import Packed
from srgan_jax.engine import Engine, steps_per_dispatch
from srgan_jax.errors import UserError, some
from srgan_jax.evaluate import report
from srgan_jax.evaluate.arguments import TestSet
from srgan_jax.evaluate.methods import Method, network
from srgan_jax.evaluate.pairs import Pair
from srgan_jax.evaluate.score import Measures, Row, evaluate, to_json, to_rows
from srgan_jax.models.vgg import VGG19
from srgan_jax.monitor import duration, say
from srgan_jax.parallel import Parallel
from srgan_jax.reproduce import plan, records
from srgan_jax.reproduce.book import Book
from srgan_jax.reproduce.plan import Run
from srgan_jax.state import Params
from srgan_jax.supply import Supply
from srgan_jax.workdir import Workdir

SECONDS, ROUNDS = 1.0, 3  # of timing steps

# What the scale of features is measured on: so many crops of the validation set, in pixels.
SCALED_ON, SCALED_CROP = 24, 192

Pictures = tuple[Packed, Packed | None]


def exported_by(run: Run, out: pathlib.Path) -> pathlib.Path:
    """The file of its generator."""
    return out / run.folder / f"{run.network}.safetensors"


def plan_lengths(book: Book, runs: list[Run], pictures: Pictures) -> None:
    """Decide how many steps each run takes, unless that was done, and keep it at once.

    By steps, or by minutes: then a step is timed once for all runs that compute the same.
    """
    minutes, steps = book.asked["minutes"], book.asked["steps"]
    for run in runs:
        if run.folder in book.runs:
            continue
        wanted = run.share * steps if steps else 0.0
        if not steps:
            if run.program not in book.step_seconds:
                book.step_seconds[run.program] = step_seconds(run, pictures)
                milliseconds = 1e3 * book.step_seconds[run.program]
                say(f"{run.experiment}, {run.title}: {milliseconds:.2f} ms a step")
            wanted = run.share * 60 * minutes / book.step_seconds[run.program]
        book.runs[run.folder] = {
            "experiment": run.experiment,
            "title": run.title,
            "seed": run.seed,
            "phase": run.phase,
            "steps": plan.whole_steps(wanted),
        }
        book.keep()
    if not steps:
        total = sum(60 * minutes * run.share for run in runs)
        say(f"{len(runs)} trainings, {duration(total)} without compiling and validating")


def step_seconds(run: Run, pictures: Pictures) -> float:
    """What a step of a run takes in the training loop, on all devices, measured."""
    config = plan.with_length(run, 100 * plan.INTERVALS)
    vgg, vgg_params = recipes.load_content_network(config)
    (form,) = counts.forms(config, vgg)
    parallel = Parallel(config.parallel)
    supply = Supply.from_config(config, parallel, *pictures)
    engine = Engine(parallel, supply, steps_per_dispatch(config, parallel))
    phase = dataclasses.replace(form.phase, start=0, vgg_params=vgg_params)
    (rates,) = data.measured(
        {run.title: data.looped(config, engine, phase)},
        bare.first_state(config, form, parallel),
        engine.steps_per_dispatch,
        SECONDS,
        ROUNDS,
    ).values()
    return 1 / statistics.median(rates)


def trained_by(run: Run, out: pathlib.Path, book: Book, pairs: list[Pair]) -> ConfigDict:
    """The whole config of a run, whose parent is complete. Raises: UserError.

    VGG features are scaled so that on validation pictures the VGG loss of the trained SRResNet is
    as large as its pixel loss: the paper's 1/12.75 serves that, for its own VGG19 (section 3.2).
    """
    config = plan.with_length(run, book.runs[run.folder]["steps"])
    if not run.parent:
        return config
    parent = (out / run.parent / "srresnet.safetensors").absolute()
    config.init_from = str(parent)
    vgg, vgg_params = recipes.load_content_network(config)
    if vgg is not None:
        (layer,) = config.vgg.layers
        if layer not in book.feature_scales:
            exported = weights.load_generator(parent)
            book.feature_scales[layer] = feature_scale(exported, vgg, vgg_params, pairs)
            book.keep()
            say(f"VGG19's {layer} is scaled by {book.feature_scales[layer]:.3g}")
        config.vgg.feature_scale = book.feature_scales[layer]
    return config


def feature_scale(
    exported: weights.Exported, vgg: VGG19, vgg_params: Params, pairs: list[Pair]
) -> float:
    """The factor on features, of one layer, with which VGG loss and pixel loss are equal.

    Args:
      exported: a trained SRResNet.
      vgg: whose one layer is compared, by the mean over its channels.
      vgg_params: of `vgg`.
      pairs: pictures whose middles are compared.
    """
    (layer,) = vgg.layers
    content = losses.ContentLoss(layers=((layer, 1.0),), feature_scale=1.0, channels="mean")

    @jax.jit
    def distances(lr_image: jax.Array, hr: jax.Array) -> tuple[jax.Array, jax.Array]:
        unit = ranges.pixels_to_unit(lr_image)
        sr = exported.generator.apply(exported.variables.as_flax(), unit, train=False)
        sr, hr = jnp.asarray(sr), ranges.pixels_to_signed(hr)
        ours, theirs = (vgg.apply({"params": vgg_params}, image) for image in (sr, hr))
        return (
            losses.mean_squared_error(sr, hr),
            losses.feature_distance(content, ours, theirs),  # type: ignore[arg-type]
        )

    scale = exported.generator.scale
    side = min(SCALED_CROP, *(n for pair in pairs for n in pair.hr.shape[:2])) // scale
    found = []
    for pair in pairs[:: -(-len(pairs) // SCALED_ON)]:
        top, left = ((n - side) // 2 for n in pair.lr_image.shape[:2])
        lr_image = pair.lr_image[None, top : top + side, left : left + side]
        hr = pair.hr[None, scale * top :, scale * left :][:, : scale * side, : scale * side]
        found.append(jax.device_get(distances(lr_image, hr)))
    pixel, feature = np.mean(found, axis=0)
    return float(np.sqrt(pixel / feature))


def is_trained(run: Run, out: pathlib.Path, book: Book) -> bool:
    """Whether a run is complete. Raises: UserError where it was another one."""
    folder = out / run.folder
    if not (exported_by(run, out).exists() and (folder / "results.json").exists()):
        return False
    expected = plan.with_length(run, book.runs[run.folder]["steps"])
    held = Workdir(folder).read_json("config.json")
    expected.init_from = held["init_from"]
    expected.vgg.feature_scale = held["vgg"]["feature_scale"]
    found = changes.classify(held, expected)
    if differing := [str(change) for change in (*found.learned, *found.impossible)]:
        raise UserError(f"{folder}: is of another run ({some(differing)}): give another --out")
    return True


def train_one(run: Run, out: pathlib.Path, config: ConfigDict) -> bool:
    """Begin or continue a run; returns whether it is complete, not stopped. Raises: UserError."""
    folder = out / run.folder
    say(f"{run.experiment}: {run.title}, seed {run.seed}: {folder}")
    with _clocked(folder / records.WALL):
        train.train(config, Workdir(folder))
    return (folder / "results.json").exists()


@contextlib.contextmanager
def _clocked(file: pathlib.Path) -> Iterator[None]:
    """Add the seconds that this takes to those in a file."""
    before = time.perf_counter()
    try:
        yield
    finally:
        taken = [*records.of_file(file, []), time.perf_counter() - before]
        if file.parent.exists():
            files.write_json(file, taken)


def measure(
    title: str,
    make: Callable[[], Method],
    file: pathlib.Path,
    sets: dict[str, TestSet],
    measures: Measures,
) -> bool:
    """Measure a method on the test sets into a file, unless that was done of the same.

    Returns: whether it was measured now.
    """
    of: dict[str, Any] = {
        "sets": {label: found.files for label, found in sets.items()},
        "metrics": ["/".join(asked) for asked in measures.asked()],
    }
    if records.of_file(file, {"of": None})["of"] == of:
        return False
    rows: list[Row] = []
    sizes = {}
    method = make()
    for label, found in sets.items():
        values = {}
        for one in evaluate(found.pairs, {title: method}, measures):
            values[one.pair.name] = one.values
            sizes[f"{label}/{one.pair.name}"] = images.size_text(*one.pair.hr.shape[:2])
        rows += to_rows(label, values)
        say(f"{label}, {title}\n{report.table([row for row in rows if row['data'] == label])}")
    files.write_json(file, {"of": of, "rows": to_json(rows), "sizes": sizes})
    return True


def method_of(run: Run, out: pathlib.Path) -> Method:
    """What a complete run trained."""
    exported = weights.load_generator(exported_by(run, out))
    return network(exported.generator, exported.variables)
