"""Training: the order of work, and all of its input and output."""

import contextlib
import functools
import sys

import jax
from ml_collections import ConfigDict

from srgan_jax import checkpoint, continuing, loop, pretrained, processes, recipes, rng, weights
from srgan_jax import config as config_lib
from srgan_jax.changes import Changes
from srgan_jax.engine import Engine, steps_per_dispatch
from srgan_jax.errors import UserError
from srgan_jax.evaluate import report, workdirs
from srgan_jax.evaluate.score import Row
from srgan_jax.evaluate.workdirs import Evaluator
from srgan_jax.monitor import say
from srgan_jax.parallel import Parallel
from srgan_jax.processes import Stop
from srgan_jax.recipes import Phase
from srgan_jax.state import TrainState, init_variables, start_gan, start_pretraining
from srgan_jax.steps import GanRecipe
from srgan_jax.supply import Supply
from srgan_jax.workdir import Workdir


def train(config: ConfigDict, workdir: Workdir | None, *, allow_changes: bool = False) -> None:
    """Train both phases, export both generators, evaluate them.

    Continues from the newest checkpoint of the same run, with `allow_changes` also where its
    config or its pictures were others. Of several processes the first has the workdir, the others
    None.

    Raises: UserError; StoppedError by a signal while there is nothing to save.
    """
    with processes.on_signals() as stop, contextlib.ExitStack() as held:
        changes, results = Changes(), []
        with processes.together():
            if workdir:
                held.enter_context(workdir.locked())
                changes = workdir.check_config(config, allow_changes=allow_changes)
                results = complete_results(config, workdir)
        complete = bool(results) and not changes.learned
        if workdir and complete:
            say(f"{workdir.path}: this run is complete; its results, from {workdir.results.name}:")
            say(report.table(results))
        if not processes.from_first(complete):
            train_on(config, workdir, changes, allow_changes, stop)


def train_on(
    config: ConfigDict,
    workdir: Workdir | None,
    changes: Changes,
    allow_changes: bool,
    stop: Stop,
) -> None:
    """Begin or continue a run that is not complete."""
    parallel = Parallel(config.parallel, shard_optimizer=config.optim.sharded)
    parallel.check_batch(config.data.batch_size, config.optim.accumulate)
    if not any(config_lib.has_steps(config, name) for name in config_lib.PHASES):
        raise UserError("config.pretrain and config.gan have no steps: nothing to train")
    with processes.together():
        vgg, vgg_params = recipes.load_content_network(config)  # before a long download
        progress = sys.stderr.isatty() and processes.is_first()
        pictures, lr_pictures = recipes.load_pictures(config, progress=progress)
        say(pictures.summary)
        supply = Supply.from_config(config, parallel, pictures, lr_pictures)
        say(supply.summary())
        evaluator = Evaluator.from_config(config)
        per_epoch = supply.sampling.steps_per_epoch
        lengths = [config_lib.steps_of(config, name, per_epoch) for name in config_lib.PHASES]
        phases = recipes.make_phases(config, lengths, vgg, vgg_params)
        state = initial_state(config, phases[0])
    if processes.count() > 1:
        processes.check_equal(
            {
                "the digest of data.path's pictures": supply.fingerprint(),
                "where they are (data.placement)": supply.placement,
                "the digest of eval.path's pictures": evaluator.fingerprint(),
                "the digest of VGG19": checkpoint.digest(jax.device_get(vgg_params)),
            }
        )

    with contextlib.ExitStack() as held:
        record = None
        with processes.together():
            if workdir:
                record, state = continuing.resume(
                    config,
                    workdir,
                    phases,
                    state,
                    functools.partial(saved_form, config, phases[-1], state),
                    origin=supply.fingerprint(),
                    changes=changes,
                    allow_changes=allow_changes,
                )
                held.enter_context(contextlib.closing(record.checkpoints))
                held.enter_context(contextlib.closing(record.monitor))
        state = from_first(config, phases[-1], state)

        engine = Engine(parallel, supply, steps_per_dispatch(config, parallel))
        run = loop.Run(config, engine, evaluator, stop, record)
        placed = parallel.place_state(state)
        for phase in phases:
            finished = phase.name == "pretrain" and placed.discriminator is not None
            if finished or phase.start == phase.stop:
                continue
            if phase.name == "gan" and placed.discriminator is None:
                state = enter_gan(config, phase, parallel.to_host(placed))
                placed = parallel.place_state(processes.arrays_from_first(state))
            with stop.deferred():
                placed = loop.run_phase(run, phase, placed)
            if stop.agreed:
                if record:
                    record.checkpoints.wait()
                say(f"stopped after step {int(placed.step)}: the same command continues this run")
                return
            if record:
                loop.export(record, phase, placed, phase.network)
    workdirs.evaluate_workdir(workdir, evaluator)
    if record:
        continuing.say_best(record, phases)


def from_first(config: ConfigDict, gan: Phase, state: TrainState) -> TrainState:
    """The first process's state, everywhere: that of its checkpoint, or the initial one."""
    if processes.from_first(state.discriminator is not None) and state.discriminator is None:
        state = enter_gan(config, gan, state)  # which gives another form
    return processes.arrays_from_first(state)


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
        exported = weights.load_generator(pretrained.find(config.init_from, "config.init_from"))
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
    config: ConfigDict, gan: Phase, initial: TrainState, discriminator: bool
) -> TrainState:
    """The abstract state that a checkpoint holds, with D or, of pre-training, without."""
    enter = functools.partial(enter_gan, config, gan)
    return jax.eval_shape(enter if discriminator else lambda state: state, initial)
