"""The layers that the networks are made of.

Parameters and statistics are float32 and named as Flax names them. `dtype` is what a layer computes
in; sums over many positions are float32 always.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from srgan_jax.models.operations import (
    channel_sum,
    conv,
    depth_to_space,
    last_conv,
    shuffled_kernel,
    spread,
)

BN_MOMENTUM = 0.9  # Flax's sense: the share of the old running statistics that is kept
BN_EPSILON = 1e-5

Initializer = Callable[..., jax.Array]


class Conv(nn.Module):
    """A convolution [B, H, W, C] to [B, H / stride, W / stride, features], zeros around.

    Attributes:
      features: output channels.
      side: of the kernel, odd.
      stride: of the places that the kernel is put on.
      shuffle: r, to convolve the pixel shuffle of [B, H, W, r * r * C] instead, without making it.
      kernel_init: of [side, side, C, features].
      before_norm: whether BatchNorm follows, which takes the bias away again: in training its
        gradient is nothing but rounding, and is not computed.
      last: whether it makes the network's result, in float32.
      dtype: float32 or bfloat16, also of the output where it is not the last.
    """

    features: int
    side: int = 3
    stride: int = 1
    shuffle: int = 1
    kernel_init: Initializer = nn.initializers.lecun_normal()
    before_norm: bool = False
    last: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1] // self.shuffle**2
        shape = (self.side, self.side, channels, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if self.before_norm:
            bias = lax.stop_gradient(bias)
        if self.shuffle > 1:
            kernel = shuffled_kernel(kernel, self.shuffle)
            bias = jnp.tile(bias, self.shuffle**2)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        y = last_conv(x, kernel) if self.last else conv(x, kernel, self.stride)
        y = (y + spread(bias, y.shape)).astype(y.dtype)
        return depth_to_space(y, self.shuffle)


class BatchNorm(nn.Module):
    """Normalisation of each channel of [B, ..., C] over all the rest, by float32 statistics.

    In training by the batch's own, which are averaged with weight 1 - `BN_MOMENTUM`; else by those.

    Attributes:
      train: which of them.
      groups: equal parts of the batch that are normalised each by its own statistics, which are
        averaged one after the other, as if they came in so many passes.
      axis_name: the mapped axis that the batch is spread over, of several devices.
    """

    train: bool
    groups: int = 1
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1],)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        exact = x.astype(jnp.float32)
        if self.train:
            mean, var = self._moments(exact)
            if not self.is_initializing():
                for running, news in ((running_mean, mean), (running_var, var)):
                    for new in news:
                        running.value = BN_MOMENTUM * running.value + (1 - BN_MOMENTUM) * new
        else:
            mean, var = running_mean.value[None], running_var.value[None]
        # As one multiplication and addition, so that backwards there are two sums only.
        gain = scale[None] * lax.rsqrt(var + BN_EPSILON)
        y = exact * spread(gain, x.shape) + spread(bias[None] - mean * gain, x.shape)
        return y.astype(x.dtype)

    def _moments(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and variance [groups, C]."""
        count = x.size // x.shape[-1] // self.groups
        sums = [channel_sum(power, self.groups) for power in (x, x * x)]
        moments = jnp.stack(sums) / count
        if self.axis_name is not None and not self.is_initializing():
            moments = lax.pmean(moments, self.axis_name)
        mean, square = moments
        return mean, jnp.maximum(square - mean * mean, 0.0)


class PReLU(nn.Module):
    """max(x, 0) + a * min(x, 0), a learned, one for all channels or one for each.

    Attributes:
      per_channel: which of them.
      shuffle: r, where x is yet to be shuffled, [B, H, W, r * r * C].
      initial: a.
    """

    per_channel: bool = False
    shuffle: int = 1
    initial: float = 0.25

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1] // self.shuffle**2 if self.per_channel else 1
        slope = self.param("slope", nn.initializers.constant(self.initial), (channels,))
        slope = jnp.tile(slope, x.shape[-1] // channels)
        return jnp.where(x >= 0, x, (x * spread(slope, x.shape)).astype(x.dtype))
