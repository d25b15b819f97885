"""Pictures to super-resolved pictures to numbers: rows, one a number."""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from srgan_jax import images, panel, ranges, recipes, resample, weights
from srgan_jax.data import sources
from srgan_jax.data.degradation import Degradation, degrade
from srgan_jax.data.sources import Pictures
from srgan_jax.errors import UserError
from srgan_jax.metrics import conventions, ssim
from srgan_jax.models.generator import Generator
from srgan_jax.monitor import say
from srgan_jax.state import Variables
from srgan_jax.workdir import Workdir

Row = dict[str, Any]  # data, image, method, convention, metric, value

# LR pixels, uint8 [h, w, 3], to SR pixels, uint8 [s*h, s*w, 3].
Method = Callable[[np.ndarray], np.ndarray]


NETWORKS = ("srresnet", "srgan")
TITLES = {"bicubic": "bicubic", "srresnet": "SRResNet", "srgan": "SRGAN"}
PICTURES_SHOWN = 4  # in TensorBoard


class Pair(NamedTuple):
    """One picture of a test set, uint8 [h, w, 3] and [s*h, s*w, 3]."""

    name: str
    lr_image: np.ndarray
    hr: np.ndarray


def smallest_picture(scale: int) -> int:
    """The side that SSIM's window needs after the border is cropped and the size made whole."""
    return 2 * scale + ssim.WINDOW + scale - 1


def make_pairs(pictures: Pictures, how: Degradation) -> list[Pair]:
    """HR cut to a multiple of the scale at the top left, and LR made from it."""
    shrink = jax.jit(functools.partial(degrade, how))
    result = []
    for name, image in zip(pictures.names, pictures.images, strict=True):
        height, width = (size - size % how.scale for size in image.shape[:2])
        hr = image[:height, :width]
        result.append(Pair(name, np.asarray(shrink(hr)).astype(np.uint8), hr))
    return result


def bicubic(scale: int) -> Method:
    """MATLAB's bicubic enlargement, the baseline."""
    enlarge = jax.jit(lambda lr_image: resample.bicubic(lr_image, scale, quantise=True))
    return lambda lr_image: np.asarray(enlarge(lr_image)).astype(np.uint8)


@functools.partial(jax.jit, static_argnums=0)
def super_resolve(generator: Generator, variables: Variables, lr_image: jax.Array) -> jax.Array:
    """One picture through the network in test mode: uint8 [h, w, 3] to uint8 [s*h, s*w, 3]."""
    unit = ranges.pixels_to_unit(lr_image)[None]
    sr = generator.apply(variables.as_flax(), unit, train=False)
    return ranges.signed_to_uint8(jnp.asarray(sr))[0]


def network(generator: Generator, variables: Variables) -> Method:
    """A generator as a method."""
    variables = jax.device_put(variables)
    return lambda lr_image: np.asarray(super_resolve(generator, variables, lr_image))


def evaluate(
    data: str, pairs: list[Pair], methods: dict[str, Method], scale: int
) -> tuple[list[Row], dict[str, list[np.ndarray]]]:
    """Measure every method on every picture.

    Returns: the rows, for each picture and then "mean" over them; and each method's pictures.
    """
    rows: list[Row] = []
    outputs: dict[str, list[np.ndarray]] = {}
    for method, upscale in methods.items():
        outputs[method] = [upscale(pair.lr_image) for pair in pairs]
        measured = [
            jax.device_get(conventions.measure(sr, pair.hr, border=scale))
            for sr, pair in zip(outputs[method], pairs, strict=True)
        ]
        names = [pair.name for pair in pairs] + ["mean"]
        mean = jax.tree.map(lambda *values: np.mean(values, dtype=np.float64), *measured)
        for image, results in zip(names, [*measured, mean], strict=True):
            for convention, metrics in results.items():
                for metric, value in metrics.items():
                    rows.append(
                        {
                            "data": data,
                            "image": image,
                            "method": method,
                            "convention": convention,
                            "metric": metric,
                            "value": float(value),
                        }
                    )
    return rows, outputs


