"""The paper's recipe: SRResNet, then SRGAN from it, on DIV2K.

    python -m srgan_jax.main --config=configs/srgan.py --workdir=runs/srgan

reaches the five networks of the paper's Table 1 by `--config=configs/srgan.py:VARIANT`:

    vgg54           SRGAN-VGG54, the default: SRResNet-MSE, then VGG 5,4 and adversarial loss
    vgg34           the same with VGG 3,4, for weights that end there; not one of the paper's
    vgg22           SRGAN-VGG22: the same with VGG 2,2
    mse             SRGAN-MSE: the same with the pixel loss; needs no VGG19 weights
    srresnet_mse    SRResNet-MSE alone; needs no VGG19 weights
    srresnet_vgg22  SRResNet-VGG22: VGG 2,2 and total variation, no adversarial loss

Every value is in `srgan_jax/config.py`, and can be given on the command line:
`--config.optim.learning_rate=3e-4`, `--config.data.source=folder --config.data.path=DIR`.

Hardware, time and result: not measured yet. The paper's set was 350,000 ImageNet pictures.
"""

from ml_collections import ConfigDict

from srgan_jax import variants


def get_config(variant: str = "vgg54") -> ConfigDict:
    """One row of Table 1."""
    return variants.of_table_1(variant)
