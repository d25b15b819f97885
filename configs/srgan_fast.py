"""srresnet-fast and srgan-fast, the small generators for CPUs that come with the package.

    python -m srgan_jax.main --config=configs/srgan_fast.py:srresnet --workdir=runs/srresnet_fast \\
        --config.data.path=photographs --config.eval.path=validation
    python -m srgan_jax.main --config=configs/srgan_fast.py:srgan --workdir=runs/srgan_fast \\
        --config.data.path=photographs --config.eval.path=validation \\
        --config.vgg.path=vgg19.npz --config.init_from=runs/srresnet_fast/srresnet.safetensors

and the second again with `--config.gan.steps=2400 --config.gan.content.pixel=4.0 --allow_changes`:
after 1600 updates SR had a grid of coloured dots, which the pixel loss takes away. Then
`python -m srgan_jax.convert.level` takes most of the grid away that is left.

Six blocks of 48 channels without BatchNorm, all on LR: one convolution makes the sixteen pixels of
each, and the network adds to the bicubic enlargement. The VGG loss is that of relu2_2 and relu3_4,
scaled so that each is about as large as the pixel loss of srresnet-fast.

Hardware, time and result: docs/models.md.
"""

from ml_collections import ConfigDict

from srgan_jax import config
from srgan_jax.errors import UserError

PHASES = ("srresnet", "srgan")


def get_config(phase: str = "srresnet") -> ConfigDict:
    """One of the two."""
    if phase not in PHASES:
        raise UserError(f"--config: unknown phase {phase!r}: one of {', '.join(PHASES)}")
    c = config.paper()
    c.data.source = "folder"
    c.data.uniform_over = "pixels"
    c.data.min_detail = 2.0

    c.generator.blocks = 6
    c.generator.channels = 48
    c.generator.kernel = 3
    c.generator.norm = "none"
    c.generator.prelu = "channel"
    c.generator.upsample = "direct"
    c.generator.base = "bicubic"
    c.discriminator.channels = 32
    c.discriminator.head = "pool"
    c.discriminator.dense = 256

    c.eval.source = "folder"
    c.eval.best = "modern/psnr"
    if phase == "srresnet":
        c.ema_decay = 0.999
        c.pretrain.steps = 20_000
        c.pretrain.learning_rate = 1e-3
        c.pretrain.schedule = "cosine"
        c.pretrain.decay_factor = 0.01
        c.pretrain.warmup_steps = 200
        c.gan.steps = 0
        c.checkpoint.every_steps = 1000
        c.eval.every_steps = 4000
        return c

    c.init_from = "srresnet-fast"
    c.data.batch_size = 8
    c.ema_decay = 0.995
    c.pretrain.steps = 0
    c.gan.steps = 1600
    c.gan.learning_rate = 1e-4
    c.gan.schedule = "cosine"
    c.vgg.layers = ("relu2_2", "relu3_4")
    c.vgg.channels = "mean"
    c.vgg.feature_scale = 7.8e-4
    c.vgg.layer_weights = (1.0, 0.12)
    c.gan.adversarial_weight = 5e-4  # with 3e-3 its gradient was 25 times that of the VGG loss,
    # and SR had a grid of its pixel shuffle
    c.checkpoint.every_steps = 200
    c.eval.every_steps = 400
    return c
