"""ImageNet VGG19 for the content loss, from any of the files that people have.

`load` reads them all; `save` writes `.safetensors` with `conv1_1/kernel` [3, 3, in, out], RGB,
`conv1_1/bias` [out] and so on, and the normalisation of the input in the header.
"""

import json
import os
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import safetensors.numpy

from srgan_jax import files, weights
from srgan_jax.convert import download, tensors
from srgan_jax.errors import UserError, some
from srgan_jax.models import vgg
from srgan_jax.state import Params

HEADER = "srgan_jax_vgg19"
FORMAT = 1

ACCEPTED = (
    "ImageNet VGG19 of torchvision (.pth), timm (.safetensors), Keras (.h5),"
    " MatConvNet (.mat), vgg19.npy, an .npz with block1_conv1.kernel and so on, or what"
    " python -m srgan_jax.convert wrote"
)

_KERAS = "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"
_KERAS_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg19/{_KERAS}"
_KERAS_MD5 = "253f8cb515780f3b799900260a226db6"
_TIMM = "timm/vgg19.tv_in1k"

DOWNLOADS: dict[str, Callable[[], os.PathLike]] = {
    "keras": lambda: download.fetch(_KERAS_URL, _KERAS_MD5, what="ImageNet VGG19 of Keras"),
    "timm": lambda: download.fetch_from_hub(_TIMM, "model.safetensors", what="VGG19 of timm"),
}
"""What `config.vgg.path` may name instead of a file, to be downloaded once."""


class Source(NamedTuple):
    """How one family of files stores VGG19."""

    name: str
    locate: Callable[[str], str | None]  # a tensor's name to that of its convolution, `conv1_1`
    layout: str  # of the kernels: "OIHW" or "HWIO"
    bgr: bool  # the order of the first kernel's inputs
    normalisation: vgg.Normalisation


def _by_number(name: str) -> str | None:
    """torchvision numbers convolutions, ReLUs and poolings together."""
    match = re.fullmatch(r"features\.(\d+)\.(weight|bias)", name)
    if not match:
        return None
    number = int(match[1])
    return vgg.LAYERS[number] if number < len(vgg.LAYERS) else f"features.{number}"


def _by_name(pattern: str) -> Callable[[str], str | None]:
    def locate(name: str) -> str | None:
        match = re.fullmatch(pattern, name)
        return f"conv{match[1]}_{match[2]}" if match else None

    return locate


OURS = Source("srgan_jax's", _by_name(r"conv(\d)_(\d)/(?:kernel|bias)"), "HWIO", False, vgg.CAFFE)

SOURCES = (
    Source("torchvision's or timm's", _by_number, "OIHW", False, vgg.TORCH),
    Source("Keras'", _by_name(r"(?:.*/)?block([1-9])_conv(\d)[/.].*"), "HWIO", True, vgg.CAFFE),
    Source("MatConvNet's", _by_name(r"conv(\d)_(\d)/(?:filters|biases)"), "HWIO", False, vgg.CAFFE),
    Source("vgg19.npy's", _by_name(r"conv(\d)_(\d)/[01]"), "HWIO", True, vgg.CAFFE),
)


# Sums of the absolute values of Oxford's first kernel, by input channel, R, G, B. Its weights are
# found under other programs' names too, where nothing else tells what their input is.
_OXFORD = (90.86638, 99.44836, 80.12012)


class Found(NamedTuple):
    """VGG19 as a file has it: `convolutions` are (kernel, bias) in the source's own layout.

    `recognised`: whether the weights are known to be Oxford's; else the order of channels and the
    normalisation are what is usual for that form of file.
    """

    source: Source
    convolutions: dict[str, tuple[np.ndarray, np.ndarray]]
    recognised: bool = False

    def params(self) -> Params:
        """As `vgg.VGG19` takes them: kernels [3, 3, in, out], float32, the first one's in RGB."""
        params = {}
        for name, (kernel, bias) in self.convolutions.items():
            if self.source.layout == "OIHW":
                kernel = kernel.transpose(2, 3, 1, 0)
            if self.source.bgr and name == "conv1_1":
                kernel = kernel[:, :, ::-1]
            kernel = np.ascontiguousarray(kernel, np.float32)
            params[name] = {"kernel": kernel, "bias": np.asarray(bias, np.float32)}
        return params


def find(path: str | os.PathLike, held: tensors.Tensors) -> Found | None:
    """The VGG19 among a file's tensors; None where there is none.

    Raises: UserError where it is another VGG, or its tensors are not what VGG19 has.
    """
    if weights.HEADER in held.metadata:  # a generator of ours
        return None
    is_ours = held.form == "safetensors" and HEADER in held.metadata
    sources = (_own(path, held.metadata),) if is_ours else SOURCES
    for arrays in held.groups.values():
        for source in sources:
            located: dict[str, list[str]] = {}
            for name in arrays:
                if convolution := source.locate(name):
                    located.setdefault(convolution, []).append(name)
            if "conv1_1" in located:
                convolutions = _convolutions(path, arrays, located, source.layout)
                return _with_what_is_known(Found(source, convolutions))
    return None


