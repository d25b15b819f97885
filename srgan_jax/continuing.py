"""Where a run goes on: its newest checkpoint, its logs up to there, what changed since."""

import pathlib
from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from srgan_jax import deterministic, recipes, remarks, weights
from srgan_jax.best import Best
from srgan_jax.changes import Changes
from srgan_jax.checkpoint import Checkpoints
from srgan_jax.errors import UserError
from srgan_jax.evaluate import report
from srgan_jax.loop import Record
from srgan_jax.monitor import Monitor, say
from srgan_jax.recipes import Phase
from srgan_jax.state import TrainState
from srgan_jax.workdir import Workdir


def resume(
    config: ConfigDict,
    workdir: Workdir,
    phases: list[Phase],
    initial: TrainState,
    template: Callable[[bool], TrainState],
    *,
    origin: str,
    changes: Changes,
    allow_changes: bool,
) -> tuple[Record, TrainState]:
    """Continue from the newest checkpoint, or begin, and record this start.

    Args:
      initial: the state where there is no checkpoint.
      template: see `Checkpoints.restore_latest`.
      origin: the fingerprint of the pictures.
      changes: of the config since the last start, which may go on.
      allow_changes: whether the pictures may be others than they were.
    Returns: what the run goes on with, whose checkpoints and monitor are to be closed.
    Raises: UserError.
    """
    best = Best(config.eval.best)
    run = workdir.run_id()
    accepted = [start.get("pictures") for start in workdir.starts()[-1:]] == [origin]
    checkpoints = Checkpoints(
        workdir.checkpoints,
        keep=config.checkpoint.keep,
        keep_every=config.checkpoint.keep_every,
        best=lambda steps: best.among(steps, config.checkpoint.keep_best),
        run=run,
        origin=origin,
        any_origin=allow_changes or accepted,
    )
    restored = checkpoints.restore_latest(template)
    state = initial if restored is None else restored
    step = int(state.step)
    if restored is not None:
        recipes.check_lengths(phases, state)
        say(f"continuing after step {step} of {phases[-1].stop}")
    differences = changes.lines()
    if checkpoints.other_origin and not accepted:
        differences.append("pictures: others than before")
    if differences:
        say(f"continuing with {'; '.join(differences)}")
    for remark in remarks.of(config):
        say(remark)
    if config.deterministic and jax.default_backend() == "gpu":
        say(deterministic.COST)
    if changes.learned:
        workdir.set_results_aside(step)
    monitor = Monitor(workdir, start=step)
    since = count_validations(
        workdir,
        best,
        state,
        afresh=changes.of_validation(),
        altered=not changes.exact() or checkpoints.other_origin or workdir.on_other_devices(),
    )
    workdir.record_start(
        config,
        run=run,
        step=step,
        pictures=origin,
        changed=differences,
        validations_since=since,
    )
    return Record(config, workdir, checkpoints, monitor, best), state


def count_validations(
    workdir: Workdir, best: Best, state: TrainState, *, afresh: bool, altered: bool
) -> int:
    """Let `best` know what a run has validated so far, and return after which step that counts.

    Args:
      afresh: validations don't compare with earlier ones.
      altered: the run may not come again to the bits of the networks that it lost when it was
        stopped, or not validate them.
    """
    step = int(state.step)
    since = min([step, *(start.get("validations_since", 0) for start in workdir.starts()[-1:])])
    best.read(workdir.metrics, since=since)
    in_gan = state.discriminator is not None
    phase, network = ("gan", "srgan") if in_gan else ("pretrain", "srresnet")
    if best.of(phase) is not None and not afresh:
        exported = exported_step(workdir.export(f"{network}_best"))
        # None: removed since, or begun by a program that exported none.
        afresh = exported is None or (altered and exported > step)
    if afresh:
        best.forget()
        return step
    return since


def exported_step(file: pathlib.Path) -> int | None:
    """The step of an exported generator, None where there is none."""
    try:
        return weights.load_generator(file).metadata["training"]["step"]
    except (UserError, KeyError):
        return None


def say_best(record: Record, phases: list[Phase]) -> None:
    """Tell which validation of each phase was the best, and where that generator is."""
    best = record.best
    for phase in phases:
        found = best.of(phase.name)
        if found is not None:
            value = report.number(best.metric.split("/")[1], found.value)
            file = record.workdir.export(f"{phase.network}_best").name
            say(f"{phase.network}: best {best.metric} {value} after step {found.step}: {file}")
