"""The training steps, pure: (recipe, state, vgg_params, batch) -> (state, metrics).

A `Recipe` is static, everything else arrays. `parallel.py` turns a step into a compiled one. Of
several devices (axis_name given) each runs it on its share of the batch, and gradients and metrics
are averaged over them, one all-reduce for each update of a network.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax

from srgan_jax import losses, optim
from srgan_jax.data import degradation
from srgan_jax.data.degradation import Batch
from srgan_jax.models import vgg
from srgan_jax.models.discriminator import Discriminator
from srgan_jax.models.generator import Generator
from srgan_jax.models.vgg import VGG19
from srgan_jax.state import Network, Params, TrainState, Variables, update_ema

Metrics = dict[str, jax.Array]
T = TypeVar("T")


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
      dtype: what the networks compute in, "float32" or "bfloat16".
      ema_decay: of the moving average of G; 0 for none.
      accumulate: parts that a device takes its share of a batch in, one after the other.
      shard_optimizer: whether the optimizers' states are shared out over the devices.
    """

    generator: Generator
    generator_tx: optax.GradientTransformation
    content: losses.ContentLoss
    degradation: degradation.Degradation
    vgg: VGG19 | None = None
    dtype: str = "float32"
    ema_decay: float = 0.0
    accumulate: int = 1
    shard_optimizer: bool = False

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
      batch: B crops, of several devices the share of one.
      axis_name: of the devices, where there are several.

    Returns: the new state, and scalars: what `describe` tells, and `grad_norm/generator`.
    """

    def gradients(batch: Batch) -> tuple[Params, Params, Metrics]:
        made = generate(recipe, state, batch, axis_name=axis_name)
        at_sr, sums = gradients_at_sr(content_terms(recipe, vgg_params, made.hr), made.sr)
        (grads,) = made.pull_back(total(at_sr))
        return grads, made.batch_stats, sums

    grads, batch_stats, sums = accumulated(gradients, batch, recipe.accumulate)
    grads, means = average((grads, sums), axis_name)
    metrics = describe(recipe, means, axis_name)
    metrics["grad_norm/generator"] = optax.tree.norm(grads)
    network = apply_gradients(
        recipe, recipe.generator_tx, state.generator, grads, batch_stats, axis_name
    )
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
    Where gradients are accumulated each part is passed twice, because keeping what the backward
    pass needs of all parts would take the memory that is to be saved.

    Args:
      recipe: static.
      state: with a discriminator.
      vgg_params: of `recipe.vgg`; an empty dict where there is none.
      batch: k * B crops, of which the last B serve G's update too; of several devices the share
        of one.
      axis_name: of the devices, where there are several.

    Returns: the new state, and scalars: what `describe` tells, and the GAN's health:
      `d/real` and `d/fake`, D's mean answers; `grad_sr/content`, of all terms but the adversarial
      one, and its ratio to that; and gradient norms of both networks.
    """
    *early, last = split(batch, recipe.discriminator_updates)
    discriminator = state.discriminator
    assert discriminator is not None

    make: Callable[[Batch], Generated] = functools.partial(
        generate, recipe, state, axis_name=axis_name
    )
    for batch in early:
        discriminator, _ = update_discriminator(recipe, discriminator, batch, make, axis_name)
    if recipe.accumulate == 1:
        made_once = make(last)
        make = lambda _: made_once  # noqa: E731
    discriminator, d_metrics = update_discriminator(recipe, discriminator, last, make, axis_name)

    def adversarial(sr: jax.Array) -> jax.Array:
        judge = recipe.discriminator.clone(axis_name=axis_name, dtype=recipe.dtype)
        logits, _ = apply_training(judge, discriminator.variables, sr)
        return losses.generator_adversarial(recipe.adversarial.kind, logits)

    def gradients(batch: Batch) -> tuple[Params, Params, Metrics]:
        made = make(batch)
        terms = content_terms(recipe, vgg_params, made.hr)
        terms["adversarial"] = Term(recipe.adversarial.weight, adversarial)
        at_sr, sums = gradients_at_sr(terms, made.sr)
        (grads,) = made.pull_back(total(at_sr))
        del at_sr["adversarial"]
        sums["squares/content"] = jnp.sum(jnp.square(total(at_sr)))
        return grads, made.batch_stats, sums

    grads, batch_stats, sums = accumulated(gradients, last, recipe.accumulate)
    grads, means = average((grads, sums), axis_name)
    metrics = describe(recipe, means, axis_name)
    # A vanished adversarial gradient is a state of health, not an error: no infinity.
    least = jnp.maximum(metrics["grad_sr/adversarial"], 1e-30)
    metrics["grad_sr/ratio"] = metrics["grad_sr/content"] / least
    metrics["grad_norm/generator"] = optax.tree.norm(grads)
    network = apply_gradients(
        recipe, recipe.generator_tx, state.generator, grads, batch_stats, axis_name
    )
    return finish(recipe, state, network, discriminator), metrics | d_metrics


