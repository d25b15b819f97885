"""Arrays on disk that are made from other files: built once, and used while those are the same."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import mmap
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

FORMAT = 2
INDEX = "index.json"

Stamps = dict[str, str]  # of files by name: bytes, and time of change in nanoseconds


class UnusableError(Exception):
    """What is kept cannot be used; the text says why, "" where nothing is kept."""


def stamp(status: os.stat_result) -> str:
    """What tells that a file changed."""
    return f"{status.st_size} {status.st_mtime_ns}"


def stamps(files: Mapping[str, str | os.PathLike]) -> Stamps:
    """The stamps of files; one that cannot be found has none."""
    found = {}
    for name, file in files.items():
        with contextlib.suppress(OSError):
            found[name] = stamp(os.stat(file))
    return found


@dataclasses.dataclass(frozen=True)
class Entry:
    """A folder of arrays and an index, which is whole or not there.

    Attributes:
      path: the folder.
      made_from: the files as they are now.
    """

    path: pathlib.Path
    made_from: Stamps

    @classmethod
    def of(cls, root: pathlib.Path, title: str, what: dict[str, Any], made_from: Stamps) -> "Entry":
        """The entry below `root` for what JSON values say, with a title to know it by."""
        sum_ = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
        plain = re.sub(r"[^\w.-]", "_", title, flags=re.ASCII).lstrip(".")[-40:]
        return cls(root / f"{plain}-{sum_[:16]}", made_from)

    def open(self) -> tuple[Any, dict[str, np.ndarray]]:
        """What `write_index` was given, and each file's bytes, mapped into memory read-only.

        Raises: UnusableError.
        """
        try:
            # Through one handle: the folder may be replaced meanwhile.
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError as error:
            raise UnusableError("") from error
        except OSError as error:
            raise UnusableError(f"cannot be read ({error.strerror})") from error
        try:
            with os.fdopen(os.open(INDEX, os.O_RDONLY, dir_fd=folder), "rb") as file:
                index = _read_index(file.read())
            changes = _changes(index["made_from"], self.made_from)
            if changes:
                raise UnusableError(f"was made from other files ({changes})")
            lengths = index["lengths"].items()
            return index["content"], {name: _map(folder, name, size) for name, size in lengths}
        except (OSError, ValueError) as error:
            raise UnusableError("is damaged") from error
        finally:
            os.close(folder)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that builds this entry, after waiting for others. Raises: OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(self._beside("lock"), fcntl.LOCK_EX):
            yield

    @contextlib.contextmanager
    def building(self) -> Iterator[pathlib.Path]:
        """An empty folder aside, which takes the entry's place at the end; only while `locked`.

        Also removes what killed processes left of this and of other entries. Raises: OSError.
        """
        for other in self.path.parent.glob(".*.lock"):
            with contextlib.suppress(OSError), _lock(other, fcntl.LOCK_EX | fcntl.LOCK_NB):
                _clean(other)
        aside, old = self._beside("partial"), self._beside("old")
        try:
            _clean(self._beside("lock"))
            if self.path.exists():  # made from other files: its room may be needed
                os.rename(self.path, old)
                shutil.rmtree(old, ignore_errors=True)
            aside.mkdir()
            yield aside
            os.rename(aside, self.path)
        finally:
            _clean(self._beside("lock"))

    def write_index(self, folder: pathlib.Path, content: Any) -> None:
        """Finish the folder that `building` gave, and say what is in it. Raises: OSError."""
        lengths = {file.name: file.stat().st_size for file in folder.iterdir()}
        index = {"lengths": lengths, "content": content, "made_from": self.made_from}
        text = json.dumps(index)
        head = {"format": FORMAT, "sha256": hashlib.sha256(text.encode()).hexdigest()}
        (folder / INDEX).write_text(f"{json.dumps(head)}\n{text}")

    def _beside(self, suffix: str) -> pathlib.Path:
        return self.path.with_name(f".{self.path.name}.{suffix}")


@contextlib.contextmanager
def _lock(path: pathlib.Path, how: int) -> Iterator[None]:
    """Hold a lock file, which stays: to delete it would be a race."""
    with open(path, "ab") as file:
        fcntl.flock(file, how)
        yield


def _clean(lock: pathlib.Path) -> None:
    """Remove what is left of building the entry of a lock that is held."""
    for suffix in (".partial", ".old"):
        shutil.rmtree(lock.with_suffix(suffix), ignore_errors=True)


def _read_index(data: bytes) -> dict[str, Any]:
    """The index: after a line about it, its JSON. Raises: UnusableError, ValueError."""
    line, _, text = data.partition(b"\n")
    head = json.loads(line)
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise UnusableError("is of another version")
    if head.get("sha256") != hashlib.sha256(text).hexdigest():
        raise UnusableError("is damaged")
    return json.loads(text)


def _map(folder: int, name: str, length: int) -> np.ndarray:
    with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=folder), "rb") as file:
        found = os.fstat(file.fileno()).st_size
        if found != length:
            raise UnusableError(f"is damaged ({name} has {found} bytes, not {length})")
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def _changes(before: Stamps, now: Stamps) -> str:
    """How many files are new, changed and gone, "" for none."""
    both = before.keys() & now.keys()
    counts = {
        "new": len(now) - len(both),
        "changed": sum(before[name] != now[name] for name in both),
        "gone": len(before) - len(both),
    }
    return ", ".join(f"{count} {how}" for how, count in counts.items() if count)
