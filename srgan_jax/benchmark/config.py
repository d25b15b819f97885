"""What is measured where no --config is given: the paper's SRResNet on the built-in pictures."""

from ml_collections import ConfigDict

from srgan_jax import config


def get_config() -> ConfigDict:
    """Batch 16, crops of 96, no content network, nothing to download."""
    c = config.paper()
    c.data.source = "builtin"
    c.gan.steps = 0
    return c
