"""The training loop against the bare step: what batches, dispatches and their checks cost."""

import dataclasses
import itertools
import time
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from srgan_jax import config as config_lib
from srgan_jax import loop, recipes
from srgan_jax.benchmark import bare as bare_lib
from srgan_jax.benchmark import counts, samples
from srgan_jax.benchmark import rates as rates_lib
from srgan_jax.engine import AHEAD, Engine
from srgan_jax.errors import UserError
from srgan_jax.monitor import duration, say
from srgan_jax.parallel import Parallel
from srgan_jax.recipes import Phase
from srgan_jax.state import TrainState
from srgan_jax.supply import Supply

PLACEMENTS = ("device", "host")

Measure = Callable[[TrainState, int], TrainState]  # runs so many dispatches


def benchmark(config: ConfigDict, *, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Say, and return as rows, how many images/s pre-training does.

    Bare: the compiled step, again and again on a batch that is on the devices. Against it the
    training loop with its metrics fetched and checked, the pictures on the device or on the host.
    Measured in turns, so that a machine that slows down slows all of them. Compiling, logs,
    validation and checkpoints are left out.

    Raises: UserError where the config has no pre-training.
    """
    if not config_lib.has_steps(config, "pretrain"):
        raise UserError("config.pretrain has no steps: nothing to measure")
    parallel = Parallel(config.parallel, shard_optimizer=config.optim.sharded)
    parallel.check_batch(config.data.batch_size, config.optim.accumulate)
    pictures = recipes.load_pictures(config, progress=True)
    config = config.copy_and_resolve_references()
    config_lib.set_length(config.gan, "steps")
    config.gan.steps = 0
    vgg, vgg_params = samples.content_network(config)
    (form,) = counts.forms(config, vgg)
    phase = dataclasses.replace(form.phase, vgg_params=vgg_params)
    bare = bare_lib.prepare(config, form, parallel, vgg_params, config.data.batch_size)
    steps = bare.steps
    engines = {}
    for config.data.placement in PLACEMENTS:
        supply = Supply.from_config(config, parallel, *pictures)
        engines[config.data.placement] = Engine(parallel, supply, steps)
    measures: dict[str, Measure] = {"bare step": bare.run}
    measures |= {
        f"loop, pictures on the {name}": looped(config, engine, phase)
        for name, engine in engines.items()
    }

    say(
        f"{len(parallel.devices)} x {parallel.devices[0].device_kind}, batch"
        f" {config.data.batch_size}, {steps} steps a dispatch, {rounds} rounds of about"
        f" {duration(seconds)} each"
    )
    images = steps * config.data.batch_size
    rates = measured(measures, bare.first_state(), images, seconds, rounds)
    return rates_lib.rows(rates, "images")


def measured(
    measures: dict[str, Measure],
    state: TrainState,
    count_a_dispatch: int,
    seconds: float,
    rounds: int,
) -> dict[str, list[float]]:
    """Images/s or steps/s of each, so many a dispatch, in turns of about so many seconds."""
    for measure in measures.values():
        state = measure(state, AHEAD)  # compiles
    first, *_ = measures.values()  # tells how many fit in
    before = time.perf_counter()
    state = first(state, 2 * AHEAD)
    count = max(round(2 * AHEAD * seconds / (time.perf_counter() - before)), AHEAD)
    rates: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            before = time.perf_counter()
            state = measure(state, count)
            rates[name].append(count * count_a_dispatch / (time.perf_counter() - before))
    return rates


def looped(config: ConfigDict, engine: Engine, phase: Phase) -> Measure:
    """The training loop."""
    every = max(config.log.every_steps // engine.steps_per_dispatch, 1)

    def run(state: TrainState, count: int) -> TrainState:
        pending = []
        with engine.dispatches(phase, state, lambda *_: None) as ahead:
            for number, dispatch in enumerate(itertools.islice(ahead, count), 1):
                done, state, metrics = dispatch
                pending.append((done, metrics))
                if number % every == 0:
                    loop.fetch(pending)
                    pending.clear()
        return jax.block_until_ready(state)

    return run
