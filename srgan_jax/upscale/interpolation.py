"""Network interpolation: what is between an SRGAN and the SRResNet that it was trained from.

Wang et al. 2018, "ESRGAN" (arXiv 1809.00219), section 3.4.
"""

import pathlib
from typing import NamedTuple

import jax
import numpy as np

from srgan_jax import files, pretrained, weights
from srgan_jax.errors import UserError
from srgan_jax.models.generator import Generator
from srgan_jax.state import Variables
from srgan_jax.upscale import network


class Loaded(NamedTuple):
    """A network to enlarge with, and the SHA-256 of each file that it was made from."""

    generator: Generator  # without BatchNorm
    variables: Variables
    digests: list[str]


def load(path: pathlib.Path, sharpness: float) -> Loaded:
    """The network of a file where `sharpness` is 1; below, what is between it and its SRResNet.

    Raises: UserError where `sharpness` is not in [0, 1] or a file is no generator of ours; and
      below 1, where there is no SRResNet beside it (`srresnet_of`), or one of other architecture.
    """
    if not 0 <= sharpness <= 1:  # nor NaN
        raise UserError(f"sharpness={sharpness}: not from 0 to 1")
    srgan = _load(path)
    if sharpness == 1:
        return srgan
    other = srresnet_of(path, sharpness)
    srresnet = _load(other)
    asked, held = (weights.architecture(each.generator) for each in (srgan, srresnet))
    differing = [
        f"{name}={value}, not {asked[name]}" for name, value in held.items() if value != asked[name]
    ]
    if differing:
        raise UserError(
            f"sharpness={sharpness}: {other} is of another architecture than {path.name}:"
            f" {'; '.join(differing)}"
        )
    variables = interpolate(srresnet.variables, srgan.variables, sharpness)
    return Loaded(srgan.generator, variables, srgan.digests + srresnet.digests)


def _load(path: pathlib.Path) -> Loaded:
    exported = weights.load_generator(path)
    return Loaded(*network.fold(exported.generator, exported.variables), [files.sha256(path)])


def interpolate(srresnet: Variables, srgan: Variables, sharpness: float) -> Variables:
    """(1 - sharpness) * SRResNet's parameters + sharpness * SRGAN's, each by each, NumPy float32.

    Both are without BatchNorm (`network.fold`). At 0 it is exactly the one, at 1 the other.
    Source: Wang et al. 2018, section 3.4, whose alpha is `sharpness`.
    """

    def between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.float32(1 - sharpness) * a + np.float32(sharpness) * b

    return Variables(jax.tree.map(between, srresnet.params, srgan.params), {})


def srresnet_of(path: pathlib.Path, sharpness: float) -> pathlib.Path:
    """The file beside an SRGAN's that has `srresnet` for `srgan` in its name.

    Raises: UserError, naming the sharpness that needs it, where there is none.
    """
    asked = f"sharpness={sharpness}"
    if "srgan" not in path.name:
        raise UserError(
            f"{asked}: {pretrained.label(path)} has no 'srgan' in its name: below 1 give the"
            " weights of an SRGAN, such as srgan-fast, or a file srgan.safetensors with"
            " srresnet.safetensors beside it"
        )
    other = path.with_name(path.name.replace("srgan", "srresnet"))
    if not other.exists():
        raise UserError(f"{asked}: {other} is not there, the SRResNet that goes with {path.name}")
    return other
