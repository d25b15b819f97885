"""Generators trained by PyTorch's SRGAN projects, as ours (`layouts` says how they store them)."""

import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import flax.traverse_util
import numpy as np

from srgan_jax import ranges, weights
from srgan_jax.convert import torch_arrays
from srgan_jax.convert.layouts import LAYOUTS, Layout, ours
from srgan_jax.convert.tensors import Arrays, Tensors
from srgan_jax.errors import UserError, some
from srgan_jax.models.generator import STAGES, Generator
from srgan_jax.state import Variables, form_of

# Where checkpoints of several networks hold the one that is for use, best first.
_PLACES = ("params_ema", "ema_state_dict", "generator_ema", "params", "generator", "state_dict")

# What wrappers put before every name; a moving average first.
_PREFIXES = ("generator_ema.", "generator.", "module.", "_orig_mod.", "netG.", "net_g.", "net.")


class Found(NamedTuple):
    """A generator in a file: what it is there, and what it is as ours."""

    layout: Layout
    arrays: Arrays  # by their names, without prefixes
    place: str  # where in the file it lay
    generator: Generator
    variables: Variables


def find(path: str | os.PathLike, held: Tensors) -> Found | None:
    """The generator among a file's tensors, as ours; None where there is none.

    Raises: UserError where tensors are missing, too many, of a wrong shape or not finite, or make
    up a network that ours cannot be.
    """
    for place, arrays in _candidates(held.groups):
        kept = {
            name: array
            for name, array in arrays.items()
            if not name.endswith("num_batches_tracked")
        }
        try:
            layout = _recognise(kept, held.metadata)
            if layout is None:
                continue
            return Found(layout, kept, place, *_convert(layout, kept))
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    return None


def _recognise(arrays: Arrays, metadata: Mapping[str, Any]) -> Layout | None:
    """Whose generator the tensors are; None for nobody's."""
    if "conv_in.weight" in arrays and "block0_conv1.weight" in arrays:
        if not isinstance(metadata.get("architecture"), dict):
            raise UserError(
                "looks like srgan_jax's generator in PyTorch, but has no architecture: save"
                ' {"architecture": ..., "state_dict": ...} as it was exported'
            )
        return ours(arrays, metadata["architecture"])
    return next(filter(None, (recognise(arrays) for recognise in LAYOUTS)), None)


def _candidates(groups: Mapping[str, Arrays]) -> Iterator[tuple[str, Arrays]]:
    """Every set of tensors that may be a network, the most wanted first, without prefixes."""

    def rank(place: str) -> int:
        last = place.split(".")[-1]
        return _PLACES.index(last) if last in _PLACES else len(_PLACES)

    def unwrapped(place: str, arrays: Arrays) -> Iterator[tuple[str, Arrays]]:
        yield place, arrays
        for prefix in _PREFIXES:
            inner = {
                name.removeprefix(prefix): array
                for name, array in arrays.items()
                if name.startswith(prefix)
            }
            if inner:
                yield from unwrapped(f"{place}.{prefix}".strip("."), inner)

    for place in sorted(groups, key=rank):
        yield from unwrapped(place, groups[place])


def is_discriminator(held: Tensors) -> bool:
    """Whether a file's tensors take pictures and give one number, but no picture.

    A guess, for a better message about a file that is neither a generator nor VGG19.
    """
    return any(
        any(array.ndim == 4 and array.shape[1] == 3 for array in arrays.values())
        and any(array.ndim in (2, 4) and array.shape[0] == 1 for array in arrays.values())
        and not any(array.ndim == 4 and array.shape[0] == 3 for array in arrays.values())
        for arrays in held.groups.values()
    )


def _convert(layout: Layout, arrays: Arrays) -> tuple[Generator, Variables]:
    """Our generator with their tensors. Raises: UserError."""
    generator = _architecture(layout, arrays)
    wanted = form_of(generator)
    trees, used = {}, set()
    for kind in ("params", "batch_stats"):
        flat = flax.traverse_util.flatten_dict(getattr(wanted, kind))
        for (layer, leaf), form in flat.items():
            name = _their_name(layout, layer, leaf)
            if name is None:
                flat[layer, leaf] = np.full(form.shape, layout.slopes.get(layer, 0.0), np.float32)
                continue
            used.add(name)
            array = _checked(layout, arrays, name, leaf, form.shape)
            flat[layer, leaf] = torch_arrays.from_torch(array, generator, layer, leaf)
        trees[kind] = flax.traverse_util.unflatten_dict(flat)
    surplus = sorted(arrays.keys() - used)
    if surplus:
        raise UserError(
            f"looks like {layout.project}, which has no {some(surplus)}: give its own file"
        )
    if generator.output == "linear":  # tanh is in [-1, 1] as it is
        last = _to_signed(trees["params"]["conv_out"], layout.output, generator.base != "none")
        trees["params"]["conv_out"] = last
    return generator, Variables(**trees)


