"""Where files go, and writing them so that nothing half-written ever has the final name."""

import contextlib
import hashlib
import json
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import Any

from srgan_jax.errors import UserError, first_line


def cache_folder() -> pathlib.Path:
    """`$XDG_CACHE_HOME/srgan_jax`, or `~/.cache/srgan_jax`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # XDG's specification: one that is relative is ignored
        base = os.path.expanduser("~/.cache")
    return pathlib.Path(base, "srgan_jax")


def aside_of(path: pathlib.Path) -> pathlib.Path:
    """Where `replacing` writes what is to take a file's place."""
    return path.with_name(f".{path.stem}.partial{path.suffix}")


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A file beside `path` to write to, with the same suffix; at the end it takes its place.

    Raises: UserError where it cannot be written; then `path` is as it was.
    """
    path = pathlib.Path(path)
    aside = aside_of(path)
    try:
        yield aside
        os.replace(aside, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({first_line(error)})") from error
    finally:
        with contextlib.suppress(OSError):  # renamed already, or there is no such folder
            aside.unlink()


def write_json(path: str | os.PathLike, value: Any, indent: int | None = None) -> None:
    """Write a JSON file aside and rename it. Raises: UserError where it cannot be written."""
    with replacing(path) as aside:
        aside.write_text(json.dumps(value, indent=indent) + "\n")


def read_json(path: str | os.PathLike, advice: str) -> Any:
    """A JSON file. Raises: UserError where it is damaged, with what to do then."""
    try:
        return json.loads(pathlib.Path(path).read_text())
    except ValueError as error:
        raise UserError(f"{path}: damaged ({first_line(error)}): {advice}") from error


def make_folder(path: str | os.PathLike, flag: str) -> pathlib.Path:
    """A folder that can be written, made where it is not there.

    Raises: UserError, naming the flag that gave it.
    """
    folder = pathlib.Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe{secrets.token_hex(8)}"  # other hosts have the same process ids
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise UserError(f"{flag}={path}: cannot be written ({error.strerror})") from error
    return folder


def unused(path: pathlib.Path) -> pathlib.Path:
    """This path if nothing is there, else the first free one of NAME.1, NAME.2 and so on."""
    free = path
    number = 0
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}.{number}{path.suffix}")
    return free


def sha256(path: str | os.PathLike) -> str:
    """The digest of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
