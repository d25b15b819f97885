"""Training: the order of work, and all of its input and output."""

import contextlib
import dataclasses
import functools
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import jax
from ml_collections import ConfigDict

import srgan_jax
from srgan_jax import config as config_lib
from srgan_jax import continuing, recipes, rng, weights
from srgan_jax.best import Best
from srgan_jax.changes import Changes
from srgan_jax.checkpoint import Checkpoints
from srgan_jax.data import sampling, sources
from srgan_jax.data.batches import Batches
from srgan_jax.data.degradation import Batch
from srgan_jax.errors import UserError
from srgan_jax.evaluate import report, workdirs
from srgan_jax.evaluate.score import Row
from srgan_jax.evaluate.workdirs import Evaluator
from srgan_jax.monitor import Monitor, Progress, duration, say
from srgan_jax.parallel import Parallel
from srgan_jax.recipes import Phase
from srgan_jax.state import (
    TrainState,
    best_variables,
    init_variables,
    start_gan,
    start_pretraining,
)
from srgan_jax.steps import GanRecipe, Metrics, gan_step, pretrain_step
from srgan_jax.workdir import Workdir, source_revision

# Steps that the host may be ahead of the device: enough to keep it busy, few enough that
# stopping does not wait long.
AHEAD = 4

# Shown on the console; everything goes to metrics.jsonl and TensorBoard.
SHOWN = {"pretrain": ("loss",), "gan": ("loss", "d/real", "d/fake")}


@dataclasses.dataclass(frozen=True)
class Run:
    """What the phases of one run share."""

    config: ConfigDict
    workdir: Workdir
    parallel: Parallel
    batches: Batches
    checkpoints: Checkpoints
    monitor: Monitor
    evaluator: Evaluator
    best: Best
    stop_requested: threading.Event


def train(config: ConfigDict, workdir: Workdir, *, allow_changes: bool = False) -> None:
    """Train both phases, export both generators, evaluate them.

    Continues from the newest checkpoint of the same run, with `allow_changes` also where its
    config or its pictures were others. Raises: UserError.
    """
    with workdir.locked():
        changes = workdir.check_config(config, allow_changes=allow_changes)
        results = complete_results(config, workdir)
        if results and not changes.learned:
            say(f"{workdir.path}: this run is complete; its results, from {workdir.results.name}:")
            say(report.table(results))
        else:
            train_on(config, workdir, changes, allow_changes)


def train_on(config: ConfigDict, workdir: Workdir, changes: Changes, allow_changes: bool) -> None:
    """Begin or continue a run that is not complete."""
    parallel = Parallel(config.parallel)
    parallel.check_batch(config.data.batch_size)
    if not any(config_lib.has_steps(config, name) for name in config_lib.PHASES):
        raise UserError("config.pretrain and config.gan have no steps: nothing to train")
    vgg, vgg_params = recipes.load_content_network(config)  # before a long download

    pictures = sources.load(
        source=config.data.source,
        path=config.data.path,
        split="train",
        dataset=config.data.dataset,
        min_size=config.data.crop,
        damaged=config.data.damaged,
        progress=sys.stderr.isatty(),
    )
    say(pictures.summary)
    evaluator = Evaluator.from_config(config)
    per_epoch = sampling.steps_per_epoch(len(pictures), config.data.batch_size)
    lengths = [config_lib.steps_of(config, name, per_epoch) for name in config_lib.PHASES]
    phases = recipes.make_phases(config, lengths, vgg, vgg_params)
    state = initial_state(config, phases[0])

    checkpoints, monitor, best, state = continuing.resume(
        config,
        workdir,
        phases,
        state,
        functools.partial(saved_form, config, phases[-1], parallel, state),
        origin=pictures.fingerprint(),
        changes=changes,
        allow_changes=allow_changes,
    )

    with contextlib.closing(monitor), contextlib.closing(checkpoints), on_signals() as requested:
        key = rng.stream(config.seed, "crops")
        batches = Batches(
            pictures, key=key, batch_size=config.data.batch_size, crop=config.data.crop
        )
        run = Run(
            config, workdir, parallel, batches, checkpoints, monitor, evaluator, best, requested
        )
        state = parallel.replicate(state)
        for phase in phases:
            finished = phase.name == "pretrain" and state.discriminator is not None
            if finished or phase.start == phase.stop:
                continue
            if phase.name == "gan" and state.discriminator is None:
                state = parallel.replicate(enter_gan(config, phase, state))
            state = run_phase(run, phase, state)
            if requested.is_set():
                checkpoints.wait()
                say(f"stopped after step {int(state.step)}: the same command continues this run")
                return
            export(run, phase, state, phase.network)
    workdirs.evaluate_workdir(workdir, evaluator)
    continuing.say_best(workdir, phases, best)


