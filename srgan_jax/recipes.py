"""From the config to what training is made of: pictures, modules, losses, optimizers, VGG19."""

import dataclasses

import optax
from ml_collections import ConfigDict

from srgan_jax import config as config_lib
from srgan_jax import losses, optim
from srgan_jax.convert import vgg19
from srgan_jax.data import packed
from srgan_jax.data.degradation import Degradation
from srgan_jax.data.packed import Packed
from srgan_jax.errors import UserError
from srgan_jax.models.discriminator import Discriminator
from srgan_jax.models.generator import Generator
from srgan_jax.models.vgg import VGG19
from srgan_jax.state import Params, TrainState
from srgan_jax.steps import GanRecipe, Recipe


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of a run: the updates from `start` to before `stop`, and what they do."""

    name: str  # "pretrain" or "gan"
    network: str  # what its result is called: "srresnet" or "srgan"
    start: int
    stop: int
    recipe: Recipe
    vgg_params: Params


def degradation(config: ConfigDict) -> Degradation:
    """How this config makes LR images, in training and evaluation alike."""
    data = config.data
    return Degradation(
        scale=config.generator.scale,
        operations=tuple(data.degradation),
        blur_sigma=tuple(data.blur_sigma),
        noise_sigma=tuple(data.noise_sigma),
        jpeg_quality=tuple(data.jpeg_quality),
    )


def load_pictures(config: ConfigDict, *, progress: bool) -> tuple[Packed, Packed | None]:
    """The training pictures, and LR pictures where they were given. Raises: UserError."""
    pictures, lr_pictures = packed.pack(
        source=config.data.source,
        path=config.data.path,
        lr_path=config.data.lr_path,
        scale=config.generator.scale,
        split="train",
        dataset=config.data.dataset,
        min_size=config.data.crop,
        damaged=config.data.damaged,
        cache=config.data.cache,
        progress=progress,
    )
    count = config.data.pictures or len(pictures)
    if count > len(pictures):
        raise UserError(f"config.data.pictures={count}: there are {len(pictures)}")
    return pictures.spread(count), lr_pictures and lr_pictures.spread(count)


def optimizer(
    config: ConfigDict, name: str, steps: int, updates_per_step: int = 1
) -> optax.GradientTransformation:
    """Adam for one network in one phase, its schedule stretched over all of its updates."""
    phase = config[name]
    schedule = optim.Schedule(
        learning_rate=config_lib.learning_rate_of(config, name),
        kind=phase.schedule,
        decay_at=phase.decay_at,
        decay_factor=phase.decay_factor,
        warmup_steps=phase.warmup_steps * updates_per_step,
    )
    return optim.adam(
        schedule.make(steps * updates_per_step),
        beta1=config.optim.beta1,
        beta2=config.optim.beta2,
        epsilon=config.optim.epsilon,
    )


def load_content_network(config: ConfigDict) -> tuple[VGG19 | None, Params]:
    """VGG19 where a phase's content loss needs it. Raises: UserError where it cannot be had."""
    if config_lib.compares_features(config):
        return vgg19.load(config.vgg.path, tuple(config.vgg.layers))
    return None, {}


def make_phases(
    config: ConfigDict, lengths: list[int], vgg: VGG19 | None, vgg_params: Params
) -> list[Phase]:
    """Both phases, of which either may have no steps; `lengths` in steps."""
    generator = Generator(**config.generator)
    discriminator = Discriminator(**config.discriminator)

    phases, start = [], 0
    for name, steps in zip(config_lib.PHASES, lengths, strict=True):
        phase = config[name]
        is_gan = name == "gan"
        content = losses.ContentLoss(
            **phase.content,
            layers=tuple(zip(config.vgg.layers, config.vgg.layer_weights, strict=True)),
            feature_scale=config.vgg.feature_scale,
            channels=config.vgg.channels,
        )
        recipe = Recipe(
            generator=generator,
            generator_tx=optimizer(config, name, steps),
            content=content,
            degradation=degradation(config),
            vgg=vgg if content.vgg else None,
            dtype=config.dtype,
            ema_decay=config.ema_decay,
            accumulate=config.optim.accumulate,
            shard_optimizer=config.optim.sharded,
        )
        if is_gan:
            recipe = GanRecipe(
                **vars(recipe),
                discriminator=discriminator,
                discriminator_tx=optimizer(config, name, steps, phase.discriminator_updates),
                adversarial=losses.AdversarialLoss(
                    config.gan.adversarial, config.gan.adversarial_weight
                ),
                discriminator_updates=config.gan.discriminator_updates,
            )
        phases.append(
            Phase(
                name=name,
                network="srgan" if is_gan else "srresnet",
                start=start,
                stop=start + steps,
                recipe=recipe,
                vgg_params=vgg_params if content.vgg else {},
            )
        )
        start += steps
    return phases


def check_lengths(phases: list[Phase], state: TrainState) -> None:
    """Raises: UserError where the phases are too short for the steps that were done.

    In the GAN phase, pre-training must be as long as it was: the steps are counted over both.
    """
    pretraining, gan = phases
    step = int(state.step)
    if state.discriminator is None:
        phase, done = pretraining, step
    else:
        phase, done = gan, optim.updates_done(state.generator.opt_state)
        if step - done != pretraining.stop:
            raise UserError(
                f"config.pretrain has {pretraining.stop} steps, but in this run it took"
                f" {step - done} and is over: give --config.pretrain.steps={step - done}, or"
                " another --workdir"
            )
    if step > phase.stop:
        raise UserError(
            f"config.{phase.name} has {phase.stop - phase.start} steps, but {done} are done: give"
            " as many or more, or another --workdir"
        )
