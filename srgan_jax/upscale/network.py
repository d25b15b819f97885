"""A network in test mode, on windows of a picture: the part that runs on devices.

A window goes through the network in two parts. The residual blocks, which see far, run on the
whole of it; enlargement, which sees three pixels far but holds sixteen times as many, runs on
blocks of their features, and only where output is wanted. So memory is a window's and a block's.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from srgan_jax import ranges
from srgan_jax.models.generator import BN_EPSILON, Generator
from srgan_jax.state import Variables

# Output channels for which `narrow_conv` is faster.
NARROW = 4

# Of ITU-R BT.601, for pictures whose three channels are nearly equal.
LUMA = (0.299, 0.587, 0.114)


def fold(generator: Generator, variables: Variables) -> tuple[Generator, Variables]:
    """The same function of LR, in test mode, without BatchNorm: each is in the layer before it.

    Returns: a generator with `norm="none"`, and its variables, NumPy float32.
    """
    params = jax.tree.map(np.asarray, variables.params)
    if generator.norm == "none":
        return generator, Variables(params, {})
    folded = {
        name: dict(layer) for name, layer in params.items() if name not in variables.batch_stats
    }
    for name, statistics in variables.batch_stats.items():
        conv = name.replace("bn", "conv")
        scale, bias = (np.float64(params[name][key]) for key in ("scale", "bias"))
        gain = scale / np.sqrt(np.float64(statistics["var"]) + BN_EPSILON)
        kernel = params[conv]["kernel"] * gain
        shifted = (params[conv]["bias"] - np.float64(statistics["mean"])) * gain + bias
        folded[conv] = {"kernel": np.float32(kernel), "bias": np.float32(shifted)}
    return generator.clone(norm="none"), Variables(folded, {})


def cast(variables: Variables, dtype: Any) -> Variables:
    """Variables for computing in `dtype`, but for the last convolution, which stays as it is."""
    params = {
        name: layer if name == "conv_out" else jax.tree.map(lambda x: jnp.asarray(x, dtype), layer)
        for name, layer in variables.params.items()
    }
    return Variables(params, variables.batch_stats)


def _apply(
    generator: Generator,
    params: Any,
    image: jax.Array,
    inside: Sequence[jax.Array] | None,
    **part: Any,
) -> jax.Array:
    """The network where convolutions see zeros outside the picture, as at its real border.

    `inside` says which rows and which columns of `image` are the picture's; None: all.
    """

    def mask(
        call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext
    ) -> Any:
        if not isinstance(context.module, nn.Conv):
            return call(*args, **kwargs)
        (x,) = args
        factor = x.shape[1] // image.shape[1]
        if inside is not None:
            rows, columns = (side.repeat(factor) for side in inside)
            picture = rows[None, :, None, None] & columns[None, None, :, None]
            x = jnp.where(picture, x, 0)
        if context.module.features <= NARROW and jax.default_backend() == "cpu":
            layer = params[context.module.name]
            return narrow_conv(x, layer["kernel"]) + layer["bias"][None, None, None]
        return call(x, **kwargs)

    with nn.intercept_methods(mask):
        return jnp.asarray(generator.apply({"params": params}, image, train=False, **part))


def narrow_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution of few output channels, by fewer and wider ones: the sum of its rows'.

    XLA's convolution on CPUs computes 4, 8 or 16 output channels at once, so 3 are slow.

    Args:
      x: [B, h, w, C].
      kernel: [k, k, C, few], k odd.

    Returns: [B, h, w, few], zeros being around `x`.
    """
    side, _, channels, few = kernel.shape
    x = x.astype(kernel.dtype)
    wide = kernel.transpose(1, 2, 0, 3).reshape(1, side, channels, side * few)
    reach, height = side // 2, x.shape[1]
    rows = jax.lax.conv_general_dilated(
        x,
        wide,
        window_strides=(1, 1),
        padding=((reach, reach), (reach, reach)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    parts = (rows[:, i : i + height, :, few * i : few * (i + 1)] for i in range(side))
    return functools.reduce(jnp.add, parts)


@functools.partial(jax.jit, static_argnums=(0, 1))
def features_of(
    generator: Generator,
    dtype: Any,
    params: Any,
    window: jax.Array,
    inside: Sequence[jax.Array] | None,
) -> jax.Array:
    """[h, w, 3] in [0, 1] to [h, w, channels], computed in `dtype`; `inside` as for `_apply`."""
    image = window.astype(dtype)[None]
    return _apply(generator, params, image, inside, features_only=True)[0]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def enlarge(
    generator: Generator,
    block: tuple[int, int],
    levels: str,
    gray: bool,
    params: Any,
    features: jax.Array,
    window: jax.Array,
    inside: Sequence[jax.Array] | None,
    top: jax.Array,
    left: jax.Array,
) -> jax.Array:
    """A block of a window's SR, [s * block height, s * block width, 3, or 1 if `gray`].

    `levels` is what it is given in: "uint8" or "uint16", rounded half up and clipped, or
    "float32", [0, 1], clipped too.
    """

    def cut(x: jax.Array) -> jax.Array:
        start = (top, left) + (0,) * (x.ndim - 2)
        return jax.lax.dynamic_slice(x, start, (*block, *x.shape[2:]))[None]

    if inside is not None:
        inside = [
            jax.lax.dynamic_slice_in_dim(side, start, length)
            for side, start, length in zip(inside, (top, left), block, strict=True)
        ]
    sr = _apply(generator, params, cut(window), inside, features=cut(features))[0]
    if gray:
        sr = (jnp.clip(sr, -1.0, 1.0) * jnp.array(LUMA)[None, None]).sum(-1, keepdims=True)
    return ranges.signed_to_levels(sr, levels)
