"""The discriminator D: paper section 2.1.1 and figure 4."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from srgan_jax.models.layers import BatchNorm, Conv


class Discriminator(nn.Module):
    """HR crops [B, H, W, 3] in [-1, 1] to one logit each, [B]; no sigmoid (it is in the loss).

    With `head="flatten"` the first dense layer fixes the crop's size.

    Attributes:
      channels: feature maps of the first layer, doubled three times; 64.
      dense: units of the first dense layer; 1024.
      slope: of LeakyReLU; 0.2 in the paper, 0.01 in the report.
      head: "flatten" (paper), or "pool": global average pooling before the dense layers.
      axis_name: the mapped axis that BatchNorm averages over, of several devices.
      dtype: what the convolutions compute in, float32 or bfloat16; the dense layers are float32.
    """

    channels: int = 64
    dense: int = 1024
    slope: float = 0.2
    head: str = "flatten"
    axis_name: str | None = None
    dtype: str = "float32"

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool, passes: int = 1) -> jax.Array:
        """`passes` equal parts of the batch are normalised as if they came one after the other."""
        c = self.channels
        layers = [(c, 1), (c, 2), (2 * c, 1), (2 * c, 2), (4 * c, 1), (4 * c, 2)]
        layers += [(8 * c, 1), (8 * c, 2)]
        x = image
        for i, (features, stride) in enumerate(layers):
            normed = i > 0
            conv = Conv(
                features, stride=stride, before_norm=normed, dtype=self.dtype, name=f"conv{i}"
            )
            x = conv(x)
            if normed:
                x = BatchNorm(train, passes, self.axis_name, name=f"bn{i}")(x)
            x = nn.leaky_relu(x, self.slope)
        x = x.astype(jnp.float32)
        x = x.mean(axis=(1, 2)) if self.head == "pool" else x.reshape(x.shape[0], -1)
        x = nn.leaky_relu(nn.Dense(self.dense, name="dense0")(x), self.slope)
        return nn.Dense(1, name="dense1")(x)[:, 0]
