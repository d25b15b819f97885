"""Converted networks against what they were made from, on a random input."""

import io
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srgan_jax import ranges
from srgan_jax.convert import exports, generators, vgg19
from srgan_jax.errors import UserError
from srgan_jax.models import vgg
from srgan_jax.models.generator import STAGES, Generator
from srgan_jax.state import Variables
from srgan_jax.weights import Exported

_EXTRA = "pip install -e .[convert]"

# GPUs and TPUs multiply float32 in fewer bits, unless asked.
_EXACT = jax.default_matmul_precision("highest")

SIZES = ((1, 24, 31, 3), (2, 17, 12, 3))
"""Of the random LR images, NHWC."""


def _torch(what: str) -> Any:
    try:
        import torch
    except ImportError as error:
        raise UserError(f"--verify: {what} needs PyTorch: {_EXTRA}") from error
    return torch


def random_images() -> list[np.ndarray]:
    """In [0, 1], float32, always the same."""
    rng = np.random.default_rng(0)
    return [rng.random(size, np.float32) for size in SIZES]


def generator_difference(found: generators.Found, lr_image: np.ndarray) -> float:
    """The largest difference of SR in [0, 1] between ours and the project's network in PyTorch.

    Args:
      found: a converted generator.
      lr_image: [B, h, w, 3] in [0, 1].
    """
    torch = _torch("running the project's network")
    from srgan_jax.convert import peers, srresnet

    name, arguments = found.layout.peer
    generator = found.generator
    if name == "SRResNet":
        peer = srresnet.SRResNet(**arguments)
    else:
        peer = getattr(peers, name)(
            blocks=generator.blocks,
            channels=generator.channels,
            factors=STAGES[generator.scale],
            **arguments,
        )
    for key, module in peer.named_modules():  # one slope, or one for each channel
        if isinstance(module, torch.nn.PReLU):
            module.weight = torch.nn.Parameter(torch.zeros(found.arrays[f"{key}.weight"].shape))
    peer.load_state_dict({key: torch.from_numpy(x.copy()) for key, x in found.arrays.items()})
    x = lr_image
    if generator.input == "imagenet" and name != "SRResNet":  # there it is done outside
        x = np.asarray(ranges.standardise(jnp.asarray(x)))
    with torch.no_grad():
        theirs = peer.eval()(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    theirs = theirs.transpose(0, 2, 3, 1).astype(np.float64)
    if found.layout.output == "imagenet":
        theirs = theirs * ranges.IMAGENET_DEVIATION + ranges.IMAGENET_MEAN
    elif found.layout.output == "signed":
        theirs = theirs / 2 + 0.5
    apply = jax.jit(lambda x: generator.apply(found.variables.as_flax(), x, train=False))
    with _EXACT:
        ours = apply(lr_image)
    return float(np.abs(np.asarray(ours, np.float64) / 2 + 0.5 - theirs).max())


def vgg19_differences(found: vgg19.Found, image: np.ndarray) -> dict[str, float]:
    """Largest difference at every layer of VGG19, relative to its largest value.

    The reference is PyTorch, on the file's own tensors and an input in its own form.

    Args:
      found: VGG19 as a file has it.
      image: [B, H, W, 3] in [-1, 1].
    """
    torch = _torch("running VGG19")
    layers = vgg.LAYERS[: vgg.LAYERS.index(list(found.convolutions)[-1]) + 2]
    source = found.source
    network = vgg.VGG19(layers, source.normalisation)
    with _EXACT:
        ours: Any = network.apply({"params": found.params()}, image)
    pixels = (image.astype(np.float64) + 1) * 127.5
    x = (pixels - source.normalisation.mean) / source.normalisation.deviation
    x = (x[..., ::-1] if source.bgr else x).astype(np.float32)
    x = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    differences = {}
    for layer in layers:
        if layer in found.convolutions:
            kernel, bias = found.convolutions[layer]
            if source.layout == "HWIO":
                kernel = kernel.transpose(3, 2, 0, 1)
            kernel, bias = (torch.from_numpy(np.float32(a)) for a in (kernel, bias))
            x = torch.nn.functional.conv2d(x, kernel, bias, padding=1)
        elif layer.startswith("relu"):
            x = x.relu()
        else:
            x = torch.nn.functional.max_pool2d(x, 2)
        expected = x.numpy().transpose(0, 2, 3, 1)
        largest = np.abs(expected).max()
        differences[layer] = float(np.abs(np.asarray(ours[layer]) - expected).max() / largest)
    return differences


def export_runner(data: bytes, ending: str) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """An export as a function of NHWC images, from [0, 1] to [0, 1], clipped, and what runs it.

    Raises: UserError where what runs it is not installed.
    """
    if ending == ".onnx":
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(f"--verify: running ONNX needs onnxruntime: {_EXTRA}") from error
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

        def run_onnx(x: np.ndarray) -> np.ndarray:
            (sr,) = session.run(None, {"input": x.transpose(0, 3, 1, 2)})
            return sr.transpose(0, 2, 3, 1)

        return run_onnx, "onnxruntime"
    if ending == ".pth":
        torch = _torch("running a state dict")
        from srgan_jax.convert.srresnet import SRResNet

        saved = torch.load(io.BytesIO(data), weights_only=True)
        network = SRResNet(**saved["architecture"])
        network.load_state_dict(saved["state_dict"])
        network.eval()

        def run_torch(x: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                sr = network(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
            return np.clip(sr.transpose(0, 2, 3, 1) / 2 + 0.5, 0, 1)

        return run_torch, "PyTorch"
    exported = jax.export.deserialize(bytearray(data))
    return lambda x: np.asarray(exported.call(x)), "jax.export"


def export_difference(
    data: bytes, ending: str, generator: Generator, variables: Variables, lr_image: np.ndarray
) -> float:
    """The largest difference of SR in [0, 1], clipped, between an export and Flax.

    Raises: UserError where what runs it is not installed.
    """
    runner, _ = export_runner(data, ending)
    with _EXACT:
        theirs = runner(lr_image)
        ours = jax.jit(exports.to_unit_image(generator, variables))(lr_image)
    return float(np.abs(theirs - np.asarray(ours)).max())


def source(found: generators.Found | None, vgg: vgg19.Found | None) -> list[str]:
    """What the comparison of a converted network gives, in words; none for our own files.

    Raises: UserError where they differ.
    """
    if found:
        largest = max(generator_difference(found, image) for image in random_images())
        _require(largest, 1e-5, "SR")
        return [f"against {found.layout.project} in PyTorch: SR differs by {largest:.1e} of [0, 1]"]
    if vgg:
        image = np.random.default_rng(0).random((1, 48, 64, 3), np.float32) * 2 - 1
        differences = vgg19_differences(vgg, image)
        worst = max(differences, key=lambda layer: differences[layer])
        _require(differences[worst], 1e-4, worst)
        return [
            f"against PyTorch on the file's own tensors: {len(differences)} layers differ by"
            f" {differences[worst]:.1e} at most, relative, at {worst}"
        ]
    return []


def export(data: bytes, ending: str, exported: Exported) -> str:
    """What the comparison of an export gives, in words. Raises: UserError."""
    _, runs = export_runner(data, ending)
    largest = max(
        export_difference(data, ending, exported.generator, exported.variables, image)
        for image in random_images()
    )
    _require(largest, 1e-4, "SR")
    return f"in {runs} against Flax: SR differs by {largest:.1e} of [0, 1]"


def _require(difference: float, limit: float, what: str) -> None:
    if not difference <= limit:  # also NaN
        raise UserError(
            f"--verify: {what} differs by {difference:.1e}, more than {limit:.0e}: nothing was"
            " written; please report it"
        )
