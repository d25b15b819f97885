"""A small SRResNet, then an SRGAN from it, on a laptop, with nothing to download.

    python -m srgan_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

Hardware: 2 CPU cores. Time: 3 to 4 minutes. Result, PSNR on Y: bicubic 26.84, SRResNet 28.55, SRGAN
28.26 dB. The pictures are scikit-image's own photographs; `astronaut` is kept out, and measured at
the end, 128x128 to 512x512.

The networks are small (4 blocks of 32 channels; a discriminator a quarter as wide), the
generator has no BatchNorm and adds to the bicubic enlargement, which learns faster than the
paper's. There are no VGG weights to be had without a download, so the GAN phase is the paper's
SRGAN-MSE.

`--config=configs/quickstart.py:pretrained` is the second phase alone, from the SRResNet that comes
with the package, `srresnet-fast`, whose generator is larger: 1 minute, SRGAN 28.99 dB.
"""

from ml_collections import ConfigDict

from srgan_jax import config
from srgan_jax.errors import UserError

VARIANTS = ("scratch", "pretrained")


def get_config(variant: str = "scratch") -> ConfigDict:
    """The quickstart, from random weights or from those that come with the package."""
    if variant not in VARIANTS:
        raise UserError(f"--config: unknown variant {variant!r}: one of {', '.join(VARIANTS)}")
    c = config.paper()
    c.data.source = "builtin"
    c.data.batch_size = 8
    c.data.crop = 64

    c.generator.blocks = 4
    c.generator.channels = 32
    c.generator.norm = "none"
    c.generator.prelu = "channel"
    c.generator.base = "bicubic"
    c.discriminator.channels = 16
    c.discriminator.dense = 128

    c.ema_decay = 0.99
    c.pretrain.steps = 2000
    c.pretrain.learning_rate = 1e-3
    c.pretrain.schedule = "cosine"
    c.pretrain.decay_factor = 0.01
    c.gan.steps = 400
    c.gan.learning_rate = 3e-4
    c.gan.content.pixel = 1.0
    c.gan.content.vgg = 0.0

    c.checkpoint.every_steps = 500
    c.log.every_steps = 100
    c.eval.every_steps = 500

    if variant == "pretrained":
        c.init_from = "srresnet-fast"
        c.generator.blocks = 6
        c.generator.channels = 48
        c.generator.kernel = 3
        c.generator.upsample = "direct"
        c.pretrain.steps = 0
    return c