class Generated(NamedTuple):
    """A training pass of G over a batch.

    Attributes:
      hr: [B, H, W, 3] in [-1, 1].
      sr: likewise.
      pull_back: from a gradient at SR to that at G's parameters.
      batch_stats: the new running statistics.
    """

    hr: jax.Array
    sr: jax.Array
    pull_back: Callable[[jax.Array], tuple[Params]]
    batch_stats: Params


def generate(
    recipe: Recipe, state: TrainState, batch: Batch, *, axis_name: str | None
) -> Generated:
    """G in training mode on the LR images of a batch."""
    lr_image, hr = degradation.training_pairs(recipe.degradation, batch)
    generator = recipe.generator.clone(axis_name=axis_name, dtype=recipe.dtype)
    variables = state.generator.variables

    def of_params(params: Params) -> tuple[jax.Array, Params]:
        return apply_training(generator, Variables(params, variables.batch_stats), lr_image)

    return Generated(hr, *jax.vjp(of_params, variables.params, has_aux=True))


def update_discriminator(
    recipe: GanRecipe,
    network: Network,
    batch: Batch,
    make: Callable[[Batch], Generated],
    axis_name: str | None,
) -> tuple[Network, Metrics]:
    """One update of D on HR and SR of a batch, as `make` gives them; SR's origin gets no gradient.

    Real and fake crops are normalised each by their own batch statistics, as if in two passes.
    """
    module = recipe.discriminator.clone(axis_name=axis_name, dtype=recipe.dtype)

    def gradients(batch: Batch) -> tuple[Params, Params, Metrics]:
        made = make(batch)
        sr = jax.lax.stop_gradient(made.sr)

        def loss_fn(params: Params) -> tuple[jax.Array, tuple[Params, jax.Array, jax.Array]]:
            variables = Variables(params, network.variables.batch_stats)
            judged = jnp.concatenate([made.hr, sr])
            logits, batch_stats = apply_training(module, variables, judged, passes=2)
            real_logits, fake_logits = jnp.split(logits, 2)
            loss = losses.discriminator_loss(recipe.adversarial.kind, real_logits, fake_logits)
            return loss, (batch_stats, real_logits, fake_logits)

        (loss, (batch_stats, real_logits, fake_logits)), grads = jax.value_and_grad(
            loss_fn, has_aux=True
        )(network.variables.params)
        answers = {
            "loss/discriminator": loss,
            "d/real": jnp.mean(losses.answers(recipe.adversarial.kind, real_logits)),
            "d/fake": jnp.mean(losses.answers(recipe.adversarial.kind, fake_logits)),
        }
        return grads, batch_stats, answers

    grads, batch_stats, answers = accumulated(gradients, batch, recipe.accumulate)
    grads, metrics = average((grads, answers), axis_name)
    metrics["grad_norm/discriminator"] = optax.tree.norm(grads)
    tx = recipe.discriminator_tx
    return apply_gradients(recipe, tx, network, grads, batch_stats, axis_name), metrics


def content_terms(recipe: Recipe, vgg_params: Params, hr: jax.Array) -> dict[str, Term]:
    """The terms of the content loss against HR [B, H, W, 3] in [-1, 1]."""
    content = recipe.content
    terms = {"mse": Term(content.pixel, lambda sr: losses.mean_squared_error(sr, hr))}
    if content.vgg:

        def vgg_loss(sr: jax.Array) -> jax.Array:
            assert recipe.vgg is not None
            network = recipe.vgg.clone(dtype=recipe.dtype)
            sr_features, hr_features = vgg.compared(network, vgg_params, sr, hr)
            return losses.feature_distance(content, sr_features, hr_features)

        terms["vgg"] = Term(content.vgg, vgg_loss)
    if content.tv:
        terms["tv"] = Term(content.tv, losses.total_variation)
    return terms


