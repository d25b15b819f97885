"""Which files are enlarged, and where the results go."""

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
ALL_SUFFIXES = (*SUFFIXES, *video.SUFFIXES)


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
    if os.sep in suffix:
        raise UserError(f"--suffix={suffix}: is a part of a name, without {os.sep}")
    within = None if out is None else os.path.realpath(os.path.expanduser(out))
    found = list(_find(inputs, suffix if out is None else "", recursive, within))
    if not found:
        deeper = "" if recursive else " (--recursive looks deeper)"
        raise UserError(f"{', '.join(inputs)}: no pictures there{deeper}")
    jobs = [_job(source, below, out, len(found) == 1, format, suffix) for source, below in found]
    sources: dict[str, Job] = {}
    for job in jobs:  # what was named twice is done once
        sources.setdefault(os.path.realpath(job.source), job)
    results: dict[str, Job] = {}
    for source, job in sources.items():
        path = os.path.realpath(job.out)
        if path in results:
            raise UserError(
                f"{results[path].source} and {job.source} would both become {job.out}: enlarge them"
                " one after the other, or rename one"
            )
        if path in sources and path != source:  # a file's own is told of when its turn comes
            raise UserError(f"{job.source} would become {job.out}, which is to be enlarged itself")
        results[path] = job
    return list(sources.values())


def _find(
    inputs: Iterable[str], suffix: str, recursive: bool, within: str | None
) -> Iterator[tuple[pathlib.Path, pathlib.Path | None]]:
    """Files, and what they are called below the folder that was given, None without one.

    In folders and of patterns, results of an earlier run are left out: NAME with `suffix` beside
    NAME, parts of films, and what lies in the folder `within`, where that is not the one given.
    """

    def made(path: pathlib.Path) -> bool:
        if path.stem.endswith(".partial"):
            return True
        if not (suffix and path.stem.endswith(suffix)):
            return False
        of = path.stem.removesuffix(suffix)
        return any(path.with_name(of + ending).exists() for ending in ALL_SUFFIXES)

    for text in inputs:
        given = os.path.expanduser(text)
        if os.path.isdir(given):
            if not os.access(given, os.R_OK | os.X_OK):
                raise UserError(f"{given}: cannot be read (permission denied)")
            root = os.path.realpath(given)
            result = f"{within}{os.sep}" if within and within != root else None
            for name, _ in images.scan(given, suffixes=ALL_SUFFIXES, deep=recursive):
                path = pathlib.Path(given, name)
                if not made(path) and not (result and os.path.join(root, name).startswith(result)):
                    yield path, pathlib.Path(name)
        elif os.path.exists(given):
            yield pathlib.Path(given), None
        elif matches := sorted(glob.glob(given, recursive=True)):
            paths = (pathlib.Path(match) for match in matches if os.path.isfile(match))
            yield from ((path, None) for path in paths if not made(path))
        else:
            raise UserError(f"{text}: no such file or folder")


def _job(
    source: pathlib.Path,
    below: pathlib.Path | None,
    out: str | None,
    alone: bool,
    format: str,
    suffix: str,
) -> Job:
    film = source.suffix.lower() in video.SUFFIXES
    if out is not None and not _is_folder(out):
        if not alone or below is not None:
            raise UserError(f"--output={out}: is a file's name: give a folder, which ends in /")
        target = pathlib.Path(os.path.expanduser(str(out)))
        if film:
            return Job(source, target, None)
        named = writing.of_suffix(target)
        if named is None:
            known = " ".join(known.suffixes[0] for known in writing.FORMATS.values())
            raise UserError(f"--output={out}: pictures are written as {known}; a folder ends in /")
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
    own = writing.of_suffix(source)
    kind = own or "png" if format == "same" else format
    ending = source.suffix if own == kind else writing.FORMATS[kind].suffixes[0]
    return Job(source, folder / f"{name}{ending}", kind)


def _is_folder(out: str) -> bool:
    path = os.path.expanduser(out)
    return out.endswith(("/", os.sep)) or os.path.isdir(path) or not pathlib.Path(path).suffix


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
