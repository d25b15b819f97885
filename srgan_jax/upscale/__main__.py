"""Make pictures and films larger.

    python -m srgan_jax.upscale INPUT... [-o OUT] --weights=FILE

INPUT is a picture (PNG, JPEG, WebP, TIFF, GIF, AVIF, BMP, ...), a film, a folder or a pattern.
Without -o results are beside the inputs, NAME_x4.SUFFIX. OUT is a file where it has an ending, for
one picture (.png .jpg .webp .tif .gif .avif) or film (.mp4 .m4v .mov .mkv .webm); else a folder.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from srgan_jax import cli, cluster, files
from srgan_jax.errors import UserError
from srgan_jax.upscale import jobs as jobs_lib
from srgan_jax.upscale import work, writing

if TYPE_CHECKING:
    from srgan_jax.upscale.upscaler import Upscaler

OUTPUT = flags.DEFINE_string("output", None, "Where results go, see above.", short_name="o")
WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "A generator's .safetensors: of a run, or made by python -m srgan_jax.convert.",
)
SCALE = flags.DEFINE_string(
    "scale",
    None,
    "How many times larger a side gets, 1 to 16, such as 2 or 2.5; by default the network's. Others"
    " are resampled from that.",
)
TILE = flags.DEFINE_string(
    "tile", "auto", "Longest side of a tile in pixels of the input; auto: as memory allows."
)
DTYPE = flags.DEFINE_enum(
    "dtype",
    "auto",
    ["auto", "float32", "bfloat16"],
    "What is computed in; auto: float32 on CPUs and for more than 8 bits, else bfloat16.",
)
RECURSIVE = flags.DEFINE_bool("recursive", False, "Look into folders in folders, too.")
SKIP_EXISTING = flags.DEFINE_bool("skip_existing", False, "Leave results that are there.")
SUFFIX = flags.DEFINE_string(
    "suffix", None, "After the names of results; by default _x4 (the scale), none with -o FOLDER."
)
FORMAT = flags.DEFINE_enum(
    "format", "same", ["same", *writing.FORMATS], "Of pictures; same: as the input, else png."
)
QUALITY = flags.DEFINE_integer(
    "quality", 95, "Of jpg, webp and avif, and of films.", lower_bound=1, upper_bound=100
)
SELF_ENSEMBLE = flags.DEFINE_bool(
    "self_ensemble",
    False,
    "The mean over eight turned and mirrored inputs: better, 8x slower.",
)
TILEABLE = flags.DEFINE_bool(
    "tileable", False, "The picture repeats itself: a seamless texture stays seamless."
)
ALPHA = flags.DEFINE_enum(
    "alpha",
    "transparency",
    ["transparency", "data"],
    "transparency: colours under what is fully transparent do not count; data: they do, as in"
    " textures that keep something else in that channel.",
)
DEVICES = flags.DEFINE_string("devices", "all", "How many GPUs, TPU cores or so: a number, or all.")
MAX_MEGAPIXELS = flags.DEFINE_float(
    "max_megapixels", 1000.0, "Larger inputs are refused: small files may claim to be huge."
)
RESUME = flags.DEFINE_bool("resume", False, "Continue films that were interrupted.")


def main(argv: Sequence[str]) -> None:
    """Check the flags, and enlarge as one of the processes that there are."""
    if len(argv) < 2:
        raise UserError("say what to enlarge: python -m srgan_jax.upscale INPUT... [-o OUT]")
    given = (OUTPUT, WEIGHTS, SCALE, FORMAT, SUFFIX, RECURSIVE, SKIP_EXISTING)
    inputs = {"INPUT": list(argv[1:])}
    with cluster.joined(inputs | {f"--{flag.name}": flag.value for flag in given}):
        run(argv[1:])


def run(inputs: Sequence[str]) -> None:
    """Enlarge this process's share. Raises: UserError where not all could be."""
    from srgan_jax import processes  # late: it takes a second, and a mistyped flag is told at once

    start = time.perf_counter()
    with processes.together():
        keep_compiled()
        upscaler = make_upscaler()
        suffix = SUFFIX.value
        if suffix is None:
            suffix = f"_x{float(upscaler.scale):g}" if OUTPUT.value is None else ""
        found = jobs_lib.plan(
            inputs, OUTPUT.value, format=FORMAT.value, suffix=suffix, recursive=RECURSIVE.value
        )
    listed = "\n".join(str(job.source) for job in found)
    processes.check_equal(
        {
            "the number of files": len(found),
            "what there is to enlarge (SHA-256)": hashlib.sha256(listed.encode()).hexdigest(),
        }
    )
    own = found[processes.index() :: processes.count()]
    todo = [job for job in own if not (SKIP_EXISTING.value and job.out.exists())]
    asked = work.Asked(
        quality=QUALITY.value,
        most_pixels=int(MAX_MEGAPIXELS.value * 1e6),
        resume=RESUME.value,
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


def make_upscaler() -> "Upscaler":
    """What the flags ask for. Raises: UserError."""
    if not WEIGHTS.value:
        raise UserError("--weights is missing: a generator's .safetensors, see --help")
    from srgan_jax.upscale.upscaler import Upscaler

    try:
        return Upscaler(
            os.path.expanduser(WEIGHTS.value),
            scale=SCALE.value,
            tile=TILE.value,
            dtype=DTYPE.value,
            self_ensemble=SELF_ENSEMBLE.value,
            tileable=TILEABLE.value,
            alpha=ALPHA.value,
            devices=DEVICES.value,
        )
    except UserError as error:
        argument = str(error).partition("=")[0]
        raise UserError(f"--{error}" if argument in flags.FLAGS else str(error)) from error


def keep_compiled() -> None:
    """Let JAX keep what it compiles, for the next time, by the kind of processor."""
    import jax

    folder = files.cache_folder() / "compiled" / _processor()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def _processor() -> str:
    """A name for what programs are compiled for: XLA's of other CPUs may not run on this one."""
    described = platform.machine() + platform.processor()
    with contextlib.suppress(OSError):
        text = pathlib.Path("/proc/cpuinfo").read_text()
        described += "".join(sorted({line for line in text.splitlines() if "flags" in line}))
    return hashlib.sha256(described.encode()).hexdigest()[:16]


if __name__ == "__main__":
    cli.run(main)
