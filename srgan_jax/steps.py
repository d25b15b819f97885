"""The training steps, pure: (recipe, state, vgg_params, batch) -> (state, metrics).

A `Recipe` is static, everything else arrays. `parallel.py` turns a step into a jitted one;
under `pmap` (axis_name given) each device sees its share of the batch and what follows is
averaged over the devices, so that both give the same update.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

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


class Term(NamedTuple):
    """A term of G's loss: its weight, and the unweighted loss as a function of SR."""

    weight: float
    loss: Callable[[jax.Array], jax.Array]


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

    Returns: the new state, and scalars: what `gradients_at_sr` tells, and `grad_norm/generator`.
    """
    lr_image, hr = degradation.training_pairs(recipe.degradation, batch)
    sr, pull_back, batch_stats = forward(recipe, state, lr_image, axis_name)
    gradients, metrics = gradients_at_sr(content_terms(recipe, vgg_params, hr), sr, axis_name)
    (grads,) = pull_back(functools.reduce(jnp.add, gradients.values()))
    grads = average(grads, axis_name)
    metrics["grad_norm/generator"] = optax.tree.norm(grads)
    network = apply_gradients(recipe.generator_tx, state.generator, grads, batch_stats)
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

    Returns: the new state, and scalars: what `gradients_at_sr` tells, and the GAN's health:
      `d/real` and `d/fake`, D's mean answers; `grad_sr/content`, of all terms but the adversarial
      one, and its ratio to that; and gradient norms of both networks.
    """
    lr_image, hr = degradation.training_pairs(recipe.degradation, batch)
    *early, (lr_image, hr) = zip(
        jnp.split(lr_image, recipe.discriminator_updates),
        jnp.split(hr, recipe.discriminator_updates),
        strict=True,
    )
    discriminator = state.discriminator
    assert discriminator is not None
    for early_lr, early_hr in early:
        sr, *_ = forward(recipe, state, early_lr, axis_name)
        discriminator, _ = update_discriminator(recipe, discriminator, early_hr, sr, axis_name)

    sr, pull_back, batch_stats = forward(recipe, state, lr_image, axis_name)
    discriminator, d_metrics = update_discriminator(recipe, discriminator, hr, sr, axis_name)

    def adversarial(sr: jax.Array) -> jax.Array:
        judge = recipe.discriminator.clone(axis_name=axis_name)
        logits, _ = apply_training(judge, discriminator.variables, sr)
        return losses.generator_adversarial(recipe.adversarial.kind, logits)

    terms = content_terms(recipe, vgg_params, hr)
    terms["adversarial"] = Term(recipe.adversarial.weight, adversarial)
    gradients, metrics = gradients_at_sr(terms, sr, axis_name)
    (grads,) = pull_back(functools.reduce(jnp.add, gradients.values()))
    grads = average(grads, axis_name)
    network = apply_gradients(recipe.generator_tx, state.generator, grads, batch_stats)

    del gradients["adversarial"]
    content = functools.reduce(jnp.add, gradients.values())
    metrics["grad_sr/content"] = norm_over_devices(content, axis_name)
    # A vanished adversarial gradient is a state of health, not an error: no infinity.
    least = jnp.maximum(metrics["grad_sr/adversarial"], 1e-30)
    metrics["grad_sr/ratio"] = metrics["grad_sr/content"] / least
    metrics["grad_norm/generator"] = optax.tree.norm(grads)
    metrics |= d_metrics
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


def content_terms(recipe: Recipe, vgg_params: Params, hr: jax.Array) -> dict[str, Term]:
    """The terms of the content loss against HR [B, H, W, 3] in [-1, 1]."""
    content = recipe.content
    terms = {"mse": Term(content.pixel, lambda sr: losses.mean_squared_error(sr, hr))}
    if content.vgg:

        def features(image: jax.Array) -> losses.Features:
            assert recipe.vgg is not None
            return recipe.vgg.apply({"params": vgg_params}, image)  # type: ignore

        hr_features = features(hr)
        terms["vgg"] = Term(
            content.vgg, lambda sr: losses.feature_distance(content, features(sr), hr_features)
        )
    if content.tv:
        terms["tv"] = Term(content.tv, losses.total_variation)
    return terms


def gradients_at_sr(
    terms: dict[str, Term], sr: jax.Array, axis_name: str | None
) -> tuple[dict[str, jax.Array], Metrics]:
    """Each term's weighted gradient at SR [B, H, W, 3], of the device's share of the batch.

    Taken apart, they cost no more than their sum, and tell which term drives G. A term of
    weight 0 is reported only.

    Returns: the gradients, and over all devices `loss`, each term unweighted as `loss/NAME`, and
      the norm of its weighted gradient as `grad_sr/NAME`.
    """
    values, gradients = {}, {}
    for name, (weight, loss) in terms.items():
        if weight:
            values[name], gradient = jax.value_and_grad(loss)(sr)
            gradients[name] = weight * gradient
        else:
            values[name], gradients[name] = loss(sr), jnp.zeros_like(sr)
    values = average(values, axis_name)
    weighted = [term.weight * values[name] for name, term in terms.items() if term.weight]
    metrics = {"loss": sum(weighted, start=jnp.zeros(()))}
    metrics |= {f"loss/{name}": value for name, value in values.items()}
    metrics |= {
        f"grad_sr/{name}": norm_over_devices(gradient, axis_name)
        for name, gradient in gradients.items()
    }
    return gradients, metrics


def forward(
    recipe: Recipe, state: TrainState, lr_image: jax.Array, axis_name: str | None
) -> tuple[jax.Array, Callable[[jax.Array], tuple[Params]], Params]:
    """G in training mode on LR [B, h, w, 3].

    Returns: SR, the function from a gradient at SR to that at G's parameters, and the new running
      statistics.
    """
    generator = recipe.generator.clone(axis_name=axis_name)
    variables = state.generator.variables

    def of_params(params: Params) -> tuple[jax.Array, Params]:
        return apply_training(generator, Variables(params, variables.batch_stats), lr_image)

    return jax.vjp(of_params, variables.params, has_aux=True)


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