def _with_what_is_known(found: Found) -> Found:
    """Oxford's weights have Oxford's input, whatever the form of the file."""
    kernel, _ = found.convolutions["conv1_1"]
    axes = (0, 2, 3) if found.source.layout == "OIHW" else (0, 1, 3)
    sums = np.abs(kernel.astype(np.float64)).sum(axes)
    for bgr, expected in ((False, _OXFORD), (True, _OXFORD[::-1])):
        if np.allclose(sums, expected, rtol=1e-4):
            source = found.source._replace(bgr=bgr, normalisation=vgg.CAFFE)
            return found._replace(source=source, recognised=True)
    return found


def _own(path: str | os.PathLike, metadata: dict[str, str]) -> Source:
    """What our own file's header says. Raises: UserError."""
    try:
        header = json.loads(metadata[HEADER])
        if header["format"] != FORMAT:
            raise UserError(f"{path}: of format {header['format']}, not {FORMAT}: update srgan_jax")
        mean, deviation = ([float(x) for x in header[key]] for key in vgg.Normalisation._fields)
        if len(mean) != 3 or len(deviation) != 3 or 0 in deviation:
            raise ValueError("its normalisation is not of three channels")
        return OURS._replace(normalisation=vgg.Normalisation(tuple(mean), tuple(deviation)))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: its {HEADER} metadata is damaged ({error})") from error


def _convolutions(
    path: str | os.PathLike, arrays: tensors.Arrays, located: dict[str, list[str]], layout: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Kernels and biases, checked, from the first convolution on without a gap."""
    others = [names[0] for name, names in located.items() if name not in vgg.CONVOLUTIONS]
    there = [name in located for name in vgg.CONVOLUTIONS]
    if others or there != sorted(there, reverse=True):
        gap = vgg.CONVOLUTIONS[there.index(False)] if False in there else ""
        why = f"it has {others[0]}" if others else f"it has no {gap}, but deeper layers"
        raise UserError(
            f"{path}: a VGG, but not VGG19 without BatchNorm: {why}; accepted is {ACCEPTED}"
        )
    convolutions = {}
    inputs = 3
    for name in vgg.CONVOLUTIONS[: sum(there)]:
        outputs = vgg.STAGES[int(name[4]) - 1][1]
        keys = sorted(located[name], key=lambda key: arrays[key].ndim)
        if [arrays[key].ndim for key in keys] != [1, 4]:
            raise UserError(
                f"{path}: of {name} it has {some(keys)}: a kernel and a bias are wanted"
            )
        shape = (outputs, inputs, 3, 3) if layout == "OIHW" else (3, 3, inputs, outputs)
        for key, wanted in zip(keys, ((outputs,), shape), strict=True):
            if arrays[key].shape != wanted:
                raise UserError(f"{path}: {key} is {arrays[key].shape}, not {wanted}")
            if not np.isfinite(arrays[key]).all():
                raise UserError(f"{path}: {key} is not finite")
        bias, kernel = (arrays[key] for key in keys)
        convolutions[name] = (kernel, bias)
        inputs = outputs
    return convolutions


def save(path: str | os.PathLike, found: Found) -> None:
    """Write `.safetensors`, aside and renamed. Raises: UserError where it cannot be written."""
    header = {"format": FORMAT, "source": found.source.name, "range": "RGB, 0..255"}
    header |= found.source.normalisation._asdict()
    arrays = {
        f"{name}/{kind}": array
        for name, layer in found.params().items()
        for kind, array in layer.items()
    }
    with files.replacing(path) as aside:
        aside.write_bytes(safetensors.numpy.save(arrays, metadata={HEADER: json.dumps(header)}))


def read(given: str, named: str) -> Found:
    """VGG19 from a file (`ACCEPTED`), or a name in `DOWNLOADS`, which `named` tells in messages.

    Raises: UserError where it cannot be had or is something else.
    """
    path = DOWNLOADS[given]() if given in DOWNLOADS else given
    try:
        found = find(path, tensors.read(path))
    except UserError as error:
        raise UserError(f"{named.partition('=')[0]}: {error}") from error
    if found is None:
        raise UserError(f"{named}: no VGG19: accepted is {ACCEPTED}")
    return found


def load(given: str, layers: tuple[str, ...]) -> tuple[vgg.VGG19, Params]:
    """The network for these layers, and its parameters.

    Args:
      given: config.vgg.path: a file (`ACCEPTED`), or a name in `DOWNLOADS`.
      layers: names in `vgg.LAYERS`. The file need not go deeper than the deepest.

    Raises: UserError where the file cannot be had, is something else, or stops short of a layer.
    """
    if not given:
        raise UserError(
            f"config.vgg.path is empty: the content loss compares VGG19's {', '.join(layers)}:"
            f" give a file, or {' or '.join(DOWNLOADS)} to download it, or a variant without it,"
            " such as --config=configs/srgan.py:mse"
        )
    named = f"config.vgg.path={given}"
    found = read(given, named)
    needed = vgg.convolutions_needed(layers)
    missing = [name for name in needed if name not in found.convolutions]
    if missing:
        deepest = max(layers, key=vgg.LAYERS.index)
        raise UserError(
            f"{named}: has no {missing[0]}, which {deepest} needs: use weights that go deeper, or"
            " shallower --config.vgg.layers"
        )
    params = {name: layer for name, layer in found.params().items() if name in needed}
    return vgg.VGG19(layers=layers, normalisation=found.source.normalisation), params
