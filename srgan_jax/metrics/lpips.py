"""Learned perceptual image patch similarity, LPIPS 0.1: how unlike two pictures look.

Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a
Perceptual Metric", CVPR 2018, section 3, as the authors' package `lpips` 0.1.4 computes it.
0 for equal pictures, larger is worse; values of different nets don't compare. The parameters
are read by `srgan_jax.convert.lpips`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from srgan_jax import ranges

Params = Mapping[str, Any]  # one level of arrays, float32: `shapes`


class Conv(NamedTuple):
    """A convolution with bias, then ReLU. `name` is its place in torchvision's model."""

    name: str
    inputs: int
    outputs: int
    size: int = 3
    stride: int = 1
    padding: int = 1


class Fire(NamedTuple):
    """SqueezeNet's module: one convolution, then two of its output side by side."""

    squeeze: Conv
    expand1x1: Conv
    expand3x3: Conv


class Pool(NamedTuple):
    """Max-pooling with stride 2. `ceil`: a window that hangs over the border counts too."""

    size: int
    ceil: bool = False


Stage = tuple[Conv | Fire | Pool, ...]


def _fire(place: int, inputs: int, squeeze: int, expand: int) -> Fire:
    name = f"features.{place}"
    return Fire(
        Conv(f"{name}.squeeze", inputs, squeeze, 1, padding=0),
        Conv(f"{name}.expand1x1", squeeze, expand, 1, padding=0),
        Conv(f"{name}.expand3x3", squeeze, expand),
    )


# What is compared is the output of each stage. AlexNet is of Krizhevsky (2014), VGG16 of Simonyan
# and Zisserman (2015), SqueezeNet 1.1 of Iandola et al. (2016).
TRUNKS: dict[str, tuple[Stage, ...]] = {
    "alex": (
        (Conv("features.0", 3, 64, 11, stride=4, padding=2),),
        (Pool(3), Conv("features.3", 64, 192, 5, padding=2)),
        (Pool(3), Conv("features.6", 192, 384)),
        (Conv("features.8", 384, 256),),
        (Conv("features.10", 256, 256),),
    ),
    "vgg": (
        (Conv("features.0", 3, 64), Conv("features.2", 64, 64)),
        (Pool(2), Conv("features.5", 64, 128), Conv("features.7", 128, 128)),
        (
            Pool(2),
            Conv("features.10", 128, 256),
            Conv("features.12", 256, 256),
            Conv("features.14", 256, 256),
        ),
        (
            Pool(2),
            Conv("features.17", 256, 512),
            Conv("features.19", 512, 512),
            Conv("features.21", 512, 512),
        ),
        (
            Pool(2),
            Conv("features.24", 512, 512),
            Conv("features.26", 512, 512),
            Conv("features.28", 512, 512),
        ),
    ),
    "squeeze": (
        (Conv("features.0", 3, 64, stride=2, padding=0),),
        (Pool(3, ceil=True), _fire(3, 64, 16, 64), _fire(4, 128, 16, 64)),
        (Pool(3, ceil=True), _fire(6, 128, 32, 128), _fire(7, 256, 32, 128)),
        (Pool(3, ceil=True), _fire(9, 256, 48, 192)),
        (_fire(10, 384, 48, 192),),
        (_fire(11, 384, 64, 256),),
        (_fire(12, 512, 64, 256),),
    ),
}

SMALLEST = {"alex": 31, "vgg": 16, "squeeze": 17}
"""The smallest side of a picture that leaves each net something to compare in its last stage."""

# RGB's mean and deviation over ImageNet, in [-1, 1].
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


def shapes(net: str) -> dict[str, tuple[int, ...]]:
    """What `Params` holds for a net.

    `features.0.kernel` [h, w, in, out] and `features.0.bias` [out] and so on, named as in
    torchvision's model, and for each stage `lin0` [channels] and so on, not negative: the square
    of the paper's w.
    """
    result: dict[str, tuple[int, ...]] = {}
    for i, stage in enumerate(TRUNKS[net]):
        for layer in stage:
            if isinstance(layer, Pool):
                continue
            channels = 0
            for conv in layer if isinstance(layer, Fire) else (layer,):
                result[f"{conv.name}.kernel"] = (conv.size, conv.size, conv.inputs, conv.outputs)
                result[f"{conv.name}.bias"] = (conv.outputs,)
                channels = conv.outputs
            if isinstance(layer, Fire):
                channels *= 2
        result[f"lin{i}"] = (channels,)
    return result