def gradients_at_sr(terms: dict[str, Term], sr: jax.Array) -> tuple[dict[str, jax.Array], Metrics]:
    """Each term's weighted gradient at SR [B, H, W, 3].

    Taken apart, they cost no more than their sum, and tell which term drives G. A term of
    weight 0 is reported only.

    Returns: the gradients, and what `describe` takes once it is averaged: `loss`, each term
      unweighted as `loss/NAME`, and the sum of its weighted gradient's squares as `squares/NAME`.
    """
    gradients: dict[str, jax.Array] = {}
    sums = {"loss": jnp.zeros(())}
    for name, (weight, loss) in terms.items():
        if weight:
            sums[f"loss/{name}"], gradient = jax.value_and_grad(loss)(sr)
            gradients[name] = weight * gradient
            sums["loss"] += weight * sums[f"loss/{name}"]
        else:
            sums[f"loss/{name}"], gradients[name] = loss(sr), jnp.zeros_like(sr)
        sums[f"squares/{name}"] = jnp.sum(jnp.square(gradients[name]))
    return gradients, sums


def total(gradients: dict[str, jax.Array]) -> jax.Array:
    """The gradient of all terms together."""
    return functools.reduce(jnp.add, gradients.values())


def describe(recipe: Recipe, means: Metrics, axis_name: str | None) -> Metrics:
    """What a step reports of G's loss, from the means of `gradients_at_sr`'s sums over all parts.

    Returns: `loss`, each term unweighted as `loss/NAME`, and the norm of its weighted gradient at
      SR as `grad_sr/NAME`.
    """
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    metrics = {}
    for name, value in means.items():
        if name.startswith("squares/"):
            # A part's loss is a mean over fewer crops: its gradient is so many times larger.
            value = jnp.sqrt(value / (devices * recipe.accumulate))
        metrics[name.replace("squares/", "grad_sr/")] = value
    return metrics


def apply_training(
    module: Generator | Discriminator, variables: Variables, image: jax.Array, **kwargs: Any
) -> tuple[jax.Array, Params]:
    """A pass in training mode: the output, and the new running statistics."""
    output, updates = module.apply(
        variables.as_flax(), image, train=True, mutable=["batch_stats"], **kwargs
    )
    return output, updates.get("batch_stats", {})


def apply_gradients(
    recipe: Recipe,
    tx: optax.GradientTransformation,
    network: Network,
    grads: Params,
    batch_stats: Params,
    axis_name: str | None,
) -> Network:
    """One optimizer update, with the new running statistics."""
    params, opt_state = network.variables.params, network.opt_state
    if recipe.shard_optimizer and axis_name is not None:
        updates, opt_state = optim.sharded_update(tx, grads, opt_state, params, axis_name)
    else:
        updates, opt_state = tx.update(grads, opt_state, params)
    return Network(Variables(optax.apply_updates(params, updates), batch_stats), opt_state)


def finish(
    recipe: Recipe, state: TrainState, generator: Network, discriminator: Network | None
) -> TrainState:
    """The next state: step counted, moving average moved."""
    ema = state.ema
    if ema is not None:
        ema = update_ema(ema, generator.variables, recipe.ema_decay)
    return TrainState(state.step + 1, generator, discriminator, ema)


def split(batch: Batch, parts: int) -> list[Batch]:
    """A batch in equal parts."""
    fields, structure = jax.tree.flatten(batch)
    parted = zip(*(jnp.split(field, parts) for field in fields), strict=True)
    return [jax.tree.unflatten(structure, part) for part in parted]


def accumulated(gradients: Callable[[Batch], T], batch: Batch, parts: int) -> T:
    """The mean of what `gradients` gives for equal parts of a batch, one after the other.

    BatchNorm normalises each part by its own statistics; the running ones move by their mean.
    """
    if parts == 1:
        return gradients(batch)
    parted = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
    form = jax.eval_shape(gradients, jax.tree.map(lambda x: x[0], parted))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), form)

    def add(sums: T, part: Batch) -> tuple[T, None]:
        return jax.tree.map(jnp.add, sums, gradients(part)), None

    sums, _ = jax.lax.scan(add, zeros, parted)
    return jax.tree.map(lambda x: x / parts, sums)


def average(tree: Any, axis_name: str | None) -> Any:
    """The mean over devices of all arrays in a tree, by one all-reduce."""
    if axis_name is None:
        return tree
    flat, unravel = jax.flatten_util.ravel_pytree(tree)
    return unravel(jax.lax.pmean(flat, axis_name))
