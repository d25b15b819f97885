"""Compiled steps and their batches, brought together: the part of training that has to be fast."""

import collections
import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator

import jax
from ml_collections import ConfigDict

from srgan_jax.data.batches import Calls
from srgan_jax.parallel import Parallel, Program
from srgan_jax.recipes import Phase
from srgan_jax.state import TrainState
from srgan_jax.steps import Metrics, gan_step, pretrain_step
from srgan_jax.supply import Supply

# Dispatches that the host may be ahead of the device: enough to keep it busy, few enough that
# stopping does not wait long.
AHEAD = 2

# Steps in a dispatch, where the config leaves it open and the device is no CPU.
STEPS_PER_DISPATCH = 100

Compiled = Callable[[int, int, float], None]  # after so many updates, for so many steps, seconds


@dataclasses.dataclass(frozen=True)
class Engine:
    """Runs steps, several in one dispatch, without waiting for them."""

    parallel: Parallel
    supply: Supply
    steps_per_dispatch: int
    # Compiled so far, by phase and number of steps.
    programs: dict[tuple[str, int], Program] = dataclasses.field(default_factory=dict)

    @contextlib.contextmanager
    def dispatches(
        self, phase: Phase, state: TrainState, compiled: Compiled
    ) -> Iterator[Iterator[tuple[int, TrainState, Metrics]]]:
        """The phase, from where the state is: (updates done, state, metrics [steps]) each time.

        What they yield may still be being computed. The state is donated to the next one.
        `compiled` is called after each compilation; there is one for each number of steps.
        """
        parts = phase.recipe.batches_per_step
        first_batch = phase.start - phase.start * parts  # so that step `start` takes batch `start`
        calls = Calls(int(state.step), phase.stop, self.steps_per_dispatch)
        vgg_params = self.parallel.replicate(phase.vgg_params)
        step_fn = gan_step if phase.name == "gan" else pretrain_step

        with self.supply.batches(first_batch, parts, calls) as (source, data_of_calls):

            def run(state: TrainState) -> Iterator[tuple[int, TrainState, Metrics]]:
                pending: collections.deque[Metrics] = collections.deque(maxlen=AHEAD)
                for (done, steps), data in zip(calls, data_of_calls, strict=False):
                    if (phase.name, steps) not in self.programs:
                        before = time.perf_counter()
                        self.programs[phase.name, steps] = self.parallel.compile(
                            step_fn, phase.recipe, source, steps, state, vgg_params, data
                        )
                        compiled(done, steps, time.perf_counter() - before)
                    with jax.transfer_guard("disallow"):  # everything is on the devices already
                        state, metrics = self.programs[phase.name, steps](state, vgg_params, data)
                    pending.append(metrics)
                    jax.block_until_ready(pending[0])
                    yield done + steps, state, metrics

            yield run(state)


def steps_per_dispatch(config: ConfigDict, parallel: Parallel) -> int:
    """How many steps run without the host between them."""
    if config.steps_per_dispatch:
        return config.steps_per_dispatch
    if parallel.devices[0].platform == "cpu":  # where loops on the device are slow
        return 1
    between = math.gcd(
        config.log.every_steps, config.eval.every_steps, config.checkpoint.every_steps
    )
    return max(n for n in range(1, STEPS_PER_DISPATCH + 1) if between % n == 0)
