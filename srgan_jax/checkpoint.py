"""Checkpoints: a thin layer over Orbax that also notices damage."""

import errno
import hashlib
import inspect
import json
import logging as stdlib_logging
import os
import pathlib
import shutil
import sys
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    EveryNSteps,
    LatestN,
    PreservationPolicy,
)

from srgan_jax import files, processes
from srgan_jax.errors import UserError, first_line
from srgan_jax.state import TrainState

UNFINISHED = ".orbax-checkpoint-tmp"  # in the names of folders that are being written

# Of the machine, not of a file that is read: the file may be whole.
TROUBLES = (
    errno.EACCES, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EPERM, errno.ESTALE,
)  # fmt: skip
# How Orbax's storage and XLA tell of them: as text.
TROUBLES_SAID = (*map(os.strerror, TROUBLES), "PERMISSION_DENIED", "RESOURCE_EXHAUSTED")


class Checkpoints:
    """The checkpoints of one run, in `directory`, named by their step number.

    Saving is asynchronous and atomic. Each holds a digest of its arrays, because a flipped bit
    on disk otherwise comes back as a number, and one of what is told of them.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        keep: int,
        keep_every: int = 0,
        best: Callable[[Sequence[int]], Collection[int]] | None = None,
        run: str = "",
        origin: str = "",
        any_origin: bool = False,
    ):
        """What an interrupted save left is removed, with a warning.

        Args:
          keep: how many of the latest stay.
          keep_every: those whose step is a multiple of it stay too; 0: none.
          best: of the steps that there are, those that stay too.
          run: the run's id; checkpoints of another are none of this run's.
          origin: what the run was begun with beyond its config, such as a digest of its
            pictures; checkpoints of another origin are refused.
          any_origin: they are taken instead.
        """
        self._run, self._origin, self._any_origin = run, origin, any_origin
        self.other_origin = False  # of what was restored
        self._directory = pathlib.Path(directory).absolute()
        policies: list[PreservationPolicy] = [LatestN(keep)]
        if keep_every:
            policies.append(EveryNSteps(keep_every))
        if best:
            policies.append(Preserve(best))
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy(policies),
            lightweight_initialize=True,  # reads nothing of checkpoints, which may be damaged
            create=False,
        )
        if processes.count() > 1:  # of which the first alone has checkpoints
            me = processes.index()
            self._options.multiprocessing_options = ocp.options.MultiprocessingOptions(
                primary_host=me, active_processes={me}, barrier_sync_key_prefix="first"
            )
        self._remove_unfinished()
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            return ocp.CheckpointManager(self._directory, options=self._options)
        except OSError as error:
            raise UserError(f"{self._directory}: cannot be used ({first_line(error)})") from error

    def _remove_unfinished(self) -> None:
        """Remove what a process that was killed had begun to write."""
        for folder in sorted(self._directory.glob(f"*{UNFINISHED}*")):
            try:
                shutil.rmtree(folder)
            except OSError as error:
                reason = first_line(error)
                raise UserError(f"{folder}: unfinished, cannot be removed ({reason})") from error
            step = folder.name.partition(UNFINISHED)[0]
            logging.warning("removed the unfinished save of step %s: %s", step, folder)

    def save(self, step: int, state: TrainState) -> None:
        """Begin to write a checkpoint of a state of host arrays.

        Raises: UserError where this or the last one cannot be written.
        """
        try:
            meta = {
                "sha256": digest(state),
                "discriminator": state.discriminator is not None,
                "run": self._run,
                "origin": self._origin,
            }
            meta["meta_sha256"] = digest_of_json(meta)
            saved = self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
                ),
            )
            if not saved:
                raise RuntimeError(f"Orbax declined step {step}")
        except Exception as error:  # Orbax passes on whatever its storage raised
            raise self._cannot_write(error) from error

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, None where there is none."""
        return self._manager.latest_step()

    def wait(self) -> None:
        """Return when everything is on disk. Raises: UserError where it cannot be."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._cannot_write(error) from error

    def close(self) -> None:
        """Wait, and let go of the directory."""
        self.wait()
        self._manager.close()

    def restore_latest(self, template: Callable[[bool], TrainState]) -> TrainState | None:
        """The newest whole checkpoint, in host arrays, or None where there is none at all.

        One that is damaged, or none of this run's, is moved to `damaged/` beside the checkpoints,
        with a warning, and the one before it is tried.

        Args:
          template: the abstract state (`jax.ShapeDtypeStruct`s) with the discriminator, or
            without.
        Raises: UserError where there are checkpoints but every one is damaged, where the newest
          is of another origin, and where one cannot be read now; that one stays where it is.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                return self._restore(step, template)
            except UserError:
                raise
            except Exception as error:  # whatever a damaged file leads Orbax into
                if is_trouble(error):
                    raise self._cannot_read(step, error) from error
                moved = self._set_aside(step)
                logging.warning(
                    "checkpoint %d is damaged, or not of this run (%s): moved to %s",
                    step,
                    first_line(error),
                    moved,
                )
        if steps or self._damaged.exists():
            raise UserError(
                f"{self._directory}: every checkpoint is damaged, or not of this run (now below"
                f" {self._damaged}): start in a new --workdir, or delete both folders to start over"
            )
        return None

    def _restore(self, step: int, template: Callable[[bool], TrainState]) -> TrainState:
        meta_only = ocp.args.Composite(meta=ocp.args.JsonRestore())
        meta = self._manager.restore(step, args=meta_only).meta
        told = dict(meta)
        if told.pop("meta_sha256", None) != digest_of_json(told):
            raise ValueError("what is told of its arrays is not what was saved")
        if meta["run"] != self._run:
            raise ValueError("it is another run's")
        if meta["origin"] != self._origin and not self._any_origin:
            raise UserError(
                f"{self._directory}: the run was begun with other pictures, or a part of them:"
                " give those, or another --workdir, or --allow_changes to go on with these"
            )
        form = jax.tree.map(_on_one_device, template(meta["discriminator"]))
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(form))
        )
        state = jax.device_get(restored.state)
        if digest(state) != meta["sha256"]:
            raise ValueError("its arrays are not those that were saved")
        if int(state.step) != step:
            raise ValueError(f"it was saved as step {int(state.step)}")
        self.other_origin = meta["origin"] != self._origin
        return state

    @property
    def _damaged(self) -> pathlib.Path:
        return self._directory.parent / "damaged"

    def _set_aside(self, step: int) -> pathlib.Path:
        self._manager.close()
        self._damaged.mkdir(exist_ok=True)
        target = files.unused(self._damaged / str(step))
        os.rename(self._directory / str(step), target)
        self._manager = self._open()
        return target

    def _cannot_read(self, step: int, error: Exception) -> UserError:
        return UserError(
            f"{self._directory / str(step)}: the checkpoint of step {step} cannot be read now"
            f" ({first_line(error)}): mend that, and run the same command again, or move that"
            " folder away to go on from the one before"
        )

    def _cannot_write(self, error: Exception) -> UserError:
        return UserError(
            f"{self._directory}: checkpoint cannot be written ({first_line(error)}): free space"
            " or mend permissions, and run the same command again"
        )


