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
from srgan_jax.models.generator import Generator
from srgan_jax.models.layers import BN_EPSILON, Conv
from srgan_jax.state import Variables

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
        if inside is None or not isinstance(context.module, Conv):
            return call(*args, **kwargs)
        (x,) = args
        factor = x.shape[1] // image.shape[1]
        rows, columns = (side.repeat(factor) for side in inside)
        picture = rows[None, :, None, None] & columns[None, None, :, None]
        return call(jnp.where(picture, x, 0), **kwargs)

    with nn.intercept_methods(mask):
        return jnp.asarray(generator.apply({"params": params}, image, train=False, **part))


@functools.partial(jax.jit, static_argnums=0)
def features_of(
    generator: Generator,
    params: Any,
    window: jax.Array,
    inside: Sequence[jax.Array] | None,
) -> jax.Array:
    """[h, w, 3] in [0, 1] to [h, w, channels]; `inside` as for `_apply`."""
    return _apply(generator, params, window[None], inside, features_only=True)[0]


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
