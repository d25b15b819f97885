"""A phase of training: steps, and what happens between them."""

import contextlib
import dataclasses
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import srgan_jax
from srgan_jax import config as config_lib
from srgan_jax import processes, weights
from srgan_jax.best import Best
from srgan_jax.checkpoint import Checkpoints
from srgan_jax.engine import Engine
from srgan_jax.errors import UserError
from srgan_jax.evaluate.workdirs import Evaluator
from srgan_jax.monitor import Monitor, Progress, duration, say
from srgan_jax.processes import Stop
from srgan_jax.recipes import Phase
from srgan_jax.state import TrainState, best_variables
from srgan_jax.steps import Metrics
from srgan_jax.workdir import Workdir, source_revision

# Shown on the console; everything goes to metrics.jsonl and TensorBoard.
SHOWN = {"pretrain": ("loss",), "gan": ("loss", "d/real", "d/fake")}


@dataclasses.dataclass(frozen=True)
class Record:
    """What the first process of a run writes; the others have none."""

    config: ConfigDict
    workdir: Workdir
    checkpoints: Checkpoints
    monitor: Monitor
    best: Best


@dataclasses.dataclass(frozen=True)
class Run:
    """What the phases of one run share."""

    config: ConfigDict
    engine: Engine
    evaluator: Evaluator
    stop: Stop
    record: Record | None


def run_phase(run: Run, phase: Phase, state: TrainState) -> TrainState:
    """Run a phase from where the state is to its end, or until the run is to stop."""
    config, record = run.config, run.record
    done = int(state.step)
    progress = Progress(phase.name, phase.start, done, phase.stop, config.data.batch_size)
    pending: list[tuple[int, Metrics]] = []

    def compiled(done: int, steps: int, seconds: float) -> None:
        left = f"{phase.stop - done} steps to go" + (f", {steps} a dispatch" if steps > 1 else "")
        say(f"{phase.name}: {left}, compiled in {duration(seconds)}")
        if record:
            record.monitor.timing(done + 1, phase.name, {"compile_seconds": seconds})
        progress.leave_out(seconds)

    dispatches = run.engine.dispatches(phase, state, compiled)
    with contextlib.closing(progress), dispatches as ahead:
        for done, state, metrics in ahead:
            pending.append((done, metrics))
            progress.advance(done)

            log, validate, save = (
                done % every == 0 or done == phase.stop
                for every in (
                    config.log.every_steps,
                    config.eval.every_steps,
                    config.checkpoint.every_steps,
                )
            )
            stopping = run.stop.asked()
            save |= stopping
            if log or validate or save:
                values, wrong = fetch(pending)
                if wrong:
                    with processes.together():  # none leaves before the first has saved
                        raise diverged(phase, wrong, record)
                pending.clear()
            if log and record:
                record.monitor.metrics(done, phase.name, values)
                shown = {name: values[name] for name in SHOWN[phase.name]}
                record.monitor.timing(done, phase.name, progress.report(done, shown))
            progress.pause()
            if validate:
                validate_and_export(run, phase, state)
            if save:
                on_host = run.engine.parallel.to_host(state)
                if record:
                    record.checkpoints.save(done, on_host)
            progress.resume()
            if stopping:
                break
    return state


def fetch(pending: list[tuple[int, Metrics]]) -> tuple[dict[str, float], str]:
    """The last step's metrics, and the first that is not finite, "" where all are.

    `pending` holds, of each dispatch, the updates done after it and the metrics of its steps.
    """
    metrics: Metrics = {}
    for done, metrics in jax.device_get(pending):
        # Terms of the loss first: the gradients follow from them.
        names = sorted(metrics, key=lambda name: not name.startswith("loss/"))
        wrong = ~np.isfinite([metrics[name] for name in names])  # [names, steps]
        if wrong.any():
            at = int(wrong.any(axis=0).argmax())
            name = names[int(wrong[:, at].argmax())]
            return {}, f"{name} is {metrics[name][at]} at step {done - wrong.shape[1] + at + 1}"
    return {name: float(values[-1]) for name, values in metrics.items()}, ""


def diverged(phase: Phase, what: str, record: Record | None) -> UserError:
    """Why a run ends that has met a number that is not finite."""
    good = ""
    if record:
        record.checkpoints.wait()
        kept = record.checkpoints.latest_step()
        good = f"the checkpoint of step {kept} is good; " if kept else "no checkpoint yet; "
    return UserError(
        f"{phase.name}: {what}: stopped; {good}try a lower"
        f" --config.{phase.name}.learning_rate in a new --workdir"
    )


def validate_and_export(run: Run, phase: Phase, state: TrainState) -> None:
    """Validate, export the generator where it is the phase's best so far, and log.

    In this order, and the checkpoint after it: what a killed run continues from then never knows
    of a best generator that is not there, and what it does again gives the same file.
    """
    step = int(state.step)
    scalars, pictures = run.evaluator.validate(phase.recipe.generator, best_variables(state))
    record = run.record
    if not record:
        return
    record.best.add(step, phase.name, scalars)
    best = record.best.of(phase.name)
    if best is not None and best.step == step:
        told = {"metric": record.best.metric, "value": best.value}
        export(record, phase, state, f"{phase.network}_best", best=told)
    record.monitor.metrics(step, phase.name, scalars)
    record.monitor.pictures(step, pictures)


def export(record: Record, phase: Phase, state: TrainState, name: str, **told: Any) -> None:
    """Write the generator as NAME.safetensors; its metadata has what is told beside its story."""
    weights.save_generator(
        record.workdir.export(name),
        phase.recipe.generator,
        state.generator.variables,
        story(record, phase, int(state.step)) | told,
        ema=state.ema,
    )


def story(record: Record, phase: Phase, step: int) -> dict[str, Any]:
    """How a generator was trained, for its metadata."""
    return {
        "network": phase.network,
        "step": step,
        "config": config_lib.to_json(record.config),
        "changed": [
            {"after_step": start["step"], "config": start["changed"]}
            for start in record.workdir.starts()
            if start.get("changed") and start["step"] < step
        ],
        "revision": source_revision(),
        "version": srgan_jax.__version__,
    }
