"""The tensors of other programs' weight files, by the names they have there.

What a file is, its content tells, never its name. Nothing in a file is ever executed.
"""

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import safetensors

from srgan_jax.errors import UserError, first_line, some

Arrays = dict[str, np.ndarray]

ACCEPTED = "PyTorch's .pth, .safetensors, Keras' .h5, MatConvNet's .mat, .npy or .npz"


class Tensors(NamedTuple):
    """What a file holds.

    `groups` are the tensors that lie together, by where they lie: "" at the top, or such as
    "params_ema" in a checkpoint that holds several networks.
    """

    form: str  # "PyTorch", "safetensors", "HDF5", "MATLAB" or "NumPy"
    groups: dict[str, Arrays]
    metadata: dict[str, Any]  # the header of .safetensors, or what else lies at the top of a .pth


def read(path: str | os.PathLike) -> Tensors:
    """Read every tensor of a file.

    Raises: UserError, naming the file and what it looks like, where it is missing, damaged, of
    another kind, or needs a library that is not installed.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    form = "a zip file"
    try:
        form, reader = _reader(path, head)
        return reader(path)
    except UserError:
        raise
    except Exception as error:  # of damaged files the parsers raise anything
        raise UserError(
            f"{path}: not a whole file of {form} ({first_line(error)}): get it again"
        ) from error


def _reader(
    path: str | os.PathLike, head: bytes
) -> tuple[str, Callable[[str | os.PathLike], Tensors]]:
    """What the first bytes say that a file is, and its reader. Raises: UserError."""
    # First: its length in front may begin as any other kind does.
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 2**32:
        return "safetensors", _read_safetensors
    if head.startswith(b"PK"):
        if not zipfile.is_zipfile(path):
            raise UserError(f"{path}: a zip file (PyTorch or .npz) that is cut off: get it again")
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("data.pkl") for name in names):
            return "PyTorch", _read_pytorch
        if names and all(name.endswith(".npy") for name in names):
            return "NumPy (.npz)", _read_npz
        raise UserError(f"{path}: a zip file of {some(names, 2)}: accepted are {ACCEPTED}")
    if head.startswith(b"\x80") or head[257:262] == b"ustar":
        return "PyTorch", _read_pytorch
    if head.startswith(b"\x93NUMPY"):
        return "NumPy (.npy)", _read_npy
    if head.startswith(b"\x89HDF\r\n"):
        return "HDF5", _read_hdf5
    if head.startswith(b"MATLAB 5.0 MAT-file"):
        return "MATLAB", _read_matlab
    looks = "a file of an unknown kind"
    if not head:
        looks = "an empty file"
    elif head.lstrip()[:2].lower() in (b"<!", b"<h", b"<?"):
        looks = "a web page: the download failed"
    elif head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z", b"Rar!")):
        looks = "a packed archive: unpack it first"
    elif head.startswith(b"MATLAB 7.3"):
        looks = "MATLAB 7.3's: save it with -v7"
    elif head[:1] == b"\x08" and any(
        maker in head for maker in (b"onnx", b"pytorch", b"srgan_jax")
    ):
        looks = "ONNX, which is not read: give the weights that it was made from"
    elif head.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*", b"MM")):
        looks = "a picture"
    elif all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        looks = "text"
    raise UserError(f"{path}: looks like {looks}; accepted are {ACCEPTED}")


def _read_safetensors(path: str | os.PathLike) -> Tensors:
    with safetensors.safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Tensors("safetensors", {"": arrays}, dict(file.metadata() or {}))


def _read_npz(path: str | os.PathLike) -> Tensors:
    with np.load(path, allow_pickle=False) as file:
        return Tensors("NumPy", {"": dict(file)}, {})


class _PickledArray:
    """What stands for an array while it is unpickled; NumPy's own classes trust their state."""

    def __init__(self, *_: Any) -> None:
        self.content: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        if isinstance(data, list):  # of objects
            self.content = data[0] if shape == () else data
            return
        if isinstance(data, str):  # of Python 2
            data = data.encode("latin1")
        order: Literal["F", "C"] = "F" if fortran else "C"
        self.content = np.frombuffer(data, dtype.numpy()).reshape(shape, order=order).copy()


