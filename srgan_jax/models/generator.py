"""The generator G (SRResNet): paper section 2.1.1 and figure 4."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from srgan_jax import ranges, resample

BN_MOMENTUM = 0.9  # Flax's sense: the share of the old running statistics that is kept
BN_EPSILON = 1e-5

Initializer = Callable[..., jax.Array]


class PReLU(nn.Module):
    """max(x, 0) + a * min(x, 0), a learned, one for all channels or one for each."""

    per_channel: bool = False
    initial: float = 0.25

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1],) if self.per_channel else (1,)
        slope = self.param("slope", nn.initializers.constant(self.initial), shape)
        return jnp.where(x >= 0, x, x * slope.reshape((1,) * (x.ndim - 1) + shape))


def depth_to_space(x: jax.Array, factor: int) -> jax.Array:
    """Pixel shuffle, [B, H, W, r * r * C] to [B, r * H, r * W, C], r the factor.

    Input channels are ordered (row, column, channel), unlike PyTorch's (channel, row, column).
    """
    batch, height, width, depth = x.shape
    channels = depth // factor**2
    x = x.reshape(batch, height, width, factor, factor, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height * factor, width * factor, channels)


def icnr(initializer: Initializer, factor: int) -> Initializer:
    """Initialise so that `depth_to_space` starts as nearest-neighbour enlargement.

    All `factor**2` sub-kernels of an output channel start equal (Aitken et al. 2017, arXiv
    1707.02937), which removes the checkerboard that independent ones start with.
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        sub_kernel = initializer(key, (*shape[:-1], shape[-1] // factor**2), dtype)
        return jnp.tile(sub_kernel, (1,) * (len(shape) - 1) + (factor**2,))

    return init


class Generator(nn.Module):
    """LR [B, h, w, 3] in [0, 1] to SR [B, s*h, s*w, 3] in about [-1, 1], never clipped.

    Attributes:
      scale: 2, 4 or 8, by one, two or three pixel-shuffle stages.
      blocks: residual blocks; 16 in the paper, 15 in the report, 5 in leftthomas/SRGAN.
      channels: feature maps; 64.
      norm: "batch" (paper) or "none" (as BasicSR and mmagic).
      prelu: "shared", one slope for all channels, or "channel", one for each.
      output: "linear" (paper) or "tanh".
      base: "none" (paper), or "bicubic": the network adds to the bicubic enlargement, starting
        from it exactly.
      icnr: start the pixel-shuffle convolutions as nearest-neighbour enlargement.
      axis_name: the mapped axis that BatchNorm averages over, under `pmap` only.
    """

    scale: int = 4
    blocks: int = 16
    channels: int = 64
    norm: str = "batch"
    prelu: str = "shared"
    output: str = "linear"
    base: str = "none"
    icnr: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, lr_image: jax.Array, *, train: bool) -> jax.Array:
        def conv(features: int, size: int, name: str, **kwargs: Any) -> nn.Module:
            return nn.Conv(features, (size, size), padding="SAME", name=name, **kwargs)

        def norm(x: jax.Array, name: str) -> jax.Array:
            if self.norm == "none":
                return x
            return nn.BatchNorm(
                use_running_average=not train,
                momentum=BN_MOMENTUM,
                epsilon=BN_EPSILON,
                axis_name=self.axis_name,
                name=name,
            )(x)

        def prelu(x: jax.Array, name: str) -> jax.Array:
            return PReLU(per_channel=self.prelu == "channel", name=name)(x)

        x = prelu(conv(self.channels, 9, "conv_in")(lr_image), "prelu_in")
        skip = x
        for i in range(self.blocks):
            y = norm(conv(self.channels, 3, f"block{i}_conv1")(x), f"block{i}_bn1")
            y = prelu(y, f"block{i}_prelu")
            x = x + norm(conv(self.channels, 3, f"block{i}_conv2")(y), f"block{i}_bn2")
        x = skip + norm(conv(self.channels, 3, "conv_mid")(x), "bn_mid")

        up_init = nn.initializers.lecun_normal()
        if self.icnr:
            up_init = icnr(up_init, 2)
        for i in range(self.scale.bit_length() - 1):
            x = conv(4 * self.channels, 3, f"up{i}_conv", kernel_init=up_init)(x)
            x = prelu(depth_to_space(x, 2), f"up{i}_prelu")

        if self.base == "bicubic":
            x = conv(3, 9, "conv_out", kernel_init=nn.initializers.zeros)(x)
            base = resample.bicubic(lr_image, self.scale, quantise=False)
            return ranges.unit_to_signed(base) + x
        x = conv(3, 9, "conv_out")(x)
        return jnp.tanh(x) if self.output == "tanh" else x
