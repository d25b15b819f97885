"""Files of NIQE's parameters: our own and BasicSR's `.npz`, and MATLAB's `.mat`."""

import os
import zipfile

import numpy as np
import scipy.io

from srgan_jax import files
from srgan_jax.errors import UserError, first_line
from srgan_jax.metrics.niqe import FEATURES, Params

NPZ_KEYS = ("mu_pris_param", "cov_pris_param")
"""As in BasicSR's niqe_pris_params.npz: [1, 36] and [36, 36]."""
MAT_KEYS = ("mu_prisparam", "cov_prisparam")
"""As in modelparameters.mat of the authors' MATLAB code: [1, 36] and [36, 36]."""

_WANTED = (
    "give niqe_pris_params.npz of BasicSR, modelparameters.mat of MATLAB, or fit them (--fit_niqe)"
)


def load(path: str | os.PathLike) -> Params:
    """The parameters in a `.npz` as `save` and BasicSR write it, or in MATLAB's `.mat`.

    Which of the two it is, the content tells, not the name.

    Raises: UserError where the file is missing, broken, or holds something else.
    """
    try:
        keys, arrays = _read(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file: {_WANTED}") from error
    except Exception as error:  # of broken files the parsers raise anything, even MemoryError
        raise UserError(
            f"{path}: cannot be read as .npz or .mat ({first_line(error)}): {_WANTED}"
        ) from error
    shapes = ((1, FEATURES), (FEATURES, FEATURES))
    for key, shape in zip(keys, shapes, strict=True):
        if key not in arrays:
            raise UserError(f"{path}: has no {key}: {_WANTED}")
        array = arrays[key]
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
            raise UserError(f"{path}: {key} is no array of numbers: {_WANTED}")
        if array.shape != shape:
            raise UserError(f"{path}: {key} is {array.shape}, not {shape}: {_WANTED}")
        if not np.isfinite(array).all():
            raise UserError(f"{path}: {key} has values that are not finite: {_WANTED}")
    mean, covariance = (arrays[key].astype(np.float64) for key in keys)
    symmetric = np.allclose(covariance, covariance.T, rtol=1e-6, atol=1e-9)
    if not symmetric or np.linalg.eigvalsh(covariance)[0] <= 0:
        raise UserError(f"{path}: {keys[1]} is not symmetric and positive: {_WANTED}")
    return Params(mean[0], covariance)


def save(path: str | os.PathLike, params: Params) -> None:
    """Write a `.npz` aside and rename it, so that no half file has the final name.

    Raises: UserError where it cannot be written.
    """
    with files.replacing(path) as aside, open(aside, "wb") as file:
        np.savez(file, mu_pris_param=params.mean[None], cov_pris_param=params.covariance)


def _read(path: str | os.PathLike) -> tuple[tuple[str, str], dict[str, np.ndarray]]:
    """The keys that this kind of file should have, and the arrays that it has."""
    with open(path, "rb") as file:
        if zipfile.is_zipfile(file):
            file.seek(0)
            return NPZ_KEYS, dict(np.load(file, allow_pickle=False))
        file.seek(0)
        return MAT_KEYS, scipy.io.loadmat(file, variable_names=MAT_KEYS)