def complete_results(config: ConfigDict, workdir: Workdir) -> list[Row]:
    """The rows of a run that ended: all that it exports is there, and measured. Else none."""
    networks = [
        network
        for name, network in zip(config_lib.PHASES, workdirs.NETWORKS, strict=True)
        if config_lib.has_steps(config, name)
    ]
    if not all(workdir.export(network).exists() for network in networks):
        return []
    data = workdirs.data_label(config)
    rows = [row for row in workdirs.read_rows(workdir) if row["data"] == data]
    return rows if {row["method"] for row in rows} >= set(networks) else []


def initial_state(config: ConfigDict, pretraining: Phase) -> TrainState:
    """The state at step 0: random, or from `config.init_from`. Raises: UserError."""
    recipe = pretraining.recipe
    if config.init_from:
        exported = weights.load_generator(config.init_from)
        asked = weights.architecture(recipe.generator)
        held = weights.architecture(exported.generator)
        needed = [f"--config.generator.{k}={v}" for k, v in held.items() if v != asked[k]]
        if needed:
            raise UserError(
                f"config.init_from={config.init_from} is of another architecture than"
                f" config.generator: give {' '.join(needed)}"
            )
        variables = exported.variables
    else:
        side = config.data.crop // config.generator.scale
        key = rng.stream(config.seed, "generator")
        variables = init_variables(recipe.generator, key, (1, side, side, 3))
    return start_pretraining(variables, recipe.generator_tx, ema=config.ema_decay > 0)


def enter_gan(config: ConfigDict, gan: Phase, state: TrainState) -> TrainState:
    """From the pre-trained state to the first one of the GAN phase."""
    recipe = gan.recipe
    assert isinstance(recipe, GanRecipe)
    key = rng.stream(config.seed, "discriminator")
    shape = (1, config.data.crop, config.data.crop, 3)
    discriminator = init_variables(recipe.discriminator, key, shape)
    return start_gan(state, recipe.generator_tx, discriminator, recipe.discriminator_tx)


def saved_form(
    config: ConfigDict,
    gan: Phase,
    parallel: Parallel,
    initial: TrainState,
    discriminator: bool,
) -> TrainState:
    """The abstract state that a checkpoint holds, with D or, of pre-training, without."""
    enter = functools.partial(enter_gan, config, gan)
    form = jax.eval_shape(enter if discriminator else lambda state: state, initial)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=parallel.replicated), form
    )


