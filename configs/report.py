"""The two runs of the report (Bhise and Koechlin, "Super Resolution General Adversarial Network").

    python -m srgan_jax.main --config=configs/report.py:a --workdir=runs/report_a

    a  750 epochs at batch 8: sharper edges, dull colours
    b  4000 epochs at batch 1: sharper still, colours kept

15 residual blocks, LeakyReLU slope 0.01, crops of 256 pixels from Gaussian-blurred 64, and
perceptual similarity over low- and high-level features. What the report does not state is the
paper's: the optimizer, the loss weights, pre-training. The blur (1.6 pixels) and the two VGG
layers are our choice, and so is how the epochs are divided: the first half is pre-training.

Hardware, time and result: not measured yet. At 256-pixel crops the discriminator's first dense
layer alone has 134 million parameters.
"""

from ml_collections import ConfigDict

from srgan_jax import config
from srgan_jax.errors import UserError

RUNS = {"a": (750, 8), "b": (4000, 1)}  # epochs, batch size


def get_config(run: str = "a") -> ConfigDict:
    """Run a or b."""
    if run not in RUNS:
        raise UserError(f"--config: unknown run {run!r}: one of {', '.join(RUNS)}")
    epochs, batch_size = RUNS[run]
    c = config.paper()
    c.data.batch_size = batch_size
    c.data.crop = 256
    c.data.degradation = ("gaussian",)
    c.generator.blocks = 15
    c.discriminator.slope = 0.01
    c.vgg.layers = ("relu2_2", "relu5_4")
    c.vgg.layer_weights = (1.0, 1.0)
    for phase in (c.pretrain, c.gan):
        config.set_length(phase, "epochs")
        phase.epochs = epochs / 2
    return c
