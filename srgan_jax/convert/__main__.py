"""Weights from other programs, and for them.

    python -m srgan_jax.convert SRC DST [--verify]

SRC is a generator that one of PyTorch's SRGAN projects trained, ImageNet VGG19 in any of its
forms, or a generator of ours; what it is, its content tells. It may be the name of a generator that
comes with the package. DST's ending says what is written: .safetensors (ours; of ours, what it runs
with alone, to pass on), and of generators also .onnx, .pth or .stablehlo.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from absl import flags

from srgan_jax import cli, files, pretrained, weights
from srgan_jax.convert import exports, generators, layouts, tensors, verify, vgg19
from srgan_jax.errors import UserError, some
from srgan_jax.models.generator import Generator
from srgan_jax.state import Variables

_USAGE = "python -m srgan_jax.convert SRC DST: --help explains it"

WRITERS: dict[str, Callable[[Generator, Variables], bytes]] = {
    ".onnx": exports.to_onnx,
    ".pth": exports.to_pytorch,
    ".stablehlo": exports.to_stablehlo,
}

_RANGES = {
    "unit": "[0, 1]",
    "signed": "[-1, 1]",
    "imagenet": "standardised by ImageNet's mean and deviation",
}


class Source(NamedTuple):
    """What a file was found to be: a generator or VGG19, and where it is another program's."""

    described: list[tuple[str, str]]
    exported: weights.Exported | None
    generator: generators.Found | None
    vgg: vgg19.Found | None


def recognise(path: pathlib.Path) -> Source:
    """Read a file and say what it is. Raises: UserError."""
    held = tensors.read(path)
    if held.form == "safetensors" and weights.HEADER in held.metadata:
        exported = weights.load_generator(path)
        return Source(
            [("found", "a generator of srgan_jax"), *_of_generator(exported.generator, exported)],
            exported,
            None,
            None,
        )
    if found := generators.find(path, held):
        story = {"project": found.layout.project, "sha256": files.sha256(path)}
        story |= {"tensors": found.place} if found.place else {}
        metadata = {"training": {"converted": story}}
        exported = weights.Exported(found.generator, found.variables, metadata)
        return Source(_of_converted(found, exported), exported, found, None)
    if generators.is_discriminator(held):
        raise UserError(f"{path}: looks like a discriminator: give the generator's file")
    if vgg := vgg19.find(path, held):
        return Source(_of_vgg19(vgg), None, None, vgg)
    names = [name for arrays in held.groups.values() for name in arrays]
    raise UserError(
        f"{path}: {held.form} with {len(names)} tensors ({some(names, 3)}), which are no network"
        f" known here: accepted are {layouts.ACCEPTED}; and {vgg19.ACCEPTED}"
    )


def _of_converted(found: generators.Found, exported: weights.Exported) -> list[tuple[str, str]]:
    layout = found.layout
    described = [("found", f"a generator of {layout.project}")]
    if found.place:
        described.append(("taken from", found.place))
    described += _of_generator(found.generator, exported)
    ranges = f"LR {_RANGES[found.generator.input]}, SR {_RANGES[layout.output]}"
    described.append(("value range", f"{ranges}, RGB; as ours: LR [0, 1], SR [-1, 1]"))
    untold = "the value range, and what has no tensors (such as tanh), are as in its code"
    described.append(("guessed", untold))
    return described + [("guessed", text) for text in layout.guessed]


def _of_generator(generator: Generator, exported: weights.Exported) -> list[tuple[str, str]]:
    usual = weights.architecture(Generator())
    switches = weights.architecture(generator)
    differing = [
        f"{name}={value}"
        for name, value in switches.items()
        if value != usual[name] and name not in ("scale", "blocks", "channels")
    ]
    size = f"x{generator.scale}, {generator.blocks} blocks of {generator.channels} channels"
    sizes = [
        sum(array.size for array in jax.tree.leaves(tree))
        for tree in (exported.variables.params, exported.variables.batch_stats)
    ]
    return [
        ("architecture", ", ".join([size, *differing])),
        ("parameters", f"{sizes[0]:,}" + (f" and {sizes[1]:,} statistics" if sizes[1] else "")),
    ]


def _of_vgg19(found: vgg19.Found) -> list[tuple[str, str]]:
    count = sum(kernel.size + bias.size for kernel, bias in found.convolutions.values())
    mean, deviation = (
        ", ".join(f"{value:g}" for value in values) for values in found.source.normalisation
    )
    order = "BGR there, its first kernel reordered to RGB" if found.source.bgr else "RGB"
    described = [
        ("found", f"VGG19 in {found.source.name} form"),
        ("layers", f"conv1_1 to {list(found.convolutions)[-1]}"),
        ("parameters", f"{count:,}"),
        ("value range", f"0..255, {order}, less ({mean}), over ({deviation})"),
    ]
    if found.recognised:
        return [*described, ("recognised", "Oxford's ImageNet weights, by their first kernel")]
    if found.source.name == vgg19.OURS.name:
        return described
    return [*described, ("guessed", "the value range, which is the usual one of such files")]


def convert(source: str, target: str, check: bool) -> None:
    """Read, say what it is, compare, write. Raises: UserError; then `target` is as it was."""
    out = pathlib.Path(target)
    if out.suffix not in (".safetensors", *WRITERS):
        endings = ", ".join([".safetensors", *WRITERS])
        raise UserError(f"{target}: give a name that ends in {endings}")
    path = pretrained.find(source)
    found = recognise(path)
    if out.exists() and out.samefile(path):
        raise UserError(f"{target}: is SRC itself: give another name")
    if found.vgg and out.suffix != ".safetensors":
        raise UserError(f"{target}: VGG19 is written as .safetensors only")
    print(source)
    for name, text in found.described:
        _say(name, text)
    if check:
        for text in verify.source(found.generator, found.vgg):
            _say("verified", text)
    if found.vgg:
        vgg19.save(out, found.vgg)
    elif found.exported:
        _write(out, found.exported, check)
    print(out)


def _write(out: pathlib.Path, exported: weights.Exported, check: bool) -> None:
    """Write a generator in the form of the file's ending. Raises: UserError."""
    if out.suffix == ".safetensors":
        weights.save_portable(out, exported)
        return
    data = WRITERS[out.suffix](exported.generator, exported.variables)
    if check:
        _say("verified", verify.export(data, out.suffix, exported))
    with files.replacing(out) as aside:
        aside.write_bytes(data)


def _say(name: str, text: str) -> None:
    print(f"  {name:13} {text}")


def main(argv: Sequence[str]) -> None:
    """Check the arguments and convert."""
    if len(argv) != 3:
        raise UserError(f"{len(argv) - 1} files given, not two: {_USAGE}")
    _, source, target = argv
    convert(source, target, flags.FLAGS.verify)


def run() -> None:
    """The command."""
    flags.DEFINE_bool(
        "verify", False, "Run what was read and what is written on a random input and compare them."
    )
    cli.run(main)


if __name__ == "__main__":
    run()
