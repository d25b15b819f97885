"""Training: the order of work, and all of its input and output."""

import contextlib
import functools
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import jax
from ml_collections import ConfigDict

from srgan_jax import config as config_lib
from srgan_jax import continuing, loop, recipes, rng, weights
from srgan_jax.changes import Changes
from srgan_jax.engine import Engine, steps_per_dispatch
from srgan_jax.errors import UserError
from srgan_jax.evaluate import report, workdirs
from srgan_jax.evaluate.score import Row
from srgan_jax.evaluate.workdirs import Evaluator
from srgan_jax.monitor import say
from srgan_jax.parallel import Parallel
from srgan_jax.recipes import Phase
from srgan_jax.state import TrainState, init_variables, start_gan, start_pretraining
from srgan_jax.steps import GanRecipe
from srgan_jax.supply import Supply
from srgan_jax.workdir import Workdir


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

    pictures, lr_pictures = recipes.load_pictures(config, progress=sys.stderr.isatty())
    say(pictures.summary)
    supply = Supply.from_config(config, parallel, pictures, lr_pictures)
    say(supply.summary())
    evaluator = Evaluator.from_config(config)
    per_epoch = supply.sampling.steps_per_epoch
    lengths = [config_lib.steps_of(config, name, per_epoch) for name in config_lib.PHASES]
    phases = recipes.make_phases(config, lengths, vgg, vgg_params)
    state = initial_state(config, phases[0])

    checkpoints, monitor, best, state = continuing.resume(
        config,
        workdir,
        phases,
        state,
        functools.partial(saved_form, config, phases[-1], parallel, state),
        origin=supply.fingerprint(),
        changes=changes,
        allow_changes=allow_changes,
    )

    with contextlib.closing(monitor), contextlib.closing(checkpoints), on_signals() as requested:
        run = loop.Run(
            config=config,
            workdir=workdir,
            engine=Engine(parallel, supply, steps_per_dispatch(config, parallel)),
            checkpoints=checkpoints,
            monitor=monitor,
            evaluator=evaluator,
            best=best,
            stop_requested=requested,
        )
        state = parallel.replicate(state)
        for phase in phases:
            finished = phase.name == "pretrain" and state.discriminator is not None
            if finished or phase.start == phase.stop:
                continue
            if phase.name == "gan" and state.discriminator is None:
                state = parallel.replicate(enter_gan(config, phase, state))
            state = loop.run_phase(run, phase, state)
            if requested.is_set():
                checkpoints.wait()
                say(f"stopped after step {int(state.step)}: the same command continues this run")
                return
            loop.export(run, phase, state, phase.network)
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
