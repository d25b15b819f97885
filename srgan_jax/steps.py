"""The training steps, pure: (recipe, state, vgg_params, batch) -> (state, metrics).

A `Recipe` is static, everything else arrays. `parallel.py` turns a step into a jitted one;
under `pmap` (axis_name given) each device sees its share of the batch and what follows is
averaged over the devices, so that both give the same update.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from srgan_jax import losses
from srgan_jax.data import degradation
from srgan_jax.data.degradation import Batch
from srgan_jax.models.discriminator import Discriminator
from srgan_jax.models.generator import Generator
from srgan_jax.models.vgg import VGG19
from srgan_jax.state import Network, Params, TrainState, Variables, update_ema

Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What one phase of training does; hashable, so static under jit.

    Attributes:
      generator: the module.
      generator_tx: its optimizer.
      content: the loss, in the GAN phase but for the adversarial term.
      degradation: how the LR images are made.
      vgg: the module whose activations the content loss compares; None without VGG term.
      ema_decay: of the moving average of G; 0 for none.
    """

    generator: Generator
    generator_tx: optax.GradientTransformation
    content: losses.ContentLoss
    degradation: degradation.Degradation
    vgg: VGG19 | None = None
    ema_decay: float = 0.0

    @property
    def batches_per_step(self) -> int:
        """How many batches, one after the other, a step takes."""
        return 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class GanRecipe(Recipe):
    """What the GAN phase does beyond pre-training.

    Attributes:
      discriminator: the module.
      discriminator_tx: its optimizer.
      adversarial: added to the content loss.
      discriminator_updates: k, of D for each update of G.
    """

    discriminator: Discriminator
    discriminator_tx: optax.GradientTransformation
    adversarial: losses.AdversarialLoss
    discriminator_updates: int = 1

    @property
    def batches_per_step(self) -> int:
        """One for each update of D."""
        return self.discriminator_updates