def table(rows: list[Row]) -> str:
    """The means as text: a line a method, columns by convention and metric."""
    means = {
        (row["method"], row["convention"], row["metric"]): row["value"]
        for row in rows
        if row["image"] == "mean"
    }
    methods = list(dict.fromkeys(method for method, _, _ in means))
    used = list(dict.fromkeys(convention for _, convention, _ in means))
    columns = [("mse", "MSE", "9.2f"), ("psnr", "PSNR", "7.2f"), ("ssim", "SSIM", "7.4f")]
    head = " ".join(f"{title:>{int(spec[0])}}" for _, title, spec in columns)
    width = max(map(len, methods))
    lines = [
        " " * width + "".join(f" | {convention:^{len(head)}}" for convention in used),
        " " * width + f" | {head}" * len(used),
    ]
    for method in methods:
        cells = [
            " ".join(f"{means[method, convention, metric]:{spec}}" for metric, _, spec in columns)
            for convention in used
        ]
        lines.append(f"{method:<{width}} | " + " | ".join(cells))
    return "\n".join(lines)


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
        pictures = sources.load(
            source=config.eval.source,
            path=config.eval.path,
            split="validation",
            dataset=config.eval.dataset,
            min_size=smallest_picture(scale),
            damaged=config.eval.damaged,
            key="eval",
        )
        if pictures.summary.count(";"):  # something was converted or left out
            say(f"measuring on {pictures.summary}")
        pairs = make_pairs(pictures, recipes.degradation(config))
        return cls(data_label(config), pairs, scale)

    def validate(
        self, generator: Generator, variables: Variables
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Means as scalars named `eval/CONVENTION/METRIC`, and the first pictures."""
        rows, outputs = self.measure({"sr": network(generator, variables)})
        scalars = {
            f"eval/{row['convention']}/{row['metric']}": row["value"]
            for row in rows
            if row["image"] == "mean"
        }
        shown = zip(self.pairs[:PICTURES_SHOWN], outputs["sr"], strict=False)
        return scalars, {f"eval/{pair.name}": sr for pair, sr in shown}

    def measure(self, methods: dict[str, Method]) -> tuple[list[Row], dict[str, list[np.ndarray]]]:
        """`evaluate` on this set."""
        return evaluate(self.data, self.pairs, methods, self.scale)


def data_label(config: ConfigDict) -> str:
    """What the rows call the set that `config.eval` names."""
    labels = {"folder": config.eval.path, "tfds": config.eval.dataset}
    return labels.get(config.eval.source, config.eval.source)


def evaluate_workdir(workdir: Workdir, evaluator: Evaluator) -> None:
    """Measure the generators that a run exported: results.json, a panel, a table.

    Rows of other sets in results.json stay, and so does panel.png if it is of another set.
    Raises: UserError where there is no generator.
    """
    methods = {"bicubic": bicubic(evaluator.scale)}
    for name in NETWORKS:
        if workdir.export(name).exists():
            exported = weights.load_generator(workdir.export(name))
            if exported.generator.scale != evaluator.scale:
                raise UserError(
                    f"{workdir.export(name)} enlarges by {exported.generator.scale}, but"
                    f" config.generator.scale={evaluator.scale}: give the run's own --config"
                )
            methods[name] = network(exported.generator, exported.variables)
    if len(methods) == 1:
        files = " or ".join(workdir.export(name).name for name in NETWORKS)
        raise UserError(f"--workdir={workdir.path} holds no {files}: train first")
    rows, outputs = evaluator.measure(methods)

    pair = evaluator.pairs[0]
    columns = {"LR": (pair.lr_image, "{1}x{0}".format(*pair.lr_image.shape))}
    for method, title in TITLES.items():
        if method in outputs:
            columns[title] = (outputs[method][0], caption(rows, pair.name, method))
    columns["HR"] = (pair.hr, "{1}x{0}".format(*pair.hr.shape))
    others = [row for row in read_rows(workdir) if row["data"] != evaluator.data]
    drawn = workdir.panel
    if others:
        slug = re.sub(r"\W+", "_", evaluator.data).strip("_")
        drawn = drawn.with_stem(f"{drawn.stem}_{slug}")
    images.write(drawn, panel.draw(columns, pair.hr))
    workdir.write_json(workdir.results.name, {"rows": others + rows})

    count = len(evaluator.pairs)
    say(f"{evaluator.data}: mean over {count} picture{'s' if count > 1 else ''}")
    say(table(rows))
    say(f"written: {workdir.results}, {drawn}")


def caption(rows: list[Row], image: str, method: str) -> str:
    """One picture's PSNR and SSIM in words."""
    values = {
        row["metric"]: row["value"]
        for row in rows
        if (row["image"], row["method"], row["convention"]) == (image, method, "modern")
    }
    return f"Y: {values['psnr']:.2f} dB, SSIM {values['ssim']:.4f}"


def read_rows(workdir: Workdir) -> list[Row]:
    """The rows of results.json; none where there is no such file."""
    return workdir.read_json(workdir.results.name)["rows"] if workdir.results.exists() else []
