"""What is enlarged and trained on where speed is measured, and networks without a download."""

import functools
import math
import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from srgan_jax import config as config_lib
from srgan_jax import recipes
from srgan_jax.data import sources
from srgan_jax.data.degradation import Batch
from srgan_jax.errors import UserError
from srgan_jax.models.generator import Generator
from srgan_jax.models.vgg import VGG19
from srgan_jax.state import Params, Variables, init_variables

SPREAD = 0.4  # the standard deviation that a random network's output gets, of [-1, 1]


def sizes(given: Sequence[str]) -> list[tuple[int, int]]:
    """Heights and widths from texts such as "500x300", width first. Raises: UserError."""
    found = []
    for text in given:
        match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
        if not match:
            raise UserError(f"--sizes={text}: give WIDTHxHEIGHT in pixels, such as 500x300")
        found.append((int(match[2]), int(match[1])))
    if not found:
        raise UserError("--sizes: give at least one, such as 128x128")
    return found


def photograph(height: int, width: int) -> np.ndarray:
    """A built-in photograph in some size, uint8 [height, width, 3]."""
    image = sources.load(source="builtin", path="", split="validation").images[0]
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def batch(sizes: tuple[int, ...], crop: int, seed: int = 0) -> Batch:
    """Crops of a built-in photograph, turned and mirrored, in arrays [*sizes, ...] on the host."""
    rng = np.random.default_rng(seed)
    picture = photograph(4 * crop, 4 * crop)
    tops, lefts = rng.integers(0, 3 * crop + 1, (2, math.prod(sizes)))
    crops = [
        picture[top : top + crop, left : left + crop] for top, left in zip(tops, lefts, strict=True)
    ]
    return Batch(
        np.stack(crops).reshape(*sizes, crop, crop, 3),
        rng.integers(0, 8, sizes, np.int32),
        rng.integers(0, 2**32, sizes, np.uint32),
    )


def content_network(config: ConfigDict) -> tuple[VGG19 | None, Params]:
    """As training loads it; of `vgg.path="random"` with random weights, which are as fast."""
    if config.vgg.path != "random" or not config_lib.compares_features(config):
        return recipes.load_content_network(config)
    vgg = VGG19(layers=tuple(config.vgg.layers))
    return vgg, random_vgg(vgg)


def random_vgg(vgg: VGG19) -> Params:
    """Parameters of VGG19, on the host."""
    make = jax.jit(lambda key: vgg.init(key, jnp.zeros((1, 32, 32, 3)))["params"])
    return jax.tree.map(np.asarray, make(jax.random.key(0)))


def random_variables(generator: Generator, seed: int = 0) -> Variables:
    """Random variables with which a photograph gives values all over [-1, 1].

    BatchNorm's statistics are random, too, so that folding them is put to the test.
    """
    made = init_variables(generator, jax.random.key(seed), (1, 8, 8, 3))
    rng = np.random.default_rng(seed)

    def about_one(array: jax.Array) -> np.ndarray:
        return rng.uniform(0.5, 1.5, array.shape).astype(np.float32)

    params = jax.tree.map(np.asarray, made.params)
    stats = {
        name: {"mean": about_one(layer["mean"]) - 1, "var": about_one(layer["var"])}
        for name, layer in made.batch_stats.items()
    }
    for name in stats:
        params[name] = {
            "scale": about_one(params[name]["scale"]),
            "bias": about_one(params[name]["bias"]) - 1,
        }
    lr_image = jnp.asarray(photograph(48, 48), jnp.float32)[None] / 255
    network = jax.jit(functools.partial(generator.apply, train=False))
    sr = network({"params": params, "batch_stats": stats}, lr_image)
    values = np.asarray(sr).reshape(-1, 3)
    factor = SPREAD / values.std(axis=0)
    last = params["conv_out"]
    params["conv_out"] = {
        "kernel": last["kernel"] * factor,
        "bias": (last["bias"] - values.mean(axis=0)) * factor,
    }
    return Variables(params, stats)