def lpips(net: str, params: Params, a: jax.Array, b: jax.Array) -> jax.Array:
    """The distance of two RGB images [H, W, 3] in 0..255 (uint8 or float): a scalar, float32.

    Equation 1. For measuring only: the gradient is undefined where a stage is zero in all
    channels.

    Args:
      net: "alex", "vgg" or "squeeze"; static under jit.
      params: of this net, as `shapes` says.

    Raises: ValueError where the images differ in shape, or a side is below SMALLEST[net].
    """
    if a.shape != b.shape:
        raise ValueError(f"LPIPS compares images of one shape, not {a.shape} and {b.shape}")
    if min(a.shape[:2]) < SMALLEST[net]:
        least = SMALLEST[net]
        raise ValueError(f"LPIPS of {net} needs at least {least}x{least} pixels, not {a.shape[:2]}")
    x, y = _standardise(a), _standardise(b)
    distance = jnp.float32(0)
    for i, stage in enumerate(TRUNKS[net]):
        x, y = _run(stage, params, x), _run(stage, params, y)
        channels = jnp.mean(jnp.square(_difference(x, y)), axis=(0, 1, 2))
        distance += jnp.sum(channels * params[f"lin{i}"])
    return distance


def _standardise(image: jax.Array) -> jax.Array:
    """[H, W, 3] in 0..255 to the trunk's input [1, H, W, 3]."""
    shift, scale = (jnp.array(x).reshape((1, 1, 3)) for x in (SHIFT, SCALE))
    return ((ranges.pixels_to_signed(image) - shift) / scale)[None]


def _difference(x: jax.Array, y: jax.Array) -> jax.Array:
    """x / |x| - y / |y|, the norm being each position's over its channels; zeros stay zeros.

    Written so that both terms are exactly 0 where x and y are equal, which the plain difference
    of two products is not once the compiler has made it a fused multiply-add; and with the
    smaller vector in the second term, so that neither is ever large.
    """
    of_x, of_y = (
        1 / (jnp.sqrt(jnp.sum(jnp.square(z), axis=-1, keepdims=True)) + 1e-10) for z in (x, y)
    )
    smaller = jnp.where(of_x > of_y, x, y)
    return (x - y) * jnp.minimum(of_x, of_y) + smaller * (of_x - of_y)


def _run(stage: Stage, params: Params, x: jax.Array) -> jax.Array:
    """[1, H, W, C] through the layers of a stage."""
    for layer in stage:
        if isinstance(layer, Pool):
            x = _max_pool(layer, x)
        elif isinstance(layer, Fire):
            x = _convolve(layer.squeeze, params, x)
            sides = [_convolve(conv, params, x) for conv in (layer.expand1x1, layer.expand3x3)]
            x = jnp.concatenate(sides, axis=-1)
        else:
            x = _convolve(layer, params, x)
    return x


def _convolve(conv: Conv, params: Params, x: jax.Array) -> jax.Array:
    x = jax.lax.conv_general_dilated(
        x,
        params[f"{conv.name}.kernel"],
        window_strides=(conv.stride, conv.stride),
        padding=[(conv.padding, conv.padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    return jax.nn.relu(x + params[f"{conv.name}.bias"].reshape((1, 1, 1, -1)))


def _max_pool(pool: Pool, x: jax.Array) -> jax.Array:
    # The pixels that windows fitting inside leave over: 0 or 1, and one more column reaches them.
    over = [(size - pool.size) % 2 if pool.ceil else 0 for size in x.shape[1:3]]
    return jax.lax.reduce_window(
        x,
        -jnp.inf,
        jax.lax.max,
        window_dimensions=(1, pool.size, pool.size, 1),
        window_strides=(1, 2, 2, 1),
        padding=[(0, 0), (0, over[0]), (0, over[1]), (0, 0)],
    )