def run_phase(run: Run, phase: Phase, state: TrainState) -> TrainState:
    """Run a phase from where the state is to its end, or until a stop is requested."""
    config, monitor = run.config, run.monitor
    done = int(state.step)
    if done == phase.stop:
        return state
    parts = phase.recipe.batches_per_step
    first_batch = phase.start - phase.start * parts  # so that step `start` takes batch `start`

    def batch_of(step: int) -> Batch:
        return run.parallel.place(run.batches(first_batch + step * parts, parts), parts)

    vgg_params = run.parallel.replicate(phase.vgg_params)
    before = time.perf_counter()
    step_fn = gan_step if phase.name == "gan" else pretrain_step
    program = run.parallel.compile(step_fn, phase.recipe, state, vgg_params, batch_of(done))
    seconds = time.perf_counter() - before
    say(f"{phase.name}: {phase.stop - done} steps to go, compiled in {duration(seconds)}")
    monitor.timing(done + 1, phase.name, {"compile_seconds": seconds})

    progress = Progress(phase.name, phase.start, done, phase.stop, config.data.batch_size)
    pending: list[tuple[int, Metrics]] = []
    with contextlib.closing(progress):
        stopping = False
        while done < phase.stop and not stopping:
            state, metrics = program(state, vgg_params, batch_of(done))
            done += 1
            pending.append((done, metrics))
            jax.block_until_ready(pending[-AHEAD:][0])
            progress.advance(done)

            log, validate, save = (
                done % every == 0 or done == phase.stop
                for every in (
                    config.log.every_steps,
                    config.eval.every_steps,
                    config.checkpoint.every_steps,
                )
            )
            stopping = run.stop_requested.is_set()  # asked once, so that no stop goes unsaved
            save |= stopping
            if log or validate or save:
                values = fetch_finite(run, phase, pending)
                pending.clear()
            if log:
                monitor.metrics(done, phase.name, values)
                shown = {name: values[name] for name in SHOWN[phase.name]}
                monitor.timing(done, phase.name, progress.report(done, shown))
            progress.pause()
            if validate:
                validate_and_export(run, phase, state)
            if save:
                run.checkpoints.save(done, state)
            progress.resume()
    return state


def fetch_finite(run: Run, phase: Phase, pending: list[tuple[int, Metrics]]) -> dict[str, float]:
    """The metrics of the last step, after checking those of every step since the last call.

    Raises: UserError, naming the first term that is not finite, and its step.
    """
    values: dict[str, float] = {}
    for step, metrics in jax.device_get(pending):
        values = {name: float(value) for name, value in metrics.items()}
        # Terms of the loss first: the gradients follow from them.
        for name in sorted(values, key=lambda name: not name.startswith("loss/")):
            value = values[name]
            if not math.isfinite(value):
                run.checkpoints.wait()
                kept = run.checkpoints.latest_step()
                raise UserError(
                    f"{phase.name}: {name} is {value} at step {step}: stopped; "
                    + (f"the checkpoint of step {kept} is good" if kept else "no checkpoint yet")
                    + f"; try a lower --config.{phase.name}.learning_rate in a new --workdir"
                )
    return values


def validate_and_export(run: Run, phase: Phase, state: TrainState) -> None:
    """Validate, export the generator where it is the phase's best so far, and log.

    In this order, and the checkpoint after it: what a killed run continues from then never knows
    of a best generator that is not there, and what it does again gives the same file.
    """
    step = int(state.step)
    scalars, pictures = run.evaluator.validate(phase.recipe.generator, best_variables(state))
    run.best.add(step, phase.name, scalars)
    best = run.best.of(phase.name)
    if best is not None and best.step == step:
        told = {"metric": run.best.metric, "value": best.value}
        export(run, phase, state, f"{phase.network}_best", best=told)
    run.monitor.metrics(step, phase.name, scalars)
    run.monitor.pictures(step, pictures)


def export(run: Run, phase: Phase, state: TrainState, name: str, **told: Any) -> None:
    """Write the generator as NAME.safetensors; its metadata has what is told beside its story."""
    weights.save_generator(
        run.workdir.export(name),
        phase.recipe.generator,
        state.generator.variables,
        story(run, phase, int(state.step)) | told,
        ema=state.ema,
    )


def story(run: Run, phase: Phase, step: int) -> dict[str, Any]:
    """How a generator was trained, for its metadata."""
    return {
        "network": phase.network,
        "step": step,
        "config": config_lib.to_json(run.config),
        "changed": [
            {"after_step": start["step"], "config": start["changed"]}
            for start in run.workdir.starts()
            if start.get("changed") and start["step"] < step
        ],
        "revision": source_revision(),
        "version": srgan_jax.__version__,
    }


@contextlib.contextmanager
def on_signals() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; the second acts as it would without."""
    requested = threading.Event()
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in former.items():
            signal.signal(number, handler)

    def request(number: int, frame: FrameType | None) -> None:
        requested.set()
        restore()

    for number in former:
        signal.signal(number, request)
    try:
        yield requested
    finally:
        restore()
