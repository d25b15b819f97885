"""ImageNet VGG19 for the content loss, from a NumPy `.npz`."""

import zipfile
import zlib

import numpy as np

from srgan_jax.errors import UserError
from srgan_jax.models import vgg
from srgan_jax.state import Params


def load_vgg19(path: str, layers: tuple[str, ...]) -> tuple[vgg.VGG19, Params]:
    """The network for these layers, and its parameters.

    The file holds `block1_conv1.kernel` [3, 3, in, out] and `block1_conv1.bias` [out] and so on,
    float32, in the form that Keras distributes: BGR in 0..255 with the mean subtracted. It need
    not go deeper than the deepest of `layers`.

    Raises: UserError where the file is missing, is something else, or stops short of a layer.
    """
    if not path:
        raise UserError(
            f"the content loss compares VGG19's {', '.join(layers)}, but config.vgg.path is empty:"
            " give a .npz of ImageNet VGG19 (README, 'VGG19 weights'), or a variant without it,"
            " such as --config=configs/srgan.py:mse"
        )
    try:
        with open(path, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            arrays = dict(loaded)
    except FileNotFoundError as error:
        raise UserError(f"config.vgg.path={path}: no such file") from error
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"config.vgg.path={path}: not a whole .npz file of arrays") from error
    deepest = max(layers, key=vgg.LAYERS.index)
    params: dict[str, dict[str, np.ndarray]] = {}
    in_channels = 3
    for name in vgg.convolutions_needed(layers):
        stage, index = name.removeprefix("conv").split("_")
        out_channels = vgg.STAGES[int(stage) - 1][1]
        shapes = {"kernel": (3, 3, in_channels, out_channels), "bias": (out_channels,)}
        params[name] = {}
        for kind, shape in shapes.items():
            key = f"block{stage}_conv{index}.{kind}"
            if key not in arrays:
                raise UserError(
                    f"config.vgg.path={path}: has no {key}, which {deepest} needs: use weights"
                    " that go deeper, or shallower --config.vgg.layers"
                )
            if arrays[key].shape != shape:
                raise UserError(
                    f"config.vgg.path={path}: {key} is {arrays[key].shape}, not {shape}"
                )
            params[name][kind] = arrays[key].astype(np.float32)
        in_channels = out_channels
    return vgg.VGG19(layers=layers, normalisation="caffe"), params
