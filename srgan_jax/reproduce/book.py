"""plan.json: what was asked for, planned, and measured for the plan; kept after every change."""

import dataclasses
import pathlib
from typing import Any

from srgan_jax import files
from srgan_jax.errors import UserError
from srgan_jax.monitor import say
from srgan_jax.workdir import device_names

ADVICE = "give another --out"


@dataclasses.dataclass
class Book:
    """What is to stay while trainings go on.

    Attributes:
      path: the file.
      asked: by flag; the same in every call.
      device: on which steps were timed.
      runs: by folder, what a table has to know of a run: experiment, title, seed, phase, steps.
      step_seconds: by `Run.program`.
      feature_scales: by VGG19's layer.
    """

    path: pathlib.Path
    asked: dict[str, Any]
    device: str
    runs: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    step_seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    feature_scales: dict[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def open(cls, path: pathlib.Path, asked: dict[str, Any]) -> "Book":
        """That of an earlier call, or a new one.

        Raises: UserError where the earlier call was asked for something else.
        """
        if not path.exists():
            return cls(path, asked, device_names())
        try:
            book = cls(path, **files.read_json(path, ADVICE))
        except TypeError as error:
            raise UserError(f"{path}: of another version: {ADVICE}") from error
        for flag, value in asked.items():
            before = book.asked.get(flag)
            if before != value:
                raise UserError(
                    f"--{flag}={value}: what is in {path.parent} was begun with --{flag}={before}:"
                    " give that, or another --out"
                )
        if book.device != device_names():
            say(f"lengths are those that were planned on {book.device}")
        return book

    def keep(self) -> None:
        """Write it."""
        told = dataclasses.asdict(self)
        del told["path"]
        files.write_json(self.path, told, indent=1)