def _architecture(layout: Layout, arrays: Arrays) -> Generator:
    """The switches that make ours their network. Raises: UserError."""

    def kernel_shape(layer: str) -> tuple[int, ...]:
        name = f"{layout.modules[layer]}.weight"
        if name not in arrays:
            raise UserError(f"looks like {layout.project}, but has no {name}: give its whole file")
        if arrays[name].ndim != 4 or 0 in arrays[name].shape:
            raise UserError(f"{name} is {arrays[name].shape}: not a convolution's kernel")
        return arrays[name].shape

    channels = kernel_shape("conv_in")[0]
    ups = [name for name in layout.modules if name.startswith("up") and name.endswith("_conv")]
    upsample = layout.switches.get("upsample")
    if upsample == "direct":  # ours, which says it all
        factors = STAGES[layout.switches["scale"]]
    elif upsample == "nearest":
        factors = (2,) * len(ups)
    else:
        factors = tuple(math.isqrt(kernel_shape(name)[0] // channels) for name in ups)
    if factors not in STAGES.values():
        had = " and ".join(map(str, factors)) or "nothing"
        raise UserError(
            f"looks like {layout.project}, enlarging in stages by {had}, which is not among"
            f" srgan_jax's: scales {some(list(map(str, STAGES)))}"
        )
    slopes = [
        arrays[f"{theirs}.weight"].size
        for ours, theirs in layout.modules.items()
        if "prelu" in ours and f"{theirs}.weight" in arrays
    ]
    switches = {
        "scale": math.prod(factors),
        "blocks": sum(name.endswith("_conv2") for name in layout.modules),
        "channels": channels,
        "norm": "batch" if any("bn" in name for name in layout.modules) else "none",
        "prelu": "channel" if any(size > 1 for size in slopes) else "shared",
    }
    try:
        return weights.generator_of(switches | layout.switches)
    except ValueError as error:
        raise UserError(f"looks like {layout.project}, but {error}") from error


def _their_name(layout: Layout, layer: str, leaf: str) -> str | None:
    """The tensor that one of our arrays is there; None for one that they do not have."""
    biasless = leaf == "bias" and "conv" in layer and layer.startswith(layout.no_bias)
    if layer in layout.slopes or biasless:
        return None
    return f"{layout.modules[layer]}.{torch_arrays.NAMES[leaf]}"


def _checked(
    layout: Layout, arrays: Arrays, name: str, leaf: str, shape: tuple[int, ...]
) -> np.ndarray:
    """A tensor of theirs, for an array of ours of that shape. Raises: UserError."""
    array = arrays.get(name)
    if array is None:
        raise UserError(f"looks like {layout.project}, but has no {name}: give its whole file")
    theirs = tuple(shape[i] for i in (3, 2, 0, 1)) if leaf == "kernel" else shape
    if leaf == "slope" and array.shape == (1,):  # shared here, for each channel elsewhere
        array = np.broadcast_to(array, theirs)
    if array.shape != theirs:
        raise UserError(f"{name} is {array.shape}, not {theirs}")
    if not np.isfinite(array).all():
        raise UserError(f"{name} is not finite")
    return array


def _to_signed(layer: dict[str, np.ndarray], output: str, has_base: bool) -> dict[str, np.ndarray]:
    """The last convolution with its result in [-1, 1], from one in another range."""
    if output == "signed":
        return layer
    kernel, bias = (layer[leaf].astype(np.float64) for leaf in ("kernel", "bias"))
    if output == "imagenet":
        deviation, mean = np.array(ranges.IMAGENET_DEVIATION), np.array(ranges.IMAGENET_MEAN)
        kernel, bias = kernel * deviation, bias * deviation + mean
    # What is added to a base doubles with it, and has no offset of its own.
    kernel, bias = 2 * kernel, 2 * bias - (0 if has_base else 1)
    return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
