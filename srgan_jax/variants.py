"""The networks of the paper's table 1 as configs, each complete: pre-training, then the GAN."""

from ml_collections import ConfigDict

from srgan_jax import config
from srgan_jax.errors import UserError

# What tables call each, by the name that a command line gives.
TITLES = {
    "vgg54": "SRGAN-VGG54",
    "vgg34": "SRGAN-VGG34",  # not the paper's: for VGG19 weights that end there
    "vgg22": "SRGAN-VGG22",
    "mse": "SRGAN-MSE",
    "srresnet_mse": "SRResNet-MSE",
    "srresnet_vgg22": "SRResNet-VGG22",
}


def of_table_1(name: str) -> ConfigDict:
    """One of `TITLES` as the paper trains it. Raises: UserError for another name."""
    if name not in TITLES:
        raise UserError(f"--config: unknown variant {name!r}: one of {', '.join(TITLES)}")
    c = config.paper()
    level = name.rpartition("vgg")[2]
    if level.isdecimal():
        c.vgg.layers = (f"relu{level[0]}_{level[1]}",)
    if name == "mse":
        c.gan.content = {"pixel": 1.0, "vgg": 0.0, "tv": 0.0}
    if name.startswith("srresnet"):
        c.gan.steps = 0
    if name == "srresnet_vgg22":
        c.pretrain.content = {"pixel": 0.0, "vgg": 1.0, "tv": 2e-8}
    return c
