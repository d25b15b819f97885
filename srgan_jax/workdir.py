"""A run's folder: whose it is, what made it, and its small files."""

import contextlib
import datetime
import fcntl
import importlib.metadata
import os
import pathlib
import platform
import secrets
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from srgan_jax import changes, files
from srgan_jax import config as config_lib
from srgan_jax.changes import Changes
from srgan_jax.errors import UserError, first_line, some

PACKAGES = (
    "srgan_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "ml-collections",
    "numpy",
    "pillow", "safetensors", "scikit-image", "scipy", "tensorboardX",
    "tensorflow-datasets", "array-record",
)  # fmt: skip
DIFFERENCES_AT_MOST = 4  # in one message


class Workdir:
    """The folder of one run, created where it is not there."""

    def __init__(self, path: str | os.PathLike):
        """Raises: UserError where the folder cannot be made or written."""
        self.path = files.make_folder(path, "--workdir")
        self.checkpoints = self.path / "checkpoints"
        self.results = self.path / "results.json"
        self.metrics = self.path / "metrics.jsonl"
        self.timing = self.path / "timing.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.panel = self.path / "panel.png"

    def export(self, network: str) -> pathlib.Path:
        """Where a generator is exported, such as "srresnet" or "srgan_best"."""
        return self.path / f"{network}.safetensors"

    def check_config(self, config: ConfigDict, *, allow_changes: bool = False) -> Changes:
        """How a config differs from that of the run in this folder, which it is to continue.

        A run that left no checkpoint has nothing to lose, and does not count.

        Raises: UserError where it cannot go on with such a config, or what it learns would change
          and `allow_changes` does not hold.
        """
        saved = any(entry.name.isdigit() for entry in self.checkpoints.glob("*"))
        kept = saved or self.results.exists() or (self.path / "damaged").exists()
        if not (self.path / "config.json").exists() or not kept:
            return Changes()
        found = changes.classify(self.read_json("config.json"), config)
        another = f"--workdir={self.path} holds a run of another config"
        if found.impossible:
            raise UserError(
                f"{another} ({_listed(found.impossible)}), which cannot go on with this one: give"
                f" another --workdir{self._advice(found)}"
            )
        if found.learned and not allow_changes:
            raise UserError(
                f"{another} ({_listed(found.learned)}): give another --workdir, the config it was"
                " begun with, or --allow_changes to go on with this one"
            )
        return found

    def _advice(self, found: Changes) -> str:
        """How another run can start from this one's network, if it has one that fits."""
        network = self.export("srresnet")
        fits = not any(change.key.startswith("generator.") for change in found.impossible)
        return f", perhaps with --config.init_from={network}" if fits and network.exists() else ""

    def starts(self) -> list[dict[str, Any]]:
        """What environment.json tells of each start, oldest first."""
        file = self.path / "environment.json"
        return self.read_json(file.name) if file.exists() else []

    def run_id(self) -> str:
        """What tells this run from all others: recorded by an earlier start, or new."""
        given = [start["run"] for start in self.starts() if "run" in start]
        return given[0] if given else secrets.token_hex(8)

    def on_other_devices(self) -> bool:
        """Whether the last start was on others than this one."""
        return any(start["devices"] != device_names() for start in self.starts()[-1:])

    def record_start(self, config: ConfigDict, **told: Any) -> None:
        """Write config.json, and add this start with what is told of it to environment.json."""
        self.write_json("environment.json", [*self.starts(), environment() | told])
        self.write_json("config.json", config_lib.to_json(config))  # last: a change is told of

    def set_results_aside(self, step: int) -> None:
        """Rename results.json, because the run goes on from `step` and will end otherwise."""
        aside = files.unused(self.results.with_stem(f"{self.results.stem}_step{step}"))
        try:
            if self.results.exists():
                self.results.replace(aside)
        except OSError as error:
            raise UserError(f"{aside}: cannot be written ({first_line(error)})") from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training here. Raises: UserError where one does already."""
        folder = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise UserError(
                f"--workdir={self.path}: another process is training there: wait for it, stop it,"
                " or give another --workdir"
            ) from error
        finally:
            os.close(folder)

    def read_json(self, name: str) -> Any:
        """A JSON file of this folder. Raises: UserError where it is damaged."""
        return files.read_json(self.path / name, "give another --workdir")

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file, see `write_text`."""
        files.write_json(self.path / name, value, indent=1)

    def write_text(self, name: str, text: str) -> None:
        """Write a file aside and rename it. Raises: UserError where it cannot be."""
        with files.replacing(self.path / name) as aside:
            aside.write_text(text)


def environment() -> dict[str, Any]:
    """What a result depends on beside the config."""
    return {
        "date": datetime.date.today().isoformat(),
        "command": sys.argv,
        "revision": source_revision(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := installed_version(name))},
        "platform": platform.platform(),
        "devices": device_names(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def device_names() -> str:
    """How many devices there are, and of which kind."""
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind}"


def _listed(found: tuple[changes.Change, ...]) -> str:
    return some([str(change) for change in found], DIFFERENCES_AT_MOST, "; ")


def installed_version(package: str) -> str:
    """The version of an installed package, "" where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def source_revision() -> str:
    """The commit of the source this runs from, "-dirty" if changed; "" where it is no checkout."""
    here = pathlib.Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return ""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(describe, cwd=here, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return found.stdout.strip()