def pretrain_step(
    recipe: Recipe,
    state: TrainState,
    vgg_params: Params,
    batch: Batch,
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """One update of G on the content loss alone (SRResNet; paper, section 3.2).

    Args:
      recipe: static.
      state: with no discriminator.
      vgg_params: of `recipe.vgg`; an empty dict where there is none.
      batch: B crops.
      axis_name: of the devices, under `pmap`.

    Returns: the new state, and scalars: `loss`, its terms, and `grad_norm/generator`.
    """
    lr_image, hr = degradation.training_pairs(recipe.degradation, *map(jnp.asarray, batch))
    generator = recipe.generator.clone(axis_name=axis_name)

    def loss_fn(params: Params) -> tuple[jax.Array, tuple[Params, Metrics]]:
        variables = Variables(params, state.generator.variables.batch_stats)
        sr, batch_stats = apply_training(generator, variables, lr_image)
        loss, terms = content_loss(recipe, vgg_params, sr, hr)
        return loss, (batch_stats, terms)

    (loss, (batch_stats, terms)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
        state.generator.variables.params
    )
    grads, loss, terms = average((grads, loss, terms), axis_name)
    network = apply_gradients(recipe.generator_tx, state.generator, grads, batch_stats)
    metrics = {"loss": loss, **terms, "grad_norm/generator": optax.tree.norm(grads)}
    return finish(recipe, state, network, None), metrics


def gan_step(
    recipe: GanRecipe,
    state: TrainState,
    vgg_params: Params,
    batch: Batch,
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """k updates of D, then one of G (SRGAN; paper, sections 2.1 and 3.2).

    The last update of D and the update of G share one forward pass of G: its output serves D as
    it is, and `jax.vjp` carries the gradient of G's loss, taken with the updated D, back into G.

    Args:
      recipe: static.
      state: with a discriminator.
      vgg_params: of `recipe.vgg`; an empty dict where there is none.
      batch: k * B crops, of which the last B serve G's update too.
      axis_name: of the devices, under `pmap`.

    Returns: the new state, and scalars, among them the GAN's health figures: `d/real` and
      `d/fake`, D's mean answers; `grad_sr/content` and `grad_sr/adversarial`, the norms of each
      term's gradient at SR, the latter weighted; their ratio; and gradient norms of both networks.
    """
    lr_image, hr = degradation.training_pairs(recipe.degradation, *map(jnp.asarray, batch))
    generator = recipe.generator.clone(axis_name=axis_name)
    *early, (lr_image, hr) = zip(
        jnp.split(lr_image, recipe.discriminator_updates),
        jnp.split(hr, recipe.discriminator_updates),
        strict=True,
    )
    discriminator = state.discriminator
    assert discriminator is not None
    for early_lr, early_hr in early:
        sr, _ = apply_training(generator, state.generator.variables, early_lr)
        discriminator, _ = update_discriminator(recipe, discriminator, early_hr, sr, axis_name)

    def forward(params: Params) -> tuple[jax.Array, Params]:
        variables = Variables(params, state.generator.variables.batch_stats)
        return apply_training(generator, variables, lr_image)

    sr, pull_back, batch_stats = jax.vjp(forward, state.generator.variables.params, has_aux=True)
    discriminator, d_metrics = update_discriminator(recipe, discriminator, hr, sr, axis_name)

    def content_fn(sr: jax.Array) -> tuple[jax.Array, Metrics]:
        return content_loss(recipe, vgg_params, sr, hr)

    def adversarial_fn(sr: jax.Array) -> jax.Array:
        judge = recipe.discriminator.clone(axis_name=axis_name)
        logits, _ = apply_training(judge, discriminator.variables, sr)
        return losses.generator_adversarial(recipe.adversarial.kind, logits)

    (content, terms), content_grad = jax.value_and_grad(content_fn, has_aux=True)(sr)
    adversarial, adversarial_grad = jax.value_and_grad(adversarial_fn)(sr)
    adversarial_grad = recipe.adversarial.weight * adversarial_grad
    (grads,) = pull_back(content_grad + adversarial_grad)
    grads, content, adversarial, terms = average((grads, content, adversarial, terms), axis_name)
    network = apply_gradients(recipe.generator_tx, state.generator, grads, batch_stats)

    content_norm = norm_over_devices(content_grad, axis_name)
    adversarial_norm = norm_over_devices(adversarial_grad, axis_name)
    metrics = {
        "loss": content + recipe.adversarial.weight * adversarial,
        **terms,
        "loss/adversarial": adversarial,
        **d_metrics,
        "grad_sr/content": content_norm,
        "grad_sr/adversarial": adversarial_norm,
        # A vanished adversarial gradient is a state of health, not an error: no infinity.
        "grad_sr/ratio": content_norm / jnp.maximum(adversarial_norm, 1e-30),
        "grad_norm/generator": optax.tree.norm(grads),
    }
    return finish(recipe, state, network, discriminator), metrics


def update_discriminator(
    recipe: GanRecipe, network: Network, hr: jax.Array, sr: jax.Array, axis_name: str | None
) -> tuple[Network, Metrics]:
    """One update of D on HR and SR [B, S, S, 3]; SR's origin gets no gradient.

    Real and fake crops pass separately, each normalised by its own batch statistics.
    """
    module = recipe.discriminator.clone(axis_name=axis_name)
    sr = jax.lax.stop_gradient(sr)

    def loss_fn(params: Params) -> tuple[jax.Array, tuple[Params, jax.Array, jax.Array]]:
        variables = Variables(params, network.variables.batch_stats)
        real_logits, batch_stats = apply_training(module, variables, hr)
        fake_logits, batch_stats = apply_training(module, Variables(params, batch_stats), sr)
        loss = losses.discriminator_loss(recipe.adversarial.kind, real_logits, fake_logits)
        return loss, (batch_stats, real_logits, fake_logits)

    (loss, (batch_stats, real_logits, fake_logits)), grads = jax.value_and_grad(
        loss_fn, has_aux=True
    )(network.variables.params)
    metrics = {
        "loss/discriminator": loss,
        "d/real": jnp.mean(losses.answers(recipe.adversarial.kind, real_logits)),
        "d/fake": jnp.mean(losses.answers(recipe.adversarial.kind, fake_logits)),
    }
    grads, metrics = average((grads, metrics), axis_name)
    metrics["grad_norm/discriminator"] = optax.tree.norm(grads)
    return apply_gradients(recipe.discriminator_tx, network, grads, batch_stats), metrics


def content_loss(
    recipe: Recipe, vgg_params: Params, sr: jax.Array, hr: jax.Array
) -> tuple[jax.Array, Metrics]:
    """The weighted content loss of SR [B, H, W, 3] in [-1, 1], and its unweighted terms."""
    content = recipe.content
    loss, terms = jnp.zeros(()), {"loss/mse": losses.mean_squared_error(sr, hr)}
    loss += content.pixel * terms["loss/mse"] if content.pixel else 0.0
    if content.vgg:
        assert recipe.vgg is not None
        sr_features: losses.Features = recipe.vgg.apply({"params": vgg_params}, sr)  # type: ignore
        hr_features: losses.Features = recipe.vgg.apply({"params": vgg_params}, hr)  # type: ignore
        terms["loss/vgg"] = losses.feature_distance(content, sr_features, hr_features)
        loss += content.vgg * terms["loss/vgg"]
    if content.tv:
        terms["loss/tv"] = losses.total_variation(sr)
        loss += content.tv * terms["loss/tv"]
    return loss, terms


def apply_training(
    module: Generator | Discriminator, variables: Variables, image: jax.Array
) -> tuple[jax.Array, Params]:
    """A pass in training mode: the output, and the new running statistics."""
    output, updates = module.apply(variables.as_flax(), image, train=True, mutable=["batch_stats"])
    return output, updates.get("batch_stats", {})


def apply_gradients(
    tx: optax.GradientTransformation, network: Network, grads: Params, batch_stats: Params
) -> Network:
    """One optimizer update, with the new running statistics."""
    params = network.variables.params
    updates, opt_state = tx.update(grads, network.opt_state, params)
    return Network(Variables(optax.apply_updates(params, updates), batch_stats), opt_state)


def finish(
    recipe: Recipe, state: TrainState, generator: Network, discriminator: Network | None
) -> TrainState:
    """The next state: step counted, moving average moved."""
    ema = state.ema
    if ema is not None:
        ema = update_ema(ema, generator.variables, recipe.ema_decay)
    return TrainState(state.step + 1, generator, discriminator, ema)


def average(tree: Any, axis_name: str | None) -> Any:
    """The mean over devices under `pmap`; under jit the tree is that mean already."""
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def norm_over_devices(gradient: jax.Array, axis_name: str | None) -> jax.Array:
    """The norm of the gradient of a mean over the whole batch, from each device's share."""
    squares = jnp.sum(jnp.square(gradient))
    if axis_name is None:
        return jnp.sqrt(squares)
    return jnp.sqrt(jax.lax.psum(squares, axis_name)) / jax.lax.axis_size(axis_name)