class _PickledType:
    """What stands for a dtype: its code, and the order of its bytes."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def numpy(self) -> np.dtype:
        if not re.fullmatch(r"[fiu][1248]", self.code) or self.order not in "<>|=":
            raise pickle.UnpicklingError(f"it holds an array of {self.code!r}")
        return np.dtype(self.order + self.code)


class _ArraysOnly(pickle.Unpickler):
    """Builds arrays of numbers and plain containers, and refuses anything else."""

    STANDS_FOR: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
        ("numpy._core.multiarray", "_reconstruct"): _PickledArray,
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): _PickledType,
        ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.STANDS_FOR:
            raise UserError(f"it holds {module}.{name}, not only arrays, and is not run")
        return self.STANDS_FOR[module, name]


def _read_npy(path: str | os.PathLike) -> Tensors:
    """A dict of arrays as `np.save` pickles it, also under Python 2 (the classic vgg19.npy)."""
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        _, _, dtype = header(file)
        try:
            content = _ArraysOnly(file, encoding="latin1").load() if dtype.hasobject else None
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    arrays = dict(_flatten(content))
    if not arrays:
        raise UserError(f"{path}: a single array: accepted is a dict of arrays, as vgg19.npy")
    return Tensors("NumPy", {"": arrays}, {})


def _flatten(node: Any, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """The arrays in nested dicts and lists, by names such as `conv1_1/0`."""
    if isinstance(node, _PickledArray):
        yield from _flatten(node.content, name)
    elif isinstance(node, np.ndarray) and name:
        yield name, node
    elif isinstance(node, Mapping | list | tuple):
        items = node.items() if isinstance(node, Mapping) else enumerate(node)
        for key, value in items:
            yield from _flatten(value, f"{name}/{key}" if name else f"{key}")


def _read_matlab(path: str | os.PathLike) -> Tensors:
    """A MatConvNet network: `NAME/filters` and `NAME/biases` of every layer that has weights."""
    import scipy.io

    content = scipy.io.loadmat(path, squeeze_me=True, struct_as_record=False)
    arrays: Arrays = {}
    for layer in np.atleast_1d(content.get("layers", [])):
        weights = getattr(layer, "weights", None)
        if weights is None and hasattr(layer, "filters"):  # files of 2014
            weights = [layer.filters, layer.biases]
        if weights is not None and len(weights) == 2:
            arrays |= {
                f"{layer.name}/{kind}": np.asarray(array)
                for kind, array in zip(("filters", "biases"), weights, strict=True)
            }
    return Tensors("MATLAB", {"": arrays}, {})


def _read_hdf5(path: str | os.PathLike) -> Tensors:
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"{path}: of HDF5, to be read with h5py: pip install -e .[vgg]") from error
    arrays: Arrays = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.dtype.kind == "f":
            arrays[name] = node[()]

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return Tensors("HDF5", {"": arrays}, {})


# How PyTorch says that a file holds more than tensors in plain containers.
_CODE = ("Unsupported", "unsupported", "not an allowed global", "legacy .tar", "TorchScript")


def _read_pytorch(path: str | os.PathLike) -> Tensors:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path}: of PyTorch, to be read with PyTorch: pip install -e .[convert]"
        ) from error
    try:
        with warnings.catch_warnings():  # of pickles that are not PyTorch's, which it then refuses
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        reason = str(error)
        if not any(sign in reason for sign in _CODE):
            raise
        raise UserError(
            f"{path}: holds pickled Python code, which is not run: in the program that wrote it,"
            " torch.save(model.state_dict(), FILE)"
        ) from error
    groups: dict[str, Arrays] = {}

    def visit(node: Any, place: str) -> None:
        if not isinstance(node, Mapping):
            return
        for key, value in node.items():
            if isinstance(value, torch.Tensor):
                value = value.detach()
                array = (value.float() if value.is_floating_point() else value).numpy()
                groups.setdefault(place, {})[str(key)] = array
            else:
                visit(value, f"{place}.{key}" if place else f"{key}")

    visit(content, "")
    if not groups:
        raise UserError(f"{path}: a PyTorch file without named tensors: give a state dict")
    others = {
        key: value
        for key, value in content.items()
        if isinstance(key, str) and not isinstance(value, torch.Tensor)
    }
    return Tensors("PyTorch", groups, others)
