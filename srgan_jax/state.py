"""The train state: arrays only, its initialisation, and its moving average."""

import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from srgan_jax.models.discriminator import Discriminator
from srgan_jax.models.generator import Generator

Params = Any  # a nested dict of arrays


@flax.struct.dataclass
class Variables:
    """What a network needs to run: parameters, and BatchNorm's running statistics."""

    params: Params
    batch_stats: Params

    def as_flax(self) -> dict[str, Params]:
        """The form that `Module.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


@flax.struct.dataclass
class Network:
    """A network in training."""

    variables: Variables
    opt_state: optax.OptState


@flax.struct.dataclass
class TrainState:
    """Everything a run needs to continue, and nothing that is not an array.

    Attributes:
      step: int32 scalar, updates done since the run began, over both phases.
      generator: G.
      discriminator: D, in the GAN phase; None in pre-training.
      ema: moving average of G's parameters *and* running statistics; None when switched off.
    """

    step: jax.Array
    generator: Network
    discriminator: Network | None
    ema: Variables | None


def init_variables(
    module: Generator | Discriminator, key: jax.Array, input_shape: tuple[int, ...]
) -> Variables:
    """Fresh variables for one network; `input_shape` is [1, H, W, 3]."""
    variables = jax.jit(lambda key: module.init(key, jnp.zeros(input_shape), train=False))(key)
    return Variables(params=variables["params"], batch_stats=variables.get("batch_stats", {}))


@functools.cache
def form_of(generator: Generator) -> Variables:
    """Shapes and types of a generator's variables, `jax.ShapeDtypeStruct`; not to be changed."""
    make = functools.partial(init_variables, generator, input_shape=(1, 8, 8, 3))
    return jax.eval_shape(make, jax.random.key(0))


def start_pretraining(
    generator: Variables, tx: optax.GradientTransformation, *, ema: bool
) -> TrainState:
    """The state at the first update of all."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        generator=Network(generator, tx.init(generator.params)),
        discriminator=None,
        ema=copy(generator) if ema else None,
    )


def start_gan(
    pretrained: TrainState,
    generator_tx: optax.GradientTransformation,
    discriminator: Variables,
    discriminator_tx: optax.GradientTransformation,
) -> TrainState:
    """The state at the first update of the GAN phase.

    G starts from the pre-trained network as it is exported and evaluated, which is the moving
    average where there is one. Both optimizers start anew.
    """
    generator = best_variables(pretrained)
    return TrainState(
        step=pretrained.step,
        generator=Network(generator, generator_tx.init(generator.params)),
        discriminator=Network(discriminator, discriminator_tx.init(discriminator.params)),
        ema=copy(generator) if pretrained.ema is not None else None,
    )


def best_variables(state: TrainState) -> Variables:
    """G's variables as evaluated and exported: the moving average where there is one."""
    return state.generator.variables if state.ema is None else state.ema


def update_ema(ema: Variables, new: Variables, decay: float) -> Variables:
    """decay * ema + (1 - decay) * new, for parameters and running statistics alike."""
    return optax.incremental_update(new, ema, step_size=1.0 - decay)


def copy(variables: Variables) -> Variables:
    """The same values in buffers of their own, so that donating one leaves the other."""
    return jax.tree.map(jnp.copy, variables)
