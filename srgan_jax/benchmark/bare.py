"""The bare step: compiled as training compiles it, and run on a batch that is on the devices."""

import dataclasses
import statistics
import time

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from srgan_jax import train
from srgan_jax.benchmark import samples, turns
from srgan_jax.benchmark.counts import Forms
from srgan_jax.data.degradation import Batch
from srgan_jax.engine import steps_per_dispatch
from srgan_jax.monitor import say
from srgan_jax.parallel import Parallel, Program
from srgan_jax.state import Params, TrainState

ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Bare:
    """A compiled step, what it starts from, and what it takes.

    Attributes:
      state: at the phase's first step.
      data: of one dispatch.
      steps: in a dispatch.
    """

    program: Program
    state: TrainState
    vgg_params: Params
    data: Batch
    steps: int
    compile_seconds: float

    def run(self, state: TrainState, count: int) -> TrainState:
        """So many dispatches, from a state that is donated."""
        for _ in range(count):
            state, _ = self.program(state, self.vgg_params, self.data)
        return jax.block_until_ready(state)

    def way(self) -> turns.Way:
        """Step after step, each from where the last one came to."""
        state = self.first_state()

        def run(steps: int) -> float:
            nonlocal state
            dispatches = max(steps // self.steps, 1)
            before = time.perf_counter()
            state = self.run(state, dispatches)
            return (time.perf_counter() - before) / (dispatches * self.steps)

        return run

    def first_state(self) -> TrainState:
        """A copy of `state`, to be donated."""
        return jax.tree.map(jnp.copy, self.state)


def prepare(
    config: ConfigDict, form: Forms, parallel: Parallel, vgg_params: Params, batch: int
) -> Bare:
    """The program of a phase, for crops of a built-in photograph, `batch` of them a step."""
    steps = steps_per_dispatch(config, parallel)
    recipe = form.phase.recipe
    parts, share = recipe.batches_per_step, parallel.share(batch)
    state = first_state(config, form, parallel)
    vgg_params = parallel.replicate(vgg_params if recipe.vgg else {})
    crops = samples.batch((steps, parts * (share.stop - share.start)), config.data.crop)
    data = parallel.place_batches(crops, parts)
    before = time.perf_counter()
    program = parallel.compile(form.step, recipe, None, steps, state, vgg_params, data)
    return Bare(program, state, vgg_params, data, steps, time.perf_counter() - before)


def first_state(config: ConfigDict, form: Forms, parallel: Parallel) -> TrainState:
    """What a phase starts from, on the devices, random."""

    def make() -> TrainState:
        first = train.initial_state(config, form.phase)
        return first if form.state.discriminator is None else train.enter_gan(
            config, form.phase, first
        )  # fmt: skip

    return parallel.place_state(jax.device_get(jax.jit(make)()))


def measure(
    config: ConfigDict, form: Forms, batches: list[int], seconds: float
) -> dict[int, float]:
    """Seconds a step on one device by batch size, the median of rounds of about `seconds` together.

    Says them. VGG19 has random weights: what is computed does not depend on them.
    """
    parallel = Parallel("jit", jax.devices()[:1])
    vgg_params = samples.random_vgg(form.phase.recipe.vgg) if form.phase.recipe.vgg else {}
    steps = steps_per_dispatch(config, parallel)
    kind = parallel.devices[0].device_kind
    say(f"{form.phase.name}: one device, {kind}, {steps} steps a dispatch")
    found = {}
    for size in batches:
        way = prepare(config, form, parallel, vgg_params, size).way()
        (took,) = turns.in_rounds({"bare": way}, seconds / ROUNDS, ROUNDS).values()
        found[size] = statistics.median(took)
        say(
            f"  batch {size:4}  {1e3 * found[size]:9.2f} ms"
            f"  ({1e3 * min(took):.2f} to {1e3 * max(took):.2f})"
            f"  {size / found[size]:9.1f} images/s"
        )
    return found
