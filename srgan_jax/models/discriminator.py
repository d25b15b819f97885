"""The discriminator D: paper section 2.1.1 and figure 4."""

import flax.linen as nn
import jax

from srgan_jax.models.generator import BN_EPSILON, BN_MOMENTUM


class Discriminator(nn.Module):
    """HR crops [B, H, W, 3] in [-1, 1] to one logit each, [B]; no sigmoid (it is in the loss).

    With `head="flatten"` the first dense layer fixes the crop's size.

    Attributes:
      channels: feature maps of the first layer, doubled three times; 64.
      dense: units of the first dense layer; 1024.
      slope: of LeakyReLU; 0.2 in the paper, 0.01 in the report.
      head: "flatten" (paper), or "pool": global average pooling before the dense layers.
      axis_name: the mapped axis that BatchNorm averages over, under `pmap` only.
    """

    channels: int = 64
    dense: int = 1024
    slope: float = 0.2
    head: str = "flatten"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        c = self.channels
        layers = [(c, 1), (c, 2), (2 * c, 1), (2 * c, 2), (4 * c, 1), (4 * c, 2)]
        layers += [(8 * c, 1), (8 * c, 2)]
        x = image
        for i, (features, stride) in enumerate(layers):
            # Explicit padding: "SAME" would pad a strided convolution at one side only.
            x = nn.Conv(features, (3, 3), stride, padding=1, name=f"conv{i}")(x)
            if i > 0:
                x = nn.BatchNorm(
                    use_running_average=not train,
                    momentum=BN_MOMENTUM,
                    epsilon=BN_EPSILON,
                    axis_name=self.axis_name,
                    name=f"bn{i}",
                )(x)
            x = nn.leaky_relu(x, self.slope)
        x = x.mean(axis=(1, 2)) if self.head == "pool" else x.reshape(x.shape[0], -1)
        x = nn.leaky_relu(nn.Dense(self.dense, name="dense0")(x), self.slope)
        return nn.Dense(1, name="dense1")(x)[:, 0]
