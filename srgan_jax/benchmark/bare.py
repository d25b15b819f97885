"""The bare step on one device of this machine, timed at several batch sizes."""

import statistics
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from srgan_jax import train
from srgan_jax.benchmark.counts import Forms
from srgan_jax.engine import steps_per_dispatch
from srgan_jax.monitor import say
from srgan_jax.parallel import Parallel

ROUNDS = 5


def measure(
    config: ConfigDict, forms: list[Forms], form: Forms, batches: list[int], seconds: float
) -> dict[int, float]:
    """Seconds a step by batch size, the median of rounds of about `seconds` together; says them.

    Random crops, a random VGG19: what is computed does not depend on them. Compiling is left out.
    """
    device = jax.devices()[0]
    parallel = Parallel("jit", [device])
    steps = steps_per_dispatch(config, parallel)
    recipe = form.phase.recipe
    made = jax.jit(lambda: _variables(config, forms, form))()
    vgg_params = parallel.replicate(_random(form.vgg_params))
    say(f"{form.phase.name}: one device, {device.device_kind}, {steps} steps a dispatch")
    found = {}
    for size in batches:
        state = parallel.place_state(jax.tree.map(lambda x: x.copy(), made))
        shapes = form.batch(1, steps, recipe.batches_per_step * size)
        data = jax.device_put(_random(shapes), parallel.split)
        program = parallel.compile(form.step, recipe, None, steps, state, vgg_params, data)
        state = jax.block_until_ready(program(state, vgg_params, data)[0])  # the first is slower
        rates, count = [], 1
        for _ in range(ROUNDS + 1):
            before = time.perf_counter()
            for _ in range(count):
                state, _ = program(state, vgg_params, data)
            jax.block_until_ready(state)
            took = (time.perf_counter() - before) / count
            rates.append(took / steps)
            count = max(round(seconds / ROUNDS / took), 1)
        del rates[0]  # it only told how many fit
        found[size] = statistics.median(rates)
        say(
            f"  batch {size:4}  {1e3 * found[size]:9.2f} ms"
            f"  ({1e3 * min(rates):.2f} to {1e3 * max(rates):.2f})"
            f"  {size / found[size]:9.1f} images/s"
        )
    return found


def _variables(config: ConfigDict, forms: list[Forms], form: Forms) -> object:
    """The state at the phase's first step."""
    first = train.initial_state(config, forms[0].phase)
    if form.state.discriminator is None:
        return first
    return train.enter_gan(config, form.phase, first)


def _random(shapes: object) -> object:
    """Arrays of these shapes: small numbers, or any bytes."""
    rng = np.random.default_rng(0)

    def draw(shape: jax.ShapeDtypeStruct) -> np.ndarray:
        if shape.dtype == np.uint8:
            return rng.integers(0, 256, shape.shape, np.uint8)
        if shape.dtype == np.float32:
            return rng.normal(0, 0.02, shape.shape).astype(np.float32)
        return np.zeros(shape.shape, shape.dtype)

    return jax.tree.map(draw, shapes)
