"""Which files are enlarged, and where the results go."""

import collections
import dataclasses
import glob
import os
import pathlib
from collections.abc import Iterable, Iterator

from srgan_jax import images
from srgan_jax.errors import UserError
from srgan_jax.upscale import video, writing

# Of pictures that are looked for in folders; a file that is named may have any.
SUFFIXES = (*images.SUFFIXES, ".gif", ".avif", ".jpe", ".jfif", ".ppm", ".pgm", ".tga", ".dds")


@dataclasses.dataclass(frozen=True)
class Job:
    """A file, and what it becomes.

    Attributes:
      source: a picture or a film.
      out: the result's path.
      format: of `writing.FORMATS`; None for a film.
    """

    source: pathlib.Path
    out: pathlib.Path
    format: str | None


def plan(
    inputs: Iterable[str], out: str | None, *, format: str, suffix: str, recursive: bool
) -> list[Job]:
    """What is to be done, in the order given.

    Args:
      inputs: files, folders and patterns.
      out: None, for beside the inputs; a file, where there is one input that is a file; else a
        folder, in which what is found in folders keeps its place below them.
      format: of `writing.FORMATS`, or "same".
      suffix: what is put after the names of results.
      recursive: look into folders in folders, too.

    Raises: UserError where an input is not there, there is nothing to do, or two results have one
      path.
    """
    found = list(_find(inputs, suffix if out is None else "", recursive))
    if not found:
        deeper = "" if recursive else " (--recursive looks deeper)"
        raise UserError(f"{', '.join(inputs)}: no pictures there{deeper}")
    jobs = [_job(source, below, out, len(found) == 1, format, suffix) for source, below in found]
    jobs = list(dict.fromkeys(jobs))  # what was named twice
    taken = collections.Counter(job.out for job in jobs)
    for job in jobs:
        if taken[job.out] > 1:
            both = [str(other.source) for other in jobs if other.out == job.out]
            raise UserError(f"{' and '.join(both)} would both become {job.out}")
    return jobs


def _find(
    inputs: Iterable[str], suffix: str, recursive: bool
) -> Iterator[tuple[pathlib.Path, pathlib.Path | None]]:
    """Files, and what they are called below the folder that was given, None without one.

    In folders, results of an earlier run are left out, by their names: those that end in `suffix`,
    and parts of films.
    """
    for text in inputs:
        given = os.path.expanduser(text)
        if os.path.isdir(given):
            for below in _inside(given, recursive):
                made = (suffix and below.stem.endswith(suffix)) or below.stem.endswith(".partial")
                if not made:
                    yield pathlib.Path(given, below), below
        elif os.path.exists(given):
            yield pathlib.Path(given), None
        elif matches := sorted(glob.glob(given, recursive=True)):
            yield from ((pathlib.Path(match), None) for match in matches if os.path.isfile(match))
        else:
            raise UserError(f"{text}: no such file or folder")


def _inside(folder: str, recursive: bool) -> Iterator[pathlib.Path]:
    """Pictures and films of a folder by their suffixes, in sorted order; no hidden ones."""
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(f"{folder}: cannot be read (permission denied)")
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith((*SUFFIXES, *video.SUFFIXES)) and not name.startswith("."):
                yield pathlib.Path(os.path.relpath(os.path.join(base, name), folder))


def _job(
    source: pathlib.Path,
    below: pathlib.Path | None,
    out: str | None,
    alone: bool,
    format: str,
    suffix: str,
) -> Job:
    film = source.suffix.lower() in video.SUFFIXES
    to_file = out is not None and alone and below is None and not _is_folder(out)
    if to_file:
        target = pathlib.Path(os.path.expanduser(str(out)))
        if film:
            return Job(source, target, None)
        named = writing.of_suffix(target)
        if named is None:
            known = " ".join(known.suffixes[0] for known in writing.FORMATS.values())
            raise UserError(f"--output={out}: its ending is none of {known}; a folder ends in /")
        if format not in ("same", named):
            raise UserError(f"--output={out}: its ending is not that of --format={format}")
        return Job(source, target, named)
    if out is None:
        folder = source.parent
    else:
        folder = pathlib.Path(os.path.expanduser(out), below.parent if below else "")
    name = f"{source.stem}{suffix}"
    if film:
        return Job(source, folder / f"{name}{video.suffix_of(source)}", None)
    kind = (writing.of_suffix(source) or "png") if format == "same" else format
    same = writing.of_suffix(source) == kind
    return Job(
        source,
        folder / (name + (source.suffix if same else writing.FORMATS[kind].suffixes[0])),
        kind,
    )


def _is_folder(out: str) -> bool:
    return out.endswith(("/", os.sep)) or os.path.isdir(os.path.expanduser(out))


def megapixels(job: Job) -> float:
    """Of the input, from its head; 0 where it cannot be told without reading more."""
    try:
        if job.format is None:
            height, width, frames = video.frames_of(job.source)
            return height * width * frames / 1e6
        height, width = images.size(job.source)
    except UserError:  # told when its turn comes
        return 0.0
    return height * width / 1e6
