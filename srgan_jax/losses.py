"""The losses: paper section 2.2, with every variant seen elsewhere as a named switch.

All are means over the batch. Images are [B, H, W, 3] in [-1, 1].
"""

import dataclasses

import jax
import jax.numpy as jnp

from srgan_jax.models.vgg import Features


@dataclasses.dataclass(frozen=True)
class ContentLoss:
    """The content loss as a weighted sum of terms.

    Attributes:
      pixel: weight of the mean squared error (paper, equation 4).
      vgg: weight of the VGG loss (paper, equation 5).
      tv: weight of the total variation; 2e-8 in the paper's SRResNet-VGG22, else 0.
      layers: ((name, weight), ...) of the VGG activations compared, such as
        (("relu5_4", 1.0),); several are the report's low- and high-level features.
      feature_scale: factor on the features before they are compared; 1 / 12.75 in the paper
        (section 3.2), so about 0.006 on the loss.
      channels: "sum" over the feature channels, equation 5 read literally, or "mean", as many
        implementations have it: up to 512 times smaller.
    """

    pixel: float = 1.0
    vgg: float = 0.0
    tv: float = 0.0
    layers: tuple[tuple[str, float], ...] = (("relu5_4", 1.0),)
    feature_scale: float = 1 / 12.75
    channels: str = "sum"


@dataclasses.dataclass(frozen=True)
class AdversarialLoss:
    """How G is told of D's judgement.

    Attributes:
      kind: "nonsaturating", -log D(G(x)), the paper's equation 6; "saturating",
        log(1 - D(G(x))), of the min-max game; "linear", 1 - D(G(x)), as leftthomas/SRGAN;
        "lsgan", least squares for G and D.
      weight: 1e-3 in the paper (equation 3).
    """

    kind: str = "nonsaturating"
    weight: float = 1e-3


def mean_squared_error(sr: jax.Array, hr: jax.Array) -> jax.Array:
    """Mean squared error over pixels and channels, a scalar (paper, equation 4)."""
    return jnp.mean(jnp.square(sr - hr))


def total_variation(image: jax.Array) -> jax.Array:
    """Sum of absolute differences of neighbouring pixels in each image, mean over the batch.

    The paper (section 3.2) names no formula; with its weight of 2e-8 only a sum can matter.
    """
    down = jnp.abs(image[:, 1:] - image[:, :-1]).sum(axis=(1, 2, 3))
    across = jnp.abs(image[:, :, 1:] - image[:, :, :-1]).sum(axis=(1, 2, 3))
    return jnp.mean(down + across)


def feature_distance(loss: ContentLoss, sr: Features, hr: Features) -> jax.Array:
    """The weighted sum over layers of the squared feature distance (paper, equation 5).

    For each layer of [B, H, W, C]: the mean over batch and positions of the sum (or mean, see
    `ContentLoss.channels`) over channels of (feature_scale * (sr - hr)) ** 2.
    """
    total = jnp.zeros(())
    for layer, weight in loss.layers:
        ours, theirs = (features[layer].astype(jnp.float32) for features in (sr, hr))
        squared = jnp.square(loss.feature_scale * (ours - theirs))
        per_position = squared.sum(-1) if loss.channels == "sum" else squared.mean(-1)
        total += weight * jnp.mean(per_position)
    return total


def answers(kind: str, logits: jax.Array) -> jax.Array:
    """What D says of each image: 1 for real, 0 for generated."""
    return logits if kind == "lsgan" else jax.nn.sigmoid(logits)


def generator_adversarial(kind: str, fake_logits: jax.Array) -> jax.Array:
    """The adversarial loss of G from D's logits [B] on SR, unweighted (paper, equation 6)."""
    if kind == "nonsaturating":
        return jnp.mean(jax.nn.softplus(-fake_logits))  # -log sigmoid(l)
    if kind == "saturating":
        return jnp.mean(-jax.nn.softplus(fake_logits))  # log(1 - sigmoid(l))
    if kind == "linear":
        return jnp.mean(1.0 - answers(kind, fake_logits))
    if kind == "lsgan":
        return jnp.mean(jnp.square(fake_logits - 1.0))
    raise ValueError(f"unknown adversarial loss {kind!r}")


def discriminator_loss(kind: str, real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """What D descends, from its logits [B] on HR and SR.

    -log D(HR) - log(1 - D(SR)), the negated value of the min-max game (paper, equation 2), whose
    value at D = 1/2 is -log 4. For "lsgan": (l_real - 1)^2 + l_fake^2.
    """
    if kind == "lsgan":
        return jnp.mean(jnp.square(real_logits - 1.0)) + jnp.mean(jnp.square(fake_logits))
    return jnp.mean(jax.nn.softplus(-real_logits)) + jnp.mean(jax.nn.softplus(fake_logits))
