"""The same network in PyTorch, made as fast as it gets there on a CPU: what we are compared with.

    python -m srgan_jax.benchmark.torch_upscale WEIGHTS.pth RADIUS RADIUS CORES INPUT OUTPUT.png

WEIGHTS.pth is what `convert.exports.to_pytorch` makes, the radii as of `upscale.tiles.radius_of`.
Measured were also, and slower: contiguous
tensors, `torch.jit.optimize_for_inference`, and `torch.compile` with frozen parameters.
"""

import itertools
import os
import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from srgan_jax.convert.srresnet import SRResNet

HOW = "eager, channels_last, BatchNorm folded, inference_mode"

# Sides in LR pixels: of what goes through the residual blocks at once, whose features take 256
# bytes a pixel, three times, and of what is enlarged at once, 4 kB a pixel, twice.
LONGEST = 768
LONGEST_BLOCK = 256


class Part(NamedTuple):
    """Some of an axis: [first, end) is wanted, and [start, stop) is what that depends on."""

    start: int
    first: int
    end: int
    stop: int


class Network(NamedTuple):
    """A generator, and how many LR pixels its two parts see to each side."""

    module: SRResNet
    features_radius: int
    enlarged_radius: int


def load(path: str | os.PathLike, radius: tuple[int, int], cores: int) -> Network:
    """What `to_pytorch` wrote, ready to run on so many cores."""
    torch.set_num_threads(cores)
    saved = torch.load(path, weights_only=True)
    module = SRResNet(**saved["architecture"])
    module.load_state_dict(saved["state_dict"])
    module.eval()
    for name, layer in list(module.named_children()):
        if isinstance(layer, nn.BatchNorm2d):
            conv = name.replace("bn", "conv")
            setattr(module, conv, fuse_conv_bn_eval(module.get_submodule(conv), layer))
            setattr(module, name, nn.Identity())
        elif isinstance(layer, nn.PReLU) and layer.num_parameters == 1:
            setattr(module, name, nn.LeakyReLU(layer.weight.item(), inplace=True))
    return Network(module.to(memory_format=torch.channels_last), *radius)


@torch.inference_mode()
def upscale(network: Network, picture: np.ndarray) -> np.ndarray:
    """Uint8 [h, w, 3] to uint8 [s*h, s*w, 3]; what is larger than `LONGEST` goes in tiles."""
    module, s = network.module, network.module.scale
    unit = torch.tensor(picture).permute(2, 0, 1)[None].float() / 255  # channels_last
    height, width = picture.shape[:2]
    sr = torch.empty((s * height, s * width, 3), dtype=torch.uint8)
    whole = network.features_radius + network.enlarged_radius
    for y, x in _parts(height, width, LONGEST, whole):
        tile = unit[:, :, y.start : y.stop, x.start : x.stop]
        features = module.features(tile)
        result = sr[s * y.first : s * y.end, s * x.first : s * x.end]
        inner = (y.end - y.first, x.end - x.first)
        for v, u in _parts(*inner, LONGEST_BLOCK, 0):
            rows, columns = (
                _seen(part, outer, network.enlarged_radius) for part, outer in ((v, y), (u, x))
            )
            seen = (..., slice(rows.start, rows.stop), slice(columns.start, columns.stop))
            block = module.enlarged(features[seen], tile[seen])
            top, left = rows.first - rows.start, columns.first - columns.start
            cut = block[
                0, :,
                s * top : s * (top + v.end - v.first),
                s * left : s * (left + u.end - u.first),
            ]  # fmt: skip
            levels = cut.mul(127.5).add_(128).clamp_(0, 255).byte()  # rounds half up
            result[s * v.first : s * v.end, s * u.first : s * u.end] = levels.permute(1, 2, 0)
    return sr.numpy()


def _parts(height: int, width: int, longest: int, radius: int) -> Iterator[tuple[Part, Part]]:
    """Equal parts of a plane, row by row, none longer than `longest` but for what it depends on."""

    def along(size: int) -> list[Part]:
        count = -(-size // longest)
        edges = [size * i // count for i in range(count + 1)]
        return [
            Part(max(first - radius, 0), first, end, min(end + radius, size))
            for first, end in itertools.pairwise(edges)
        ]

    return ((y, x) for y in along(height) for x in along(width))


def _seen(inner: Part, outer: Part, radius: int) -> Part:
    """A part of what `outer` wants, in its tile, with what it depends on there."""
    shift = outer.first - outer.start
    first, end = inner.first + shift, inner.end + shift
    size = outer.stop - outer.start
    return Part(max(first - radius, 0), first, end, min(end + radius, size))


def main(weights: str, *words: str) -> None:
    """From file to file."""
    *numbers, source, out = words
    features_radius, enlarged_radius, cores = map(int, numbers)
    network = load(weights, (features_radius, enlarged_radius), cores)
    with Image.open(source) as image:
        picture = np.array(image.convert("RGB"))
    Image.fromarray(upscale(network, picture)).save(out, compress_level=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
