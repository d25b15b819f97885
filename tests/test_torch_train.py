"""PyTorch's training steps are ours."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srgan_jax import optim, rng, steps
from srgan_jax.convert import exports
from srgan_jax.data.degradation import Degradation, training_pairs
from srgan_jax.errors import UserError
from srgan_jax.losses import AdversarialLoss, ContentLoss
from srgan_jax.models.discriminator import Discriminator
from srgan_jax.models.generator import Generator
from srgan_jax.models.vgg import VGG19
from srgan_jax.state import init_variables, start_gan, start_pretraining

pytest.importorskip("torch", reason="compares with PyTorch")
from srgan_jax.benchmark import torch_train

pytestmark = pytest.mark.usefixtures("quick_compile")

CROP, BATCH = 32, 4
GENERATOR = Generator(blocks=1, channels=4)
DISCRIMINATOR = Discriminator(channels=4, dense=8)
VGG = VGG19(layers=("relu1_2",))
ADAM = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
RATE = 1e-3
PERCEPTUAL = ContentLoss(pixel=0.5, vgg=1.0, layers=(("relu1_2", 1.0),))


@functools.cache
def variables_of(module, size: int):
    return init_variables(module, rng.stream(0, "test"), (1, size, size, 3))


def batch(seed: int) -> steps.Batch:
    random = np.random.default_rng(seed)
    return steps.Batch(
        random.integers(0, 256, (BATCH, CROP, CROP, 3), np.uint8),
        random.integers(0, 8, BATCH, np.int32),
        random.integers(0, 2**32, BATCH, np.uint32),
    )


def assert_same_steps(step, recipe, state, vgg_params, trainer) -> None:
    """Three of ours and of theirs: the losses of each, and the generator after them."""
    step = jax.jit(functools.partial(step, recipe))
    start = exports.state_dict(GENERATOR, state.generator.variables)
    for i in range(3):
        lr_image, hr = training_pairs(recipe.degradation, batch(i))
        theirs = trainer.step(torch_train.to_torch(lr_image), torch_train.to_torch(hr))
        state, ours = step(state, vgg_params, batch(i))
        assert set(theirs) == {name for name in ours if name.startswith("loss")}
        for name, loss in theirs.items():
            np.testing.assert_allclose(loss.item(), ours[name], rtol=1e-4, err_msg=name)
    theirs = trainer.generator_arrays()
    ours = exports.state_dict(GENERATOR, state.generator.variables)
    assert set(theirs) == set(ours)
    for name, array in ours.items():
        # A bias before BatchNorm has a gradient of rounding errors alone, which Adam makes large;
        # and the running variance is PyTorch's of B - 1 degrees of freedom.
        if name.startswith(("block", "conv_mid")) and name.endswith("bias") and "bn" not in name:
            continue
        if "running_" not in name:
            assert np.abs(array - start[name]).max() > RATE  # so that the next line can fail
            np.testing.assert_allclose(theirs[name], array, atol=RATE / 20, err_msg=name)


def test_pretraining_is_ours():
    tx = optim.adam(lambda _: RATE, **ADAM)
    recipe = steps.Recipe(GENERATOR, tx, ContentLoss(), Degradation())
    variables = variables_of(GENERATOR, CROP // 4)
    trainer = torch_train.Trainer(
        (GENERATOR, variables), content=recipe.content, learning_rate=RATE, compiled=False, **ADAM
    )
    state = start_pretraining(variables, tx, ema=False)
    assert_same_steps(steps.pretrain_step, recipe, state, {}, trainer)


@pytest.mark.parametrize("head", ["flatten", "pool"])
def test_the_gan_is_ours(head):
    tx = optim.adam(lambda _: RATE, **ADAM)
    discriminator = DISCRIMINATOR.clone(head=head)
    recipe = steps.GanRecipe(
        GENERATOR, tx, PERCEPTUAL, Degradation(), VGG,
        discriminator=discriminator, discriminator_tx=tx, adversarial=AdversarialLoss(weight=0.1),
    )  # fmt: skip
    variables, judge = variables_of(GENERATOR, CROP // 4), variables_of(discriminator, CROP)
    vgg_params = VGG.init(jax.random.key(1), jnp.zeros((1, CROP, CROP, 3)))["params"]
    trainer = torch_train.Trainer(
        (GENERATOR, variables), (discriminator, judge), (VGG, vgg_params),
        content=recipe.content, adversarial=recipe.adversarial, learning_rate=RATE,
        compiled=False, **ADAM,
    )  # fmt: skip
    state = start_gan(start_pretraining(variables, tx, ema=False), tx, judge, tx)
    assert_same_steps(steps.gan_step, recipe, state, vgg_params, trainer)


def test_losses_that_it_has_not_are_refused():
    networks = (GENERATOR, variables_of(GENERATOR, CROP // 4))
    for content, kind in ((ContentLoss(tv=1e-8), "nonsaturating"), (ContentLoss(), "lsgan")):
        with pytest.raises(UserError, match="the PyTorch side has neither"):
            torch_train.Trainer(
                networks, content=content, adversarial=AdversarialLoss(kind),
                learning_rate=RATE, **ADAM,
            )  # fmt: skip
