"""VGG19 (Simonyan and Zisserman 2015) up to its last pooling, every activation by name."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from srgan_jax import ranges
from srgan_jax.models.layers import Conv
from srgan_jax.models.operations import max_pool

Features = dict[str, jax.Array]

# (convolutions, channels) of the five stages, each followed by a 2x2 max-pool.
STAGES = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))

CONVOLUTIONS = tuple(f"conv{i}_{j}" for i, (n, _) in enumerate(STAGES, 1) for j in range(1, n + 1))

# Every name that `VGG19.layers` may hold, in the order of computation: before ReLU, after it.
LAYERS = tuple(
    layer
    for i, (n, _) in enumerate(STAGES, 1)
    for layer in [f"{kind}{i}_{j}" for j in range(1, n + 1) for kind in ("conv", "relu")]
    + [f"pool{i}"]
)


class Normalisation(NamedTuple):
    """What the weights' input was standardised by, RGB in 0..255: a property of the weights."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


# Oxford's weights, and what was converted from them: Keras', MatConvNet's, vgg19.npy.
CAFFE = Normalisation((123.68, 116.779, 103.939), (1.0, 1.0, 1.0))

# torchvision's and timm's, trained anew.
TORCH = Normalisation((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def layers_needed(layers: tuple[str, ...]) -> tuple[str, ...]:
    """What must be run for these layers: all up to the deepest, in order."""
    return LAYERS[: max(LAYERS.index(layer) for layer in layers) + 1]


def convolutions_needed(layers: tuple[str, ...]) -> tuple[str, ...]:
    """The convolutions among `layers_needed`, such as `conv1_1`."""
    return tuple(name for name in layers_needed(layers) if name.startswith("conv"))


class VGG19(nn.Module):
    """Images [B, H, W, 3], RGB in [-1, 1], to {layer: activations [B, h, w, c]}.

    `relu5_4` is the paper's phi_{5,4} (VGG54), `relu2_2` its phi_{2,2} (VGG22): the j-th
    convolution after ReLU, before the i-th max-pool. Nothing deeper than the deepest of
    `layers` is computed, and no parameters beyond it are needed.

    Attributes:
      layers: names from `LAYERS`; `conv5_4` is before ReLU, `relu5_4` after.
      normalisation: that of the weights, whose first kernel takes RGB, whatever it was trained on.
      dtype: what the convolutions compute in, and of the activations: float32 or bfloat16.
    """

    layers: tuple[str, ...] = ("relu5_4",)
    normalisation: Normalisation = CAFFE
    dtype: str = "float32"

    def __call__(self, image: jax.Array) -> dict[str, jax.Array]:
        x, activations = standardised(self, image), {}
        for name in layers_needed(self.layers):
            x = self.layer(name, x)
            if name in self.layers:
                activations[name] = x
        return activations

    @nn.compact
    def layer(self, name: str, x: jax.Array) -> jax.Array:
        """One of `LAYERS`, on the activations of the one before it."""
        if name.startswith("conv"):
            return Conv(STAGES[int(name[4]) - 1][1], dtype=self.dtype, name=name)(x)
        return nn.relu(x) if name.startswith("relu") else max_pool(x)


def standardised(vgg: VGG19, image: jax.Array) -> jax.Array:
    """What the first layer takes, of an image [B, H, W, 3] in [-1, 1]."""
    return ranges.standardise(ranges.signed_to_pixels(image), *vgg.normalisation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def compared(vgg: VGG19, params: Any, sr: jax.Array, hr: jax.Array) -> tuple[Features, Features]:
    """The activations of SR and of HR, [B, H, W, 3] in [-1, 1] each, in one pass.

    There is a gradient at SR alone, and only SR's half goes backwards.
    """
    return _compared_forward(vgg, params, sr, hr)[0]


def _layer(vgg: VGG19, params: Any, name: str, x: jax.Array) -> jax.Array:
    return jnp.asarray(vgg.apply({"params": params}, name, x, method="layer"))


def _compared_forward(
    vgg: VGG19, params: Any, sr: jax.Array, hr: jax.Array
) -> tuple[tuple[Features, Features], tuple]:
    x = standardised(vgg, jnp.concatenate([sr, hr]))
    ours, theirs, seen = {}, {}, []
    for name in layers_needed(vgg.layers):
        seen.append(x[: len(sr)])
        x = _layer(vgg, params, name, x)
        if name in vgg.layers:
            ours[name], theirs[name] = jnp.split(x, 2)
    return (ours, theirs), (params, sr, seen)


def _compared_backward(
    vgg: VGG19, saved: tuple, gradients: tuple[Features, Features]
) -> tuple[None, jax.Array, None]:
    params, sr, seen = saved
    at_features, _ = gradients
    gradient = None
    for name, x in zip(reversed(layers_needed(vgg.layers)), reversed(seen), strict=True):
        if name in vgg.layers:
            here = at_features[name]
            gradient = here if gradient is None else gradient + here
        # Of what this computes again, only ReLU's and the pooling's comparisons are needed.
        (gradient,) = jax.vjp(functools.partial(_layer, vgg, params, name), x)[1](gradient)
    (gradient,) = jax.vjp(functools.partial(standardised, vgg), sr)[1](gradient)
    return None, gradient, None


compared.defvjp(_compared_forward, _compared_backward)
