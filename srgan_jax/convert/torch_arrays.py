"""One layer's array as PyTorch has it and as Flax has it."""

import numpy as np

from srgan_jax.models.generator import Generator

# PyTorch's names, by Flax's.
NAMES = {
    "kernel": "weight", "bias": "bias", "slope": "weight",
    "scale": "weight", "mean": "running_mean", "var": "running_var",
}  # fmt: skip


def from_torch(array: np.ndarray, generator: Generator, layer: str, leaf: str) -> np.ndarray:
    """PyTorch's array of one of our layers as ours, float32.

    Kernels [out, in, h, w] become [h, w, in, out]; channels before a pixel shuffle, ordered
    (channel, row, column), become (row, column, channel).
    """
    factor = _factor(generator, layer)
    if factor > 1:
        split = array.reshape(-1, factor**2, *array.shape[1:])
        array = split.swapaxes(0, 1).reshape(array.shape)
    if leaf == "kernel":
        array = array.transpose(2, 3, 1, 0)
    return np.ascontiguousarray(array, np.float32)


def to_torch(array: np.ndarray, generator: Generator, layer: str, leaf: str) -> np.ndarray:
    """The inverse of `from_torch`."""
    if leaf == "kernel":
        array = array.transpose(3, 2, 0, 1)
    factor = _factor(generator, layer)
    if factor > 1:
        split = array.reshape(factor**2, -1, *array.shape[1:])
        array = split.swapaxes(0, 1).reshape(array.shape)
    return np.array(array)


def _factor(generator: Generator, layer: str) -> int:
    """Of the pixel shuffle after a layer; 1: there is none."""
    if layer == "conv_out":
        return generator.last_factor
    is_stage = layer.startswith("up") and layer.endswith("_conv")
    return generator.stages[0] if is_stage and generator.upsample == "shuffle" else 1
