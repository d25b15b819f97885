"""Weights for LPIPS: `load` reads them, and the command makes them from PyTorch's files.

    python -m srgan_jax.convert.lpips --trunk=alexnet-owt-7be5be79.pth --heads=alex.pth \\
        --out=lpips_alex.safetensors

`--trunk` is torchvision's AlexNet, VGG16 or SqueezeNet 1.1, trained on ImageNet; `--heads` is
`weights/v0.1/{alex,vgg,squeeze}.pth` of the package `lpips`. Making needs PyTorch, reading does
not. The one file holds what `metrics.lpips.shapes` says, and in its header the net, `lpips_net`.
"""

import os
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import safetensors
import safetensors.numpy
from absl import flags

from srgan_jax import cli, files
from srgan_jax.errors import UserError, first_line
from srgan_jax.metrics import lpips

_COMMAND = "python -m srgan_jax.convert.lpips"

# CRC-32 of `lin0` in the package's weights/v0.0, which has the names and shapes of v0.1 but was
# fitted to trunks whose input was not standardised.
_OLD_HEADS = (0x3B9FE2FB, 0xB97E0E74, 0x80C9CF18)


def load(path: str | os.PathLike) -> tuple[str, lpips.Params]:
    """The net's name and its parameters, from a file that the command wrote.

    Raises: UserError, naming the file, where it is no such file, whole and finite.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            net = (file.metadata() or {}).get("lpips_net")
            if net not in lpips.TRUNKS:
                raise UserError(f"{path}: not weights of LPIPS: make them with {_COMMAND}")
            shapes = lpips.shapes(net)
            held = shapes.keys() & set(file.keys())
            arrays = {name: file.get_tensor(name) for name in held}
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file: make it with {_COMMAND}") from error
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{path}: not a whole .safetensors file ({first_line(error)}): make it with {_COMMAND}"
        ) from error
    return net, _checked(f"{path}", arrays, shapes, f"make it with {_COMMAND}")


def convert(trunk: str, heads: str, out: str) -> str:
    """Write `out` from a trunk and heads in PyTorch's form, and return the net's name.

    Raises: UserError, and then `out` is what it was.
    """
    if not out.endswith(".safetensors"):
        raise UserError(f"--out={out}: give a name that ends in .safetensors")
    arrays = _read_pytorch(f"--trunk={trunk}", trunk)
    had = {name: array.shape for name, array in arrays.items()}
    for net in lpips.TRUNKS:
        shapes = lpips.shapes(net)
        lin = {name: shapes.pop(name) for name in list(shapes) if name.startswith("lin")}
        if shapes.items() <= had.items():
            break
    else:
        raise UserError(
            f"--trunk={trunk}: holds no AlexNet, VGG16 or SqueezeNet 1.1 of torchvision's: give"
            " its file, such as alexnet-owt-7be5be79.pth"
        )
    params = _checked(f"--trunk={trunk}", arrays, shapes, "give torchvision's own file")
    arrays = _read_pytorch(f"--heads={heads}", heads)
    advice = f"for this trunk give weights/v0.1/{net}.pth of the package lpips"
    params |= _checked(f"--heads={heads}", arrays, lin, advice)
    if zlib.crc32(params["lin0"].tobytes()) in _OLD_HEADS:
        raise UserError(f"--heads={heads}: of version 0.0: {advice}")
    with files.replacing(out) as aside:
        # Not `save_file`, which makes it unreadable to others, whatever the umask.
        aside.write_bytes(safetensors.numpy.save(params, metadata={"lpips_net": net}))
    return net


def _read_pytorch(flag: str, path: str) -> dict[str, np.ndarray]:
    """A state dict's convolutions and heads, by our names and in our layout."""
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{flag}: reading it needs PyTorch: pip install torch") from error
    try:
        # The package's heads were saved on a GPU.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{flag}: no such file") from error
    except OSError as error:
        raise UserError(f"{flag}: cannot be read ({first_line(error)})") from error
    except Exception as error:  # what else damaged files raise is of many types
        raise UserError(f"{flag}: not a whole PyTorch file of tensors: get it again") from error
    arrays = {}
    for key, value in state.items() if isinstance(state, dict) else ():
        if not isinstance(value, torch.Tensor) or not str(key).startswith(("features.", "lin")):
            continue
        array = value.detach().float().numpy()
        if key.startswith("lin"):
            arrays[key.removesuffix(".model.1.weight")] = array.reshape(-1)
        elif array.ndim == 4:
            kernel = array.transpose(2, 3, 1, 0)  # out, in, h, w
            arrays[key.removesuffix("weight") + "kernel"] = np.ascontiguousarray(kernel)
        else:
            arrays[key] = array
    return arrays


def _checked(
    file: str, arrays: Mapping[str, np.ndarray], shapes: dict[str, tuple[int, ...]], advice: str
) -> dict[str, np.ndarray]:
    """Those of `arrays` that `shapes` names. Raises: UserError, ending in the advice."""
    for name, shape in shapes.items():
        array = arrays.get(name)
        if array is None:
            wrong = "is missing"
        elif array.shape != shape or array.dtype != np.float32:
            wrong = f"is {array.dtype} {array.shape}, not float32 {shape}"
        elif not np.isfinite(array).all():
            wrong = "is not finite"
        elif name.startswith("lin") and array.min() < 0:
            wrong = "is negative"
        else:
            continue
        raise UserError(f"{file}: tensor {name} {wrong}: {advice}")
    return {name: arrays[name] for name in shapes}


def main(argv: Sequence[str]) -> None:
    """Check the flags and convert."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: files are given as --trunk=FILE")
    given: dict[str, str] = {}
    for name in ("trunk", "heads", "out"):
        given[name] = flags.FLAGS[name].value or ""
        if not given[name]:
            raise UserError(f"--{name} is missing: give a file; {_COMMAND} --help says which")
    net = convert(**given)
    print(f"{given['out']}: LPIPS of {net}")


def run() -> None:
    """The command."""
    # Defined here, so that programs which import `load` do not have these flags.
    flags.DEFINE_string("trunk", None, "torchvision's AlexNet, VGG16 or SqueezeNet 1.1, .pth.")
    flags.DEFINE_string("heads", None, "weights/v0.1/NET.pth of the package lpips.")
    flags.DEFINE_string("out", None, "File to write, .safetensors.")
    cli.run(main)


if __name__ == "__main__":
    run()
