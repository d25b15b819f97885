"""The generator G (SRResNet): paper section 2.1.1 and figure 4."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from srgan_jax import ranges, resample
from srgan_jax.models.layers import BatchNorm, Conv, Initializer, PReLU
from srgan_jax.models.operations import depth_to_space

# The factors of the enlarging stages that make up a scale.
STAGES = {2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}

# The values that switches may have.
CHOICES: dict[str, tuple[Any, ...]] = {
    "scale": tuple(STAGES),
    "kernel": (9, 3),
    "norm": ("batch", "none"),
    "activation": ("prelu", "swish"),
    "prelu": ("shared", "channel"),
    "mid": ("norm", "prelu", "none"),
    "upsample": ("shuffle", "nearest", "direct"),
    "hr_conv": (False, True),
    "input": ("unit", "imagenet"),
    "output": ("linear", "tanh"),
    "base": ("none", "bicubic", "bilinear"),
    "icnr": (False, True),
}


def nearest(x: jax.Array, factor: int) -> jax.Array:
    """Nearest-neighbour enlargement, [B, H, W, C] to [B, r * H, r * W, C], r the factor."""
    return x.repeat(factor, axis=1).repeat(factor, axis=2)


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

    The defaults are the paper's network. The other values of the switches are what published
    implementations do instead (`convert.generators` names them).

    Attributes:
      scale: 2, 4 or 8, by one, two or three stages of 2, or 3, by one of 3.
      blocks: residual blocks; 16 in the paper, 15 in the report, 5 in leftthomas/SRGAN.
      channels: feature maps; 64.
      kernel: side of the first and the last convolution; 9, or 3 as in MSRResNet.
      norm: "batch" (paper) or "none" (MSRResNet).
      activation: "prelu" (paper) or "swish" (aitorzip). ReLU, LeakyReLU and the identity are
        PReLU with a slope of 0, of theirs and of 1.
      prelu: "shared", one slope for all channels, or "channel", one for each.
      mid: between blocks and enlargement: "norm" (paper), a convolution, normalisation and the
        long skip; "prelu", PReLU for the normalisation (early leftthomas/SRGAN); "none", neither
        convolution nor skip (MSRResNet).
      upsample: "shuffle" (paper), convolution and pixel shuffle, "nearest", nearest-neighbour
        enlargement and convolution (KAIR), or "direct": no stages, the last convolution makes all
        pixels at once, on LR, and one pixel shuffle puts them in place (ESPCN, Shi et al. 2016).
      hr_conv: one more 3x3 convolution and activation before the last convolution (MSRResNet).
      input: "unit" (paper), LR as it is, or "imagenet", standardised by ImageNet's mean and
        standard deviation (aitorzip, sgrvinod).
      output: "linear" (paper) or "tanh".
      base: "none" (paper), or "bicubic" or "bilinear": the network adds to that enlargement. From
        "bicubic" it starts exactly, its last convolution zero.
      icnr: start the convolutions of "shuffle" as nearest-neighbour enlargement.
      axis_name: the mapped axis that BatchNorm averages over, of several devices.
      dtype: what it computes in, float32 or bfloat16; BatchNorm's statistics and SR are float32.
    """

    scale: int = 4
    blocks: int = 16
    channels: int = 64
    kernel: int = 9
    norm: str = "batch"
    activation: str = "prelu"
    prelu: str = "shared"
    mid: str = "norm"
    upsample: str = "shuffle"
    hr_conv: bool = False
    input: str = "unit"
    output: str = "linear"
    base: str = "none"
    icnr: bool = False
    axis_name: str | None = None
    dtype: str = "float32"

    @property
    def stages(self) -> tuple[int, ...]:
        """The factors of the enlarging stages before the last convolution."""
        return () if self.upsample == "direct" else STAGES[self.scale]

    @property
    def last_factor(self) -> int:
        """Of the pixel shuffle after the last convolution; 1: there is none."""
        return self.scale if self.upsample == "direct" else 1

    @nn.compact
    def __call__(
        self,
        lr_image: jax.Array,
        *,
        train: bool,
        features: jax.Array | None = None,
        features_only: bool = False,
    ) -> jax.Array:
        """The whole network; or its two parts, so that a picture can go through them in pieces.

        Args:
          lr_image: [B, h, w, 3] in [0, 1].
          train: BatchNorm by the batch's own statistics, which are averaged, or by those.
          features: what `features_only` gave: only the rest is run.
          features_only: give what enlargement starts from, [B, h, w, channels].
        """

        def conv(features: int, name: str, side: int = 3, **kwargs: Any) -> Conv:
            return Conv(features, side, dtype=self.dtype, name=name, **kwargs)

        def normed_conv(x: jax.Array, name: str, norm_name: str) -> jax.Array:
            x = conv(self.channels, name, before_norm=self.norm != "none")(x)
            if self.norm == "none":
                return x
            return BatchNorm(train, axis_name=self.axis_name, name=norm_name)(x)

        def activation(x: jax.Array, name: str, shuffle: int = 1) -> jax.Array:
            if self.activation == "swish":
                return nn.swish(x)
            return PReLU(self.prelu == "channel", shuffle, name=name)(x)

        def trunk() -> jax.Array:
            x = ranges.standardise(lr_image) if self.input == "imagenet" else lr_image
            x = activation(conv(self.channels, "conv_in", self.kernel)(x), "prelu_in")
            skip = x
            for i in range(self.blocks):
                y = normed_conv(x, f"block{i}_conv1", f"block{i}_bn1")
                y = activation(y, f"block{i}_prelu")
                x = x + normed_conv(y, f"block{i}_conv2", f"block{i}_bn2")
            if self.mid == "norm":
                x = skip + normed_conv(x, "conv_mid", "bn_mid")
            elif self.mid == "prelu":
                x = skip + activation(conv(self.channels, "conv_mid")(x), "prelu_mid")
            return x

        x = trunk() if features is None else features
        if features_only:
            return x
        shuffle = 1  # still to be done
        for i, factor in enumerate(self.stages):
            is_last = i == len(self.stages) - 1
            shuffle = factor if is_last and not self.hr_conv else 1
            if self.upsample == "nearest":
                x, shuffle = conv(self.channels, f"up{i}_conv")(nearest(x, factor)), 1
            else:
                init = nn.initializers.lecun_normal()
                init = icnr(init, factor) if self.icnr else init
                x = conv(factor**2 * self.channels, f"up{i}_conv", kernel_init=init)(x)
                x = x if shuffle > 1 else depth_to_space(x, factor)
            x = activation(x, f"up{i}_prelu", shuffle)
        if self.hr_conv:
            x = activation(conv(self.channels, "conv_hr")(x), "prelu_hr")

        kernel_init = Conv.kernel_init if self.base != "bicubic" else nn.initializers.zeros
        width = 3 * self.last_factor**2
        how: dict[str, Any] = {"shuffle": shuffle, "last": True, "kernel_init": kernel_init}
        x = depth_to_space(conv(width, "conv_out", self.kernel, **how)(x), self.last_factor)
        if self.base == "bicubic":
            return ranges.unit_to_signed(resample.bicubic(lr_image, self.scale, quantise=False)) + x
        if self.base == "bilinear":
            return ranges.unit_to_signed(resample.bilinear(lr_image, self.scale)) + x
        return jnp.tanh(x) if self.output == "tanh" else x
