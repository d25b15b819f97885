"""Enlarging pictures: the command as a user runs it and the network alone, against PyTorch's."""

import functools
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from srgan_jax import images, pretrained
from srgan_jax import weights as weights_lib
from srgan_jax.benchmark import command, samples, turns
from srgan_jax.benchmark.turns import Sample
from srgan_jax.convert import exports
from srgan_jax.data import sources
from srgan_jax.errors import UserError
from srgan_jax.models.generator import Generator
from srgan_jax.monitor import say
from srgan_jax.upscale import tiles
from srgan_jax.upscale.upscaler import Upscaler
from srgan_jax.workdir import installed_version


def benchmark(
    *,
    weights: str | None,
    sizes: list[tuple[int, int]],
    against: str | None,
    rounds: int,
) -> list[dict[str, Any]]:
    """Say, and return as rows, how many megapixels/s of SR come out.

    For each size the whole command, in a process of its own: first with nothing compiled, then
    again and again with what that left; and the network alone, in this process. Where there is
    something to compare with, it takes turns with ours.

    Args:
      weights: a generator's .safetensors, or the name of one that comes with the package; None for
        the paper's with random weights.
      sizes: heights and widths of pictures, LR.
      against: "torch", or None.
      rounds: measurements of each, beside the first.

    Raises: UserError where something is not there, fails, or gives other pictures than ours.
    """
    with tempfile.TemporaryDirectory(prefix="srgan_jax-benchmark-") as folder:
        work = pathlib.Path(folder)
        if weights is None:
            weights = str(work / "random.safetensors")
            generator = Generator()
            variables = samples.random_variables(generator)
            weights_lib.save_generator(weights, generator, variables, {})
        exported = weights_lib.load_generator(pretrained.find(weights, "--weights"))
        theirs = torch_side(exported, work) if against else None
        say(
            f"{exported.generator.blocks} blocks, {exported.generator.channels} channels,"
            f" {sources.cores()} cores, jax {installed_version('jax')}, {rounds} rounds"
            + (f"; torch {installed_version('torch')}: {theirs.how}" if theirs else "")
        )
        rows = []
        for size in sizes:
            row = _command_row(work, weights, size, theirs, rounds)
            rows.append(row)
            say(_line(row))
        upscaler = Upscaler(weights)
        for size in sizes:
            row = network_row(upscaler, size, theirs, rounds)
            rows.append(row)
            say(_line(row))
    return rows


class TorchSide:
    """PyTorch running a network of ours, from its file."""

    def __init__(self, path: pathlib.Path, radius: tiles.Radius):
        """The file is what `exports.to_pytorch` makes."""
        from srgan_jax.benchmark import torch_upscale  # optional: needs an extra

        self.how = torch_upscale.HOW
        self._path, self._radius = path, radius
        self._module = torch_upscale

    def in_process(self) -> Callable[[np.ndarray], np.ndarray]:
        """The network, loaded."""
        network = self._module.load(self._path, self._radius, sources.cores())
        return functools.partial(self._module.upscale, network)

    def command(self, source: pathlib.Path, out: pathlib.Path) -> list[str]:
        """From file to file."""
        numbers = map(str, (*self._radius, sources.cores()))
        module = ("-m", self._module.__name__, str(self._path))
        return [sys.executable, *module, *numbers, str(source), str(out)]


def torch_side(exported: weights_lib.Exported, work: pathlib.Path) -> TorchSide:
    """Write the network to a file in `work`. Raises: UserError where it cannot be run."""
    if jax.default_backend() != "cpu":
        raise UserError("--against=torch compares on CPUs: set JAX_PLATFORMS=cpu")
    path = work / "generator.pth"
    path.write_bytes(exports.to_pytorch(exported.generator, exported.variables))
    return TorchSide(path, tiles.radius_of(exported.generator))


def _command_row(
    work: pathlib.Path,
    weights: str,
    size: tuple[int, int],
    theirs: TorchSide | None,
    rounds: int,
) -> dict[str, Any]:
    source, own_out, their_out = (work / name for name in ("lr.png", "own.png", "their.png"))
    images.write(source, samples.photograph(*size))
    own = [sys.executable, "-m", "srgan_jax.upscale", str(source), "-o", str(own_out),
           f"--weights={weights}"]  # fmt: skip

    with tempfile.TemporaryDirectory(dir=work) as cache:

        def way(words: list[str], out: pathlib.Path) -> Callable[[], Sample]:
            def run() -> Sample:
                done = command.run(words, {"XDG_CACHE_HOME": cache})
                return Sample(done.seconds, images.read(out)[0], done.peak)

            return run

        ways = [way(own, own_out)]
        if theirs:
            ways.append(way(theirs.command(source, their_out), their_out))
        return _row("command", size, ways, rounds)


def network_row(
    upscaler: Upscaler, size: tuple[int, int], theirs: TorchSide | None, rounds: int
) -> dict[str, Any]:
    """The network alone. The first call compiles, and what it takes longer is told.

    Raises: UserError where the outputs differ by more than rounding.
    """
    picture = samples.photograph(*size)

    def way(enlarge: Callable[[np.ndarray], np.ndarray]) -> Callable[[], Sample]:
        def run() -> Sample:
            start = time.perf_counter()
            sr = enlarge(picture)
            return Sample(time.perf_counter() - start, sr)

        return run

    ways = [way(upscaler)] + ([way(theirs.in_process())] if theirs else [])
    row = _row("network", size, ways, rounds)
    compiling = row["first_seconds"] - statistics.median(row["seconds"])
    return row | {"compile_seconds": max(compiling, 0.0)}


def _row(
    what: str, size: tuple[int, int], ways: list[Callable[[], Sample]], rounds: int
) -> dict[str, Any]:
    """A row of the figures: ours, PyTorch's under "torch", and how many times faster we are."""
    pixels = 0

    def counted() -> Sample:
        nonlocal pixels
        sample = ways[0]()
        pixels = sample.picture.shape[0] * sample.picture.shape[1]
        return sample

    timed, differences = turns.measure([counted, *ways[1:]], rounds)
    row = {"name": f"{what}, {images.size_text(*size)}", **timed[0].told(pixels)}
    if differences:
        row["torch"] = timed[1].told(pixels)
        own, theirs = (side.seconds for side in timed)
        row["ratio"] = turns.ratio(theirs, of=own)
        row["difference"] = differences[0]._asdict()
    return row


def _line(row: dict[str, Any]) -> str:
    def told(figures: dict[str, Any]) -> str:
        seconds = figures["seconds"]
        memory = f", {figures['peak_bytes'] / 2**20:5.0f} MiB" if "peak_bytes" in figures else ""
        return (
            f"{figures['megapixels_per_second']:6.3f} MP/s, {statistics.median(seconds):6.2f} s"
            f" ({min(seconds):.2f} to {max(seconds):.2f}; first {figures['first_seconds']:.2f})"
            f"{memory}"
        )

    line = f"{row['name']:20} {told(row)}"
    if "ratio" in row:
        levels, share = row["difference"].values()
        line += (
            f"\n{'  torch':20} {told(row['torch'])}\n{'':20} {row['ratio']:.2f} times faster;"
            f" outputs differ by {levels} level in {share:.1e} of the samples"
        )
    return line
