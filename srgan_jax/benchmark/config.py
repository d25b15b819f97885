"""What is measured where no --config is given: the paper's networks on the built-in pictures."""

from ml_collections import ConfigDict

from srgan_jax import config


def get_config() -> ConfigDict:
    """Batch 16, crops of 96, a VGG19 of random weights, nothing to download."""
    c = config.paper()
    c.data.source = "builtin"
    c.vgg.path = "random"
    return c
