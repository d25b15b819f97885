"""A generator as one `.safetensors` file: arrays, architecture, ranges, how it was trained.

Keys are `params/LAYER/NAME` and `batch_stats/LAYER/NAME`, and where a moving average was kept,
`ema_params/...` and `ema_batch_stats/...`. The header's metadata entry `HEADER` is JSON.
"""

import copy
import json
import os
import pathlib
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import numpy as np
import safetensors
import safetensors.numpy

from srgan_jax import files
from srgan_jax.errors import UserError, first_line
from srgan_jax.models.generator import CHOICES, Generator
from srgan_jax.state import Variables, form_of

HEADER = "srgan_jax"
FORMAT = 1

# Of a config, what may be a path: group and key.
PATHS = (
    ("data", "path"), ("data", "lr_path"), ("data", "cache"), ("eval", "path"), ("eval", "lr_path"),
    ("vgg", "path"), ("", "init_from"),
)  # fmt: skip

_CONVERT = "python -m srgan_jax.convert makes one of other programs' weights"
RANGES = {"input": "LR, RGB, NHWC, [0, 1]", "output": "SR, RGB, NHWC, [-1, 1], not clipped"}


class Exported(NamedTuple):
    """A generator as read from a file: what it is, what it runs with, and its story."""

    generator: Generator
    variables: Variables  # the moving average, where there is one
    metadata: dict[str, Any]


def save_generator(
    path: str | os.PathLike,
    generator: Generator,
    variables: Variables,
    training: dict[str, Any],
    *,
    ema: Variables | None = None,
) -> None:
    """Write a generator, and its moving average where there is one, aside and rename.

    `training` is told in the metadata, plain JSON.
    """
    metadata = {
        "format": FORMAT,
        "architecture": architecture(generator),
        "ranges": RANGES,
        "ema": ema is not None,
        "training": training,
    }
    groups = {"": variables} | ({"ema_": ema} if ema else {})
    arrays: dict[str, np.ndarray] = {}
    for prefix, group in groups.items():
        for kind in ("params", "batch_stats"):
            tree = jax.device_get(getattr(group, kind))
            flat = flax.traverse_util.flatten_dict(tree, sep="/")
            arrays |= {f"{prefix}{kind}/{key}": np.asarray(x) for key, x in flat.items()}
    with files.replacing(path) as aside:
        # Not `save_file`, which makes it unreadable to others, whatever the umask.
        header = {HEADER: json.dumps(metadata)}
        aside.write_bytes(safetensors.numpy.save(arrays, metadata=header))


def save_portable(path: str | os.PathLike, exported: Exported) -> None:
    """Write a generator for others: what it runs with alone, and no folders of this machine.

    Of a moving average and what it is of, the average is kept; of paths in the config that it was
    trained by, the last part; of what changed of it on the way, no path.
    """
    training = copy.deepcopy(exported.metadata["training"])
    paths = tuple(f"{group}.{key}:" if group else f"{key}:" for group, key in PATHS)
    for change in training.get("changed", []):
        change["config"] = [line for line in change["config"] if not line.startswith(paths)]
    config = training.get("config", {})
    for group, key in PATHS:
        values = config.get(group, {}) if group else config
        if values.get(key):
            values[key] = pathlib.PurePath(values[key]).name
    save_generator(path, exported.generator, exported.variables, training)


def architecture(generator: Generator) -> dict[str, Any]:
    """The switches that make up a generator, by name."""
    return {
        name: getattr(generator, name)
        for name in generator.__dataclass_fields__
        if name not in ("parent", "name", "axis_name", "dtype")
    }


def generator_of(switches: dict[str, Any]) -> Generator:
    """The inverse of `architecture`; what is not given has its default.

    Raises: ValueError for a switch or value that there is not.
    """
    known = architecture(Generator())
    for name, value in switches.items():
        if name not in known:
            raise ValueError(f"{name}={value!r} is no switch of the generator")
        choices = CHOICES.get(name)
        if type(value) is not type(known[name]) or (choices and value not in choices):
            wanted = " or ".join(map(repr, choices)) if choices else "a whole number"
            raise ValueError(f"{name}={value!r} is not {wanted}")
        if not choices and value < 1:
            raise ValueError(f"{name}={value!r} is below 1")
    return Generator(**switches)


def load_generator(path: str | os.PathLike) -> Exported:
    """Read what `save_generator` wrote, checked against the architecture that it names.

    Raises: UserError, naming the file, where it is no generator of ours, whole and finite.
    """
    if os.path.isdir(path):
        raise UserError(f"{path}: is a folder: give the .safetensors file in it")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = (file.metadata() or {}).get(HEADER)
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{path}: not a whole .safetensors file ({first_line(error)}); {_CONVERT}"
        ) from error
    if header is None:
        raise UserError(f"{path}: not a generator written by srgan_jax; {_CONVERT}")
    try:
        metadata = json.loads(header)
        if metadata["format"] != FORMAT:
            raise UserError(
                f"{path}: of format {metadata['format']}, not {FORMAT}: update srgan_jax"
            )
        generator = generator_of(metadata["architecture"])
        prefix = "ema_" if metadata["ema"] else ""
        if not isinstance(metadata["training"], dict):
            raise TypeError("its training is no object")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: its srgan_jax metadata is damaged ({error})") from error
    wanted = form_of(generator)
    variables = {}
    for kind in ("params", "batch_stats"):
        flat = flax.traverse_util.flatten_dict(getattr(wanted, kind), sep="/")
        for key, shape in flat.items():
            array = arrays.get(f"{prefix}{kind}/{key}")
            if array is None or array.shape != shape.shape:
                had = "missing" if array is None else f"{array.shape}, not {shape.shape}"
                raise UserError(f"{path}: tensor {prefix}{kind}/{key} is {had}")
            if not np.isfinite(array).all():
                raise UserError(f"{path}: tensor {prefix}{kind}/{key} is not finite")
            flat[key] = array
        variables[kind] = flax.traverse_util.unflatten_dict(flat, sep="/")
    return Exported(generator, Variables(**variables), metadata)
