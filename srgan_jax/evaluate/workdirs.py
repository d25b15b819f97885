"""A run's own evaluation: the pictures that its config names, the generators that it exported."""

import dataclasses
import hashlib
import json
import re

import jax
import numpy as np
from ml_collections import ConfigDict

from srgan_jax import images, processes, recipes, weights
from srgan_jax.checkpoint import digest
from srgan_jax.data import packed
from srgan_jax.errors import UserError
from srgan_jax.evaluate import panel, report
from srgan_jax.evaluate.methods import Method, baseline, network
from srgan_jax.evaluate.pairs import Pair, cut, make_pair
from srgan_jax.evaluate.score import (
    Measures,
    Row,
    Scored,
    Values,
    evaluate,
    from_json,
    to_json,
    to_rows,
)
from srgan_jax.metrics import ssim
from srgan_jax.models.generator import Generator
from srgan_jax.monitor import say
from srgan_jax.state import Variables, form_of
from srgan_jax.workdir import Workdir

NETWORKS = ("srresnet", "srgan")
TITLES = {"bicubic": "bicubic", "srresnet": "SRResNet", "srgan": "SRGAN"}
PICTURES_SHOWN = 4  # in TensorBoard


def smallest_picture(scale: int) -> int:
    """The side that SSIM's window needs after the border is cropped and the size made whole."""
    return 2 * scale + ssim.WINDOW + scale - 1


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """A set of pictures to measure generators on, read and degraded once."""

    data: str
    pairs: list[Pair]
    scale: int

    @classmethod
    def from_config(cls, config: ConfigDict) -> "Evaluator":
        """The pictures that `config.eval` names. Raises: UserError."""
        scale = config.generator.scale
        pictures, lr_pictures = packed.pack(
            source=config.eval.source,
            path=config.eval.path,
            lr_path=config.eval.lr_path,
            scale=scale,
            split="validation",
            dataset=config.eval.dataset,
            min_size=smallest_picture(scale),
            damaged=config.eval.damaged,
            key="eval",
            cache="none",
        )
        if pictures.summary.count(";"):  # something was converted or left out
            say(f"measuring on {pictures.summary}")
        how = recipes.degradation(config)
        pairs = []
        for i, name in enumerate(pictures.names):
            if lr_pictures is None:
                pairs.append(make_pair(name, pictures.picture(i), how))
            else:
                pairs.append(Pair(name, cut(pictures.picture(i), scale), lr_pictures.picture(i)))
        return cls(data_label(config), pairs, scale)

    def fingerprint(self) -> str:
        """Differs where anything of the pictures does."""
        told = [pair.name for pair in self.pairs]
        pixels = digest([(pair.hr, pair.lr_image) for pair in self.pairs])
        return hashlib.sha256(json.dumps([told, pixels]).encode()).hexdigest()

    def validate(
        self, generator: Generator, variables: Variables
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Means as scalars named `eval/CONVENTION/METRIC`, and the first pictures."""
        # On one device each, whatever devices training spread them over.
        rows, scored = self.measure({"sr": network(generator, jax.device_get(variables))})
        scalars = {
            f"eval/{row['convention']}/{row['metric']}": row["value"]
            for row in rows
            if row["image"] == "mean"
        }
        return scalars, {
            f"eval/{one.pair.name}": one.outputs["sr"] for one in scored[:PICTURES_SHOWN]
        }

    def measure(self, methods: dict[str, Method]) -> tuple[list[Row], list[Scored]]:
        """The rows, and each picture of this process's share as every method made it."""
        order = {pair.name: place for place, pair in enumerate(self.pairs)}
        share = self.pairs[processes.index() :: processes.count()]
        by_size = sorted(share, key=lambda pair: pair.hr.shape)  # which `evaluate` groups
        scored = list(evaluate(by_size, methods, Measures(self.scale)))
        scored.sort(key=lambda one: order[one.pair.name])
        values: dict[str, dict[str, Values]] = {}
        for of_share in processes.exchange({one.pair.name: one.values for one in scored}):
            values |= of_share
        return to_rows(self.data, values), scored


def data_label(config: ConfigDict) -> str:
    """What the rows call the set that `config.eval` names."""
    labels = {"folder": config.eval.path, "tfds": config.eval.dataset}
    return labels.get(config.eval.source, config.eval.source)


def evaluate_workdir(workdir: Workdir | None, evaluator: Evaluator) -> None:
    """Measure the generators that a run exported: results.json, a panel, a table.

    Of several processes the first has the workdir, and all measure. Rows of other sets in
    results.json stay, and so does panel.png if it is of another set.

    Raises: UserError where there is no generator.
    """
    with processes.together():
        exported = exports(workdir, evaluator.scale) if workdir else {}
    methods = {"bicubic": baseline("bicubic", evaluator.scale)}
    methods |= {name: network(*found) for name, found in from_first(exported).items()}
    rows, scored = evaluator.measure(methods)
    if not workdir:
        return

    others = [row for row in read_rows(workdir) if row["data"] != evaluator.data]
    drawn = workdir.panel
    if others:
        slug = re.sub(r"\W+", "_", evaluator.data).strip("_")
        drawn = drawn.with_stem(f"{drawn.stem}_{slug}")
    images.write(drawn, panel.of_scored(scored[0], TITLES))
    workdir.write_json(workdir.results.name, {"rows": to_json(others + rows)})

    count = len(evaluator.pairs)
    say(f"{evaluator.data}: mean over {count} picture{'s' if count > 1 else ''}")
    say(report.table(rows))
    say(f"written: {workdir.results}, {drawn}")


Exports = dict[str, tuple[Generator, Variables]]


def exports(workdir: Workdir, scale: int) -> Exports:
    """The generators that a run exported. Raises: UserError where there is none, or none fits."""
    found = {}
    for name in NETWORKS:
        if workdir.export(name).exists():
            exported = weights.load_generator(workdir.export(name))
            if exported.generator.scale != scale:
                raise UserError(
                    f"{workdir.export(name)} enlarges by {exported.generator.scale}, but"
                    f" config.generator.scale={scale}: give the run's own --config"
                )
            found[name] = exported.generator, exported.variables
    if not found:
        files = " or ".join(workdir.export(name).name for name in NETWORKS)
        raise UserError(f"--workdir={workdir.path} holds no {files}: train first")
    return found


def from_first(exported: Exports) -> Exports:
    """The first process's generators, everywhere."""
    switches = {name: weights.architecture(generator) for name, (generator, _) in exported.items()}
    for name, of_generator in processes.from_first(switches).items():
        generator = weights.generator_of(of_generator)
        empty = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), form_of(generator))
        _, variables = exported.get(name, (generator, empty))
        exported[name] = generator, processes.arrays_from_first(variables)
    return exported


def read_rows(workdir: Workdir) -> list[Row]:
    """The rows of results.json; none where there is no such file."""
    if not workdir.results.exists():
        return []
    return from_json(workdir.read_json(workdir.results.name)["rows"])