class Preserve(PreservationPolicy):
    """Orbax's policy for a choice of steps.

    Not Orbax's own `BestN`: it ranks NaN, compares pre-training with the GAN phase, keeps what
    was never validated, and to start it reads a file of every checkpoint, which may be damaged.
    """

    def __init__(self, choose: Callable[[Sequence[int]], Collection[int]]):
        """`choose`: of the steps that there are, those that stay."""
        self._choose = choose

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        """For each checkpoint, whether it stays."""
        chosen = self._choose([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step in chosen for checkpoint in checkpoints]


def _on_one_device(form: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """The same array where Orbax is to put it."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(form.shape, form.dtype, sharding=device)


def digest(tree: Any) -> str:
    """SHA-256 over the bytes of all leaves of a tree of host arrays, in order."""
    sha = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        sha.update(np.ascontiguousarray(leaf).data)
    return sha.hexdigest()


def digest_of_json(value: Any) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def is_trouble(error: BaseException | None) -> bool:
    """Whether the machine, not what was read, is the cause of an error, or of what led to it."""
    while error is not None:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in TROUBLES:
            return True
        if any(said in str(error) for said in TROUBLES_SAID):
            return True
        error = error.__cause__ or error.__context__
    return False


def quiet_orbax() -> None:
    """Keep off the console what Orbax and TensorStore tell beside the errors that they raise."""
    logging.get_absl_logger().addFilter(lambda record: "/orbax/" not in record.pathname)
    # Orbax raises the first error of many concurrent reads or writes and drops the others, which
    # asyncio and the interpreter then print; nothing else here is asynchronous.
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited")
    stdlib_logging.getLogger("asyncio").addFilter(
        lambda record: "exception was never retrieved" not in record.getMessage()
    )
    otherwise = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        error, source = unraisable.exc_value, unraisable.object
        of_orbax = inspect.iscoroutine(source) and "/orbax/" in source.cr_code.co_filename
        too_late = isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
        if not (of_orbax or too_late):
            otherwise(unraisable)

    sys.unraisablehook = hook
