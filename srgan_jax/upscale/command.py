"""What the command does with what its flags say: one process's share of the files."""

import hashlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from srgan_jax import compiled, pretrained
from srgan_jax.errors import UserError
from srgan_jax.upscale import jobs as jobs_lib
from srgan_jax.upscale import work

if TYPE_CHECKING:
    from srgan_jax.upscale.upscaler import Upscaler


class Settings(NamedTuple):
    """The flags, which `__main__` describes, and their defaults."""

    weights: str | None = None
    sharpness: float = 1.0
    output: str | None = None
    scale: str | None = None
    tile: str = "auto"
    dtype: str = "auto"
    recursive: bool = False
    skip_existing: bool = False
    suffix: str | None = None
    format: str = "same"
    quality: int = 95
    self_ensemble: bool = False
    tileable: bool = False
    alpha: str = "transparency"
    devices: str = "all"
    max_megapixels: float = 1000.0
    resume: bool = False


def run(inputs: Sequence[str], settings: Settings) -> None:
    """Enlarge this process's share. Raises: UserError where not all could be."""
    from srgan_jax import processes  # late: it takes a second, and a mistyped flag is told at once

    start = time.perf_counter()
    with processes.together():
        compiled.keep()
        upscaler = make_upscaler(settings)
        suffix = settings.suffix
        if suffix is None:
            suffix = f"_x{float(upscaler.scale):g}" if settings.output is None else ""
        found = jobs_lib.plan(
            inputs,
            settings.output,
            format=settings.format,
            suffix=suffix,
            recursive=settings.recursive,
        )
    listed = "\n".join(str(job.source) for job in found)
    processes.check_equal(
        {
            "the number of files": len(found),
            "what there is to enlarge (SHA-256)": hashlib.sha256(listed.encode()).hexdigest(),
        }
    )
    if settings.weights is None and processes.is_first():
        print(f"with {pretrained.default()}, which comes with the package")
    own = found[processes.index() :: processes.count()]
    todo = [job for job in own if not (settings.skip_existing and job.out.exists())]
    asked = work.Asked(
        quality=settings.quality,
        most_pixels=int(settings.max_megapixels * 1e6),
        resume=settings.resume,
        alone=len(found) == 1,
    )
    done = work.enlarge_all(todo, upscaler, asked)
    told = processes.exchange([len(todo), len(own) - len(todo), done.megapixels, done.failed])
    count, skipped, megapixels = (sum(part) for part in list(zip(*told, strict=True))[:3])
    failed = [line for part in told for line in part[3]]
    seconds = time.perf_counter() - start
    if processes.is_first() and not (failed and asked.alone):
        parts = [f"{count - len(failed)} enlarged"] + [f"{skipped} there already"] * (skipped > 0)
        rate = f" (to {megapixels:.1f} MP in {seconds:.1f} s, {megapixels / seconds:.2f} MP/s)"
        print(", ".join(parts) + rate * (count > len(failed)))
    if failed and asked.alone:
        raise UserError(failed[0])
    if failed:
        raise UserError(f"{len(failed)} of {len(found)} could not be enlarged, see above")


def make_upscaler(settings: Settings) -> "Upscaler":
    """The network, as the settings ask for it. Raises: UserError."""
    from srgan_jax.upscale.upscaler import Upscaler

    try:
        return Upscaler(
            settings.weights,
            sharpness=settings.sharpness,
            scale=settings.scale,
            tile=settings.tile,
            dtype=settings.dtype,
            self_ensemble=settings.self_ensemble,
            tileable=settings.tileable,
            alpha=settings.alpha,
            devices=settings.devices,
        )
    except UserError as error:
        argument = str(error).partition("=")[0]
        raise UserError(f"--{error}" if argument in Settings._fields else str(error)) from error
