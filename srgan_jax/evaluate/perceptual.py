"""NIQE and LPIPS, whose parameters a user gives, as further measures."""

import functools
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srgan_jax import images, ranges
from srgan_jax.convert import lpips as lpips_file
from srgan_jax.convert import niqe as niqe_file
from srgan_jax.errors import UserError
from srgan_jax.evaluate.score import Single
from srgan_jax.metrics import lpips, niqe
from srgan_jax.metrics.conventions import prepare
from srgan_jax.monitor import say


def load(
    border: int, niqe_path: str | None, lpips_paths: list[str]
) -> dict[tuple[str, str], Single]:
    """The measures whose parameters are given, by convention and name. Raises: UserError."""
    measures: dict[tuple[str, str], Single] = {}
    if niqe_path:
        measures["modern", "niqe"] = functools.partial(_niqe, border, niqe_file.load(niqe_path))
    for path in lpips_paths:
        net, params = lpips_file.load(path)
        if ("rgb", f"lpips_{net}") in measures:
            raise UserError(f"--lpips={path}: weights of {net} are given twice")
        params = jax.tree.map(jnp.asarray, params)
        measures["rgb", f"lpips_{net}"] = functools.partial(_lpips, border, net, params)
    return measures


def _niqe(border: int, params: niqe.Params, sr: np.ndarray, hr: np.ndarray) -> float:
    """Of Y of BT.601, rounded, as BasicSR's; HR plays no part."""
    del hr
    luma = rounded_luma(jnp.asarray(sr), border)
    return niqe.niqe(luma, params) if min(luma.shape) >= niqe.BLOCK else math.nan


@functools.partial(jax.jit, static_argnums=1)
def rounded_luma(pixels: jax.Array, border: int) -> jax.Array:
    """Y of BT.601 in whole levels [H, W], from uint8 [H, W, 3], the border cropped."""
    return ranges.round_pixels(prepare("modern", pixels, border)[..., 0])


def _lpips(border: int, net: str, params: Any, sr: np.ndarray, hr: np.ndarray) -> float:
    a, b = (prepare("rgb", jnp.asarray(image), border) for image in (sr, hr))
    if min(a.shape[:2]) < lpips.SMALLEST[net]:
        return math.nan
    return float(_distance(net, params, a, b))


_distance = jax.jit(lpips.lpips, static_argnums=0)


def fit_niqe(folder: str, out: str | None) -> None:
    """Fit NIQE on all pictures below a folder and write the parameters. Raises: UserError."""
    if not out:
        raise UserError("--fit_niqe needs --niqe=FILE.npz, where to write the parameters")
    file = pathlib.Path(out)
    if file.suffix != ".npz" or file.is_dir() or not file.parent.is_dir():
        raise UserError(f"--niqe={out}: give a file .npz in a folder that is there")
    found = list(images.find(folder)) if pathlib.Path(folder).is_dir() else []
    if not found:
        raise UserError(f"--fit_niqe={folder}: no such folder, or no pictures in it")
    large = [path for path in found if min(images.size(path)) >= niqe.BLOCK]
    try:
        fitted = niqe.fit(rounded_luma(jnp.asarray(images.read(path)[0]), 0) for path in large)
    except ValueError as error:
        raise UserError(f"--fit_niqe={folder}: {error}") from error
    niqe_file.save(file, fitted)
    say(f"written: {file}, from {len(large)} of {len(found)} pictures")
