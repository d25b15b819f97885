"""VGG19 (Simonyan and Zisserman 2015) up to its last pooling, every activation by name."""

import re
from typing import NamedTuple

import flax.linen as nn
import jax

from srgan_jax import ranges

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


def convolutions_needed(layers: tuple[str, ...]) -> tuple[str, ...]:
    """The convolutions that must be run for these layers, in order, such as `conv1_1`."""
    deepest = max(LAYERS.index(layer) for layer in layers)
    return tuple(name for name in LAYERS[: deepest + 1] if re.match("conv", name))


class VGG19(nn.Module):
    """Images [B, H, W, 3], RGB in [-1, 1], to {layer: activations [B, h, w, c]}.

    `relu5_4` is the paper's phi_{5,4} (VGG54), `relu2_2` its phi_{2,2} (VGG22): the j-th
    convolution after ReLU, before the i-th max-pool. Nothing deeper than the deepest of
    `layers` is computed, and no parameters beyond it are needed.

    Attributes:
      layers: names from `LAYERS`; `conv5_4` is before ReLU, `relu5_4` after.
      normalisation: that of the weights, whose first kernel takes RGB, whatever it was trained on.
    """

    layers: tuple[str, ...] = ("relu5_4",)
    normalisation: Normalisation = CAFFE

    @nn.compact
    def __call__(self, image: jax.Array) -> dict[str, jax.Array]:
        x = ranges.standardise(ranges.signed_to_pixels(image), *self.normalisation)
        deepest = max(LAYERS.index(layer) for layer in self.layers)
        activations = {}
        for name in LAYERS[: deepest + 1]:
            if name.startswith("conv"):
                features = STAGES[int(name[4]) - 1][1]
                x = nn.Conv(features, (3, 3), padding=1, name=name)(x)
            elif name.startswith("relu"):
                x = nn.relu(x)
            else:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
            if name in self.layers:
                activations[name] = x
        return activations
