"""Make pictures and films larger.

    python -m srgan_jax.upscale INPUT... [-o OUT]

INPUT is a picture (PNG, JPEG, WebP, TIFF, GIF, AVIF, BMP, ...), a film, a folder or a pattern.
Without -o results are beside the inputs, NAME_x4.SUFFIX. OUT is a file where it has an ending, for
one picture (.png .jpg .webp .tif .gif .avif) or film (.mp4 .m4v .mov .mkv .webm); else a folder.
"""

from collections.abc import Sequence

from absl import flags

from srgan_jax import cli, cluster, pretrained
from srgan_jax.errors import UserError
from srgan_jax.upscale import command, writing

OUTPUT = flags.DEFINE_string("output", None, "Where results go, see above.", short_name="o")
WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "A generator's .safetensors: of a run, or made by python -m srgan_jax.convert; or the name of"
    f" one that comes with the package: {', '.join(pretrained.names())}. By default"
    f" {pretrained.default()}.",
)
SHARPNESS = flags.DEFINE_float(
    "sharpness",
    1.0,
    "From 1, the SRGAN of --weights, down to 0, the SRResNet beside it that it was trained from.",
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
    given = (OUTPUT, WEIGHTS, SHARPNESS, SCALE, FORMAT, SUFFIX, RECURSIVE, SKIP_EXISTING)
    inputs = {"INPUT": list(argv[1:])}
    settings = command.Settings(
        weights=WEIGHTS.value,
        sharpness=SHARPNESS.value,
        output=OUTPUT.value,
        scale=SCALE.value,
        tile=TILE.value,
        dtype=DTYPE.value,
        recursive=RECURSIVE.value,
        skip_existing=SKIP_EXISTING.value,
        suffix=SUFFIX.value,
        format=FORMAT.value,
        quality=QUALITY.value,
        self_ensemble=SELF_ENSEMBLE.value,
        tileable=TILEABLE.value,
        alpha=ALPHA.value,
        devices=DEVICES.value,
        max_megapixels=MAX_MEGAPIXELS.value,
        resume=RESUME.value,
    )
    with cluster.joined(inputs | {f"--{flag.name}": flag.value for flag in given}):
        command.run(argv[1:], settings)


if __name__ == "__main__":
    cli.run(main)
